//! One program's machine code in place.
//!
//! [`Image::place`] copies a [`Code`] into a chunk of the region, fills in its relocations, and checks everything that
//! patching relies on: opcodes, alignment, and reach of every site. Its sites begin closed, with the target at the
//! poison stub; [`super::patch`] sets them.
//!
//! *Guarantees.* The image is complete when `place` returns, though it may be executed only after a core sync
//! ([`super::Patcher::load`] ends with one). An error leaves the region as it was.
//!
//! *What the owner upholds.* An `Image` frees its memory when dropped. It must be dropped only when no thread can be in
//! it or on the way to it: nothing names it any more (slots, entries, sites), then a core sync, then a grace period.
//! Its [`super::Tracking`] goes first.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use super::chunks::Chunk;
use super::symbols::CodeSymbol;
use super::{Region, TextError};
use crate::jit::{Code, PokeSite, Reloc, RelocKind, Symbol};

/// `jmp rel32`: what stands before a target's field.
const JMP: [u8; 1] = [0xe9];
/// `cmp r12d, imm8`: what stands before a bypass's field.
const CMP: [u8; 3] = [0x41, 0x83, 0xfc];

/// Machine code at its final address.
#[derive(Debug)]
pub struct Image {
    region: Arc<Region>,
    chunk: Chunk,
    len: u32,
    entry: u64,
    tail_entry: u64,
    sites: Vec<PokeSite>,
    /// Names that somebody was told.
    symbols: OnceLock<Arc<[CodeSymbol]>>,
}

impl Image {
    /// Places `code` in `region`. `resolve` answers the address of everything outside it; [`Symbol::Poison`] and
    /// [`Symbol::Here`] are known already and not asked for.
    pub fn place(
        region: &Arc<Region>,
        code: &Code,
        resolve: &dyn Fn(Symbol) -> Option<u64>,
    ) -> Result<Image, TextError> {
        check(code, region.takes_unaligned())?;
        if region.forked() {
            return Err(super::UpdateError::Forked.into());
        }
        let chunk = region.take(code.bytes.len() as u64)?;
        let base = region.base() + u64::from(chunk.at);
        // From here on dropping the image gives the chunk back.
        let image = Image {
            region: region.clone(),
            chunk,
            len: code.bytes.len() as u32,
            entry: base + u64::from(code.entry),
            tail_entry: base + u64::from(code.tail_entry),
            sites: code.sites.clone(),
            symbols: OnceLock::new(),
        };
        let mut bytes = code.bytes.clone();
        for reloc in &code.relocs {
            image.relocate(&mut bytes, reloc, resolve)?;
        }
        for site in &code.sites {
            let poison = image.displacement(site.target_field(), region.poison());
            put(&mut bytes, site.bypass_field(), &PokeSite::CLOSED.to_le_bytes())?;
            put(&mut bytes, site.target_field(), &poison.to_le_bytes())?;
        }
        region.write(chunk.at, &bytes);
        Ok(image)
    }

    fn relocate(
        &self,
        bytes: &mut [u8],
        reloc: &Reloc,
        resolve: &dyn Fn(Symbol) -> Option<u64>,
    ) -> Result<(), TextError> {
        let Reloc { at, kind, symbol } = *reloc;
        let address = match symbol {
            Symbol::Poison => Some(self.region.poison()),
            Symbol::Here(offset) => Some(self.base() + u64::from(offset)),
            other => resolve(other),
        };
        let address = address.ok_or(TextError::Unresolved { at, symbol })?;
        match kind {
            RelocKind::Abs64 => put(bytes, at, &address.to_le_bytes()),
            RelocKind::Rel32 => {
                let from = self.base() + u64::from(at) + 4;
                let distance = i128::from(address) - i128::from(from);
                let rel = i32::try_from(distance).map_err(|_| TextError::Reach {
                    at,
                    symbol,
                    address,
                    base: self.region.base(),
                })?;
                put(bytes, at, &rel.to_le_bytes())
            }
        }
    }

    /// The rel32 of a field at offset `field` that leads to `address` in the same region: always in reach.
    fn displacement(&self, field: u32, address: u64) -> i32 {
        displacement(&self.region, self.chunk.at + field, address)
    }

    /// Address of the first byte; a multiple of 64.
    pub fn base(&self) -> u64 {
        self.region.base() + u64::from(self.chunk.at)
    }

    /// Bytes of code.
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether there is no code.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where a fresh invocation enters.
    pub fn entry(&self) -> u64 {
        self.entry
    }

    /// Where a tail call enters: what a program array's slot holds.
    pub fn tail_entry(&self) -> u64 {
        self.tail_entry
    }

    /// The poke sites, offsets from [`Image::base`].
    pub fn sites(&self) -> &[PokeSite] {
        &self.sites
    }

    /// The region it lies in.
    pub fn region(&self) -> &Arc<Region> {
        &self.region
    }

    /// Tells the symbol sinks, and the report of traps, whose code this is: program number and functions, the entry
    /// function first, each with its range of code offsets. Once, after publication; dropping the image takes it back.
    pub fn announce<'a>(&self, program: u32, functions: impl Iterator<Item = (&'a str, Range<u32>)>) {
        if self.region.forked() || !self.region.has_listeners() {
            return;
        }
        let symbol = |(name, at): (&str, Range<u32>)| {
            let (address, len) = (self.base() + u64::from(at.start), at.end.saturating_sub(at.start));
            CodeSymbol { program, name: name.to_owned(), address, len }
        };
        let symbols: Arc<[CodeSymbol]> = functions.map(symbol).collect();
        if self.symbols.set(symbols.clone()).is_ok() {
            self.region.announce(self.base(), u64::from(self.len), &symbols);
        }
    }

    /// Offset in the region.
    pub(super) fn offset(&self) -> u32 {
        self.chunk.at
    }

    /// The code as it is at this moment, for dumps; each rel32 of a site is read whole. Empty in a child of fork.
    pub fn bytes(&self) -> Vec<u8> {
        if self.region.forked() {
            return Vec::new();
        }
        let words = self.len.div_ceil(4);
        let mut bytes: Vec<u8> =
            (0..words).flat_map(|i| self.region.load(self.chunk.at + 4 * i).to_le_bytes()).collect();
        bytes.truncate(self.len as usize);
        bytes
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        // Before the memory can be somebody else's.
        if let Some(symbols) = self.symbols.get() {
            self.region.withdraw(self.base(), symbols);
        }
        self.region.give(self.chunk);
    }
}

/// The rel32 at region offset `field` that leads to `address`.
///
/// # Panics
/// When `address` is not in the region: whoever put it into a slot broke the contract of
/// [`crate::map::prog_array::Member::tail_entry`].
pub(super) fn displacement(region: &Region, field: u32, address: u64) -> i32 {
    assert!(region.contains(address), "{address:#x} is not in the code region: no tail call can lead there");
    let to = (address - region.base()) as i64;
    // Both lie in one region of at most 1 GiB, so the difference fits.
    (to - i64::from(field) - 4) as i32
}

fn put(bytes: &mut [u8], at: u32, value: &[u8]) -> Result<(), TextError> {
    let at_usize = at as usize;
    match bytes.get_mut(at_usize..at_usize + value.len()) {
        Some(field) => field.copy_from_slice(value),
        None => return Err(TextError::Malformed { at, what: "a field lies outside the code" }),
    }
    Ok(())
}

/// What patching relies on, checked once: the stores of `patch` check nothing but the region's bounds. `unaligned` leaves a check
/// out, for tests.
fn check(code: &Code, unaligned: bool) -> Result<(), TextError> {
    let len = code.bytes.len() as u64;
    let inside = |at: u32| u64::from(at) < len;
    let malformed = |at, what| Err(TextError::Malformed { at, what });
    if !inside(code.entry) || !inside(code.tail_entry) {
        return malformed(code.entry.max(code.tail_entry), "an entry lies outside the code");
    }
    let mut fields: Vec<Range<u64>> = Vec::with_capacity(2 * code.sites.len());
    for site in &code.sites {
        for (at, opcode, size) in [(site.bypass, &CMP[..], 1), (site.target, &JMP[..], 4)] {
            let field = u64::from(at) + opcode.len() as u64;
            if field + size > len {
                return malformed(at, "a site lies outside the code");
            }
            if !code.bytes[at as usize..].starts_with(opcode) {
                return malformed(at, "a site is not cmp r12d, imm8 (41 83 fc) and jmp rel32 (e9)");
            }
            if !field.is_multiple_of(size) && !unaligned {
                return malformed(at, "the rel32 of a site is not on a 4-byte boundary");
            }
            fields.push(u64::from(at)..field + size);
        }
        if site.target <= site.bypass_field() {
            return malformed(site.bypass, "the target jump does not follow the bypass");
        }
    }
    fields.sort_unstable_by_key(|field| field.start);
    match fields.windows(2).find(|pair| pair[1].start < pair[0].end) {
        Some(pair) => malformed(pair[1].start as u32, "two sites share bytes"),
        None => Ok(()),
    }
}
