//! One loaded object: its programs, maps and global variables, by name.

use std::sync::Arc;

use super::error::Error;
use super::maps::MapHandle;
use crate::object::MapDef;
use crate::run::Program;

/// What a load produced. Dropping it drops its handles: a map's program array is emptied with the last handle of it.
#[derive(Clone, Debug)]
pub struct Ebpf {
    pub(super) programs: Vec<Program>,
    pub(super) maps: Vec<ObjectMap>,
}

/// One of an object's maps: a map made for it, or one that it reuses, which may have another name.
#[derive(Clone, Debug)]
pub(super) struct ObjectMap {
    /// What the object says.
    pub(super) def: Arc<MapDef>,
    /// What it got.
    pub(super) handle: MapHandle,
}

impl Ebpf {
    /// The program whose entry function is `name`.
    pub fn program(&self, name: &str) -> Option<&Program> {
        self.programs.iter().find(|p| p.name() == name)
    }

    /// The programs, in the object's order.
    pub fn programs(&self) -> impl Iterator<Item = &Program> {
        self.programs.iter()
    }

    /// The map that the object calls `name`; global data goes by its section (`.bss`, `.data`, `.rodata`).
    pub fn map(&self, name: &str) -> Option<&MapHandle> {
        self.maps.iter().find(|m| m.def.name == name).map(|m| &m.handle)
    }

    /// The maps, in the object's order.
    pub fn maps(&self) -> impl Iterator<Item = &MapHandle> {
        self.maps.iter().map(|m| &m.handle)
    }

    /// The bytes of the global variable `name`.
    ///
    /// # Errors
    /// [`Error::Unknown`].
    pub fn global(&self, name: &str) -> Result<Vec<u8>, Error> {
        let (map, at) = self.variable(name)?;
        Ok(map.read(&[0; 4])?[at].to_vec())
    }

    /// Writes the global variable `name`; programs that run see the bytes change.
    ///
    /// # Errors
    /// [`Error::Unknown`]; [`Error::Options`] for a wrong size; [`Error::Map`] (EPERM) for a variable in `.rodata`, which is
    /// fixed at load: see [`LoadOptions::global`](super::LoadOptions::global).
    pub fn set_global(&self, name: &str, value: &[u8]) -> Result<(), Error> {
        let (map, at) = self.variable(name)?;
        if value.len() != at.len() {
            return Err(Error::Options(format!("variable {name} has {} bytes, found {}", at.len(), value.len())));
        }
        map.write_data(at.start, value)
    }

    fn variable(&self, name: &str) -> Result<(&MapHandle, std::ops::Range<usize>), Error> {
        let found = self.maps().find_map(|m| m.def().symbol(name).map(|s| (m, s)));
        let (map, symbol) = found.ok_or_else(|| Error::Unknown {
            kind: "variable",
            name: name.to_owned(),
            known: list(self.maps().flat_map(|m| m.def().symbols.iter().map(|s| s.name.as_str()))),
        })?;
        let start = symbol.offset as usize;
        Ok((map, start..start + symbol.size as usize))
    }
}

/// Names for an error message.
pub(super) fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<_> = names.collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}
