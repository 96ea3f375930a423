//! Control flow: everything about a program's shape that holds without looking at values.
//!
//! After [`Flow::new`] every jump lands on an instruction of its own function, every call on the start of a
//! function, no function can be left by falling through its end, every instruction is reachable, no function
//! calls itself, and maps are known. Never looks at registers' contents.

use std::collections::BTreeSet;

use super::reject::{Rejection, Rule};
use crate::helper;
use crate::insn::{Imm64, Insn, Pc, Reg, Src};
use crate::link::{Program, SubprogId};

/// Deepest chain of calls.
pub(super) const MAX_FRAMES: usize = 8;

/// The shape of a program that passed the structural checks.
pub(super) struct Flow {
    /// Function of each slot.
    pub func: Vec<u16>,
    /// States are compared here: targets of jumps, calls of subprograms, and where they return to.
    pub join: Vec<bool>,
    /// Targets of jumps from the same place or further down.
    pub loop_head: Vec<bool>,
    /// The first instruction that writes R10: allowed only where it is never reached.
    pub writes_fp: Option<Pc>,
    /// By function: functions it calls, ascending, each once.
    pub callees: Vec<Vec<SubprogId>>,
    /// By function: the first tail call in it, reachable or not.
    pub tail_call: Vec<Option<Pc>>,
    /// By function: the first legacy packet load in it.
    pub legacy_load: Vec<Option<Pc>>,
    /// By slot, where there is a `may_goto` at all: whether the function can still get to one.
    may_goto_ahead: Vec<bool>,
    /// Functions in an order where callers come before callees; the main function first.
    pub order: Vec<SubprogId>,
}

/// Where control can go from an instruction within its function.
#[derive(Clone, Copy, Default)]
pub(super) struct Next {
    /// The next instruction.
    pub fall: Option<Pc>,
    /// The target of a jump.
    pub jump: Option<Pc>,
}

/// Successors of `insn` at `pc` within its function.
pub(super) fn next(insn: &Insn, pc: Pc) -> Next {
    let after = Pc(pc.0 + insn.slots());
    match insn {
        Insn::Exit => Next::default(),
        Insn::Ja { .. } | Insn::JaL { .. } => Next { fall: None, jump: insn.jump_target(pc) },
        Insn::Jmp { .. } | Insn::MayGoto { .. } => Next { fall: Some(after), jump: insn.jump_target(pc) },
        Insn::Alu { .. }
        | Insn::Neg { .. }
        | Insn::Mov { .. }
        | Insn::MovSx { .. }
        | Insn::Endian { .. }
        | Insn::LoadImm64 { .. }
        | Insn::Load { .. }
        | Insn::LoadSx { .. }
        | Insn::Store { .. }
        | Insn::Atomic { .. }
        | Insn::LoadAcquire { .. }
        | Insn::StoreRelease { .. }
        | Insn::LoadAbs { .. }
        | Insn::LoadInd { .. }
        | Insn::Call { .. }
        | Insn::CallSubprog { .. }
        | Insn::CallKfunc { .. }
        | Insn::CallX { .. } => Next { fall: Some(after), jump: None },
    }
}

/// The general register an instruction writes by itself (calls write R0 to R5 besides).
pub(super) fn written(insn: &Insn) -> Option<Reg> {
    use crate::insn::AtomicOp as Op;
    match *insn {
        Insn::Alu { dst, .. }
        | Insn::Neg { dst, .. }
        | Insn::Mov { dst, .. }
        | Insn::MovSx { dst, .. }
        | Insn::Endian { dst, .. }
        | Insn::LoadImm64 { dst, .. }
        | Insn::Load { dst, .. }
        | Insn::LoadSx { dst, .. }
        | Insn::LoadAcquire { dst, .. } => Some(dst),
        Insn::Atomic { op, src, .. } => match op {
            Op::Add { fetch } | Op::Or { fetch } | Op::And { fetch } | Op::Xor { fetch } => fetch.then_some(src),
            Op::Xchg => Some(src),
            Op::Cmpxchg => Some(Reg::R0),
        },
        Insn::LoadAbs { .. } | Insn::LoadInd { .. } => Some(Reg::R0),
        Insn::Call { .. } | Insn::CallSubprog { .. } | Insn::CallKfunc { .. } | Insn::CallX { .. } => Some(Reg::R0),
        Insn::Store { .. }
        | Insn::StoreRelease { .. }
        | Insn::Ja { .. }
        | Insn::JaL { .. }
        | Insn::MayGoto { .. }
        | Insn::Jmp { .. }
        | Insn::Exit => None,
    }
}

/// Every register an instruction names, as bits by number.
#[inline]
pub(crate) fn mentioned(insn: &Insn) -> u16 {
    let bit = |r: Reg| 1u16 << r.index();
    let src_bit = |s: Src| match s {
        Src::Reg(r) => bit(r),
        Src::Imm(_) => 0,
    };
    match *insn {
        Insn::Alu { dst, src, .. } | Insn::Mov { dst, src, .. } | Insn::Jmp { dst, src, .. } => bit(dst) | src_bit(src),
        Insn::Neg { dst, .. } | Insn::Endian { dst, .. } | Insn::LoadImm64 { dst, .. } => bit(dst),
        Insn::MovSx { dst, src, .. } => bit(dst) | bit(src),
        Insn::Load { dst, base, .. } | Insn::LoadSx { dst, base, .. } | Insn::LoadAcquire { dst, base, .. } => {
            bit(dst) | bit(base)
        }
        Insn::Store { base, src, .. } => bit(base) | src_bit(src),
        Insn::Atomic { base, src, .. } | Insn::StoreRelease { base, src, .. } => bit(base) | bit(src),
        Insn::LoadInd { src, .. } => bit(src) | bit(Reg::R6),
        Insn::LoadAbs { .. } => bit(Reg::R6),
        Insn::CallX { reg } => bit(reg),
        Insn::Call { .. }
        | Insn::CallSubprog { .. }
        | Insn::CallKfunc { .. }
        | Insn::Ja { .. }
        | Insn::JaL { .. }
        | Insn::MayGoto { .. }
        | Insn::Exit => 0,
    }
}

type Result<T> = std::result::Result<T, Box<Rejection>>;

impl Flow {
    /// Checks the program's shape.
    pub fn new(program: &Program) -> Result<Flow> {
        let (flow, left) = Flow::read(program)?;
        if let Some(pc) = left.first() {
            return Err(leaves(program, *pc));
        }
        if let Some(pc) = flow.dead(program).next() {
            return Err(Rejection::new(program, pc, Rule::Structure, format!("unreachable insn {pc}")));
        }
        Ok(flow)
    }

    /// The same for programs that may have code that nothing reaches.
    pub fn with_dead_code(program: &Program) -> Result<(Flow, Vec<bool>)> {
        let (flow, left) = Flow::read(program)?;
        let mut live = vec![true; program.insns.len() as usize];
        flow.dead(program).for_each(|pc| live[pc.index()] = false);
        match left.into_iter().find(|pc| live[pc.index()]) {
            Some(pc) => Err(leaves(program, pc)),
            None => Ok((flow, live)),
        }
    }

    /// Everything but what depends on reachability; the instructions behind which a function is left.
    fn read(program: &Program) -> Result<(Flow, Vec<Pc>)> {
        let func = functions(program)?;
        let count = program.subprogs.len();
        let mut flow = Flow {
            func,
            join: vec![false; program.insns.len() as usize],
            loop_head: vec![false; program.insns.len() as usize],
            writes_fp: None,
            callees: Vec::new(),
            tail_call: vec![None; count],
            legacy_load: vec![None; count],
            may_goto_ahead: Vec::new(),
            order: Vec::new(),
        };
        let mut callees = vec![BTreeSet::new(); count];
        let mut left = Vec::new();
        for (pc, insn) in program.insns.iter() {
            left.extend(flow.instruction(program, pc, &insn, &mut callees)?);
        }
        flow.callees = callees.into_iter().map(|set| set.into_iter().collect()).collect();
        flow.order = call_order(program, &flow.callees)?;
        flow.may_goto_ahead = may_goto_ahead(program);
        Ok((flow, left))
    }

    /// Instructions that no path from their function's start reaches.
    fn dead<'a>(&self, program: &'a Program) -> impl Iterator<Item = Pc> + use<'a> {
        program.subprogs.iter().flat_map(|sub| unreached(program, sub.start, sub.end))
    }

    /// Whether the function can get from `pc` to a `may_goto`.
    pub fn may_goto_ahead(&self, pc: Pc) -> bool {
        self.may_goto_ahead.get(pc.index()) == Some(&true)
    }
    /// A tail call in `func` or anything it calls.
    pub fn tail_call_below(&self, func: SubprogId) -> Option<Pc> {
        let mut seen = vec![false; self.callees.len()];
        let mut open = vec![func];
        while let Some(f) = open.pop() {
            let f = f.0 as usize;
            if self.tail_call[f].is_some() {
                return self.tail_call[f];
            }
            if !std::mem::replace(&mut seen[f], true) {
                open.extend(&self.callees[f]);
            }
        }
        None
    }

    /// Checks one instruction; answers it when control leaves the function behind it.
    fn instruction(
        &mut self,
        program: &Program,
        pc: Pc,
        insn: &Insn,
        callees: &mut [BTreeSet<SubprogId>],
    ) -> Result<Option<Pc>> {
        let reject = |message: String| Err(Rejection::new(program, pc, Rule::Structure, message));
        let f = self.func[pc.index()] as usize;
        if written(insn) == Some(Reg::FP) {
            self.writes_fp.get_or_insert(pc);
        }
        let next = next(insn, pc);
        let within = |to: Pc| self.func.get(to.index()).is_some_and(|g| *g as usize == f);
        if let Insn::Ja { .. } | Insn::JaL { .. } | Insn::Jmp { .. } | Insn::MayGoto { .. } = insn {
            let Some(to) = next.jump.filter(|&to| within(to)) else {
                let to = next.jump.map_or(-1, |to| i64::from(to.0));
                return reject(format!("jump out of range from insn {pc} to {to}"));
            };
            if program.insns.get(to).is_none() {
                return reject(format!("jump into the middle of ldimm64 insn {} from insn {pc}", to.0 - 1));
            }
            self.join[to.index()] = true;
            self.loop_head[to.index()] |= to <= pc;
        }
        let leaves = next.fall.is_some_and(|to| !within(to)).then_some(pc);
        match *insn {
            Insn::CallSubprog { off } => {
                let target = pc.jump(off).and_then(|to| program.subprog_starting_at(to));
                let Some(target) = target else {
                    return reject(format!(
                        "call to invalid destination from insn {pc}: wanted the start of a function"
                    ));
                };
                callees[f].insert(target);
                self.join[pc.index()] = true;
                self.join[pc.index() + 1] = true;
            }
            Insn::LoadImm64 { value, .. } => {
                check_immediate(program, pc, value)?;
                if let Imm64::Func { off } = value {
                    // Whoever gets the address may call it.
                    callees[f].extend(pc.jump(off).and_then(|to| program.subprog_starting_at(to)));
                }
            }
            Insn::Call { helper } if helper::calls_back(helper) => {
                self.join[pc.index()] = true;
            }
            Insn::MayGoto { .. } | Insn::CallKfunc { .. } => self.join[pc.index()] = true,
            Insn::Call { helper: helper::id::TAIL_CALL } => {
                self.tail_call[f].get_or_insert(pc);
            }
            Insn::LoadAbs { .. } | Insn::LoadInd { .. } => {
                self.legacy_load[f].get_or_insert(pc);
            }
            Insn::Alu { .. }
            | Insn::Neg { .. }
            | Insn::Mov { .. }
            | Insn::MovSx { .. }
            | Insn::Endian { .. }
            | Insn::Load { .. }
            | Insn::LoadSx { .. }
            | Insn::Store { .. }
            | Insn::Atomic { .. }
            | Insn::LoadAcquire { .. }
            | Insn::StoreRelease { .. }
            | Insn::Ja { .. }
            | Insn::JaL { .. }
            | Insn::Jmp { .. }
            | Insn::Call { .. }
            | Insn::CallX { .. }
            | Insn::Exit => {}
        }
        Ok(leaves)
    }
}

/// The rejection of a function that goes on behind its last instruction.
fn leaves(program: &Program, pc: Pc) -> Box<Rejection> {
    Rejection::new(program, pc, Rule::Structure, "last insn is not an exit or jmp".to_owned())
}

/// Checks that the functions tile the program; gives the function of each slot.
fn functions(program: &Program) -> Result<Vec<u16>> {
    let len = program.insns.len();
    let reject = |pc: Pc, message: &str| Err(Rejection::new(program, pc, Rule::Structure, message));
    if len == 0 {
        return reject(Pc(0), "the program has no instructions");
    }
    if program.subprogs.is_empty() || program.subprogs.len() > usize::from(u16::MAX) {
        return reject(Pc(0), "a program has between 1 and 65535 functions");
    }
    let mut func = Vec::with_capacity(len as usize);
    for (i, sub) in program.subprogs.iter().enumerate() {
        let starts_here = sub.start.index() == func.len();
        if !starts_here || sub.end <= sub.start || sub.end.0 > len || program.insns.get(sub.start).is_none() {
            return reject(sub.start, "functions do not cover the program without gaps");
        }
        func.resize(sub.end.index(), i as u16);
    }
    if func.len() != len as usize {
        return reject(Pc(func.len() as u32), "instructions outside of any function");
    }
    Ok(func)
}

/// From where a `may_goto` can be reached within its function; nothing where there is none.
fn may_goto_ahead(program: &Program) -> Vec<bool> {
    let is_one = |insn: &Insn| matches!(insn, Insn::MayGoto { .. });
    let mut ahead = Vec::new();
    if !program.insns.iter().any(|(_, insn)| is_one(&insn)) {
        return ahead;
    }
    let mut before = vec![Vec::new(); program.insns.len() as usize];
    let mut open = Vec::new();
    for (pc, insn) in program.insns.iter() {
        let next = next(&insn, pc);
        for to in [next.fall, next.jump].into_iter().flatten() {
            if let Some(before) = before.get_mut(to.index()) {
                before.push(pc);
            }
        }
        open.extend(is_one(&insn).then_some(pc));
    }
    ahead.resize(before.len(), false);
    while let Some(pc) = open.pop() {
        if !std::mem::replace(&mut ahead[pc.index()], true) {
            open.append(&mut before[pc.index()]);
        }
    }
    ahead
}

fn check_immediate(program: &Program, pc: Pc, value: Imm64) -> Result<()> {
    let known = |idx: i32| u32::try_from(idx).is_ok_and(|i| (i as usize) < program.maps.len());
    let (rule, message) = match value {
        Imm64::Const(_) => return Ok(()),
        Imm64::MapIdx(idx) | Imm64::MapIdxValue { idx, .. } if known(idx) => return Ok(()),
        Imm64::Func { off } if pc.jump(off).and_then(|to| program.subprog_starting_at(to)).is_some() => return Ok(()),
        Imm64::MapIdx(idx) | Imm64::MapIdxValue { idx, .. } => (Rule::Structure, format!("there is no map {idx}")),
        Imm64::Func { .. } => (Rule::Structure, "the address of a function does not lead to its start".to_owned()),
        Imm64::MapFd(_) | Imm64::MapFdValue { .. } => {
            (Rule::Structure, "not pointing to valid bpf_map: a map by file descriptor in a linked program".to_owned())
        }
        Imm64::BtfId { id, .. } => (Rule::Unsupported, format!("unsupported: kernel variable with btf id {id}")),
    };
    Err(Rejection::new(program, pc, rule, message))
}

/// The instructions of one function that no path from its start reaches.
fn unreached(program: &Program, start: Pc, end: Pc) -> Vec<Pc> {
    let base = start.index();
    let inside = |to: &Pc| (start..end).contains(to);
    let mut seen = vec![false; end.index() - base];
    let mut open = vec![start];
    while let Some(mut pc) = open.pop() {
        while !std::mem::replace(&mut seen[pc.index() - base], true) {
            let Some(insn) = program.insns.get(pc) else { break };
            let next = next(&insn, pc);
            open.extend(next.jump.filter(|to| inside(to) && !seen[to.index() - base]));
            match next.fall.filter(inside) {
                Some(to) => pc = to,
                None => break,
            }
        }
    }
    let all = (start.0..end.0).map(Pc);
    all.filter(|pc| !seen[pc.index() - base] && program.insns.get(*pc).is_some()).collect()
}

/// Orders functions so that callers come first; refuses recursion.
fn call_order(program: &Program, callees: &[Vec<SubprogId>]) -> Result<Vec<SubprogId>> {
    let mut mark = vec![0u8; callees.len()];
    let mut post = Vec::with_capacity(callees.len());
    for root in 0..callees.len() {
        if mark[root] != 0 {
            continue;
        }
        mark[root] = 1;
        let mut open = vec![(root, 0)];
        while let Some((f, i)) = open.pop() {
            let Some(callee) = callees[f].get(i) else {
                mark[f] = 2;
                post.push(SubprogId(f as u32));
                continue;
            };
            open.push((f, i + 1));
            let g = callee.0 as usize;
            if mark[g] == 1 {
                let name = |f: usize| &program.subprogs[f].name;
                let message = format!(
                    "recursive call from {}() to {}(): the call stack of {} frames is too deep",
                    name(f),
                    name(g),
                    MAX_FRAMES + 1
                );
                return Err(Rejection::new(program, program.subprogs[f].start, Rule::Call, message));
            }
            if mark[g] == 0 {
                mark[g] = 1;
                open.push((g, 0));
            }
        }
    }
    post.reverse();
    Ok(post)
}
