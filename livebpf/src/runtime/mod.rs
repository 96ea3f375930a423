//! Owns everything: loads objects, runs programs, updates slots, retires what was replaced.
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use livebpf::{context::Context, object::Object, runtime::{ProgramArray, Runtime, UpgradeOptions}};
//!
//! let runtime = Runtime::new()?;
//! let ebpf = runtime.load(&Object::parse(&std::fs::read("chain.bpf.o")?)?)?;
//! let stages = ProgramArray::try_from(ebpf.map("stages").ok_or("no map `stages`")?)?;
//! stages.set(0, ebpf.program("count").ok_or("no program `count`")?)?;
//!
//! let mut worker = runtime.worker()?; // one per thread
//! let mut packet = Context::xdp(&[0; 64])?;
//! let verdict = worker.run(ebpf.program("parse").ok_or("no program `parse`")?, &mut packet)?;
//!
//! // Several slots at once: every invocation sees all of it or none.
//! runtime.transaction(|tx| {
//!     for (slot, name) in ["count", "filter"].into_iter().enumerate() {
//!         ebpf.program(name).inspect(|program| tx.set(&stages, slot as u32, program));
//!     }
//! })?;
//!
//! // A new version of the whole object, with the state of the old one.
//! let v2 = Object::parse(&std::fs::read("chain-2.bpf.o")?)?;
//! let upgrade = runtime.upgrade(&ebpf, &v2, &UpgradeOptions::default())?;
//! if worker.run(upgrade.ebpf().program("parse").ok_or("no program `parse`")?, &mut packet)? != verdict {
//!     upgrade.roll_back()?;
//! }
//! # Ok(()) }
//! ```

mod builder;
mod ebpf;
mod error;
mod install;
mod load;
mod map_kinds;
mod maps;
mod transaction;
mod unverified;
mod updates;
mod upgrade;

pub use builder::{Runtime, RuntimeBuilder, Usage};
pub use ebpf::Ebpf;
pub use error::{BatchError, Error};
pub use load::LoadOptions;
pub use map_kinds::{MapOfMaps, PerfBuffer, RingBuffer};
pub use maps::{MapHandle, ProgramArray};
pub use transaction::Transaction;
pub use updates::Completion;
pub use upgrade::{Upgrade, UpgradeOptions};

pub use crate::map::prog_array::missed::Missed;
pub use crate::run::{
    Cloned, Effects, Engine, HelperCall, Pinned, PlainHelper, Program, Redirect, RunError, Target, TraceLog, Worker,
};
pub use crate::text::symbols::{CodeSymbol, SymbolSink};
