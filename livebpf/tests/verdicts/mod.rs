//! The kernel's verdicts, and what is common to the tables that hold them.

pub mod differences;
pub mod objects;
pub mod selftests;
pub mod table;

use std::cell::RefCell;
use std::path::PathBuf;
use std::time::Instant;

use livebpf::helper::Table;
use livebpf::link::Program;
use livebpf::runtime::{Engine, Runtime};
use livebpf::verify::{Options, Rule, Trust, verify};

/// Every engine must return what the kernel returned.
pub const ENGINES: [Engine; 3] = [Engine::Interp, Engine::Jit, Engine::Slot];

/// What was said of a program.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    Accept,
    Reject,
    /// Refused as something that is not known here: agrees with nothing.
    Unsupported,
}

/// The answer to one row of a table.
pub struct Answer {
    /// Unique in its table.
    pub name: String,
    pub kernel: Verdict,
    pub ours: Verdict,
    /// What was said, in full.
    pub text: String,
    /// The trace that led there.
    pub log: String,
    /// Phrases of which one must appear where the kernel rejects; empty where none is recorded.
    pub phrases: Vec<String>,
    /// Runs whose result differs: what was returned, and what by the kernel.
    pub wrong_results: Vec<String>,
    pub runs: u32,
}

impl Answer {
    pub fn agrees(&self) -> bool {
        self.kernel == self.ours && self.wrong_results.is_empty()
    }
    /// Whether an expected phrase is in what was said; `None` where there is nothing to compare.
    pub fn phrase_found(&self) -> Option<bool> {
        let compared = self.kernel == Verdict::Reject && self.ours == Verdict::Reject && !self.phrases.is_empty();
        compared.then(|| {
            let said = |phrase: &String| contains(&self.text, phrase) || contains(&self.log, phrase);
            self.phrases.iter().any(said)
        })
    }
}

/// Whether `text` contains `phrase`, in which `{{...}}` stands for anything within a line.
fn contains(text: &str, phrase: &str) -> bool {
    let mut pieces = Vec::new();
    let mut rest = phrase;
    while let Some((piece, pattern)) = rest.split_once("{{") {
        pieces.push(piece);
        rest = pattern.split_once("}}").map_or("", |(_, rest)| rest);
    }
    pieces.push(rest);
    text.match_indices(pieces[0]).any(|(at, first)| {
        let line = text[at + first.len()..].split('\n').next().unwrap_or_default();
        let mut rest = line;
        pieces[1..].iter().all(|piece| match rest.split_once(piece) {
            Some((_, after)) => {
                rest = after;
                true
            }
            None => false,
        })
    })
}

/// Verifies one program: what is said of it, and the trace where it is refused.
pub fn judge(program: &Program, trust: Trust) -> (Verdict, String, String) {
    let helpers = Table::builtin();
    let options = Options { trust, ..Options::new(&helpers) };
    let started = Instant::now();
    let result = verify(program.clone(), &options);
    let took = started.elapsed();
    if took.as_secs() >= 5 {
        println!("{}: verification took {took:?}", program.name);
    }
    let Err(rejection) = result else { return (Verdict::Accept, String::new(), String::new()) };
    let log = RefCell::new(String::new());
    let again = verify(program.clone(), &Options { log: Some(&log), ..options });
    assert_eq!(again.err().as_ref(), Some(&rejection), "{}: a trace changes the verdict", program.name);
    let verdict = if rejection.rule == Rule::Unsupported { Verdict::Unsupported } else { Verdict::Reject };
    (verdict, rejection.to_string(), log.into_inner())
}

/// A runtime with the given engine.
pub fn runtime(engine: Engine) -> Runtime {
    Runtime::builder().engine(engine).build().expect("a runtime")
}

/// A file of the corpus of other people's programs, where it is there.
pub fn corpus(file: &str) -> Option<serde_json::Value> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpus").join(file);
    let Ok(text) = std::fs::read_to_string(&path) else {
        println!("skipped: no {}", path.display());
        return None;
    };
    Some(serde_json::from_str(&text).expect("the corpus is JSON"))
}

/// The rows that `LIVEBPF_VERDICTS` (part of a name) picks; all without it.
pub fn wanted(name: &str) -> bool {
    std::env::var("LIVEBPF_VERDICTS").map_or(true, |part| name.contains(&part))
}

pub fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len() / 2).map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).expect("hex digits")).collect()
}
