//! Redirecting helpers: their verdicts, and where generated code writes down what they ask for, so that it needs no call.

use std::cell::Cell;
use std::mem::offset_of;

use crate::object::{MapType, ProgType};

/// `BPF_F_INGRESS`
pub(crate) const INGRESS: u64 = 1;
/// Verdict in the flags of `bpf_redirect_map` for a key without entry (`BPF_F_ACTION_MASK`).
pub(crate) const ACTION: u64 = 3;
pub(crate) const XDP_REDIRECT: u64 = 4;
pub(crate) const XDP_ABORTED: u64 = 0;
pub(crate) const TC_ACT_SHOT: u64 = 2;
pub(crate) const TC_ACT_REDIRECT: u64 = 7;

/// What `bpf_redirect` answers programs of a type.
pub(crate) struct Redirects {
    /// Flags that there are.
    pub known: u64,
    /// The verdict.
    pub done: u64,
    /// The verdict for other flags.
    pub refused: u64,
}

impl Redirects {
    pub(crate) fn of(prog_type: Option<ProgType>) -> Redirects {
        match prog_type {
            Some(ProgType::XDP) => Redirects { known: 0, done: XDP_REDIRECT, refused: XDP_ABORTED },
            _ => Redirects { known: INGRESS, done: TC_ACT_REDIRECT, refused: TC_ACT_SHOT },
        }
    }
}

/// Whether the entries of such a map are words of 8 bytes by index, 0 where there is none, which hold in their lower half what
/// packets are redirected to.
pub(crate) fn has_words(map_type: MapType) -> bool {
    matches!(map_type, MapType::DEVMAP | MapType::CPUMAP | MapType::XSKMAP)
}

/// What a worker's runs have asked for, as far as generated code notes it: its place is in a table by the worker's CPU number.
#[repr(C)]
#[derive(Default)]
pub(crate) struct Noted {
    /// 0 as long as that is nothing; else some of the bits below.
    pub asked: Cell<u32>,
    /// The number of the map that the target is in; 0: it is an interface.
    pub map: Cell<u32>,
    /// The entry's key; the interface.
    pub key: Cell<u32>,
    /// The lower half of the entry.
    pub value: Cell<u32>,
    pub flags: Cell<u64>,
}

impl Noted {
    /// A redirection at most.
    pub(crate) const REDIRECT: u32 = 1;
    /// Anything else.
    pub(crate) const MORE: u32 = 2;
    /// A helper has panicked, and left the run.
    pub(crate) const LEFT: u32 = 4;
    /// The last redirection is noted here and nowhere else.
    pub(crate) const HERE: u32 = 8;

    // Offsets, for generated code.
    pub(crate) const ASKED: i32 = offset_of!(Noted, asked) as i32;
    pub(crate) const MAP: i32 = offset_of!(Noted, map) as i32;
    pub(crate) const KEY: i32 = offset_of!(Noted, key) as i32;
    pub(crate) const VALUE: i32 = offset_of!(Noted, value) as i32;
    pub(crate) const FLAGS: i32 = offset_of!(Noted, flags) as i32;

    /// Whether anything was asked for.
    #[inline]
    pub(crate) fn any(&self) -> bool {
        self.asked.get() != 0
    }
    /// Whether any of these bits is set.
    #[inline]
    pub(crate) fn has(&self, bits: u32) -> bool {
        self.asked.get() & bits != 0
    }
    pub(crate) fn set(&self, bits: u32) {
        self.asked.set(self.asked.get() | bits);
    }
    pub(crate) fn clear(&self, bits: u32) {
        self.asked.set(self.asked.get() & !bits);
    }
}
