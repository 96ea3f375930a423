//! Stack rules over the call graph: 512 bytes and 8 frames for every chain of calls, and fewer than 256 bytes of
//! callers' frames above a subprogram that tail calls (they stay while the target runs).

use super::MAX_STACK;
use super::cfg::{Flow, MAX_FRAMES};
use super::reject::{Fail, Rejection, Rule, Step};
use crate::link::{Program, TypeKind};

/// Frames count in multiples of this, as in the kernel with its compiler.
const ROUND: u32 = 16;
/// Callers' frames above a tail-calling subprogram stay below this.
const TAIL_CALL_CALLERS: u32 = 256;

/// Checks the chains of calls, given the stack that each function uses by itself.
pub(super) fn check(program: &Program, flow: &Flow, depth: &[u32]) -> Result<(), Box<Rejection>> {
    let n = program.subprogs.len();
    // Bytes and frames of the callers above each function, at the most.
    let (mut above, mut frames) = (vec![0u32; n], vec![0usize; n]);
    for &f in &flow.order {
        let f = f.0 as usize;
        let place = |pc: Option<crate::insn::Pc>| pc.unwrap_or(program.subprogs[f].start);
        if let (Some(pc), true) = (flow.tail_call[f], f != 0 && above[f] >= TAIL_CALL_CALLERS) {
            let text = format!(
                "tail_calls are not allowed when call stack of previous frames is {} bytes. Too large",
                above[f]
            );
            let mut out = Rejection::new(program, pc, Rule::TailCall, text);
            out.suggestion = Some("use less stack in the functions that call this one".to_owned());
            return Err(out);
        }
        let total = above[f] + depth[f].next_multiple_of(ROUND);
        if total > MAX_STACK {
            let text = format!("combined stack size of {} calls is {total}. Too large", frames[f] + 1);
            return Err(Rejection::new(program, place(None), Rule::Stack, text));
        }
        for g in &flow.callees[f] {
            let g = g.0 as usize;
            above[g] = above[g].max(total);
            frames[g] = frames[g].max(frames[f] + 1);
            if frames[g] >= MAX_FRAMES {
                // The kernel counts the frames of functions that it verifies on their own, and meets those of others.
                let text = match program.subprogs[1..].iter().any(|sub| sub.global) {
                    true => format!("the call stack of {} frames is too deep !", frames[g]),
                    false => format!("the call stack of {} frames is too deep", frames[g] + 1),
                };
                return Err(Rejection::new(program, program.subprogs[g].start, Rule::Call, text));
            }
        }
    }
    Ok(())
}

/// The 512 bytes for one chain of calls, given what each of its functions uses so far.
pub(super) fn check_chain(depths: impl Iterator<Item = u32>) -> Step<()> {
    let (frames, total) = depths.fold((0, 0), |(n, sum), depth| (n + 1, sum + depth.next_multiple_of(ROUND)));
    if total > MAX_STACK {
        let text = format!("combined stack size of {frames} calls is {total}. Too large");
        return Err(Fail::new(Rule::Stack, text));
    }
    Ok(())
}

/// Subprograms that a tail call or a legacy load can end must return a number, and say so.
pub(super) fn check_results(program: &Program, flow: &Flow) -> Result<(), Box<Rejection>> {
    for (i, sub) in program.subprogs.iter().enumerate().skip(1) {
        for (pc, what, rule) in
            [(flow.legacy_load[i], "LD_ABS", Rule::Call), (flow.tail_call[i], "tail_call", Rule::TailCall)]
        {
            let Some(pc) = pc else { continue };
            let text = match sub.signature.as_ref().map(|s| &s.ret) {
                Some(TypeKind::Int { size, .. } | TypeKind::Enum { size }) if *size <= 8 => continue,
                Some(_) => format!("{what} is only allowed in functions that return 'int'."),
                None => format!("{what} is not allowed in subprogs without BTF"),
            };
            return Err(Rejection::new(program, pc, rule, text));
        }
    }
    Ok(())
}
