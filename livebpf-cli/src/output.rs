//! Printing answers: plain text, or one JSON document.

use std::io::Write;

use serde_json::{Value, json};

use crate::args::Args;
use crate::error::CliError;

/// What a command answers, in both forms.
pub struct Answer {
    /// For `-j` and `-p`.
    pub json: Value,
    /// For people; ends with a line feed unless it is empty.
    pub text: String,
    /// The exit status: 1 where the question was answered with no.
    pub status: u8,
}

impl Answer {
    /// Both forms.
    pub fn new(json: Value, text: impl Into<String>) -> Answer {
        Answer { json, text: text.into(), status: 0 }
    }
}

/// Which form to print.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Output {
    /// Plain text.
    Text,
    /// JSON on one line.
    Json,
    /// JSON, indented.
    Pretty,
}

impl Output {
    /// As the arguments say.
    pub fn new(args: &Args) -> Output {
        match (args.pretty, args.json) {
            (true, _) => Output::Pretty,
            (false, true) => Output::Json,
            (false, false) => Output::Text,
        }
    }

    /// Whether a JSON document is wanted.
    pub fn is_json(self) -> bool {
        self != Output::Text
    }

    /// Prints an answer.
    pub fn answer(self, answer: &Answer) -> Result<(), CliError> {
        if self.is_json() { self.json(&answer.json) } else { write(&answer.text) }
    }

    /// Prints a JSON document.
    pub fn json(self, value: &Value) -> Result<(), CliError> {
        let text = if self == Output::Pretty { format!("{value:#}") } else { value.to_string() };
        write(&format!("{text}\n"))
    }

    /// Prints an error: on standard error as text, on standard output as the JSON document.
    pub fn error(self, error: &CliError) {
        if self.is_json() {
            // Where even this cannot be printed there is nobody to tell.
            let _ = self.json(&json!({ "error": error.to_string() }));
        } else {
            note(&format!("Error: {error}"));
        }
    }
}

/// Writes to standard output. A reader that has gone (`| head`) ends the program quietly.
pub fn write(text: &str) -> Result<(), CliError> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        Err(e) => Err(CliError::io("standard output", &e)),
        Ok(()) => Ok(()),
    }
}

/// Writes a line to standard error. Where nobody reads that, nobody is told.
pub fn note(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
