//! The running kernel beside livebpf: the same linked programs, loaded by bpf(2) and run by BPF_PROG_TEST_RUN.
//!
//! [`Map`] and [`Program`] own their file descriptors; what the kernel refuses is an [`Error`] with the errno and, for a program,
//! the end of the verifier's log. Nothing is attached and nothing is pinned: all of it goes with the last descriptor.
//! [`cpu`] places threads, which side-by-side measurements need as well. `unsafe` stands in `sys` and `cpu` only.
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use livebpf::{insn::text, link, object::{ProgType, ProgramKind}};
//! use livebpf_kernel_bpf::Program;
//!
//! let linked = link::Program::bare("seven", ProgramKind::new(ProgType::SCHED_CLS), text::assemble("w0 = 7\nexit")?);
//! let program = Program::load(&linked, &[])?;
//! assert_eq!(program.test_run(&[0; 64], 1000)?.retval, 7);
//! # Ok(()) }
//! ```
#![deny(unsafe_code)]

mod btf;
pub mod cpu;
mod map;
mod program;
mod sys;

pub use map::{Map, RingReader};
pub use program::{Loadable, Program, TestRun};

use std::io;

/// What the kernel refused, or what cannot be asked of it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call failed.
    #[error("{what}: {source}")]
    Refused {
        /// The bpf(2) command and what it was for.
        what: String,
        /// The errno.
        source: io::Error,
    },
    /// The kernel's verifier, or its limits, refused a program.
    #[error("program {name}: the kernel refuses it: {source}{}", tail(log))]
    Program {
        /// The program's name.
        name: String,
        /// The errno.
        source: io::Error,
        /// The verifier's log; empty where it said nothing.
        log: String,
    },
    /// A map of a type that this crate does not make.
    #[error("map {name} is of type {found}, wanted a hash, an array, one of these per CPU, or prog_array")]
    MapType {
        /// The map's name.
        name: String,
        /// Its type.
        found: livebpf::object::MapType,
    },
    /// A key, a value or a packet that does not have the size that the kernel will read or write.
    #[error("{what} has {found} bytes, wanted {wanted}")]
    Size {
        /// Of what.
        what: String,
        /// Bytes there are.
        found: usize,
        /// Bytes there must be.
        wanted: String,
    },
    /// A program refers to a map that it was not given.
    #[error("program {name} refers to map {index} of {given}")]
    MissingMap {
        /// The program's name.
        name: String,
        /// Index into the program's maps.
        index: i32,
        /// Maps that were given.
        given: usize,
    },
    /// The kernel interprets: figures of it would say nothing about its code.
    #[error("the kernel's code generator is off (net.core.bpf_jit_enable is 0)")]
    NoJit,
}

/// The last line of a verifier's log that says something.
fn tail(log: &str) -> String {
    let line = log.lines().rev().find(|l| !l.trim().is_empty() && !l.starts_with("processed "));
    line.map_or_else(String::new, |line| format!(": {}", line.trim()))
}

/// Whether programs can be loaded and run here, and are compiled.
///
/// # Errors
/// Why not.
pub fn probe() -> Result<(), Error> {
    use livebpf::insn::{Insn, Insns, Reg, Src, Width};
    use livebpf::object::{ProgType, ProgramKind};
    if std::fs::read_to_string("/proc/sys/net/core/bpf_jit_enable").is_ok_and(|text| text.trim() == "0") {
        return Err(Error::NoJit);
    }
    let zero = Insn::Mov { width: Width::W64, dst: Reg::R0, src: Src::Imm(0) };
    let insns = Insns::from_vec([zero, Insn::Exit]);
    let linked = livebpf::link::Program::bare("probe", ProgramKind::new(ProgType::SCHED_CLS), insns);
    Program::load(&linked, &[])?.test_run(&[0; 64], 1).map(|_| ())
}
