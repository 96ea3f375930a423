//! Relocations of code, each with what its symbol stands for.
//!
//! A relocation against something that cannot be used is kept as such: only the program that contains it fails.

use std::collections::HashMap;

use super::elf::{Elf, Place, Symbol};
use super::error::ObjectError;
use super::externs::Externs;
use super::function::Functions;

/// What a relocated instruction refers to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Target {
    /// Code section `section`, at byte `offset` plus what the instruction says.
    Code { section: usize, offset: u64 },
    /// Section `.maps`, at byte `offset` plus what the instruction says.
    Maps { offset: u64 },
    /// Global data: map `map`, at byte `offset` plus what the instruction says.
    Data { map: usize, offset: u64 },
    /// An undefined symbol.
    Extern(usize),
    /// Something else, described.
    Unusable(String),
}

/// The relocations of all code sections.
#[derive(Clone, Debug, Default)]
pub(crate) struct Relocs {
    /// By code section and slot.
    all: HashMap<(usize, u32), (u32, Target)>,
}

impl Relocs {
    /// Reads the relocations of every code section.
    pub(crate) fn read(
        elf: &Elf<'_>,
        functions: &Functions,
        data_maps: &HashMap<usize, usize>,
        externs: &Externs,
    ) -> Result<Relocs, ObjectError> {
        let maps = elf.section(".maps").map(|(index, _)| index);
        let mut out = Relocs::default();
        for (index, section) in elf.sections.iter().enumerate() {
            let Some(code) = functions.section_of_elf(index) else { continue };
            for rel in &section.relocs {
                let error = |found: String, wanted: &str| ObjectError::Reloc {
                    section: section.name.clone(),
                    offset: rel.offset,
                    found,
                    wanted: wanted.to_owned(),
                };
                let slot = u32::try_from(rel.offset / 8).ok().filter(|_| rel.offset % 8 == 0);
                let slot = slot.ok_or_else(|| error("that offset".to_owned(), "the offset of an instruction"))?;
                let symbol = &elf.symbols[rel.symbol];
                let target = match symbol.place {
                    Place::Undefined => match externs.by_symbol.get(&rel.symbol) {
                        Some(extern_) => Target::Extern(*extern_),
                        None => unusable(elf, symbol),
                    },
                    Place::Section(to) if Some(to) == maps => Target::Maps { offset: symbol.value },
                    Place::Section(to) => match (functions.section_of_elf(to), data_maps.get(&to)) {
                        (Some(section), _) => Target::Code { section, offset: symbol.value },
                        (None, Some(&map)) => Target::Data { map, offset: symbol.value },
                        (None, None) => unusable(elf, symbol),
                    },
                    Place::Special(_) => unusable(elf, symbol),
                };
                if out.all.insert((code, slot), (rel.kind, target)).is_some() {
                    return Err(error("a second relocation".to_owned(), "one for an instruction"));
                }
            }
        }
        Ok(out)
    }

    /// Whether anything in code section `section` is to be relocated.
    pub(crate) fn any_in(&self, section: usize) -> bool {
        self.all.keys().any(|(code, _)| *code == section)
    }

    /// The relocation of the instruction at `slot` of code section `section`: its `R_BPF_*` number and target.
    pub(crate) fn at(&self, section: usize, slot: u32) -> Option<(u32, &Target)> {
        self.all.get(&(section, slot)).map(|(kind, target)| (*kind, target))
    }
}

fn unusable(elf: &Elf<'_>, symbol: &Symbol) -> Target {
    let place = elf.place_name(symbol.place);
    let name = if symbol.name.is_empty() { "a symbol without name" } else { &symbol.name };
    Target::Unusable(format!("{name} in {place}"))
}
