//! Running programs: the entry stub, workers, and the glue to helpers. The one place that calls generated code.
//!
//! An outermost run is a read-side section of the runtime's [`Domain`](crate::rcu::Domain): it enters, resolves its entry in the current
//! generation's table, passes through the stub, and leaves. A program that an update takes away meanwhile stays
//! in place until the section is left.
//!
//! Updates that need not be made at once are queued in `updates`, which makes them in batches.

mod current;
mod custom;
mod effects;
mod error;
mod generation;
pub mod helpers;
mod host;
mod hot;
mod lent;
mod program;
mod registry;
mod relink;
mod shared;
mod stack;
mod stub;
mod updates;
mod worker;

pub use custom::{HelperCall, HelperFn};
pub use effects::{Cloned, Effects, Redirect, Target};
pub use error::RunError;
pub use program::Program;
pub use shared::{Engine, TraceLog};
pub use worker::{Pinned, Worker};

pub use custom::PlainHelper;
pub(crate) use custom::{Custom, Function};
pub(crate) use generation::{EntryId, Generations, MAX_GENERATIONS, MAX_PROGRAMS, Owned as OwnedGeneration};
pub(crate) use lent::Lent;
pub(crate) use program::{Entry, Loaded, Placement};
pub(crate) use registry::Registry;
pub(crate) use relink::{Relink, Turn};
pub(crate) use shared::Shared;
pub(crate) use stack::{VERIFIED_NEED as STACK_NEED, need as stack_need};
pub(crate) use updates::{Completion, Request, Updates};
