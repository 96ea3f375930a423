//! Loads and transactions take turns: each places code for one generation, and publishes it in that generation.
//!
//! The lock is taken before the update lock, which is held for the last steps only: single updates go on meanwhile. It
//! is never held across a grace period, and never taken twice by a thread (a signal handler that interrupts a load is
//! refused).

use std::cell::Cell;
use std::sync::PoisonError;

use crate::primitive::{Mutex, MutexGuard, thread_local};
use crate::text::UpdateError;

/// The lock.
#[derive(Debug, Default)]
pub(crate) struct Relink {
    turn: Mutex<()>,
}

thread_local! {
    static BUSY: Cell<bool> = const { Cell::new(false) };
}

/// A thread's turn.
pub(crate) struct Turn<'a> {
    _lock: MutexGuard<'a, ()>,
    /// Last, so that the mark goes after the lock.
    _busy: Busy,
}

struct Busy;

impl Drop for Busy {
    fn drop(&mut self) {
        BUSY.with(|busy| busy.set(false));
    }
}

impl Relink {
    /// Waits for the loads and transactions of other threads.
    ///
    /// # Errors
    /// [`UpdateError::Reentrant`] when this thread is in the middle of one already, of any runtime, or of an update.
    pub(crate) fn turn(&self) -> Result<Turn<'_>, UpdateError> {
        if crate::text::patch::updating() || BUSY.with(|busy| busy.replace(true)) {
            return Err(UpdateError::Reentrant);
        }
        let busy = Busy;
        Ok(Turn { _lock: self.turn.lock().unwrap_or_else(PoisonError::into_inner), _busy: busy })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_has_one_turn_at_a_time() {
        let (a, b) = (Relink::default(), Relink::default());
        let turn = a.turn().unwrap();
        assert_eq!(a.turn().map(drop), Err(UpdateError::Reentrant));
        assert_eq!(b.turn().map(drop), Err(UpdateError::Reentrant));
        drop(turn);
        assert!(a.turn().is_ok());
    }
}
