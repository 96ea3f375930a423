//! Running the `livebpf` binary in tests.
#![allow(dead_code, reason = "each test file uses its part")]

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

/// The engines that every answer is to agree in.
pub const ENGINES: [&str; 3] = ["interp", "jit", "slot"];

/// What one call of the binary gave.
#[derive(Debug)]
pub struct Ran {
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    /// Standard output as the one JSON document that it has to be.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}: not one JSON document: {self:?}"))
    }
}

/// Calls the binary.
pub fn livebpf(args: &[&str]) -> Ran {
    with_input(args, b"")
}

/// Calls the binary with something on standard input.
pub fn with_input(args: &[&str], input: &[u8]) -> Ran {
    let mut child = Command::new(env!("CARGO_BIN_EXE_livebpf"))
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let mut stdin = child.stdin.take().expect("piped");
    // A child that does not read its input may be gone already.
    let _ = stdin.write_all(input);
    drop(stdin);
    let out = child.wait_with_output().expect("the binary ends");
    Ran {
        status: out.status.code().expect("no signal ended it"),
        stdout: String::from_utf8(out.stdout).expect("text"),
        stderr: String::from_utf8(out.stderr).expect("text"),
    }
}

/// Calls the binary for a batch given as text; answers the array.
#[track_caller]
pub fn batch(engine: &str, keep_going: bool, commands: &str) -> (i32, Vec<Value>) {
    let mut args = vec!["--engine", engine, "-j", "batch", "file", "-"];
    if keep_going {
        args.push("--keep-going");
    }
    let ran = with_input(&args, commands.as_bytes());
    let Value::Array(answers) = ran.json() else { panic!("no array: {ran:?}") };
    (ran.status, answers)
}

/// The folder of the library's scenarios.
pub fn scenarios() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../livebpf/tests/data/scenarios")
}

/// A scenario's object.
pub fn object(name: &str) -> String {
    text(&scenarios().join(name))
}

/// The demo's chain, which has hash and per-CPU maps.
pub fn chain() -> String {
    text(&Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/demo/chain.o"))
}

fn text(path: &Path) -> String {
    path.to_str().expect("the project's path is text").to_owned()
}

/// A folder of this test's own, removed at the end.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new(name: &str) -> Scratch {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("the target folder is writable");
        Scratch(folder)
    }
    /// Writes a file; answers its path.
    pub fn file(&self, name: &str, bytes: &[u8]) -> String {
        std::fs::write(self.0.join(name), bytes).expect("the target folder is writable");
        self.path(name)
    }
    pub fn path(&self, name: &str) -> String {
        text(&self.0.join(name))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed stays in the target folder.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// `["0x00",..]` as bytes.
#[track_caller]
pub fn bytes(json: &Value) -> Vec<u8> {
    let digits = |v: &Value| v.as_str().and_then(|s| s.strip_prefix("0x")).and_then(|d| u8::from_str_radix(d, 16).ok());
    let list = json.as_array().unwrap_or_else(|| panic!("no list of bytes: {json}"));
    list.iter().map(|v| digits(v).unwrap_or_else(|| panic!("no byte: {v}"))).collect()
}
