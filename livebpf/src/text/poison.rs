//! The stub that the target jump of an empty slot leads to, and what happens when it runs: a report and an abort.
//!
//! It can never run while the order of [`super::patch`] is kept. If it does run, the caller's frame is gone already, so
//! nothing can be continued: the process ends with a report rather than with a corrupted caller.
#![allow(unsafe_code)]

use std::io::Write;

/// Bytes of [`stub`].
pub(super) const STUB_LEN: usize = 24;

/// The stub's code: `mov rdi, rbp ; and rsp, -16 ; mov rax, handler ; call rax ; ud2`, the rest int3.
pub(super) fn stub() -> [u8; STUB_LEN] {
    let mut code = [0xcc; STUB_LEN];
    code[..3].copy_from_slice(&[0x48, 0x89, 0xef]);
    code[3..7].copy_from_slice(&[0x48, 0x83, 0xe4, 0xf0]);
    code[7..9].copy_from_slice(&[0x48, 0xb8]);
    let handler: extern "C" fn(u64) -> ! = poisoned;
    code[9..17].copy_from_slice(&(handler as usize as u64).to_le_bytes());
    code[17..19].copy_from_slice(&[0xff, 0xd0]);
    code[19..21].copy_from_slice(&[0x0f, 0x0b]);
    code
}

/// First words of the report: tests look for them.
pub(crate) const REPORT: &str =
    "livebpf: broken invariant: a tail call was taken through an open bypass to an empty slot";

/// Reports and aborts. `frame` is the caller's rbp. Allocates nothing and takes no lock: whoever holds one may be the
/// thread that is broken.
extern "C" fn poisoned(frame: u64) -> ! {
    let mut text = [0u8; 512];
    let room = text.len();
    let mut rest = &mut text[..];
    let _ = writeln!(rest, "{REPORT}");
    let _ = writeln!(
        rest,
        "  the caller's frame (rbp {frame:#x}) was already released; the process cannot go on\n  \
         wanted: target patched before the bypass opens, bypass closed and drained before the target goes"
    );
    let len = room - rest.len();
    // SAFETY: the buffer holds `len` bytes; file 2 may be closed, then there is no report.
    unsafe { libc::write(2, text.as_ptr().cast(), len) };
    std::process::abort()
}
