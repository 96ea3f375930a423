//! A report for people: one line for each row, its figures, the ratio, and what was wanted.

use std::fmt::Write as _;

use crate::contestant::Contestant;
use crate::report::{Column, Found, Measured, Report};
use crate::row::Wanted;

impl Report {
    /// The table, with what a reader has to know below it.
    pub fn text(&self) -> String {
        let mut lines = vec![self.head()];
        lines.extend(self.rows.iter().map(|measured| self.line(measured)));
        let mut text = align(&lines);
        for note in self.why_not().into_iter().chain(self.rates()).chain(self.notes.clone()) {
            let _ = writeln!(text, "{note}");
        }
        text
    }

    fn contestants(&self) -> impl Iterator<Item = Contestant> + use<'_> {
        self.rows.first().into_iter().flat_map(|m| m.columns.iter().map(|column| column.contestant))
    }

    fn head(&self) -> Vec<String> {
        let mut cells = vec!["row".to_owned(), "unit".to_owned()];
        for contestant in self.contestants() {
            cells.extend([format!("{} min", contestant.name()), "median".to_owned(), "rounds".to_owned()]);
        }
        cells.extend(self.contestants().skip(1).map(|contestant| format!("x {}", contestant.name())));
        cells.push("wanted".to_owned());
        cells
    }

    fn line(&self, measured: &Measured) -> Vec<String> {
        let mut cells = vec![measured.row.name.clone(), measured.row.unit.name().to_owned()];
        for Column { result, .. } in &measured.columns {
            match result {
                Ok(summary) => {
                    cells.extend([figure(summary.min), figure(summary.median), summary.rounds.to_string()]);
                }
                Err(_) => cells.extend(["-", "-", "-"].map(str::to_owned)),
            }
        }
        let ratios = self.contestants().skip(1).map(|contestant| measured.ratio(contestant));
        cells.extend(ratios.map(|ratio| ratio.map_or_else(|| "-".to_owned(), figure)));
        cells.push(self.found(measured).iter().map(verdict).collect::<Vec<_>>().join("; "));
        cells
    }

    /// Why columns are empty, each reason once.
    fn why_not(&self) -> Vec<String> {
        let mut reasons: Vec<String> = Vec::new();
        for column in self.rows.iter().flat_map(|m| &m.columns) {
            if let Err(why) = &column.result {
                let reason = format!("{}: not measured: {why}", column.contestant.name());
                if !reasons.contains(&reason) {
                    reasons.push(reason);
                }
            }
        }
        reasons
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
    format!("{wanted}: {met} ({})", figure(value))
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
fn align(lines: &[Vec<String>]) -> String {
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let width = |n: usize| lines.iter().filter_map(|line| line.get(n)).map(String::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for line in lines {
        let cells = line.iter().enumerate().map(|(n, cell)| match n {
            0 | 1 => format!("{cell:<width$}", width = widths[n]),
            n if n + 1 == columns => cell.clone(),
            n => format!("{cell:>width$}", width = widths[n]),
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
row  unit  livebpf min  median  rounds  kernel min  median  rounds  x kernel  wanted
one  us           2.00    3.00       3       20.00   25.00       2     0.120  at most 0.5 x kernel: met (0.120)
two  x           12.00   12.50       2           -       -       -         -  at most 0.02 x kernel: not known; \
at most 3 x one: NOT MET (4.17); at most 1.5: NOT MET (12.50)
kernel: not measured: bpf(): no
two: updates a second: livebpf 18000
a note
";
        assert_eq!(crate::report::tests::example().text(), wanted);
    }

    #[test]
    fn figures_have_three_digits_or_so() {
        let found = [10_400_000.0, 123.45, 12.345, 0.5, 0.0123, 0.00012].map(figure);
        assert_eq!(found, ["10400000", "123.5", "12.35", "0.500", "0.0123", "1.2e-4"]);
    }
}
