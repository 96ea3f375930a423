//! Position-independent machine code with everything needed to place it.

use super::emit_tail_call::MAX_TAIL_CALL_CNT;
use crate::insn::Pc;
use crate::link::MapId;

/// Machine code of one program (all its functions), to be placed at a 64-byte aligned address.
/// Offsets are bytes from its start.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Code {
    /// The bytes. Relocated fields hold zero.
    pub bytes: Vec<u8>,
    /// Fields to fill in when the address is known.
    pub relocs: Vec<Reloc>,
    /// Direct tail calls, each with its two patchable jumps.
    pub sites: Vec<PokeSite>,
    /// Where a fresh invocation enters.
    pub entry: u32,
    /// Where a tail call enters.
    pub tail_entry: u32,
    /// Start offset and native frame of each function, in the order of `Program::subprogs`.
    pub frames: Vec<FrameInfo>,
    /// (offset, instruction) ascending: where each instruction's code begins.
    pub lines: Vec<(u32, Pc)>,
}

/// One function's place and native stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct FrameInfo {
    /// First byte (64-byte or 16-byte aligned).
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
    /// Native bytes one activation takes: return address, rbp, frame, pushes.
    pub native_stack: u32,
    /// Native bytes of the deepest chain of calls that begins here, this function included, without tail calls.
    pub deepest: u32,
    /// Native bytes of callers' frames that a tail call in this function or below can leave standing.
    pub retained: u32,
}

/// A field that depends on addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reloc {
    /// Offset of the field.
    pub at: u32,
    /// Its kind.
    pub kind: RelocKind,
    /// What it refers to.
    pub symbol: Symbol,
}

/// How a field is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RelocKind {
    /// 4 bytes: symbol − (address of the byte after the field).
    Rel32,
    /// 8 bytes: the symbol's address.
    Abs64,
}

/// What lies outside the code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Symbol {
    /// The native function of a helper.
    Helper(u32),
    /// The word that is passed in r9 to a helper's native function (for embedders' helpers: the address of its closure).
    HelperData(u32),
    /// The map object (what `r1 = map` loads).
    Map(MapId),
    /// The first value of an array map, of global data, or of an array of maps, plus this many bytes.
    MapData(MapId, u32),
    /// A program array's table of `tail_entry` words.
    SlotTable(MapId),
    /// A program array's counters of missed calls: those of slot 0, of 16 bytes each as `{ empty: u64, limit: u64 }`. The
    /// word 16 bytes before them counts the calls with an index past the end.
    Missed(MapId),
    /// The table that has, by CPU number, the address of what its worker's runs have asked for (`helper::redirect::Noted`).
    Noted,
    /// The stub that a target jump leads to while it must never run.
    Poison,
    /// A byte of this same image.
    Here(u32),
}

/// One direct tail call: a *bypass*, `cmp r12d, imm8` (41 83 fc) with the branch that leaves the site, and a *target*, `jmp rel32` (e9)
/// with the rel32 on a 4-byte boundary from the image's base.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PokeSite {
    /// The program array.
    pub map: MapId,
    /// The slot.
    pub index: u32,
    /// The instruction it belongs to.
    pub pc: Pc,
    /// Offset of the bypass's compare. Its immediate is the number of tail calls from which on the call fails.
    pub bypass: u32,
    /// Offset of the target's jump.
    pub target: u32,
}

impl PokeSite {
    /// The bypass's immediate while open: the limit of tail calls.
    pub const OPEN: i8 = MAX_TAIL_CALL_CNT as i8;
    /// The bypass's immediate while closed: no count is below it.
    pub const CLOSED: i8 = 0;

    /// The bypass's immediate for a slot that holds something, or nothing.
    pub const fn gate(open: bool) -> i8 {
        if open { Self::OPEN } else { Self::CLOSED }
    }
    /// Offset of the bypass's immediate.
    pub const fn bypass_field(&self) -> u32 {
        self.bypass + 3
    }
    /// Offset of the target's rel32.
    pub const fn target_field(&self) -> u32 {
        self.target + 1
    }
}
