//! Functions of the code sections: entry programs and subprograms, found by (section, slot).

use std::collections::{HashMap, HashSet};

use super::elf::{Elf, Place, Symbol};
use super::error::ObjectError;
use super::section::{self, SectionName};

/// One section of code.
#[derive(Clone, Debug)]
pub(crate) struct CodeSection {
    pub(crate) name: String,
    /// What its name says.
    pub(crate) meaning: SectionName,
    /// Whole slots.
    pub(crate) code: Vec<u8>,
}

/// One function.
#[derive(Clone, Debug)]
pub(crate) struct Function {
    pub(crate) name: String,
    /// Index into the code sections.
    pub(crate) section: usize,
    /// First slot, from the start of the section.
    pub(crate) start: u32,
    /// Length in slots, at least 1.
    pub(crate) len: u32,
    /// `static` in C.
    pub(crate) local: bool,
    /// Hidden or internal visibility: verified like a static function.
    pub(crate) hidden: bool,
}

/// Names that may share one address: aliases. More would let a small file describe a huge amount of code.
const MAX_ALIASES: usize = 16;

/// All code of an object.
#[derive(Clone, Debug, Default)]
pub(crate) struct Functions {
    pub(crate) sections: Vec<CodeSection>,
    pub(crate) all: Vec<Function>,
    /// ELF section index → index into `sections`.
    by_elf: HashMap<usize, usize>,
    by_place: HashMap<(usize, u32), usize>,
    /// Functions that some code calls or takes the address of.
    called: HashSet<usize>,
}

impl Functions {
    /// Reads code sections and function symbols.
    pub(crate) fn read(elf: &Elf<'_>) -> Result<Functions, ObjectError> {
        let mut out = Functions::default();
        for (index, section) in elf.sections.iter().enumerate().filter(|(_, s)| s.is_code()) {
            if section.data.len() % 8 != 0 {
                let found = format!("{} bytes of code", section.data.len());
                return Err(ObjectError::section(&section.name, found, "slots of 8 bytes"));
            }
            out.by_elf.insert(index, out.sections.len());
            out.sections.push(CodeSection {
                name: section.name.clone(),
                meaning: section::parse(&section.name),
                code: section.data.to_vec(),
            });
        }
        for symbol in elf.symbols.iter().filter(|s| s.is_func()) {
            if let Place::Section(index) = symbol.place
                && let Some(&section) = out.by_elf.get(&index)
            {
                out.all.push(read_function(symbol, section, &out.sections[section])?);
            }
        }
        // Programs come in section order, as in libbpf; the sort is stable.
        out.all.sort_by_key(|f| (f.section, f.start));
        out.check_overlaps()?;
        for (i, f) in out.all.iter().enumerate() {
            // Of several names for one address a global one counts.
            let entry = out.by_place.entry((f.section, f.start)).or_insert(i);
            if out.all[*entry].local && !f.local {
                *entry = i;
            }
        }
        out.note_calls(elf);
        Ok(out)
    }

    fn check_overlaps(&self) -> Result<(), ObjectError> {
        let mut aliases = 1;
        for pair in self.all.windows(2) {
            let (a, b) = (&pair[0], &pair[1]);
            let same = a.section == b.section && a.start == b.start && a.len == b.len;
            aliases = if same { aliases + 1 } else { 1 };
            let overlap = a.section == b.section && b.start < a.start + a.len && !same;
            if overlap || aliases > MAX_ALIASES {
                return Err(ObjectError::Symbol {
                    symbol: b.name.clone(),
                    section: self.sections[b.section].name.clone(),
                    found: format!("a function at slot {} inside {}, {}+{}", b.start, a.name, a.start, a.len),
                    wanted: "functions side by side, at most 16 names for one".to_owned(),
                });
            }
        }
        Ok(())
    }

    /// Notes which functions relocated calls and address loads refer to.
    fn note_calls(&mut self, elf: &Elf<'_>) {
        for section in elf.sections.iter().filter(|s| s.is_code()) {
            for rel in &section.relocs {
                let Place::Section(index) = elf.symbols[rel.symbol].place else { continue };
                let Some(&to) = self.by_elf.get(&index) else { continue };
                let Some(slot) = raw_target(section.data, rel.offset, elf.symbols[rel.symbol].value) else { continue };
                if let Some(&f) = self.by_place.get(&(to, slot)) {
                    self.called.insert(f);
                }
            }
        }
    }

    /// The code section with the given ELF index.
    pub(crate) fn section_of_elf(&self, index: usize) -> Option<usize> {
        self.by_elf.get(&index).copied()
    }

    /// The function that begins at `slot` of code section `section`.
    pub(crate) fn at(&self, section: usize, slot: u32) -> Option<usize> {
        self.by_place.get(&(section, slot)).copied()
    }

    /// The function that `symbol` stands for.
    pub(crate) fn at_symbol(&self, symbol: &Symbol) -> Option<usize> {
        let Place::Section(index) = symbol.place else { return None };
        let slot = u32::try_from(symbol.value / 8).ok().filter(|_| symbol.value.is_multiple_of(8))?;
        let place = (self.section_of_elf(index)?, slot);
        let first = self.at(place.0, slot)?;
        // Aliases stand side by side: prefer the one with this very name.
        let from = self.all.partition_point(|f| (f.section, f.start) < place);
        let aliases = self.all[from..].iter().take_while(|f| (f.section, f.start) == place);
        Some(aliases.into_iter().position(|f| f.name == symbol.name).map_or(first, |i| from + i))
    }

    /// Whether function `f` is an entry program: global, outside `.text`. In a section whose name says nothing,
    /// functions that other code calls are subprograms.
    pub(crate) fn is_program(&self, f: usize) -> bool {
        let (function, section) = (&self.all[f], &self.sections[self.all[f].section]);
        !function.local && section.name != ".text" && (section.meaning.kind.is_some() || !self.called.contains(&f))
    }
}

fn read_function(symbol: &Symbol, index: usize, section: &CodeSection) -> Result<Function, ObjectError> {
    let size = section.code.len() as u64;
    let whole = symbol.value.is_multiple_of(8) && symbol.size.is_multiple_of(8) && symbol.size != 0;
    let inside = symbol.value.checked_add(symbol.size).is_some_and(|end| end <= size);
    let (Ok(start), Ok(len)) = (u32::try_from(symbol.value / 8), u32::try_from(symbol.size / 8)) else {
        return Err(misplaced(symbol, section));
    };
    if !whole || !inside {
        return Err(misplaced(symbol, section));
    }
    Ok(Function {
        name: symbol.name.clone(),
        section: index,
        start,
        len,
        local: symbol.is_local(),
        hidden: symbol.is_hidden(),
    })
}

fn misplaced(symbol: &Symbol, section: &CodeSection) -> ObjectError {
    ObjectError::Symbol {
        symbol: symbol.name.clone(),
        section: section.name.clone(),
        found: format!("a function of {} bytes at {}", symbol.size, symbol.value),
        wanted: format!("whole slots of 8 bytes inside the {} bytes of code", section.code.len()),
    }
}

/// The slot that a relocated call or address load at byte `at` of `code` refers to, given the symbol's value.
fn raw_target(code: &[u8], at: u64, value: u64) -> Option<u32> {
    let insn = code.get(usize::try_from(at).ok()?..)?.get(..8)?;
    let imm = i64::from(i32::from_le_bytes(insn[4..8].try_into().ok()?));
    let value = i64::try_from(value).ok()?;
    let slot = match insn[0] {
        0x85 => (value / 8).checked_add(imm)?.checked_add(1)?,
        0x18 => value.checked_add(imm)? / 8,
        _ => return None,
    };
    u32::try_from(slot).ok()
}
