//! `batch`: a file of commands, one a line, against one runtime.
//!
//! Text answers are printed as they come. In JSON there is one document: an array with an object for each command that
//! was carried out or refused, in order. A failing command ends the batch unless `--keep-going` is given.

use std::io::Read as _;

use serde_json::{Value, json};

use crate::args::{Args, BatchArgs};
use crate::error::CliError;
use crate::output::{self, Output};
use crate::session::Session;

/// What follows clap's own help.
pub const HELP: &str = "\
A line is a command as behind `livebpf`: `prog loadall chain.o`, `map update name stages key 0 0 0 0 value name count`.
`#` begins a comment, quotes ('..' or \"..\") hold words with blanks together, and a line that ends in \\ goes on in the next.

  livebpf -j batch file upgrade.txt
  generate | livebpf batch --keep-going file -

In JSON the answer is an array with one object for each command:
  [{\"command\":[\"prog\",\"show\"],\"output\":[..]},{\"command\":[..],\"error\":\"..\"}]";

/// Most bytes of a file of commands.
const MAX_BYTES: u64 = 64 << 20;

/// One command: where it stands, and its words.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Line {
    pub number: usize,
    pub words: Vec<String>,
}

/// Runs a file of commands; answers the exit status.
pub fn run(args: &Args, batch: &BatchArgs, output: Output) -> Result<u8, CliError> {
    let lines = split(&read(&batch.file)?).map_err(|e| CliError::usage(format!("{}: {e}", batch.file)))?;
    let mut session = Session::new(args)?;
    let (mut answers, mut status) = (Vec::new(), 0);
    for line in lines {
        let answer = execute(&mut session, &line.words);
        match &answer {
            Ok(answer) => {
                status = status.max(answer.status);
                if !output.is_json() {
                    output::write(&answer.text)?;
                }
            }
            Err(error) => {
                status = 1;
                if !output.is_json() {
                    output::note(&format!("Error: {}:{}: {error}", batch.file, line.number));
                }
            }
        }
        let stop = answer.as_ref().map_or(true, |answer| answer.status > 0) && !batch.keep_going;
        if output.is_json() {
            answers.push(match answer {
                Ok(answer) => json!({ "command": line.words, "output": answer.json }),
                Err(error) => json!({ "command": line.words, "error": error.to_string() }),
            });
        }
        if stop {
            break;
        }
    }
    if output.is_json() {
        output.json(&Value::Array(answers))?;
    }
    Ok(status)
}

pub(crate) fn execute(session: &mut Session, words: &[String]) -> Result<output::Answer, CliError> {
    let (object, rest) = words.split_first().expect("empty lines are left out");
    session.execute(object, rest)
}

fn read(path: &str) -> Result<String, CliError> {
    let mut bytes = Vec::new();
    let read = match path {
        "-" => std::io::stdin().lock().take(MAX_BYTES + 1).read_to_end(&mut bytes),
        path => std::fs::File::open(path).and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes)),
    };
    let name = if path == "-" { "standard input" } else { path };
    read.map_err(|e| CliError::io(name, &e))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(CliError::refused(format!("{name}: found more than {MAX_BYTES} bytes of commands")));
    }
    String::from_utf8(bytes)
        .map_err(|e| CliError::refused(format!("{name}: byte {} is not UTF-8", e.utf8_error().valid_up_to())))
}

/// Splits text into commands.
pub(crate) fn split(text: &str) -> Result<Vec<Line>, String> {
    let mut lines: Vec<Line> = Vec::new();
    let mut continued = false;
    for (n, mut text) in text.lines().enumerate() {
        let number = n + 1;
        let goes_on = text.ends_with('\\');
        text = text.strip_suffix('\\').unwrap_or(text);
        let words = words(text).map_err(|quote| format!("line {number}: the quote {quote} is not closed"))?;
        match lines.last_mut().filter(|_| continued) {
            Some(line) => line.words.extend(words),
            None => lines.push(Line { number, words }),
        }
        continued = goes_on;
    }
    lines.retain(|line| !line.words.is_empty());
    Ok(lines)
}

/// Splits one line into words; an error is the quote that is not closed.
fn words(line: &str) -> Result<Vec<String>, char> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote: Option<char> = None;
    for c in line.chars() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some(_), c) => word.get_or_insert_default().push(c),
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, '#') if word.is_none() => break,
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (None, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    quote.map_or(Ok(words), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, wanted: &[(usize, &[&str])]) {
        let found = split(text).unwrap();
        let found: Vec<_> =
            found.iter().map(|l| (l.number, l.words.iter().map(String::as_str).collect::<Vec<_>>())).collect();
        let wanted: Vec<_> = wanted.iter().map(|(n, words)| (*n, words.to_vec())).collect();
        assert_eq!(found, wanted);
    }

    #[test]
    fn lines_comments_and_quotes() {
        check("prog show\n\n# nothing\n\tmap  show # and more\n", &[(1, &["prog", "show"]), (4, &["map", "show"])]);
        check("prog loadall 'my object.o' \"a'b\"c ''", &[(1, &["prog", "loadall", "my object.o", "a'bc", ""])]);
        check("map dump name a#b", &[(1, &["map", "dump", "name", "a#b"])]);
    }

    #[test]
    fn a_backslash_joins_lines() {
        check("prog \\\n  show \\\nname x\nmap show\\", &[(1, &["prog", "show", "name", "x"]), (4, &["map", "show"])]);
    }

    #[test]
    fn an_open_quote_is_an_error_with_its_line() {
        assert_eq!(split("prog show\nprog 'x").unwrap_err(), "line 2: the quote ' is not closed");
    }
}
