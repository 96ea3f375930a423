//! Development tasks, started as `cargo run -p xtask -- TASK`. Nothing here is needed to build or to test livebpf.

mod bpf;

use std::process::ExitCode;

const USAGE: &str = "usage: cargo run -p xtask -- bpf [--check]

  bpf           build every *.bpf.c of the tests and of the demo with clang-19, in place
  bpf --check   build them elsewhere and say which committed objects differ; exit status 1 when one does";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["bpf"] => bpf::build(),
        ["bpf", "--check"] => bpf::check(),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(message) => {
            eprintln!("xtask: {message}");
            ExitCode::FAILURE
        }
    }
}
