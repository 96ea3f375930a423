//! ELF + BTF + BTF.ext → [`Object`]: programs, subprograms, maps, globals, relocations, line info.

pub mod map_def;
pub mod prog_type;

pub use map_def::{DataSymbol, MapDef, MapInit, MapType};
pub use prog_type::{AttachType, ProgType, ProgramKind};
