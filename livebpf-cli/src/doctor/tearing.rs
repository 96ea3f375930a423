//! The tearing test, each row in a process of its own: a processor that got it badly wrong would take that one with it.

use std::process::Command;
use std::time::Duration;

use livebpf::text::selftest::{self, Tearing};
use serde_json::{Value, json};

use crate::error::CliError;
use crate::output;

/// Where the 4-byte field begins in its 64-byte line, and whether it may tear there.
const OFFSETS: [(u32, bool); 5] = [(0, false), (28, false), (60, false), (30, true), (62, true)];

/// One offset's result.
pub struct Row {
    offset: u32,
    /// Not aligned: it may tear, which shows that the test can see it.
    control: bool,
    result: Result<Tearing, String>,
}

/// Runs all rows: the aligned ones share `time`, and so do the controls.
pub fn run(time: Duration) -> Vec<Row> {
    let row = |(offset, control): (u32, bool)| {
        let rows = OFFSETS.iter().filter(|(_, c)| *c == control).count() as u32;
        Row { offset, control, result: in_child(time / rows, offset) }
    };
    OFFSETS.into_iter().map(row).collect()
}

fn in_child(time: Duration, offset: u32) -> Result<Tearing, String> {
    let program = std::env::current_exe().map_err(|e| format!("cannot start the test: {e}"))?;
    let seconds = time.as_secs_f64().max(0.01);
    let arguments =
        ["doctor", "--seconds", &seconds.to_string(), "--tearing-at", &offset.to_string()].map(String::from);
    let child = Command::new(program).args(arguments).output().map_err(|e| format!("cannot start the test: {e}"))?;
    let answer = String::from_utf8_lossy(&child.stdout);
    let words: Vec<u64> = answer.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    match (child.status.success(), &words[..]) {
        (true, &[stores, first, second, torn]) => Ok(Tearing { stores, first, second, torn }),
        _ => Err(format!("the test ended with {}: {}", child.status, String::from_utf8_lossy(&child.stderr).trim())),
    }
}

/// The child's part: prints four numbers.
pub fn child(time: Duration, offset: u32) -> Result<u8, CliError> {
    let seen = selftest::tearing(time, offset).map_err(|e| CliError::refused(e.to_string()))?;
    output::write(&format!("{} {} {} {}\n", seen.stores, seen.first, seen.second, seen.torn))?;
    Ok(0)
}

impl Row {
    /// The result says that patching is not safe.
    pub fn is_wrong(&self) -> bool {
        !self.control && self.result.as_ref().map_or(true, |seen| seen.torn > 0)
    }

    fn place(&self) -> String {
        let (first, last) = (self.offset, self.offset + 3);
        match (self.control, self.offset) {
            (false, _) => format!("bytes {first}..{last} of a line, aligned"),
            (true, 0..=60) => format!("bytes {first}..{last} of a line, across 32"),
            (true, _) => format!("bytes {first}..{last}, across two lines"),
        }
    }

    fn meaning(&self) -> &'static str {
        match (&self.result, self.control) {
            (Err(_), _) => "no result",
            (Ok(seen), false) if seen.torn == 0 => "as it must be",
            (Ok(_), false) => "WRONG",
            (Ok(seen), true) if seen.torn == 0 => "control: none seen in this time",
            (Ok(_), true) => "control: the test can see torn stores",
        }
    }

    pub fn text(&self) -> String {
        match &self.result {
            Err(why) => format!("{:<36} {why}", self.place()),
            Ok(seen) => {
                let (stores, runs) = (seen.stores as f64 / 1e6, seen.runs() as f64 / 1e6);
                let torn = seen.torn;
                let (place, meaning) = (self.place(), self.meaning());
                format!("{place:<36} {stores:8.1} M stores {runs:8.1} M runs {torn:8} torn   {meaning}")
            }
        }
    }

    pub fn json(&self) -> Value {
        let mut json = json!({ "offset": self.offset, "aligned": !self.control, "meaning": self.meaning() });
        match &self.result {
            Err(why) => json["error"] = json!(why),
            Ok(seen) => {
                json["stores"] = json!(seen.stores);
                json["runs"] = json!(seen.runs());
                json["torn"] = json!(seen.torn);
            }
        }
        json
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_aligned_field_that_tears_or_gives_no_result_is_wrong() {
        let torn = Tearing { stores: 9, first: 4, second: 4, torn: 1 };
        let row = |control, result| Row { offset: 0, control, result };
        assert!(row(false, Ok(torn)).is_wrong() && row(false, Err("gone".to_owned())).is_wrong());
        assert!(!row(true, Ok(torn)).is_wrong() && !row(true, Err("gone".to_owned())).is_wrong());
        assert!(!row(false, Ok(Tearing { torn: 0, ..torn })).is_wrong());
    }
}
