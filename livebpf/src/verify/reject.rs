//! Why a program was refused: the rule, the place, the path that leads there, and what would help.
//!
//! A [`Rejection`] stands on its own: it holds copies of the source lines it mentions. The message keeps the
//! short phrases that tools match on in the kernel's log.

use std::fmt;

use super::help;
use crate::insn::{Insn, Pc, Reg};
use crate::link::{LineInfo, Program};

/// The family of rules that a refused program broke.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Rule {
    /// Jumps, function boundaries, unreachable code, malformed instructions.
    Structure,
    /// Something this verifier does not support; the program may be fine.
    Unsupported,
    /// A register or stack byte is read before it was written.
    Uninitialised,
    /// A memory access outside what its pointer allows.
    Memory,
    /// Arithmetic or comparison that pointers do not allow.
    Pointer,
    /// A context field that does not exist or may not be accessed so.
    Context,
    /// A helper's contract: unknown, not allowed here, wrong argument.
    Helper,
    /// A call of a subprogram: arguments, depth, recursion.
    Call,
    /// Stack size, of a function or of a chain of calls.
    Stack,
    /// What holds for tail calls only.
    TailCall,
    /// Something acquired that is not given back, or given back wrongly: references, locks.
    Resource,
    /// The value returned.
    Return,
    /// The program cannot be shown to end, or takes too long to verify.
    Termination,
    /// The licence does not allow it.
    Licence,
}

impl Rule {
    /// A short stable name, for machine-readable output.
    pub fn name(self) -> &'static str {
        match self {
            Rule::Structure => "structure",
            Rule::Unsupported => "unsupported",
            Rule::Uninitialised => "uninitialised",
            Rule::Memory => "memory",
            Rule::Pointer => "pointer",
            Rule::Context => "context",
            Rule::Helper => "helper",
            Rule::Call => "call",
            Rule::Stack => "stack",
            Rule::TailCall => "tail_call",
            Rule::Resource => "resource",
            Rule::Return => "return",
            Rule::Termination => "termination",
            Rule::Licence => "licence",
        }
    }
}

/// One conditional jump on the way to a rejection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Decision {
    /// The jump.
    pub pc: Pc,
    /// Whether it was taken.
    pub taken: bool,
    /// Its source line.
    pub line: Option<LineInfo>,
}

/// An instruction with its source line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    /// Where.
    pub pc: Pc,
    /// What; `None` where no instruction begins there.
    pub insn: Option<Insn>,
    /// Its source line.
    pub line: Option<LineInfo>,
}

impl Place {
    pub(super) fn new(program: &Program, pc: Pc) -> Place {
        Place { pc, insn: program.insns.get(pc), line: program.line_at(pc).cloned() }
    }
}

/// Where the content of a register comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Origin {
    /// The register.
    pub reg: Reg,
    /// The instructions on the path that made it, the last one first; at most four.
    pub made: Vec<Place>,
}

/// A refused program.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rejection {
    /// The rule it broke.
    pub rule: Rule,
    /// What is wrong, in the kernel's words where there are such.
    pub message: String,
    /// Name of the program.
    pub program: String,
    /// Name of the function the instruction is in.
    pub function: String,
    /// The instruction.
    pub pc: Pc,
    /// The same, decoded; `None` where no instruction begins at `pc`.
    pub insn: Option<Insn>,
    /// Its source line.
    pub line: Option<LineInfo>,
    /// The last conditional jumps on the path that leads there, oldest first.
    pub path: Vec<Decision>,
    /// How many jumps of the path were left out in front of `path`.
    pub path_omitted: usize,
    /// The registers that matter there, in the kernel's notation.
    pub registers: Vec<(Reg, String)>,
    /// What on the path made them, where that can be told.
    pub origins: Vec<Origin>,
    /// What would make the program acceptable, where one can tell.
    pub suggestion: Option<String>,
}

impl Rejection {
    /// A rejection at `pc` without path and registers.
    pub(crate) fn new(program: &Program, pc: Pc, rule: Rule, message: impl Into<String>) -> Box<Rejection> {
        let function = program.subprog_at(pc).map(|id| program.subprogs[id.0 as usize].name.clone());
        let message = message.into();
        let suggestion = help::advice(rule, &message).map(str::to_owned);
        Box::new(Rejection {
            rule,
            message,
            program: program.name.clone(),
            function: function.unwrap_or_default(),
            pc,
            insn: program.insns.get(pc),
            line: program.line_at(pc).cloned(),
            path: Vec::new(),
            path_omitted: 0,
            registers: Vec::new(),
            origins: Vec::new(),
            suggestion,
        })
    }
}

fn write_line(f: &mut fmt::Formatter<'_>, line: &LineInfo) -> fmt::Result {
    write!(f, "{}:{}", line.file, line.line)?;
    let text = line.text.trim();
    if text.is_empty() { Ok(()) } else { write!(f, ": {text}") }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "program {}: {}", self.program, self.message)?;
        write!(f, "\n  rule: {}", self.rule.name())?;
        write!(f, "\n  at instruction {}", self.pc)?;
        if let Some(insn) = self.insn {
            write!(f, " ({insn})")?;
        }
        if !self.function.is_empty() {
            write!(f, " in {}", self.function)?;
        }
        if let Some(line) = &self.line {
            f.write_str("\n  ")?;
            write_line(f, line)?;
        }
        if !self.registers.is_empty() {
            f.write_str("\n  with")?;
            for (reg, value) in &self.registers {
                write!(f, " R{}={value}", reg.number())?;
            }
        }
        for origin in &self.origins {
            for (i, place) in origin.made.iter().enumerate() {
                let from = if i == 0 { format!("R{} comes from", origin.reg.number()) } else { "made from".to_owned() };
                write!(f, "\n    {from} instruction {}", place.pc)?;
                if let Some(insn) = place.insn {
                    write!(f, " ({insn})")?;
                }
                if let Some(line) = &place.line {
                    f.write_str(", ")?;
                    write_line(f, line)?;
                }
            }
        }
        if self.path_omitted > 0 {
            write!(f, "\n  after {} earlier branches", self.path_omitted)?;
        }
        for step in &self.path {
            write!(f, "\n  when {} is {}", step.pc, if step.taken { "taken" } else { "not taken" })?;
            if let Some(line) = &step.line {
                f.write_str(" (")?;
                write_line(f, line)?;
                f.write_str(")")?;
            }
        }
        match &self.suggestion {
            Some(text) => write!(f, "\n  help: {text}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Rejection {}

/// A refusal before place and path are added to it.
#[derive(Debug)]
pub(super) struct Fail {
    pub rule: Rule,
    pub message: String,
    /// Registers that matter, one bit each.
    pub regs: u16,
    pub help: Option<&'static str>,
}

/// What a helper's memory argument may point to, in the kernel's words.
pub(super) const MEMORY: &str = "fp, pkt, pkt_meta, map_key, map_value, mem, ringbuf_mem, buf, trusted_ptr_";

/// The result of one verification step.
pub(super) type Step<T> = Result<T, Box<Fail>>;

impl Fail {
    pub fn new(rule: Rule, message: impl Into<String>) -> Box<Fail> {
        Box::new(Fail { rule, message: message.into(), regs: 0, help: None })
    }
    /// Names a register that matters.
    pub fn with(mut self: Box<Fail>, reg: Reg) -> Box<Fail> {
        self.regs |= 1 << reg.index();
        self
    }
    pub fn help(mut self: Box<Fail>, text: &'static str) -> Box<Fail> {
        self.help = Some(text);
        self
    }
}
