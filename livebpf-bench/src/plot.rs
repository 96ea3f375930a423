//! A report drawn as SVG: how livebpf compares in every row, and how figures grow with what rows count.
//!
//! * *Ratios*: a line for each row with livebpf's median as a multiple of each contestant's, to the left of 1 where livebpf needs less, and
//!   a tick at what was wanted, red where that is not met. All programs of objects share one line a kind, with a dot
//!   wherever there is one.
//! * *Curves*: rows whose names differ in a number only (`tail_call_direct_33`, `load_10k`), three of them or more: medians
//!   over that number, both axes logarithmic. Of threads, whose rows are multiples of what one of them does, one row is enough.
//!
//! Nothing is drawn of what was not measured.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use crate::contestant::Contestant;
use crate::report::{Found, Measured, Report};
use crate::row::Wanted;

/// Width of the drawing, and of the names beside the ratios.
const WIDTH: f64 = 960.0;
const NAMES: f64 = 230.0;
/// Height of a line of text, and of a chart of curves.
const LINE: f64 = 15.0;
const CHART: f64 = 210.0;
const MARGIN: f64 = 24.0;
/// Charts beside each other.
const COLUMNS: usize = 3;
/// Fewest points of a curve.
const POINTS: usize = 3;
/// How names of rows end that are about threads.
const THREADS: &str = "_threads";

/// A logarithmic axis.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Axis {
    /// Least and greatest power of ten on it.
    decades: [i32; 2],
    /// Where these two are drawn.
    from: f64,
    to: f64,
}

impl Axis {
    /// Whole decades around `values`, and around `at_least`.
    fn around(values: impl Iterator<Item = f64>, at_least: [i32; 2], from: f64, to: f64) -> Axis {
        let logs = values.filter(|value| *value > 0.0 && value.is_finite()).map(f64::log10);
        let [mut low, mut high] = at_least;
        for log in logs {
            low = low.min(log.floor() as i32);
            high = high.max(log.ceil() as i32);
        }
        Axis { decades: [low, high.max(low + 1)], from, to }
    }

    fn at(&self, value: f64) -> f64 {
        let [low, high] = self.decades.map(f64::from);
        self.from + (value.log10() - low) / (high - low) * (self.to - self.from)
    }

    /// Powers of ten, with how they are written.
    fn ticks(&self) -> impl Iterator<Item = (f64, String)> + use<> {
        let [low, high] = self.decades;
        (low..=high).map(|power| {
            let value = 10f64.powi(power);
            let text = match power {
                ..0 => format!("{value:.*}", power.unsigned_abs() as usize),
                0..6 => format!("{value:.0}"),
                _ => format!("1e{power}"),
            };
            (value, text)
        })
    }
}

fn color(contestant: Contestant) -> &'static str {
    const COLORS: [&str; 8] = ["#1b6ca8", "#d1495b", "#2e933c", "#edae49", "#7b4ea8", "#00798c", "#8d6a48", "#5f6368"];
    COLORS[contestant as usize % COLORS.len()]
}

/// The drawing as it grows; what was drawn last is at `y`.
struct Drawing {
    body: String,
    y: f64,
}

impl Drawing {
    fn text(&mut self, x: f64, y: f64, anchor: &str, text: &str) {
        let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        let _ = writeln!(self.body, r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{text}</text>"#);
    }

    fn line(&mut self, from: (f64, f64), to: (f64, f64), class: &str) {
        let ((x1, y1), (x2, y2)) = (from, to);
        let _ = writeln!(self.body, r#"<line x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}" class="{class}"/>"#);
    }

    fn dot(&mut self, x: f64, y: f64, contestant: Contestant, class: &str) {
        let (fill, r) = (color(contestant), if class == "many" { 2.5 } else { 3.5 });
        let _ = writeln!(self.body, r#"<circle cx="{x:.1}" cy="{y:.1}" r="{r}" class="{class}" fill="{fill}"/>"#);
    }

    fn legend(&mut self, contestants: &[Contestant]) {
        let mut x = NAMES;
        for contestant in contestants {
            self.dot(x, self.y - 4.0, *contestant, "dot");
            self.text(x + 8.0, self.y, "start", contestant.name());
            x += 110.0;
        }
        self.y += LINE;
    }
}

impl Report {
    /// The drawing.
    pub fn svg(&self) -> String {
        let mut drawing = Drawing { body: String::new(), y: MARGIN };
        self.draw_ratios(&mut drawing);
        self.draw_curves(&mut drawing);
        let height = drawing.y + MARGIN;
        format!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH:.0}" height="{height:.0}" viewBox="0 0 {WIDTH:.0} {height:.0}">
<style>
text {{ font: 11px sans-serif; fill: #222 }}
line {{ stroke: #ddd }}
.one {{ stroke: #222 }}
.met {{ stroke: #2e933c; stroke-width: 2 }}
.missed {{ stroke: #d1001c; stroke-width: 2 }}
.many {{ fill-opacity: 0.5 }}
polyline {{ fill: none; stroke-width: 1.5 }}
</style>
<rect width="100%" height="100%" fill="white"/>
{}</svg>
"#,
            drawing.body
        )
    }

    fn draw_ratios(&self, drawing: &mut Drawing) {
        let others = |m: &Measured| -> Vec<(Contestant, f64)> {
            let others = m.columns.iter().map(|column| column.contestant).filter(|c| *c != Contestant::Livebpf);
            others.filter_map(|c| Some((c, m.ratio(c)?))).collect()
        };
        let lines = self.ratio_lines(others);
        if lines.is_empty() {
            return;
        }
        let of_line = |line: &RatioLine| {
            let ratios = line.ratios.iter().map(|(_, ratio)| *ratio);
            ratios.chain(line.bounds.iter().map(|(bound, _)| *bound)).collect::<Vec<_>>()
        };
        let axis = Axis::around(lines.iter().flat_map(of_line), [-1, 0], NAMES, WIDTH - MARGIN);
        let mut contestants: Vec<Contestant> = lines.iter().flat_map(|l| l.ratios.iter().map(|(c, _)| *c)).collect();
        contestants.sort();
        contestants.dedup();
        drawing.text(
            MARGIN,
            drawing.y,
            "start",
            "livebpf's median as a multiple of another's; ticks: at most this was wanted",
        );
        drawing.y += 1.5 * LINE;
        drawing.legend(&contestants);
        let (top, bottom) = (drawing.y, drawing.y + LINE * (lines.len() as f64 + 0.5));
        for (value, text) in axis.ticks() {
            let x = axis.at(value);
            drawing.line((x, top), (x, bottom), if value == 1.0 { "one" } else { "grid" });
            drawing.text(x, bottom + LINE, "middle", &text);
        }
        for (n, line) in lines.iter().enumerate() {
            let y = top + LINE * (n as f64 + 0.75);
            drawing.text(NAMES - 8.0, y + 4.0, "end", &line.name);
            for (bound, met) in &line.bounds {
                let x = axis.at(*bound);
                drawing.line((x, y - 6.0), (x, y + 6.0), if *met { "met" } else { "missed" });
            }
            if line.many {
                // To whole points, each once: a thousand dots are a few hundred places.
                let places: BTreeSet<_> =
                    line.ratios.iter().map(|(c, ratio)| (*c, axis.at(*ratio).round() as i64)).collect();
                places.iter().for_each(|(contestant, x)| drawing.dot(*x as f64, y, *contestant, "many"));
            } else {
                line.ratios.iter().for_each(|(contestant, ratio)| drawing.dot(axis.at(*ratio), y, *contestant, "dot"));
            }
        }
        drawing.y = bottom + 3.0 * LINE;
    }

    /// What there is to draw of ratios.
    fn ratio_lines(&self, others: impl Fn(&Measured) -> Vec<(Contestant, f64)>) -> Vec<RatioLine> {
        let mut lines: Vec<RatioLine> = Vec::new();
        for measured in &self.rows {
            let ratios: Vec<_> = others(measured).into_iter().filter(|(_, r)| *r > 0.0 && r.is_finite()).collect();
            let name = &measured.row.name;
            if ratios.is_empty() {
                continue;
            }
            let bounds = self.found(measured).iter().filter_map(bound).collect();
            match name.split_once('_').filter(|_| name.contains('/')) {
                Some((kind, _)) => {
                    let name = format!("{kind}: programs of objects");
                    match lines.iter_mut().find(|line| line.name == name) {
                        Some(line) => line.ratios.extend(ratios),
                        None => lines.push(RatioLine { name, ratios, bounds, many: true }),
                    }
                }
                None => lines.push(RatioLine { name: name.clone(), ratios, bounds, many: false }),
            }
        }
        lines
    }

    fn draw_curves(&self, drawing: &mut Drawing) {
        let curves = self.curves();
        let mut contestants: Vec<Contestant> = curves.iter().flat_map(|chart| chart.points.keys().copied()).collect();
        contestants.sort();
        contestants.dedup();
        drawing.legend(&contestants);
        for row in curves.chunks(COLUMNS) {
            let width = (WIDTH - 2.0 * MARGIN) / COLUMNS as f64;
            let top = drawing.y;
            for (n, chart) in row.iter().enumerate() {
                chart.draw(drawing, MARGIN + width * n as f64, top, width);
            }
            drawing.y = top + CHART + 2.0 * LINE;
        }
    }

    /// Rows by the name without the number at its end.
    fn curves(&self) -> Vec<Chart> {
        let mut order: Vec<String> = Vec::new();
        let mut charts: BTreeMap<String, Chart> = BTreeMap::new();
        for measured in self.rows.iter().filter(|m| !m.row.name.contains('/')) {
            let Some((name, number)) = numbered(&measured.row.name) else { continue };
            let title = format!("{name}, {}", measured.row.unit.name());
            // One thread alone is what the others are a multiple of.
            let first = name.ends_with(THREADS).then_some((1.0, 1.0));
            let chart = charts.entry(name.clone()).or_insert_with(|| {
                order.push(name);
                Chart { title, points: BTreeMap::new() }
            });
            for column in &measured.columns {
                if let Some(median) = measured.median(column.contestant).filter(|m| *m > 0.0) {
                    let points = chart.points.entry(column.contestant).or_insert_with(|| first.into_iter().collect());
                    points.push((number, median));
                }
            }
        }
        let chart = |name: String| {
            let mut chart = charts.remove(&name)?;
            let least = if name.ends_with(THREADS) { 2 } else { POINTS };
            chart.points.values_mut().for_each(|points| points.sort_by(|a, b| a.0.total_cmp(&b.0)));
            chart.points.retain(|_, points| points.len() >= least);
            (!chart.points.is_empty()).then_some(chart)
        };
        order.into_iter().filter_map(chart).collect()
    }
}

/// A line of the first part.
struct RatioLine {
    name: String,
    ratios: Vec<(Contestant, f64)>,
    /// What was wanted of ratios, and whether it is met.
    bounds: Vec<(f64, bool)>,
    many: bool,
}

/// A bound on the ratio to a contestant.
fn bound(found: &Found) -> Option<(f64, bool)> {
    match found.wanted {
        Wanted::Of(_, limit) => Some((limit, found.is_met()?)),
        Wanted::OfRow(..) | Wanted::AtMost(_) => None,
    }
}

/// A name with `N` for the last of its parts that is a number (`33`, `10k`, `1m`), and that number.
fn numbered(name: &str) -> Option<(String, f64)> {
    let mut parts: Vec<&str> = name.split('_').collect();
    let (at, value) = parts.iter().enumerate().rev().find_map(|(at, part)| Some((at, number(part)?)))?;
    parts[at] = "N";
    Some((parts.join("_"), value))
}

fn number(part: &str) -> Option<f64> {
    let (digits, factor) = match part.as_bytes().last()? {
        b'k' => (&part[..part.len() - 1], 1e3),
        b'm' => (&part[..part.len() - 1], 1e6),
        _ => (part, 1.0),
    };
    let value: u32 = digits.parse().ok().filter(|value| *value > 0)?;
    Some(f64::from(value) * factor)
}

/// Curves of one subject.
struct Chart {
    title: String,
    points: BTreeMap<Contestant, Vec<(f64, f64)>>,
}

impl Chart {
    fn draw(&self, drawing: &mut Drawing, left: f64, top: f64, width: f64) {
        let all = || self.points.values().flatten();
        let decade = |value: f64| value.log10().floor() as i32;
        let least = |value: fn(&(f64, f64)) -> f64| {
            let least = decade(all().map(value).fold(f64::INFINITY, f64::min));
            [least, least]
        };
        let (x0, x1, y0, y1) = (left + 46.0, left + width - 16.0, top + CHART - LINE, top + 2.0 * LINE);
        let x = Axis::around(all().map(|p| p.0), least(|p| p.0), x0, x1);
        let y = Axis::around(all().map(|p| p.1), least(|p| p.1), y0, y1);
        drawing.text(x0, top + LINE, "start", &self.title);
        for (value, text) in x.ticks() {
            drawing.line((x.at(value), y0), (x.at(value), y1), "grid");
            drawing.text(x.at(value), y0 + LINE, "middle", &text);
        }
        for (value, text) in y.ticks() {
            drawing.line((x0, y.at(value)), (x1, y.at(value)), "grid");
            drawing.text(x0 - 6.0, y.at(value) + 4.0, "end", &text);
        }
        for (contestant, points) in &self.points {
            let list: Vec<String> = points.iter().map(|(a, b)| format!("{:.1},{:.1}", x.at(*a), y.at(*b))).collect();
            let stroke = color(*contestant);
            let _ = writeln!(drawing.body, r#"<polyline points="{}" stroke="{stroke}"/>"#, list.join(" "));
            points.iter().for_each(|(a, b)| drawing.dot(x.at(*a), y.at(*b), *contestant, "dot"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Column, tests::example};
    use crate::row::{Row, Unit};
    use crate::stats::Summary;

    fn row(name: &str, wanted: Vec<Wanted>, live: f64, kernel: f64) -> Measured {
        let figures = [(Contestant::Livebpf, live), (Contestant::Kernel, kernel)];
        let column = |(contestant, figure): (Contestant, f64)| {
            let result = Summary::of(&[figure]).ok_or_else(String::new);
            Column { contestant, result, rate: None }
        };
        Measured { row: Row::new(name, Unit::Ns, wanted), columns: figures.map(column).into() }
    }

    #[test]
    fn axes_have_whole_decades_around_all_values() {
        let axis = Axis::around([0.02, 3.0, -1.0, f64::NAN].into_iter(), [-1, 0], 100.0, 400.0);
        assert_eq!((axis.decades, axis.at(0.01), axis.at(1.0), axis.at(10.0)), ([-2, 1], 100.0, 300.0, 400.0));
        let ticks: Vec<String> = axis.ticks().map(|(_, text)| text).collect();
        assert_eq!(ticks, ["0.01", "0.1", "1", "10"]);
        assert_eq!(Axis::around(std::iter::empty(), [0, 0], 0.0, 1.0).decades, [0, 1]);
    }

    #[test]
    fn names_have_numbers() {
        let found = |name| numbered(name).map(|(name, number)| format!("{name} {number}"));
        let names = ["tail_call_direct_33", "load_10k", "load_1m", "scaling_2_threads"].map(found);
        let wanted = ["tail_call_direct_N 33", "load_N 10000", "load_N 1000000", "scaling_N_threads 2"];
        assert_eq!(names, wanted.map(|text| Some(text.to_owned())));
        for none in ["load", "stall_spin", "transaction_64x1000", "x_0", "x_k"] {
            assert_eq!(numbered(none), None, "{none}");
        }
    }

    #[test]
    fn a_ratio_stands_where_the_axis_says_and_a_missed_bound_is_red() {
        let mut report = example();
        let wanted = |limit| vec![Wanted::Of(Contestant::Kernel, limit)];
        report.rows = vec![row("good<", wanted(0.5), 1.0, 10.0), row("bad", wanted(0.5), 10.0, 1.0)];
        let svg = report.svg();
        let (left, right) = (NAMES, WIDTH - MARGIN);
        let middle = (left + right) / 2.0;
        assert!(svg.contains(&format!(r#"<circle cx="{left:.1}""#)), "0.1 is where the axis begins: {svg}");
        assert!(svg.contains(&format!(r#"<circle cx="{right:.1}""#)), "10 is where it ends: {svg}");
        assert!(svg.contains(&format!(r#"x2="{middle:.1}""#)) && svg.contains(r#"class="one""#), "1 is between: {svg}");
        assert_eq!((svg.matches(r#"class="met""#).count(), svg.matches(r#"class="missed""#).count()), (1, 1));
        assert!(svg.contains(">good&lt;</text>") && svg.contains(">kernel</text>"), "{svg}");
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
    }

    #[test]
    fn programs_of_objects_share_a_line() {
        let mut report = example();
        report.rows = (1..=5).map(|n| row(&format!("size_o/p{n}"), Vec::new(), f64::from(n), 7.0)).collect();
        let svg = report.svg();
        assert_eq!(svg.matches(r#"class="many""#).count(), 5);
        assert_eq!(svg.matches("size: programs of objects").count(), 1);
    }

    #[test]
    fn three_sizes_make_a_curve_for_each_contestant() {
        let mut report = example();
        report.rows = [1, 10, 100].map(|n| row(&format!("grow_{n}"), Vec::new(), f64::from(n), 50.0)).into();
        report.rows.extend([8, 16].map(|n| row(&format!("two_{n}"), Vec::new(), 1.0, 2.0)));
        report.rows.push(row("beside_2_threads", Vec::new(), 1.1, 1.2));
        let svg = report.svg();
        assert_eq!(svg.matches("<polyline ").count(), 4, "{svg}");
        assert!(svg.contains("beside_N_threads, ns"), "{svg}");
        assert!(svg.contains("grow_N, ns") && !svg.contains("two_N"), "{svg}");
        let line = svg.lines().find(|l| l.starts_with("<polyline")).expect("counted above");
        let points: Vec<(f64, f64)> = line
            .split('"')
            .nth(1)
            .expect("points")
            .split(' ')
            .map(|p| {
                let (x, y) = p.split_once(',').expect("a point");
                (x.parse().expect("a number"), y.parse().expect("a number"))
            })
            .collect();
        assert!(points.windows(2).all(|w| w[0].0 < w[1].0 && w[0].1 > w[1].1), "it rises: {points:?}");
    }

    #[test]
    fn nothing_is_drawn_of_what_was_not_measured() {
        let mut report = example();
        report.rows.truncate(0);
        let svg = report.svg();
        assert!(!svg.contains("<circle") && !svg.contains("<polyline"), "{svg}");
        let svg = example().svg();
        assert_eq!(svg.matches("<circle").count(), 2, "one ratio, one dot of the legend: {svg}");
    }
}
