//! The code region: one memory file, mapped twice.
//!
//! All images of a runtime come from one region of at most 1 GiB, so every rel32 between them reaches: a patch cannot
//! fail for distance. The *writable* view is mapped first; then the file is sealed against any further writable mapping
//! (`F_SEAL_FUTURE_WRITE`), the *executable* view is mapped, and the file is closed. Addresses of code are those of the
//! executable view. Neither view is inherited by fork.
//!
//! *Guarantees.* No page is writable and executable through one mapping, and no second writable mapping can be
//! made. Memory that was given out once holds int3 wherever no live image is.
//!
//! *Never.* A page is never made executable, or writable, after the fact (mprotect is not used); a chunk is not given
//! out again where core sync is missing, because another core might still hold its old code.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use super::TextError;
use super::chunks::{Chunk, Chunks};
use super::fork::ForkPage;
use super::poison;
use super::symbols::{CodeSymbol, Sinks, SymbolSink};
use super::trap::Watch;

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

/// One mapping of the file; unmapped on drop.
#[derive(Debug)]
pub(super) struct View {
    at: NonNull<u8>,
    len: usize,
}

// SAFETY: a `View` is an address range that it owns; accesses are the region's affair.
unsafe impl Send for View {}
// SAFETY: as above.
unsafe impl Sync for View {}

/// Executable memory for images. Freed with the last image.
#[derive(Debug)]
pub struct Region {
    code: View,
    data: View,
    capacity: u32,
    reuse: bool,
    fork: ForkPage,
    chunks: Mutex<State>,
    poison: u64,
    sinks: OnceLock<Sinks>,
    watch: OnceLock<Watch>,
}

#[derive(Debug)]
struct State {
    chunks: Chunks,
    /// Bytes from the base that have been filled with int3 at least once.
    filled: u32,
    /// Bytes that were freed but may not be used again.
    lost: u32,
}

impl Region {
    /// A new region.
    pub fn new(options: RegionOptions) -> Result<Arc<Region>, TextError> {
        let found = options.capacity;
        if !(MIN_CAPACITY..=MAX_CAPACITY).contains(&found) {
            return Err(TextError::Capacity { found, min: MIN_CAPACITY, max: MAX_CAPACITY });
        }
        let capacity = found.next_multiple_of(4096) as u32;
        let file = memory_file(capacity)?;
        let (data, code) = views(&file, capacity as usize, options.near)?;
        drop(file);
        let state = State { chunks: Chunks::new(capacity), filled: 0, lost: 0 };
        let poison = code.addr();
        let fork = ForkPage::new()?;
        let region = Region {
            code,
            data,
            capacity,
            reuse: options.reuse,
            fork,
            chunks: Mutex::new(state),
            poison,
            sinks: OnceLock::new(),
            watch: OnceLock::new(),
        };
        let stub = region.take(poison::STUB_LEN as u64)?;
        debug_assert_eq!(stub.at, 0, "the first chunk begins at the base");
        region.write(stub.at, &poison::stub());
        Ok(Arc::new(region))
    }

    /// Address of the first byte of code.
    pub fn base(&self) -> u64 {
        self.code.addr()
    }

    /// Bytes in all.
    pub fn capacity(&self) -> u64 {
        u64::from(self.capacity)
    }

    /// Bytes that images occupy, the poison stub, and where reuse is off all that was ever placed.
    pub fn used(&self) -> u64 {
        let state = self.lock();
        u64::from(state.chunks.used()) + u64::from(state.lost)
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
        let used = u64::from(state.chunks.used()) + u64::from(state.lost);
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

    /// Fills [from, to) with int3. Asks for the memory first, so that a machine without any gives an error, not a signal.
    fn grow(&self, from: u32, to: u32) -> Result<(), TextError> {
        let len = (to - from) as usize;
        // SAFETY: [from, to) lies in the writable view: `to` is at most the capacity.
        let at = unsafe { self.data.at.add(from as usize) };
        // SAFETY: populating pages of our own mapping.
        if unsafe { libc::madvise(at.as_ptr().cast(), len, libc::MADV_POPULATE_WRITE) } != 0 {
            let source = io::Error::last_os_error();
            // Linux before 5.14 does not know it: then the first write takes the memory.
            if source.raw_os_error() != Some(libc::EINVAL) {
                let hint = "; the machine, or the memory limit of this group of processes, has no more";
                return Err(TextError::Os { step: "taking memory for code", source, hint });
            }
        }
        // SAFETY: in the view, and no image was ever placed there: nobody else accesses it.
        unsafe { at.as_ptr().write_bytes(INT3, len) };
        Ok(())
    }

    /// Overwrites a chunk with int3 and gives it back. The caller upholds that no thread can execute or patch it:
    /// sites untracked, unpublished, a core sync, then a grace period.
    pub(super) fn give(&self, chunk: Chunk) {
        if self.forked() {
            return;
        }
        // SAFETY: a chunk lies in the writable view; its only owner gives it back, so nobody else writes there.
        unsafe { self.data.at.add(chunk.at as usize).as_ptr().write_bytes(INT3, chunk.len as usize) };
        let mut state = self.lock();
        if self.reuse {
            state.chunks.give(chunk);
        }
    }

    /// Writes the first bytes of an image, before it is published.
    pub(super) fn write(&self, at: u32, bytes: &[u8]) {
        assert!(u64::from(at) + bytes.len() as u64 <= self.capacity(), "outside the region");
        // SAFETY: inside the writable view (just checked); the chunk belongs to the caller and is not published, so
        // nobody executes or writes it meanwhile.
        unsafe {
            let to = self.data.at.add(at as usize).as_ptr();
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len());
        }
    }

    /// The 32-bit word at an offset, through the view given.
    fn word(&self, view: &View, at: u32) -> &AtomicU32 {
        assert!(
            at.is_multiple_of(4) && at <= self.capacity - 4,
            "code offset {at:#x} is not an aligned word of the region"
        );
        // SAFETY: aligned (the views are page-aligned) and inside the view, which lives as long as `self`; words of
        // published code are only accessed atomically.
        unsafe { view.at.add(at as usize).cast::<AtomicU32>().as_ref() }
    }

    /// The one store that changes published code: 32 bits, aligned, through the writable view.
    pub(super) fn store(&self, at: u32, value: i32) {
        self.word(&self.data, at).store(value as u32, Ordering::Release);
    }

    /// The word as the executable view has it.
    pub(super) fn load(&self, at: u32) -> i32 {
        self.word(&self.code, at).load(Ordering::Relaxed) as i32
    }
}

impl View {
    /// Its first byte.
    pub(super) fn at(&self) -> *mut u8 {
        self.at.as_ptr()
    }

    fn addr(&self) -> u64 {
        self.at.as_ptr().addr() as u64
    }
}

impl Drop for View {
    fn drop(&mut self) {
        // SAFETY: this mapping is ours; images hold the region, so no code in it is reachable. (In a child of fork the
        // range is not mapped, or belongs to somebody else by now: see `Region::drop`.)
        unsafe { libc::munmap(self.at.as_ptr().cast(), self.len) };
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        if self.forked() {
            // The views were not inherited: what lies there now is not ours to unmap.
            self.code.len = 0;
            self.data.len = 0;
            // Their threads are not here, and their locks may be held by one that is not here either.
            std::mem::forget((self.sinks.take(), self.watch.take()));
        }
    }
}

/// A memory file of `len` bytes that may be mapped executable.
pub(super) fn memory_file(len: u32) -> Result<OwnedFd, TextError> {
    let name = c"livebpf-code";
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    // SAFETY: a NUL-terminated name and flags.
    let mut fd = unsafe { libc::memfd_create(name.as_ptr(), flags | libc::MFD_EXEC) };
    if fd < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::EINVAL) {
        // Linux before 6.3 does not know MFD_EXEC; there every memory file is executable.
        // SAFETY: as above.
        fd = unsafe { libc::memfd_create(name.as_ptr(), flags) };
    }
    if fd < 0 {
        let source = io::Error::last_os_error();
        let hint = match source.raw_os_error() {
            Some(libc::EACCES | libc::EPERM) => {
                "; executable memory files are forbidden here: look at the sysctl vm.memfd_noexec (2 forbids them) and \
                 at the seccomp profile"
            }
            _ => "",
        };
        return Err(TextError::Os { step: "memfd_create", source, hint });
    }
    // SAFETY: a new descriptor that nobody else owns.
    let file = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: a descriptor and a length.
    if unsafe { libc::ftruncate(file.as_raw_fd(), i64::from(len)) } != 0 {
        return Err(TextError::Os { step: "ftruncate of the code file", source: io::Error::last_os_error(), hint: "" });
    }
    Ok(file)
}

/// Both views of the file: writable first, then the seals, then executable.
pub(super) fn views(file: &OwnedFd, len: usize, near: Option<u64>) -> Result<(View, View), TextError> {
    let hint = "; a security policy may forbid it (SELinux: execmem, execmod; systemd: MemoryDenyWriteExecute)";
    let data = map(file, len, libc::PROT_READ | libc::PROT_WRITE, None).map_err(|source| TextError::Os {
        step: "mapping the code file writable",
        source,
        hint: "",
    })?;
    let seals = libc::F_SEAL_FUTURE_WRITE | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
    // SAFETY: a descriptor and flags.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) } != 0 {
        let hint = "; F_SEAL_FUTURE_WRITE needs Linux 5.1";
        return Err(TextError::Os { step: "sealing the code file", source: io::Error::last_os_error(), hint });
    }
    let code = map(file, len, libc::PROT_READ | libc::PROT_EXEC, near).map_err(|source| TextError::Os {
        step: "mapping the code file executable",
        source,
        hint,
    })?;
    for view in [&data, &code] {
        // SAFETY: advice about a mapping of our own.
        if unsafe { libc::madvise(view.at.as_ptr().cast(), len, libc::MADV_DONTFORK) } != 0 {
            let source = io::Error::last_os_error();
            return Err(TextError::Os { step: "madvise(MADV_DONTFORK)", source, hint: "" });
        }
    }
    Ok((data, code))
}

/// Maps the file, within reach of `near` where that is possible.
fn map(file: &OwnedFd, len: usize, protection: i32, near: Option<u64>) -> io::Result<View> {
    for at in near.into_iter().flat_map(|near| candidates(near, len as u64)) {
        if let Ok(view) = map_at(file, len, protection, at) {
            return Ok(view);
        }
    }
    map_at(file, len, protection, 0)
}

/// Addresses to try, nearest first, at which all of the region is within 2 GiB of `near`: below it, where a
/// position-independent program has nothing, then above.
fn candidates(near: u64, len: u64) -> impl Iterator<Item = u64> {
    const STEP: u64 = 16 << 20;
    // The helpers' code may extend on either side of the one address given.
    const MARGIN: u64 = 64 << 20;
    let page = near & !0xfff;
    let steps = ((1u64 << 31) - 2 * MARGIN).saturating_sub(len) / STEP;
    let below = (0..steps).filter_map(move |k| page.checked_sub(len + MARGIN + k * STEP));
    let above = (0..steps).filter_map(move |k| page.checked_add(MARGIN + k * STEP));
    below.chain(above).filter(|&at| at >= 1 << 16)
}

/// Maps the file at `at` exactly, or where the kernel likes when that is 0.
fn map_at(file: &OwnedFd, len: usize, protection: i32, at: u64) -> io::Result<View> {
    let fixed = if at == 0 { 0 } else { libc::MAP_FIXED_NOREPLACE };
    let hint = std::ptr::without_provenance_mut::<c_void>(at as usize);
    // SAFETY: never replaces a mapping: without an address the kernel picks a free range, with one NOREPLACE forbids it.
    let got = unsafe { libc::mmap(hint, len, protection, libc::MAP_SHARED | fixed, file.as_raw_fd(), 0) };
    if got == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let Some(start) = NonNull::new(got.cast::<u8>()) else { return Err(io::Error::other("mapped at zero")) };
    let view = View { at: start, len };
    // Linux before 4.17 takes NOREPLACE for a hint.
    if at != 0 && view.addr() != at {
        return Err(io::Error::from_raw_os_error(libc::EEXIST));
    }
    Ok(view)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_writable_mapping_is_refused() {
        const LEN: u32 = 64 << 10;
        const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;
        let file = memory_file(LEN).unwrap();
        drop(map(&file, LEN as usize, RW, None).unwrap());
        let (data, code) = views(&file, LEN as usize, None).unwrap();
        let refused = map(&file, LEN as usize, RW, None).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
        // SAFETY: fails, and if it did not, nothing executes here.
        let result = unsafe { libc::mprotect(code.at.as_ptr().cast(), LEN as usize, RW) };
        assert_eq!((result, io::Error::last_os_error().raw_os_error()), (-1, Some(libc::EACCES)));
        // SAFETY: `data` is mapped writable, `code` readable, both LEN bytes long.
        let seen = unsafe {
            data.at.as_ptr().write_volatile(0x5a);
            code.at.as_ptr().read_volatile()
        };
        assert_eq!(seen, 0x5a, "both views show one memory");
    }
}
