//! Facts about a program that nobody proved: only what its text says for certain.
//!
//! This serves the runtime's one `unsafe` door. The shape of the program is checked (so that code generation
//! cannot go astray), its memory accesses are not.

use super::cfg::{Flow, mentioned};
use super::facts::{Facts, Known, TailCall};
use super::reject::{Rejection, Rule};
use super::{MAX_STACK, Verified};
use crate::helper;
use crate::insn::{Imm64, Insn, Pc, Reg, Src};
use crate::link::{MapId, Program};

impl Verified {
    /// Takes a program without proof: its shape is checked, and the facts are the conservative ones.
    ///
    /// # Errors
    /// A rejection when a jump, call, map or function boundary is wrong.
    pub(crate) fn unproven(program: Program) -> Result<Verified, Box<Rejection>> {
        let (flow, live) = Flow::with_dead_code(&program)?;
        if let Some(pc) = flow.writes_fp {
            return Err(Rejection::new(&program, pc, Rule::Structure, "frame pointer is read only"));
        }
        let mut facts = Facts {
            funcs: vec![Default::default(); program.subprogs.len()],
            insns: vec![Default::default(); program.insns.len() as usize],
            changes_packet: true,
            reads_after_calls: true,
            ..Facts::default()
        };
        for (pc, insn) in program.insns.iter() {
            let func = &mut facts.funcs[flow.func[pc.index()] as usize];
            func.stack_depth = MAX_STACK;
            func.mention(mentioned(&insn), false);
            let fact = &mut facts.insns[pc.index()];
            fact.reached = live[pc.index()];
            if !fact.reached {
                continue;
            }
            match insn {
                Insn::Call { helper: helper::id::TAIL_CALL } => {
                    func.tail_call = true;
                    facts.has_tail_call = true;
                    fact.known = Some(Known::TailCall(tail_call_before(&program, &flow, pc)));
                }
                Insn::Call { .. } | Insn::LoadAbs { .. } | Insn::LoadInd { .. } => func.calls_helper = true,
                Insn::CallSubprog { .. } => func.calls_subprog = true,
                Insn::CallKfunc { .. } => func.calls_helper = true,
                Insn::CallX { reg } => return Err(Rejection::new(&program, pc, Rule::Structure, callx(reg))),
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
                | Insn::Ja { .. }
                | Insn::JaL { .. }
                | Insn::MayGoto { .. }
                | Insn::Jmp { .. }
                | Insn::Exit => {}
            }
        }
        Ok(Verified { program, facts })
    }
}

/// What is said of a call through a register.
pub(super) fn callx(reg: Reg) -> String {
    format!("unknown opcode 8d: a call through register R{}", reg.number())
}

/// What the instructions right in front of a tail call say about its map and index.
fn tail_call_before(program: &Program, flow: &Flow, call: Pc) -> TailCall {
    let (mut map, mut index) = (None, None);
    let mut pc = call;
    while !(flow.join[pc.index()] || map.is_some() && index.is_some()) {
        let Some((at, insn)) = program.insns.before(pc) else { break };
        if flow.func[at.index()] != flow.func[call.index()] {
            break;
        }
        pc = at;
        match insn {
            Insn::LoadImm64 { dst: Reg::R2, value: Imm64::MapIdx(idx) } => map = map.or(Some(Some(MapId(idx as u32)))),
            Insn::Mov { dst: Reg::R3, src: Src::Imm(imm), .. } => index = index.or(Some(Some(imm as u32))),
            Insn::Mov { .. } | Insn::LoadImm64 { .. } | Insn::Alu { .. } | Insn::Load { .. } => {
                match super::cfg::written(&insn) {
                    Some(Reg::R2) => map = map.or(Some(None)),
                    Some(Reg::R3) => index = index.or(Some(None)),
                    _ => {}
                }
            }
            Insn::Neg { .. }
            | Insn::MovSx { .. }
            | Insn::Endian { .. }
            | Insn::LoadSx { .. }
            | Insn::Store { .. }
            | Insn::Atomic { .. }
            | Insn::LoadAcquire { .. }
            | Insn::StoreRelease { .. }
            | Insn::LoadAbs { .. }
            | Insn::LoadInd { .. }
            | Insn::Ja { .. }
            | Insn::JaL { .. }
            | Insn::MayGoto { .. }
            | Insn::Jmp { .. }
            | Insn::Call { .. }
            | Insn::CallSubprog { .. }
            | Insn::CallKfunc { .. }
            | Insn::CallX { .. }
            | Insn::Exit => break,
        }
    }
    match (map.flatten(), index.flatten()) {
        (Some(map), Some(index)) if index < program.map(map).max_entries => TailCall::Direct { map, index },
        (Some(map), _) => TailCall::Indirect { map },
        (None, _) => TailCall::Dynamic,
    }
}
