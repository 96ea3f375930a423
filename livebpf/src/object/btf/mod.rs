//! BPF type information: the `.BTF` section (kernel: Documentation/bpf/btf.rst).
//!
//! Every type number and string offset that a query follows is checked when it is followed, chains of types are
//! bounded by [`MAX_DEPTH`], and names by [`MAX_NAME`]; so hostile type graphs give errors, never hangs.

mod parse;
#[cfg(test)]
pub(crate) mod tests;
mod types;

use std::borrow::Cow;

pub use types::{Linkage, Member, SecVar, StrOff, Type, TypeId};

use super::error::BtfError;

/// Longest chain of typedefs, modifiers, arrays and pointers that is followed (libbpf: 32).
pub const MAX_DEPTH: usize = 32;
/// Longest name in bytes.
pub const MAX_NAME: usize = 1024;

/// All types of an object.
#[derive(Clone, Debug)]
pub struct Btf {
    /// Index = type number; 0 is `void`.
    types: Vec<Type>,
    /// NUL-terminated strings; the last byte is a NUL.
    strings: Vec<u8>,
}

impl Btf {
    /// Parses the contents of a `.BTF` section.
    pub fn parse(bytes: &[u8]) -> Result<Btf, BtfError> {
        parse::parse(bytes)
    }

    /// How many types there are, `void` included.
    pub fn len(&self) -> u32 {
        self.types.len() as u32
    }

    /// Whether there is no type but `void`.
    pub fn is_empty(&self) -> bool {
        self.types.len() <= 1
    }

    /// The type numbered `id`.
    pub fn get(&self, id: TypeId) -> Result<&Type, BtfError> {
        self.types.get(id.0 as usize).ok_or_else(|| BtfError::Type {
            id: id.0,
            found: format!("no such type among {}", self.types.len()),
            wanted: "a type of this object",
        })
    }

    /// All types with their numbers.
    pub fn iter(&self) -> impl Iterator<Item = (TypeId, &Type)> {
        self.types.iter().enumerate().map(|(i, t)| (TypeId(i as u32), t))
    }

    /// The string at `offset`, cut off after `limit` bytes; invalid UTF-8 is replaced.
    pub fn text(&self, offset: StrOff, limit: usize) -> Result<Cow<'_, str>, BtfError> {
        let rest = self.strings.get(offset.0 as usize..).filter(|r| !r.is_empty()).ok_or_else(|| BtfError::String {
            offset: offset.0,
            found: format!("the end of the {} bytes of strings", self.strings.len()),
            wanted: "a string",
        })?;
        let window = &rest[..rest.len().min(limit)];
        let end = window.iter().position(|b| *b == 0).unwrap_or(window.len());
        Ok(String::from_utf8_lossy(&window[..end]))
    }

    /// The name at `offset`.
    pub fn name(&self, offset: StrOff) -> Result<Cow<'_, str>, BtfError> {
        let name = self.text(offset, MAX_NAME + 1)?;
        if name.len() > MAX_NAME {
            return Err(BtfError::String {
                offset: offset.0,
                found: "a longer name".to_owned(),
                wanted: "a name of at most 1024 bytes",
            });
        }
        Ok(name)
    }

    /// The name of type `id`, empty for kinds without one.
    pub fn type_name(&self, id: TypeId) -> Result<Cow<'_, str>, BtfError> {
        match self.get(id)?.name() {
            Some(name) => self.name(name),
            None => Ok(Cow::Borrowed("")),
        }
    }

    /// Follows typedefs, modifiers and type tags from `id`.
    pub fn resolve(&self, id: TypeId) -> Result<(TypeId, &Type), BtfError> {
        let mut at = id;
        for _ in 0..MAX_DEPTH {
            match self.get(at)? {
                Type::Typedef { target, .. } | Type::Modifier { target, .. } | Type::TypeTag { target, .. } => {
                    at = *target
                }
                other => return Ok((at, other)),
            }
        }
        Err(too_deep(id))
    }

    /// Bytes a value of type `id` takes.
    pub fn size_of(&self, id: TypeId) -> Result<u32, BtfError> {
        let mut elems: u64 = 1;
        let mut at = id;
        for _ in 0..MAX_DEPTH {
            let (found, ty) = self.resolve(at)?;
            let size = match ty {
                Type::Array { elem, len } => {
                    elems = elems.saturating_mul(u64::from(*len));
                    at = *elem;
                    continue;
                }
                Type::Var { target, .. } => {
                    at = *target;
                    continue;
                }
                Type::Int { size, .. }
                | Type::Struct { size, .. }
                | Type::Enum { size, .. }
                | Type::DataSec { size, .. }
                | Type::Float { size, .. } => *size,
                Type::Ptr { .. } => 8,
                other => {
                    return Err(BtfError::Type {
                        id: found.0,
                        found: format!("a {}", other.kind_name()),
                        wanted: "a type with a size",
                    });
                }
            };
            return u32::try_from(elems.saturating_mul(size.into())).map_err(|_| BtfError::Type {
                id: id.0,
                found: format!("{elems} elements of {size} bytes"),
                wanted: "less than 4 GiB",
            });
        }
        Err(too_deep(id))
    }
}

fn too_deep(id: TypeId) -> BtfError {
    BtfError::Type { id: id.0, found: "a longer or endless chain of types".to_owned(), wanted: "at most 32 steps" }
}
