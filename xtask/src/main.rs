//! Development tasks, started as `cargo run -p xtask -- TASK`. Nothing here is needed to build or to test livebpf.

mod bpf;
mod performance;
mod sanitize;

use std::process::ExitCode;

const USAGE: &str =
    "usage: cargo run -p xtask -- bpf [--check] | miri|asan|tsan|valgrind|fuzz [--all] | performance RUN.json

  bpf           build every *.bpf.c of the tests, the demo and the benchmarks with clang-19, in place
  bpf --check   build them elsewhere and say which committed objects differ; exit status 1 when one does
  miri          the unit tests of the pure rooms, interpreted; nightly with miri
  asan          programs and updates under the address sanitiser; nightly with rust-src
  tsan          grace periods under the thread sanitiser, with and without them; nightly with rust-src
  valgrind      runs of programs under valgrind
  fuzz          every fuzz target for a minute each; nightly and cargo-fuzz
  ... --all     more tests, or ten minutes for each fuzz target
  performance   docs/performance.md from what `livebpf bench -j` printed here

What needs something that is not there says so in one line and is skipped.";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["bpf"] => bpf::build(),
        ["bpf", "--check"] => bpf::check(),
        [name] if sanitize::NAMES.contains(&name) => sanitize::run(name, false),
        [name, "--all"] if sanitize::NAMES.contains(&name) => sanitize::run(name, true),
        ["performance", run] => performance::write(run),
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
