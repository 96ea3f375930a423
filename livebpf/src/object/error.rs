//! What can be wrong with an object: one enum, whose messages name the place, what was found and what was wanted.

use thiserror::Error;

/// Why [`super::Object::parse`] refused a file.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ObjectError {
    /// The file is not what clang writes for BPF.
    #[error("elf header: found {found}, wanted {wanted}")]
    Header {
        /// What stands there.
        found: String,
        /// What should.
        wanted: &'static str,
    },
    /// A section is broken.
    #[error("section {section}: found {found}, wanted {wanted}")]
    Section {
        /// Its name, or `#n` where it has none.
        section: String,
        /// What stands there.
        found: String,
        /// What should.
        wanted: String,
    },
    /// A symbol is broken.
    #[error("symbol {symbol} in section {section}: found {found}, wanted {wanted}")]
    Symbol {
        /// Its name, or `#n` where it has none.
        symbol: String,
        /// The section it is in.
        section: String,
        /// What stands there.
        found: String,
        /// What should.
        wanted: String,
    },
    /// A relocation is broken.
    #[error("relocation of {section}+{offset:#x}: found {found}, wanted {wanted}")]
    Reloc {
        /// The section it applies to.
        section: String,
        /// Bytes into that section.
        offset: u64,
        /// What stands there.
        found: String,
        /// What should.
        wanted: String,
    },
    /// The type information is broken.
    #[error("section .BTF: {0}")]
    Btf(#[from] BtfError),
    /// Function, line or relocation records are broken.
    #[error("section .BTF.ext: {place}: found {found}, wanted {wanted}")]
    BtfExt {
        /// Which table, section and record.
        place: String,
        /// What stands there.
        found: String,
        /// What should.
        wanted: &'static str,
    },
    /// A map definition is broken or not supported.
    #[error("map {map}: {place}: found {found}, wanted {wanted}")]
    Map {
        /// The map's variable.
        map: String,
        /// Which field or slot.
        place: String,
        /// What stands there.
        found: String,
        /// What should.
        wanted: String,
    },
}

impl ObjectError {
    pub(crate) fn section(section: &str, found: impl Into<String>, wanted: impl Into<String>) -> ObjectError {
        ObjectError::Section { section: section.to_owned(), found: found.into(), wanted: wanted.into() }
    }
    pub(crate) fn map(map: &str, place: &str, found: impl Into<String>, wanted: impl Into<String>) -> ObjectError {
        ObjectError::Map { map: map.to_owned(), place: place.to_owned(), found: found.into(), wanted: wanted.into() }
    }
}

/// What is wrong with type information.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BtfError {
    /// The header or the layout of its parts.
    #[error("header: found {found}, wanted {wanted}")]
    Header {
        /// What stands there.
        found: String,
        /// What should.
        wanted: &'static str,
    },
    /// One type record.
    #[error("type {id}: found {found}, wanted {wanted}")]
    Type {
        /// Its number, from 1.
        id: u32,
        /// What stands there.
        found: String,
        /// What should.
        wanted: &'static str,
    },
    /// A string offset leads nowhere.
    #[error("string at {offset:#x}: found {found}, wanted {wanted}")]
    String {
        /// Bytes into the string section.
        offset: u32,
        /// What stands there.
        found: String,
        /// What should.
        wanted: &'static str,
    },
}
