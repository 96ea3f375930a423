//! One instruction with registers, operands and memory of its own choice, in a program that lets everything be seen that
//! it can change: all registers, and the memory around the place that it works on.
//!
//! [`single::cases`](crate::single::cases) goes through all pairs of corner values in two registers. Probes go through the
//! rest: every pair of registers (machine registers are encoded differently, and some are taken by shifts and divisions),
//! every width of access at every alignment, every displacement's encoding, every atomic operation over all pairs.

use std::sync::Arc;

use livebpf::insn::{AluOp, AtomicOp, Cond, EndianOp, Imm64, Insn, Insns, Reg, Size, Src, Width};
use livebpf::link::Program;
use livebpf::object::{MapDef, MapType, ProgType, ProgramKind};

use crate::single::{ALU_OPS, ATOMIC_OPS, CONDS, SIZES, WIDTHS};
use crate::{Source, corners};

/// Where an access goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// The stack: aligned accesses only.
    Stack,
    /// An array's value.
    Value,
    /// A packet: no atomic accesses.
    Packet,
}

/// All places.
pub const PLACES: [Place; 3] = [Place::Stack, Place::Value, Place::Packet];

/// Bytes of memory around an access.
pub const AREA: u32 = 32;

/// One instruction and what it finds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Probe {
    /// The instruction. A jump skips one that would change its destination register.
    pub insn: Insn,
    /// What its destination, or the register that is stored, holds.
    pub dst: u64,
    /// What its source register holds.
    pub src: u64,
    /// What R0 holds before a `cmpxchg`.
    pub expected: u64,
    /// For an access: where it goes, how many bytes behind the area's beginning, and what the area holds.
    pub memory: Option<(Place, u32, [u64; 4])>,
}

/// The registers that take part: all but the frame pointer.
const REGS: [Reg; 10] = [Reg::R0, Reg::R1, Reg::R2, Reg::R3, Reg::R4, Reg::R5, Reg::R6, Reg::R7, Reg::R8, Reg::R9];
/// How often an access that verifiers allow is looked for.
const ATTEMPTS: u32 = 32;
const PATTERN: [u64; 4] = [0x8182_8384_8586_8788, 0x7172_7374_7576_7778, 0xfff1_f2f3_f4f5_f6f7, 0x0102_0304_0506_0708];

/// Offset of `ingress_ifindex` in `struct xdp_md`.
const INGRESS_IFINDEX: i16 = 12;

/// The stack: the sum so far, a zero of which verifiers know nothing, the packet, the area, the registers.
const SUM: i16 = -8;
const ZERO: i16 = -16;
const PACKET: i16 = -24;
const AREA_AT: i16 = -64;
const SAVED: i16 = -144;

/// One XDP program that folds all bits that the probes leave behind into R0. Its packet has to have 32 bytes.
pub fn together(probes: &[Probe]) -> Program {
    let mut writer = Writer { insns: Insns::default() };
    writer.prologue();
    probes.iter().for_each(|probe| writer.probe(probe));
    writer.epilogue();
    let map = Arc::new(MapDef::new("area", MapType::ARRAY, 4, AREA, 1));
    Program { maps: vec![map], ..Program::bare("probes", ProgramKind::new(ProgType::XDP), writer.insns) }
}

struct Writer {
    insns: Insns,
}

impl Writer {
    fn push(&mut self, insn: Insn) {
        self.insns.push(insn);
    }
    fn set(&mut self, dst: Reg, value: u64) {
        // The shortest form: most values are small.
        match i32::try_from(value as i64) {
            Ok(imm) => self.push(Insn::Mov { width: Width::W64, dst, src: Src::Imm(imm) }),
            Err(_) => self.push(Insn::LoadImm64 { dst, value: Imm64::Const(value) }),
        }
    }
    fn copy(&mut self, dst: Reg, src: Reg) {
        self.push(Insn::Mov { width: Width::W64, dst, src: Src::Reg(src) });
    }
    fn alu(&mut self, op: AluOp, dst: Reg, src: Src) {
        self.push(Insn::Alu { op, width: Width::W64, dst, src });
    }
    fn load(&mut self, dst: Reg, base: Reg, off: i16) {
        self.push(Insn::Load { size: Size::DW, dst, base, off });
    }
    fn store(&mut self, base: Reg, off: i16, src: Reg) {
        self.push(Insn::Store { size: Size::DW, base, off, src: Src::Reg(src) });
    }

    fn prologue(&mut self) {
        let (r1, r2, r3, r9) = (Reg::R1, Reg::R2, Reg::R3, Reg::R9);
        self.push(Insn::Load { size: Size::W, dst: r9, base: r1, off: INGRESS_IFINDEX });
        self.alu(AluOp::Sub, r9, Src::Imm(1));
        self.store(Reg::FP, ZERO, r9);
        self.push(Insn::Load { size: Size::W, dst: r2, base: r1, off: 0 });
        self.push(Insn::Load { size: Size::W, dst: r3, base: r1, off: 4 });
        self.set(Reg::R0, 0);
        self.copy(r1, r2);
        self.alu(AluOp::Add, r1, Src::Imm(AREA as i32));
        self.push(Insn::Jmp { cond: Cond::Le, width: Width::W64, dst: r1, src: Src::Reg(r3), off: 1 });
        self.push(Insn::Exit);
        self.store(Reg::FP, PACKET, r2);
        self.set(r1, 1);
        self.store(Reg::FP, SUM, r1);
    }

    /// Sets everything up, runs the instruction, and folds in what is there afterwards.
    fn probe(&mut self, probe: &Probe) {
        let base = probe.insn.base();
        if let Some((place, at, words)) = probe.memory {
            self.pointer(Reg::R1, place);
            for (index, word) in (0..).zip(words) {
                self.set(Reg::R2, word);
                self.store(Reg::R1, 8 * index, Reg::R2);
            }
            for (index, reg) in (0u64..).zip(REGS) {
                self.set(reg, 0x1111_1111 * index + 3);
            }
            self.hidden(probe);
            if let Some((base, off)) = base.filter(|(base, _)| *base != Reg::FP) {
                self.pointer(base, place);
                let by = at as i32 - i32::from(off);
                if by != 0 {
                    self.alu(AluOp::Add, base, Src::Imm(by));
                }
            }
        } else {
            for (index, reg) in (0u64..).zip(REGS) {
                self.set(reg, 0x1111_1111 * index + 3);
            }
            self.hidden(probe);
        }
        let (dst, _) = probe.insn.operands();
        self.push(probe.insn);
        if matches!(probe.insn, Insn::Jmp { .. }) {
            self.alu(AluOp::Xor, dst.unwrap_or(Reg::R0), Src::Imm(0x55));
        }
        self.fold(probe, base.map(|(base, _)| base));
    }

    /// The operands, which verifiers do not know.
    fn hidden(&mut self, probe: &Probe) {
        let (dst, src) = probe.insn.operands();
        for (reg, value) in [(dst, probe.dst), (src, probe.src)] {
            let Some(reg) = reg.filter(|reg| *reg != Reg::FP) else { continue };
            self.load(reg, Reg::FP, ZERO);
            let other = if reg == Reg::R9 { Reg::R8 } else { Reg::R9 };
            // What the other one held comes back: it may be the other operand.
            self.store(Reg::FP, SAVED, other);
            self.set(other, value);
            self.alu(AluOp::Xor, reg, Src::Reg(other));
            self.load(other, Reg::FP, SAVED);
        }
        if let Insn::Atomic { op: AtomicOp::Cmpxchg, .. } = probe.insn {
            self.set(Reg::R0, probe.expected);
        }
    }

    fn pointer(&mut self, dst: Reg, place: Place) {
        match place {
            Place::Stack => {
                self.copy(dst, Reg::FP);
                self.alu(AluOp::Add, dst, Src::Imm(AREA_AT.into()));
            }
            Place::Value => self.push(Insn::LoadImm64 { dst, value: Imm64::MapIdxValue { idx: 0, off: 0 } }),
            Place::Packet => self.load(dst, Reg::FP, PACKET),
        }
    }

    /// All registers, and the memory.
    fn fold(&mut self, probe: &Probe, base: Option<Reg>) {
        let overwritten = match probe.insn {
            Insn::Load { dst, .. } | Insn::LoadSx { dst, .. } | Insn::LoadAcquire { dst, .. } => Some(dst),
            _ => None,
        };
        let mut saved = 0;
        for reg in REGS {
            if Some(reg) == base && overwritten != base {
                continue;
            }
            self.store(Reg::FP, SAVED + 8 * saved, reg);
            saved += 1;
        }
        let (sum, word) = (Reg::R1, Reg::R2);
        self.load(sum, Reg::FP, SUM);
        let add = |writer: &mut Writer, base, off| {
            writer.load(word, base, off);
            writer.alu(AluOp::Mul, sum, Src::Imm(0x0100_0193));
            writer.alu(AluOp::Xor, sum, Src::Reg(word));
        };
        (0..saved).for_each(|index| add(self, Reg::FP, SAVED + 8 * index));
        if let Some((place, ..)) = probe.memory {
            self.pointer(Reg::R3, place);
            (0..4).for_each(|index| add(self, Reg::R3, 8 * index));
        }
        self.store(Reg::FP, SUM, sum);
    }

    fn epilogue(&mut self) {
        self.load(Reg::R0, Reg::FP, SUM);
        self.copy(Reg::R1, Reg::R0);
        self.alu(AluOp::Rsh, Reg::R1, Src::Imm(32));
        self.alu(AluOp::Xor, Reg::R0, Src::Reg(Reg::R1));
        self.push(Insn::Exit);
    }
}

/// What an instruction needs to be set up.
trait Operands {
    /// The register that it reads as a number or writes, and the other one that it reads.
    fn operands(&self) -> (Option<Reg>, Option<Reg>);
    /// The register that holds an address, and the offset.
    fn base(&self) -> Option<(Reg, i16)>;
}

impl Operands for Insn {
    fn operands(&self) -> (Option<Reg>, Option<Reg>) {
        let reg = |src: Src| match src {
            Src::Reg(reg) => Some(reg),
            Src::Imm(_) => None,
        };
        match *self {
            Insn::Alu { dst, src, .. } | Insn::Jmp { dst, src, .. } => (Some(dst), reg(src)),
            Insn::Mov { src, .. } => (None, reg(src)),
            Insn::Neg { dst, .. } | Insn::Endian { dst, .. } => (Some(dst), None),
            Insn::MovSx { src, .. } => (None, Some(src)),
            Insn::Store { src, .. } => (reg(src), None),
            Insn::Atomic { src, .. } | Insn::StoreRelease { src, .. } => (Some(src), None),
            Insn::LoadImm64 { .. }
            | Insn::Load { .. }
            | Insn::LoadSx { .. }
            | Insn::LoadAcquire { .. }
            | Insn::LoadAbs { .. }
            | Insn::LoadInd { .. }
            | Insn::Ja { .. }
            | Insn::JaL { .. }
            | Insn::MayGoto { .. }
            | Insn::Call { .. }
            | Insn::CallSubprog { .. }
            | Insn::CallKfunc { .. }
            | Insn::CallX { .. }
            | Insn::Exit => (None, None),
        }
    }

    fn base(&self) -> Option<(Reg, i16)> {
        match *self {
            Insn::Load { base, off, .. }
            | Insn::LoadSx { base, off, .. }
            | Insn::Store { base, off, .. }
            | Insn::Atomic { base, off, .. }
            | Insn::LoadAcquire { base, off, .. }
            | Insn::StoreRelease { base, off, .. } => Some((base, off)),
            Insn::Alu { .. }
            | Insn::Neg { .. }
            | Insn::Mov { .. }
            | Insn::MovSx { .. }
            | Insn::Endian { .. }
            | Insn::LoadImm64 { .. }
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
            | Insn::Exit => None,
        }
    }
}

fn plain(insn: Insn, dst: u64, src: u64) -> Probe {
    Probe { insn, dst, src, expected: 0, memory: None }
}

/// Every two-operand instruction and comparison with every pair of registers, every other with every register, and every
/// shift by every constant amount.
pub fn registers() -> Vec<Probe> {
    let mut out = Vec::new();
    let values = [(0x8000_0000_ffff_fff9, 0x1_0000_0003), (77, 0xffff_ffff_ffff_fffe)];
    for dst in REGS {
        for src in REGS {
            let insns = two_operand(dst, Src::Reg(src)).chain(sign_extensions(dst, src));
            out.extend(insns.flat_map(|insn| values.map(|(a, b)| plain(insn, a, b))));
        }
        for imm in [3, -7, i32::MAX, i32::MIN] {
            let insns = two_operand(dst, Src::Imm(imm)).filter(|insn| !too_far(*insn));
            out.extend(insns.flat_map(|insn| values.map(|(a, _)| plain(insn, a, 0))));
        }
        out.extend(unary(dst).flat_map(|insn| values.map(|(a, _)| plain(insn, a, 0))));
        for op in [AluOp::Lsh, AluOp::Rsh, AluOp::Arsh] {
            for (width, bits) in [(Width::W64, 64), (Width::W32, 32)] {
                let shift = |imm| Insn::Alu { op, width, dst, src: Src::Imm(imm) };
                out.extend((0..bits).map(|imm| plain(shift(imm), 0x9234_5678_89ab_cdef, 0)));
            }
        }
    }
    out
}

/// Every kind and width of load and store: at every alignment and in every place; with every pair of registers; with
/// every displacement that is encoded differently.
pub fn accesses() -> Vec<Probe> {
    let mut out = Vec::new();
    for place in PLACES {
        for at in 0..16 {
            out.extend(kinds(Reg::R1, Reg::R2, 0).filter_map(|insn| access(insn, place, at)));
            let through_fp = kinds(Reg::FP, Reg::R2, AREA_AT + at as i16);
            out.extend(through_fp.filter_map(|insn| access(insn, place, at)));
        }
    }
    for base in REGS {
        for data in REGS {
            let off = if data.number() % 2 == 0 { 24 } else { 0 };
            out.extend(kinds(base, data, off).filter_map(|insn| access(insn, Place::Value, 8)));
        }
        let data = if base == Reg::R9 { Reg::R0 } else { Reg::R9 };
        for off in [1, -1, 127, 128, -128, -129, i16::MAX, i16::MIN] {
            for place in [Place::Value, Place::Stack] {
                out.extend(kinds(base, data, off).filter_map(|insn| access(insn, place, 16)));
            }
        }
    }
    out
}

/// Every atomic operation in both widths: over all pairs of corner values, in memory and in the register, with R0 equal to
/// the memory and not; with every pair of registers.
pub fn atomics() -> Vec<Probe> {
    let mut out = Vec::new();
    for op in ATOMIC_OPS {
        for width in WIDTHS {
            for (row, memory) in (0u64..).zip(corners::U64) {
                for (column, value) in (0u64..).zip(corners::U64) {
                    let place = if column % 2 == 0 { Place::Value } else { Place::Stack };
                    let expected = if (row + column) % 3 == 0 { value } else { memory };
                    let insn = Insn::Atomic { op, width, base: Reg::R1, off: 8, src: Reg::R2 };
                    let words = [PATTERN[0], memory, PATTERN[2], PATTERN[3]];
                    out.push(Probe { insn, dst: value, src: 0, expected, memory: Some((place, 8, words)) });
                }
            }
            for base in REGS {
                for src in REGS {
                    let insn = Insn::Atomic { op, width, base, off: 4 * i16::from(src.number()), src };
                    out.extend(access(insn, Place::Value, 16));
                }
            }
        }
    }
    out
}

/// A probe of any kind.
pub fn random(source: &mut Source<'_>) -> Probe {
    let (dst, src) = (source.pick(&REGS), source.pick(&REGS));
    let (a, b) = (corners::u64(source), corners::u64(source));
    let kind = source.below(8);
    if kind < 4 {
        let operand = if source.chance(1, 2) { Src::Reg(src) } else { Src::Imm(corners::i32(source)) };
        let all: Vec<Insn> = two_operand(dst, operand)
            .chain(sign_extensions(dst, src))
            .chain(unary(dst))
            .filter(|i| !too_far(*i))
            .collect();
        return plain(source.pick(&all), a, b);
    }
    for _ in 0..ATTEMPTS {
        let (base, data, off) = (source.pick(&REGS), source.pick(&REGS), corners::i16(source));
        let insn = match kind {
            4 | 5 => source.pick(&kinds(base, data, off).collect::<Vec<_>>()),
            _ => {
                let (op, width) = (source.pick(&ATOMIC_OPS), source.pick(&WIDTHS));
                Insn::Atomic { op, width, base, off, src: data }
            }
        };
        let at = source.below(AREA);
        let Some(mut probe) = access(insn, source.pick(&PLACES), at) else { continue };
        (probe.dst, probe.expected) = (a, b);
        if let Some((_, _, words)) = &mut probe.memory {
            words[(at / 8) as usize] = if source.chance(1, 2) { b } else { corners::u64(source) };
        }
        return probe;
    }
    plain(Insn::Neg { width: Width::W64, dst }, a, b)
}

fn two_operand(dst: Reg, src: Src) -> impl Iterator<Item = Insn> {
    WIDTHS.into_iter().flat_map(move |width| {
        let alu = ALU_OPS.into_iter().map(move |op| Insn::Alu { op, width, dst, src });
        let jumps = CONDS.into_iter().map(move |cond| Insn::Jmp { cond, width, dst, src, off: 1 });
        alu.chain(jumps).chain([Insn::Mov { width, dst, src }])
    })
}

fn sign_extensions(dst: Reg, src: Reg) -> impl Iterator<Item = Insn> {
    let narrow = [(Width::W64, Size::B), (Width::W64, Size::H), (Width::W64, Size::W), (Width::W32, Size::B)];
    let all = narrow.into_iter().chain([(Width::W32, Size::H)]);
    all.map(move |(width, from)| Insn::MovSx { width, from, dst, src })
}

fn unary(dst: Reg) -> impl Iterator<Item = Insn> {
    let neg = WIDTHS.into_iter().map(move |width| Insn::Neg { width, dst });
    let swaps = [EndianOp::ToLe, EndianOp::ToBe, EndianOp::Swap]
        .into_iter()
        .flat_map(move |op| [Size::H, Size::W, Size::DW].into_iter().map(move |size| Insn::Endian { op, size, dst }));
    neg.chain(swaps)
}

/// Whether verifiers refuse an immediate operand: a division by zero, a shift by the width or more.
fn too_far(insn: Insn) -> bool {
    let Insn::Alu { op, width, src: Src::Imm(imm), .. } = insn else { return false };
    let bits = if width == Width::W64 { 64 } else { 32 };
    match op {
        AluOp::Div | AluOp::SDiv | AluOp::Mod | AluOp::SMod => imm == 0,
        AluOp::Lsh | AluOp::Rsh | AluOp::Arsh => !(0..bits).contains(&imm),
        AluOp::Add | AluOp::Sub | AluOp::Mul | AluOp::Or | AluOp::And | AluOp::Xor => false,
    }
}

/// Every kind and width of access that is not atomic.
fn kinds(base: Reg, data: Reg, off: i16) -> impl Iterator<Item = Insn> {
    let (dst, src) = (data, data);
    let all = SIZES.into_iter().flat_map(move |size| {
        [
            Insn::Load { size, dst, base, off },
            Insn::Store { size, base, off, src: Src::Reg(src) },
            Insn::Store { size, base, off, src: Src::Imm(-0x0123_4567) },
            Insn::LoadAcquire { size, dst, base, off },
            Insn::StoreRelease { size, base, off, src },
        ]
    });
    all.chain([Size::W, Size::H, Size::B].into_iter().map(move |size| Insn::LoadSx { size, dst, base, off }))
}

/// The access at so many bytes behind the area's beginning, where verifiers allow it.
fn access(insn: Insn, place: Place, at: u32) -> Option<Probe> {
    let (base, off) = insn.base()?;
    let (bytes, ordered, data) = match insn {
        Insn::Atomic { width, src, .. } => (if width == Width::W64 { 8 } else { 4 }, true, Some(src)),
        Insn::LoadAcquire { size, .. } => (size.bytes(), true, None),
        Insn::StoreRelease { size, src, .. } => (size.bytes(), true, Some(src)),
        Insn::Store { size, src: Src::Reg(src), .. } => (size.bytes(), false, Some(src)),
        Insn::Store { size, .. } | Insn::Load { size, .. } | Insn::LoadSx { size, .. } => (size.bytes(), false, None),
        _ => return None,
    };
    let aligned = at.is_multiple_of(bytes);
    let cmpxchg = matches!(insn, Insn::Atomic { op: AtomicOp::Cmpxchg, .. });
    let refused = at + bytes > AREA
        || (ordered || place == Place::Stack) && !aligned
        || ordered && place == Place::Packet
        // An address is not a number, and packets are not read in front of their beginning.
        || data == Some(base)
        || cmpxchg && base == Reg::R0
        || place == Place::Packet && i32::from(off) > at as i32 + 8
        || base == Reg::FP && (place != Place::Stack || i32::from(off) != i32::from(AREA_AT) + at as i32);
    let value = 0xfedc_ba98_7654_3210;
    (!refused).then_some(Probe {
        insn,
        dst: value,
        src: 0,
        expected: PATTERN[(at / 8) as usize],
        memory: Some((place, at, PATTERN)),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use livebpf::helper::Table;
    use livebpf::verify::{Options, verify};

    fn check(probes: &[Probe]) {
        let helpers = Table::builtin();
        for some in probes.chunks(64) {
            let program = together(some);
            assert_eq!(Insns::decode(&program.insns.encode()).as_ref(), Ok(&program.insns));
            if let Err(refused) = verify(program, &Options::new(&helpers)) {
                for probe in some {
                    if let Err(refused) = verify(together(&[*probe]), &Options::new(&helpers)) {
                        panic!("{probe:?}: {refused}");
                    }
                }
                panic!("{refused}");
            }
        }
    }

    #[test]
    fn accesses_are_taken_and_complete() {
        let all = accesses();
        let mut seen = BTreeSet::new();
        for probe in &all {
            let (place, at, _) = probe.memory.expect("an access");
            seen.insert((probe.insn.opcode(), place as u8, at % 8));
        }
        // Loads and stores of 8, 4, 2 and 1 bytes, signed loads, immediate stores: 15 kinds at all alignments of a value and a
        // packet; those of the stack at 4 + 3 + (1 + 2 + 4 + 8) ... places; ordered ones share an opcode with atomics.
        let plain = |place: Place| seen.iter().filter(|(_, at, _)| *at == place as u8).count();
        assert!(plain(Place::Packet) >= 15 * 8 && plain(Place::Value) >= 15 * 8, "{}", seen.len());
        assert!(plain(Place::Stack) >= 3 * 15 + 2 * 7, "{}", plain(Place::Stack));
        assert!((6_000..12_000).contains(&all.len()), "{}", all.len());
        check(&all);
    }

    #[test]
    fn atomics_are_taken() {
        let all = atomics();
        assert!((13_000..14_000).contains(&all.len()), "{}", all.len());
        check(&all.iter().copied().step_by(7).collect::<Vec<_>>());
    }

    #[test]
    fn registers_are_taken() {
        let all = registers();
        assert!((10_000..20_000).contains(&all.len()), "{}", all.len());
        check(&all.iter().copied().step_by(5).collect::<Vec<_>>());
    }

    #[test]
    fn random_ones_are_taken() {
        let mut source = Source::seeded(1);
        let all: Vec<Probe> = (0..3_000).map(|_| random(&mut source)).collect();
        check(&all);
        let opcodes: BTreeSet<u8> = all.iter().map(|probe| probe.insn.opcode()).collect();
        assert!(opcodes.len() > 90, "{}", opcodes.len());
        assert!(SIZES.len() == 4 && all.iter().any(|probe| probe.memory.is_some()));
        random(&mut Source::bytes(&[0, 0, 7, 7, 7, 7, 7]));
    }
}
