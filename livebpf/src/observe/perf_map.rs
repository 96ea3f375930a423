//! The perf map: a text file in which `perf` looks up the names of code that no file on disk has.
//!
//! One line for each function, `START SIZE NAME`, both numbers hexadecimal, in `/tmp/perf-PID.map`
//! (tools/perf/Documentation/jit-interface.txt). Functions are called `bpf_prog_ID_NAME`, as the kernel's are with a tag.
//!
//! *Never.* A line is never taken back: the format has no word for code that is gone. Where memory is used again, the
//! later line is about the later program.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::text::symbols::{CodeSymbol, SymbolSink};

/// Writes the perf map of this process; for [`RuntimeBuilder::symbols`](crate::runtime::RuntimeBuilder::symbols). The file is made when
/// the first program is loaded, and stays: `perf report` reads it after the process has ended.
#[derive(Debug)]
pub struct PerfMap {
    path: PathBuf,
    file: Option<File>,
}

impl Default for PerfMap {
    fn default() -> PerfMap {
        PerfMap::new()
    }
}

impl PerfMap {
    /// The file in which perf looks: `/tmp/perf-PID.map`.
    pub fn new() -> PerfMap {
        PerfMap::at(format!("/tmp/perf-{}.map", std::process::id()))
    }

    /// Another file.
    pub fn at(path: impl Into<PathBuf>) -> PerfMap {
        PerfMap { path: path.into(), file: None }
    }

    /// Where it writes.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens the file, which other code generators in this process may be writing as well.
    fn open(&self) -> io::Result<File> {
        // In a directory where everybody may write, somebody may have put a link.
        let options = &mut OpenOptions::new();
        options.append(true).create(true).mode(0o644).custom_flags(libc::O_NOFOLLOW).open(&self.path)
    }
}

impl SymbolSink for PerfMap {
    fn loaded(&mut self, symbols: &[CodeSymbol]) -> io::Result<()> {
        if self.file.is_none() {
            self.file = Some(self.open()?);
        }
        let line = |s: &CodeSymbol| format!("{:x} {:x} bpf_prog_{}_{}\n", s.address, s.len, s.program, s.name);
        // In one write, so that no other writer's line comes into the middle.
        let lines: String = symbols.iter().map(line).collect();
        self.file.as_mut().map_or(Ok(()), |file| file.write_all(lines.as_bytes()))
    }

    fn unloaded(&mut self, _: &[CodeSymbol]) -> io::Result<()> {
        Ok(())
    }
}
