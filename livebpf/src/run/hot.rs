//! Ordinary runs: of machine code, on a context of its type, on a thread that is in no other run. Everything else goes through
//! `Core::run_checked`, which looks at all there is to look at and says what is wrong.
//!
//! What an ordinary run needs is kept from one to the next ([`Hot`]), under two numbers that are never given twice: the entry's and the
//! generation's. While both are what they were, all that was looked up is what it was: an entry keeps its address in a generation
//! for as long as there are handles. (Addresses of entries and generations would not do: one that is freed can be another one's.)
//! What may be different each time is looked at each time: the process, the stack that is left, the context's type, and what the last
//! run has asked for.
#![allow(unsafe_code)]

use std::cell::{Cell, UnsafeCell};

use super::current::{self, Current};
use super::effects::Effects;
use super::error::RunError;
use super::generation::Generation;
use super::program::Entry;
use super::stack;
use super::stub::{self, Landing, Series};
use super::worker::{Core, panicked};
use crate::context::Context;
use crate::helper::redirect::Noted;

/// What the last ordinary run needed, so that the next one of the same program looks up nothing but whether it is all the same.
pub(super) struct Hot {
    /// [`Entry::serial`]; 0: nothing is prepared.
    serial: Cell<u64>,
    /// The generation's number.
    number: Cell<u64>,
    address: Cell<u64>,
    pub(super) current: Current,
    landing: UnsafeCell<Landing>,
}

// SAFETY: its pointers are used during a run only, in which the worker is on one thread, after they have been found to be those of
// the program that is run and of the current generation.
unsafe impl Send for Hot {}

impl Hot {
    pub(super) fn new() -> Hot {
        let (serial, number, address) = (Cell::new(0), Cell::new(0), Cell::new(0));
        Hot { serial, number, address, current: Current::new(0), landing: UnsafeCell::default() }
    }
}

/// Most runs between two looks at what is around a batch.
const CHUNK: usize = 64;

/// Of most runs.
static NO_EFFECTS: Effects = Effects { redirect: None, clones: Vec::new(), retval: 0, tunnel: None };

impl Core {
    /// Whether `entry`'s runs in this generation are what [`Hot`] is prepared for, now at the latest; false where the run is to be
    /// looked at closely: it is not of machine code of this runtime, or is inside another one. Then what the last run asked for is forgotten.
    #[inline]
    pub(super) fn is_plain(&self, entry: &Entry, generation: &Generation) -> bool {
        let hot = &self.hot;
        current::outside()
            && !self.reader.forked()
            && (!self.noted.any() || self.forget_effects())
            && stack::suffices(generation.stack())
            && (hot.serial.get() == entry.serial && hot.number.get() == generation.number()
                || self.prepare(entry, generation))
    }

    #[cold]
    fn prepare(&self, entry: &Entry, generation: &Generation) -> bool {
        let address = generation.resolve(entry.id);
        let known = entry.native && entry.runtime == self.shared.token() && address != 0;
        if known {
            let hot = &self.hot;
            hot.serial.set(entry.serial);
            hot.number.set(generation.number());
            hot.address.set(address);
            hot.current.set(entry, self, generation);
            hot.current.landing.set(hot.landing.get());
        }
        known
    }

    /// Runs what [`is_plain`](Self::is_plain) has been asked about just now.
    ///
    /// # Safety
    /// In the same section; `ctx` is of the program's type.
    #[inline]
    pub(super) unsafe fn run_plain(&self, ctx: &Context) -> u64 {
        let (hot, r1) = (&self.hot, ctx.record_addr());
        // SAFETY: as in `call`. The address is that of this entry (its number is no other's) in this generation (whose number is no
        // other's), where it stays the same for as long as there are handles.
        unsafe { stub::enter(hot.address.get(), r1, 0, self.cpu, hot.landing.get()) }
    }

    /// The caller is inside a read-side section, and this worker does nothing else meanwhile.
    #[inline]
    pub(super) fn run_batch(
        &self,
        entry: &Entry,
        contexts: &mut [Context],
        mut done: impl FnMut(&mut Context, u32, &Effects),
    ) -> Result<(), RunError> {
        let mut results = [0; CHUNK];
        let mut rest = contexts;
        while !rest.is_empty() {
            let ran = self.run_plain_chunk(entry, rest, &mut results);
            let (chunk, more) = rest.split_at_mut(ran.max(1));
            rest = more;
            if ran == 0 {
                results[0] = self.run_checked(entry, &mut chunk[0])?;
            }
            let left = self.noted.has(Noted::LEFT) && self.take_left();
            // Only the last run of a chunk has asked for anything.
            let Some((last, plain)) = chunk.split_last_mut() else { continue };
            let r0 = results[plain.len()];
            plain.iter_mut().zip(&results).for_each(|(ctx, r0)| done(ctx, *r0 as u32, &NO_EFFECTS));
            if left {
                return Err(panicked(entry));
            }
            if self.noted.any() {
                done(last, r0 as u32, &self.effects());
            } else {
                done(last, r0 as u32, &NO_EFFECTS);
            }
        }
        Ok(())
    }

    /// Runs as many as are ordinary runs, at most [`CHUNK`], and none after one that has asked for something; R0 of each into `results`.
    #[inline]
    fn run_plain_chunk(&self, entry: &Entry, contexts: &[Context], results: &mut [u64; CHUNK]) -> usize {
        if !self.is_plain(entry, self.shared.generations.current()) {
            return 0;
        }
        let hot = &self.hot;
        let all = contexts[..contexts.len().min(CHUNK)].as_ptr_range();
        let mut series = Series {
            next: all.start,
            end: all.end,
            entry: hot.address.get(),
            cpu: u64::from(self.cpu) << 32,
            asked: self.noted.asked.as_ptr(),
            current: self.shared.generations.pointer(),
            generation: hot.current.generation(),
            results: results.as_mut_ptr(),
            prog_type: entry.prog_type,
        };
        // SAFETY: `is_plain` was asked; the contexts are borrowed here; the address as in `run_plain`.
        let r0 = current::outermost(&hot.current, || unsafe { stub::enter_each(&mut series, hot.landing.get()) });
        // SAFETY: `enter_each` leaves it at one of the contexts, or behind the last.
        let ran = unsafe { series.next.offset_from_unsigned(all.start) };
        if let Some(last) = ran.checked_sub(1).and_then(|last| results.get_mut(last)) {
            *last = r0;
        }
        ran
    }

    /// Whether the run that has just ended was left by a helper's panic.
    #[cold]
    pub(super) fn take_left(&self) -> bool {
        // SAFETY: generated code, which writes to it, is not running.
        unsafe { std::mem::take(&mut *self.hot.landing.get()) }.left()
    }

    /// A run of this worker is left.
    pub(super) fn note_panic(&self) {
        self.noted.set(Noted::LEFT);
    }
}
