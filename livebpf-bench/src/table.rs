//! A report for people: for each row a line for each contestant that was measured: its figures, how many times as long livebpf takes, and
//! what was wanted of that.

use std::fmt::Write as _;

use crate::report::{Column, Found, LeftOut, Measured, Report};
use crate::row::Wanted;

const HEAD: [&str; 9] = ["row", "unit", "contestant", "min", "median", "spread", "rounds", "livebpf is", "wanted"];

impl Report {
    /// The table, with what a reader has to know below it.
    pub fn text(&self) -> String {
        let mut lines = vec![HEAD.map(str::to_owned)];
        self.rows.iter().for_each(|measured| lines.extend(self.lines(measured)));
        let mut text = align(&lines);
        for note in self.why_not().into_iter().chain(self.rates()).chain(self.omissions()).chain(self.notes.clone()) {
            let _ = writeln!(text, "{note}");
        }
        text
    }

    /// livebpf's line first, whatever it says, with all that is wanted and is not about another line.
    fn lines(&self, measured: &Measured) -> Vec<[String; 9]> {
        let found = self.found(measured);
        let (row, unit) = (measured.row.name.clone(), measured.row.unit.name().to_owned());
        let mut lines = Vec::new();
        for (n, column) in measured.columns.iter().enumerate() {
            let wanted = |about: &Found| match &about.wanted {
                Wanted::Of(contestant, _) if about.found.is_some() => column.contestant == *contestant,
                _ => n == 0,
            };
            let wanted: Vec<String> = found.iter().filter(|about| wanted(about)).map(verdict).collect();
            let figures = match &column.result {
                Ok(summary) => [
                    figure(summary.min),
                    figure(summary.median),
                    format!("{:.0} %", 100.0 * summary.spread()),
                    summary.rounds.to_string(),
                ],
                Err(_) if n == 0 => ["-"; 4].map(str::to_owned),
                Err(_) => continue,
            };
            let [min, median, spread, rounds] = figures;
            let ratio = if n == 0 { None } else { measured.ratio(column.contestant) };
            let ratio = ratio.map(|ratio| format!("{} x", figure(ratio))).unwrap_or_default();
            let name = column.contestant.name().to_owned();
            let (row, unit) = if n == 0 { (row.clone(), unit.clone()) } else { Default::default() };
            lines.push([row, unit, name, min, median, spread, rounds, ratio, wanted.join("; ")]);
        }
        lines
    }

    /// Why figures are missing, each reason once, with the rows.
    fn why_not(&self) -> Vec<String> {
        let mut reasons: Vec<(String, Vec<&str>)> = Vec::new();
        for measured in &self.rows {
            for Column { contestant, result, .. } in &measured.columns {
                let Err(why) = result else { continue };
                let reason = format!("{}: not measured: {why}", contestant.name());
                match reasons.iter_mut().find(|(known, _)| *known == reason) {
                    Some((_, rows)) => rows.push(&measured.row.name),
                    None => reasons.push((reason, vec![&measured.row.name])),
                }
            }
        }
        reasons.into_iter().map(|(reason, rows)| format!("{reason} ({})", some_of(&rows))).collect()
    }

    /// What does not count for a row; those that everybody refuses by their number only.
    fn omissions(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut by_all = 0;
        for LeftOut { row, program, by, why } in &self.left_out {
            match by[..] {
                [] => lines.push(format!("{row}: without {program}: {why}")),
                [one] => lines.push(format!("{row}: without {program}: {} refuses it: {why}", one.name())),
                _ => by_all += 1,
            }
        }
        if by_all > 0 {
            lines.push(format!("size_total: without {by_all} programs that every contestant refuses"));
        }
        lines
    }

    /// How many updates a second there were.
    fn rates(&self) -> Vec<String> {
        let rates = |measured: &Measured| {
            let one = |c: &Column| c.rate.map(|rate| format!("{} {rate:.0}", c.contestant.name()));
            let list: Vec<String> = measured.columns.iter().filter_map(one).collect();
            (!list.is_empty()).then(|| format!("{}: updates a second: {}", measured.row.name, list.join(", ")))
        };
        self.rows.iter().filter_map(rates).collect()
    }
}

/// The first few names, and how many more there are.
fn some_of(names: &[&str]) -> String {
    const NAMED: usize = 3;
    match names.len() {
        few if few <= NAMED + 1 => names.join(", "),
        many => format!("{} and {} more", names[..NAMED].join(", "), many - NAMED),
    }
}

/// What was wanted, and whether it is so.
fn verdict(found: &Found) -> String {
    let limit = found.limit();
    let wanted = match &found.wanted {
        Wanted::Of(contestant, _) => format!("at most {limit} x {}", contestant.name()),
        Wanted::OfRow(row, _) => format!("at most {limit} x {row}"),
        Wanted::AtMost(_) => format!("at most {limit}"),
    };
    let Some(value) = found.found else { return format!("{wanted}: not known") };
    let met = if found.is_met() == Some(true) { "met" } else { "NOT MET" };
    match found.wanted {
        Wanted::OfRow(..) => format!("{wanted}: {met} ({})", figure(value)),
        _ => format!("{wanted}: {met}"),
    }
}

/// Three digits or so.
fn figure(value: f64) -> String {
    if value.abs() < 0.001 {
        return format!("{value:.1e}");
    }
    let decimals = match value.abs() {
        v if v >= 1000.0 => 0,
        v if v >= 100.0 => 1,
        v if v >= 1.0 => 2,
        v if v >= 0.1 => 3,
        _ => 4,
    };
    format!("{value:.decimals$}")
}

/// The cells of each line below each other: names and what was wanted to the left, figures to the right.
fn align(lines: &[[String; 9]]) -> String {
    let width = |n: usize| lines.iter().map(|line| line[n].len()).max().unwrap_or(0);
    let mut text = String::new();
    for line in lines {
        let cells = line.iter().enumerate().map(|(n, cell)| match n {
            0..3 => format!("{cell:<width$}", width = width(n)),
            8 => cell.clone(),
            n => format!("{cell:>width$}", width = width(n)),
        });
        let _ = writeln!(text, "{}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_says_what_was_wanted_and_why_a_column_is_empty() {
        let wanted = "\
row  unit  contestant    min  median  spread  rounds  livebpf is  wanted
one  us    livebpf      2.00    3.00    67 %       3
           kernel      20.00   25.00    40 %       2     0.120 x  at most 0.5 x kernel: met
two  x     livebpf     12.00   12.50     8 %       2              at most 0.02 x kernel: not known; \
at most 3 x one: NOT MET (4.17); at most 1.5: NOT MET
kernel: not measured: bpf(): no (two)
two: updates a second: livebpf 18000
a note
";
        assert_eq!(crate::report::tests::example().text(), wanted);
    }

    #[test]
    fn long_lists_of_rows_are_cut() {
        assert_eq!(some_of(&["a", "b", "c", "d"]), "a, b, c, d");
        assert_eq!(some_of(&["a", "b", "c", "d", "e"]), "a, b, c and 2 more");
    }

    #[test]
    fn figures_have_three_digits_or_so() {
        let found = [10_400_000.0, 123.45, 12.345, 0.5, 0.0123, 0.00012].map(figure);
        assert_eq!(found, ["10400000", "123.5", "12.35", "0.500", "0.0123", "1.2e-4"]);
    }
}
