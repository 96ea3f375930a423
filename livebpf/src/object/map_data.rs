//! Global data: `.data*`, `.rodata*` and `.bss*` as single-entry array maps, and the `.kconfig` map.

use super::elf::{Elf, Place, Section, Symbol};
use super::error::ObjectError;
use super::externs::{Extern, ExternKind};
use super::map_def::{DataSymbol, MapDef, MapInit, MapType};

/// Programs may not write to the map (`BPF_F_RDONLY_PROG`).
const F_RDONLY_PROG: u32 = 1 << 7;
/// The user may map its memory (`BPF_F_MMAPABLE`).
const F_MMAPABLE: u32 = 1 << 10;
/// Bytes of one section of global data; and of all together.
const MAX_DATA: u64 = 256 << 20;

/// One section of global data.
pub(crate) struct DataMap {
    pub(crate) def: MapDef,
    /// Its ELF section index.
    pub(crate) section: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Data,
    Rodata,
    Bss,
}

fn kind(section: &Section<'_>) -> Option<Kind> {
    let is =
        |prefix: &str| section.name.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    if section.is_code() || !section.is_alloc() {
        None
    } else if section.is_nobits() {
        (is(".bss") || is(".data")).then_some(Kind::Bss)
    } else if is(".rodata") {
        Some(Kind::Rodata)
    } else {
        (is(".data") || is(".bss")).then_some(Kind::Data)
    }
}

/// Reads every section of global data, in file order.
pub(crate) fn read(elf: &Elf<'_>) -> Result<Vec<DataMap>, ObjectError> {
    let mut out = Vec::new();
    let mut total = 0u64;
    for (index, section) in elf.sections.iter().enumerate() {
        let Some(kind) = kind(section) else { continue };
        total = total.saturating_add(section.size);
        if total > MAX_DATA {
            let found = format!("{total} bytes of global data so far");
            return Err(ObjectError::section(&section.name, found, "at most 256 MiB"));
        }
        if section.size == 0 {
            continue;
        }
        // Checked above: it fits.
        let mut def = MapDef::new(&section.name, MapType::ARRAY, 4, section.size as u32, 1);
        def.section = Some(section.name.clone());
        def.frozen = kind == Kind::Rodata;
        def.map_flags = if kind == Kind::Rodata { F_RDONLY_PROG } else { 0 };
        // Anonymous strings and constants have no variables that a user could want to map.
        let symbols = symbols(elf, index, section)?;
        if symbols.iter().any(|(symbol, _)| !symbol.is_local()) {
            def.map_flags |= F_MMAPABLE;
        }
        def.symbols = symbols.into_iter().map(|(_, symbol)| symbol).collect();
        if kind != Kind::Bss {
            def.init = MapInit::Data(section.data.to_vec());
        }
        out.push(DataMap { def, section: index });
    }
    Ok(out)
}

/// The variables of a section, by offset.
fn symbols<'e>(
    elf: &'e Elf<'_>,
    index: usize,
    section: &Section<'_>,
) -> Result<Vec<(&'e Symbol, DataSymbol)>, ObjectError> {
    let mut out = Vec::new();
    for symbol in elf.symbols.iter().filter(|s| s.place == Place::Section(index) && s.is_data()) {
        let end = symbol.value.checked_add(symbol.size);
        if end.is_none_or(|end| end > section.size) {
            return Err(ObjectError::Symbol {
                symbol: symbol.name.clone(),
                section: section.name.clone(),
                found: format!("a variable of {} bytes at {}", symbol.size, symbol.value),
                wanted: format!("one inside the {} bytes of the section", section.size),
            });
        }
        // Inside a section of at most 256 MiB, so both fit.
        let (offset, size) = (symbol.value as u32, symbol.size as u32);
        out.push((symbol, DataSymbol { name: symbol.name.clone(), offset, size }));
    }
    out.sort_by_key(|(_, s)| s.offset);
    Ok(out)
}

/// The map of `extern ... __kconfig` variables: those that can be read here, the others are not in it. `None` without
/// any.
pub(crate) fn kconfig(externs: &[Extern]) -> Option<MapDef> {
    let (mut symbols, mut values) = (Vec::new(), Vec::new());
    let mut end = 0u32;
    for (ext, value) in externs.iter().filter_map(|e| Some((e, e.option()?))) {
        let ExternKind::Kconfig { size } = ext.kind else { continue };
        let offset = end.checked_next_multiple_of(8)?;
        end = offset.checked_add(size).filter(|end| u64::from(*end) <= MAX_DATA)?;
        symbols.push(DataSymbol { name: ext.name.clone(), offset, size });
        values.push((offset, size, value));
    }
    if end == 0 {
        return None;
    }
    let mut bytes = vec![0; end as usize];
    for (offset, size, value) in values.into_iter().filter(|v| v.2 != 0) {
        let value = value.to_le_bytes();
        let len = value.len().min(size as usize);
        bytes[offset as usize..][..len].copy_from_slice(&value[..len]);
    }
    let mut def = MapDef::new(".kconfig", MapType::ARRAY, 4, end, 1);
    def.section = Some(".kconfig".to_owned());
    def.frozen = true;
    def.map_flags = F_RDONLY_PROG | F_MMAPABLE;
    def.init = MapInit::Data(bytes);
    def.symbols = symbols;
    Some(def)
}
