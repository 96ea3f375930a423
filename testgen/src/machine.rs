//! Machine code of random instructions, labels, branches and padding, read back by iced-x86: every instruction says what it was
//! asked to be, every branch leads to its label, and padding is no-operations up to where it was asked for.
//!
//! The unit tests of the assembler go through every form of every instruction alone; here they stand together, so that sizes of
//! branches, positions and padding depend on each other.

use iced_x86::{
    Decoder, DecoderOptions, FlowControl, Formatter, Instruction, MemorySizeOptions, Mnemonic, NasmFormatter,
};
use livebpf::jit::x64::{Alu, Asm, Cc, Gpr, Label, Mem, Pos, Scale, Shift, Size};

use crate::{Source, corners};

const ALUS: [(Alu, &str); 8] = [
    (Alu::Add, "add"),
    (Alu::Or, "or"),
    (Alu::Adc, "adc"),
    (Alu::Sbb, "sbb"),
    (Alu::And, "and"),
    (Alu::Sub, "sub"),
    (Alu::Xor, "xor"),
    (Alu::Cmp, "cmp"),
];
const SHIFTS: [(Shift, &str); 5] =
    [(Shift::Rol, "rol"), (Shift::Ror, "ror"), (Shift::Shl, "shl"), (Shift::Shr, "shr"), (Shift::Sar, "sar")];
const CCS: [(Cc, Mnemonic); 10] = [
    (Cc::B, Mnemonic::Jb),
    (Cc::Ae, Mnemonic::Jae),
    (Cc::E, Mnemonic::Je),
    (Cc::Ne, Mnemonic::Jne),
    (Cc::Be, Mnemonic::Jbe),
    (Cc::A, Mnemonic::Ja),
    (Cc::L, Mnemonic::Jl),
    (Cc::Ge, Mnemonic::Jge),
    (Cc::Le, Mnemonic::Jle),
    (Cc::G, Mnemonic::Jg),
];
const D_Q: [Size; 2] = [Size::D, Size::Q];
const SIZES: [Size; 4] = [Size::B, Size::W, Size::D, Size::Q];
const LABELS: u32 = 4;

/// What was asked for.
enum Asked {
    /// An instruction that reads so.
    Reads(String),
    /// A branch to a label; left out where it would lead to what follows.
    Branch(Mnemonic, Label),
    /// The same, always there; with the place that was answered.
    Always(Mnemonic, Label, Pos),
    /// Padding up to `residue` modulo `align`.
    Padding { align: u8, residue: u8 },
    /// A label is bound here.
    Bound(Label),
}

/// Makes machine code by choices and reads it back.
///
/// # Panics
/// Where it does not say what was asked for.
pub fn check(source: &mut Source<'_>) {
    let mut asm = Asm::with_capacity(64, LABELS);
    let mut unbound: Vec<Label> = (0..LABELS).map(Label).collect();
    let mut asked = Vec::new();
    for _ in 0..source.between(1, 200) {
        match source.below(16) {
            0 | 1 => {
                let (cc, mnemonic) = source.pick(&CCS);
                let label = Label(source.below(LABELS));
                asm.jcc(cc, label);
                asked.push(Asked::Branch(mnemonic, label));
            }
            2 => {
                let label = Label(source.below(LABELS));
                asm.jmp(label);
                asked.push(Asked::Branch(Mnemonic::Jmp, label));
            }
            3 => {
                let label = Label(source.below(LABELS));
                let at = asm.jmp_rel32(label);
                asked.push(Asked::Always(Mnemonic::Jmp, label, at));
            }
            4 => {
                let (label, at) = (Label(source.below(LABELS)), asm.pos());
                asm.call(label);
                asked.push(Asked::Always(Mnemonic::Call, label, at));
            }
            5 => {
                let align = source.pick(&[4, 1, 2, 8, 16, 32, 64]);
                let residue = source.below(align.into()) as u8;
                asm.align(align, residue);
                asked.push(Asked::Padding { align, residue });
            }
            6 | 7 if !unbound.is_empty() => bind(&mut asm, &mut unbound, source.below(LABELS), &mut asked),
            _ => asked.push(Asked::Reads(instruction(source, &mut asm))),
        }
    }
    while !unbound.is_empty() {
        bind(&mut asm, &mut unbound, 0, &mut asked);
    }
    asm.ret();
    asked.push(Asked::Reads("ret".to_owned()));
    let laid = asm.finish().expect("far from too large");
    let mut reader = Reader::new(&laid.bytes);
    let mut passed: Vec<Label> = Vec::new();
    for one in asked {
        match one {
            Asked::Reads(text) => reader.reads(&text),
            Asked::Branch(mnemonic, label) => {
                let to = laid.label(label).expect("all are bound");
                let is_next = reader.at() == to && !passed.contains(&label);
                assert!(
                    is_next || reader.branch(mnemonic, to),
                    "{mnemonic:?} to {to} is missing\n{}",
                    reader.listing()
                );
            }
            Asked::Always(mnemonic, label, at) => {
                let to = laid.label(label).expect("all are bound");
                assert_eq!(reader.at(), laid.offset(at), "{mnemonic:?}: where it is\n{}", reader.listing());
                assert!(reader.branch(mnemonic, to), "{mnemonic:?} to {to} is missing\n{}", reader.listing());
            }
            Asked::Padding { align, residue } => reader.padding(align.into(), residue.into()),
            Asked::Bound(label) => {
                assert_eq!(laid.label(label), Some(reader.at()), "{}", reader.listing());
                passed.push(label);
            }
        }
    }
    assert_eq!(reader.at() as usize, laid.bytes.len(), "something follows\n{}", reader.listing());
}

fn bind(asm: &mut Asm, unbound: &mut Vec<Label>, which: u32, asked: &mut Vec<Asked>) {
    let label = unbound.swap_remove(which as usize % unbound.len());
    asm.bind(label);
    asked.push(Asked::Bound(label));
}

/// Reads one instruction after the other.
struct Reader<'b> {
    bytes: &'b [u8],
    insns: Vec<Instruction>,
    next: usize,
    formatter: NasmFormatter,
}

impl<'b> Reader<'b> {
    fn new(bytes: &'b [u8]) -> Reader<'b> {
        let mut formatter = NasmFormatter::new();
        let options = formatter.options_mut();
        options.set_memory_size_options(MemorySizeOptions::Always);
        options.set_hex_prefix("0x");
        options.set_hex_suffix("");
        options.set_uppercase_hex(false);
        options.set_signed_immediate_operands(true);
        let insns = Decoder::new(64, bytes, DecoderOptions::NONE).into_iter().collect();
        Reader { bytes, insns, next: 0, formatter }
    }
    fn at(&self) -> u32 {
        self.insns.get(self.next).map_or(self.bytes.len() as u32, |insn| insn.ip() as u32)
    }
    fn listing(&self) -> String {
        let line = |insn: &Instruction| format!("{:4}: {insn}\n", insn.ip());
        self.insns.iter().map(line).collect()
    }
    fn reads(&mut self, wanted: &str) {
        let mut found = String::new();
        if let Some(insn) = self.insns.get(self.next) {
            self.formatter.format(insn, &mut found);
        }
        assert_eq!(found, wanted, "at {}\n{}", self.at(), self.listing());
        self.next += 1;
    }
    fn branch(&mut self, mnemonic: Mnemonic, to: u32) -> bool {
        let is = |insn: &&Instruction| {
            insn.mnemonic() == mnemonic
                && insn.flow_control() != FlowControl::IndirectBranch
                && insn.near_branch_target() == u64::from(to)
        };
        let found = self.insns.get(self.next).filter(is).is_some();
        self.next += usize::from(found);
        found
    }
    fn padding(&mut self, align: u32, residue: u32) {
        let begin = self.at();
        while self.at() % align != residue {
            let insn = self.insns.get(self.next);
            let is_nop = insn.is_some_and(|insn| insn.mnemonic() == Mnemonic::Nop);
            assert!(is_nop && self.at() - begin < align, "at {}: no padding\n{}", self.at(), self.listing());
            self.next += 1;
        }
    }
}

/// One instruction of any form, and how it reads.
fn instruction(source: &mut Source<'_>, asm: &mut Asm) -> String {
    let (a, b, c) = (source.pick(&Gpr::ALL), source.pick(&Gpr::ALL), source.pick(&Gpr::ALL));
    let (size, any) = (source.pick(&D_Q), source.pick(&SIZES));
    let imm = corners::i32(source);
    let n = number(imm.into());
    let mem = memory(source);
    let ((alu, alu_name), (shift, shift_name)) = (source.pick(&ALUS), source.pick(&SHIFTS));
    let (ra, rb) = (name(size, a), name(size, b));
    let m = format!("{} {}", keyword(size), text(mem));
    match source.below(25) {
        0 => (asm.mov_rr(size, a, b), format!("mov {ra},{rb}")).1,
        1 => (asm.mov_ri32(a, imm as u32), format!("mov {},{n}", name(Size::D, a))).1,
        2 => (asm.mov_ri_sx(a, imm), format!("mov {},{n}", name(Size::Q, a))).1,
        3 => {
            let wide = source.u64();
            asm.mov_ri64(a, wide);
            format!("mov {},{}", name(Size::Q, a), number(wide as i64))
        }
        4 => (asm.mov_rm(size, a, mem), format!("mov {ra},{m}")).1,
        5 => (asm.mov_mr(any, mem, a), format!("mov {} {},{}", keyword(any), text(mem), name(any, a))).1,
        6 => {
            let imm = i32::from(imm as i8);
            asm.mov_mi(any, mem, imm);
            format!("mov {} {},{}", keyword(any), text(mem), number(imm.into()))
        }
        7 => (asm.movzx_rm(Size::B, a, mem), format!("movzx {},byte {}", name(Size::D, a), text(mem))).1,
        8 => (asm.movsx_rr(size, Size::W, a, b), format!("movsx {ra},{}", name(Size::W, b))).1,
        9 => (asm.movsx_rm(Size::Q, Size::D, a, mem), format!("movsxd {},dword {}", name(Size::Q, a), text(mem))).1,
        10 => (asm.lea(size, a, mem), format!("lea {ra},{}", text(mem))).1,
        11 => (asm.push(a), format!("push {}", name(Size::Q, a))).1,
        12 => (asm.pop(a), format!("pop {}", name(Size::Q, a))).1,
        13 => (asm.alu_rr(alu, size, a, b), format!("{alu_name} {ra},{rb}")).1,
        14 => (asm.alu_rm(alu, size, a, mem), format!("{alu_name} {ra},{m}")).1,
        15 => (asm.alu_ri(alu, size, a, imm), format!("{alu_name} {ra},{n}")).1,
        16 => (asm.alu_mi(alu, size, mem, imm), format!("{alu_name} {m},{n}")).1,
        17 => (asm.test_ri(size, a, imm), format!("test {ra},{n}")).1,
        18 => {
            // Named once where source and destination are the same.
            let names = if a == b { ra } else { format!("{ra},{rb}") };
            asm.imul_rri(size, a, b, imm);
            format!("imul {names},{n}")
        }
        19 => {
            let by = source.below(64) as u8;
            asm.shift_ri(shift, size, a, by);
            format!("{shift_name} {ra},{}", number(by.into()))
        }
        20 => {
            let (shift, shift_name) = source.pick(&SHIFTS[2..]);
            asm.shiftx_rrr(shift, size, a, b, c);
            format!("{shift_name}x {ra},{rb},{}", name(size, c))
        }
        23 => {
            let by = source.below(64) as u8;
            asm.rorx_rri(size, a, b, by);
            format!("rorx {ra},{rb},{}", number(by.into()))
        }
        21 => (asm.lock_xadd(size, mem, a), format!("lock xadd {m},{ra}")).1,
        22 => (asm.lock_cmpxchg(size, mem, a), format!("lock cmpxchg {m},{ra}")).1,
        _ => (asm.div(size, a), format!("div {ra}")).1,
    }
}

fn memory(source: &mut Source<'_>) -> Mem {
    let base = source.pick(&Gpr::ALL);
    let disp = corners::i32(source);
    let index = source.pick(&Gpr::ALL);
    if source.chance(1, 2) || index == Gpr::Rsp {
        return Mem::new(base, disp);
    }
    Mem { disp, ..Mem::indexed(base, index, source.pick(&[Scale::X1, Scale::X2, Scale::X4, Scale::X8])) }
}

fn name(size: Size, r: Gpr) -> String {
    let low = ["ax", "cx", "dx", "bx", "sp", "bp", "si", "di"];
    let byte = ["al", "cl", "dl", "bl", "spl", "bpl", "sil", "dil"];
    match (size, r as usize) {
        (Size::B, n @ 0..8) => byte[n].to_owned(),
        (Size::W, n @ 0..8) => low[n].to_owned(),
        (Size::D, n @ 0..8) => format!("e{}", low[n]),
        (Size::Q, n @ 0..8) => format!("r{}", low[n]),
        (Size::B, n) => format!("r{n}b"),
        (Size::W, n) => format!("r{n}w"),
        (Size::D, n) => format!("r{n}d"),
        (Size::Q, n) => format!("r{n}"),
    }
}

fn number(n: i64) -> String {
    let sign = if n < 0 { "-" } else { "" };
    match n.unsigned_abs() {
        n @ 0..=9 => format!("{sign}{n}"),
        n => format!("{sign}{n:#x}"),
    }
}

fn keyword(size: Size) -> &'static str {
    match size {
        Size::B => "byte",
        Size::W => "word",
        Size::D => "dword",
        Size::Q => "qword",
    }
}

fn text(m: Mem) -> String {
    let mut text = format!("[{}", name(Size::Q, m.base));
    if let Some((index, scale)) = m.index {
        text += &format!("+{}", name(Size::Q, index));
        if scale != Scale::X1 {
            text += &format!("*{}", 1 << scale as u8);
        }
    }
    match m.disp {
        0 => {}
        d if d > 0 => text += &format!("+{}", number(d.into())),
        d => text += &number(d.into()),
    }
    text + "]"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machine_code_reads_as_it_was_asked_for() {
        for seed in 0..1_000 {
            check(&mut Source::seeded(seed));
        }
        check(&mut Source::bytes(&[]));
    }

    #[test]
    fn what_is_not_there_is_missed() {
        let mut asm = Asm::default();
        asm.inc(Size::Q, Gpr::R12);
        let bytes = asm.finish().expect("small").bytes;
        Reader::new(&bytes).reads("inc r12");
        assert!(std::panic::catch_unwind(|| Reader::new(&bytes).reads("inc r13")).is_err());
        assert!(std::panic::catch_unwind(|| Reader::new(&bytes).padding(8, 1)).is_err());
        assert!(!Reader::new(&bytes).branch(Mnemonic::Jmp, 0));
    }
}
