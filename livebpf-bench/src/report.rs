//! What came of it: each row with its columns, ratios, and whether it is what it should be. As JSON; `table` prints it.

use livebpf::runtime::Engine;
use serde_json::{Map, Value, json};

use crate::Options;
use crate::contestant::Contestant;
use crate::interleave::Entrant;
use crate::row::{Row, Wanted};
use crate::stats::Summary;

/// All rows that were asked for.
#[derive(Debug)]
pub struct Report {
    /// How livebpf was to execute programs.
    pub engine: Engine,
    /// In the order of [`Row::all`].
    pub rows: Vec<Measured>,
    /// What a reader has to know.
    pub notes: Vec<String>,
    /// Programs of objects that are in no row.
    pub left_out: Vec<LeftOut>,
}

/// A program that is in no row, nor in the sum of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// The row that its figure would count for.
    pub row: String,
    /// `OBJECT/PROGRAM`.
    pub program: String,
    /// Who refuses it, if that is why.
    pub by: Vec<Contestant>,
    /// In a few words.
    pub why: String,
}

/// Most characters of a reason.
const REASON: usize = 400;

impl LeftOut {
    pub(crate) fn new(row: &str, program: &str, why: &str) -> LeftOut {
        // A verifier's message goes on with the help for its author.
        let mut line = why.lines().next().unwrap_or_default().to_owned();
        if let Some((end, _)) = line.char_indices().nth(REASON) {
            line.truncate(end);
            line.push_str("...");
        }
        LeftOut { row: row.to_owned(), program: program.to_owned(), by: Vec::new(), why: line }
    }

    /// Refused by those who have a reason; livebpf's is said where there are several.
    pub(crate) fn refused(row: &str, program: &str, by: [(Contestant, Option<String>); 2]) -> LeftOut {
        let why = by.iter().find_map(|(_, why)| why.clone()).unwrap_or_default();
        let by = by.into_iter().filter(|(_, why)| why.is_some()).map(|(contestant, _)| contestant);
        LeftOut { by: by.collect(), ..LeftOut::new(row, program, &why) }
    }

    fn json(&self) -> Value {
        let by: Vec<&str> = self.by.iter().map(|contestant| contestant.name()).collect();
        json!({ "program": self.program, "refused_by": by, "why": self.why })
    }
}

/// One row.
#[derive(Debug)]
pub struct Measured {
    /// Which.
    pub row: Row,
    /// livebpf's first.
    pub columns: Vec<Column>,
}

/// One contestant in one row.
#[derive(Debug, Clone, PartialEq)]
pub struct Column {
    /// Who.
    pub contestant: Contestant,
    /// The figures, or why there are none.
    pub result: Result<Summary, String>,
    /// Updates a second meanwhile, where there were any.
    pub rate: Option<f64>,
}

impl Column {
    /// What an entrant's samples of its row number `row` came to.
    pub(crate) fn of(entrant: &Entrant<'_>, row: usize) -> Column {
        let result = match &entrant.side {
            Ok(_) => Summary::of(&entrant.samples[row]).ok_or_else(|| "no round was completed".to_owned()),
            Err(error) => Err(error.to_string()),
        };
        Column { contestant: entrant.contestant, result, rate: None }
    }

    fn json(&self) -> Value {
        match &self.result {
            Ok(summary) => {
                let Summary { min, median, rounds, .. } = *summary;
                let spread = rounded(summary.spread());
                let mut json =
                    json!({ "min": rounded(min), "median": rounded(median), "spread": spread, "rounds": rounds });
                if let Some(rate) = self.rate {
                    json["updates_per_second"] = json!(rate.round());
                }
                json
            }
            Err(why) => json!({ "why_not": why }),
        }
    }
}

/// Whether a row is what it should be.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// The demand.
    pub wanted: Wanted,
    /// What there is to compare with its number; `None` where something was not measured.
    pub found: Option<f64>,
}

impl Found {
    /// The number that is not to be exceeded.
    pub fn limit(&self) -> f64 {
        match self.wanted {
            Wanted::Of(_, limit) | Wanted::OfRow(_, limit) | Wanted::AtMost(limit) => limit,
        }
    }

    /// `None` where something was not measured.
    pub fn is_met(&self) -> Option<bool> {
        self.found.map(|found| found <= self.limit())
    }

    /// What the limit is a multiple of.
    fn of(&self) -> Option<&str> {
        match &self.wanted {
            Wanted::Of(contestant, _) => Some(contestant.name()),
            Wanted::OfRow(row, _) => Some(row),
            Wanted::AtMost(_) => None,
        }
    }

    fn json(&self) -> Value {
        let found = self.found.map(rounded);
        json!({ "at_most": self.limit(), "of": self.of(), "found": found, "met": self.is_met() })
    }
}

impl Measured {
    fn column(&self, contestant: Contestant) -> Option<&Column> {
        self.columns.iter().find(|column| column.contestant == contestant)
    }

    /// A contestant's median.
    pub fn median(&self, contestant: Contestant) -> Option<f64> {
        Some(self.column(contestant)?.result.as_ref().ok()?.median)
    }

    /// livebpf's median as a multiple of another's.
    pub fn ratio(&self, to: Contestant) -> Option<f64> {
        Some(self.median(Contestant::Livebpf)? / self.median(to)?)
    }
}

impl Report {
    pub(crate) fn new(options: &Options, mut rows: Vec<Measured>, notes: Vec<String>) -> Report {
        let place = |m: &Measured| options.rows.iter().position(|row| row.name == m.row.name);
        rows.sort_by_key(place);
        Report { engine: options.engine, rows, notes, left_out: Vec::new() }
    }

    pub(crate) fn with_left_out(self, left_out: Vec<LeftOut>) -> Report {
        Report { left_out, ..self }
    }

    /// Whether livebpf was measured in every row.
    pub fn is_complete(&self) -> bool {
        self.rows.iter().all(|m| m.median(Contestant::Livebpf).is_some())
    }

    /// What the row should be, and is.
    pub fn found(&self, measured: &Measured) -> Vec<Found> {
        let own = |name: &str| {
            let row = self.rows.iter().find(|m| m.row.name == name)?;
            row.median(Contestant::Livebpf)
        };
        let found = |wanted: &Wanted| {
            let median = measured.median(Contestant::Livebpf);
            let found = match wanted {
                Wanted::Of(contestant, _) => measured.ratio(*contestant),
                Wanted::OfRow(row, _) => median.zip(own(row)).map(|(median, other)| median / other),
                Wanted::AtMost(_) => median,
            };
            Found { wanted: wanted.clone(), found }
        };
        measured.row.wanted.iter().map(found).collect()
    }

    /// One array, an object for each row.
    pub fn json(&self) -> Value {
        Value::Array(self.rows.iter().map(|measured| self.row_json(measured)).collect())
    }

    fn row_json(&self, measured: &Measured) -> Value {
        let mut json = json!({ "row": measured.row.name, "unit": measured.row.unit.name() });
        let mut ratios = Map::new();
        for column in &measured.columns {
            let name = column.contestant.name();
            json[name] = column.json();
            if column.contestant != Contestant::Livebpf {
                ratios.insert(name.to_owned(), json!(measured.ratio(column.contestant).map(rounded)));
            }
        }
        json["ratio"] = Value::Object(ratios);
        json["wanted"] = self.found(measured).iter().map(Found::json).collect();
        let left_out: Vec<Value> = self.left_out(&measured.row.name).map(LeftOut::json).collect();
        if !left_out.is_empty() {
            json["left_out"] = Value::Array(left_out);
        }
        json
    }

    /// What does not count for the row.
    pub(crate) fn left_out<'a>(&'a self, row: &'a str) -> impl Iterator<Item = &'a LeftOut> {
        self.left_out.iter().filter(move |left| left.row == row)
    }
}

/// To six digits: more than any of them is worth.
fn rounded(value: f64) -> f64 {
    format!("{value:.5e}").parse().unwrap_or(value)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::row::Unit;

    fn column(contestant: Contestant, samples: &[f64]) -> Column {
        Column { contestant, result: Summary::of(samples).ok_or_else(|| "bpf(): no".to_owned()), rate: None }
    }

    /// Two rows; in the second the kernel is missing.
    pub(crate) fn example() -> Report {
        let (live, kernel) = (Contestant::Livebpf, Contestant::Kernel);
        let own = Wanted::OfRow("one".into(), 3.0);
        let one = Row::new("one", Unit::Us, vec![Wanted::Of(kernel, 0.5)]);
        let two = Row::new("two", Unit::Times, vec![Wanted::Of(kernel, 0.02), own, Wanted::AtMost(1.5)]);
        let mut live_two = column(live, &[12.0, 13.0]);
        live_two.rate = Some(18_000.4);
        let rows = vec![
            Measured { row: one, columns: vec![column(live, &[4.0, 2.0, 3.0]), column(kernel, &[30.0, 20.0])] },
            Measured { row: two, columns: vec![live_two, column(kernel, &[])] },
        ];
        Report { engine: Engine::Jit, rows, notes: vec!["a note".into()], left_out: Vec::new() }
    }

    #[test]
    fn json_has_one_object_for_each_row() {
        let one = json!({
            "row": "one", "unit": "us",
            "livebpf": { "min": 2.0, "median": 3.0, "spread": 0.666667, "rounds": 3 },
            "kernel": { "min": 20.0, "median": 25.0, "spread": 0.4, "rounds": 2 },
            "ratio": { "kernel": 0.12 },
            "wanted": [{ "at_most": 0.5, "of": "kernel", "found": 0.12, "met": true }],
        });
        let two = json!({
            "row": "two", "unit": "x",
            "livebpf": { "min": 12.0, "median": 12.5, "spread": 0.08, "rounds": 2, "updates_per_second": 18000.0 },
            "kernel": { "why_not": "bpf(): no" },
            "ratio": { "kernel": null },
            "wanted": [
                { "at_most": 0.02, "of": "kernel", "found": null, "met": null },
                { "at_most": 3.0, "of": "one", "found": 4.16667, "met": false },
                { "at_most": 1.5, "of": null, "found": 12.5, "met": false },
            ],
        });
        assert_eq!(example().json(), json!([one, two]));
        let order: Vec<_> = example().json()[0].as_object().expect("an object").keys().cloned().collect();
        assert_eq!(order, ["row", "unit", "livebpf", "kernel", "ratio", "wanted"]);
    }

    #[test]
    fn programs_that_are_left_out_stand_with_their_row() {
        let refusals = [(Contestant::Livebpf, None), (Contestant::Kernel, Some("too \nlarge".to_owned()))];
        let left_out = vec![LeftOut::refused("one", "o/p", refusals), LeftOut::new("one", "o/q", &"x".repeat(1000))];
        let report = example().with_left_out(left_out);
        let reason = "x".repeat(REASON) + "...";
        let refused = json!({ "program": "o/p", "refused_by": ["kernel"], "why": "too " });
        let other = json!({ "program": "o/q", "refused_by": [], "why": reason });
        assert_eq!(report.json()[0]["left_out"], json!([refused, other]));
        assert_eq!(report.json()[1].get("left_out"), None);
        let text = report.text();
        assert!(text.contains("\none: without o/p: kernel refuses it: too \none: without o/q: xxx"), "{text}");
    }

    #[test]
    fn a_report_without_a_figure_of_livebpf_is_not_complete() {
        let mut report = example();
        assert!(report.is_complete(), "the kernel's may be missing");
        report.rows[0].columns[0] = column(Contestant::Livebpf, &[]);
        assert!(!report.is_complete());
    }
}
