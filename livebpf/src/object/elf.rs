//! The ELF container: sections, symbols and relocations as plain values.
//!
//! The only file that knows the `object` crate. Everything it hands out is inside the file's bytes; symbols and
//! relocations refer to sections and symbols that exist. It knows nothing of BPF but the machine number.

use object::elf;
use object::read::elf::{FileHeader, Rel as _, SectionHeader, Sym as _};
use object::{LittleEndian, SectionIndex, SymbolIndex};

use super::error::ObjectError;

/// One section. `data` is empty for sections without bytes in the file (`.bss`).
pub(crate) struct Section<'a> {
    pub(crate) name: String,
    pub(crate) kind: u32,
    pub(crate) flags: u64,
    pub(crate) size: u64,
    pub(crate) data: &'a [u8],
    /// Relocations that apply to it, in file order; only those of code and of `.maps` are read.
    pub(crate) relocs: Vec<Rel>,
}

impl Section<'_> {
    pub(crate) fn is_code(&self) -> bool {
        self.kind == elf::SHT_PROGBITS && self.flags & u64::from(elf::SHF_EXECINSTR) != 0
    }
    pub(crate) fn is_nobits(&self) -> bool {
        self.kind == elf::SHT_NOBITS
    }
    pub(crate) fn is_alloc(&self) -> bool {
        self.flags & u64::from(elf::SHF_ALLOC) != 0
    }
}

/// Where a symbol is defined.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    /// Not in this object.
    Undefined,
    /// In the section with this index.
    Section(usize),
    /// Absolute, common or another reserved index.
    Special(u16),
}

/// One symbol.
pub(crate) struct Symbol {
    pub(crate) name: String,
    pub(crate) place: Place,
    pub(crate) value: u64,
    pub(crate) size: u64,
    kind: u8,
    bind: u8,
    visibility: u8,
}

impl Symbol {
    pub(crate) fn is_func(&self) -> bool {
        self.kind == elf::STT_FUNC
    }
    pub(crate) fn is_data(&self) -> bool {
        self.kind == elf::STT_OBJECT
    }
    pub(crate) fn is_local(&self) -> bool {
        self.bind == elf::STB_LOCAL
    }
    pub(crate) fn is_weak(&self) -> bool {
        self.bind == elf::STB_WEAK
    }
    /// Hidden or internal: libbpf then treats a global function as a static one.
    pub(crate) fn is_hidden(&self) -> bool {
        self.visibility == elf::STV_HIDDEN || self.visibility == elf::STV_INTERNAL
    }
}

/// One relocation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Rel {
    /// Bytes into the section it applies to.
    pub(crate) offset: u64,
    /// `R_BPF_*`.
    pub(crate) kind: u32,
    /// Index of the symbol.
    pub(crate) symbol: usize,
}

/// A parsed file.
pub(crate) struct Elf<'a> {
    pub(crate) sections: Vec<Section<'a>>,
    pub(crate) symbols: Vec<Symbol>,
}

type Header = elf::FileHeader64<LittleEndian>;
const LE: LittleEndian = LittleEndian;
/// Longer names are refused: many entries could share one, and copying them would cost more than the file.
const MAX_NAME: usize = 1024;
const WANTED_NAME: &str = "a name of at most 1024 bytes in the string table";
const WANTED_FILE: &str = "a 64-bit little-endian ELF relocatable for EM_BPF, as clang -target bpf -c writes";

impl<'a> Elf<'a> {
    /// Reads the container.
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Elf<'a>, ObjectError> {
        let header = header(bytes)?;
        let table = header.sections(LE, bytes).map_err(|_| {
            let (count, offset) = (header.e_shnum(LE), header.e_shoff(LE));
            header_error(format!("{count} section headers at {offset} of {} bytes", bytes.len()))
        })?;
        let mut sections = Vec::with_capacity(table.len());
        for (index, section) in table.enumerate() {
            sections.push(read_section(bytes, &table, index, section)?);
        }
        let symbols = read_symbols(bytes, &table, &sections)?;
        for (index, section) in table.enumerate() {
            read_relocs(bytes, index, section, &mut sections, symbols.len())?;
        }
        Ok(Elf { sections, symbols })
    }

    /// The first section called `name`.
    pub(crate) fn section(&self, name: &str) -> Option<(usize, &Section<'a>)> {
        self.sections.iter().enumerate().find(|(_, s)| s.name == name)
    }

    /// The name of the section a symbol is in, for messages.
    pub(crate) fn place_name(&self, place: Place) -> String {
        match place {
            Place::Undefined => "undefined".to_owned(),
            Place::Section(i) => self.sections.get(i).map_or_else(|| format!("#{i}"), |s| s.name.clone()),
            Place::Special(i) => format!("special section {i:#x}"),
        }
    }
}

fn header_error(found: impl Into<String>) -> ObjectError {
    ObjectError::Header { found: found.into(), wanted: WANTED_FILE }
}

fn header(bytes: &[u8]) -> Result<&Header, ObjectError> {
    if bytes.len() < size_of::<Header>() {
        return Err(header_error(format!("{} bytes", bytes.len())));
    }
    if bytes[..4] != elf::ELFMAG {
        return Err(header_error(format!("the bytes {:02x?}", &bytes[..4])));
    }
    if bytes[4] != elf::ELFCLASS64 || bytes[5] != elf::ELFDATA2LSB {
        return Err(header_error(format!("class {} and data encoding {}", bytes[4], bytes[5])));
    }
    let header = Header::parse(bytes).map_err(|e| header_error(e.to_string()))?;
    let (kind, machine) = (header.e_type(LE), header.e_machine(LE));
    if kind != elf::ET_REL || machine != elf::EM_BPF {
        return Err(header_error(format!("file type {kind} for machine {machine}")));
    }
    Ok(header)
}

type Sections<'a> = object::read::elf::SectionTable<'a, Header>;

fn read_section<'a>(
    bytes: &'a [u8],
    table: &Sections<'a>,
    index: SectionIndex,
    section: &elf::SectionHeader64<LittleEndian>,
) -> Result<Section<'a>, ObjectError> {
    let number = format!("#{}", index.0);
    let name = if index.0 == 0 {
        b"".as_slice()
    } else {
        table
            .section_name(LE, section)
            .ok()
            .filter(|name| name.len() <= MAX_NAME)
            .ok_or_else(|| ObjectError::section(&number, "no valid name", WANTED_NAME))?
    };
    let name = String::from_utf8_lossy(name).into_owned();
    let (offset, size) = (section.sh_offset(LE), section.sh_size(LE));
    let data = if index.0 == 0 { Ok(&[][..]) } else { section.data(LE, bytes) };
    let data = data.map_err(|_| {
        let found = format!("{size} bytes at offset {offset} of a file of {} bytes", bytes.len());
        ObjectError::section(if name.is_empty() { &number } else { &name }, found, "bytes inside the file")
    })?;
    Ok(Section { name, kind: section.sh_type(LE), flags: section.sh_flags(LE), size, data, relocs: Vec::new() })
}

fn read_symbols<'a>(
    bytes: &'a [u8],
    table: &Sections<'a>,
    sections: &[Section<'a>],
) -> Result<Vec<Symbol>, ObjectError> {
    let symbols = table
        .symbols(LE, bytes, elf::SHT_SYMTAB)
        .map_err(|e| ObjectError::section(".symtab", e.to_string(), "a symbol table with its strings"))?;
    if symbols.is_empty() {
        return Err(ObjectError::section(".symtab", "no symbols", "the symbols of programs and maps"));
    }
    let mut out = Vec::with_capacity(symbols.len());
    for (index, symbol) in symbols.enumerate() {
        let number = format!("#{}", index.0);
        let name = symbol.name(LE, symbols.strings()).ok().filter(|name| name.len() <= MAX_NAME);
        let name = name.ok_or_else(|| ObjectError::Symbol {
            symbol: number.clone(),
            section: ".symtab".to_owned(),
            found: "no valid name".to_owned(),
            wanted: WANTED_NAME.to_owned(),
        })?;
        let place = match symbol.st_shndx(LE) {
            elf::SHN_UNDEF => Place::Undefined,
            n @ elf::SHN_LORESERVE.. => Place::Special(n),
            n => Place::Section(n.into()),
        };
        if let Place::Section(n) = place
            && n >= sections.len()
        {
            return Err(ObjectError::Symbol {
                symbol: if name.is_empty() { number } else { String::from_utf8_lossy(name).into_owned() },
                section: format!("#{n}"),
                found: format!("section index {n}"),
                wanted: format!("one of the {} sections", sections.len()),
            });
        }
        out.push(Symbol {
            name: String::from_utf8_lossy(name).into_owned(),
            place,
            value: symbol.st_value(LE),
            size: symbol.st_size(LE),
            kind: symbol.st_type(),
            bind: symbol.st_bind(),
            visibility: symbol.st_visibility(),
        });
    }
    Ok(out)
}

/// Attaches the relocations in section `index`, if it holds any, to the section they apply to.
fn read_relocs<'a>(
    bytes: &'a [u8],
    index: SectionIndex,
    section: &elf::SectionHeader64<LittleEndian>,
    sections: &mut [Section<'a>],
    symbols: usize,
) -> Result<(), ObjectError> {
    let kind = section.sh_type(LE);
    if kind != elf::SHT_REL && kind != elf::SHT_RELA {
        return Ok(());
    }
    let name = sections[index.0].name.clone();
    let target = section.sh_info(LE) as usize;
    let Some(to) = sections.get_mut(target).filter(|_| target != 0) else {
        return Err(ObjectError::section(&name, format!("target section {target}"), "a section of this file"));
    };
    if !to.is_code() && to.name != ".maps" {
        return Ok(());
    }
    if kind == elf::SHT_RELA {
        return Err(ObjectError::section(&name, "relocations with addends (SHT_RELA)", "SHT_REL"));
    }
    let rels = section.rel(LE, bytes).ok().flatten();
    let Some((rels, _)) = rels else {
        return Err(ObjectError::section(&name, "no whole relocation records", "records of 16 bytes"));
    };
    for rel in rels {
        let symbol = rel.symbol(LE).unwrap_or(SymbolIndex(0)).0;
        let offset = rel.r_offset(LE);
        let error =
            |found: String, wanted: String| ObjectError::Reloc { section: to.name.clone(), offset, found, wanted };
        if symbol == 0 || symbol >= symbols {
            return Err(error(format!("symbol index {symbol}"), format!("1 to {}", symbols.saturating_sub(1))));
        }
        if offset >= to.size {
            return Err(error(format!("that offset in a section of {} bytes", to.size), "an offset inside".into()));
        }
        to.relocs.push(Rel { offset, kind: rel.r_type(LE), symbol });
    }
    Ok(())
}
