//! Loops whose end is not the verifier's to see: calls of callbacks, iterators, `may_goto`; and which stored states may
//! end a path inside of one.
//!
//! Such a loop passes a *counted* instruction each time around: the call of the helper that calls back, the call that
//! takes the next item of an iterator, a `may_goto`. Each makes only so many passes: the helper's number of calls, the
//! iterator's number of items, the budget of the function's activation. So a path may end there where a stored state
//! covers it that is itself still being explored, which elsewhere only a completely explored one may do.
//!
//! *Safety* does not depend on that: whatever an execution does from a covered state, it can do from the covering one,
//! and all that follows from it is explored in the end. What matters below the covering state is known only then; so the
//! path is looked at again once everything below it is explored: what matters there matters on the path as well, and
//! where the state is not covered any more the path goes on ([`super::explore`]'s leaps). Until nothing changes, none
//! of the loop's states counts as settled. The kernel's widening of imprecise numbers has nothing to do here.
//!
//! *Termination* needs that each circle of explored states uses something up. What is used up has a name (a number
//! that is given once): [`Calls::id`] for one execution of the helper, [`Budget::id`] for an activation, the
//! iterator's reference. Consider a circle, and on it the state R that was stored first. Exploration is depth-first, so
//! all states of the circle descend from R, and the step of the circle that comes to R was made while R was open: R
//! stands at a counted instruction, and its name was the same at both ends of that step. Names are never given twice,
//! and within the circle each state covers another only where the names in both are *the same*, not only alike. So the
//! whole circle runs under that name, and passes R once more each time: it uses up what the name stands for. The other
//! way out of a counted instruction (the helper is done, no item is left, the budget is spent) loses the name or notes
//! that it is spent, which is compared too.
//! A circle that avoids R is shown to end in the same way, with the states on it that were stored first.
//!
//! Names need not be the same where no circle can arise: the covering state, and all that follows from it, is done.
//! [`super::history::History::is_settled`] tells, by the oldest state that anything below a state has led back to (as in Tarjan's search for
//! strongly connected components).
//!
//! A budget that is spent lets nothing pass any more. As the kernel does, we follow the other side all the same, in a new
//! *round* of the same activation; no execution gets there, so it has no part in the argument. A state may be covered by
//! one of an older round: within one activation no execution leads from an older round to a newer one, so no circle of
//! theirs contains such a step.

use super::state::State;

/// The call of a helper that calls back, in the frame that makes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Calls {
    /// Its name; 0: none is under way.
    pub id: u32,
    /// Calls made so far.
    pub count: u32,
}

/// How often a function's activation may still pass its `may_goto` instructions.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Budget {
    /// The activation's name; 0: the function has no `may_goto`.
    pub id: u32,
    /// How often it was followed beyond what it had.
    pub round: u32,
    /// Nothing is left of it.
    pub spent: bool,
}

impl Budget {
    /// Whether what has this budget may be covered by what has `old`, where names count.
    pub fn continues(self, old: Budget) -> bool {
        self.id == old.id && old.round <= self.round
    }
}

/// A counted instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Counted {
    /// The call of a helper that calls back.
    Calls,
    /// The next item of an iterator.
    Item,
    /// `may_goto`.
    Budget,
}

impl Counted {
    /// Whether an open state at this instruction may cover another at the same one.
    pub fn may_cover(self, old: &State, new: &State) -> bool {
        let (a, b) = (old.cur.budget, new.cur.budget);
        match self {
            Counted::Calls | Counted::Item => true,
            // A budget that is not spent was used on the way between them.
            Counted::Budget => !a.spent || a.round != b.round,
        }
    }
}
