//! What verification found out, as far as code generation and execution use it.
//!
//! Every fact holds on *all* paths and in all call contexts that reach the instruction.

use crate::context::RecordAccess;
use crate::insn::{Insn, Pc, Reg};
use crate::link::MapId;

/// Facts about a whole program.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Facts {
    /// By function, in the order of `Program::subprogs`.
    pub funcs: Vec<FuncFacts>,
    /// By slot.
    pub insns: Vec<InsnFacts>,
    /// Instructions processed during verification.
    pub processed: u64,
    /// Most states kept at once.
    pub peak_states: u64,
    /// States kept altogether.
    pub total_states: u64,
    /// Most states kept at one instruction.
    pub max_states_per_insn: u64,
    /// The program (any function of it) contains a tail call that can be reached.
    pub has_tail_call: bool,
    /// May write packet bytes or move packet pointers.
    pub changes_packet: bool,
    /// R1 to R5 may be read after a call without having been set again: nobody proved the contrary.
    pub reads_after_calls: bool,
    /// Results may depend on where things lie in memory: an address was returned, stored, compared or computed with as
    /// a number, or stack was read that nobody had written.
    pub shows_addresses: bool,
    /// The index of a tail call counts in all its 64 bits, not in the low half only: the author is not trusted.
    pub wide_index: bool,
}

/// Facts about one function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct FuncFacts {
    /// Deepest byte of the stack used, not rounded: 0 to 512.
    pub stack_depth: u32,
    /// Which of R6, R7, R8, R9 the function's own instructions mention.
    pub callee_saved: [bool; 4],
    /// The function's own instructions mention R10, those that are not [unused](InsnFacts::unused).
    pub frame_pointer: bool,
    /// It calls a helper other than tail_call.
    pub calls_helper: bool,
    /// It calls a subprogram.
    pub calls_subprog: bool,
    /// It contains a tail call itself.
    pub tail_call: bool,
    /// It may read bytes of its stack that it has not written: they must be zero when it begins.
    pub reads_unwritten: bool,
    /// Slots of 8 bytes of its stack that nothing ever reads, the program or whom it calls: bit 0 is the one nearest to the frame pointer.
    pub unread: u64,
}

impl FuncFacts {
    /// Whether nothing ever reads the `size` bytes at `off` from the frame pointer.
    pub fn is_unread(&self, off: i16, size: u32) -> bool {
        let (first, last) = (i32::from(off), i32::from(off) + size as i32 - 1);
        let slot = |off: i32| (-off - 1) / 8;
        -512 <= first && last < 0 && (slot(last)..=slot(first)).all(|slot| self.unread >> slot & 1 == 1)
    }

    /// Whether nothing reads what the instruction leaves behind, a register or bytes of the stack. `dead` are the registers that nothing
    /// reads after it.
    pub(super) fn is_unused(&self, insn: &Insn, dead: u16) -> bool {
        match *insn {
            Insn::Alu { dst, .. }
            | Insn::Neg { dst, .. }
            | Insn::Endian { dst, .. }
            | Insn::Mov { dst, .. }
            | Insn::MovSx { dst, .. }
            | Insn::LoadImm64 { dst, .. } => dead >> dst.number() & 1 == 1,
            Insn::Store { size, base: Reg::R10, off, .. } => self.is_unread(off, size.bytes()),
            // They do more than that, or can.
            Insn::Load { .. }
            | Insn::LoadSx { .. }
            | Insn::Store { .. }
            | Insn::Atomic { .. }
            | Insn::LoadAcquire { .. }
            | Insn::StoreRelease { .. }
            | Insn::LoadAbs { .. }
            | Insn::LoadInd { .. }
            | Insn::Ja { .. }
            | Insn::JaL { .. }
            | Insn::MayGoto { .. }
            | Insn::Jmp { .. }
            | Insn::Call { .. }
            | Insn::CallSubprog { .. }
            | Insn::CallKfunc { .. }
            | Insn::CallX { .. }
            | Insn::Exit => false,
        }
    }

    /// Notes the registers that an instruction mentions, as bits by number. `unused` says whether it is.
    pub(super) fn mention(&mut self, registers: u16, unused: bool) {
        let mentioned = |r: usize| registers >> r & 1 == 1;
        for (i, used) in self.callee_saved.iter_mut().enumerate() {
            *used |= mentioned(6 + i);
        }
        self.frame_pointer |= mentioned(10) && !unused;
    }
}

/// Facts about one instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct InsnFacts {
    /// Some path reaches it. Unreached code is dead and need not be emitted.
    pub reached: bool,
    /// Nothing reads what it leaves behind, a register or bytes of the stack, and that is all it does.
    pub unused: bool,
    /// Registers that nothing reads any more after it, as bits by number.
    pub dead: u16,
    /// What else is known, which depends on the kind of instruction.
    pub known: Option<Known>,
}

/// What is known about an instruction. One of them, since programs have as many of these as instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// A load or store through the context: where it lands in the record.
    Record(RecordAccess),
    /// A helper call whose map argument is this map on every path.
    Map(MapId),
    /// The same of a lookup in an array, whose key is this one constant below the map's size on every path.
    Element {
        /// The array.
        map: MapId,
        /// The key.
        index: u32,
    },
    /// A tail call.
    TailCall(TailCall),
    /// A conditional jump that goes the same way on every path: `true` is always taken.
    Always(bool),
}

impl InsnFacts {
    /// [`Known::Record`].
    pub fn record(&self) -> Option<RecordAccess> {
        if let Some(Known::Record(access)) = self.known { Some(access) } else { None }
    }
    /// The map of [`Known::Map`] or [`Known::Element`].
    pub fn map(&self) -> Option<MapId> {
        if let Some(Known::Map(map) | Known::Element { map, .. }) = self.known { Some(map) } else { None }
    }
    /// The key of [`Known::Element`].
    pub fn index(&self) -> Option<u32> {
        if let Some(Known::Element { index, .. }) = self.known { Some(index) } else { None }
    }
    /// [`Known::TailCall`].
    pub fn tail_call(&self) -> Option<TailCall> {
        if let Some(Known::TailCall(call)) = self.known { Some(call) } else { None }
    }
    /// [`Known::Always`].
    pub fn always(&self) -> Option<bool> {
        if let Some(Known::Always(taken)) = self.known { Some(taken) } else { None }
    }
}

/// How a tail call is to be compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TailCall {
    /// One map and one constant index, below the map's size, on every path.
    Direct {
        /// The program array.
        map: MapId,
        /// The slot.
        index: u32,
    },
    /// One map, index from R3.
    Indirect {
        /// The program array.
        map: MapId,
    },
    /// The map comes from R2 (an address of a map object).
    Dynamic,
}

impl Facts {
    /// Fills in [`InsnFacts::unused`] from the facts that it follows from.
    #[cfg(feature = "fault-injection")]
    pub(super) fn find_unused(&mut self, program: &crate::link::Program) {
        for (func, sub) in self.funcs.iter().zip(&program.subprogs) {
            for pc in (sub.start.0..sub.end.0).map(Pc) {
                if let (Some(insn), Some(fact)) = (program.insns.get_ref(pc), self.insns.get_mut(pc.index())) {
                    fact.unused = func.is_unused(insn, fact.dead);
                }
            }
        }
    }

    /// Whether some path reaches the instruction at `pc`.
    #[inline]
    pub fn reached(&self, pc: Pc) -> bool {
        self.insns.get(pc.index()).is_some_and(|insn| insn.reached)
    }

    /// Facts about the instruction at `pc`; nothing known past the end.
    pub fn at(&self, pc: Pc) -> InsnFacts {
        self.insns.get(pc.index()).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn facts_about_an_instruction_are_small() {
        assert!(size_of::<super::InsnFacts>() <= 16, "{}", size_of::<super::InsnFacts>());
    }
}
