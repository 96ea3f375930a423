//! What happened when a thread dies in generated code: a report, then the signal's default action.
//!
//! Correct code never traps. What traps is a mistake: in livebpf (a jump into freed memory, a torn jump), in an
//! unverified program, or of somebody who wrote over memory. With the handler installed, which is the user's choice,
//! SIGTRAP, SIGSEGV, SIGBUS and SIGILL raised by an instruction in a watched region say on standard error which address it was, and
//! in whose code: a program's, one that was freed, the poison stub's, or nobody's. Then the default action follows at
//! that same instruction, so that a core file shows it.
//!
//! *Guarantees.* The handler allocates nothing and waits for nobody. Signals from elsewhere, and those that another
//! process sent, go to the handler that was there before.
//!
//! *Never.* Nothing is repaired, and nobody returns from a trap in generated code.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use super::TextError;
use super::poison::STUB_LEN;
use super::symbols::CodeSymbol;

/// Most regions that are watched at once.
const REGIONS: usize = 64;

/// The signals that an instruction can raise, and what they are called.
const SIGNALS: [(libc::c_int, &str); 4] =
    [(libc::SIGTRAP, "SIGTRAP"), (libc::SIGSEGV, "SIGSEGV"), (libc::SIGBUS, "SIGBUS"), (libc::SIGILL, "SIGILL")];

/// A region that the handler knows. Static, so that a handler can look at it while its region goes.
struct Watched {
    /// Address of the region; 0: this place is free.
    base: AtomicU64,
    len: AtomicU64,
    /// Images by address: those there are, and those whose memory nobody else had since.
    images: Mutex<BTreeMap<u64, Label>>,
}

struct Label {
    end: u64,
    functions: Arc<[CodeSymbol]>,
    freed: bool,
}

static WATCHED: [Watched; REGIONS] =
    [const { Watched { base: AtomicU64::new(0), len: AtomicU64::new(0), images: Mutex::new(BTreeMap::new()) } };
        REGIONS];

/// What was installed before, in the order of [`SIGNALS`].
static PREVIOUS: [OnceLock<libc::sigaction>; SIGNALS.len()] = [const { OnceLock::new() }; SIGNALS.len()];

/// A region's place in the handler's list.
#[derive(Debug)]
pub(super) struct Watch {
    place: usize,
}

impl Watch {
    /// Installs the handler if it is not, and makes a region known to it.
    pub(super) fn new(base: u64, len: u64) -> Result<Watch, TextError> {
        static CHANGES: Mutex<()> = Mutex::new(());
        let _one_at_a_time = CHANGES.lock().unwrap_or_else(PoisonError::into_inner);
        let free = WATCHED.iter().position(|w| w.base.load(Ordering::Relaxed) == 0);
        let place = free.ok_or(TextError::TooManyWatched { limit: REGIONS })?;
        install()?;
        WATCHED[place].len.store(len, Ordering::Relaxed);
        WATCHED[place].base.store(base, Ordering::Release);
        Ok(Watch { place })
    }

    fn images(&self) -> MutexGuard<'static, BTreeMap<u64, Label>> {
        WATCHED[self.place].images.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An image lies at `base` from now on.
    pub(super) fn placed(&self, base: u64, len: u64, functions: Arc<[CodeSymbol]>) {
        let (end, mut images) = (base + len, self.images());
        // Memory is reused in other pieces than before: whoever had a part of this is forgotten.
        let before = images.range(..base).next_back().filter(|(_, label)| label.end > base).map(|(at, _)| *at);
        let inside: Vec<u64> = before.into_iter().chain(images.range(base..end).map(|(at, _)| *at)).collect();
        for at in inside {
            images.remove(&at);
        }
        images.insert(base, Label { end, functions, freed: false });
    }

    /// The image at `base` is about to go.
    pub(super) fn freed(&self, base: u64) {
        if let Some(label) = self.images().get_mut(&base) {
            label.freed = true;
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let images = std::mem::take(&mut *self.images());
        WATCHED[self.place].base.store(0, Ordering::Release);
        drop(images);
    }
}

/// Installs the handler, once per process.
fn install() -> Result<(), TextError> {
    for ((signal, _), previous) in SIGNALS.iter().zip(&PREVIOUS) {
        if previous.get().is_some() {
            continue;
        }
        let failed =
            || TextError::Os { step: "installing the trap handler", source: std::io::Error::last_os_error(), hint: "" };
        // SAFETY: all zero is a valid sigaction.
        let mut old = unsafe { std::mem::zeroed::<libc::sigaction>() };
        // SAFETY: asks only; `old` is writable.
        if unsafe { libc::sigaction(*signal, std::ptr::null(), &mut old) } != 0 {
            return Err(failed());
        }
        // Before the handler can be called, which looks it up.
        let _ = previous.set(old);
        // SAFETY: as above.
        let mut new = unsafe { std::mem::zeroed::<libc::sigaction>() };
        let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = trapped;
        new.sa_sigaction = handler as usize;
        // On the alternate stack where the thread has one: the handler before may be the one for stack overflow.
        new.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        // SAFETY: a handler of the right type that keeps to what signal handlers may do.
        if unsafe { libc::sigaction(*signal, &new, std::ptr::null_mut()) } != 0 {
            return Err(failed());
        }
    }
    Ok(())
}

extern "C" fn trapped(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes valid records to a handler with SA_SIGINFO, and nobody else uses them meanwhile.
    let (fault, registers) = unsafe { (&*info, &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs) };
    // An int3 leaves rip behind itself; other traps and all faults leave it at the instruction.
    const SI_KERNEL: libc::c_int = 0x80;
    let past = i64::from(signal == libc::SIGTRAP && fault.si_code == SI_KERNEL);
    let rip = registers[libc::REG_RIP as usize] - past;
    // Codes of 0 and below: somebody sent it, no instruction raised it.
    let watched = if fault.si_code > 0 { region(rip as u64) } else { None };
    let Some(watched) = watched else { return pass_on(signal, info, context) };
    // SAFETY: the address that a fault names, or a number without meaning.
    let touched = (signal == libc::SIGSEGV || signal == libc::SIGBUS).then(|| unsafe { fault.si_addr() } as u64);
    report(signal, rip as u64, touched, watched);
    // Back to the instruction, which does it once more, without a handler.
    registers[libc::REG_RIP as usize] = rip;
    default_action(signal);
}

fn region(address: u64) -> Option<&'static Watched> {
    WATCHED.iter().find(|watched| {
        let base = watched.base.load(Ordering::Acquire);
        base != 0 && address.checked_sub(base).is_some_and(|offset| offset < watched.len.load(Ordering::Relaxed))
    })
}

fn default_action(signal: libc::c_int) {
    // SAFETY: SIG_DFL is a valid disposition.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
}

/// What would have happened without this handler.
fn pass_on(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let place = SIGNALS.iter().position(|(s, _)| *s == signal);
    let Some(previous) = place.and_then(|place| PREVIOUS[place].get()) else { return default_action(signal) };
    // SAFETY: what the kernel passed.
    let sent = unsafe { (*info).si_code } <= 0;
    match previous.sa_sigaction {
        // A fault cannot be ignored: the instruction would raise it for ever, and the kernel ends such a process.
        libc::SIG_IGN if sent => {}
        libc::SIG_DFL | libc::SIG_IGN => {
            default_action(signal);
            if sent {
                // No instruction will raise it again. It is blocked until this handler returns.
                // SAFETY: a signal to this thread.
                unsafe { libc::raise(signal) };
            }
        }
        handler if previous.sa_flags & libc::SA_SIGINFO != 0 => {
            // SAFETY: installed with SA_SIGINFO, so it is a function of this type.
            let handler = unsafe {
                std::mem::transmute::<usize, extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void)>(
                    handler,
                )
            };
            handler(signal, info, context);
        }
        handler => {
            // SAFETY: installed without SA_SIGINFO, so it is a function of this type.
            let handler = unsafe { std::mem::transmute::<usize, extern "C" fn(libc::c_int)>(handler) };
            handler(signal);
        }
    }
}

/// Writes the report. Allocates nothing: the thread may have been anywhere.
fn report(signal: libc::c_int, rip: u64, touched: Option<u64>, watched: &Watched) {
    let mut text = [0u8; 1024];
    let room = text.len();
    let mut rest = &mut text[..];
    let name = SIGNALS.iter().find(|(s, _)| *s == signal).map_or("signal", |(_, name)| name);
    let (base, len) = (watched.base.load(Ordering::Relaxed), watched.len.load(Ordering::Relaxed));
    // SAFETY: takes nothing and cannot fail.
    let thread = unsafe { libc::syscall(libc::SYS_gettid) };
    let _ = write!(rest, "livebpf: {name} in generated code at {rip:#x}, thread {thread}");
    if let Some(touched) = touched {
        let _ = write!(rest, ", touching {touched:#x}");
    }
    let _ = write!(rest, "\n  offset {:#x} of the code region at {base:#x} ({len:#x} bytes): ", rip - base);
    describe(&mut rest, rip, base, watched);
    let _ = writeln!(rest, "\n  the process cannot go on; the signal's default action follows");
    let len = room - rest.len();
    // SAFETY: the buffer holds `len` bytes; file 2 may be closed, then there is no report.
    unsafe { libc::write(2, text.as_ptr().cast(), len) };
}

/// Whose code it is.
fn describe(out: &mut &mut [u8], rip: u64, base: u64, watched: &Watched) {
    if rip - base < STUB_LEN as u64 {
        let _ = write!(out, "the poison stub, where the target of an empty slot leads");
        return;
    }
    // Held for a few instructions by threads that load and unload; this one is not among them, as it was in generated code.
    let images = (0..1 << 16).find_map(|_| {
        std::hint::spin_loop();
        watched.images.try_lock().ok()
    });
    let Some(images) = images else {
        let _ = write!(out, "the list of images is not available");
        return;
    };
    let Some((at, label)) = images.range(..=rip).next_back().filter(|(_, label)| rip < label.end) else {
        let _ = write!(out, "memory that no image has");
        return;
    };
    let (program, name) = label.functions.first().map_or((0, "?"), |f| (f.program, f.name.as_str()));
    let what = if label.freed { "freed memory, was program" } else { "program" };
    let _ = write!(out, "{what} {program} {name:?}");
    let inside = label.functions.iter().find(|f| rip.checked_sub(f.address).is_some_and(|o| o < u64::from(f.len)));
    let _ = match inside {
        Some(f) => write!(out, ", function {:?} + {:#x}", f.name, rip - f.address),
        None => write!(out, " + {:#x}", rip - at),
    };
}
