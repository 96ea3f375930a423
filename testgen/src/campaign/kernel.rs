//! The kernel's verdict beside ours.

use std::collections::BTreeMap;
use std::fmt;

use livebpf::insn::{AluOp, AtomicOp, Cond, Imm64, Insn, Reg, Src};
use livebpf::link::Program;
use livebpf::object::{MapType, ProgType};
use livebpf::verify::Rejection;
use livebpf_kernel_bpf as kernel_bpf;

use super::kind_of;
use crate::border::{self, TYPES};

/// How verdicts compare.
#[derive(Clone, Debug, Default)]
pub struct Verdicts {
    /// Both accept.
    pub both_accept: u64,
    /// Both refuse.
    pub both_refuse: u64,
    /// Accepted here, refused there: by the kernel's message.
    pub only_here: BTreeMap<String, u64>,
    /// Refused here, accepted there: by our message.
    pub only_there: BTreeMap<String, u64>,
    /// Of those accepted here only: by why that is no mistake, where that is known.
    pub explained: BTreeMap<String, u64>,
}

impl Verdicts {
    pub(crate) fn add(&mut self, other: Verdicts) {
        self.both_accept += other.both_accept;
        self.both_refuse += other.both_refuse;
        let pairs = [
            (&mut self.only_here, other.only_here),
            (&mut self.only_there, other.only_there),
            (&mut self.explained, other.explained),
        ];
        for (into, from) in pairs {
            for (message, count) in from {
                *into.entry(message).or_default() += count;
            }
        }
    }
}

impl fmt::Display for Verdicts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total = |map: &BTreeMap<String, u64>| map.values().sum::<u64>();
        let (here, there) = (total(&self.only_here), total(&self.only_there));
        let all = self.both_accept + self.both_refuse + here + there;
        if all == 0 {
            return Ok(());
        }
        writeln!(
            f,
            "kernel: {all} programs, both accept {}, both refuse {}, only here {here}, only there {there}",
            self.both_accept, self.both_refuse
        )?;
        let tables = [("only here", &self.only_here), ("explained", &self.explained), ("only there", &self.only_there)];
        for (name, map) in tables {
            let mut rows: Vec<_> = map.iter().collect();
            rows.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
            for (message, count) in rows.into_iter().take(25) {
                writeln!(f, "  {name} {count:>7}  {message}")?;
            }
        }
        Ok(())
    }
}

/// The kernel with the maps of all program types.
pub struct Kernel {
    maps: Vec<(ProgType, Vec<kernel_bpf::Map>)>,
}

/// What the kernel says where it refuses for other reasons than safety: its limits, and what it wants to know from BTF, which is
/// not passed on.
pub(crate) const NOT_FOR_SAFETY: [&str; 6] = [
    "is too large",
    "too complex",
    "back-edge",
    "The sequence of",
    "Operation not permitted",
    "is not allowed in subprogs without BTF",
];

/// Begins what is wrong with a program that only the kernel refuses.
pub(super) const REFUSES: &str = "the kernel refuses";

/// Why the kernel refuses a program that is accepted here, where that is known: it loses sight of a number where this verifier
/// does not, or counts an address as lost that is not. `small` has been made as small as it goes, so that what is in it matters.
pub(crate) fn explanation(small: &Program) -> Option<&'static str> {
    let any = |wanted: &dyn Fn(Insn) -> bool| small.insns.iter().any(|(_, insn)| wanted(insn));
    let alu = |ops: &'static [AluOp]| move |insn| matches!(insn, Insn::Alu { op, .. } if ops.contains(&op));
    if any(&alu(&[AluOp::Div, AluOp::SDiv, AluOp::Mod, AluOp::SMod])) {
        return Some("the kernel knows nothing of quotients and remainders");
    }
    if any(&|insn| matches!(insn, Insn::LoadAbs { .. } | Insn::LoadInd { .. })) {
        return Some("the kernel does not know that a legacy packet load gives no more than it reads");
    }
    if any(&|insn| matches!(insn, Insn::MovSx { .. } | Insn::LoadSx { .. })) {
        return Some("the kernel forgets known bits in sign extensions");
    }
    if any(&alu(&[AluOp::Lsh])) {
        return Some("the kernel forgets bounds of numbers below zero in left shifts");
    }
    if any(&|insn| matches!(insn, Insn::Jmp { dst, src: Src::Reg(src), .. } if dst == src)) {
        return Some("the kernel follows both ways of a comparison of a number with itself");
    }
    if any(&|insn| matches!(insn, Insn::Jmp { cond: Cond::Set, .. })) {
        return Some("the kernel forgets lower bounds where bits are known to be zero, and follows what cannot be");
    }
    if any(&|insn| matches!(insn, Insn::MayGoto { .. })) {
        return Some("the kernel widens numbers in loops that may_goto bounds");
    }
    if any(&|insn| matches!(insn, Insn::Alu { op: AluOp::Rsh | AluOp::Arsh, src: Src::Reg(_), .. })) {
        return Some("the kernel forgets what is shifted by a number that may be too large");
    }
    if any(&|insn| matches!(insn, Insn::Neg { .. })) {
        return Some("the kernel forgets bounds in negations");
    }
    let cancels =
        |insn| matches!(insn, Insn::Alu { op: AluOp::Sub | AluOp::Xor, dst, src: Src::Reg(src), .. } if dst == src);
    if any(&cancels) {
        return Some("the kernel does not know that a number less itself is zero");
    }
    let lost = |insn| match insn {
        Insn::Atomic { op: AtomicOp::Cmpxchg, base, .. } => base == Reg::R0,
        Insn::Atomic { op, base, src, .. } => base == src && !matches!(op, AtomicOp::Cmpxchg),
        _ => false,
    };
    if any(&lost) {
        return Some("the kernel checks the second half of an atomic operation with its result as the address");
    }
    None
}

impl Kernel {
    /// # Errors
    /// Why there is no kernel to compare with.
    pub fn new() -> Result<Kernel, String> {
        kernel_bpf::probe().map_err(|why| format!("no kernel to compare with: {why}"))?;
        let mut maps = Vec::new();
        for prog_type in TYPES {
            let mut made = Vec::new();
            for def in border::maps(prog_type) {
                let mut def = (*def).clone();
                // The kernel's has as many values as CPUs; for its verifier an array is the same.
                if def.map_type == MapType::PERCPU_ARRAY {
                    def.map_type = MapType::ARRAY;
                }
                // What is in a value is said by BTF, which is not passed on; programs with locks are left out.
                def.special.clear();
                made.push(kernel_bpf::Map::create(&def).map_err(|error| error.to_string())?);
            }
            maps.push((prog_type, made));
        }
        Ok(Kernel { maps })
    }

    fn load(&self, program: &Program) -> Result<kernel_bpf::Program, String> {
        let maps = self.maps.iter().find(|(prog_type, _)| *prog_type == program.kind.prog_type);
        let maps: Vec<&kernel_bpf::Map> = maps.map(|(_, maps)| maps.iter().collect()).unwrap_or_default();
        kernel_bpf::Program::load(program, &maps).map_err(|error| match error {
            kernel_bpf::Error::Program { source, log, .. } => format!("{source}\n{log}"),
            other => other.to_string(),
        })
    }

    /// A program that is refused here.
    pub(super) fn beside_refusal(&self, program: &Program, ours: &Rejection, verdicts: &mut Verdicts) {
        if needs_btf(program) {
            return;
        }
        match self.load(program) {
            Ok(_) => {
                let kind = format!("{}: {}", ours.rule.name(), kind_of(&ours.message));
                *verdicts.only_there.entry(kind).or_default() += 1;
            }
            Err(_) => verdicts.both_refuse += 1,
        }
    }

    /// A program that is accepted here: what is wrong with that.
    pub(super) fn beside_acceptance(&self, program: &Program, verdicts: &mut Verdicts) -> Option<String> {
        if needs_btf(program) {
            return None;
        }
        match self.load(program) {
            Ok(_) => {
                verdicts.both_accept += 1;
                None
            }
            Err(log) => {
                let said: Vec<&str> =
                    log.lines().filter(|l| !l.trim().is_empty() && !l.starts_with("processed ")).collect();
                let message = said.last().copied().unwrap_or_default().to_owned();
                *verdicts.only_here.entry(kind_of(&message)).or_default() += 1;
                let harmless = NOT_FOR_SAFETY.iter().any(|text| log.contains(text));
                (!harmless).then(|| format!("{REFUSES}: {message}\n{}", tail(&log)))
            }
        }
    }
}

/// The kernel takes signatures from BTF, which is not passed on: without it a function is a static one, and those that are
/// verified on their own here may be accepted there for how they are called; there are no callbacks and no iterators.
pub(crate) fn needs_btf(program: &Program) -> bool {
    let named = |insn| matches!(insn, Insn::CallKfunc { .. } | Insn::LoadImm64 { value: Imm64::Func { .. }, .. });
    let locked = |insn| {
        let Insn::LoadImm64 { value: Imm64::MapIdxValue { idx, .. } | Imm64::MapIdx(idx), .. } = insn else {
            return false;
        };
        program.maps.get(idx as usize).is_some_and(|def| !def.special.is_empty())
    };
    program.subprogs.iter().skip(1).any(|sub| sub.global)
        || program.insns.iter().any(|(_, insn)| named(insn) || locked(insn))
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}
