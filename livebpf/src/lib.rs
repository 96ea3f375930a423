//! A userspace eBPF runtime for x86-64 Linux that re-links running code.
//!
//! The path of the data, each module importing only what stands before it:
//!
//! ```text
//! ELF bytes ─ object ─→ Object ─ link ─→ Program ─ verify ─→ Verified ─ jit ─→ Code ─ text ─→ Image ─ run
//! ```
#![deny(unsafe_code)]

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
compile_error!("livebpf generates x86-64 code and needs Linux");

pub mod cbpf;
pub mod context;
pub mod helper;
pub mod insn;
pub mod interp;
pub mod jit;
pub mod link;
pub mod map;
pub mod object;
pub mod observe;
mod primitive;
pub mod rcu;
pub mod run;
pub mod runtime;
pub mod text;
pub mod verify;
