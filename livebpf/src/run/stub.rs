//! The entry stub: the one place where control passes from Rust to generated code.
//!
//! Generated code keeps the tail-call count of the invocation in r12d and never saves it, so every entry from outside
//! saves r12, sets it, runs and restores it (the compiler does the saving: r12 is declared as clobbered). The upper half of r12 is
//! the number of the CPU that the run counts as, which nothing changes. All other callee-saved registers are preserved by the
//! generated code itself; the stub saves them all the same, because a helper that panics leaves through [`leave`] and skips the
//! generated epilogues.
#![allow(unsafe_code)]

use std::arch::asm;

use super::generation::Generation;
use crate::context::Context;
use crate::object::ProgType;

/// Where to continue when a helper has panicked: the stack as it was at the call of generated code. Above it lie rbx and rbp, which
/// the generated frames in between would have restored, below it the address to return to.
///
/// The field offsets are used by the assembly in this file.
#[repr(C)]
#[derive(Debug, Default)]
pub(super) struct Landing {
    rsp: u64,
    /// Set by [`leave`].
    left: u64,
}

impl Landing {
    /// Some run ended through [`leave`].
    #[inline]
    pub(super) fn left(&self) -> bool {
        self.left != 0
    }
}

/// Calls generated code: R1 to R5 are the registers named, r12 the number of the CPU above a tail-call count of 0.
macro_rules! call {
    ($entry:expr, $cpu:expr, $landing:expr, $($register:tt: $argument:expr),+) => {{
        let r0: u64;
        // SAFETY: the caller vouches for the entry. The block declares every register that generated code may change:
        // `clobber_abi("C")` for the caller-saved ones, r12 (the count) by output, r13-r15 because `leave` does not restore
        // them. rbx and rbp cannot be declared; both ways back restore them (epilogues; `leave`), and popping them here would only
        // make what the caller keeps in them wait for its own store.
        // rsp is 16-byte aligned at the `call`, as the compiler guarantees for asm blocks, so helpers see an aligned stack.
        unsafe {
            asm!(
                "push rbx",
                "push rbp",
                "mov [r10], rsp",
                "call r11",
                "lea rsp, [rsp + 16]",
                in("r10") $landing,
                in("r11") $entry,
                $(in($register) $argument,)+
                lateout("rax") r0,
                inout("r12") u64::from($cpu) << 32 => _,
                out("r13") _,
                out("r14") _,
                out("r15") _,
                clobber_abi("C"),
            );
        }
        r0
    }};
}

/// Calls back a function of generated code on behalf of a helper that it called: R1 to R5 = `args`; returns R0.
///
/// # Safety
/// `entry` is the entry of a function in the image that called the helper, which was proved to be safe to call with these
/// arguments and contains and reaches no tail call; the run is on `cpu`. `landing` stays valid until this returns. (The count in
/// r12 is saved by the native frames in between.)
#[inline]
pub(super) unsafe fn call_back(entry: u64, args: [u64; 5], cpu: u32, landing: *mut Landing) -> u64 {
    let [r1, r2, r3, r4, r5] = args;
    call!(entry, cpu, landing, "rdi": r1, "rsi": r2, "rdx": r3, "rcx": r4, "r8": r5)
}

/// Runs generated code at `entry` on `cpu` with R1 = `r1` and R2 = `r2`; returns R0.
///
/// # Safety
/// `entry` is the entry of an image that stays in place until this returns (its program is held, or a read-side section
/// was entered before the address was read), built from a `Verified` program whose context is the record at `r1`; the thread has
/// the stack that the image's worst chain needs. `landing` stays valid until this returns, and has not been left through.
#[inline]
pub(super) unsafe fn enter(entry: u64, r1: u64, r2: u64, cpu: u32, landing: *mut Landing) -> u64 {
    call!(entry, cpu, landing, "rdi": r1, "rsi": r2)
}

/// Runs of one program on several contexts, one after the other, and what must stay as it is in between.
///
/// The field offsets are used by the assembly of [`enter_each`].
#[repr(C)]
pub(super) struct Series {
    /// The next one; in the end, behind the last one that a run was started on.
    pub next: *const Context,
    /// Behind the last one; there is at least one.
    pub end: *const Context,
    pub entry: u64,
    /// The number of the CPU in the upper half.
    pub cpu: u64,
    /// A word that is 0 as long as no run asks for anything; [`leave`] is always preceded by a change.
    pub asked: *const u32,
    pub current: *const *const Generation,
    pub generation: *const Generation,
    /// R0 of each run but the last.
    pub results: *mut u64,
    /// The program's.
    pub prog_type: ProgType,
}

/// Runs generated code on the contexts of `series`, up to the end, to the first one of another program type, or to the first run
/// after which something is not as before: then `series.next` is behind that one. Answers R0 of the last run, 0 when that was
/// left through `landing`; anything, when there was none. All that a loop in Rust would put away around each run stays in the
/// registers that generated code preserves.
///
/// Nothing is looked at that cannot have changed. In a fork's child there is no generated code for a helper to return to. And more
/// stack than verified programs need is asked for, the first time, by an unproven program that is loaded meanwhile, for which
/// runs that have begun are not prepared anyway.
///
/// # Safety
/// As for [`enter`], for a program of type `prog_type`, when `current` leads to `generation`: which holds at first, and is looked at
/// before every other run. All pointers are valid; there is room for as many results as there are contexts.
#[inline]
pub(super) unsafe fn enter_each(series: &mut Series, landing: *mut Landing) -> u64 {
    let r0: u64;
    // SAFETY: as in `enter`; rbx and rbp are saved and restored here. `leave` restores both from the stack, as they were at the call,
    // and nothing else; so what comes next there uses no other register, and nothing more when `asked` has changed.
    unsafe {
        asm!(
            "push rbx",
            "push rbp",
            "mov rbp, r11",
            "mov rbx, [r11 + 32]",
            "push rbx",
            "push rbp",
            "mov [r10], rsp",
            "mov r13, [rbp]",
            "mov r14, [rbp + 56]",
            "mov r15, [rbp + 48]",
            // All of the loop in one line.
            ".p2align 6",
            "2:",
            "mov ecx, [rbp + 64]",
            "cmp [r13 + {prog_type}], ecx",
            "jne 3f",
            "mov rdi, [r13 + {record}]",
            "xor esi, esi",
            "mov r12, [rbp + 24]",
            "add r13, {stride}",
            "mov [rbp], r13",
            "call [rbp + 16]",
            "cmp dword ptr [rbx], 0",
            "jne 3f",
            "mov [r14], rax",
            "add r14, 8",
            "mov rcx, [rbp + 40]",
            "cmp [rcx], r15",
            "jne 3f",
            "cmp r13, [rbp + 8]",
            "jne 2b",
            "3:",
            "lea rsp, [rsp + 16]",
            "pop rbp",
            "pop rbx",
            prog_type = const Context::PROG_TYPE_AT,
            record = const Context::RECORD_ADDR_AT,
            stride = const size_of::<Context>(),
            in("r10") landing,
            in("r11") series,
            lateout("rax") r0,
            out("r12") _,
            out("r13") _,
            out("r14") _,
            out("r15") _,
            clobber_abi("C"),
        );
    }
    r0
}

/// Continues behind the [`enter`] that noted `landing`, with R0 = 0 and [`Landing::left`] set. The frames in between vanish.
///
/// # Safety
/// `landing` was filled by an `enter` of this thread that has not returned, and no frame between here and
/// there has anything to drop.
pub(super) unsafe fn leave(landing: *mut Landing) -> ! {
    // SAFETY: rsp is what it was at the `call`: rbp and rbx above it, the return address still below it, since no frame in between
    // has returned. The code there declares everything else as clobbered.
    unsafe {
        asm!(
            "mov qword ptr [rdi + 8], 1",
            "mov rsp, [rdi]",
            "mov rbp, [rsp]",
            "mov rbx, [rsp + 8]",
            "xor eax, eax",
            "jmp qword ptr [rsp - 8]",
            in("rdi") landing,
            options(noreturn),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    extern "C" fn adds(a: u64, b: u64) -> u64 {
        a + b
    }

    thread_local! {
        static LANDING: std::cell::Cell<*mut Landing> = const { std::cell::Cell::new(std::ptr::null_mut()) };
    }

    extern "C" fn leaves(_: u64) -> u64 {
        // SAFETY: `leave_skips_the_frames` put the landing of the running `enter` there.
        unsafe { leave(LANDING.with(|l| l.get())) }
    }

    #[test]
    fn enter_passes_both_arguments_and_returns_r0() {
        let mut landing = Landing::default();
        // SAFETY: a native function with the C ABI meets the contract of generated code.
        let r0 = unsafe { enter(adds as *const () as u64, 40, 2, 7, &mut landing) };
        assert_eq!((r0, landing.left()), (42, false));
    }

    extern "C" fn weighs(a: u64, b: u64, c: u64, d: u64, e: u64) -> u64 {
        a + 10 * b + 100 * c + 1000 * d + 10_000 * e
    }

    #[test]
    fn call_back_passes_five_arguments_and_ends_at_its_own_landing() {
        let mut landing = Landing::default();
        // SAFETY: a native function with the C ABI meets the contract of generated code.
        let r0 = unsafe { call_back(weighs as *const () as u64, [1, 2, 3, 4, 5], 7, &mut landing) };
        assert_eq!((r0, landing.left()), (54_321, false));
        LANDING.with(|l| l.set(&mut landing));
        // SAFETY: as above; `leaves` has nothing to drop.
        let r0 = unsafe { call_back(leaves as *const () as u64, [0; 5], 7, &mut landing) };
        assert_eq!((r0, landing.left()), (0, true));
    }

    #[test]
    fn leave_skips_the_frames_and_keeps_the_callers_registers() {
        let mut landing = Landing::default();
        LANDING.with(|l| l.set(&mut landing));
        let before: Vec<u64> = (0..64).collect();
        // SAFETY: as above; `leaves` has nothing to drop.
        let r0 = unsafe { enter(leaves as *const () as u64, 0, 0, 7, &mut landing) };
        assert_eq!((r0, landing.left()), (0, true));
        assert_eq!(before.iter().sum::<u64>(), 2016);
    }
}
