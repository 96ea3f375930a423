//! What matters later: which registers and stack slots may still be read at a place (*live*), and of which the
//! number matters, not only that there is one (*precise*).
//!
//! Both are computed for the whole program by backward data flow before and between explorations, and are
//! conservative: a register or slot that is missing from a mask cannot influence what happens from there on.
//! What makes a number matter (it decides a jump, it is added to a pointer, it is a size or an index) is found
//! during exploration and kept as *demands*; everything else here is the program's text.

use super::cfg::{self, Flow};
use super::cross::Cross;
use crate::helper;
use crate::insn::{AluOp, AtomicOp, Insn, Pc, Reg, Size, Src};
use crate::link::Program;

/// Registers R0 to R10 and the 64 stack slots of one frame; slot 0 is nearest to the frame pointer.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Mask {
    pub regs: u16,
    pub slots: u64,
}

impl Mask {
    /// Everything matters: always a correct mask.
    const ALL: Mask = Mask { regs: 0x7ff, slots: u64::MAX };

    fn join(&mut self, other: Mask) {
        self.regs |= other.regs;
        self.slots |= other.slots;
    }
    pub fn reg(&self, reg: Reg) -> bool {
        self.regs & bit(reg) != 0
    }
}

const fn bit(reg: Reg) -> u16 {
    1 << reg.index()
}
fn src_bit(src: Src) -> u16 {
    match src {
        Src::Reg(reg) => bit(reg),
        Src::Imm(_) => 0,
    }
}
/// R1 to R5.
const ARGS: u16 = 0b11_1110;
/// R0 to R5.
const CALLER_SAVED: u16 = 0b11_1111;

/// Passes over one function before everything in it counts as live. Loops nested or chained so deeply that this is
/// reached are not what compilers write.
const MAX_PASSES: u32 = 128;

/// How an instruction touches the stack of its own frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Touch {
    /// Not at all.
    None,
    /// At this offset from the frame pointer.
    At(i16),
    /// From this offset upwards, read only, contents opaque (memory for a helper).
    From(i16),
    /// Anywhere.
    Anywhere,
}

/// Where a register may point, as far as the stack of its own frame goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Points {
    /// Not into it.
    No,
    /// Exactly there.
    At(i16),
    /// Perhaps, somewhere.
    Maybe,
}

impl Points {
    fn join(self, other: Points) -> Points {
        if self == other { self } else { Points::Maybe }
    }
}

/// The masks of a program, by slot; each holds just before the instruction.
#[derive(Clone)]
pub(super) struct Masks {
    touch: Vec<Touch>,
    pub live: Vec<Mask>,
    pub precise: Vec<Mask>,
    /// What callbacks do in the stacks around them.
    pub cross: Cross,
    /// Instructions looked at by the last refresh: what it cost.
    pub cost: u64,
}

impl Masks {
    /// Computes liveness; precision starts empty.
    pub fn new(program: &Program, flow: &Flow) -> Masks {
        let n = program.insns.len() as usize;
        let mut masks = Masks {
            touch: vec![Touch::None; n],
            live: vec![],
            precise: vec![Mask::default(); n],
            cross: Cross::default(),
            cost: 0,
        };
        for sub in &program.subprogs {
            // A frame pointer that was stored may come back from any load; then the analysis is repeated so.
            if masks.find_pointers(program, flow, sub.start, sub.end, false) {
                masks.find_pointers(program, flow, sub.start, sub.end, true);
            }
        }
        let before = |masks: &Masks, pc, insn: &Insn, after, entry| masks.live_before(pc, insn, after, entry);
        (masks.live, _) = masks.solve(program, flow, true, before);
        masks
    }

    /// Recomputes precision from the demands.
    pub fn refresh(&mut self, program: &Program, flow: &Flow, demands: &[u16]) {
        self.cross.restart();
        self.cost = 0;
        loop {
            let (precise, cost) = self.solve(program, flow, false, |masks, pc, insn, after, entry| {
                let mut before = masks.precise_before(pc, insn, after, entry);
                before.regs |= demands[pc.index()];
                if !masks.cross.is_empty() {
                    before.join(masks.cross.wanted(pc));
                }
                before
            });
            self.precise = precise;
            self.cost += cost;
            if self.cross.is_empty() || !self.cross.conclude(&self.precise) {
                return;
            }
        }
    }

    /// Backward fixed point over all functions. `transfer` gets the mask behind the instruction, and for a call of a
    /// subprogram the mask at the callee's start. `all_results`: what R0 holds at an exit always counts.
    fn solve(
        &self,
        program: &Program,
        flow: &Flow,
        all_results: bool,
        transfer: impl Fn(&Masks, Pc, &Insn, Mask, Mask) -> Mask,
    ) -> (Vec<Mask>, u64) {
        let mut cost = 0;
        let mut before = vec![Mask::default(); program.insns.len() as usize];
        // What callers want from each function's R0.
        let mut result = vec![all_results; program.subprogs.len()];
        let mut given_up = vec![false; program.subprogs.len()];
        loop {
            let (mut again, mut skipped) = (false, Vec::new());
            for &f in flow.order.iter().rev().filter(|f| !given_up[f.0 as usize]) {
                let sub = &program.subprogs[f.0 as usize];
                let (mut changed, mut passes) = (true, 0);
                while changed {
                    changed = false;
                    passes += 1;
                    cost += u64::from(sub.end.0 - sub.start.0);
                    if passes > MAX_PASSES {
                        before[sub.start.index()..sub.end.index()].fill(Mask::ALL);
                        skipped.push(f);
                        for g in &flow.callees[f.0 as usize] {
                            again |= !std::mem::replace(&mut result[g.0 as usize], true);
                        }
                        break;
                    }
                    for i in (sub.start.0..sub.end.0).rev() {
                        let pc = Pc(i);
                        let Some(insn) = program.insns.get(pc) else { continue };
                        let next = cfg::next(&insn, pc);
                        let mut after = Mask::default();
                        for to in [next.fall, next.jump].into_iter().flatten() {
                            after.join(before[to.index()]);
                        }
                        if insn == Insn::Exit && result[f.0 as usize] {
                            after.regs = bit(Reg::R0);
                        }
                        let mut entry = Mask::default();
                        if let Insn::CallSubprog { off } = insn {
                            let callee = pc.jump(off).and_then(|to| program.subprog_starting_at(to));
                            if let Some(g) = callee {
                                entry = before[program.subprogs[g.0 as usize].start.index()];
                                let wants = after.reg(Reg::R0);
                                if wants && !std::mem::replace(&mut result[g.0 as usize], true) {
                                    again = true;
                                }
                            }
                        }
                        let new = transfer(self, pc, &insn, after, entry);
                        if new != before[i as usize] {
                            before[i as usize] = new;
                            // Only a jump from further down sees the change too late in this pass.
                            changed |= flow.loop_head[i as usize];
                        }
                    }
                }
            }
            for f in skipped.drain(..) {
                given_up[f.0 as usize] = true;
            }
            if !again {
                return (before, cost);
            }
        }
    }

    fn live_before(&self, pc: Pc, insn: &Insn, after: Mask, entry: Mask) -> Mask {
        let mut mask = after;
        if let Some(dst) = cfg::written(insn) {
            mask.regs &= !bit(dst);
        }
        let touch = self.touch[pc.index()];
        match *insn {
            Insn::Mov { src, .. } => mask.regs |= src_bit(src),
            Insn::Call { .. } | Insn::CallKfunc { .. } | Insn::CallX { .. } => {
                mask.regs = (mask.regs & !CALLER_SAVED) | ARGS | cfg::mentioned(insn);
                mask.slots |= touched(touch);
            }
            Insn::CallSubprog { .. } => {
                mask.regs = (mask.regs & !CALLER_SAVED) | (entry.regs & ARGS);
                mask.slots |= touched(touch);
            }
            Insn::Load { base, .. } | Insn::LoadSx { base, .. } | Insn::LoadAcquire { base, .. } => {
                mask.regs |= bit(base);
                mask.slots |= touched(touch);
            }
            Insn::Store { size, .. } | Insn::StoreRelease { size, .. } => {
                mask.regs |= cfg::mentioned(insn);
                if let (Touch::At(off), Size::DW) = (touch, size) {
                    mask.slots &= !slot(off);
                }
            }
            Insn::Atomic { op, .. } => {
                mask.regs |= cfg::mentioned(insn);
                if op == AtomicOp::Cmpxchg {
                    mask.regs |= bit(Reg::R0);
                }
                mask.slots |= touched(touch);
            }
            Insn::LoadAbs { .. } | Insn::LoadInd { .. } => {
                mask.regs = (mask.regs & !CALLER_SAVED) | cfg::mentioned(insn);
            }
            Insn::LoadImm64 { .. } | Insn::Ja { .. } | Insn::JaL { .. } | Insn::MayGoto { .. } | Insn::Exit => {}
            Insn::Alu { .. } | Insn::Neg { .. } | Insn::MovSx { .. } | Insn::Endian { .. } | Insn::Jmp { .. } => {
                mask.regs |= cfg::mentioned(insn) & !only_written(insn)
            }
        }
        mask
    }

    fn precise_before(&self, pc: Pc, insn: &Insn, after: Mask, entry: Mask) -> Mask {
        let mut mask = after;
        let written = cfg::written(insn);
        let wanted = written.is_some_and(|dst| after.reg(dst));
        if let Some(dst) = written {
            mask.regs &= !bit(dst);
        }
        let touch = self.touch[pc.index()];
        match *insn {
            Insn::Mov { src, .. } if wanted => mask.regs |= src_bit(src),
            Insn::Alu { dst, src, .. } if wanted => mask.regs |= bit(dst) | src_bit(src),
            Insn::Neg { dst, .. } | Insn::Endian { dst, .. } if wanted => mask.regs |= bit(dst),
            Insn::MovSx { src, .. } if wanted => mask.regs |= bit(src),
            Insn::Jmp { dst, src, .. } => {
                let both = bit(dst) | src_bit(src);
                if after.regs & both != 0 && matches!(src, Src::Reg(_)) {
                    mask.regs |= both;
                }
            }
            Insn::Load { .. } | Insn::LoadSx { .. } | Insn::LoadAcquire { .. } | Insn::Atomic { .. } if wanted => {
                mask.slots |= touched(touch);
            }
            Insn::Store { size, src, .. } => {
                if after.slots & touched(touch) != 0 {
                    mask.regs |= src_bit(src);
                }
                if let (Touch::At(off), Size::DW) = (touch, size) {
                    mask.slots &= !slot(off);
                }
            }
            Insn::StoreRelease { src, .. } if after.slots & touched(touch) != 0 => mask.regs |= bit(src),
            Insn::CallSubprog { .. } => {
                mask.regs = (mask.regs & !CALLER_SAVED) | (entry.regs & ARGS);
                mask.slots |= touched(touch);
            }
            Insn::Call { .. } | Insn::CallKfunc { .. } | Insn::CallX { .. } => mask.regs &= !CALLER_SAVED,
            Insn::LoadAbs { .. } | Insn::LoadInd { .. } => mask.regs &= !CALLER_SAVED,
            Insn::Mov { .. }
            | Insn::Alu { .. }
            | Insn::Neg { .. }
            | Insn::Endian { .. }
            | Insn::MovSx { .. }
            | Insn::Load { .. }
            | Insn::LoadSx { .. }
            | Insn::LoadAcquire { .. }
            | Insn::Atomic { .. }
            | Insn::StoreRelease { .. }
            | Insn::LoadImm64 { .. }
            | Insn::Ja { .. }
            | Insn::JaL { .. }
            | Insn::MayGoto { .. }
            | Insn::Exit => {}
        }
        mask
    }

    /// Follows copies of the frame pointer forward through one function and notes how each instruction touches the
    /// stack. Gives true when such a pointer was stored and `from_memory` did not expect that.
    fn find_pointers(&mut self, program: &Program, flow: &Flow, start: Pc, end: Pc, from_memory: bool) -> bool {
        let base = start.index();
        let mut at_join: Vec<Option<Box<[Points; 11]>>> = vec![None; end.index() - base];
        let mut entry = [Points::No; 11];
        entry[10] = Points::At(0);
        let mut open = vec![(start, entry)];
        let mut stored = false;
        while let Some((mut pc, mut regs)) = open.pop() {
            loop {
                if flow.join[pc.index()] || pc == start {
                    match &mut at_join[pc.index() - base] {
                        Some(known) => {
                            let mut joined = **known;
                            for (a, b) in joined.iter_mut().zip(regs) {
                                *a = a.join(b);
                            }
                            if joined == **known {
                                break;
                            }
                            **known = joined;
                            regs = joined;
                        }
                        none => *none = Some(Box::new(regs)),
                    }
                }
                let Some(insn) = program.insns.get(pc) else { break };
                stored |= self.follow(pc, &insn, &mut regs, from_memory);
                let next = cfg::next(&insn, pc);
                open.extend(next.jump.map(|to| (to, regs)));
                match next.fall {
                    Some(to) => pc = to,
                    None => break,
                }
            }
        }
        stored && !from_memory
    }

    fn follow(&mut self, pc: Pc, insn: &Insn, regs: &mut [Points; 11], from_memory: bool) -> bool {
        let touch = touch_of(insn, regs);
        // An instruction may be met with different pointers.
        let known = &mut self.touch[pc.index()];
        *known = match (*known, touch) {
            (a, b) if a == b => a,
            (Touch::None, b) => b,
            (a, Touch::None) => a,
            (Touch::From(a), Touch::From(b)) => Touch::From(a.min(b)),
            (Touch::At(_) | Touch::From(_) | Touch::Anywhere, _) => Touch::Anywhere,
        };
        let passed = regs[1..6].iter().any(|p| *p != Points::No);
        // The callee may store it where its caller finds it again.
        let mut stored = passed && enters_function(insn);
        if let Insn::Store { src: Src::Reg(src), .. } | Insn::StoreRelease { src, .. } | Insn::Atomic { src, .. } =
            *insn
        {
            stored |= regs[src.index()] != Points::No;
        }
        let value = points_after(insn, regs, from_memory);
        if matches!(insn, Insn::Call { .. } | Insn::CallSubprog { .. } | Insn::CallKfunc { .. } | Insn::CallX { .. }) {
            regs[1..6].fill(Points::No);
        }
        if let Some(dst) = cfg::written(insn) {
            regs[dst.index()] = value;
        }
        stored
    }
}

/// Whether functions of the program run during the instruction.
fn enters_function(insn: &Insn) -> bool {
    match *insn {
        Insn::Call { helper } => helper::calls_back(helper),
        _ => matches!(insn, Insn::CallSubprog { .. }),
    }
}

/// How `insn` touches the stack of its own frame.
fn touch_of(insn: &Insn, regs: &[Points; 11]) -> Touch {
    match *insn {
        Insn::Load { base, off, .. }
        | Insn::LoadSx { base, off, .. }
        | Insn::LoadAcquire { base, off, .. }
        | Insn::Store { base, off, .. }
        | Insn::StoreRelease { base, off, .. }
        | Insn::Atomic { base, off, .. } => match regs[base.index()] {
            Points::No => Touch::None,
            Points::At(p) => p.checked_add(off).map_or(Touch::Anywhere, Touch::At),
            Points::Maybe => Touch::Anywhere,
        },
        Insn::Call { .. } | Insn::CallSubprog { .. } | Insn::CallKfunc { .. } | Insn::CallX { .. } => {
            let subprogram = enters_function(insn);
            regs[1..6].iter().fold(Touch::None, |touch, arg| match (touch, arg) {
                (_, Points::No) => touch,
                (Touch::None, Points::At(p)) if !subprogram => Touch::From(*p),
                (Touch::From(q), Points::At(p)) if !subprogram => Touch::From(q.min(*p)),
                (_, Points::At(_) | Points::Maybe) => Touch::Anywhere,
            })
        }
        Insn::Alu { .. }
        | Insn::Neg { .. }
        | Insn::Mov { .. }
        | Insn::MovSx { .. }
        | Insn::Endian { .. }
        | Insn::LoadImm64 { .. }
        | Insn::LoadAbs { .. }
        | Insn::LoadInd { .. }
        | Insn::Ja { .. }
        | Insn::JaL { .. }
        | Insn::MayGoto { .. }
        | Insn::Jmp { .. }
        | Insn::Exit => Touch::None,
    }
}

/// Where the register that `insn` writes may point afterwards.
fn points_after(insn: &Insn, regs: &[Points; 11], from_memory: bool) -> Points {
    let at = |reg: Reg| regs[reg.index()];
    let perhaps = |yes: bool| if yes { Points::Maybe } else { Points::No };
    match *insn {
        Insn::Mov { src: Src::Reg(src), .. } => at(src),
        Insn::Mov { src: Src::Imm(_), .. } => Points::No,
        Insn::MovSx { src, .. } => perhaps(at(src) != Points::No),
        Insn::Alu { op, dst, src, .. } => match (at(dst), src) {
            (Points::At(p), Src::Imm(imm)) if op == AluOp::Add => {
                let sum = i16::try_from(imm).ok().and_then(|imm| p.checked_add(imm));
                sum.map_or(Points::Maybe, Points::At)
            }
            (Points::No, Src::Reg(src)) => perhaps(at(src) != Points::No),
            (Points::No, Src::Imm(_)) => Points::No,
            (Points::At(_) | Points::Maybe, _) => Points::Maybe,
        },
        Insn::Neg { dst, .. } | Insn::Endian { dst, .. } => perhaps(at(dst) != Points::No),
        Insn::Load { .. } | Insn::LoadSx { .. } | Insn::LoadAcquire { .. } | Insn::Atomic { .. } => {
            perhaps(from_memory)
        }
        Insn::CallSubprog { .. } => perhaps(from_memory || regs[1..6].iter().any(|p| *p != Points::No)),
        Insn::LoadImm64 { .. }
        | Insn::Store { .. }
        | Insn::StoreRelease { .. }
        | Insn::LoadAbs { .. }
        | Insn::LoadInd { .. }
        | Insn::Ja { .. }
        | Insn::JaL { .. }
        | Insn::MayGoto { .. }
        | Insn::Jmp { .. }
        | Insn::Call { .. }
        | Insn::CallKfunc { .. }
        | Insn::CallX { .. }
        | Insn::Exit => Points::No,
    }
}

/// Registers an instruction only writes.
fn only_written(insn: &Insn) -> u16 {
    if let Insn::MovSx { dst, src, .. } = *insn
        && dst != src
    {
        return bit(dst);
    }
    0
}

fn slot(off: i16) -> u64 {
    let below = -i32::from(off) - 1;
    if (0..512).contains(&below) { 1 << (below / 8) } else { 0 }
}

/// The slots an instruction may touch.
fn touched(touch: Touch) -> u64 {
    match touch {
        Touch::None => 0,
        Touch::At(off) => slot(off),
        Touch::From(off) => {
            let top = (-i32::from(off) - 1).clamp(-1, 511);
            if top < 0 { 0 } else { u64::MAX >> (63 - top / 8) }
        }
        Touch::Anywhere => u64::MAX,
    }
}
