//! Raw memory that generated code, helpers and other threads may change at any time.
//!
//! [`Bytes`] owns such memory; [`Slice`] is a bounds-checked window into it and the only way to reach it. No Rust
//! reference to the bytes themselves is ever made, so nothing may assume that they hold still.
//!
//! *Guarantees.* Every access of a `Slice` lies inside the window it was made for, and the window lives as long as the
//! borrow. Accesses are relaxed atomic operations of the widest naturally aligned pieces: a race with another thread
//! or with generated code yields old bytes or new bytes, never undefined behaviour. One aligned access of 1, 2, 4 or 8
//! bytes is never torn; a longer or unaligned one may be.
//!
//! *Never.* This room knows nothing of keys, maps or programs, takes no lock and never panics on an offset.
#![allow(unsafe_code)]

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::any::Any;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed};

use crate::insn::Size;

/// The memory asked for is not to be had.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("cannot allocate {len} bytes")]
pub struct OutOfMemory {
    /// Bytes that were asked for.
    pub len: u64,
}

/// Alignment of the first byte of [`Bytes`].
pub const ALIGN: usize = 64;

/// Owned memory, zeroed, its first byte 64-byte aligned.
pub struct Bytes {
    first: NonNull<u8>,
    len: usize,
    backing: Backing,
}

/// Who gives the memory back.
enum Backing {
    /// Nothing was allocated.
    None,
    /// The global allocator: the block's own start and layout.
    Heap(NonNull<u8>, Layout),
    /// The embedder: whatever keeps the memory alive.
    External(#[allow(dead_code, reason = "held for its destructor")] Box<dyn Any + Send + Sync>),
}

// SAFETY: `Bytes` owns its memory (or holds what keeps it alive), and all access goes through `Slice`, whose
// operations are atomic.
unsafe impl Send for Bytes {}
// SAFETY: as above.
unsafe impl Sync for Bytes {}

impl Bytes {
    /// `len` zero bytes. Large blocks are untouched pages of the operating system: they cost memory when written.
    pub fn zeroed(len: u64) -> Result<Bytes, OutOfMemory> {
        let error = OutOfMemory { len };
        let len = usize::try_from(len).map_err(|_| error)?;
        if len == 0 {
            return Ok(Bytes { first: Self::dangling(), len: 0, backing: Backing::None });
        }
        // A layout aligned to more than 16 would make the system allocator clear (and so touch) every page; asking for
        // ALIGN spare bytes and aligning here keeps calloc's untouched pages.
        let layout = len.checked_add(ALIGN).and_then(|n| Layout::from_size_align(n, 16).ok()).ok_or(error)?;
        // SAFETY: the layout's size is at least ALIGN, so not zero.
        let block = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or(error)?;
        let skip = block.as_ptr().align_offset(ALIGN);
        // SAFETY: `skip` is below ALIGN, and the block is `len + ALIGN` bytes long.
        let first = unsafe { block.add(skip) };
        // Generated code reaches the memory by its address.
        first.as_ptr().expose_provenance();
        Ok(Bytes { first, len, backing: Backing::Heap(block, layout) })
    }

    /// Memory that somebody else provides, such as a packet buffer; `owner` is dropped with the result.
    ///
    /// # Safety
    /// [first, first + len) must be mapped, readable and writable until `owner` is dropped, and nothing may hold a Rust
    /// reference to any of it while programs can reach it (raw pointers and atomics are fine).
    pub unsafe fn external(first: NonNull<u8>, len: usize, owner: Box<dyn Any + Send + Sync>) -> Bytes {
        first.as_ptr().expose_provenance();
        Bytes { first, len, backing: Backing::External(owner) }
    }

    fn dangling() -> NonNull<u8> {
        #[repr(align(64))]
        struct Aligned;
        NonNull::<Aligned>::dangling().cast()
    }

    /// Address of the first byte.
    pub fn addr(&self) -> u64 {
        self.first.as_ptr().addr() as u64
    }

    /// Bytes into this value at which [`addr`](Self::addr) lies, for the entry stub.
    pub(crate) const ADDR_AT: usize = std::mem::offset_of!(Bytes, first);

    /// Bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All of it.
    #[inline]
    pub fn slice(&self) -> Slice<'_> {
        Slice { first: self.first, len: self.len, owner: PhantomData }
    }
}

impl Drop for Bytes {
    fn drop(&mut self) {
        if let Backing::Heap(block, layout) = self.backing {
            // SAFETY: `zeroed` allocated this block with this layout, and `Slice`s borrow from `self`.
            unsafe { dealloc(block.as_ptr(), layout) };
        }
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bytes({} at {:#x})", self.len, self.addr())
    }
}

/// A window of raw memory. Copying it copies the window, not the memory.
#[derive(Clone, Copy)]
pub struct Slice<'a> {
    first: NonNull<u8>,
    len: usize,
    owner: PhantomData<&'a Bytes>,
}

// SAFETY: every operation is an atomic access inside memory that lives for 'a.
unsafe impl Send for Slice<'_> {}
// SAFETY: as above.
unsafe impl Sync for Slice<'_> {}

impl<'a> Slice<'a> {
    /// The window [addr, addr + len) of this process: for glue that has an address from verified code.
    ///
    /// # Safety
    /// All of it must be mapped, readable and (where the caller will write) writable for all of 'a, and no Rust
    /// reference to any of it may be live that a write would invalidate. Whoever calls this names who checked that:
    /// the verifier's proof for a helper's argument, or the interpreter's region check.
    #[inline]
    pub unsafe fn from_raw(addr: u64, len: usize) -> Slice<'a> {
        let first = std::ptr::with_exposed_provenance_mut::<u8>(addr as usize);
        Slice { first: NonNull::new(first).unwrap_or(NonNull::dangling()), len, owner: PhantomData }
    }

    /// The window over bytes that nobody else can see meanwhile.
    pub fn from_mut(bytes: &'a mut [u8]) -> Slice<'a> {
        let len = bytes.len();
        let first = bytes.as_mut_ptr();
        first.expose_provenance();
        Slice { first: NonNull::new(first).unwrap_or(NonNull::dangling()), len, owner: PhantomData }
    }

    /// Address of the first byte.
    #[inline]
    pub fn addr(self) -> u64 {
        self.first.as_ptr().addr() as u64
    }

    /// Bytes.
    #[inline]
    pub fn len(self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.len == 0
    }

    /// The part [off, off + len); `None` where it does not lie inside.
    #[inline]
    pub fn sub(self, off: usize, len: usize) -> Option<Slice<'a>> {
        let first = self.at(off, len)?;
        Some(Slice { first, len, owner: PhantomData })
    }

    /// The offset of [addr, addr + len); `None` where it does not lie inside. A length of 0 lies at the end, too.
    #[inline]
    pub fn find(self, addr: u64, len: usize) -> Option<usize> {
        let off = usize::try_from(addr.checked_sub(self.addr())?).ok()?;
        (off.checked_add(len)? <= self.len).then_some(off)
    }

    /// Pointer to the byte at `off` when `len` bytes from there lie inside.
    #[inline]
    fn at(self, off: usize, len: usize) -> Option<NonNull<u8>> {
        if off.checked_add(len)? > self.len {
            return None;
        }
        // SAFETY: off <= self.len, so the result is inside the window or one past its end.
        Some(unsafe { self.first.add(off) })
    }

    /// Reads at `off`, little-endian and zero-extended; `None` outside.
    #[inline]
    pub fn load(self, off: usize, size: Size) -> Option<u64> {
        Some(match size {
            Size::B => u64::from(self.atomic_u8(off)?.load(Relaxed)),
            Size::H => match self.atomic_u16(off) {
                Some(cell) => u64::from(cell.load(Relaxed)),
                None => self.load_bytes(off, size)?,
            },
            Size::W => match self.atomic_u32(off) {
                Some(cell) => u64::from(cell.load(Relaxed)),
                None => self.load_bytes(off, size)?,
            },
            Size::DW => match self.atomic_u64(off) {
                Some(cell) => cell.load(Relaxed),
                None => self.load_bytes(off, size)?,
            },
        })
    }

    /// Writes the low bytes of `value` at `off`, little-endian; `None` outside, and nothing is written.
    #[inline]
    pub fn store(self, off: usize, size: Size, value: u64) -> Option<()> {
        match size {
            Size::B => self.atomic_u8(off)?.store(value as u8, Relaxed),
            Size::H => match self.atomic_u16(off) {
                Some(cell) => cell.store(value as u16, Relaxed),
                None => self.store_bytes(off, size, value)?,
            },
            Size::W => match self.atomic_u32(off) {
                Some(cell) => cell.store(value as u32, Relaxed),
                None => self.store_bytes(off, size, value)?,
            },
            Size::DW => match self.atomic_u64(off) {
                Some(cell) => cell.store(value, Relaxed),
                None => self.store_bytes(off, size, value)?,
            },
        }
        Some(())
    }

    #[cold]
    #[inline(never)]
    fn load_bytes(self, off: usize, size: Size) -> Option<u64> {
        let mut word = [0; 8];
        let len = size.bytes() as usize;
        self.sub(off, len)?.read(&mut word[..len]);
        Some(u64::from_le_bytes(word))
    }

    #[cold]
    #[inline(never)]
    fn store_bytes(self, off: usize, size: Size, value: u64) -> Option<()> {
        let len = size.bytes() as usize;
        self.sub(off, len)?.write(&value.to_le_bytes()[..len]);
        Some(())
    }

    /// The byte at `off`.
    #[inline]
    pub fn atomic_u8(self, off: usize) -> Option<&'a AtomicU8> {
        let at = self.at(off, 1)?;
        // SAFETY: inside the window, which lives for 'a; every access to it is atomic (type invariant).
        Some(unsafe { at.cast().as_ref() })
    }

    /// The two bytes at `off`; `None` outside, or when the address is not a multiple of 2.
    #[inline]
    pub fn atomic_u16(self, off: usize) -> Option<&'a AtomicU16> {
        let at = self.at(off, 2)?.cast::<AtomicU16>();
        if !at.is_aligned() {
            return None;
        }
        // SAFETY: as in `atomic_u8`, and aligned.
        Some(unsafe { at.as_ref() })
    }

    /// The four bytes at `off`; `None` outside, or when the address is not a multiple of 4.
    #[inline]
    pub fn atomic_u32(self, off: usize) -> Option<&'a AtomicU32> {
        let at = self.at(off, 4)?.cast::<AtomicU32>();
        if !at.is_aligned() {
            return None;
        }
        // SAFETY: as in `atomic_u8`, and aligned.
        Some(unsafe { at.as_ref() })
    }

    /// The eight bytes at `off`; `None` outside, or when the address is not a multiple of 8.
    #[inline]
    pub fn atomic_u64(self, off: usize) -> Option<&'a AtomicU64> {
        let at = self.at(off, 8)?.cast::<AtomicU64>();
        if !at.is_aligned() {
            return None;
        }
        // SAFETY: as in `atomic_u8`, and aligned.
        Some(unsafe { at.as_ref() })
    }

    /// The largest naturally aligned access at `off` that `left` more bytes have room for.
    #[inline]
    fn piece(self, off: usize, left: usize) -> Size {
        Self::piece_at(self.addr().wrapping_add(off as u64), left)
    }

    #[inline]
    fn piece_at(low_bits: u64, left: usize) -> Size {
        match left {
            8.. if low_bits.is_multiple_of(8) => Size::DW,
            4.. if low_bits.is_multiple_of(4) => Size::W,
            2.. if low_bits.is_multiple_of(2) => Size::H,
            _ => Size::B,
        }
    }

    /// Copies the first bytes out: as many as the shorter of the two has. Answers how many.
    #[inline]
    pub fn read(self, into: &mut [u8]) -> usize {
        let len = self.len.min(into.len());
        let mut off = 0;
        while off < len {
            let size = self.piece(off, len - off);
            let Some(value) = self.load(off, size) else { break };
            match size {
                Size::B => into[off] = value as u8,
                Size::H => into[off..off + 2].copy_from_slice(&(value as u16).to_le_bytes()),
                Size::W => into[off..off + 4].copy_from_slice(&(value as u32).to_le_bytes()),
                Size::DW => into[off..off + 8].copy_from_slice(&value.to_le_bytes()),
            }
            off += size.bytes() as usize;
        }
        len
    }

    /// Copies the first bytes in: as many as the shorter of the two has. Answers how many.
    #[inline]
    pub fn write(self, from: &[u8]) -> usize {
        let len = self.len.min(from.len());
        let mut off = 0;
        while off < len {
            let size = self.piece(off, len - off);
            self.store(off, size, word_of(&from[off..], size));
            off += size.bytes() as usize;
        }
        len
    }

    /// Copies from another window, front to back; as many bytes as the shorter has. For windows that do not overlap, or
    /// where `self` begins before `from`. Each side is accessed in words of its own.
    #[inline]
    pub fn copy_from(self, from: Slice<'_>) -> usize {
        let len = self.len.min(from.len);
        // Most values are one word.
        if len == 8
            && let (Some(to), Some(from)) = (self.atomic_u64(0), from.atomic_u64(0))
        {
            to.store(from.load(Relaxed), Relaxed);
            return len;
        }
        self.copy_long(from, len);
        len
    }

    #[inline(never)]
    fn copy_long(self, from: Slice<'_>, len: usize) {
        let words = if len < 32 { 0..0 } else { self.copy_words(from, len) };
        self.copy_pieces(from, words.end..len);
    }

    /// [`copy_from`](Self::copy_from) for windows that may overlap in any way.
    #[inline]
    pub fn move_from(self, from: Slice<'_>) -> usize {
        let ahead = self.addr().wrapping_sub(from.addr());
        if ahead == 0 || ahead >= from.len as u64 { self.copy_from(from) } else { self.write(&from.to_vec()) }
    }

    /// In the largest pieces that are aligned on both sides.
    #[inline]
    fn copy_pieces(self, from: Slice<'_>, part: Range<usize>) {
        let mut off = part.start;
        while off < part.end {
            let low_bits = self.addr().wrapping_add(off as u64) | from.addr().wrapping_add(off as u64);
            let size = Self::piece_at(low_bits, part.end - off);
            let Some(word) = from.load(off, size) else { return };
            self.store(off, size, word);
            off += size.bytes() as usize;
        }
    }

    /// Copies `len` bytes, at least 32, up to some that are left at the end; answers which part it copied.
    ///
    /// Where the two are aligned differently, a word of ours is made of two of theirs, the second of which is read before ours is
    /// written, and lies behind it where the windows overlap.
    fn copy_words(self, from: Slice<'_>, len: usize) -> Range<usize> {
        let shift = from.addr().wrapping_sub(self.addr()) as usize % 8;
        // Up to a word of ours; and so far that all of the word of theirs that the next byte is in lies inside.
        let head = self.addr().wrapping_neg() as usize % 8 + if shift == 0 { 0 } else { 8 };
        self.copy_pieces(from, 0..head);
        let (ours, theirs) = (self.words(head, len), from.words(head - shift, len));
        if shift == 0 {
            ours.iter().zip(theirs).for_each(|(to, from)| to.store(from.load(Relaxed), Relaxed));
            return 0..head + 8 * ours.len().min(theirs.len());
        }
        let Some((first, rest)) = theirs.split_first() else { return 0..head };
        let (mut low, bits) = (first.load(Relaxed), 8 * shift);
        for (to, from) in ours.iter().zip(rest) {
            let high = from.load(Relaxed);
            to.store(low >> bits | high << (64 - bits), Relaxed);
            low = high;
        }
        0..head + 8 * ours.len().min(rest.len())
    }

    /// The words in [off, end), none where they do not begin at an address that is a multiple of 8.
    #[inline]
    fn words(self, off: usize, end: usize) -> &'a [AtomicU64] {
        let count = end.saturating_sub(off) / 8;
        match self.at(off, count * 8).map(NonNull::cast::<AtomicU64>) {
            // SAFETY: as in `atomic_u64`, for each of them.
            Some(first) if first.is_aligned() => unsafe { std::slice::from_raw_parts(first.as_ptr(), count) },
            Some(_) | None => &[],
        }
    }

    /// Sets every byte to zero.
    pub fn clear(self) {
        let head = (self.addr().wrapping_neg() as usize % 8).min(self.len);
        let words = self.words(head, self.len);
        words.iter().for_each(|word| word.store(0, Relaxed));
        self.clear_pieces(0..head);
        self.clear_pieces(head + 8 * words.len()..self.len);
    }

    fn clear_pieces(self, part: Range<usize>) {
        let mut off = part.start;
        while off < part.end {
            let size = self.piece(off, part.end - off);
            self.store(off, size, 0);
            off += size.bytes() as usize;
        }
    }

    /// Whether the window holds exactly these bytes.
    #[inline]
    pub fn equals(self, bytes: &[u8]) -> bool {
        if self.len != bytes.len() {
            return false;
        }
        let mut off = 0;
        while off < self.len {
            let size = self.piece(off, self.len - off);
            if self.load(off, size) != Some(word_of(&bytes[off..], size)) {
                return false;
            }
            off += size.bytes() as usize;
        }
        true
    }

    /// A copy of all of it.
    pub fn to_vec(self) -> Vec<u8> {
        let mut copy = vec![0; self.len];
        self.read(&mut copy);
        copy
    }
}

/// The first bytes, little-endian; 0 where there are too few.
#[inline]
fn word_of(bytes: &[u8], size: Size) -> u64 {
    match size {
        Size::B => bytes.first().map(|&b| u64::from(b)),
        Size::H => bytes.first_chunk().map(|b| u64::from(u16::from_le_bytes(*b))),
        Size::W => bytes.first_chunk().map(|b| u64::from(u32::from_le_bytes(*b))),
        Size::DW => bytes.first_chunk().map(|b| u64::from_le_bytes(*b)),
    }
    .unwrap_or_default()
}

impl fmt::Debug for Slice<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Slice({} at {:#x})", self.len, self.addr())
    }
}

#[cfg(test)]
#[path = "cell_tests.rs"]
mod tests;
