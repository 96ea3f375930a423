//! Helpers of the embedder: closures that programs call by a number from [`crate::helper::FIRST_CUSTOM`].
#![allow(unsafe_code)]

use std::fmt;
use std::sync::Arc;

use super::{Lent, Program, RunError, current};
use crate::context::Context;
use crate::helper::{Arg, Proto, Ret};
use crate::map::cell::Slice;
use crate::primitive::caught;

/// What an embedder's helper does.
pub type HelperFn = dyn Fn(&HelperCall<'_>) -> u64 + Send + Sync;

/// A function of R1 to R5 that programs call directly.
pub type PlainHelper = extern "C" fn(u64, u64, u64, u64, u64) -> u64;

/// What an embedder's helper is.
pub(crate) enum Function {
    Closure(Box<HelperFn>),
    Plain(PlainHelper),
}

/// One embedder's helper: its contract and its function.
pub(crate) struct Custom {
    pub(crate) proto: Proto,
    pub(crate) function: Function,
    /// Memory of the class that it hands out, keeps or takes back, by argument; the last is the result's.
    pub(crate) lent: [Option<Arc<Lent>>; 6],
    /// Some argument is memory that the program need not have initialised.
    clears: bool,
}

impl Custom {
    pub(crate) fn new(proto: Proto, function: Function) -> Custom {
        let clears = proto.args.iter().any(|arg| matches!(arg, Arg::MemUninit | Arg::MemUninitOrNull | Arg::Out(_)));
        Custom { proto, function, lent: Default::default(), clears }
    }

    /// Why this contract is not one of a plain function, to which nothing is done but that it is called.
    pub(crate) fn refusal(&self) -> Option<&'static str> {
        let Function::Plain(_) = self.function else { return None };
        let lends = matches!(self.proto.ret, Ret::AcquiredOrNull { .. })
            || self.proto.args.iter().any(|arg| matches!(arg, Arg::Borrowed(_) | Arg::Released(_)));
        match (self.clears, lends) {
            (true, _) => {
                Some("memory that programs need not initialise is for closures (`helper`), which find it cleared")
            }
            (_, true) => Some("what is lent is for closures (`helper`), which name it by number"),
            (false, false) => None,
        }
    }

    /// What generated code calls.
    pub(crate) fn address(&self) -> u64 {
        match self.function {
            Function::Closure(_) => shim as *const () as u64,
            Function::Plain(function) => function as *const () as u64,
        }
    }
}

impl fmt::Debug for Custom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "helper {} ({})", self.proto.id, self.proto.name)
    }
}

/// One call of an embedder's helper.
pub struct HelperCall<'a> {
    proto: &'a Proto,
    args: [u64; 5],
    lent: &'a [Option<Arc<Lent>>; 6],
}

impl HelperCall<'_> {
    /// The argument in R`n + 1`, `n` from 0 to 4. Arguments that the prototype does not name hold arbitrary values. For
    /// [`Arg::Borrowed`] and [`Arg::Released`] it is what the helper that handed it out answered: the handle, or the
    /// number of the block.
    ///
    /// # Panics
    /// When `n` is above 4.
    pub fn arg(&self, n: usize) -> u64 {
        match &self.lent[n] {
            Some(lent) => lent.number(self.args[n]),
            None => self.args[n],
        }
    }

    /// The memory that argument `n` stands for, where that is [`Arg::Borrowed`] or [`Arg::Released`] of a class with
    /// memory.
    pub fn block(&self, n: usize) -> Option<Slice<'_>> {
        let lent = self.lent[..5].get(n)?.as_ref()?;
        lent.block(lent.number(self.args[n]))
    }

    /// Block `number` (from 1) of the class that this helper hands out, to be filled before it is answered.
    pub fn to_lend(&self, number: u64) -> Option<Slice<'_>> {
        self.lent[5].as_ref()?.block(number)
    }

    /// A copy of the memory that argument `n` points to, where the prototype says that it is memory followed by its size.
    /// `None` for other kinds and for null.
    pub fn bytes(&self, n: usize) -> Option<Vec<u8>> {
        self.proto.args.get(n)?.has_size().then(|| self.window(n)).flatten().map(Slice::to_vec)
    }

    /// The memory that argument `n` points to, to be written, where the prototype says [`Arg::MemUninit`],
    /// [`Arg::MemUninitOrNull`] or [`Arg::Out`] (all zero when the helper is called), or [`Arg::MemInOut`]. `None` for null,
    /// and for other kinds: what the program was proved to do rests on them staying as they are.
    pub fn memory(&self, n: usize) -> Option<Slice<'_>> {
        match *self.proto.args.get(n)? {
            Arg::MemInOut => self.window(n),
            _ => self.result(n),
        }
    }

    /// Memory that the program need not have initialised.
    fn result(&self, n: usize) -> Option<Slice<'_>> {
        match *self.proto.args.get(n)? {
            Arg::MemUninit | Arg::MemUninitOrNull => self.window(n),
            // SAFETY: as for `window`.
            Arg::Out(size) => Some(unsafe { Slice::from_raw(self.args[n], size as usize) }),
            _ => None,
        }
    }

    fn window(&self, n: usize) -> Option<Slice<'_>> {
        let sized = self.proto.args.get(n + 1)?.is_size();
        if !sized || self.args[n] == 0 {
            return None;
        }
        // SAFETY: the program was verified against the prototype (or the interpreter has checked this call), so
        // [args[n], args[n] + args[n+1]) is memory the program may use, and it outlives the call.
        Some(unsafe { Slice::from_raw(self.args[n], self.args[n + 1] as usize) })
    }

    /// Number of the CPU that the run counts as.
    pub fn cpu(&self) -> u32 {
        current::cpu()
    }

    /// Runs another program on this worker, inside the current run, with a tail-call budget of its own.
    ///
    /// # Errors
    /// As [`Worker::run`](super::Worker::run); [`RunError::TooDeep`] when runs are nested too deeply.
    pub fn run(&self, program: &Program, ctx: &mut Context) -> Result<u32, RunError> {
        current::with(|c| match c {
            Some(c) => c.worker().run(program, ctx).map(|r0| r0 as u32),
            None => Err(RunError::NotInside),
        })
    }
}

/// Calls `custom`; `None` when it panicked.
#[inline]
pub(super) fn call(custom: &Custom, args: [u64; 5]) -> Option<u64> {
    let function = match &custom.function {
        Function::Closure(function) => function,
        Function::Plain(function) => {
            let [r1, r2, r3, r4, r5] = args;
            return Some(function(r1, r2, r3, r4, r5));
        }
    };
    let call = HelperCall { proto: &custom.proto, args, lent: &custom.lent };
    if custom.clears {
        // What the closure leaves out would show the program what native frames left on the stack.
        (0..custom.proto.args.len()).filter_map(|n| call.result(n)).for_each(Slice::clear);
    }
    // A panic ends the run; what the closure shares with others must stand that, as with any unwound closure.
    let answer = caught(|| function(&call))?;
    // A number that is no block's is null.
    Some(match &custom.lent[5] {
        Some(lent) => lent.block(answer).map_or(0, Slice::addr),
        None => answer,
    })
}

/// The native function behind every embedder's helper. `data` is the address of its [`Custom`].
extern "C" fn shim(r1: u64, r2: u64, r3: u64, r4: u64, r5: u64, data: u64) -> u64 {
    // SAFETY: generated code passes `Symbol::HelperData`, which was resolved to a `Custom` of the runtime that owns the code.
    let custom = unsafe { &*(data as *const Custom) };
    match call(custom, [r1, r2, r3, r4, r5]) {
        Some(r0) => r0,
        None => current::leave_after_panic(),
    }
}
