//! Updates of several slots at once, and updates that are made a moment later.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::error::{BatchError, Error};
use super::maps::ProgramArray;
use crate::map::MapError;
use crate::map::prog_array::{Batch, Member, SlotChange};
use crate::object::MapDef;
use crate::run::{self, Program, Request};

impl ProgramArray {
    /// Puts programs into slots, in order, as single calls of [`set`](Self::set) would; but all that is done goes out
    /// together, at the cost of one update. A slot that occurs more than once ends up with the last program named for it. Runs
    /// that start while it is going on may see some of it; for all or nothing there are transactions.
    ///
    /// # Errors
    /// The first refusal ends it, as with `BPF_MAP_UPDATE_BATCH`: [`BatchError::done`] says how many were made.
    pub fn set_many(&self, entries: &[(u32, &Program)]) -> Result<(), BatchError> {
        // A program of another runtime is refused where it stands, after those before it.
        let members: Vec<_> = entries.iter().map(|&(index, program)| Ok((index, self.member(program)?))).collect();
        let stranger = members.iter().position(Result::is_err).unwrap_or(members.len());
        let mut members = members.into_iter();
        let fits = members.by_ref().take(stranger).flatten().map(|(index, member)| {
            let member: Arc<dyn Member> = member;
            (index, Some(member))
        });
        let result = self.change_many(fits);
        match members.next() {
            Some(Err(source)) if result.is_ok() => Err(BatchError { done: stranger, source }),
            _ => result,
        }
    }

    /// Empties slots, in order, as single calls of [`clear_index`](Self::clear_index) would; at the cost of one update.
    ///
    /// # Errors
    /// The first refusal (ENOENT for an empty slot, also one that stands in `indexes` for the second time) ends it:
    /// [`BatchError::done`] says how many were made.
    pub fn clear_many(&self, indexes: &[u32]) -> Result<(), BatchError> {
        self.change_many(indexes.iter().map(|&index| (index, None)))
    }

    fn change_many(&self, changes: impl Iterator<Item = SlotChange>) -> Result<(), BatchError> {
        let shared = self.handle().shared();
        let mut guard = shared.patcher.update().map_err(|e| BatchError { done: 0, source: e.into() })?;
        let Batch { done, refused, retired } = self.array().change_many(changes, &mut guard);
        drop(guard);
        shared.domain.retire(retired);
        match refused {
            None => Ok(()),
            Some(why) => Err(BatchError { done, source: self.handle().error(why) }),
        }
    }

    /// As [`set`](Self::set), but returns at once: a thread of the runtime makes the change, soon, together with others
    /// that were asked for meanwhile. Of several changes of one slot that are made together only the last is seen by runs. It
    /// is the way to update often: thousands of these a second cost running programs little.
    ///
    /// Asynchronous changes of one slot take effect in the order of the calls. Between one that is not done yet and a
    /// synchronous one, or one of another slot, there is no order; wait where it matters.
    ///
    /// # Errors
    /// As [`set`](Self::set): what can be refused is refused here.
    pub fn set_async(&self, index: u32, program: &Program) -> Result<Completion, Error> {
        let member = self.member(program)?;
        let fits = self.array().check_set(index, 0).and_then(|()| self.array().adopt_owner(member.contract()));
        fits.map_err(|e| self.handle().error(e))?;
        self.submit((index, Some(member)))
    }

    /// As [`clear_index`](Self::clear_index), but returns at once, as [`set_async`](Self::set_async) does. Whether the slot is
    /// empty turns out when the change is made: ENOENT comes with the completion.
    ///
    /// # Errors
    /// [`Error::Map`]: E2BIG for an index past the end.
    pub fn clear_async(&self, index: u32) -> Result<Completion, Error> {
        self.array().check_index(index).map_err(|e| self.handle().error(e))?;
        self.submit((index, None))
    }

    fn submit(&self, change: SlotChange) -> Result<Completion, Error> {
        let request = Request { map: self.handle().map().clone(), change, user: self.handle().user() };
        let inner = self.handle().shared().updates.submit(request)?;
        Ok(Completion { inner, def: self.handle().def().clone() })
    }
}

/// The report of an asynchronous change: what it came to, and that runs which start from now on see it.
///
/// It can be waited for with [`wait`](Self::wait), or as a future. Dropping it changes nothing.
pub struct Completion {
    inner: run::Completion,
    def: Arc<MapDef>,
}

impl Completion {
    /// Whether the change was made, or refused.
    pub fn is_done(&self) -> bool {
        self.inner.is_done()
    }

    /// Returns when the change was made, or refused. Allowed inside a run too: the change does not wait for runs.
    ///
    /// # Errors
    /// [`Error::Map`]: ENOENT for emptying an empty slot. [`Error::Wait`] in a fork's child, from a signal handler in the middle
    /// of an update, or from a waker that another completion called.
    pub fn wait(&self) -> Result<(), Error> {
        self.result(self.inner.wait()?)
    }

    fn result(&self, result: Result<(), MapError>) -> Result<(), Error> {
        result.map_err(|source| Error::Map { map: self.def.name.clone(), source })
    }
}

impl Future for Completion {
    type Output = Result<(), Error>;
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.inner.poll(context.waker()).map(|result| self.result(result))
    }
}

impl fmt::Debug for Completion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "update of map {} ({})", self.def.name, if self.is_done() { "done" } else { "queued" })
    }
}
