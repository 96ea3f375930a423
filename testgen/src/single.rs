//! Single instructions: any that has an encoding, and arithmetic between corner values with a program around it.

use livebpf::insn::{AluOp, AtomicOp, Cond, EndianOp, Imm64, Insn, Insns, Reg, Size, Src, Width};
use livebpf::link::Program;
use livebpf::object::{ProgType, ProgramKind};

use crate::{Source, corners};

/// All two-operand arithmetic.
pub const ALU_OPS: [AluOp; 13] = [
    AluOp::Add,
    AluOp::Sub,
    AluOp::Mul,
    AluOp::Div,
    AluOp::SDiv,
    AluOp::Or,
    AluOp::And,
    AluOp::Lsh,
    AluOp::Rsh,
    AluOp::Mod,
    AluOp::SMod,
    AluOp::Xor,
    AluOp::Arsh,
];

/// All comparisons.
pub const CONDS: [Cond; 11] =
    [Cond::Eq, Cond::Ne, Cond::Gt, Cond::Ge, Cond::Lt, Cond::Le, Cond::Sgt, Cond::Sge, Cond::Slt, Cond::Sle, Cond::Set];

/// All read-modify-write operations.
pub const ATOMIC_OPS: [AtomicOp; 10] = [
    AtomicOp::Add { fetch: false },
    AtomicOp::Or { fetch: false },
    AtomicOp::And { fetch: false },
    AtomicOp::Xor { fetch: false },
    AtomicOp::Add { fetch: true },
    AtomicOp::Or { fetch: true },
    AtomicOp::And { fetch: true },
    AtomicOp::Xor { fetch: true },
    AtomicOp::Xchg,
    AtomicOp::Cmpxchg,
];

/// Both widths.
pub const WIDTHS: [Width; 2] = [Width::W64, Width::W32];
/// All access sizes.
pub const SIZES: [Size; 4] = [Size::DW, Size::W, Size::H, Size::B];
const NARROW: [Size; 3] = [Size::W, Size::H, Size::B];
const SWAPPED: [Size; 3] = [Size::H, Size::W, Size::DW];
const ENDIAN_OPS: [EndianOp; 3] = [EndianOp::ToLe, EndianOp::ToBe, EndianOp::Swap];

/// Any instruction that has an encoding, with operands at corners more often than not.
pub fn any(source: &mut Source<'_>) -> Insn {
    let reg = |source: &mut Source<'_>| source.pick(&Reg::ALL);
    let size = source.pick(&SIZES);
    let width = source.pick(&WIDTHS);
    let (dst, base, off) = (reg(source), reg(source), corners::i16(source));
    let src = operand(source);
    let imm = corners::i32(source);
    match source.below(24) {
        0 => Insn::Alu { op: source.pick(&ALU_OPS), width, dst, src },
        1 => Insn::Neg { width, dst },
        2 => Insn::Mov { width, dst, src },
        3 => Insn::MovSx { width, from: source.pick(sign_extended(width)), dst, src: base },
        4 => Insn::Endian { op: source.pick(&ENDIAN_OPS), size: source.pick(&SWAPPED), dst },
        5 => Insn::LoadImm64 { dst, value: imm64(source) },
        6 => Insn::Load { size, dst, base, off },
        7 => Insn::LoadSx { size: source.pick(&NARROW), dst, base, off },
        8 => Insn::Store { size, base, off, src },
        9 => Insn::Atomic { op: source.pick(&ATOMIC_OPS), width, base, off, src: dst },
        10 => Insn::LoadAcquire { size, dst, base, off },
        11 => Insn::StoreRelease { size, base, off, src: dst },
        12 => Insn::LoadAbs { size: source.pick(&NARROW), off: imm },
        13 => Insn::LoadInd { size: source.pick(&NARROW), src: base, off: imm },
        14 => Insn::Ja { off },
        15 => Insn::JaL { off: imm },
        16 => Insn::MayGoto { off },
        17 | 18 => Insn::Jmp { cond: source.pick(&CONDS), width, dst, src, off },
        19 => Insn::Call { helper: imm as u32 },
        20 => Insn::CallSubprog { off: imm },
        21 => Insn::CallKfunc { btf_id: imm, off },
        22 => Insn::CallX { reg: dst },
        _ => Insn::Exit,
    }
}

fn operand(source: &mut Source<'_>) -> Src {
    if source.chance(1, 2) { Src::Reg(source.pick(&Reg::ALL)) } else { Src::Imm(corners::i32(source)) }
}

fn imm64(source: &mut Source<'_>) -> Imm64 {
    let (number, off) = (corners::i32(source), corners::i32(source));
    match source.below(7) {
        0 => Imm64::Const(corners::u64(source)),
        1 => Imm64::MapFd(number),
        2 => Imm64::MapFdValue { fd: number, off: off as u32 },
        3 => Imm64::BtfId { id: number, fd: off },
        4 => Imm64::Func { off },
        5 => Imm64::MapIdx(number),
        _ => Imm64::MapIdxValue { idx: number, off: off as u32 },
    }
}

fn sign_extended(width: Width) -> &'static [Size] {
    match width {
        Width::W32 => &[Size::B, Size::H],
        Width::W64 => &[Size::B, Size::H, Size::W],
    }
}

/// Offset of `ingress_ifindex` in `struct xdp_md`.
const INGRESS_IFINDEX: i16 = 12;

/// One arithmetic instruction or comparison with the operands it works on: R1 is the destination, R2 the source.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Case {
    /// The instruction; a comparison jumps over one instruction.
    pub insn: Insn,
    /// R1 before.
    pub dst: u64,
    /// R2 before.
    pub src: u64,
}

impl Case {
    /// A program that returns R1 after the instruction; for a comparison 1 when it jumps, else 0.
    pub fn program(&self) -> Program {
        let (r0, r1) = (Reg::R0, Reg::R1);
        let set = |dst, value| Insn::LoadImm64 { dst, value: Imm64::Const(value) };
        let mov = |src| Insn::Mov { width: Width::W64, dst: r0, src };
        let mut insns = vec![set(r1, self.dst), set(Reg::R2, self.src)];
        match self.insn {
            Insn::Jmp { .. } => insns.extend([mov(Src::Imm(1)), self.insn, mov(Src::Imm(0))]),
            other => insns.extend([other, mov(Src::Reg(r1))]),
        }
        insns.push(Insn::Exit);
        Program::bare("case", ProgramKind::new(ProgType::XDP), Insns::from_vec(insns))
    }
}

/// One XDP program that folds all bits of the results of all cases into R0. Verifiers do not know the operands: they are
/// combined with the interface's index less one, which is zero where a context comes from loopback.
pub fn together(cases: &[Case]) -> Program {
    let (r0, r1, width) = (Reg::R0, Reg::R1, Width::W64);
    let set = |dst, value| Insn::LoadImm64 { dst, value: Imm64::Const(value) };
    let fold = |op, src| Insn::Alu { op, width, dst: r0, src };
    let zero = Reg::R9;
    let hide = |dst| Insn::Alu { op: AluOp::Xor, width, dst, src: Src::Reg(zero) };
    let mut insns = vec![
        Insn::Load { size: Size::W, dst: zero, base: r1, off: INGRESS_IFINDEX },
        Insn::Alu { op: AluOp::Sub, width, dst: zero, src: Src::Imm(1) },
        set(r0, 1),
    ];
    for case in cases {
        insns.extend([set(r1, case.dst), set(Reg::R2, case.src), hide(r1), hide(Reg::R2), case.insn]);
        if matches!(case.insn, Insn::Jmp { .. }) {
            insns.push(Insn::Mov { width, dst: r1, src: Src::Imm(5) });
        }
        insns.extend([fold(AluOp::Mul, Src::Imm(0x0100_0193)), fold(AluOp::Xor, Src::Reg(r1))]);
    }
    insns.push(Insn::Mov { width, dst: r1, src: Src::Reg(r0) });
    insns.push(Insn::Alu { op: AluOp::Rsh, width, dst: r1, src: Src::Imm(32) });
    insns.extend([fold(AluOp::Xor, Src::Reg(r1)), Insn::Exit]);
    Program::bare("cases", ProgramKind::new(ProgType::XDP), Insns::from_vec(insns))
}

/// Every arithmetic instruction and comparison, with registers and immediates, over all pairs of corner values: about
/// 120,000 cases. Immediate shifts by too much and immediate divisions by zero, which verifiers refuse, are left out.
pub fn cases() -> impl Iterator<Item = Case> {
    let with_reg = corners::U64.into_iter().flat_map(|dst| {
        corners::U64
            .into_iter()
            .flat_map(move |src| two_operand(Src::Reg(Reg::R2)).chain(moves()).map(move |insn| Case { insn, dst, src }))
    });
    let with_imm = corners::U64.into_iter().flat_map(|dst| {
        corners::I32.into_iter().flat_map(move |imm| {
            two_operand(Src::Imm(imm)).filter(is_accepted).map(move |insn| Case { insn, dst, src: 0 })
        })
    });
    let unary = corners::U64.into_iter().flat_map(|dst| one_operand().map(move |insn| Case { insn, dst, src: 0 }));
    unary.chain(with_reg).chain(with_imm)
}

fn two_operand(src: Src) -> impl Iterator<Item = Insn> {
    WIDTHS.into_iter().flat_map(move |width| {
        let dst = Reg::R1;
        let alu = ALU_OPS.into_iter().map(move |op| Insn::Alu { op, width, dst, src });
        let jumps = CONDS.into_iter().map(move |cond| Insn::Jmp { cond, width, dst, src, off: 1 });
        alu.chain(jumps).chain([Insn::Mov { width, dst, src }])
    })
}

fn moves() -> impl Iterator<Item = Insn> {
    WIDTHS.into_iter().flat_map(|width| {
        sign_extended(width).iter().map(move |&from| Insn::MovSx { width, from, dst: Reg::R1, src: Reg::R2 })
    })
}

fn one_operand() -> impl Iterator<Item = Insn> {
    let dst = Reg::R1;
    let neg = WIDTHS.into_iter().map(move |width| Insn::Neg { width, dst });
    let swaps =
        ENDIAN_OPS.into_iter().flat_map(move |op| SWAPPED.into_iter().map(move |size| Insn::Endian { op, size, dst }));
    neg.chain(swaps)
}

/// Whether verifiers take an immediate operand: not a division by zero, not a shift by the width or more.
fn is_accepted(insn: &Insn) -> bool {
    let Insn::Alu { op, width, src: Src::Imm(imm), .. } = *insn else { return true };
    let bits = if width == Width::W64 { 64 } else { 32 };
    match op {
        AluOp::Div | AluOp::SDiv | AluOp::Mod | AluOp::SMod => imm != 0,
        AluOp::Lsh | AluOp::Rsh | AluOp::Arsh => (0..bits).contains(&imm),
        AluOp::Add | AluOp::Sub | AluOp::Mul | AluOp::Or | AluOp::And | AluOp::Xor => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use livebpf::insn::text;

    #[test]
    fn any_reaches_every_kind_and_only_encodable_ones() {
        let mut source = Source::seeded(1);
        let mut opcodes = std::collections::BTreeSet::new();
        for _ in 0..20_000 {
            let insn = any(&mut source);
            opcodes.insert(insn.opcode());
            let bytes = Insns::from_vec([insn]).encode();
            assert_eq!(Insns::decode(&bytes), Ok(Insns::from_vec([insn])), "{insn}");
            assert_eq!(text::parse(&insn.to_string()), Ok(insn));
        }
        assert!(opcodes.len() > 115, "only {} opcodes", opcodes.len());
    }

    #[test]
    fn cases_are_many_and_well_formed() {
        let mut count = 0;
        for case in cases() {
            count += 1;
            if count % 997 == 0 {
                let program = case.program();
                assert_eq!(Insns::decode(&program.insns.encode()), Ok(program.insns));
            }
        }
        assert!((50_000..200_000).contains(&count), "{count}");
    }
}
