//! The exploration of all paths, depth first, with an explicit list of branches still to follow.
//!
//! At places where paths meet, states are stored; a path ends where a completely explored state covers it. A state
//! that returns unchanged to a place on its own path is an endless loop. Nothing here recurses on the program.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use super::branch::Sides;
use super::cfg::{self, Flow};
use super::claims::Claims;
use super::history::{History, Position, Way};
use super::live;
use super::log::Trace;
use super::looping::Counted;
use super::memory::Cell;
use super::notes::{Notes, registers};
use super::origin::{Ends, Walk};
use super::prune::{self, Compare, Mode, Names};
use super::reject::{Decision, Fail, Origin, Rejection, Rule, Step};
use super::state::{Forks, Frame, Kind, State, Value};
use super::{Options, unproven, untrusted};
use crate::context::TypeDesc;
use crate::insn::{Imm64, Insn, Pc, Reg, Src};
use crate::link::{MapId, Program, SubprogId};

/// Jumps shown in a rejection.
const SHOWN_PATH: usize = 24;
/// A state is stored once so many jumps and instructions lie behind the last one.
const STORE_JUMPS: u64 = 1;
const STORE_INSNS: u64 = 8;
/// Bytes that stored states may take; beyond, those of least use are dropped.
const MAX_STORED_BYTES: u64 = 96 << 20;
/// Branches left to follow at a time, as in the kernel.
const MAX_OPEN: usize = 8192;

/// A source of fresh names.
#[derive(Default)]
pub(super) struct Ids(u32);

impl Ids {
    pub fn next(&mut self) -> u32 {
        self.0 += 1;
        self.0
    }
}

/// Spreads places: none of them meet.
#[derive(Default)]
struct PcHasher(u64);

impl Hasher for PcHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u32(u32::from(*byte)));
    }
    fn write_u32(&mut self, pc: u32) {
        self.0 = (self.0 ^ u64::from(pc)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

struct Stored {
    state: Box<State>,
    misses: u32,
    hits: u32,
    /// Bytes it takes.
    weight: u32,
}

/// A path that ended at a state below which something was still to be explored: to be looked at again once that is done.
struct Leap {
    /// The state that covers, and the one that is covered.
    old: Box<State>,
    new: Box<State>,
    pc: Pc,
    names: Names,
}

/// Where a path goes after an instruction.
pub(super) enum To {
    /// On at this place.
    Next(Pc),
    /// Nowhere: the path is finished.
    End,
}

/// Verification of one program.
pub(super) struct Verifier<'a> {
    pub program: &'a Program,
    pub options: &'a Options<'a>,
    pub desc: &'static TypeDesc,
    pub flow: &'a Flow,
    pub notes: Notes,
    pub ids: Ids,
    /// How untrusted programs move pointers.
    pub moves: untrusted::Moves,
    /// By function: whether calling it leaves packet pointers stale.
    pub moves_packet: Vec<bool>,
    /// The function that is verified on its own.
    pub root: SubprogId,
    /// By slot: the registers that are live just before it.
    pub live: Vec<u16>,
    pub history: History,
    compare: Compare,
    pub forks: Forks,
    stored: HashMap<Pc, Vec<Stored>, BuildHasherDefault<PcHasher>>,
    /// In the order in which they ended; `None`: it went on.
    leaps: Vec<Option<Leap>>,
    /// Every number counts as one that matters: for tests of what is claimed about them.
    every_number: bool,
    /// Branches to follow: the state, where it goes on, and the instruction it comes from.
    open: Vec<(Box<State>, Pc, Pc)>,
    /// The instruction that is looked at.
    at: Pc,
    pub trace: Option<Trace<'a>>,
    pub processed: u64,
    jumps: u64,
    last_store: (u64, u64),
    states: u64,
    stored_bytes: u64,
    pub peak_states: u64,
    pub total_states: u64,
    pub max_states_per_insn: u64,
}

impl<'a> Verifier<'a> {
    pub fn new(
        program: &'a Program,
        options: &'a Options<'a>,
        desc: &'static TypeDesc,
        flow: &'a Flow,
        moves_packet: Vec<bool>,
    ) -> Verifier<'a> {
        let slots = program.insns.len() as usize;
        Verifier {
            program,
            options,
            desc,
            flow,
            notes: Notes::new(slots, program.subprogs.len()),
            ids: Ids::default(),
            moves: untrusted::Moves::new(),
            moves_packet,
            root: SubprogId(0),
            live: live::registers(program, flow),
            history: History::default(),
            compare: Compare::default(),
            forks: Forks::default(),
            stored: HashMap::default(),
            leaps: Vec::new(),
            every_number: options.claims.is_some_and(Claims::every_number),
            open: Vec::new(),
            at: Pc(0),
            trace: None,
            processed: 0,
            jumps: 0,
            last_store: (0, 0),
            states: 0,
            stored_bytes: 0,
            peak_states: 0,
            total_states: 0,
            max_states_per_insn: 0,
        }
    }

    /// Explores everything that can follow from `entry` at the start of `func`.
    pub fn explore(&mut self, func: SubprogId, entry: State) -> Result<(), Box<Rejection>> {
        self.root = func;
        self.stored.clear();
        (self.states, self.stored_bytes) = (0, 0);
        self.history.clear();
        self.leaps.clear();
        let start = self.program.subprogs[func.0 as usize].start;
        let mut entry = Box::new(State { at: Position::START, ..entry });
        self.history.node(&mut entry.at, start, 1, self.processed);
        self.open.push((entry, start, start));
        self.title(func);
        let mut first = true;
        while let Some((mut state, mut pc, from)) = self.open.pop() {
            if let (Some(trace), false) = (&mut self.trace, std::mem::take(&mut first)) {
                trace.resume(from);
            }
            loop {
                self.at = pc;
                let step = self.step(&mut state, pc);
                if self.trace.is_some() {
                    self.traced(&state, pc, &step);
                }
                match step {
                    Ok(To::Next(next)) => pc = next,
                    Ok(To::End) => break,
                    Err(fail) => return Err(self.reject(&state, pc, *fail)),
                }
            }
            self.history.finish(state.at.node);
            self.forks.give_back(state);
            self.land()?;
        }
        Ok(())
    }

    /// The number in `reg` of the running frame matters just before `pc`.
    pub fn demand(&mut self, state: &State, pc: Pc, reg: Reg) {
        self.history.demand(&self.program.insns, &state.at, state.depth(), pc, reg);
    }

    /// Another branch of the path that `state` is on, to be followed later.
    pub fn later(&mut self, state: Box<State>, pc: Pc) {
        self.history.branch(state.at.node);
        self.open.push((state, pc, self.at));
    }

    fn step(&mut self, state: &mut State, pc: Pc) -> Step<To> {
        if self.flow.join[pc.index()] && self.covered(state, pc)? {
            if let Some(trace) = &mut self.trace {
                trace.safe(pc);
            }
            return Ok(To::End);
        }
        if History::is_far(&state.at, self.processed) {
            self.history.node(&mut state.at, pc, state.callers.len() + 1, self.processed);
        }
        self.processed += 1;
        if self.processed > self.options.limit {
            let text = format!("BPF program is too large. Processed {} insn", self.processed);
            return Err(Fail::new(Rule::Termination, text).help("shorten loops, or give them a smaller constant bound"));
        }
        self.notes.reach(pc);
        if let Some(claims) = self.options.claims {
            claims.note(state, pc);
        }
        let Some(insn) = self.program.insns.get(pc) else { unreachable!("control flow was checked") };
        if let Some(trace) = &mut self.trace {
            trace.before(self.program, self.options.helpers, state, pc, &insn);
        }
        let after = Pc(pc.0 + insn.slots());
        if self.flow.writes_fp.is_some() && cfg::written(&insn) == Some(Reg::FP) {
            return Err(Fail::new(Rule::Structure, "frame pointer is read only").with(Reg::FP));
        }
        match insn {
            Insn::Alu { .. } | Insn::Neg { .. } | Insn::Mov { .. } | Insn::MovSx { .. } | Insn::Endian { .. } => {
                self.arithmetic(state, pc, &insn)?;
            }
            Insn::LoadImm64 { dst, value } => {
                let value = self.immediate(pc, value)?;
                state.set(dst, value);
            }
            Insn::Load { size, dst, base, off } => self.load(state, pc, dst, Cell::new(size, base, off), false)?,
            Insn::LoadSx { size, dst, base, off } => self.load(state, pc, dst, Cell::new(size, base, off), true)?,
            Insn::LoadAcquire { size, dst, base, off } => {
                self.atomic_base(state, base, "load_acquire")?;
                self.load(state, pc, dst, Cell::new(size, base, off).strict(), false)?;
            }
            Insn::Store { size, base, off, src } => self.store(state, pc, Cell::new(size, base, off), src)?,
            Insn::StoreRelease { size, base, off, src } => {
                self.readable(state, src)?;
                self.atomic_base(state, base, "store_release")?;
                self.store(state, pc, Cell::new(size, base, off).strict(), Src::Reg(src))?;
            }
            Insn::Atomic { .. } => self.atomic(state, pc, &insn)?,
            Insn::LoadAbs { size, .. } => self.legacy_load(state, pc, size, None)?,
            Insn::LoadInd { size, src, .. } => self.legacy_load(state, pc, size, Some(src))?,
            Insn::Ja { .. } | Insn::JaL { .. } => {
                self.jumps += 1;
                let target = insn.jump_target(pc).unwrap_or(after);
                self.history.went(&mut state.at, pc, target, Way::Always, state.callers.len());
                return Ok(To::Next(target));
            }
            Insn::Jmp { .. } => return self.jump(state, pc, &insn),
            Insn::Call { helper } => self.helper(state, pc, helper)?,
            Insn::CallSubprog { off } => {
                self.jumps += 1;
                return self.call(state, pc, off);
            }
            Insn::Exit => {
                self.jumps += 1;
                return self.exit(state, pc);
            }
            Insn::MayGoto { .. } => {
                self.jumps += 1;
                return Ok(self.may_goto(state, pc, &insn));
            }
            Insn::CallKfunc { btf_id, .. } => self.kfunc(state, pc, btf_id)?,
            Insn::CallX { reg } => {
                return Err(Fail::new(Rule::Structure, unproven::callx(reg)));
            }
        }
        // A tail call or a legacy load of the outermost frame may have ended the path; both fall through as well.
        Ok(To::Next(after))
    }

    fn jump(&mut self, state: &mut State, pc: Pc, insn: &Insn) -> Step<To> {
        self.jumps += 1;
        let target = insn.jump_target(pc).unwrap_or(pc.next());
        match self.branch(state, pc, insn)? {
            Sides::Both(mut taken) => {
                self.turn(&mut taken, pc, target, true);
                self.later(taken, target);
                if self.open.len() > MAX_OPEN {
                    let text = format!("The sequence of {MAX_OPEN} jumps is too complex.");
                    return Err(Fail::new(Rule::Termination, text));
                }
            }
            Sides::Taken => {
                self.turn(state, pc, target, true);
                return Ok(To::Next(target));
            }
            Sides::Fall => {}
            Sides::Neither => return Ok(To::End),
        }
        self.turn(state, pc, pc.next(), false);
        Ok(To::Next(pc.next()))
    }

    /// Notes which side of a jump `state` is on, and where that leads.
    pub(super) fn turn(&mut self, state: &mut State, pc: Pc, to: Pc, taken: bool) {
        self.notes.branch(pc, taken);
        self.history.went(&mut state.at, pc, to, Way::Side(taken), state.callers.len());
    }

    /// Ends a path that an explored state covers, and stores the state otherwise.
    fn covered(&mut self, state: &mut State, pc: Pc) -> Step<bool> {
        let counted = self.counted(state, pc);
        let mut list = self.stored.remove(&pc).unwrap_or_default();
        let found = self.find_cover(&mut list, state, pc, counted)?;
        let (jumps, insns) = self.last_store;
        let due = self.jumps - jumps >= STORE_JUMPS && self.processed - insns >= STORE_INSNS;
        if !found && (due || counted.is_some()) {
            if due {
                self.last_store = (self.jumps, self.processed);
            }
            self.history.node(&mut state.at, pc, state.callers.len() + 1, self.processed);
            let mut copy = self.forks.fork(state);
            prune::clean(&mut copy, pc, &self.live);
            let weight = copy.weight();
            list.push(Stored { state: copy, misses: 0, hits: 0, weight });
            self.states += 1;
            self.total_states += 1;
            self.max_states_per_insn = self.max_states_per_insn.max(list.len() as u64);
            self.stored_bytes += u64::from(weight);
            self.peak_states = self.peak_states.max(self.states);
        }
        if !list.is_empty() {
            self.stored.insert(pc, list);
        }
        if self.stored_bytes > MAX_STORED_BYTES {
            self.drop_useless();
        }
        Ok(found)
    }

    /// Looks for a stored state that makes `state` superfluous; forgets those that were compared too often in vain.
    fn find_cover(&mut self, list: &mut Vec<Stored>, state: &State, pc: Pc, counted: Option<Counted>) -> Step<bool> {
        let mut i = 0;
        while i < list.len() {
            let entry = &mut list[i];
            let node = entry.state.at.node;
            let open = self.history.is_open(node);
            let by_count = open && counted.is_some_and(|c| c.may_cover(&entry.state, state));
            if by_count || !open {
                let settled = self.history.is_settled(node);
                let names = if settled { Names::Alike } else { Names::Same };
                let marks = (!self.every_number).then(|| self.history.marks(node));
                if self.compare.states(&entry.state, state, pc, &self.live, marks, Mode::Covers(names)) {
                    entry.hits += 1;
                    self.history.inherit(&self.program.insns, &state.at, pc, node);
                    if !settled {
                        self.history.covered_by(state.at.node, node);
                        self.leaps.push(Some(Leap {
                            old: self.forks.fork(&entry.state),
                            new: self.forks.fork(state),
                            pc,
                            names,
                        }));
                    }
                    return Ok(true);
                }
            } else if counted.is_none_or(|c| c == Counted::Budget)
                && entry.state.passes == state.passes
                && self.compare.states(&entry.state, state, pc, &self.live, None, Mode::Same)
                && entry.state.same_progress(state)
            {
                return Err(Fail::new(Rule::Termination, format!("infinite loop detected at insn {pc}"))
                    .help("nothing that the loop's condition depends on changes"));
            }
            entry.misses += 1;
            if entry.misses > 16 + 4 * entry.hits && list.len() > 32 {
                let gone = list.swap_remove(i);
                self.states -= 1;
                self.stored_bytes -= u64::from(gone.weight);
            } else {
                i += 1;
            }
        }
        Ok(false)
    }

    /// Looks again at the paths that ended inside of a loop that is explored by now. More may matter there than when the path
    /// ended: then it matters here too, and a path that is no longer covered goes on.
    fn land(&mut self) -> Result<(), Box<Rejection>> {
        while let Some((head, first)) = self.history.explored() {
            let lost = self.settle(first)?;
            if lost.is_empty() {
                self.leaps.truncate(first);
                self.history.settle(head, first);
            }
            for leap in lost {
                self.history.reopen(leap.new.at.node);
                self.open.push((leap.new, leap.pc, leap.pc));
            }
        }
        Ok(())
    }

    /// Lets all that matters matter on the paths from the `first` on that ended so; takes those out that are not covered
    /// any more.
    fn settle(&mut self, first: usize) -> Result<Vec<Leap>, Box<Rejection>> {
        for round in 0.. {
            let before = self.history.marked();
            let mut lost = Vec::new();
            for place in &mut self.leaps[first..] {
                let Some(leap) = place else { continue };
                let marks = (!self.every_number).then(|| self.history.marks(leap.old.at.node));
                let covers = Mode::Covers(leap.names);
                if self.compare.states(&leap.old, &leap.new, leap.pc, &self.live, marks, covers) {
                    self.history.inherit(&self.program.insns, &leap.new.at, leap.pc, leap.old.at.node);
                } else {
                    lost.extend(place.take());
                }
            }
            if !lost.is_empty() || self.history.marked() == before {
                return Ok(lost);
            }
            // Work like any other, from the third time on.
            self.processed += if round < 2 { 0 } else { (self.leaps.len() - first) as u64 / 4 };
            if self.processed > self.options.limit {
                let text = format!("BPF program is too large. Processed {} insn", self.processed);
                return Err(Rejection::new(self.program, self.at, Rule::Termination, text));
            }
        }
        unreachable!("marks stop to grow, or the limit is reached")
    }

    /// Frees memory: stored states that never ended a path go, then the older half. That costs time at most, which
    /// has its own limit.
    fn drop_useless(&mut self) {
        self.retain(|entry| entry.hits > 0);
        if self.stored_bytes > MAX_STORED_BYTES / 2 {
            let mut nodes: Vec<u32> = self.stored.values().flatten().map(|entry| entry.state.at.node).collect();
            let middle = nodes.len() / 2;
            let (_, median, _) = nodes.select_nth_unstable(middle);
            let median = *median;
            self.retain(|entry| entry.state.at.node > median);
        }
    }

    fn retain(&mut self, keep: impl Fn(&Stored) -> bool) {
        self.stored.retain(|_, list| {
            list.retain(&keep);
            !list.is_empty()
        });
        let all = || self.stored.values().flatten();
        self.states = all().count() as u64;
        self.stored_bytes = all().map(|entry| u64::from(entry.weight)).sum();
    }

    /// The value of a register, which must be initialised.
    #[inline]
    pub fn readable(&self, state: &State, reg: Reg) -> Step<Value> {
        let value = state.reg(reg);
        if value.kind == Kind::Uninit { Err(not_readable(reg)) } else { Ok(*value) }
    }
    #[inline]
    pub fn operand(&self, state: &State, src: Src) -> Step<Value> {
        match src {
            Src::Reg(reg) => self.readable(state, reg),
            Src::Imm(imm) => Ok(Value::constant(i64::from(imm) as u64)),
        }
    }

    fn immediate(&mut self, pc: Pc, value: Imm64) -> Step<Value> {
        match value {
            Imm64::Const(x) => Ok(Value::constant(x)),
            Imm64::MapIdx(idx) => {
                self.usable(MapId(idx as u32))?;
                Ok(Value::pointer(Kind::Map(MapId(idx as u32))))
            }
            Imm64::MapIdxValue { idx, off } => {
                self.usable(MapId(idx as u32))?;
                self.direct_value(MapId(idx as u32), off)
            }
            Imm64::Func { off } => self.function(pc, off),
            Imm64::MapFd(_) | Imm64::MapFdValue { .. } | Imm64::BtfId { .. } => {
                Err(unsupported("unsupported: 64-bit immediate of this kind"))
            }
        }
    }

    /// Adds place, path and registers to a refusal.
    fn reject(&self, state: &State, pc: Pc, fail: Fail) -> Box<Rejection> {
        let mut out = Rejection::new(self.program, pc, fail.rule, fail.message);
        if let Some(help) = fail.help {
            out.suggestion = Some(help.to_owned());
        }
        // Where the rule names none, those that the instruction names.
        let named = match fail.regs {
            0 => out.insn.as_ref().map_or(0, cfg::mentioned),
            regs => regs,
        };
        let shown = |reg: &Reg| fail.regs != 0 || state.reg(*reg).kind != Kind::Uninit;
        out.registers = registers(named)
            .filter(shown)
            .map(|r| (r, state.reg(r).shown(self.program, state.depth()).to_string()))
            .collect();
        let mut turns: Vec<(Pc, bool)> = self.history.decisions(&state.at).map(|d| (d.pc, d.taken)).collect();
        turns.reverse();
        out.path_omitted = turns.len().saturating_sub(SHOWN_PATH);
        let decision = |&(pc, taken): &(Pc, bool)| Decision { pc, taken, line: self.program.line_at(pc).cloned() };
        out.path = turns[out.path_omitted..].iter().map(decision).collect();
        let calls = (1..=state.depth()).map(|i| state.frame(i).call_site).collect();
        let ends = Ends { start: self.program.subprogs[self.root.0 as usize].start, end: pc, calls };
        if let Some(walk) = Walk::new(self.program, &ends, &turns) {
            let origin = |reg: Reg| Origin { reg, made: walk.of(reg) };
            out.origins = registers(named).map(origin).filter(|origin| !origin.made.is_empty()).collect();
        }
        out
    }
}

#[cold]
fn not_readable(reg: Reg) -> Box<Fail> {
    Fail::new(Rule::Uninitialised, format!("R{} !read_ok", reg.number())).with(reg)
}

/// Something this verifier does not know.
pub(super) fn unsupported(message: &str) -> Box<Fail> {
    Fail::new(Rule::Unsupported, message)
}

/// The first frame of a path through `func`.
pub(super) fn first_frame(program: &Program, func: SubprogId) -> Frame {
    Frame::new(0, func, program.subprogs[func.0 as usize].start)
}
