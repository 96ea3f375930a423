//! Bytes → [`Btf`]. Linear in the size of the section; reads each record once.

use super::super::bytes::{Reader, slice};
use super::super::error::BtfError;
use super::{Btf, Linkage, Member, SecVar, StrOff, Type, TypeId};

const MAGIC: u16 = 0xeb9f;

pub(super) fn parse(bytes: &[u8]) -> Result<Btf, BtfError> {
    let (types, strings) = split(bytes)?;
    if strings.first() != Some(&0) || strings.last() != Some(&0) {
        return Err(header(format!("{} bytes of strings", strings.len()), "strings that begin and end with a NUL"));
    }
    let mut out = vec![Type::Void];
    let mut reader = Reader::new(types);
    while !reader.is_empty() {
        let id = out.len() as u32;
        out.push(read_type(&mut reader, id)?);
    }
    Ok(Btf { types: out, strings: strings.to_vec() })
}

fn header(found: impl Into<String>, wanted: &'static str) -> BtfError {
    BtfError::Header { found: found.into(), wanted }
}

/// The type records and the strings.
fn split(bytes: &[u8]) -> Result<(&[u8], &[u8]), BtfError> {
    let short = || header(format!("{} bytes", bytes.len()), "a header of 24 bytes");
    let mut r = Reader::new(bytes);
    let (magic, version, _flags) = (r.u16().ok_or_else(short)?, r.u8().ok_or_else(short)?, r.u8().ok_or_else(short)?);
    if magic != MAGIC {
        return Err(header(format!("magic {magic:#06x}"), "0xeb9f, little endian"));
    }
    if version != 1 {
        return Err(header(format!("version {version}"), "1"));
    }
    let mut word = || r.u32().map(u64::from).ok_or_else(short);
    let (hdr_len, type_off, type_len, str_off, str_len) = (word()?, word()?, word()?, word()?, word()?);
    if hdr_len < 24 {
        return Err(header(format!("header length {hdr_len}"), "24 or more"));
    }
    let part = |what: &str, off: u64, len: u64| {
        let found = format!("{what} at {off}+{len} of {} bytes", bytes.len());
        slice(bytes, hdr_len + off, len).ok_or_else(|| header(found, "parts inside the section"))
    };
    Ok((part("types", type_off, type_len)?, part("strings", str_off, str_len)?))
}

/// The fixed part of a record and what is needed to read the rest.
struct Record<'r, 'a> {
    id: u32,
    name: StrOff,
    vlen: u32,
    flag: bool,
    /// Size in bytes or target type, as the kind has it.
    size: u32,
    rest: &'r mut Reader<'a>,
}

impl Record<'_, '_> {
    fn word(&mut self) -> Result<u32, BtfError> {
        let id = self.id;
        self.rest.u32().ok_or_else(|| BtfError::Type {
            id,
            found: "the end of the types inside its record".to_owned(),
            wanted: "a whole record",
        })
    }
    fn target(&self) -> TypeId {
        TypeId(self.size)
    }
    /// `vlen` times what `read` reads.
    fn list<T>(&mut self, mut read: impl FnMut(&mut Self) -> Result<T, BtfError>) -> Result<Vec<T>, BtfError> {
        let mut out = Vec::new();
        for _ in 0..self.vlen {
            out.push(read(self)?);
        }
        Ok(out)
    }
    fn linkage(&self, n: u32) -> Result<Linkage, BtfError> {
        match n {
            0 => Ok(Linkage::Static),
            1 => Ok(Linkage::Global),
            2 => Ok(Linkage::Extern),
            _ => Err(BtfError::Type {
                id: self.id,
                found: format!("linkage {n}"),
                wanted: "0 (static), 1 (global) or 2 (extern)",
            }),
        }
    }
}

fn read_type(reader: &mut Reader<'_>, id: u32) -> Result<Type, BtfError> {
    let mut fixed = || {
        reader.u32().ok_or_else(|| BtfError::Type {
            id,
            found: "the end of the types".to_owned(),
            wanted: "a record of at least 12 bytes",
        })
    };
    let (name, info, size) = (StrOff(fixed()?), fixed()?, fixed()?);
    let kind = info >> 24 & 0x1f;
    let mut r = Record { id, name, vlen: info & 0xffff, flag: info >> 31 == 1, size, rest: reader };
    match kind {
        1 => {
            let encoding = r.word()?;
            Ok(Type::Int { name, size, signed: encoding >> 24 & 1 == 1 })
        }
        2 => Ok(Type::Ptr { target: r.target() }),
        3 => {
            let (elem, _index, len) = (TypeId(r.word()?), r.word()?, r.word()?);
            Ok(Type::Array { elem, len })
        }
        4 | 5 => read_struct(&mut r, kind == 5),
        6 => {
            let signed = r.flag;
            let values = r.list(|r| {
                let (name, value) = (StrOff(r.word()?), r.word()?);
                Ok((name, if signed { value as i32 as i64 as u64 } else { value.into() }))
            })?;
            Ok(Type::Enum { name, size, signed, values })
        }
        7 => Ok(Type::Fwd { name, union: r.flag }),
        8 => Ok(Type::Typedef { name, target: r.target() }),
        9 => Ok(Type::Modifier { kind: "volatile", target: r.target() }),
        10 => Ok(Type::Modifier { kind: "const", target: r.target() }),
        11 => Ok(Type::Modifier { kind: "restrict", target: r.target() }),
        12 => Ok(Type::Func { name, proto: r.target(), linkage: r.linkage(r.vlen)? }),
        13 => {
            let params = r.list(|r| Ok((StrOff(r.word()?), TypeId(r.word()?))))?;
            Ok(Type::FuncProto { ret: r.target(), params })
        }
        14 => {
            let linkage = r.word()?;
            Ok(Type::Var { name, target: r.target(), linkage: r.linkage(linkage)? })
        }
        15 => {
            let vars = r.list(|r| {
                let (target, _offset, size) = (TypeId(r.word()?), r.word()?, r.word()?);
                Ok(SecVar { target, size })
            })?;
            Ok(Type::DataSec { name, size, vars })
        }
        16 => Ok(Type::Float { name, size }),
        17 => {
            let component = r.word()?;
            let component = (component != u32::MAX).then_some(component);
            Ok(Type::DeclTag { name, target: r.target(), component })
        }
        18 => Ok(Type::TypeTag { name, target: r.target() }),
        19 => {
            let signed = r.flag;
            let values = r.list(|r| Ok((StrOff(r.word()?), u64::from(r.word()?) | u64::from(r.word()?) << 32)))?;
            Ok(Type::Enum { name, size, signed, values })
        }
        _ => Err(BtfError::Type { id, found: format!("kind {kind}"), wanted: "kind 1 (int) to 19 (enum64)" }),
    }
}

fn read_struct(r: &mut Record<'_, '_>, union: bool) -> Result<Type, BtfError> {
    let (name, size, flag) = (r.name, r.size, r.flag);
    let members = r.list(|r| {
        let (name, target, offset) = (StrOff(r.word()?), TypeId(r.word()?), r.word()?);
        let (bit_offset, bit_size) = if flag { (offset & 0xff_ffff, offset >> 24) } else { (offset, 0) };
        Ok(Member { name, target, bit_offset, bit_size })
    })?;
    Ok(Type::Struct { name, size, union, members })
}
