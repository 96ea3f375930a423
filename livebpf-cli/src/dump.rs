//! `prog dump`: a program's instructions, or its machine code as it is at this moment.

mod jited;
mod xlated;

use livebpf::link::LineInfo;
use serde_json::{Value, json};

use crate::error::CliError;
use crate::output::Answer;
use crate::session::Session;
use crate::words::Words;

/// What to print beside the instructions.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
struct Options {
    /// The bytes of each.
    opcodes: bool,
    /// File, line and column beside each source line.
    linum: bool,
}

/// Carries out the words behind `prog dump`.
pub fn execute(session: &mut Session, words: &mut Words<'_>) -> Result<Answer, CliError> {
    const FORMS: &str = "`xlated` or `jited`";
    let jited = match words.take(FORMS)? {
        "xlated" => false,
        "jited" => true,
        other => return Err(CliError::usage(format!("found {other:?} where {FORMS} is wanted"))),
    };
    let program = session.take_program_or_filter(words)?;
    let mut options = Options::default();
    while let Some(word) = words.peek() {
        match word {
            "opcodes" => options.opcodes = true,
            "linum" => options.linum = true,
            other => {
                return Err(CliError::usage(format!("found {other:?} where `opcodes`, `linum` or the end is wanted")));
            }
        }
        words.take(word)?;
    }
    if jited { jited::dump(&program, options) } else { Ok(xlated::dump(&program, options)) }
}

/// A source line as text: `; return 1; [file:chain.c line_num:12 line_col:2]`.
fn source_text(line: &LineInfo, options: Options) -> String {
    let place = match options.linum {
        true => format!(" [file:{} line_num:{} line_col:{}]", line.file, line.line, line.column),
        false => String::new(),
    };
    format!("; {}{place}\n", line.text.trim())
}

/// Adds a source line to an instruction's object.
fn add_source(json: &mut Value, line: &LineInfo, options: Options) {
    json["src"] = json!(line.text.trim());
    if options.linum {
        json["file"] = json!(&*line.file);
        json["line_num"] = json!(line.line);
        json["line_col"] = json!(line.column);
    }
}
