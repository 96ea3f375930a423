//! The abstract machine: what each register and stack slot can hold at one point of one path.
//!
//! A [`State`] is cheap to copy: callers' frames and stacks are shared until written. Never knows instructions.

use std::rc::Rc;

use super::history::Position;
use super::looping::{Budget, Calls};
use super::resource::Held;
use super::scalar::Scalar;
use crate::context::{Region, SocketView};
use crate::helper::{Class, DynptrKind};
use crate::insn::{Pc, Reg};
use crate::link::{MapId, SubprogId};

/// What a register holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// Nothing that may be read.
    Uninit,
    /// A number.
    Scalar,
    /// The context as it was passed to the program, plus an offset.
    Ctx,
    /// A place in the packet. `range` bytes from the base are known to exist.
    Packet,
    /// One past the packet's last byte.
    PacketEnd,
    /// A place in the metadata in front of the packet.
    PacketMeta,
    /// A place in the stack of the frame numbered so; offset 0 is the frame pointer.
    Stack(u8),
    /// A place in a value of the map.
    MapValue(MapId),
    /// The map itself.
    Map(MapId),
    /// A place in a memory argument of so many bytes.
    Mem(u32),
    /// A place in a record of a ring buffer, of so many bytes.
    Record(u32),
    /// What an embedder's helper handed out without memory.
    Handle(Class),
    /// A place in memory that the context points to.
    Region(Region),
    /// A socket that the context points to.
    Socket(SocketView),
    /// A place in a key of the map: may be read.
    MapKey(MapId),
    /// An item of an iterator, or a slice of a dynptr, of so many bytes: may be read.
    Item(u32),
    /// A slice of the packet, of so many bytes: may be read, and written where `write` says so.
    PacketSlice { size: u32, write: bool },
    /// A dynptr that a caller passed on: one of any kind, which is not taken back.
    Dynptr,
    /// A function, to be called back.
    Func(SubprogId),
}

/// [`Value::range`] of a packet pointer that is not below the packet's end.
pub(super) const AT_END: u32 = u32::MAX - 1;
/// [`Value::range`] of a packet pointer that is above the packet's end.
pub(super) const PAST_END: u32 = u32::MAX;

/// The content of a register: a number, or a pointer with a fixed offset and a variable one (`num`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Value {
    pub kind: Kind,
    /// May be null: unusable until checked.
    pub nullable: bool,
    /// Fixed offset of a pointer. Numbers with an id: the distance from what the id stands for.
    pub off: i32,
    /// Packet pointers: bytes known to exist behind the base, or [`AT_END`] or [`PAST_END`].
    pub range: u32,
    /// Numbers: registers with the same id (not 0) hold the same number, but for `off`. Packet pointers: the same variable base.
    /// Nullable pointers: null together.
    pub id: u32,
    /// What it belongs to and is gone with ([`super::resource::Held::id`]); 0: nothing.
    pub owner: u32,
    /// The number, or the variable offset of a pointer.
    pub num: Scalar,
}

impl Value {
    pub const UNINIT: Value = Value { kind: Kind::Uninit, ..Value::scalar(Scalar::UNKNOWN) };
    pub const UNKNOWN: Value = Value::scalar(Scalar::UNKNOWN);

    pub const fn scalar(num: Scalar) -> Value {
        Value { kind: Kind::Scalar, nullable: false, off: 0, range: 0, id: 0, owner: 0, num }
    }
    pub const fn constant(x: u64) -> Value {
        Value::scalar(Scalar::constant(x))
    }
    /// A pointer to the start of its region.
    pub const fn pointer(kind: Kind) -> Value {
        Value { kind, ..Value::constant(0) }
    }
    pub fn is_scalar(&self) -> bool {
        self.kind == Kind::Scalar
    }
    /// A pointer of any kind.
    pub fn is_pointer(&self) -> bool {
        !matches!(self.kind, Kind::Uninit | Kind::Scalar)
    }
    pub fn is_packet(&self) -> bool {
        matches!(self.kind, Kind::Packet | Kind::PacketMeta | Kind::PacketEnd)
    }
    /// Points into the packet, and is stale when that moves.
    pub fn in_packet(&self) -> bool {
        self.is_packet() || matches!(self.kind, Kind::PacketSlice { .. })
    }
    /// A packet pointer that is known to be at the packet's end or beyond.
    pub fn past_end(&self) -> bool {
        self.range >= AT_END
    }
    /// Packet pointers: bytes known to exist behind the base.
    pub fn reach(&self) -> u32 {
        if self.past_end() { 0 } else { self.range }
    }
    /// A pointer that is certainly not null: into something that exists, or to its end.
    pub fn is_solid(&self) -> bool {
        let offset = self.fixed_offset();
        match self.kind {
            _ if self.nullable => false,
            Kind::Uninit | Kind::Scalar => false,
            Kind::Stack(_) => offset.is_some_and(|off| (-512..=0).contains(&off)),
            Kind::PacketEnd | Kind::Handle(_) => true,
            Kind::Region(_) | Kind::Socket(_) | Kind::Func(_) | Kind::Dynptr => false,
            Kind::Ctx
            | Kind::Packet
            | Kind::PacketMeta
            | Kind::MapValue(_)
            | Kind::MapKey(_)
            | Kind::Item(_)
            | Kind::PacketSlice { .. }
            | Kind::Map(_)
            | Kind::Mem(_)
            | Kind::Record(_) => offset.is_some_and(|off| off >= 0),
        }
    }
    /// The number zero, which is also the null pointer.
    pub fn is_null(&self) -> bool {
        self.is_scalar() && self.num.known() == Some(0)
    }
    /// The exact offset of a pointer, where it is known.
    pub fn fixed_offset(&self) -> Option<i64> {
        self.num.known().map(|var| i64::from(self.off).wrapping_add(var as i64))
    }
    /// The kernel's name of its kind.
    pub fn name(&self) -> &'static str {
        match (self.kind, self.nullable) {
            (Kind::Uninit, _) => "?",
            (Kind::Scalar, _) => "scalar",
            (Kind::Ctx, _) => "ctx",
            (Kind::Packet, _) => "pkt",
            (Kind::PacketEnd, _) => "pkt_end",
            (Kind::PacketMeta, _) => "pkt_meta",
            (Kind::Stack(_), _) => "fp",
            (Kind::MapValue(_), false) => "map_value",
            (Kind::MapValue(_), true) => "map_value_or_null",
            (Kind::Map(_), false) => "map_ptr",
            // As in the kernel, where it is an address of an element until it is known not to be null.
            (Kind::Map(_), true) => "map_value_or_null",
            (Kind::Mem(_), false) => "mem",
            (Kind::Mem(_), true) => "mem_or_null",
            (Kind::Record(_), false) => "ringbuf_mem",
            (Kind::Record(_), true) => "ringbuf_mem_or_null",
            (Kind::Handle(_), false) => "handle",
            (Kind::Handle(_), true) => "handle_or_null",
            (Kind::Region(region), _) => region.name(),
            (Kind::Socket(view), false) => view.name(),
            (Kind::Socket(SocketView::Common), true) => "sock_common_or_null",
            (Kind::Socket(SocketView::Full), true) => "sock_or_null",
            (Kind::MapKey(_), _) => "map_key",
            (Kind::Item(_), false) | (Kind::PacketSlice { write: false, .. }, false) => "rdonly_mem",
            (Kind::Item(_), true) | (Kind::PacketSlice { write: false, .. }, true) => "rdonly_mem_or_null",
            (Kind::PacketSlice { write: true, .. }, false) => "mem",
            (Kind::PacketSlice { write: true, .. }, true) => "mem_or_null",
            (Kind::Dynptr, _) => "dynptr_ptr",
            (Kind::Func(_), _) => "func",
        }
    }
}

/// What one byte of the stack holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Byte {
    /// Nothing that may be read.
    Invalid,
    /// Part of a spilled register.
    Spill,
    /// Some number.
    Misc,
    /// Zero.
    Zero,
    /// Part of an iterator.
    Iterator,
    /// Part of a dynptr.
    Dynptr,
}

/// A dynptr that was made: what each of its two slots of [`Byte::Dynptr`] holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Dynptr {
    pub kind: DynptrKind,
    /// What its slices belong to: the reference that it stands for together with its clones ([`Held::id`]), or its own name.
    pub owner: u32,
    /// Its first eight bytes.
    pub first: bool,
}

impl Dynptr {
    const KINDS: [DynptrKind; 4] = [DynptrKind::Local, DynptrKind::Ringbuf, DynptrKind::Skb, DynptrKind::Xdp];

    /// It stands for something that must be given back.
    pub fn is_reference(self) -> bool {
        self.kind == DynptrKind::Ringbuf
    }
}

/// An iterator that was begun: what a [`Slot`] of [`Byte::Iterator`] holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Iterator {
    /// The reference that it is ([`Held::id`]).
    pub id: u32,
    /// It has no further item.
    pub drained: bool,
    /// Items taken on this path.
    pub items: u32,
}

/// Eight bytes of stack; `spill` counts where the low bytes are `Spill`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Slot {
    pub bytes: [Byte; 8],
    pub spill: Value,
}

impl Slot {
    pub const EMPTY: Slot = Slot { bytes: [Byte::Invalid; 8], spill: Value::UNINIT };

    /// How many bytes from the lowest belong to the spilled register: 0, 1, 2, 4 or 8.
    pub fn spilled(&self) -> u32 {
        self.bytes.iter().take_while(|b| **b == Byte::Spill).count() as u32
    }
    pub fn holds_pointer(&self) -> bool {
        self.bytes[0] == Byte::Spill && self.spill.is_pointer()
    }
    pub fn of_iterator(it: Iterator) -> Slot {
        let spill = Value { owner: it.id, off: it.items as i32, nullable: it.drained, ..Value::UNINIT };
        Slot { bytes: [Byte::Iterator; 8], spill }
    }
    pub fn iterator(&self) -> Option<Iterator> {
        let v = &self.spill;
        let it = Iterator { id: v.owner, drained: v.nullable, items: v.off as u32 };
        (self.bytes[0] == Byte::Iterator).then_some(it)
    }
    pub fn of_dynptr(dynptr: Dynptr) -> Slot {
        let Dynptr { kind, owner, first } = dynptr;
        let number = Dynptr::KINDS.iter().position(|k| *k == kind).unwrap_or_default();
        let spill = Value { owner, off: number as i32, nullable: first, ..Value::UNINIT };
        Slot { bytes: [Byte::Dynptr; 8], spill }
    }
    pub fn dynptr(&self) -> Option<Dynptr> {
        let v = &self.spill;
        let kind = *Dynptr::KINDS.get(v.off as usize).filter(|_| self.bytes[0] == Byte::Dynptr)?;
        Some(Dynptr { kind, owner: v.owner, first: v.nullable })
    }
    /// Forgets the spilled register, or the iterator; its bytes become some number.
    pub fn scrub(&mut self) {
        for byte in &mut self.bytes {
            if matches!(byte, Byte::Spill | Byte::Iterator | Byte::Dynptr) {
                *byte = Byte::Misc;
            }
        }
        self.spill = Value::UNINIT;
    }
}

/// One activation of a function.
#[derive(Debug)]
pub(super) struct Frame {
    pub regs: [Value; 11],
    /// Slots from the frame pointer downwards: slot 0 is bytes −8 to −1.
    pub stack: Rc<Vec<Slot>>,
    pub func: SubprogId,
    /// The call that made it; for the first frame of a path the function's start.
    pub call_site: Pc,
    /// A helper called it back, and wants a result from this range.
    pub called_back: Option<(u32, u32)>,
    /// The helper it waits for that calls back.
    pub calls: Calls,
    /// What its `may_goto` have left.
    pub budget: Budget,
}

impl Clone for Frame {
    fn clone(&self) -> Frame {
        Frame { stack: self.stack.clone(), ..*self }
    }
    /// In its place: it is large, and copied at every branch.
    fn clone_from(&mut self, from: &Frame) {
        let Frame { regs, stack, func, call_site, called_back, calls, budget } = from;
        self.regs = *regs;
        self.stack.clone_from(stack);
        (self.func, self.call_site, self.called_back) = (*func, *call_site, *called_back);
        (self.calls, self.budget) = (*calls, *budget);
    }
}

impl Frame {
    pub fn new(depth: u8, func: SubprogId, call_site: Pc) -> Frame {
        let mut regs = [Value::UNINIT; 11];
        regs[Reg::FP.index()] = Value::pointer(Kind::Stack(depth));
        Frame {
            regs,
            stack: Rc::default(),
            func,
            call_site,
            called_back: None,
            calls: Calls::default(),
            budget: Budget::default(),
        }
    }
    pub fn reg(&self, reg: Reg) -> &Value {
        &self.regs[reg.index()]
    }
    pub fn set(&mut self, reg: Reg, value: Value) {
        self.regs[reg.index()] = value;
    }
    /// The slot numbered `i`, empty where nothing was written yet.
    pub fn slot(&self, i: usize) -> Slot {
        self.stack.get(i).copied().unwrap_or(Slot::EMPTY)
    }
    pub fn slot_mut(&mut self, i: usize) -> &mut Slot {
        let stack = Rc::make_mut(&mut self.stack);
        if stack.len() <= i {
            stack.resize(i + 1, Slot::EMPTY);
        }
        &mut stack[i]
    }
    /// Calls `change` on every register and spilled register.
    pub fn for_each(&mut self, mut wanted: impl FnMut(&Value) -> bool, mut change: impl FnMut(&mut Value)) {
        for value in self.regs.iter_mut().filter(|v| wanted(v)) {
            change(value);
        }
        let spilled = |slot: &Slot| slot.bytes[0] == Byte::Spill;
        if self.stack.iter().any(|slot| spilled(slot) && wanted(&slot.spill)) {
            let stack = Rc::make_mut(&mut self.stack);
            for slot in stack.iter_mut().filter(|slot| spilled(slot) && wanted(&slot.spill)) {
                change(&mut slot.spill);
            }
        }
    }
}

/// One point of one path.
#[derive(Debug)]
pub(super) struct State {
    /// Outer frames, the outermost first.
    pub callers: Vec<Rc<Frame>>,
    /// The frame that runs.
    pub cur: Frame,
    /// What is to be given back, in the order in which it was acquired.
    pub held: Vec<Held>,
    /// Callbacks entered and `may_goto` passed so far.
    pub passes: u32,
    /// Where it stands on its path.
    pub at: Position,
}

impl Clone for State {
    fn clone(&self) -> State {
        State {
            callers: self.callers.clone(),
            cur: self.cur.clone(),
            held: self.held.clone(),
            at: self.at.clone(),
            ..*self
        }
    }
    /// In its place, with the memory that it has.
    fn clone_from(&mut self, from: &State) {
        let State { callers, cur, held, passes, at } = from;
        self.callers.clone_from(callers);
        self.cur.clone_from(cur);
        self.held.clone_from(held);
        self.passes = *passes;
        self.at.clone_from(at);
    }
}

/// Copies of states for other paths, in the memory of states whose paths have ended.
#[derive(Default)]
pub(super) struct Forks {
    /// They hold nothing that others share.
    #[allow(clippy::vec_box, reason = "they come and go in their boxes")]
    spare: Vec<Box<State>>,
    no_stack: Rc<Vec<Slot>>,
}

impl Forks {
    /// More are given back to the system.
    const MOST: usize = 64;

    pub fn fork(&mut self, state: &State) -> Box<State> {
        match self.spare.pop() {
            Some(mut copy) => {
                (*copy).clone_from(state);
                copy
            }
            None => Box::new(state.clone()),
        }
    }
    /// The path of `state` has ended.
    pub fn give_back(&mut self, mut state: Box<State>) {
        if self.spare.len() < Forks::MOST {
            state.callers.clear();
            state.held.clear();
            state.cur.stack.clone_from(&self.no_stack);
            self.spare.push(state);
        }
    }
}

impl State {
    pub fn new(cur: Frame) -> State {
        State { callers: Vec::new(), cur, held: Vec::new(), passes: 0, at: Position::START }
    }
    pub fn depth(&self) -> usize {
        self.callers.len()
    }
    pub fn frame(&self, i: usize) -> &Frame {
        self.callers.get(i).map_or(&self.cur, |frame| frame)
    }
    pub fn frame_mut(&mut self, i: usize) -> &mut Frame {
        match self.callers.get_mut(i) {
            Some(frame) => Rc::make_mut(frame),
            None => &mut self.cur,
        }
    }
    /// Nothing that is counted lies between the two. Looks at all slots: for states that are the same otherwise.
    pub fn same_progress(&self, other: &State) -> bool {
        let items = |state: &State, i: usize, n: usize| state.frame(i).slot(n).iterator().map(|it| it.items);
        let same = |i: usize, n: usize| match items(self, i, n) {
            Some(taken) => items(other, i, n).is_none_or(|t| t == taken),
            None => true,
        };
        self.passes == other.passes
            && self.depth() == other.depth()
            && (0..=self.depth()).all(|i| (0..self.frame(i).stack.len()).all(|n| same(i, n)))
    }
    pub fn reg(&self, reg: Reg) -> &Value {
        self.cur.reg(reg)
    }
    pub fn set(&mut self, reg: Reg, value: Value) {
        self.cur.set(reg, value);
    }
    /// Calls `change` on every register and spilled register of every frame that `wanted` picks.
    pub fn for_each(&mut self, wanted: impl Fn(&Value) -> bool, change: impl Fn(&mut Value)) {
        for frame in &mut self.callers {
            let spilled = |slot: &Slot| slot.bytes[0] == Byte::Spill && wanted(&slot.spill);
            if frame.regs.iter().any(&wanted) || frame.stack.iter().any(spilled) {
                Rc::make_mut(frame).for_each(&wanted, &change);
            }
        }
        self.cur.for_each(&wanted, &change);
    }
    /// Bytes of memory that it takes for itself, about: what it shares with more than its successor is not counted.
    pub fn weight(&self) -> u32 {
        let own = |frame: &Frame| if Rc::strong_count(&frame.stack) <= 2 { frame.stack.len() } else { 0 };
        let mut slots = own(&self.cur);
        let mut frames = 1;
        for frame in self.callers.iter().filter(|frame| Rc::strong_count(frame) <= 2) {
            frames += 1;
            slots += own(frame);
        }
        let held = self.held.len() * size_of::<Held>();
        (frames * size_of::<Frame>() + slots * size_of::<Slot>() + held + size_of::<State>()) as u32
    }
    /// R1 to R5 become unreadable.
    pub fn clobber(&mut self) {
        for reg in &mut self.cur.regs[1..6] {
            *reg = Value::UNINIT;
        }
    }
}
