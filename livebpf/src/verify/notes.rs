//! Facts as they are gathered along the paths, joined by instruction.
//!
//! A fact is joined from every state that is visited; a state that is pruned is covered by one that was visited,
//! so every fact holds on all paths.

use super::facts::{Facts, InsnFacts, Known, TailCall};
use super::reject::{Fail, Rule, Step};
use crate::context::{RecordAccess, SocketView};
use crate::insn::{Pc, Reg};
use crate::link::MapId;

/// What kind of pointer a memory instruction used.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Base {
    None,
    Context,
    Socket(SocketView),
    Other,
}

/// How a helper's map argument looked so far.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Seen<T> {
    Never,
    Only(T),
    Several,
}

impl<T: PartialEq + Copy> Seen<T> {
    fn join(&mut self, x: T) {
        *self = match *self {
            Seen::Never => Seen::Only(x),
            Seen::Only(y) if x == y => Seen::Only(x),
            Seen::Only(_) | Seen::Several => Seen::Several,
        };
    }
}

#[derive(Clone, Copy)]
struct Note {
    reached: bool,
    taken: bool,
    fallen: bool,
    base: Base,
    record: Option<RecordAccess>,
    map: Seen<MapId>,
    index: Seen<Option<u32>>,
}

const BLANK: Note = Note {
    reached: false,
    taken: false,
    fallen: false,
    base: Base::None,
    record: None,
    map: Seen::Never,
    index: Seen::Never,
};

/// Facts under construction.
pub(super) struct Notes {
    insns: Vec<Note>,
    pub depth: Vec<u32>,
    /// By function: the slots of its stack that are read.
    pub read: Vec<u64>,
    /// By function: reads stack bytes that were not written.
    pub reads_unwritten: Vec<bool>,
    pub changes_packet: bool,
    pub shows_addresses: bool,
}

impl Notes {
    pub fn new(slots: usize, funcs: usize) -> Notes {
        Notes {
            insns: vec![BLANK; slots],
            depth: vec![0; funcs],
            read: vec![0; funcs],
            reads_unwritten: vec![false; funcs],
            changes_packet: false,
            shows_addresses: false,
        }
    }
    pub fn reach(&mut self, pc: Pc) {
        self.insns[pc.index()].reached = true;
    }
    /// A conditional jump can go this way.
    pub fn branch(&mut self, pc: Pc, taken: bool) {
        let note = &mut self.insns[pc.index()];
        note.taken |= taken;
        note.fallen |= !taken;
    }
    /// A memory access through the context (with its place in the record), or through anything else.
    pub fn access(&mut self, pc: Pc, record: Option<RecordAccess>) -> Step<()> {
        let base = if record.is_some() { Base::Context } else { Base::Other };
        self.used(pc, base, record)
    }
    /// A read through a pointer to a socket.
    pub fn socket(&mut self, pc: Pc, view: SocketView) -> Step<()> {
        self.used(pc, Base::Socket(view), None)
    }
    /// The kernel rewrites accesses of its own objects, so an instruction that makes one makes only such.
    fn used(&mut self, pc: Pc, base: Base, record: Option<RecordAccess>) -> Step<()> {
        let note = &mut self.insns[pc.index()];
        if note.base != Base::None && (note.base, note.record) != (base, record) {
            return Err(Fail::new(Rule::Context, "same insn cannot be used with different pointers"));
        }
        (note.base, note.record) = (base, record);
        Ok(())
    }
    /// A helper call with a map argument, and the constant index of a tail call or of a lookup in an array.
    pub fn map(&mut self, pc: Pc, map: MapId, index: Option<u32>) {
        let note = &mut self.insns[pc.index()];
        note.map.join(map);
        note.index.join(index);
    }
    /// Stack of `func` is used down to `off` (negative) bytes below its frame pointer; whether that is new.
    pub fn stack(&mut self, func: usize, off: i64) -> bool {
        let below = off.unsigned_abs() as u32;
        let deeper = below > self.depth[func];
        if deeper {
            self.depth[func] = below;
        }
        deeper
    }

    /// The facts about each instruction.
    pub fn finish(&self, facts: &mut Facts, is_tail_call: impl Fn(Pc) -> bool) {
        facts.insns = Vec::with_capacity(self.insns.len());
        for (i, note) in self.insns.iter().enumerate() {
            let is_tail_call = note.reached && is_tail_call(Pc(i as u32));
            facts.insns.push(InsnFacts {
                reached: note.reached,
                known: note.known(is_tail_call),
                ..InsnFacts::default()
            });
        }
    }
}

impl Note {
    fn known(&self, is_tail_call: bool) -> Option<Known> {
        let map = match self.map {
            Seen::Only(map) => Some(map),
            Seen::Never | Seen::Several => None,
        };
        if is_tail_call {
            return Some(Known::TailCall(match (map, self.index) {
                (Some(map), Seen::Only(Some(index))) => TailCall::Direct { map, index },
                (Some(map), _) => TailCall::Indirect { map },
                (None, _) => TailCall::Dynamic,
            }));
        }
        let call = match (map, self.index) {
            (Some(map), Seen::Only(Some(index))) => Some(Known::Element { map, index }),
            (map, _) => map.map(Known::Map),
        };
        match (self.taken, self.fallen) {
            (true, false) => Some(Known::Always(true)),
            (false, true) => Some(Known::Always(false)),
            // No jump, or one that goes both ways.
            (false, false) | (true, true) => self.record.map(Known::Record).or(call),
        }
    }
}

/// The registers of `mask`.
pub(super) fn registers(mask: u16) -> impl Iterator<Item = Reg> {
    Reg::ALL.into_iter().filter(move |r| mask & (1 << r.index()) != 0)
}
