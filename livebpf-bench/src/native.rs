//! The machine itself: the same C functions, compiled by `cc -O2` when they are first measured, and called through a pointer.
//!
//! Where there is no compiler, its column says so.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Instant;

use crate::error::Error;
use crate::raw::{Function, Library, READS};
use crate::sides::{Batch, Runner};
use crate::work::Work;

const SOURCES: [(&str, &str); 2] =
    [("native.c", include_str!("../bpf/native.c")), ("compute.h", include_str!("../bpf/compute.h"))];

/// The function that does what the work's program does.
pub fn prepare(work: &Work) -> Result<Box<dyn Runner>, Error> {
    Ok(Box::new(function(work)?))
}

/// The same, to be taken to another thread.
pub fn function(work: &Work) -> Result<Native, Error> {
    let name = work.native.ok_or(Error::Lacks("there is no such thing in C"))?;
    let function = library()?.function(name)?;
    let mut data = work.packet.clone();
    data.resize(data.len().max(READS), 0);
    Ok(Native { function, data })
}

/// A function and what it reads.
pub struct Native {
    function: Function,
    data: Vec<u8>,
}

impl Runner for Native {
    fn batch(&mut self, runs: u32) -> Result<Batch, Error> {
        let start = Instant::now();
        let answer = self.function.call(runs, &self.data);
        let ns = start.elapsed().as_nanos() as f64 / f64::from(runs);
        Ok(Batch { ns, wall_ns: ns, answer })
    }
}

/// Compiled once in a process.
fn library() -> Result<&'static Library, Error> {
    static LIBRARY: OnceLock<Result<Library, String>> = OnceLock::new();
    let built = LIBRARY.get_or_init(|| build().map_err(|error| error.to_string()));
    built.as_ref().map_err(|why| Error::Library(why.clone()))
}

fn build() -> Result<Library, Error> {
    let folder = Folder::new()?;
    let failed = |why: String| Error::Library(format!("cc: {why}"));
    for (name, text) in SOURCES {
        std::fs::write(folder.0.join(name), text).map_err(|error| Error::Library(error.to_string()))?;
    }
    let mut command = Command::new("cc");
    command.current_dir(&folder.0).args(["-O2", "-fPIC", "-shared", "-o", "native.so", "native.c"]);
    let done = command.stdin(Stdio::null()).output().map_err(|error| failed(error.to_string()))?;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr);
        return Err(failed(said.lines().next().unwrap_or("it failed without a word").to_owned()));
    }
    Library::open(&folder.0.join("native.so"))
}

/// A folder of our own, which goes with this.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Folder, Error> {
        let path = std::env::temp_dir().join(format!("livebpf-bench-{}", std::process::id()));
        // Refused where somebody else was there before.
        std::fs::create_dir(&path).map_err(|error| Error::Library(format!("{}: {error}", path.display())))?;
        Ok(Folder(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
