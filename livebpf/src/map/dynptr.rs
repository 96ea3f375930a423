//! A dynptr as it lies in a program's stack: sixteen bytes that say where memory is, what it is part of, and how much of it
//! may be used.
//!
//! The address in front; then the size and, in the upper bits of the same word, the kind; then the offset. All zero: null.
//! Never reaches the memory itself.

use super::cell::Slice;
use crate::helper::DynptrKind;
use crate::insn::Size;

/// Longest memory that a dynptr stands for (`DYNPTR_MAX_SIZE`).
pub(crate) const MAX_SIZE: u32 = (1 << 24) - 1;
/// Where the kind is in the second word.
const KIND: u32 = 28;
/// In the second word: the memory may only be read.
const READ_ONLY: u32 = 1 << 31;

/// One that is not null.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Dynptr {
    /// Of the memory, or of the context's record where it is a packet.
    pub(crate) addr: u64,
    pub(crate) kind: DynptrKind,
    /// Nothing may be written.
    pub(crate) read_only: bool,
    /// Where it begins, from the start of the memory or packet.
    pub(crate) offset: u32,
    /// Bytes, at most [`MAX_SIZE`].
    pub(crate) size: u32,
}

impl Dynptr {
    /// What lies in these sixteen bytes; `None`: null, or nothing that was ever stored.
    pub(crate) fn load(from: Slice<'_>) -> Option<Dynptr> {
        let addr = from.load(0, Size::DW).filter(|addr| *addr != 0)?;
        let word = from.load(8, Size::W)? as u32;
        let kind = match word >> KIND & 7 {
            1 => DynptrKind::Local,
            2 => DynptrKind::Ringbuf,
            3 => DynptrKind::Skb,
            4 => DynptrKind::Xdp,
            _ => return None,
        };
        let offset = from.load(12, Size::W)? as u32;
        Some(Dynptr { addr, kind, read_only: word & READ_ONLY != 0, offset, size: word & MAX_SIZE })
    }

    /// Makes it there, or null.
    pub(crate) fn store(dynptr: Option<Dynptr>, to: Slice<'_>) {
        let words = dynptr.map_or((0, 0, 0), |d| {
            let kind: u32 = match d.kind {
                DynptrKind::Local => 1,
                DynptrKind::Ringbuf => 2,
                DynptrKind::Skb => 3,
                DynptrKind::Xdp => 4,
            };
            let flag = if d.read_only { READ_ONLY } else { 0 };
            (d.addr, d.size & MAX_SIZE | kind << KIND | flag, d.offset)
        });
        to.store(0, Size::DW, words.0);
        to.store(8, Size::W, words.1.into());
        to.store(12, Size::W, words.2.into());
    }

    /// Whether `len` bytes from `offset` on lie inside.
    pub(crate) fn has(&self, offset: u32, len: u32) -> bool {
        offset.checked_add(len).is_some_and(|end| end <= self.size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_is_loaded_and_anything_else_is_null_or_bounded() {
        let mut bytes = [0; 16];
        let all = Slice::from_mut(&mut bytes);
        assert_eq!(Dynptr::load(all), None);
        for kind in [DynptrKind::Local, DynptrKind::Ringbuf, DynptrKind::Skb, DynptrKind::Xdp] {
            for read_only in [false, true] {
                let one = Dynptr { addr: 0x7fff_1234_5678, kind, read_only, offset: u32::MAX, size: MAX_SIZE };
                Dynptr::store(Some(one), all);
                assert_eq!(Dynptr::load(all), Some(one));
                assert!(one.has(0, MAX_SIZE) && one.has(MAX_SIZE, 0));
                assert!(!one.has(1, MAX_SIZE) && !one.has(u32::MAX, 1) && !one.has(MAX_SIZE + 1, 0));
            }
        }
        Dynptr::store(None, all);
        assert_eq!(all.to_vec(), [0; 16]);
        all.write(&[0xff; 16]);
        assert_eq!(Dynptr::load(all), None, "no such kind");
    }
}
