//! What authors who are not trusted may not write, beyond keeping addresses to themselves: the kernel's rules for
//! programs without CAP_BPF and CAP_PERFMON.
//!
//! Such a program has no functions and no loops; a jump that always goes one way is followed the other way too, as a
//! processor may; the offset of a pointer stays within its region at every step. Never applies to trusted programs.

use std::collections::HashMap;

use super::cfg;
use super::explore::Verifier;
use super::reject::{Fail, Rejection, Rule, Step};
use super::state::{Kind, State, Value};
use super::{MAX_STACK, Trust};
use crate::insn::{AluOp, Imm64, Insn, Pc, Reg, Src};
use crate::link::Program;

/// How an instruction moved a pointer when it was met first: every path must do it alike.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Move {
    downwards: bool,
    known: bool,
    limit: i64,
}

/// By instruction.
pub(super) type Moves = HashMap<Pc, Move>;

/// Checks that a program calls nothing but helpers, and never goes back.
pub(super) fn check_shape(program: &Program) -> Result<(), Box<Rejection>> {
    for (pc, insn) in program.insns.iter() {
        let function = matches!(insn, Insn::LoadImm64 { value: Imm64::Func { .. }, .. });
        if function || matches!(insn, Insn::CallSubprog { .. } | Insn::CallKfunc { .. } | Insn::CallX { .. }) {
            let text = "loading/calling other bpf or kernel functions are allowed for CAP_BPF and CAP_SYS_ADMIN";
            return Err(Rejection::new(program, pc, Rule::Call, text));
        }
    }
    match back_edge(program) {
        None => Ok(()),
        Some((from, to)) => {
            let text = format!("back-edge from insn {from} to {to}");
            Err(Rejection::new(program, from, Rule::Termination, text))
        }
    }
}

/// A jump to an instruction on the way to it.
fn back_edge(program: &Program) -> Option<(Pc, Pc)> {
    #[derive(Clone, Copy, PartialEq)]
    enum Seen {
        No,
        OnTheWay,
        Done,
    }
    let mut seen = vec![Seen::No; program.insns.len() as usize];
    let mut way = vec![(Pc(0), 0)];
    while let Some((pc, side)) = way.pop() {
        seen[pc.index()] = Seen::OnTheWay;
        let next = program.insns.get(pc).map(|insn| cfg::next(&insn, pc)).unwrap_or_default();
        let Some(to) = [next.fall, next.jump].into_iter().flatten().nth(side) else {
            seen[pc.index()] = Seen::Done;
            continue;
        };
        way.push((pc, side + 1));
        match seen.get(to.index()) {
            Some(Seen::No) => way.push((to, 0)),
            Some(Seen::OnTheWay) => return Some((pc, to)),
            Some(Seen::Done) | None => {}
        }
    }
    None
}

impl Verifier<'_> {
    /// What a processor sees that takes the wrong side of a jump: any numbers in its registers. `None` for trusted
    /// programs, whose jumps are followed to the right side only.
    pub(super) fn mistaken(&mut self, state: &State, dst: Reg, src: Src) -> Option<Box<State>> {
        if self.options.trust == Trust::Trusted {
            return None;
        }
        let mut other = self.forks.fork(state);
        other.set(dst, Value::UNKNOWN);
        if let Src::Reg(src) = src {
            other.set(src, Value::UNKNOWN);
        }
        Some(other)
    }

    /// Checks `ptr ± num`, which gave `out` in `dst`.
    pub(super) fn guard_offset(
        &mut self,
        pc: Pc,
        op: AluOp,
        (dst, src): (Reg, Src),
        (a, b): (&Value, &Value),
        out: &Value,
    ) -> Step<()> {
        let (ptr, num) = if a.is_pointer() { (a, b) } else { (b, a) };
        if self.options.trust == Trust::Trusted || !out.is_pointer() {
            return Ok(());
        }
        if let Src::Reg(src) = src {
            self.guard_move(pc, op, if a.is_pointer() { (src, dst) } else { (dst, dst) }, ptr, num)?;
        }
        self.guard_place(dst, out)
    }

    /// Checks how a register moves a pointer.
    fn guard_move(&mut self, pc: Pc, op: AluOp, (of, dst): (Reg, Reg), ptr: &Value, num: &Value) -> Step<()> {
        let refuse = |reg: Reg, what: &str| {
            let text = format!("R{} {what}, pointer arithmetic with it prohibited for !root", reg.number());
            Err(Fail::new(Rule::Pointer, text).with(reg))
        };
        let r = num.num.r;
        if num.num.known().is_none() && (r.smin < 0) != (r.smax < 0) {
            return refuse(of, "has unknown scalar with mixed signed bounds");
        }
        let downwards = (r.smin < 0) != (op == AluOp::Sub);
        let (limit, most) = match ptr.kind {
            Kind::Stack(_) => {
                (-ptr.fixed_offset().unwrap_or(-i64::from(MAX_STACK)), i64::from(MAX_STACK) + i64::from(downwards))
            }
            Kind::MapValue(map) => {
                let var = if downwards { ptr.num.r.smin } else { ptr.num.r.umax as i64 };
                (var.saturating_add(ptr.off.into()), i64::from(self.program.map(map).value_size))
            }
            _ => return Ok(()),
        };
        if !(0..most).contains(&limit) {
            let what = if op == AluOp::Add {
                "tried to add beyond pointer bounds"
            } else {
                "tried to sub beyond pointer bounds"
            };
            return refuse(dst, what);
        }
        let this = Move { downwards, known: num.num.known().is_some(), limit };
        if *self.moves.entry(pc).or_insert(this) != this {
            return refuse(dst, "tried to add from different maps, paths or prohibited types");
        }
        Ok(())
    }

    /// Checks that a computed pointer stays where it may point.
    fn guard_place(&self, reg: Reg, out: &Value) -> Step<()> {
        let n = reg.number();
        let text = match out.kind {
            Kind::Stack(_) => match out.fixed_offset() {
                None => {
                    format!("R{n} variable stack access prohibited for !root, var_off={} off={}", out.num.bits, out.off)
                }
                Some(off) if off >= 0 || off < -i64::from(MAX_STACK) => {
                    format!("R{n} stack pointer arithmetic goes out of range, prohibited for !root; off={off}")
                }
                Some(_) => return Ok(()),
            },
            Kind::MapValue(_) if self.region_holds(out) => return Ok(()),
            Kind::MapValue(_) => {
                format!("R{n} pointer arithmetic of map value goes out of range, prohibited for !root")
            }
            _ => return Ok(()),
        };
        Err(Fail::new(Rule::Pointer, text).with(reg))
    }

    /// Whether a pointer into a map's value has at least one byte behind it.
    fn region_holds(&self, out: &Value) -> bool {
        let Kind::MapValue(map) = out.kind else { return false };
        let (first, last) =
            (out.num.r.smin.saturating_add(out.off.into()), (out.num.r.umax).checked_add_signed(out.off.into()));
        first >= 0 && last.is_some_and(|last| last < u64::from(self.program.map(map).value_size))
    }
}
