//! Loops whose end is not the verifier's to see: calls of callbacks, iterators, `may_goto`; and which stored states may
//! end a path inside of one.
//!
//! Such a loop passes a *counted* instruction each time around: the call of the helper that calls back, the call that
//! takes the next item of an iterator, a `may_goto`. Each makes only so many passes: the helper's number of calls, the
//! iterator's number of items, the budget of the function's activation. So a path may end there where a stored state
//! covers it that is itself still being explored, which elsewhere only a completely explored one may do.
//!
//! *Safety* does not depend on that: whatever an execution does from a covered state, it can do from the covering one,
//! and all that follows from it is explored in the end. Places in which a number was let pass because it does not
//! matter are checked when everything is explored ([`super::prune`]), whether the covering state was open or not. So
//! the kernel's widening of imprecise numbers has nothing to do here.
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
//! [`Tree::is_settled`] tells, by the oldest state that anything below a state has led back to (as in Tarjan's search for
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

/// A stored state: how many paths below it are not finished, and how far back they led.
struct Node {
    parent: u32,
    open: u32,
    /// The oldest state that a path below ended at.
    low: u32,
}

/// No node.
pub(super) const NONE: u32 = u32::MAX;

/// The stored states as a tree, in the order in which they were stored.
#[derive(Default)]
pub(super) struct Tree(Vec<Node>);

impl Tree {
    /// Forgets everything, and begins with one state under which one path is open.
    pub fn restart(&mut self) {
        self.0.clear();
        self.push(NONE);
    }
    /// Another state, on the path below `parent`.
    pub fn push(&mut self, parent: u32) -> u32 {
        let node = self.0.len() as u32;
        self.0.push(Node { parent, open: 1, low: node });
        node
    }
    /// Another path below `node`.
    pub fn branch(&mut self, node: u32) {
        self.0[node as usize].open += 1;
    }
    /// Some path below `node` is not finished.
    pub fn is_open(&self, node: u32) -> bool {
        self.0[node as usize].open > 0
    }
    /// A path below `node` is finished: so are the states on it, as far as nothing else is open below them.
    pub fn finish(&mut self, mut node: u32) {
        while node != NONE {
            let Node { parent, low, ref mut open } = self.0[node as usize];
            *open -= 1;
            if *open > 0 {
                break;
            }
            if parent != NONE {
                let above = &mut self.0[parent as usize].low;
                *above = (*above).min(low);
            }
            node = parent;
        }
    }
    /// The path below `node` ends because `old` covers it.
    pub fn covered_by(&mut self, node: u32, old: u32) {
        if self.is_settled(old) {
            return;
        }
        let low = self.oldest(old);
        let mine = &mut self.0[node as usize].low;
        *mine = (*mine).min(low);
    }
    /// `node` and everything that can follow from it are explored.
    pub fn is_settled(&self, node: u32) -> bool {
        !self.is_open(node) && !self.is_open(self.oldest(node))
    }
    /// The oldest state that can follow from `node`, as far as is known.
    fn oldest(&self, mut node: u32) -> u32 {
        loop {
            let low = self.0[node as usize].low;
            if low == node {
                return node;
            }
            node = low;
        }
    }
}
