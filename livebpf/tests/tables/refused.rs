//! Encodings that RFC 9669 reserves: each is refused in every engine, and the error says where, what was found, and what
//! was wanted. The cases are in tests/data/conformance/reserved.txt; `LIVEBPF_BLESS=1` writes their errors.

use std::path::PathBuf;
use std::sync::OnceLock;

use super::{Results, suite};
use crate::verdicts::{bytes, runtime};

/// One program and the error that refuses it.
struct Case {
    name: String,
    code: String,
    error: String,
}

fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/conformance/reserved.txt")
}

/// `NAME: HEX`, and in the next line `  ERROR`.
fn cases() -> Vec<Case> {
    let text = std::fs::read_to_string(path()).expect("the cases are there");
    let mut cases: Vec<Case> = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()) {
        match (line.strip_prefix("  "), cases.last_mut()) {
            (Some(error), Some(case)) => case.error = error.to_owned(),
            _ => {
                let (name, code) = line.split_once(": ").unwrap_or_else(|| panic!("{line}: no name"));
                cases.push(Case { name: name.to_owned(), code: code.to_owned(), error: String::new() });
            }
        }
    }
    cases
}

/// What each engine says of every case.
pub fn results() -> &'static Results {
    static RESULTS: OnceLock<Results> = OnceLock::new();
    RESULTS.get_or_init(take)
}

fn take() -> Results {
    let mut cases = cases();
    if std::env::var_os("LIVEBPF_BLESS").is_some() {
        bless(&mut cases);
    }
    assert!(cases.len() >= 45, "only {} cases", cases.len());
    let names: Vec<String> = cases.iter().map(|case| case.name.clone()).collect();
    let about = "reserved encodings, each refused with an error that says where, what was found and what was wanted";
    Results::take("reserved", about, &names, |engine| {
        let runtime = runtime(engine);
        let mut worker = runtime.worker().expect("a worker");
        let cases = &cases;
        move |i| {
            let case = &cases[i];
            match suite::run(&runtime, &mut worker, &code(&case.code), &mut [0; 16]).map_err(one_line) {
                Err(error) if error == case.error && !error.is_empty() => Ok(()),
                Err(error) => Err(format!("refused with {error:?}, wanted {:?}", case.error)),
                Ok(r0) => Err(format!("accepted, with the result {r0:#x}")),
            }
        }
    })
}

fn code(text: &str) -> Vec<u8> {
    bytes(&text.replace(' ', ""))
}

fn one_line(error: String) -> String {
    error.lines().map(str::trim).collect::<Vec<_>>().join("; ")
}

/// Writes the errors as they are now.
fn bless(cases: &mut [Case]) {
    let runtime = runtime(livebpf::runtime::Engine::Interp);
    let mut worker = runtime.worker().expect("a worker");
    let text = std::fs::read_to_string(path()).expect("the cases are there");
    let head = text.lines().take_while(|line| line.starts_with('#')).map(|line| format!("{line}\n"));
    let mut out: String = head.collect();
    for case in cases {
        case.error =
            suite::run(&runtime, &mut worker, &code(&case.code), &mut [0; 16]).err().map(one_line).unwrap_or_default();
        out += &format!("\n{}: {}\n  {}\n", case.name, case.code, case.error);
    }
    std::fs::write(path(), out).expect("the file can be written");
}
