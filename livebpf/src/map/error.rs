//! What can go wrong with a map, with the kernel's error numbers.

use std::borrow::Cow;

use crate::object::MapType;

/// Words for people; the usual ones cost nothing to make.
type Text = Cow<'static, str>;

/// Why a map could not be made, read or changed. [`MapError::errno`] is what `bpf(2)` would answer.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum MapError {
    /// A size is beyond what a map can have (`E2BIG`).
    #[error("{0}")]
    TooBig(Text),
    /// No room for another key (`E2BIG`).
    #[error("the map is full, it holds {max_entries} elements")]
    Full {
        /// How many elements it can have.
        max_entries: u32,
    },
    /// The index is past the end (`E2BIG`).
    #[error("index {index} is past the end, the map has {max_entries} entries")]
    IndexTooBig {
        /// What was asked for.
        index: u32,
        /// How many entries there are.
        max_entries: u32,
    },
    /// No such key (`ENOENT`).
    #[error("no such key")]
    NotFound,
    /// The key is already there (`EEXIST`).
    #[error("the key already exists")]
    Exists,
    /// An argument that makes no sense for this map (`EINVAL`).
    #[error("{0}")]
    Invalid(Text),
    /// Flags of an update that there are not (`EINVAL`).
    #[error("update flags {0:#x} are not 0 (any), 1 (noexist) or 2 (exist)")]
    UnknownFlags(u64),
    /// A value that had to name a program or a map names none (`EBADF`).
    #[error("{0}")]
    BadHandle(Text),
    /// The map is frozen or was made read-only or write-only (`EPERM`).
    #[error("{0}")]
    Denied(Text),
    /// Not enough memory (`ENOMEM`).
    #[error("not enough memory: {0}")]
    NoMemory(Text),
    /// In use in a way that forbids this (`EBUSY`).
    #[error("{0}")]
    Busy(Text),
    /// No room at the moment (`ENOSPC`).
    #[error("there is no room")]
    NoSpace,
    /// Longer than there may be (`EOVERFLOW`).
    #[error("{0}")]
    TooLong(Text),
    /// The map's type is not one that this runtime has (`EINVAL`).
    #[error("map {name:?} is of type {map_type}, which is not supported")]
    Unsupported {
        /// Name of the map.
        name: String,
        /// Its type.
        map_type: MapType,
    },
    /// The operation does not exist for the map's type (the kernel's `ENOTSUPP`, 524).
    #[error("{operation} is not possible on a map of type {map_type}")]
    NotPossible {
        /// What was tried.
        operation: &'static str,
        /// The map's type.
        map_type: MapType,
    },
}

/// A number that is the kernel's own, but reaches users (include/linux/errno.h).
const ENOTSUPP: i32 = 524;

impl MapError {
    /// The error number, positive, as in errno.h.
    pub fn errno(&self) -> i32 {
        match self {
            MapError::TooBig(_) | MapError::Full { .. } | MapError::IndexTooBig { .. } => libc::E2BIG,
            MapError::NotFound => libc::ENOENT,
            MapError::Exists => libc::EEXIST,
            MapError::Invalid(_) | MapError::UnknownFlags(_) | MapError::Unsupported { .. } => libc::EINVAL,
            MapError::BadHandle(_) => libc::EBADF,
            MapError::Denied(_) => libc::EPERM,
            MapError::NoMemory(_) => libc::ENOMEM,
            MapError::Busy(_) => libc::EBUSY,
            MapError::NoSpace => libc::ENOSPC,
            MapError::TooLong(_) => libc::EOVERFLOW,
            MapError::NotPossible { .. } => ENOTSUPP,
        }
    }
}
