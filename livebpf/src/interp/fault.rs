//! What can go wrong while a program runs in the interpreter. A verified program never faults.

use thiserror::Error;

use crate::insn::{Pc, Reg};

/// A run that was stopped: where and why.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("program {program}, instruction {pc}: {kind}")]
pub struct Fault {
    /// Name of the program that was executing (after tail calls: the last one).
    pub program: String,
    /// The instruction.
    pub pc: Pc,
    /// What it did.
    pub kind: FaultKind,
}

/// What a program did that stopped it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[allow(missing_docs)]
pub enum FaultKind {
    #[error("{} of {size} bytes at {addr:#x}, which is no memory of this program", access_name(*.write))]
    Access { addr: u64, size: u64, write: bool },
    #[error("{} of {size} bytes at offset {off} of {context}, which has no such access", access_name(*.write))]
    Context { context: &'static str, off: u64, size: u32, write: bool },
    #[error("execution left the program at position {target}")]
    BadTarget { target: i64 },
    #[error("{reg} is read-only")]
    FramePointer { reg: Reg },
    #[error("a call more than {limit} functions deep")]
    CallDepth { limit: u32 },
    #[error("helper {id} does not exist")]
    NoHelper { id: u32 },
    #[error("helper {name}: argument {arg}: {reason}")]
    Argument { name: String, arg: usize, reason: String },
    #[error("helper failed: {0}")]
    Helper(String),
    #[error("{0} is not supported")]
    Unsupported(&'static str),
    #[error("map {index} is not bound, or has no single value to point into")]
    Map { index: i64 },
    #[error("a legacy packet load without the packet's context in r6")]
    NoPacket,
    #[error("more than {limit} instructions")]
    Budget { limit: u64 },
    #[cfg(feature = "fault-injection")]
    #[doc(hidden)]
    #[error("the verifier was wrong: {0}")]
    Claim(String),
    #[error("no memory for another stack frame")]
    OutOfMemory,
}

fn access_name(write: bool) -> &'static str {
    if write { "a write" } else { "a read" }
}
