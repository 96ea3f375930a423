//! Which registers may still be read at a place: backward data flow over the program's text, before exploration.
//!
//! Conservative: a register that is missing cannot influence what happens from there on. (Which stack slots are read,
//! and of which registers the *number* matters, is found during exploration: [`super::history`].)

use super::cfg::{self, Flow};
use crate::insn::{AtomicOp, Insn, Pc, Reg, Src};
use crate::link::{Program, SubprogId};

/// Registers R0 to R10 and the 64 stack slots of one frame; slot 0 is nearest to the frame pointer.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Mask {
    pub regs: u16,
    pub slots: u64,
}

impl Mask {
    /// Everything.
    pub const ALL: Mask = Mask { regs: ALL_REGS, slots: u64::MAX };

    pub fn join(&mut self, other: Mask) {
        self.regs |= other.regs;
        self.slots |= other.slots;
    }
    pub fn reg(&self, reg: Reg) -> bool {
        self.regs & bit(reg) != 0
    }
    pub fn slot(&self, n: usize) -> bool {
        self.slots >> n & 1 == 1
    }
}

pub(super) const fn bit(reg: Reg) -> u16 {
    1 << reg.index()
}
pub(super) fn src_bit(src: Src) -> u16 {
    match src {
        Src::Reg(reg) => bit(reg),
        Src::Imm(_) => 0,
    }
}
/// R0 to R10.
const ALL_REGS: u16 = 0x7ff;
/// R1 to R5.
pub(super) const ARGS: u16 = 0b11_1110;
/// R0 to R5.
pub(super) const CALLER_SAVED: u16 = 0b11_1111;
/// Registers that survive in a caller's frame: R6 to R10.
pub(super) const CALLEE_SAVED: u16 = ALL_REGS & !CALLER_SAVED;

/// Passes over one function before everything in it counts as live. Loops nested or chained so deeply that this is
/// reached are not what compilers write.
const MAX_PASSES: u32 = 128;

/// The registers that are live just before each slot.
pub(super) fn registers(program: &Program, flow: &Flow) -> Vec<u16> {
    let mut before = vec![0; program.insns.len() as usize];
    // Callees first: what a call reads is what the callee's start reads.
    for &f in flow.order.iter().rev() {
        let sub = &program.subprogs[f.0 as usize];
        let (mut changed, mut passes) = (true, 0);
        while changed {
            changed = false;
            passes += 1;
            if passes > MAX_PASSES {
                before[sub.start.index()..sub.end.index()].fill(ALL_REGS);
                break;
            }
            for i in (sub.start.0..sub.end.0).rev() {
                let pc = Pc(i);
                let Some(insn) = program.insns.get(pc) else { continue };
                let new = live_before(program, &before, pc, &insn);
                if new != before[i as usize] {
                    before[i as usize] = new;
                    // Only a jump from further down sees the change too late in this pass.
                    changed |= flow.loop_head[i as usize];
                }
            }
        }
    }
    before
}

/// The registers that nothing reads any more after the instruction at `pc`; none when nothing comes after it.
pub(super) fn dead_after(before: &[u16], pc: Pc, insn: &Insn) -> u16 {
    let next = cfg::next(insn, pc);
    let live = [next.fall, next.jump].into_iter().flatten().map(|to| before[to.index()]).reduce(|a, b| a | b);
    live.map_or(0, |live| ALL_REGS & !live)
}

fn live_before(program: &Program, before: &[u16], pc: Pc, insn: &Insn) -> u16 {
    let next = cfg::next(insn, pc);
    let mut live = [next.fall, next.jump].into_iter().flatten().fold(0, |live, to| live | before[to.index()]);
    if let Some(dst) = cfg::written(insn) {
        live &= !bit(dst);
    }
    match *insn {
        Insn::Exit => bit(Reg::R0),
        Insn::Mov { src, .. } => live | src_bit(src),
        Insn::MovSx { src, .. } => live | bit(src),
        Insn::Load { base, .. } | Insn::LoadSx { base, .. } | Insn::LoadAcquire { base, .. } => live | bit(base),
        Insn::Call { .. } | Insn::CallKfunc { .. } | Insn::CallX { .. } => {
            (live & !CALLER_SAVED) | ARGS | cfg::mentioned(insn)
        }
        Insn::CallSubprog { off } => {
            let callee = pc.jump(off).and_then(|to| program.subprog_starting_at(to));
            (live & !CALLER_SAVED) | callee.map_or(ARGS, |f| arguments(program, before, f))
        }
        Insn::LoadAbs { .. } | Insn::LoadInd { .. } => (live & !CALLER_SAVED) | cfg::mentioned(insn),
        Insn::Atomic { op: AtomicOp::Cmpxchg, .. } => live | cfg::mentioned(insn) | bit(Reg::R0),
        Insn::LoadImm64 { .. } | Insn::Ja { .. } | Insn::JaL { .. } | Insn::MayGoto { .. } => live,
        Insn::Alu { .. }
        | Insn::Neg { .. }
        | Insn::Endian { .. }
        | Insn::Store { .. }
        | Insn::StoreRelease { .. }
        | Insn::Atomic { .. }
        | Insn::Jmp { .. } => live | cfg::mentioned(insn),
    }
}

/// The argument registers that a call of `f` looks at.
fn arguments(program: &Program, before: &[u16], f: SubprogId) -> u16 {
    let sub = &program.subprogs[f.0 as usize];
    let read = before[sub.start.index()] & ARGS;
    match &sub.signature {
        // Global functions are checked against their signature, whether they use an argument or not.
        Some(signature) if sub.global => read | (((1u16 << signature.params.len().min(5)) - 1) << 1),
        _ => read,
    }
}
