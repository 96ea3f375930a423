//! What the kernel asks of a classic program before it takes it (`bpf_check_classic` and `check_load_and_stores`).

use super::ancillary::{self, Place};
use super::error::CbpfError;
use super::{ClassicInsn, MAX_INSNS, Op, SCRATCH_WORDS};
use crate::insn::AluOp;

/// Checks all of it.
pub(super) fn check(insns: &[ClassicInsn]) -> Result<(), CbpfError> {
    if !(1..=MAX_INSNS).contains(&insns.len()) {
        return Err(CbpfError::Count { found: insns.len() });
    }
    let mut ops = Vec::with_capacity(insns.len());
    for (at, insn) in insns.iter().enumerate() {
        let op = insn.op().ok_or(CbpfError::Code { at, code: insn.code })?;
        one(at, insn, op, insns.len())?;
        ops.push(op);
    }
    if let (Some(insn), Some(op)) = (insns.last(), ops.last())
        && !matches!(op, Op::ReturnA | Op::ReturnK)
    {
        return Err(CbpfError::NoReturn { at: insns.len() - 1, code: insn.code });
    }
    scratch(insns, &ops)
}

/// Checks an instruction's constant and jumps.
fn one(at: usize, insn: &ClassicInsn, op: Op, len: usize) -> Result<(), CbpfError> {
    let to = |skip: u32| {
        let to = at as u64 + 1 + u64::from(skip);
        if to < len as u64 { Ok(()) } else { Err(CbpfError::Jump { at, to, len }) }
    };
    match op {
        Op::Alu(AluOp::Div | AluOp::Mod, false) if insn.k == 0 => Err(CbpfError::DivisionByZero { at }),
        Op::Alu(AluOp::Lsh | AluOp::Rsh, false) if insn.k > 31 => Err(CbpfError::Shift { at, found: insn.k }),
        Op::LoadMem | Op::LoadXMem | Op::StoreA | Op::StoreX if insn.k >= SCRATCH_WORDS => {
            Err(CbpfError::Scratch { at, found: insn.k })
        }
        Op::LoadAbs(_) => match ancillary::place(insn.k) {
            Place::Unknown(found) => Err(CbpfError::Ancillary { at, found }),
            Place::Packet | Place::Ancillary(_) => Ok(()),
        },
        Op::Ja => to(insn.k),
        Op::Jump(..) => to(insn.jt.into()).and_then(|()| to(insn.jf.into())),
        Op::LoadImm
        | Op::LoadLen
        | Op::LoadInd(_)
        | Op::LoadMem
        | Op::LoadXImm
        | Op::LoadXLen
        | Op::LoadXMem
        | Op::LoadXMsh
        | Op::StoreA
        | Op::StoreX
        | Op::Alu(..)
        | Op::Neg
        | Op::ReturnA
        | Op::ReturnK
        | Op::Tax
        | Op::Txa => Ok(()),
    }
}

/// Checks that every word of scratch memory is stored before it is read, on every way. Jumps go forward, so one pass does it.
fn scratch(insns: &[ClassicInsn], ops: &[Op]) -> Result<(), CbpfError> {
    // Words that are stored on every way to an instruction; all where none leads there.
    let mut stored = vec![u16::MAX; insns.len()];
    let mut here = 0u16;
    for (at, (insn, op)) in insns.iter().zip(ops).enumerate() {
        here &= stored[at];
        let word = 1u16.checked_shl(insn.k).unwrap_or(0);
        let mut meet = |skip: u32, here: u16| {
            if let Some(there) = stored.get_mut(at + 1 + skip as usize) {
                *there &= here;
            }
        };
        match op {
            Op::StoreA | Op::StoreX => here |= word,
            Op::LoadMem | Op::LoadXMem if here & word == 0 => return Err(CbpfError::Unset { at, word: insn.k }),
            Op::Ja => {
                meet(insn.k, here);
                here = u16::MAX;
            }
            Op::Jump(..) => {
                meet(insn.jt.into(), here);
                meet(insn.jf.into(), here);
                here = u16::MAX;
            }
            Op::ReturnA | Op::ReturnK => here = u16::MAX,
            Op::LoadImm
            | Op::LoadLen
            | Op::LoadAbs(_)
            | Op::LoadInd(_)
            | Op::LoadMem
            | Op::LoadXImm
            | Op::LoadXLen
            | Op::LoadXMem
            | Op::LoadXMsh
            | Op::Alu(..)
            | Op::Neg
            | Op::Tax
            | Op::Txa => {}
        }
    }
    Ok(())
}
