//! Noticing a fork.
//!
//! A child of fork(2) has none of the threads and none of the code mappings of its parent (both views are
//! `MADV_DONTFORK`), and a store to a shared page would change the parent's code. So runs and updates must refuse
//! there. [`ForkPage`] holds one page that the kernel clears in every child (`MADV_WIPEONFORK`): the check is one load.
#![allow(unsafe_code)]

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use super::TextError;

const PAGE: usize = 4096;
/// What the page holds in the process that made it.
const MARK: u32 = 0x6c62_7066;

/// A page that reads as zero in a child process.
#[derive(Debug)]
pub struct ForkPage {
    page: NonNull<AtomicU32>,
}

// SAFETY: the page is only accessed atomically, and lives as long as `ForkPage` does.
unsafe impl Send for ForkPage {}
// SAFETY: as above.
unsafe impl Sync for ForkPage {}

impl ForkPage {
    /// A page of this process.
    pub fn new() -> Result<ForkPage, TextError> {
        let error = |step| TextError::Os { step, source: io::Error::last_os_error(), hint: "" };
        // SAFETY: a new anonymous mapping at an address of the kernel's choice.
        let page = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                PAGE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if page == libc::MAP_FAILED {
            return Err(error("mmap of the fork page"));
        }
        let Some(page) = NonNull::new(page.cast::<AtomicU32>()) else { return Err(error("mmap of the fork page")) };
        let result = ForkPage { page };
        // SAFETY: the page was just mapped and belongs to `result`.
        if unsafe { libc::madvise(page.as_ptr().cast(), PAGE, libc::MADV_WIPEONFORK) } != 0 {
            return Err(error("madvise(MADV_WIPEONFORK)"));
        }
        result.word().store(MARK, Ordering::Relaxed);
        Ok(result)
    }

    #[inline]
    fn word(&self) -> &AtomicU32 {
        // SAFETY: mapped from `new` to `drop`, page-aligned, and only ever accessed atomically.
        unsafe { self.page.as_ref() }
    }

    /// Whether this process is a child of the one that made the page.
    #[inline]
    pub fn forked(&self) -> bool {
        self.word().load(Ordering::Relaxed) != MARK
    }
}

impl Drop for ForkPage {
    fn drop(&mut self) {
        // SAFETY: `new` mapped it (a child has its own copy), and nothing borrows from it any more.
        unsafe { libc::munmap(self.page.as_ptr().cast(), PAGE) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_is_noticed() {
        let page = ForkPage::new().unwrap();
        assert!(!page.forked());
        // SAFETY: the child does nothing but one load and _exit, both safe after fork in a threaded process.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let status = i32::from(!page.forked());
            // SAFETY: ends the child without running any destructor.
            unsafe { libc::_exit(status) };
        }
        let mut status = 0;
        // SAFETY: waits for the child just made.
        assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
        assert_eq!(status, 0, "the child did not see the fork");
        assert!(!page.forked());
    }
}
