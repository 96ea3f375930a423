//! The code region: executable memory that images are placed in ([`super::view`] maps it).
//!
//! All images of a runtime come from one region of at most 1 GiB, so every rel32 between them reaches: a patch cannot
//! fail for distance.
//!
//! *Guarantees.* Memory that was given out once holds int3 wherever no live image is.
//!
//! *Never.* A chunk is not given out again where core sync is missing, because another core might still hold its old
//! code.

use std::sync::{Arc, OnceLock, PoisonError};

use super::TextError;
use super::chunks::{Chunk, Chunks};
use super::fork::ForkPage;
use super::poison;
use super::symbols::{CodeSymbol, Sinks, SymbolSink};
use super::trap::Watch;
use super::view::Views;
use crate::primitive::{Mutex, MutexGuard};

const MIN_CAPACITY: u64 = 64 << 10;
const MAX_CAPACITY: u64 = 1 << 30;
/// Memory is filled with int3 in steps of this.
const GROWTH: u32 = 64 << 10;
const INT3: u8 = 0xcc;

/// How a region is made.
#[derive(Clone, Debug)]
pub struct RegionOptions {
    /// Bytes, 64 KiB to 1 GiB, rounded up to whole pages. Address space only: memory is taken as it is used.
    pub capacity: u64,
    /// An address, such as that of a helper, that `call rel32` should reach from anywhere in the region. A wish: see
    /// [`Region::reaches`].
    pub near: Option<u64>,
    /// Give freed memory out again. Switch it off where core sync is missing.
    pub reuse: bool,
}

impl Default for RegionOptions {
    fn default() -> Self {
        RegionOptions { capacity: 256 << 20, near: None, reuse: true }
    }
}

/// Executable memory for images. Freed with the last image.
#[derive(Debug)]
pub struct Region {
    pub(super) views: Views,
    capacity: u32,
    reuse: bool,
    fork: ForkPage,
    chunks: Mutex<State>,
    poison: u64,
    sinks: OnceLock<Sinks>,
    watch: OnceLock<Watch>,
    #[cfg(feature = "fault-injection")]
    unaligned: std::sync::atomic::AtomicBool,
}

#[derive(Debug)]
struct State {
    chunks: Chunks,
    /// Bytes from the base that have been filled with int3 at least once.
    filled: u32,
}

impl Region {
    /// A new region.
    pub fn new(options: RegionOptions) -> Result<Arc<Region>, TextError> {
        let found = options.capacity;
        if !(MIN_CAPACITY..=MAX_CAPACITY).contains(&found) {
            return Err(TextError::Capacity { found, min: MIN_CAPACITY, max: MAX_CAPACITY });
        }
        let capacity = found.next_multiple_of(4096) as u32;
        let views = Views::new(capacity, options.near)?;
        let state = State { chunks: Chunks::new(capacity), filled: 0 };
        let poison = views.base();
        let fork = ForkPage::new()?;
        let region = Region {
            views,
            capacity,
            reuse: options.reuse,
            fork,
            chunks: Mutex::new(state),
            poison,
            sinks: OnceLock::new(),
            watch: OnceLock::new(),
            #[cfg(feature = "fault-injection")]
            unaligned: std::sync::atomic::AtomicBool::new(false),
        };
        let stub = region.take(poison::STUB_LEN as u64)?;
        debug_assert_eq!(stub.at, 0, "the first chunk begins at the base");
        region.write(stub.at, &poison::stub());
        Ok(Arc::new(region))
    }

    /// Address of the first byte of code.
    pub fn base(&self) -> u64 {
        self.views.base()
    }

    /// Bytes in all.
    pub fn capacity(&self) -> u64 {
        u64::from(self.capacity)
    }

    /// Bytes that images occupy, the poison stub, and where reuse is off all that was ever placed.
    pub fn used(&self) -> u64 {
        u64::from(self.lock().chunks.used())
    }

    /// Whether `address` lies in the region.
    pub fn contains(&self, address: u64) -> bool {
        address.checked_sub(self.base()).is_some_and(|offset| offset < self.capacity())
    }

    /// Whether a rel32 anywhere in the region reaches `address` (a helper, for instance).
    pub fn reaches(&self, address: u64) -> bool {
        const REACH: u64 = i32::MAX as u64;
        let end = self.base() + self.capacity();
        address.abs_diff(self.base()) <= REACH && address.abs_diff(end) <= REACH
    }

    /// Address of the poison stub: where the target jump of an empty slot leads.
    pub fn poison(&self) -> u64 {
        self.poison
    }

    /// Whether this process is a child of the one that made the region: then there is nothing to run or to write.
    pub fn forked(&self) -> bool {
        self.fork.forked()
    }

    /// Tells `sinks` of the images that are announced from now on. Once, at the beginning.
    pub fn tell(&self, sinks: Vec<Box<dyn SymbolSink>>) -> Result<(), TextError> {
        let _ = self.sinks.set(Sinks::start(sinks)?);
        Ok(())
    }

    /// Installs the handler of [`super::trap`], for traps in this region.
    pub fn report_traps(&self) -> Result<(), TextError> {
        let _ = self.watch.set(Watch::new(self.base(), self.capacity())?);
        Ok(())
    }

    /// Returns when every symbol sink was told what happened before.
    pub fn flush_symbols(&self) {
        if let (Some(sinks), false) = (self.sinks.get(), self.forked()) {
            sinks.flush();
        }
    }

    /// Whether anybody wants to know what images are called.
    pub(super) fn has_listeners(&self) -> bool {
        self.watch.get().is_some() || self.sinks.get().is_some_and(|sinks| !sinks.is_empty())
    }

    /// An image's names are known.
    pub(super) fn announce(&self, base: u64, len: u64, symbols: &Arc<[CodeSymbol]>) {
        if let Some(watch) = self.watch.get() {
            watch.placed(base, len, symbols.clone());
        }
        if let Some(sinks) = self.sinks.get() {
            sinks.loaded(symbols);
        }
    }

    /// An image with names goes.
    pub(super) fn withdraw(&self, base: u64, symbols: &Arc<[CodeSymbol]>) {
        if self.forked() {
            return;
        }
        if let Some(watch) = self.watch.get() {
            watch.freed(base);
        }
        if let Some(sinks) = self.sinks.get() {
            sinks.unloaded(symbols);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.chunks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A chunk of at least `len` bytes, all int3.
    pub(super) fn take(&self, len: u64) -> Result<Chunk, TextError> {
        let mut state = self.lock();
        let used = u64::from(state.chunks.used());
        let full = TextError::Full { wanted: len, used, capacity: self.capacity() };
        let Some(chunk) = u32::try_from(len).ok().and_then(|len| state.chunks.take(len)) else { return Err(full) };
        let wanted = state.chunks.high();
        if wanted > state.filled {
            let end = wanted.next_multiple_of(GROWTH).min(self.capacity);
            if let Err(error) = self.grow(state.filled, end) {
                state.chunks.give(chunk);
                return Err(error);
            }
            state.filled = end;
        }
        Ok(chunk)
    }

    /// Fills [from, to), where no image was ever placed, with int3.
    fn grow(&self, from: u32, to: u32) -> Result<(), TextError> {
        self.views.populate(from, to)?;
        self.views.fill(from, to - from, INT3);
        Ok(())
    }

    /// Overwrites a chunk with int3 and gives it back. The caller upholds that no thread can execute or patch it:
    /// sites untracked, unpublished, a core sync, then a grace period.
    pub(super) fn give(&self, chunk: Chunk) {
        if self.forked() {
            return;
        }
        self.views.fill(chunk.at, chunk.len, INT3);
        let mut state = self.lock();
        if self.reuse {
            state.chunks.give(chunk);
        }
    }

    /// Writes the first bytes of an image, before it is published.
    pub(super) fn write(&self, at: u32, bytes: &[u8]) {
        self.views.write(at, bytes);
    }

    /// Takes images whose sites are not aligned from now on, so that tests can show that they would notice.
    #[cfg(feature = "fault-injection")]
    pub fn inject_unaligned(&self) {
        self.unaligned.store(true, std::sync::atomic::Ordering::Relaxed);
    }

    /// Whether sites need not be aligned, a fault that tests inject.
    pub(super) fn takes_unaligned(&self) -> bool {
        #[cfg(feature = "fault-injection")]
        return self.unaligned.load(std::sync::atomic::Ordering::Relaxed);
        #[cfg(not(feature = "fault-injection"))]
        return false;
    }

    /// One of the two stores that change published code: a byte.
    pub(super) fn store_byte(&self, at: u32, value: i8) {
        self.views.store_byte(at, value as u8);
    }
    /// The byte as the executable view has it.
    pub(super) fn load_byte(&self, at: u32) -> i8 {
        self.views.load_byte(at) as i8
    }
    /// The other: 32 bits, aligned.
    pub(super) fn store(&self, at: u32, value: i32) {
        #[cfg(feature = "fault-injection")]
        if !at.is_multiple_of(4) && self.takes_unaligned() {
            return self.views.store_unaligned(at, value);
        }
        self.views.store(at, value);
    }

    /// The word as the executable view has it.
    pub(super) fn load(&self, at: u32) -> i32 {
        #[cfg(feature = "fault-injection")]
        if !at.is_multiple_of(4) && self.takes_unaligned() {
            return self.views.load_unaligned(at);
        }
        self.views.load(at)
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        if self.forked() {
            self.views.forget();
            // Their threads are not here, and their locks may be held by one that is not here either.
            std::mem::forget((self.sinks.take(), self.watch.take()));
        }
    }
}
