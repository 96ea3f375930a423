//! The trace of a verification, in the form of the kernel's log: each instruction with what it left behind, where paths
//! part, and where one ends because it is covered.
//!
//! Costs nothing where nobody asks for it: [`Trace`] exists only then. Never changes what is decided.

use std::cell::RefCell;
use std::fmt::{self, Write as _};
use std::sync::Arc;

use super::cfg;
use super::explore::{To, Verifier};
use super::facts::Facts;
use super::notation::{Wanted, frame};
use super::reject::Rejection;
use super::reject::Step;
use super::state::{Kind, Slot, State};
use crate::helper;
use crate::insn::{Insn, Pc, Reg};
use crate::link::{Program, SubprogId};

/// Where the lines of a trace go: a buffer, a file, a terminal. Lines come without their end.
pub trait Log {
    /// Takes one line.
    fn line(&self, line: &str);
}

impl fmt::Debug for dyn Log + '_ {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Log")
    }
}

impl Log for RefCell<Vec<String>> {
    fn line(&self, line: &str) {
        self.borrow_mut().push(line.to_owned());
    }
}

impl Log for RefCell<String> {
    fn line(&self, line: &str) {
        let mut text = self.borrow_mut();
        text.push_str(line);
        text.push('\n');
    }
}

/// What an instruction left behind stands from this column on.
const COLUMN: usize = 40;
/// Longer instructions push it by so much at a time.
const STEP: usize = 8;

/// How the next instruction is introduced.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Begin {
    /// It follows the one before.
    Plain,
    /// The whole state first: a function begins, or is entered, or left.
    Whole,
    /// A branch that waited is followed, from the jump at this place.
    From(Pc),
}

/// A trace under way.
pub(super) struct Trace<'a> {
    log: &'a dyn Log,
    /// The line of the instruction that is being looked at, as long as it is not printed.
    pending: Option<String>,
    /// The state before that instruction.
    state: Option<State>,
    begin: Begin,
    /// The source line shown last, by file and number.
    line: Option<(Arc<str>, u32)>,
}

impl<'a> Trace<'a> {
    pub fn new(log: &'a dyn Log) -> Trace<'a> {
        Trace { log, pending: None, state: None, begin: Begin::Whole, line: None }
    }
    /// A line of its own, behind the instruction's.
    pub fn say(&mut self, text: &str) {
        if let Some(line) = self.pending.take() {
            self.log.line(&line);
        }
        text.lines().for_each(|line| self.log.line(line));
    }
    fn whole(&mut self, program: &Program, head: &str, state: &State, i: usize, wanted: Wanted) {
        self.say(&format!("{head}{}", frame(program, state, i, wanted)));
    }
    /// A function is verified from its start.
    pub fn start(&mut self, text: Option<String>) {
        (self.begin, self.line) = (Begin::Whole, None);
        if let Some(text) = text {
            self.say(&text);
        }
    }
    /// The branch that waited since the jump at `from` is followed now.
    pub fn resume(&mut self, from: Pc) {
        self.begin = Begin::From(from);
    }
    /// The path ends at `pc`, which is covered.
    pub fn safe(&mut self, pc: Pc) {
        let text = match self.begin {
            Begin::From(from) => format!("\nfrom {from} to {pc}: safe"),
            Begin::Plain | Begin::Whole => format!("{pc}: safe"),
        };
        self.say(&text);
    }
    /// Just before an instruction.
    pub fn before(&mut self, program: &Program, helpers: &helper::Table, state: &State, pc: Pc, insn: &Insn) {
        let depth = state.depth();
        if let Begin::From(from) = self.begin {
            self.whole(program, &format!("\nfrom {from} to {pc}:"), state, depth, Wanted::ALL);
        }
        if self.begin != Begin::Plain {
            self.whole(program, &format!("{pc}:"), state, depth, Wanted::ALL);
            self.begin = Begin::Plain;
        }
        if let Some(line) = program
            .line_at(pc)
            .filter(|line| self.line.as_ref().is_none_or(|(file, n)| (file, *n) != (&line.file, line.line)))
        {
            self.line = Some((line.file.clone(), line.line));
            let file = line.file.rsplit('/').next().unwrap_or_default();
            self.say(&format!("; {} @ {file}:{}", line.text.trim_start(), line.line));
        }
        let text = format!("{pc}: ({:02x}) {}", insn.opcode(), named(insn, helpers));
        self.say("");
        self.pending = Some(text);
        self.state = Some(state.clone());
    }
    /// Just behind an instruction; `next` is where the path goes on, if it does.
    pub fn after(&mut self, program: &Program, state: &State, next: Option<Pc>, insn: &Insn) {
        let Some(next) = next else {
            self.say("");
            return;
        };
        let (depth, Some(before)) = (state.depth(), self.state.take()) else { return };
        if depth != before.depth() {
            self.say("");
            self.moved(program, &before, state, next);
            return;
        }
        let shown = frame(program, state, depth, touched(&before, state, insn));
        match self.pending.take() {
            Some(line) if shown.is_empty() => self.log.line(&line),
            Some(line) => {
                let width = (line.len() + 5).max(COLUMN).next_multiple_of(STEP) - 2;
                self.log.line(&format!("{line:<width$};{shown}"));
            }
            // Something was said in between.
            None => self.log.line(&format!("{next}:{shown}")),
        }
    }
    /// A frame was entered or left.
    fn moved(&mut self, program: &Program, before: &State, state: &State, next: Pc) {
        let (old, new) = (before.depth(), state.depth());
        let titles = match new > old {
            true => ["caller:".to_owned(), "callee:".to_owned()],
            false => ["returning from callee:".to_owned(), format!("to caller at {next}:")],
        };
        let [first, second] = titles;
        self.say(&first);
        let caller = if new > old { state } else { before };
        self.whole(program, "", caller, old, Wanted::ALL);
        self.say(&second);
        self.whole(program, "", state, new, Wanted::ALL);
        self.begin = Begin::Whole;
    }
}

/// The registers and slots of the running frame that `insn` names or changed.
fn touched(before: &State, after: &State, insn: &Insn) -> Wanted {
    let depth = after.depth();
    let mut wanted = Wanted { regs: cfg::mentioned(insn), slots: 0 };
    for reg in Reg::ALL {
        if cfg::written(insn) == Some(reg) || !matches!(insn, Insn::Jmp { .. }) && before.reg(reg) != after.reg(reg) {
            wanted.regs |= 1 << reg.index();
        }
    }
    let (old, new) = (&before.cur.stack, &after.cur.stack);
    // What a jump tells about copies is not shown, as in the kernel's log.
    let shown = if matches!(insn, Insn::Jmp { .. }) { 0 } else { new.len() };
    for (n, slot) in new.iter().enumerate().take(shown) {
        if old.get(n).copied().unwrap_or(Slot::EMPTY) != *slot {
            wanted.slots |= 1 << n;
        }
    }
    let named = match *insn {
        Insn::Load { base, off, .. } | Insn::LoadSx { base, off, .. } | Insn::LoadAcquire { base, off, .. } => {
            Some((base, off))
        }
        Insn::Store { base, off, .. } | Insn::StoreRelease { base, off, .. } | Insn::Atomic { base, off, .. } => {
            Some((base, off))
        }
        _ => None,
    };
    if let Some((base, off)) = named
        && before.reg(base).kind == Kind::Stack(depth as u8)
        && let Some(at) = before.reg(base).fixed_offset().map(|at| at + i64::from(off))
        && (-512..0).contains(&at)
    {
        wanted.slots |= 1 << ((-at - 1) / 8);
    }
    wanted
}

/// The instruction with the name of the helper it calls.
fn named(insn: &Insn, helpers: &helper::Table) -> String {
    match insn {
        Insn::Call { helper } => match helpers.get(*helper) {
            Some(proto) => format!("call bpf_{}#{helper}", proto.name),
            None => format!("call unknown#{helper}"),
        },
        other => other.to_string(),
    }
}

/// `func#N @slot` for each function, and which registers matter in front of each instruction.
pub(super) fn overview(program: &Program, helpers: &helper::Table, live: &[u16]) -> String {
    let mut text = String::new();
    for (i, sub) in program.subprogs.iter().enumerate() {
        let _ = writeln!(text, "func#{i} @{}", sub.start);
    }
    text.push_str("Live regs before insn:\n");
    for (pc, insn) in program.insns.iter() {
        let mask = live.get(pc.index()).copied().unwrap_or_default();
        let regs: String = (0..10).map(|n| if mask >> n & 1 == 1 { (b'0' + n) as char } else { '.' }).collect();
        let _ = writeln!(text, "{:>7}: {regs} ({:02x}) {}", pc.0, insn.opcode(), named(&insn, helpers));
    }
    text
}

impl Verifier<'_> {
    /// The end of the trace: why the program was refused, and what looking at it took.
    pub(super) fn conclude(&mut self, result: &Result<Facts, Box<Rejection>>) {
        let Some(trace) = &mut self.trace else { return };
        match result {
            Err(rejection) => trace.say(&rejection.message),
            Ok(facts) => {
                let depths = facts.funcs.iter().map(|f| f.stack_depth.to_string());
                trace.say(&format!("stack depth {}", depths.collect::<Vec<_>>().join("+")));
            }
        }
        trace.say(&format!(
            "processed {} insns (limit {}) max_states_per_insn {} total_states {} peak_states {} mark_read 0",
            self.processed, self.options.limit, self.max_states_per_insn, self.total_states, self.peak_states
        ));
    }
    /// A line for the trace, made only where there is one.
    pub(super) fn say(&mut self, text: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.say(&text());
        }
    }
    /// What became of the instruction at `pc`.
    pub(super) fn traced(&mut self, state: &State, pc: Pc, step: &Step<To>) {
        let Some(trace) = &mut self.trace else { return };
        let (Some(insn), Ok(to)) = (self.program.insns.get(pc), step) else { return trace.say("") };
        let next = match to {
            To::Next(next) => Some(*next),
            To::End => None,
        };
        trace.after(self.program, state, next, &insn);
    }
    /// The title of a function that is verified on its own.
    pub(super) fn title(&mut self, func: SubprogId) {
        let name = &self.program.subprogs[func.0 as usize].name;
        if let Some(trace) = &mut self.trace {
            trace.start((func.0 > 0).then(|| format!("Validating {name}() func#{}...", func.0)));
        }
    }
}
