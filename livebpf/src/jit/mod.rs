//! Verified → [`Code`]: bytes, relocations, poke sites, line table. Pure: no memory is mapped here.

pub mod code;

pub use code::{Code, FrameInfo, PokeSite, Reloc, RelocKind, Symbol};
