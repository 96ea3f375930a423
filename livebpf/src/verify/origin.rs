//! Where the content of a register comes from: the instructions on the path that made it, found by walking the path again.
//!
//! Done for rejections only, so that accepted programs pay nothing. Where the path cannot be retraced for certain (through
//! callbacks, or where a tail call left a function) nothing is said.

use super::cfg;
use super::reject::Place;
use crate::helper;
use crate::insn::{Insn, Pc, Reg, Src};
use crate::link::Program;

/// Instructions walked before giving up.
const MAX_WALK: u32 = 2_000_000;
/// Instructions shown for a register, the last one first.
const SHOWN: usize = 4;
const NONE: u32 = u32::MAX;

/// An instruction that made a value, and the one that made what it was made from.
struct Made {
    pc: Pc,
    from: u32,
}

/// Registers of one activation, each with what made it.
struct Frame {
    regs: [u32; 11],
    call_site: Pc,
}

/// A path walked again from its start.
pub(super) struct Walk<'a> {
    program: &'a Program,
    made: Vec<Made>,
    frames: Vec<Frame>,
}

/// Where the path begins and ends: the end by its place and the calls that are open there, outermost first.
pub(super) struct Ends {
    pub start: Pc,
    pub end: Pc,
    pub calls: Vec<Pc>,
}

impl<'a> Walk<'a> {
    /// Walks from `ends.start` to `ends.end` by the sides of the jumps in `turns`; `None` where that does not work out.
    pub fn new(program: &'a Program, ends: &Ends, turns: &[(Pc, bool)]) -> Option<Walk<'a>> {
        let first = Frame { regs: [NONE; 11], call_site: ends.start };
        let mut walk = Walk { program, made: Vec::new(), frames: vec![first] };
        let mut turns = turns.iter();
        let mut pc = ends.start;
        for _ in 0..MAX_WALK {
            let inner = walk.frames.iter().skip(1).map(|frame| frame.call_site);
            if turns.len() == 0 && pc == ends.end && inner.eq(ends.calls.iter().copied()) {
                return Some(walk);
            }
            let insn = program.insns.get(pc)?;
            pc = match insn {
                Insn::Jmp { .. } | Insn::MayGoto { .. } => {
                    let (_, taken) = turns.next().filter(|(at, _)| *at == pc)?;
                    if *taken { insn.jump_target(pc)? } else { pc.next() }
                }
                Insn::Ja { .. } | Insn::JaL { .. } => insn.jump_target(pc)?,
                _ => walk.step(pc, &insn)?,
            };
        }
        None
    }

    fn top(&mut self) -> &mut Frame {
        self.frames.last_mut().expect("there is always one")
    }
    fn make(&mut self, reg: Reg, pc: Pc, from: Option<Reg>) {
        let from = from.map_or(NONE, |reg| self.top().regs[reg.index()]);
        self.made.push(Made { pc, from });
        let last = self.made.len() as u32 - 1;
        self.top().regs[reg.index()] = last;
    }
    /// What a call leaves behind.
    fn called(&mut self, pc: Pc) {
        self.top().regs[..6].fill(NONE);
        self.make(Reg::R0, pc, None);
    }

    /// Anything that is no jump; gives the next place.
    fn step(&mut self, pc: Pc, insn: &Insn) -> Option<Pc> {
        match *insn {
            Insn::CallSubprog { off } => {
                let func = self.program.subprog_starting_at(pc.jump(off)?)?;
                let sub = &self.program.subprogs[func.0 as usize];
                if !(sub.global && sub.signature.is_some()) {
                    let mut regs = [NONE; 11];
                    regs[1..6].copy_from_slice(&self.top().regs[1..6]);
                    self.top().regs[..6].fill(NONE);
                    self.frames.push(Frame { regs, call_site: pc });
                    return Some(sub.start);
                }
                self.called(pc);
            }
            Insn::Exit => {
                let done = self.frames.pop().filter(|_| !self.frames.is_empty())?;
                self.top().regs[0] = done.regs[0];
                return Some(done.call_site.next());
            }
            Insn::Call { helper } => {
                let leaves = helper == helper::id::TAIL_CALL && self.frames.len() > 1;
                if leaves || helper::calls_back(helper) {
                    return None;
                }
                self.called(pc);
            }
            Insn::CallKfunc { .. } => self.called(pc),
            Insn::LoadAbs { .. } | Insn::LoadInd { .. } if self.frames.len() > 1 => return None,
            Insn::Alu { dst, .. } | Insn::Neg { dst, .. } | Insn::Endian { dst, .. } => self.make(dst, pc, Some(dst)),
            Insn::Mov { dst, src: Src::Reg(src), .. } | Insn::MovSx { dst, src, .. } => self.make(dst, pc, Some(src)),
            _ => {
                if let Some(dst) = cfg::written(insn) {
                    self.make(dst, pc, None);
                }
            }
        }
        Some(Pc(pc.0 + insn.slots()))
    }

    /// What made the content of `reg` at the end, the last instruction first.
    pub fn of(&self, reg: Reg) -> Vec<Place> {
        let mut at = self.frames.last().map_or(NONE, |frame| frame.regs[reg.index()]);
        let mut places = Vec::new();
        while at != NONE && places.len() < SHOWN {
            let made = &self.made[at as usize];
            places.push(Place::new(self.program, made.pc));
            at = made.from;
        }
        places
    }
}
