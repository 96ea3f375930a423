//! The memory under the code region: one memory file, mapped twice.
//!
//! The *writable* view is mapped first; then the file is sealed against any further writable mapping
//! (`F_SEAL_FUTURE_WRITE`), the *executable* view is mapped, and the file is closed. Neither is inherited by fork.
//! Addresses of code are those of the executable view.
//!
//! *Guarantees.* No page is writable and executable through one mapping, and no second writable mapping can be made.
//! Every access lies inside; a word that may be executing is stored and loaded whole.
//!
//! *Never.* A page is never made executable, or writable, after the fact (mprotect is not used). Nothing here knows
//! which parts are in use: [`super::region`] does. In a model (`--cfg loom`) `view_model.rs` stands here instead.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use super::TextError;

/// Both views of one file.
#[derive(Debug)]
pub(super) struct Views {
    code: View,
    data: View,
    len: u32,
}

/// One mapping of the file; unmapped on drop.
#[derive(Debug)]
struct View {
    at: NonNull<u8>,
    len: usize,
}

// SAFETY: a `View` is an address range that it owns; accesses are checked by `Views`.
unsafe impl Send for View {}
// SAFETY: as above.
unsafe impl Sync for View {}

impl Views {
    /// A new file of `len` bytes, whole pages, within reach of `near` where that is possible.
    pub(super) fn new(len: u32, near: Option<u64>) -> Result<Views, TextError> {
        let file = memory_file(len)?;
        let (data, code) = views(&file, len as usize, near)?;
        Ok(Views { code, data, len })
    }

    /// Address of the first byte of code.
    pub(super) fn base(&self) -> u64 {
        self.code.addr()
    }

    /// The executable view's byte at an offset.
    pub(super) fn code_at(&self, at: u32) -> *mut u8 {
        self.code.at(at)
    }

    /// The writable view's byte at an offset.
    pub(super) fn data_at(&self, at: u32) -> *mut u8 {
        self.data.at(at)
    }

    fn check(&self, at: u32, len: usize) {
        assert!(u64::from(at) + len as u64 <= u64::from(self.len), "outside the region");
    }

    /// Takes memory for [from, to), so that a machine without any gives an error, not a signal.
    pub(super) fn populate(&self, from: u32, to: u32) -> Result<(), TextError> {
        let len = (to - from) as usize;
        self.check(from, len);
        // SAFETY: populating pages of our own mapping, inside it (just checked).
        if unsafe { libc::madvise(self.data.at(from).cast(), len, libc::MADV_POPULATE_WRITE) } != 0 {
            let source = io::Error::last_os_error();
            // Linux before 5.14 does not know it: then the first write takes the memory.
            if source.raw_os_error() != Some(libc::EINVAL) {
                let hint = "; the machine, or the memory limit of this group of processes, has no more";
                return Err(TextError::Os { step: "taking memory for code", source, hint });
            }
        }
        Ok(())
    }

    /// Sets `len` bytes that belong to the caller alone.
    pub(super) fn fill(&self, at: u32, len: u32, byte: u8) {
        self.check(at, len as usize);
        // SAFETY: inside the writable view (just checked); nobody executes or writes there meanwhile, says the caller.
        unsafe { self.data.at(at).write_bytes(byte, len as usize) };
    }

    /// Writes bytes that belong to the caller alone.
    pub(super) fn write(&self, at: u32, bytes: &[u8]) {
        self.check(at, bytes.len());
        // SAFETY: inside the writable view (just checked); nobody executes or writes there meanwhile, says the caller.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.data.at(at), bytes.len()) };
    }

    /// The 32-bit word at an offset, through the view given.
    fn word<'v>(&self, view: &'v View, at: u32) -> &'v AtomicU32 {
        assert!(at.is_multiple_of(4) && at <= self.len - 4, "code offset {at:#x} is not an aligned word of the region");
        // SAFETY: aligned (the views are page-aligned) and inside the view, which lives as long as the borrow; words of
        // published code are only accessed atomically.
        unsafe { &*view.at(at).cast::<AtomicU32>() }
    }

    /// The byte at an offset, through the view given.
    fn byte<'v>(&self, view: &'v View, at: u32) -> &'v AtomicU8 {
        self.check(at, 1);
        // SAFETY: inside the view (just checked), which lives as long as the borrow; no word that is stored contains this byte.
        unsafe { &*view.at(at).cast::<AtomicU8>() }
    }

    /// One of the two stores that change published code: a byte, through the writable view.
    pub(super) fn store_byte(&self, at: u32, value: u8) {
        self.byte(&self.data, at).store(value, Ordering::Release);
    }

    /// The byte as the executable view has it.
    pub(super) fn load_byte(&self, at: u32) -> u8 {
        self.byte(&self.code, at).load(Ordering::Relaxed)
    }

    /// The other store that changes published code: 32 bits, aligned, through the writable view.
    pub(super) fn store(&self, at: u32, value: i32) {
        self.word(&self.data, at).store(value as u32, Ordering::Release);
    }

    /// The word as the executable view has it.
    pub(super) fn load(&self, at: u32) -> i32 {
        self.word(&self.code, at).load(Ordering::Relaxed) as i32
    }

    /// What [`Views::store`] must never be: a fault that tests inject.
    #[cfg(feature = "fault-injection")]
    pub(super) fn store_unaligned(&self, at: u32, value: i32) {
        self.check(at, 4);
        let to = self.data.at(at);
        // SAFETY: four bytes in the writable view; in assembly, because Rust's stores to shared memory are aligned.
        unsafe {
            std::arch::asm!("mov dword ptr [{to}], {value:e}", to = in(reg) to, value = in(reg) value,
                options(nostack, preserves_flags));
        }
    }

    /// The four bytes that [`Views::store_unaligned`] stores.
    #[cfg(feature = "fault-injection")]
    pub(super) fn load_unaligned(&self, at: u32) -> i32 {
        self.check(at, 4);
        // SAFETY: four bytes in the executable view; whoever stores there holds the lock that the caller holds.
        unsafe { self.code.at(at).cast::<i32>().read_unaligned() }
    }

    /// In a child of fork the views were not inherited: what lies there is not ours to unmap.
    pub(super) fn forget(&mut self) {
        self.code.len = 0;
        self.data.len = 0;
    }
}

impl View {
    /// Its byte at an offset.
    fn at(&self, at: u32) -> *mut u8 {
        self.at.as_ptr().wrapping_add(at as usize)
    }

    fn addr(&self) -> u64 {
        self.at.as_ptr().addr() as u64
    }
}

impl Drop for View {
    fn drop(&mut self) {
        // SAFETY: this mapping is ours; images hold the region, so no code in it is reachable. (In a child of fork the
        // range is not mapped, or belongs to somebody else by now: see `Views::forget`.)
        unsafe { libc::munmap(self.at.as_ptr().cast(), self.len) };
    }
}

/// A memory file of `len` bytes that may be mapped executable.
fn memory_file(len: u32) -> Result<OwnedFd, TextError> {
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
fn views(file: &OwnedFd, len: usize, near: Option<u64>) -> Result<(View, View), TextError> {
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
