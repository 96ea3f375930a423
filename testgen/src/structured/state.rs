//! What the generator knows about registers and stack slots at the place it writes. Coarser than any verifier's
//! state: it serves only to write programs that one accepts.

use livebpf::insn::Reg;

/// What a register or a spilled slot holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// Never written, or clobbered by a call.
    Unset,
    /// Different things on different paths, or a stale pointer: may be overwritten, not read.
    Mixed,
    /// A number, where `max` is given from 0 to that.
    Scalar { max: Option<u32> },
    /// The context.
    Ctx,
    /// A packet pointer from which `range` bytes were checked.
    Packet { range: u32 },
    /// The packet's end.
    PacketEnd,
    /// A pointer to `size` bytes of a map's value.
    Value { size: u32 },
    /// A pointer to `size` initialised bytes of a caller's stack: aligned accesses only.
    Buffer { size: u32 },
}

/// Any number.
pub(super) const NUMBER: Kind = Kind::Scalar { max: None };

impl Kind {
    pub(super) fn is_scalar(self) -> bool {
        matches!(self, Kind::Scalar { .. })
    }
    /// May be read at all.
    pub(super) fn is_usable(self) -> bool {
        !matches!(self, Kind::Unset | Kind::Mixed)
    }
    pub(super) fn is_packet(self) -> bool {
        matches!(self, Kind::Packet { .. } | Kind::PacketEnd)
    }
    /// Bytes that may be accessed through it.
    pub(super) fn accessible(self) -> u32 {
        match self {
            Kind::Packet { range } => range,
            Kind::Value { size } | Kind::Buffer { size } => size,
            Kind::Unset | Kind::Mixed | Kind::Scalar { .. } | Kind::Ctx | Kind::PacketEnd => 0,
        }
    }
    /// What is known where two paths meet.
    fn join(self, other: Kind) -> Kind {
        match (self, other) {
            (a, b) if a == b => a,
            (Kind::Unset, _) | (_, Kind::Unset) => Kind::Unset,
            (Kind::Scalar { max: a }, Kind::Scalar { max: b }) => Kind::Scalar { max: a.zip(b).map(|(a, b)| a.max(b)) },
            (Kind::Packet { range: a }, Kind::Packet { range: b }) => Kind::Packet { range: a.min(b) },
            (Kind::Value { size: a }, Kind::Value { size: b }) => Kind::Value { size: a.min(b) },
            (Kind::Buffer { size: a }, Kind::Buffer { size: b }) => Kind::Buffer { size: a.min(b) },
            _ => Kind::Mixed,
        }
    }
}

/// Eight bytes of stack.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Slot {
    /// Initialised bytes, one bit each, the lowest address in bit 0.
    Bytes(u8),
    /// A spilled register.
    Spill(Kind),
}

impl Slot {
    /// Which bytes may be read as numbers.
    pub(super) fn readable(self) -> u8 {
        match self {
            Slot::Bytes(mask) => mask,
            Slot::Spill(Kind::Scalar { .. }) => 0xff,
            Slot::Spill(_) => 0,
        }
    }
    /// Holds a pointer, or nothing that may be read.
    pub(super) fn is_pointer(self) -> bool {
        matches!(self, Slot::Spill(kind) if !kind.is_scalar())
    }
    fn join(self, other: Slot) -> Slot {
        match (self, other) {
            (a, b) if a == b => a,
            (Slot::Spill(a), Slot::Spill(b)) => Slot::Spill(a.join(b)),
            (a, b) => Slot::Bytes(a.readable() & b.readable()),
        }
    }
}

/// A set of registers or slots that are kept as they are, because a loop comes back to them.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Kept {
    /// Registers that may not be written.
    pub locked: u16,
    /// Registers that may be overwritten by numbers only.
    pub numbers: u16,
    /// Slots that may not be written.
    pub locked_slots: u64,
    /// Slots that may be overwritten by numbers only.
    pub number_slots: u64,
    /// Packet pointers must stay valid.
    pub packet: bool,
}

/// Registers, slots, and what must be kept.
#[derive(Clone, Debug)]
pub(super) struct State {
    regs: [Kind; 11],
    pub slots: Vec<Slot>,
    pub kept: Kept,
}

impl State {
    pub(super) fn new(slots: usize) -> State {
        State { regs: [Kind::Unset; 11], slots: vec![Slot::Bytes(0); slots], kept: Kept::default() }
    }
    pub(super) fn get(&self, reg: Reg) -> Kind {
        self.regs[reg.index()]
    }
    pub(super) fn set(&mut self, reg: Reg, kind: Kind) {
        self.regs[reg.index()] = kind;
    }
    /// Registers R0 to R9 for which `wanted` holds.
    pub(super) fn regs_where(&self, wanted: impl Fn(Kind) -> bool) -> Vec<Reg> {
        Reg::ALL[..10].iter().copied().filter(|&reg| wanted(self.get(reg))).collect()
    }
    /// Whether `reg` may be overwritten by a number, or by a pointer.
    pub(super) fn may_write(&self, reg: Reg, number: bool) -> bool {
        let bit = 1 << reg.index();
        self.kept.locked & bit == 0 && (number || self.kept.numbers & bit == 0)
    }
    /// Whether the slot may be overwritten by a number, or by a pointer.
    pub(super) fn may_write_slot(&self, slot: usize, number: bool) -> bool {
        let bit = 1 << slot;
        self.kept.locked_slots & bit == 0 && (number || self.kept.number_slots & bit == 0)
    }
    pub(super) fn lock(&mut self, reg: Reg) {
        self.kept.locked |= 1 << reg.index();
    }
    /// After a call: R0 holds `result`, R1 to R5 nothing.
    pub(super) fn clobber(&mut self, result: Kind) {
        self.regs[..6].fill(Kind::Unset);
        self.regs[0] = result;
    }
    /// Packet pointers have become stale.
    pub(super) fn forget_packet(&mut self) {
        for kind in &mut self.regs {
            if kind.is_packet() {
                *kind = Kind::Mixed;
            }
        }
        for slot in &mut self.slots {
            if matches!(slot, Slot::Spill(kind) if kind.is_packet()) {
                *slot = Slot::Spill(Kind::Mixed);
            }
        }
    }
    /// What is known where this path and another meet; what must be kept is this path's.
    pub(super) fn join(&mut self, other: &State) {
        for (mine, theirs) in self.regs.iter_mut().zip(&other.regs) {
            *mine = mine.join(*theirs);
        }
        for (mine, theirs) in self.slots.iter_mut().zip(&other.slots) {
            *mine = mine.join(*theirs);
        }
    }
    /// Makes what is known hold in every iteration of a loop that begins here: numbers stay numbers, pointers stay
    /// where they are, R0 to R5 are forgotten. Packet pointers stay only with `packet`.
    pub(super) fn enter_loop(&mut self, packet: bool) {
        self.regs[..6].fill(Kind::Unset);
        if packet {
            self.kept.packet = true;
        } else {
            self.forget_packet();
        }
        for (i, kind) in self.regs.iter_mut().enumerate().skip(6) {
            match kind {
                Kind::Scalar { max } => {
                    *max = None;
                    self.kept.numbers |= 1 << i;
                }
                Kind::Unset | Kind::Mixed => {}
                _ => self.kept.locked |= 1 << i,
            }
        }
        for (i, slot) in self.slots.iter_mut().enumerate() {
            match slot {
                Slot::Spill(Kind::Unset | Kind::Mixed) | Slot::Bytes(0) => {}
                Slot::Bytes(_) => self.kept.number_slots |= 1 << i,
                Slot::Spill(Kind::Scalar { max }) => {
                    *max = None;
                    self.kept.number_slots |= 1 << i;
                }
                Slot::Spill(_) => self.kept.locked_slots |= 1 << i,
            }
        }
    }
}
