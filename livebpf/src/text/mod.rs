//! Executable memory, images, and the patching of code that runs.
//!
//! ```text
//! jit::Code ─ Image::place ─→ Image ─ Patcher::load ─→ Tracking
//!                │                        │
//!              Region                  the update lock ─ map::prog_array::Poke
//! ```
//!
//! * [`view`]: one memory file, mapped twice. [`region`]: chunks of it; the poison stub.
//! * [`image`]: one program's machine code in place.
//! * [`patch`]: the update lock, the tracked call sites, and the order of the stores (the argument is there).
//! * [`sync`]: making every thread of the process execute a serialising instruction.
//! * [`symbols`]: telling profilers and debuggers where code lies, on threads of their own.
//! * [`trap`]: the report when a thread dies in generated code.
//! * [`selftest`]: what a machine offers, and whether aligned stores to running code tear on it.
//! * [`fork`]: noticing that this process is a child of the one that set things up.
//!
//! *Guarantees.* No page is ever writable and executable through one mapping. After an image is published only the
//! fields of its poke sites change: a byte, or a rel32 by one aligned 32-bit store.
//!
//! *Never.* Nothing here waits for running programs: that is [`crate::rcu`], which this room knows only as the trait
//! [`patch::GracePeriod`]. Nothing here reads code to find out a state.

mod chunks;
pub mod fork;
pub mod image;
pub mod patch;
mod poison;
pub mod region;
#[cfg(not(loom))]
pub mod selftest;
pub mod symbols;
pub mod sync;
pub mod trap;
#[cfg(not(loom))]
mod view;
#[cfg(loom)]
#[path = "view_model.rs"]
mod view;

pub use image::Image;
pub use patch::{GracePeriod, Patcher, Tracking, UpdateError, UpdateGuard};
pub use region::{Region, RegionOptions};
pub use sync::CoreSync;

use crate::jit::Symbol;

/// Why code could not be placed or tracked. Nothing has changed when one of these is returned.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    /// A capacity the region cannot have.
    #[error("a code region of {found} bytes was asked for, wanted {min} to {max} bytes")]
    Capacity {
        /// Bytes asked for.
        found: u64,
        /// Smallest.
        min: u64,
        /// Largest.
        max: u64,
    },
    /// The operating system refused a step of setting the region up.
    #[error("code region: {step} failed: {source}{hint}")]
    Os {
        /// The step, for instance `memfd_create`.
        step: &'static str,
        /// What the system said.
        source: std::io::Error,
        /// What may be the cause and what to do; empty, or beginning with a semicolon.
        hint: &'static str,
    },
    /// No room for an image.
    #[error(
        "the code region is full: {wanted} bytes wanted, {used} of {capacity} in use; unload programs or make it larger"
    )]
    Full {
        /// Bytes wanted.
        wanted: u64,
        /// Bytes in use.
        used: u64,
        /// Bytes in all.
        capacity: u64,
    },
    /// A relocation refers to something that is not known here.
    #[error("code offset {at:#x}: {symbol:?} has no address")]
    Unresolved {
        /// Offset of the field in the image.
        at: u32,
        /// What it refers to.
        symbol: Symbol,
    },
    /// A rel32 that cannot reach its symbol.
    #[error(
        "code offset {at:#x}: {symbol:?} at {address:#x} is more than 2 GiB away from the code region at {base:#x}"
    )]
    Reach {
        /// Offset of the field in the image.
        at: u32,
        /// What it refers to.
        symbol: Symbol,
        /// Where that is.
        address: u64,
        /// Where the code region begins.
        base: u64,
    },
    /// Code that breaks the contract of [`crate::jit::Code`]: an error of the code generator, found before it could harm.
    #[error("malformed code at offset {at:#x}: {what}")]
    Malformed {
        /// Offset in the image.
        at: u32,
        /// What is wrong, and what was wanted.
        what: &'static str,
    },
    /// Direct tail calls cannot be patched on this machine.
    #[error("the code has direct tail calls, but this machine cannot patch running code ({why}); compile it for slots")]
    NoPatching {
        /// Why not.
        why: String,
    },
    /// The trap handler has a place for so many regions.
    #[error("traps are reported for {limit} code regions already, there is no place for another one")]
    TooManyWatched {
        /// How many there can be.
        limit: usize,
    },
    /// An update was not possible.
    #[error(transparent)]
    Update(#[from] UpdateError),
}

#[cfg(test)]
mod tests;
