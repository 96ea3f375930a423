//! What has to be known about a program before the first byte is emitted: jump targets, loop heads, argument
//! set-up that nothing reads, and each function's frame and calls. One pass over the instructions.

use std::ops::Range;

use super::frame::{Calls, Needs};
use super::options::{JitError, Options};
use crate::helper::{self, redirect};
use crate::insn::{Imm64, Insn, Pc, Reg, Src};
use crate::link::{MapId, Program};
use crate::map::ArrayLayout;
use crate::object::{MapType, ProgType};
use crate::verify::{self, Facts, FuncFacts, InsnFacts, TailCall};

/// Some jump leads here.
const TARGET: u8 = 1;
/// Some jump leads here from further on: a loop's head.
const LOOP: u8 = 2;
/// The same, from more than [`SHORT`] slots on; from more than [`MIDDLE`].
const LONGER: u8 = 8;
const LONG: u8 = 16;
/// A loop of so many instructions has about 32 bytes; 64 bytes.
const SHORT: u32 = 6;
const MIDDLE: u32 = 14;
/// Nothing reads what this instruction computes.
const UNUSED: u8 = 4;
/// Nothing gets here.
const DEAD: u8 = 32;

/// The plan.
pub(super) struct Plan {
    marks: Vec<u8>,
    /// By function.
    pub needs: Vec<Needs>,
    /// By function.
    pub calls: Vec<Calls>,
    /// By function.
    needed: Vec<bool>,
}

/// How a helper call is compiled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum CallKind {
    TailCall(TailCall),
    ArrayLookup(MapId),
    /// A lookup of a constant in an array: the value lies so many bytes behind the first one.
    ArrayElement {
        map: MapId,
        offset: u32,
    },
    /// A lookup in an array of maps.
    ArrayOfMapsLookup(MapId),
    /// A lookup in an array that was found in a map of maps.
    InnerArrayLookup(MapId),
    /// A lookup in a hash map: the helper for its size of keys, and whether it wants to know the CPU.
    HashLookup {
        helper: u32,
        per_cpu: bool,
    },
    /// The number of the CPU, which is in r12.
    Cpu,
    /// A redirection to an interface.
    Redirect,
    /// A redirection to an entry of a map whose entries are words.
    RedirectMap(MapId),
    Native,
}

/// How the call of `helper` at `pc` is compiled.
pub(super) fn call_kind(program: &Program, facts: &Facts, pc: Pc, helper: u32) -> CallKind {
    let at = facts.at(pc);
    match (helper, at.map()) {
        (helper::id::TAIL_CALL, _) => CallKind::TailCall(at.tail_call().unwrap_or(TailCall::Dynamic)),
        (helper::id::GET_SMP_PROCESSOR_ID, _) => CallKind::Cpu,
        (helper::id::MAP_LOOKUP_ELEM, Some(map)) => lookup_kind(program, map, at.index()),
        (helper::id::REDIRECT, _) if is_of_packets(program) => CallKind::Redirect,
        (helper::id::REDIRECT_MAP, Some(map)) => redirect_map_kind(program, map),
        _ => CallKind::Native,
    }
}

fn lookup_kind(program: &Program, map: MapId, index: Option<u32>) -> CallKind {
    let Some(def) = program.find_map(map) else { return CallKind::Native };
    let per_cpu = match (def.map_type, map.is_template()) {
        (MapType::ARRAY | MapType::PERCPU_ARRAY, false) => {
            let (stride, _) = ArrayLayout::strides(def.value_size, def.max_entries);
            let offset = index.and_then(|index| u32::try_from(stride.checked_mul(index.into())?).ok());
            return offset.map_or(CallKind::ArrayLookup(map), |offset| CallKind::ArrayElement { map, offset });
        }
        (MapType::ARRAY, true) => return CallKind::InnerArrayLookup(map),
        (MapType::ARRAY_OF_MAPS, false) => return CallKind::ArrayOfMapsLookup(map),
        (MapType::HASH | MapType::LRU_HASH | MapType::HASH_OF_MAPS, _) => false,
        (MapType::PERCPU_HASH | MapType::LRU_PERCPU_HASH, _) => true,
        _ => return CallKind::Native,
    };
    let helper = match def.key_size {
        4 => helper::id::LOOKUP_HASH_4,
        8 => helper::id::LOOKUP_HASH_8,
        16 => helper::id::LOOKUP_HASH_16,
        _ => return CallKind::Native,
    };
    CallKind::HashLookup { helper, per_cpu }
}

/// Whether runs of the program begin in one of its own type (and not in the one that it extends).
fn is_of_packets(program: &Program) -> bool {
    let own = [ProgType::XDP, ProgType::SCHED_CLS, ProgType::SCHED_ACT, ProgType::LWT_XMIT];
    own.contains(&program.kind.prog_type)
}

fn redirect_map_kind(program: &Program, map: MapId) -> CallKind {
    let has_words = program.find_map(map).is_some_and(|def| redirect::has_words(def.map_type));
    if has_words && !map.is_template() { CallKind::RedirectMap(map) } else { CallKind::Native }
}

/// Where a conditional or unconditional jump at `pc` goes when it is taken; `None` when it is never taken.
pub(super) fn taken(facts: &Facts, pc: Pc, insn: &Insn) -> Option<i32> {
    match *insn {
        Insn::Ja { off } | Insn::MayGoto { off } => Some(off.into()),
        Insn::JaL { off } => Some(off),
        Insn::Jmp { off, .. } => (facts.at(pc).always() != Some(false)).then_some(off.into()),
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
        | Insn::CallX { .. }
        | Insn::Exit => None,
    }
}

/// Whether the instruction after the one at `pc` can follow it.
pub(super) fn falls_through(facts: &Facts, pc: Pc, insn: &Insn) -> bool {
    let always = matches!(insn, Insn::Jmp { .. }) && facts.at(pc).always() == Some(true);
    !always && !matches!(insn, Insn::Ja { .. } | Insn::JaL { .. } | Insn::Exit)
}

impl Plan {
    pub(super) fn new(program: &Program, facts: &Facts, options: &Options) -> Result<Plan, JitError> {
        let funcs = program.subprogs.len();
        let mut plan = Plan {
            marks: facts.insns.iter().map(mark_of).collect(),
            needs: Vec::with_capacity(funcs),
            calls: Vec::with_capacity(funcs),
            needed: vec![false; funcs],
        };
        plan.marks.resize(program.insns.len() as usize, DEAD);
        for (i, func) in program.subprogs.iter().enumerate() {
            let FuncFacts { stack_depth, callee_saved, frame_pointer: rbp, reads_unwritten: zeroed, .. } =
                facts.funcs.get(i).copied().unwrap_or_default();
            if stack_depth > 512 {
                return Err(JitError::Stack { func: func.name.clone(), depth: stack_depth });
            }
            let mut needs = Needs { stack_depth, callee_saved, rbp, zeroed, ..Needs::default() };
            let mut calls = Calls::default();
            // Most instructions need no planning.
            let planned = |(_, insn): &(Pc, &Insn)| !stays_in_line(insn) || matches!(insn, Insn::LoadImm64 { .. });
            for (pc, insn) in program.insns.within(func.start..func.end).filter(planned) {
                if plan.marked(pc, DEAD | UNUSED) {
                    continue;
                }
                plan.mark_target(facts, pc, insn);
                needs.note(program, facts, pc, insn);
                calls.note(program, facts, pc, insn)?;
                if let Insn::Call { helper } = *insn
                    && !facts.reads_after_calls
                {
                    plan.mark_unused(program, facts, options, pc, helper);
                }
            }
            plan.needs.push(needs);
            calls.callees.iter().for_each(|callee| plan.needed[*callee] = true);
            plan.calls.push(calls);
        }
        Ok(plan)
    }

    /// Whether the function is called, or its address taken; the program begins with the first.
    pub(super) fn is_needed(&self, func: usize) -> bool {
        func == 0 || self.needed.get(func) == Some(&true)
    }

    #[inline]
    fn marked(&self, pc: Pc, mark: u8) -> bool {
        self.marks.get(pc.index()).is_some_and(|m| m & mark != 0)
    }
    fn mark(&mut self, pc: Pc, mark: u8) {
        if let Some(m) = self.marks.get_mut(pc.index()) {
            *m |= mark;
        }
    }
    /// Whether anything is to be known about `pc`: whether it [is dead](Plan::is_dead), [a target](Plan::is_target), has an
    /// [alignment](Plan::loop_alignment) or [is not used](Plan::is_unused).
    #[inline]
    pub(super) fn is_special(&self, pc: Pc) -> bool {
        self.marked(pc, !0)
    }
    /// Whether nothing gets to `pc`.
    pub(super) fn is_dead(&self, pc: Pc) -> bool {
        self.marked(pc, DEAD)
    }
    /// Whether some jump leads to `pc`.
    pub(super) fn is_target(&self, pc: Pc) -> bool {
        self.marked(pc, TARGET)
    }
    /// How a loop that begins at `pc` is aligned: so that a small one lies in one cache line. (Crossing the boundary of two takes a
    /// cycle for each pass, which is half of the time of a loop that sums up.)
    pub(super) fn loop_alignment(&self, pc: Pc) -> Option<u8> {
        let head = self.marked(pc, LOOP);
        head.then(|| match (self.marked(pc, LONGER), self.marked(pc, LONG)) {
            (false, false) => 32,
            (true, false) => 64,
            (_, true) => 16,
        })
    }
    /// Whether nothing reads what the instruction at `pc` computes.
    pub(super) fn is_unused(&self, pc: Pc) -> bool {
        self.marked(pc, UNUSED)
    }

    fn mark_target(&mut self, facts: &Facts, pc: Pc, insn: &Insn) {
        if let Some(target) = taken(facts, pc, insn).and_then(|off| pc.jump(off)) {
            let slots = (pc.0 + 1).saturating_sub(target.0);
            let loops = if slots > 0 { LOOP } else { 0 };
            let longer = if slots > SHORT { LONGER } else { 0 };
            let long = if slots > MIDDLE { LONG } else { 0 };
            self.mark(target, TARGET | loops | longer | long);
        }
    }

    /// Marks the instructions whose only use is an argument that the call at `pc` does not read.
    ///
    /// They stand before the call in the same stretch without jumps, and the call makes R1 to R5 unreadable, so
    /// nothing else can read them; labels in between only add other ways to the same call.
    fn mark_unused(&mut self, program: &Program, facts: &Facts, options: &Options, pc: Pc, helper: u32) {
        let mut wanted: u16 = match call_kind(program, facts, pc, helper) {
            CallKind::TailCall(TailCall::Direct { map, .. }) if options.patches(map) => bit(Reg::R2) | bit(Reg::R3),
            CallKind::TailCall(TailCall::Direct { .. }) => bit(Reg::R2) | bit(Reg::R3),
            CallKind::TailCall(TailCall::Indirect { .. }) => bit(Reg::R2),
            CallKind::ArrayLookup(_) | CallKind::ArrayOfMapsLookup(_) => bit(Reg::R1),
            CallKind::ArrayElement { .. } => bit(Reg::R1) | bit(Reg::R2),
            CallKind::TailCall(TailCall::Dynamic)
            | CallKind::InnerArrayLookup(_)
            | CallKind::HashLookup { .. }
            | CallKind::Cpu
            | CallKind::Redirect
            | CallKind::RedirectMap(_)
            | CallKind::Native => 0,
        };
        let mut at = pc;
        while wanted != 0 {
            let Some(before) = at.0.checked_sub(1).map(Pc) else { return };
            at = before;
            let Some(insn) = program.insns.get_ref(at) else { continue };
            if !facts.reached(at) || !stays_in_line(insn) {
                return;
            }
            let defined = pure_definition(insn).filter(|(dst, _)| wanted & bit(*dst) != 0);
            match defined {
                Some((dst, keeps)) => {
                    self.mark(at, UNUSED);
                    if !keeps {
                        wanted &= !bit(dst);
                    }
                }
                None => wanted &= !mentioned(insn),
            }
        }
    }
}

/// What the facts say for themselves.
fn mark_of(insn: &InsnFacts) -> u8 {
    let dead = if insn.reached { 0 } else { DEAD };
    let unused = if insn.unused { UNUSED } else { 0 };
    dead | unused
}

/// Whether control reaches the instruction only from the one before or a label, and leaves it only to the next.
#[inline]
fn stays_in_line(insn: &Insn) -> bool {
    match insn {
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
        | Insn::StoreRelease { .. } => true,
        Insn::LoadAbs { .. }
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

/// The register that the instruction sets, where setting it is all it does; and whether what was in it before counts.
fn pure_definition(insn: &Insn) -> Option<(Reg, bool)> {
    match *insn {
        Insn::Mov { dst, .. } | Insn::MovSx { dst, .. } | Insn::LoadImm64 { dst, .. } => Some((dst, false)),
        Insn::Alu { dst, src: Src::Imm(_), .. } => Some((dst, true)),
        _ => None,
    }
}

fn bit(r: Reg) -> u16 {
    1 << r.number()
}

/// The registers that the instruction names or changes, as bits by number.
fn mentioned(insn: &Insn) -> u16 {
    let unnamed = match insn {
        Insn::Call { .. } | Insn::CallSubprog { .. } | Insn::CallKfunc { .. } => 0x3f,
        Insn::Atomic { .. } | Insn::LoadAbs { .. } | Insn::LoadInd { .. } => bit(Reg::R0),
        _ => 0,
    };
    verify::mentioned(insn) | unnamed
}

impl Needs {
    fn note(&mut self, program: &Program, facts: &Facts, pc: Pc, insn: &Insn) {
        self.may_goto |= matches!(insn, Insn::MayGoto { .. });
        self.calls |= match *insn {
            Insn::CallSubprog { off } => !callee(program, pc, off).is_ok_and(|func| is_inlined(program, facts, func)),
            Insn::CallKfunc { .. } => true,
            _ => false,
        };
        if let Insn::Call { helper } = *insn {
            let kind = call_kind(program, facts, pc, helper);
            self.calls |= match kind {
                CallKind::Native | CallKind::HashLookup { .. } | CallKind::Redirect | CallKind::RedirectMap(_) => true,
                CallKind::TailCall(_)
                | CallKind::ArrayLookup(_)
                | CallKind::ArrayElement { .. }
                | CallKind::ArrayOfMapsLookup(_)
                | CallKind::InnerArrayLookup(_)
                | CallKind::Cpu => false,
            };
            self.rbp |= matches!(kind, CallKind::TailCall(_));
        }
    }
}

impl Calls {
    fn note(&mut self, program: &Program, facts: &Facts, pc: Pc, insn: &Insn) -> Result<(), JitError> {
        if let Insn::CallSubprog { off } | Insn::LoadImm64 { value: Imm64::Func { off }, .. } = *insn {
            let func = callee(program, pc, off)?;
            if !matches!(insn, Insn::CallSubprog { .. }) || !is_inlined(program, facts, func) {
                self.callees.push(func);
            }
        }
        self.tail_call |= matches!(insn, Insn::Call { helper: helper::id::TAIL_CALL });
        Ok(())
    }
}

/// Most slots of a function that stands in place of its calls.
const INLINED: u32 = 8;

/// The instructions that a call of `func` comes to, where that is a few that are carried out one after the other, and neither need a frame
/// nor change a register that the caller keeps.
pub(super) fn inlined(program: &Program, facts: &Facts, func: usize) -> Option<Range<Pc>> {
    let kept = [Reg::R6, Reg::R7, Reg::R8, Reg::R9, Reg::R10].map(bit).into_iter().fold(0, |all, one| all | one);
    let body = program.subprogs.get(func).filter(|func| func.end.0 - func.start.0 <= INLINED)?;
    let mut pc = body.start;
    loop {
        let insn = program.insns.get_ref(pc).filter(|_| pc < body.end && facts.reached(pc))?;
        match insn {
            Insn::Exit => return Some(body.start..pc),
            _ if stays_in_line(insn) && mentioned(insn) & kept == 0 => pc = Pc(pc.0 + insn.slots()),
            _ => return None,
        }
    }
}

fn is_inlined(program: &Program, facts: &Facts, func: usize) -> bool {
    inlined(program, facts, func).is_some()
}

/// The function that begins `off` slots after the next.
pub(super) fn callee(program: &Program, pc: Pc, off: i32) -> Result<usize, JitError> {
    pc.jump(off)
        .and_then(|target| program.subprog_starting_at(target))
        .map(|id| id.0 as usize)
        .ok_or(JitError::BadCall { pc, target: i64::from(pc.0) + 1 + i64::from(off) })
}
