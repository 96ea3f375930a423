//! What a path has acquired and must give back before it ends: references (records, handles, iterators, dynptrs) and locks.
//!
//! A [`State`] keeps the list in the order of acquisition. A value that belongs to one of them names it in
//! [`Value::owner`] and is worth nothing once that is released. Never knows instructions.

use super::Trust;
use super::reject::{Fail, Rule, Step};
use super::state::{Byte, Kind, Slot, State, Value};
use crate::helper::Class;
use crate::insn::Pc;
use crate::link::MapId;

/// Things held at a time: each state that waits to be explored has a list of them.
const MAX_HELD: usize = 256;

/// What must be given back, which is to say how.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]

pub(super) enum Resource {
    /// A record of a ring buffer: submitted or discarded.
    Record,
    /// What an embedder's helper handed out, by its class.
    Handle(Class),
    /// An iterator in the stack: destroyed.
    Iterator,
    /// A record of a ring buffer that dynptrs in the stack stand for: submitted or discarded by one of them.
    Dynptr,
    /// A lock in the value that `value` names (0: the map's only one): unlocked.
    Lock { map: MapId, value: u32 },
}

/// One thing that is held.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Held {
    /// Its name, from the same source as [`Value::id`]; never 0.
    pub id: u32,
    /// The call that acquired it.
    pub pc: Pc,
    pub what: Resource,
}

impl Held {
    pub fn is_lock(&self) -> bool {
        matches!(self.what, Resource::Lock { .. })
    }
}

impl State {
    /// Notes that `what` was acquired by the call at `pc`, under the fresh name `id`.
    pub fn acquire(&mut self, id: u32, pc: Pc, what: Resource) -> Step<()> {
        if self.held.len() == MAX_HELD {
            return Err(Fail::new(Rule::Resource, format!("more than {MAX_HELD} references are held at a time")));
        }
        self.held.push(Held { id, pc, what });
        Ok(())
    }
    /// What is held under this name.
    pub fn held(&self, id: u32) -> Option<&Held> {
        self.held.iter().find(|held| held.id == id)
    }
    /// The lock that is held.
    pub fn lock(&self) -> Option<&Held> {
        self.held.iter().find(|held| held.is_lock())
    }
    /// Takes it off the list; what belongs to it stays as it is (it is null, or the caller replaces it).
    pub fn drop_held(&mut self, id: u32) -> bool {
        let before = self.held.len();
        self.held.retain(|held| held.id != id);
        self.held.len() < before
    }
    /// Gives it back: whatever belongs to it is stale.
    pub fn release(&mut self, id: u32, trust: Trust) -> bool {
        let found = self.drop_held(id);
        self.invalidate(|v| v.owner == id, trust);
        self.forget_dynptrs(id);
        found
    }
    /// Pointers that `wanted` picks become what a stale address is: some number for trusted programs, else nothing that
    /// may be read.
    pub fn invalidate(&mut self, wanted: impl Fn(&Value) -> bool, trust: Trust) {
        let stale = if trust == Trust::Trusted { Value::UNKNOWN } else { Value::UNINIT };
        self.for_each(wanted, |value| *value = stale);
        if trust == Trust::Trusted {
            return;
        }
        for i in 0..=self.depth() {
            let lost = |slot: &Slot| slot.bytes[0] == Byte::Spill && slot.spill.kind == Kind::Uninit;
            if self.frame(i).stack.iter().any(lost) {
                let stack = std::rc::Rc::make_mut(&mut self.frame_mut(i).stack);
                for slot in stack.iter_mut().filter(|slot| lost(slot)) {
                    *slot = Slot::EMPTY;
                }
            }
        }
    }
    /// Packet pointers everywhere are stale.
    pub fn forget_packet(&mut self, trust: Trust) {
        self.invalidate(Value::in_packet, trust);
    }
    /// Refuses to end the program (in the outermost frame), or to leave it by `what`, with something held. Locks count where
    /// `locks` says so, in every frame.
    pub fn check_leak(&self, what: &str, locks: bool) -> Step<()> {
        if locks && self.lock().is_some() {
            let text = format!("{what} cannot be used inside bpf_spin_lock-ed region");
            return Err(Fail::new(Rule::Resource, text).help("unlock first"));
        }
        if self.depth() > 0 {
            return Ok(());
        }
        let references: Vec<&Held> = self.held.iter().filter(|held| !held.is_lock()).collect();
        if references.is_empty() {
            return Ok(());
        }
        let each: String = references
            .iter()
            .map(|held| format!("Unreleased reference id={} alloc_insn={}\n", held.id, held.pc))
            .collect();
        let text = format!("{each}{what} would lead to reference leak");
        Err(Fail::new(Rule::Resource, text).help("release on every path what was acquired"))
    }
}
