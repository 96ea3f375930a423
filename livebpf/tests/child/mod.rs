//! Tests that end their process, or confine it, run in a second one: this test binary once more, for one test, with a case's name.
#![allow(dead_code, unsafe_code)]

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output};

const CASE: &str = "LIVEBPF_TEST_CASE";

/// The case that this process was started for; `None` in the first one.
pub fn case() -> Option<String> {
    std::env::var(CASE).ok()
}

/// Runs `test`, the caller's own name, in a process of its own, where [`case`] answers `case`. It is ended after two minutes.
pub fn start(test: &str, case: &str) -> Output {
    start_with(test, CASE, case)
}

/// The same with a variable of one's own.
pub fn start_with(test: &str, variable: &str, value: &str) -> Output {
    let binary = std::env::current_exe().expect("this test binary");
    let mut command = Command::new(binary);
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]).env(variable, value);
    command.output().expect("a second process")
}

/// For the second process: it is ended when it hangs.
pub fn end_after(seconds: u32) {
    // SAFETY: sets a timer.
    unsafe { libc::alarm(seconds) };
}

/// What it wrote on standard error.
pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Wants it to have ended by `signal`, with all of `parts` in its report.
pub fn died(output: &Output, signal: i32, parts: &[&str]) {
    let stderr = stderr(output);
    assert_eq!(output.status.signal(), Some(signal), "{:?}: {stderr}", output.status);
    for part in parts {
        assert!(stderr.contains(part), "{part:?} is missing: {stderr}");
    }
}
