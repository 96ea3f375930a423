//! Object → [`Program`]: one instruction array, calls resolved by (section, offset), maps bound.

pub mod program;

pub use program::{FuncSig, LineInfo, MapId, Program, SubprogId, Subprogram, TypeKind};
