//! The `.BTF.ext` section: which function type, source line and CO-RE relocation belongs to which instruction.
//!
//! Records are kept by section *name*, as the section stores them, and sorted by position; a table's own record
//! size is honoured, so that later, longer records are read too.

use std::collections::HashMap;

use super::btf::{Btf, StrOff, TypeId};
use super::bytes::{Reader, slice};
use super::error::ObjectError;

/// All records, by section name. Positions are slots from the start of the section.
#[derive(Clone, Debug, Default)]
pub(crate) struct BtfExt {
    funcs: HashMap<String, Vec<FuncRecord>>,
    lines: HashMap<String, Vec<LineRecord>>,
    core: HashMap<String, Vec<CoreRecord>>,
}

/// A function begins here.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FuncRecord {
    pub(crate) slot: u32,
    pub(crate) func: TypeId,
}

/// A source line begins here.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LineRecord {
    pub(crate) slot: u32,
    pub(crate) file: StrOff,
    pub(crate) text: StrOff,
    pub(crate) line: u32,
    pub(crate) column: u32,
}

/// An instruction wants a value from the target's types.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CoreRecord {
    pub(crate) slot: u32,
    pub(crate) root: TypeId,
    pub(crate) access: StrOff,
    /// `enum bpf_core_relo_kind`.
    pub(crate) kind: u32,
}

const MAGIC: u16 = 0xeb9f;

impl BtfExt {
    /// Parses the contents of a `.BTF.ext` section; section names are in `btf`'s strings.
    pub(crate) fn parse(bytes: &[u8], btf: &Btf) -> Result<BtfExt, ObjectError> {
        let parts = split(bytes)?;
        let mut out = BtfExt::default();
        let [funcs, lines, core] = parts;
        each_record("func_info", funcs, 8, btf, &mut out.funcs, |slot, r| {
            Some(FuncRecord { slot, func: TypeId(r.u32()?) })
        })?;
        each_record("line_info", lines, 16, btf, &mut out.lines, |slot, r| {
            let (file, text, position) = (StrOff(r.u32()?), StrOff(r.u32()?), r.u32()?);
            Some(LineRecord { slot, file, text, line: position >> 10, column: position & 0x3ff })
        })?;
        each_record("core_relo", core, 16, btf, &mut out.core, |slot, r| {
            Some(CoreRecord { slot, root: TypeId(r.u32()?), access: StrOff(r.u32()?), kind: r.u32()? })
        })?;
        out.funcs.values_mut().for_each(|v| v.sort_by_key(|r| r.slot));
        out.lines.values_mut().for_each(|v| v.sort_by_key(|r| r.slot));
        out.core.values_mut().for_each(|v| v.sort_by_key(|r| r.slot));
        Ok(out)
    }

    /// The function type of the function that begins at `slot` of `section`.
    pub(crate) fn func_at(&self, section: &str, slot: u32) -> Option<TypeId> {
        let records = self.funcs.get(section)?;
        records.binary_search_by_key(&slot, |r| r.slot).ok().map(|i| records[i].func)
    }
    /// The line records of `section` between two slots.
    pub(crate) fn lines_in(&self, section: &str, start: u32, end: u32) -> &[LineRecord] {
        between(self.lines.get(section), start, end, |r| r.slot)
    }
    /// The CO-RE relocations of `section` between two slots.
    pub(crate) fn core_in(&self, section: &str, start: u32, end: u32) -> &[CoreRecord] {
        between(self.core.get(section), start, end, |r| r.slot)
    }
}

fn between<T>(records: Option<&Vec<T>>, start: u32, end: u32, slot: impl Fn(&T) -> u32) -> &[T] {
    let Some(records) = records else { return &[] };
    let from = records.partition_point(|r| slot(r) < start);
    let to = records.partition_point(|r| slot(r) < end).max(from);
    &records[from..to]
}

fn error(place: impl Into<String>, found: impl Into<String>, wanted: &'static str) -> ObjectError {
    ObjectError::BtfExt { place: place.into(), found: found.into(), wanted }
}

/// The three tables: functions, lines, CO-RE relocations.
fn split(bytes: &[u8]) -> Result<[&[u8]; 3], ObjectError> {
    let short = || error("header", format!("{} bytes", bytes.len()), "a header of 24 bytes");
    let mut r = Reader::new(bytes);
    let (magic, version, _flags) = (r.u16().ok_or_else(short)?, r.u8().ok_or_else(short)?, r.u8().ok_or_else(short)?);
    if magic != MAGIC {
        return Err(error("header", format!("magic {magic:#06x}"), "0xeb9f, little endian"));
    }
    if version != 1 {
        return Err(error("header", format!("version {version}"), "1"));
    }
    let hdr_len = u64::from(r.u32().ok_or_else(short)?);
    if hdr_len < 24 || hdr_len > bytes.len() as u64 {
        return Err(error("header", format!("header length {hdr_len} in {} bytes", bytes.len()), "24 or more"));
    }
    let mut table = |name: &str| {
        let (off, len) = (u64::from(r.u32().ok_or_else(short)?), u64::from(r.u32().ok_or_else(short)?));
        let found = format!("{name} at {off}+{len} of {} bytes", bytes.len());
        slice(bytes, hdr_len + off, len).ok_or_else(|| error("header", found, "tables inside the section"))
    };
    let (funcs, lines) = (table("func_info")?, table("line_info")?);
    let core = if hdr_len >= 32 { table("core_relo")? } else { &[] };
    Ok([funcs, lines, core])
}

/// Reads one table: a record size, then per section a name, a count and the records, each led by its position.
fn each_record<T>(
    name: &str,
    table: &[u8],
    least: u32,
    btf: &Btf,
    out: &mut HashMap<String, Vec<T>>,
    read: impl Fn(u32, &mut Reader<'_>) -> Option<T>,
) -> Result<(), ObjectError> {
    if table.is_empty() {
        return Ok(());
    }
    let mut r = Reader::new(table);
    let cut = || error(name, format!("the end of its {} bytes", table.len()), "whole records");
    let size = r.u32().ok_or_else(cut)?;
    if size < least || size % 4 != 0 {
        return Err(error(name, format!("record size {size}"), "a multiple of 4, not below the known size"));
    }
    while !r.is_empty() {
        let (section, count) = (StrOff(r.u32().ok_or_else(cut)?), r.u32().ok_or_else(cut)?);
        let section = btf.name(section)?.into_owned();
        let place = format!("{name} of section {section}");
        if count == 0 {
            return Err(error(place, "no records", "at least one"));
        }
        let records = out.entry(section).or_default();
        for _ in 0..count {
            let mut record = Reader::new(r.take(size as usize).ok_or_else(cut)?);
            let offset = record.u32().ok_or_else(cut)?;
            if offset % 8 != 0 {
                return Err(error(place, format!("instruction offset {offset}"), "a multiple of 8"));
            }
            records.push(read(offset / 8, &mut record).ok_or_else(cut)?);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::btf::tests::Builder;
    use super::*;

    fn words(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|w| w.to_le_bytes()).collect()
    }

    /// A section with the three tables; types with one section name at string offset 1.
    fn parse(funcs: &[u32], lines: &[u32], core: &[u32]) -> Result<BtfExt, ObjectError> {
        let mut types = Builder::new();
        assert_eq!(types.string("xdp"), 1);
        let btf = Btf::parse(&types.bytes()).expect("well-formed");
        let (f, l, c) = (4 * funcs.len() as u32, 4 * lines.len() as u32, 4 * core.len() as u32);
        let mut bytes = vec![0x9f, 0xeb, 1, 0];
        bytes.extend(words(&[32, 0, f, f, l, f + l, c]));
        for table in [funcs, lines, core] {
            bytes.extend(words(table));
        }
        BtfExt::parse(&bytes, &btf)
    }

    #[test]
    fn longer_records_are_read_and_sorted() {
        let funcs = [12, 1, 2, 80, 7, 0xdead, 0, 6, 0xbeef];
        let lines = [20, 1, 1, 8, 1, 2, 5 << 10 | 3, 0xdead];
        let ext = parse(&funcs, &lines, &[]).expect("well-formed");
        assert_eq!(ext.func_at("xdp", 0), Some(TypeId(6)));
        assert_eq!(ext.func_at("xdp", 10), Some(TypeId(7)));
        assert_eq!(ext.func_at("xdp", 1), None);
        assert_eq!(ext.func_at("tc", 0), None);
        let found: Vec<_> = ext.lines_in("xdp", 0, 2).iter().map(|l| (l.slot, l.line, l.column)).collect();
        assert_eq!(found, [(1, 5, 3)]);
        assert!(ext.lines_in("xdp", 2, 9).is_empty());
        assert!(ext.core_in("xdp", 0, 9).is_empty());
    }

    #[test]
    fn broken_tables_are_named() {
        let error = |result: Result<BtfExt, ObjectError>| result.expect_err("broken").to_string();
        assert_eq!(
            error(parse(&[8, 1, 2, 0, 6], &[], &[])),
            "section .BTF.ext: func_info: found the end of its 20 bytes, wanted whole records"
        );
        assert_eq!(
            error(parse(&[], &[12, 1, 1, 0, 1, 2], &[])),
            "section .BTF.ext: line_info: found record size 12, wanted a multiple of 4, not below the known size"
        );
        assert_eq!(
            error(parse(&[], &[], &[16, 1, 1, 4, 1, 1, 0])),
            "section .BTF.ext: core_relo of section xdp: found instruction offset 4, wanted a multiple of 8"
        );
        assert_eq!(
            error(parse(&[8, 99, 1, 0, 6], &[], &[])),
            "section .BTF: string at 0x63: found the end of the 5 bytes of strings, wanted a string"
        );
    }
}
