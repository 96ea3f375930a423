//! Every instruction form over all its registers, memory operands and immediate sizes, read back by iced-x86.

use iced_x86::{Decoder, DecoderOptions, Formatter, MemorySizeOptions, NasmFormatter};

use super::*;

const D_Q: [Size; 2] = [Size::D, Size::Q];
const IMMS: [i32; 9] = [0, 1, -1, 127, -128, 128, -129, i32::MAX, i32::MIN];
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

/// The instructions in `bytes` as text, with their lengths.
fn disassemble(bytes: &[u8]) -> Vec<(usize, String)> {
    let mut formatter = NasmFormatter::new();
    let options = formatter.options_mut();
    options.set_memory_size_options(MemorySizeOptions::Always);
    options.set_hex_prefix("0x");
    options.set_hex_suffix("");
    options.set_uppercase_hex(false);
    options.set_branch_leading_zeros(false);
    options.set_signed_immediate_operands(true);
    let mut out = Vec::new();
    for insn in &mut Decoder::new(64, bytes, DecoderOptions::NONE) {
        let mut text = String::new();
        formatter.format(&insn, &mut text);
        out.push((insn.len(), text));
    }
    out
}

fn assemble(emit: impl FnOnce(&mut Asm)) -> Vec<u8> {
    let mut asm = Asm::default();
    emit(&mut asm);
    asm.finish().expect("small").bytes
}

/// Checks that `emit` makes exactly one instruction that reads `want`.
#[track_caller]
fn check(emit: impl FnOnce(&mut Asm), want: &str) {
    let bytes = assemble(emit);
    let got = disassemble(&bytes);
    assert_eq!(got.len(), 1, "{bytes:02x?} is {got:?}, wanted {want}");
    assert_eq!(got[0].1, want, "{bytes:02x?}");
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

fn mem_text(size: &str, m: Mem) -> String {
    let mut text = format!("{size} [{}", name(Size::Q, m.base));
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

fn sized_mem(size: Size, m: Mem) -> String {
    mem_text(keyword(size), m)
}

fn pairs() -> impl Iterator<Item = (Gpr, Gpr)> {
    Gpr::ALL.into_iter().flat_map(|a| Gpr::ALL.into_iter().map(move |b| (a, b)))
}

/// Every base with every displacement size, and every base with every index.
fn mems() -> Vec<Mem> {
    let disps = [0, 1, -1, 127, -128, 128, -129, 0x1234_5678, i32::MIN];
    let mut out: Vec<Mem> = Gpr::ALL.into_iter().flat_map(|b| disps.map(|d| Mem::new(b, d))).collect();
    for (base, index) in pairs().filter(|(_, i)| *i != Gpr::Rsp) {
        for scale in [Scale::X1, Scale::X2, Scale::X4, Scale::X8] {
            out.push(Mem::indexed(base, index, scale));
            out.push(Mem { disp: -8, ..Mem::indexed(base, index, scale) });
            out.push(Mem { disp: 0x1000, ..Mem::indexed(base, index, scale) });
        }
    }
    out
}

#[test]
fn two_registers() {
    for ((a, b), size) in pairs().flat_map(|p| D_Q.map(|s| (p, s))) {
        let operands = format!("{},{}", name(size, a), name(size, b));
        check(|s| s.mov_rr(size, a, b), &format!("mov {operands}"));
        check(|s| s.test_rr(size, a, b), &format!("test {operands}"));
        check(|s| s.imul_rr(size, a, b), &format!("imul {operands}"));
        for (op, op_name) in ALUS {
            check(|s| s.alu_rr(op, size, a, b), &format!("{op_name} {operands}"));
        }
        for from in [Size::B, Size::W] {
            let want = format!("movsx {},{}", name(size, a), name(from, b));
            check(|s| s.movsx_rr(size, from, a, b), &want);
        }
        for imm in IMMS {
            // iced-x86 names a register once where source and destination are the same.
            let names = if a == b { name(size, a) } else { operands.clone() };
            let want = format!("imul {names},{}", number(imm.into()));
            let bytes = assemble(|s| s.imul_rri(size, a, b, imm));
            assert_eq!(disassemble(&bytes)[0].1, want);
            let short = i8::try_from(imm).is_ok();
            assert_eq!(bytes.len() <= 4, short, "{want}: {bytes:02x?}");
        }
    }
    for (a, b) in pairs() {
        check(|s| s.movsx_rr(Size::Q, Size::D, a, b), &format!("movsxd {},{}", name(Size::Q, a), name(Size::D, b)));
        for from in [Size::B, Size::W] {
            check(|s| s.movzx_rr(from, a, b), &format!("movzx {},{}", name(Size::D, a), name(from, b)));
        }
    }
}

#[test]
fn one_register() {
    for r in Gpr::ALL {
        let q = name(Size::Q, r);
        check(|s| s.push(r), &format!("push {q}"));
        check(|s| s.pop(r), &format!("pop {q}"));
        check(|s| s.call_r(r), &format!("call {q}"));
        check(|s| s.jmp_r(r), &format!("jmp {q}"));
        for size in D_Q {
            let r_name = name(size, r);
            check(|s| s.inc(size, r), &format!("inc {r_name}"));
            check(|s| s.dec(size, r), &format!("dec {r_name}"));
            check(|s| s.neg(size, r), &format!("neg {r_name}"));
            check(|s| s.mul(size, r), &format!("mul {r_name}"));
            check(|s| s.div(size, r), &format!("div {r_name}"));
            check(|s| s.idiv(size, r), &format!("idiv {r_name}"));
            check(|s| s.bswap(size, r), &format!("bswap {r_name}"));
        }
        for ((op, op_name), size) in SHIFTS.into_iter().flat_map(|o| [Size::W, Size::D, Size::Q].map(|s| (o, s))) {
            check(|s| s.shift_rcl(op, size, r), &format!("{op_name} {},cl", name(size, r)));
            for n in [1, 2, 8, 31, 63] {
                check(|s| s.shift_ri(op, size, r, n), &format!("{op_name} {},{}", name(size, r), number(n.into())));
            }
        }
    }
}

#[test]
fn register_and_immediate() {
    for (r, imm) in Gpr::ALL.into_iter().flat_map(|r| IMMS.map(|i| (r, i))) {
        for size in D_Q {
            for (op, op_name) in ALUS {
                check(|s| s.alu_ri(op, size, r, imm), &format!("{op_name} {},{}", name(size, r), number(imm.into())));
            }
            check(|s| s.test_ri(size, r, imm), &format!("test {},{}", name(size, r), number(imm.into())));
        }
        let byte = i64::from(imm as i8);
        check(|s| s.test_ri(Size::B, r, imm), &format!("test {},{}", name(Size::B, r), number(byte)));
        check(|s| s.mov_ri_sx(r, imm), &format!("mov {},{}", name(Size::Q, r), number(imm.into())));
        check(|s| s.mov_ri32(r, imm as u32), &format!("mov {},{}", name(Size::D, r), number(imm.into())));
        let wide = i64::from(imm) << 20 | 7;
        let bytes = assemble(|s| {
            s.mov_ri64(r, wide as u64);
        });
        assert_eq!((bytes.len(), &bytes[2..]), (10, &wide.to_le_bytes()[..]));
        assert_eq!(disassemble(&bytes)[0].1, format!("mov {},{}", name(Size::Q, r), number(wide)));
    }
}

#[test]
fn three_registers() {
    for ((dst, src), count) in pairs().flat_map(|p| Gpr::ALL.map(|c| (p, c))) {
        for ((op, op_name), size) in SHIFTS[2..].iter().flat_map(|o| D_Q.map(|s| (*o, s))) {
            let want = format!("{op_name}x {},{},{}", name(size, dst), name(size, src), name(size, count));
            check(|s| s.shiftx_rrr(op, size, dst, src, count), &want);
        }
    }
    for ((dst, src), size) in pairs().flat_map(|p| D_Q.map(|s| (p, s))) {
        check(|s| s.rorx_rri(size, dst, src, 13), &format!("rorx {},{},0xd", name(size, dst), name(size, src)));
    }
}

#[test]
fn memory() {
    for (m, r) in mems().into_iter().flat_map(|m| [Gpr::Rax, Gpr::Rsi, Gpr::R9, Gpr::R15].map(|r| (m, r))) {
        for size in D_Q {
            let (reg, mem) = (name(size, r), sized_mem(size, m));
            check(|s| s.mov_rm(size, r, m), &format!("mov {reg},{mem}"));
            check(|s| s.movbe_rm(size, r, m), &format!("movbe {reg},{mem}"));
            check(|s| s.alu_rm(Alu::Cmp, size, r, m), &format!("cmp {reg},{mem}"));
            check(|s| s.lea(size, r, m), &format!("lea {reg},{}", mem_text("", m).trim_start()));
            check(|s| s.lock_alu_mr(Alu::Add, size, m, r), &format!("lock add {mem},{reg}"));
            check(|s| s.lock_xadd(size, m, r), &format!("lock xadd {mem},{reg}"));
            check(|s| s.lock_inc_m(size, m), &format!("lock inc {mem}"));
            check(|s| s.lock_cmpxchg(size, m, r), &format!("lock cmpxchg {mem},{reg}"));
            check(|s| s.xchg_mr(size, m, r), &format!("xchg {reg},{mem}"));
            for from in [Size::B, Size::W] {
                check(|s| s.movsx_rm(size, from, r, m), &format!("movsx {reg},{}", sized_mem(from, m)));
            }
        }
        check(
            |s| s.movsx_rm(Size::Q, Size::D, r, m),
            &format!("movsxd {},{}", name(Size::Q, r), sized_mem(Size::D, m)),
        );
        for from in [Size::B, Size::W] {
            check(|s| s.movzx_rm(from, r, m), &format!("movzx {},{}", name(Size::D, r), sized_mem(from, m)));
        }
    }
    for (m, size) in mems().into_iter().flat_map(|m| [Size::B, Size::W, Size::D, Size::Q].map(|s| (m, s))) {
        let mem = sized_mem(size, m);
        for r in Gpr::ALL {
            check(|s| s.mov_mr(size, m, r), &format!("mov {mem},{}", name(size, r)));
        }
        for imm in [0, -1, 0x7f] {
            check(|s| s.mov_mi(size, m, imm), &format!("mov {mem},{}", number(imm.into())));
        }
        if matches!(size, Size::D | Size::Q) {
            check(|s| s.dec_m(size, m), &format!("dec {mem}"));
            check(|s| s.alu_mi(Alu::Cmp, size, m, -5), &format!("cmp {mem},-5"));
            check(|s| s.alu_mi(Alu::And, size, m, 0x12345), &format!("and {mem},0x12345"));
        }
    }
}

#[test]
fn without_operands() {
    check(|s| s.leave(), "leave");
    check(|s| s.ret(), "ret");
    check(|s| s.int3(), "int3");
    check(|s| s.ud2(), "ud2");
    check(|s| s.sign_rax_to_rdx(Size::D), "cdq");
    check(|s| s.sign_rax_to_rdx(Size::Q), "cqo");
    for n in 0..40 {
        let bytes = assemble(|s| s.nop(n));
        assert_eq!(bytes.len(), n);
        let nops = disassemble(&bytes);
        assert!(nops.iter().all(|(_, text)| text.contains("nop") || text == "xchg ax,ax"), "{nops:?}");
        assert_eq!(nops.len(), n.div_ceil(9));
    }
}

#[test]
fn the_shortest_form() {
    let len = |emit: fn(&mut Asm)| assemble(emit).len();
    assert_eq!(len(|s| s.mov_rr(Size::D, Gpr::Rax, Gpr::Rdi)), 2);
    assert_eq!(len(|s| s.alu_ri(Alu::Add, Size::D, Gpr::Rdi, 127)), 3);
    assert_eq!(len(|s| s.alu_ri(Alu::Add, Size::D, Gpr::Rdi, 128)), 6);
    assert_eq!(len(|s| s.alu_ri(Alu::Add, Size::D, Gpr::Rax, 128)), 5);
    assert_eq!(len(|s| s.alu_ri(Alu::Cmp, Size::D, Gpr::R12, 33)), 4);
    assert_eq!(len(|s| s.test_ri(Size::B, Gpr::Rax, 1)), 2);
    assert_eq!(len(|s| s.mov_rm(Size::Q, Gpr::Rax, Mem::new(Gpr::Rdi, 0))), 3);
    assert_eq!(len(|s| s.mov_rm(Size::Q, Gpr::Rax, Mem::new(Gpr::Rbp, 0))), 4);
    assert_eq!(len(|s| s.mov_rm(Size::D, Gpr::Rax, Mem::new(Gpr::Rdi, -128))), 3);
    assert_eq!(len(|s| s.shift_ri(Shift::Shl, Size::D, Gpr::Rax, 1)), 2);
}

#[test]
fn conditions() {
    let ccs = [
        (Cc::B, "jb"),
        (Cc::Ae, "jae"),
        (Cc::E, "je"),
        (Cc::Ne, "jne"),
        (Cc::Be, "jbe"),
        (Cc::A, "ja"),
        (Cc::S, "js"),
        (Cc::Ns, "jns"),
        (Cc::L, "jl"),
        (Cc::Ge, "jge"),
        (Cc::Le, "jle"),
        (Cc::G, "jg"),
    ];
    for ((cc, cc_name), gap) in ccs.into_iter().flat_map(|c| [1, 127, 128, 300].map(|g| (c, g))) {
        let bytes = assemble(|s| {
            let label = s.new_label();
            s.jcc(cc, label);
            s.nop(gap);
            s.bind(label);
        });
        let (len, text) = disassemble(&bytes)[0].clone();
        assert_eq!(len, if gap < 128 { 2 } else { 6 });
        let (got, target) = text.rsplit_once(' ').expect("a target");
        assert_eq!(got.split(' ').next(), Some(cc_name));
        assert_eq!(target, number((len + gap) as i64));
    }
}

/// Branches and padding between labels at random: every branch leads to its label, every padding does its work.
#[test]
fn layout_of_random_code() {
    let mut seed = 7u64;
    let mut random = move |n: u64| {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (seed >> 33) % n
    };
    for _ in 0..300 {
        let mut asm = Asm::default();
        let labels: Vec<Label> = (0..1 + random(30)).map(|_| asm.new_label()).collect();
        let mut marks: Vec<(Pos, Label)> = Vec::new();
        let mut aligned = Vec::new();
        let mut places: Vec<(u32, Pos)> = Vec::new();
        for bound in &labels {
            for _ in 0..random(8) {
                places.push((asm.pos().order(), asm.pos()));
                let to = labels[random(labels.len() as u64) as usize];
                match random(7) {
                    0 | 1 => {
                        // Behind each branch a mark: `ud2` if it is the jump that was not taken.
                        asm.jcc(Cc::E, to);
                        asm.ud2();
                    }
                    2 => asm.jmp(to),
                    3 => marks.push((asm.jmp_rel32(to), to)),
                    4 => {
                        asm.align(4, 3);
                        aligned.push((asm.pos(), 4, 3));
                    }
                    5 => {
                        asm.align(16, 0);
                        aligned.push((asm.pos(), 16, 0));
                    }
                    _ => asm.nop(random(60) as usize),
                }
            }
            asm.bind(*bound);
            asm.mov_ri32(Gpr::Rax, bound.0);
        }
        let laid = asm.finish().expect("small");
        laid.settle(&mut places);
        assert!(places.iter().all(|(offset, pos)| *offset == laid.offset(*pos)), "{places:?}");
        for (pos, align, residue) in aligned {
            assert_eq!(laid.offset(pos) % align, residue);
        }
        for (pos, to) in marks {
            let at = laid.offset(pos) as usize;
            let rel = i32::from_le_bytes(laid.bytes[at + 1..at + 5].try_into().expect("four bytes"));
            assert_eq!(Some((at as i64 + 5 + i64::from(rel)) as u32), laid.label(to));
        }
        let starts: Vec<u32> = labels.iter().map(|l| laid.label(*l).expect("bound")).collect();
        for insn in &mut Decoder::new(64, &laid.bytes, DecoderOptions::NONE) {
            assert!(!insn.is_invalid());
            if insn.is_jcc_short_or_near() || insn.is_jmp_short_or_near() {
                assert!(starts.contains(&(insn.near_branch_target() as u32)), "{insn:?}");
            }
        }
        for (label, start) in labels.iter().zip(&starts) {
            assert_eq!(laid.bytes[*start as usize], 0xb8, "label {} is at its mov", label.0);
        }
    }
}

/// A chain in which each branch that grows makes the one before it too short: the rounds are limited, the result right.
#[test]
fn branches_that_grow_one_after_another() {
    let mut asm = Asm::default();
    let labels: Vec<Label> = (0..200).map(|_| asm.new_label()).collect();
    let n = labels.len();
    for (i, label) in labels.iter().enumerate() {
        asm.bind(*label);
        asm.jcc(Cc::E, labels[(i + 31).min(n - 1)]);
        asm.nop(2 + usize::from(i + 31 >= n));
    }
    let laid = asm.finish().expect("small");
    let mut decoder = Decoder::new(64, &laid.bytes, DecoderOptions::NONE);
    let mut jumps = 0;
    for insn in decoder.iter().filter(|i| i.is_jcc_short_or_near()) {
        let i = labels.iter().position(|l| laid.label(*l) == Some(insn.ip() as u32)).expect("at a label");
        assert_eq!(Some(insn.near_branch_target() as u32), laid.label(labels[(i + 31).min(n - 1)]));
        jumps += 1;
    }
    assert_eq!(jumps, n);
}
