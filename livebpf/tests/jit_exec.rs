//! What compiled instructions compute: every operation over every pair of registers, against the specification in
//! `interp::alu`, with every other register watched.

mod jit_support;

use jit_support::{Exec, unproven, variants};
use livebpf::insn::{AluOp, AtomicOp, Cond, EndianOp, Insn, Insns, Reg, Size, Src, Width};
use livebpf::interp::alu;
use livebpf::jit::{self, Options};

const WIDTHS: [Width; 2] = [Width::W32, Width::W64];
const OPS: [AluOp; 13] = [
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
const CONDS: [Cond; 11] =
    [Cond::Eq, Cond::Ne, Cond::Gt, Cond::Ge, Cond::Lt, Cond::Le, Cond::Sgt, Cond::Sge, Cond::Slt, Cond::Sle, Cond::Set];
const VALUES: [u64; 16] = [
    0,
    1,
    2,
    7,
    31,
    33,
    63,
    0xff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x1_0000_0000,
    0x1234_5678_9abc_def0,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    u64::MAX,
];
const IMMS: [i32; 22] =
    [0, 1, -1, 2, 3, 5, 7, 8, 9, 10, 16, 31, 63, 127, 128, -128, 255, 256, 0xffff, 1 << 30, i32::MAX, i32::MIN];

/// R0 to R9, and eight words of memory behind them.
type State = [u64; 18];

fn general() -> impl Iterator<Item = Reg> + Clone {
    Reg::ALL.into_iter().take(10)
}

fn load(dst: Reg, base: Reg, off: i16) -> Insn {
    Insn::Load { size: Size::DW, dst, base, off }
}

fn store(base: Reg, off: i16, src: Reg) -> Insn {
    Insn::Store { size: Size::DW, base, off, src: Src::Reg(src) }
}

/// A program that takes R0 to R9 from the block at R1, executes `body`, and writes them back.
fn wrap(body: &[Insn]) -> Insns {
    let mut insns = vec![store(Reg::FP, -8, Reg::R1)];
    insns.extend(general().filter(|r| *r != Reg::R1).map(|r| load(r, Reg::R1, 8 * r.index() as i16)));
    insns.push(load(Reg::R1, Reg::R1, 8));
    insns.extend_from_slice(body);
    insns.extend(general().map(|r| store(Reg::FP, -16 - 8 * r.index() as i16, r)));
    insns.push(load(Reg::R1, Reg::FP, -8));
    for i in 0..10 {
        insns.push(load(Reg::R2, Reg::FP, -16 - 8 * i));
        insns.push(store(Reg::R1, 8 * i, Reg::R2));
    }
    insns.push(Insn::Exit);
    Insns::from_vec(insns)
}

/// Compiles bodies and compares what they do with a model.
struct Bench {
    exec: Exec,
    options: Options,
}

impl Bench {
    /// Runs `body` on each state; `model` does the same to the state.
    fn check(&mut self, body: &[Insn], states: &[State], model: impl Fn(&mut State)) {
        let verified = unproven(wrap(body));
        let code = jit::compile(&verified, &self.options).expect("compiles");
        self.exec.clear();
        let base = self.exec.place(&code, |s| panic!("no symbol expected: {s:?}"));
        let run = self.exec.entry(base + u64::from(code.entry), 5);
        for state in states {
            let (mut got, mut want) = (*state, *state);
            model(&mut want);
            run(got.as_mut_ptr() as u64, 0, 0, 0, 0);
            assert_eq!(got, want, "{body:?} on {state:x?} ({:?})", self.options);
        }
    }
}

fn benches(mut test: impl FnMut(&mut Bench)) {
    for options in variants() {
        test(&mut Bench { exec: Exec::new(), options });
    }
}

/// Distinct values everywhere, `a` in `dst` and `b` in `src`.
fn state(dst: Reg, a: u64, src: Reg, b: u64) -> State {
    let mut s: State = std::array::from_fn(|i| 0xa5a5_0000_5a5a_0000 + 0x0101_0001 * i as u64);
    s[src.index()] = b;
    s[dst.index()] = a;
    s
}

/// All values in `dst` against all values in `src`.
fn states(dst: Reg, src: Reg) -> Vec<State> {
    VALUES.iter().flat_map(|a| VALUES.iter().map(|b| state(dst, *a, src, *b))).collect()
}

fn pairs() -> impl Iterator<Item = (Reg, Reg)> {
    general().flat_map(|a| general().map(move |b| (a, b)))
}

#[test]
fn arithmetic_with_registers() {
    benches(|bench| {
        for ((dst, src), (op, width)) in
            pairs().flat_map(|p| OPS.iter().flat_map(|o| WIDTHS.map(|w| (*o, w))).map(move |o| (p, o)))
        {
            bench.check(&[Insn::Alu { op, width, dst, src: Src::Reg(src) }], &states(dst, src), |s| {
                s[dst.index()] = alu::alu(op, width, s[dst.index()], s[src.index()]);
            });
        }
    });
}

#[test]
fn arithmetic_with_constants() {
    benches(|bench| {
        for ((dst, imm), (op, width)) in general()
            .flat_map(|d| IMMS.map(|i| (d, i)))
            .flat_map(|p| OPS.iter().flat_map(|o| WIDTHS.map(|w| (*o, w))).map(move |o| (p, o)))
        {
            let states: Vec<State> = VALUES.iter().map(|a| state(dst, *a, dst, *a)).collect();
            bench.check(&[Insn::Alu { op, width, dst, src: Src::Imm(imm) }], &states, |s| {
                s[dst.index()] = alu::alu(op, width, s[dst.index()], imm as i64 as u64);
            });
        }
    });
}

fn sign_extend(from: Size, v: u64) -> u64 {
    match from {
        Size::B => v as i8 as u64,
        Size::H => v as i16 as u64,
        Size::W => v as i32 as u64,
        Size::DW => v,
    }
}

fn zero_extend(from: Size, v: u64) -> u64 {
    v & (u64::MAX >> (64 - from.bits()))
}

fn truncate(width: Width, v: u64) -> u64 {
    if width == Width::W32 { u64::from(v as u32) } else { v }
}

#[test]
fn moves() {
    benches(|bench| {
        for (dst, src) in pairs() {
            let states: Vec<State> = VALUES.iter().map(|b| state(dst, *b, src, *b)).collect();
            for width in WIDTHS {
                bench.check(&[Insn::Mov { width, dst, src: Src::Reg(src) }], &states, |s| {
                    s[dst.index()] = truncate(width, s[src.index()]);
                });
                for from in [Size::B, Size::H, Size::W].into_iter().filter(|f| width == Width::W64 || *f != Size::W) {
                    bench.check(&[Insn::MovSx { width, from, dst, src }], &states, |s| {
                        s[dst.index()] = truncate(width, sign_extend(from, s[src.index()]));
                    });
                }
            }
            for (op, imm) in [AluOp::Add, AluOp::Sub].iter().flat_map(|o| IMMS.map(|i| (*o, i))) {
                for width in WIDTHS {
                    let body = [
                        Insn::Mov { width, dst, src: Src::Reg(src) },
                        Insn::Alu { op, width, dst, src: Src::Imm(imm) },
                    ];
                    bench.check(&body, &states, |s| {
                        s[dst.index()] = alu::alu(op, width, truncate(width, s[src.index()]), imm as i64 as u64);
                    });
                }
            }
        }
    });
}

#[test]
fn one_register() {
    benches(|bench| {
        for dst in general() {
            let states: Vec<State> = VALUES.iter().map(|a| state(dst, *a, dst, *a)).collect();
            let d = dst.index();
            for width in WIDTHS {
                bench.check(&[Insn::Neg { width, dst }], &states, |s| s[d] = truncate(width, s[d].wrapping_neg()));
                for imm in IMMS {
                    bench.check(&[Insn::Mov { width, dst, src: Src::Imm(imm) }], &states, |s| {
                        s[d] = truncate(width, imm as i64 as u64);
                    });
                }
            }
            for v in VALUES {
                let insn = Insn::LoadImm64 { dst, value: livebpf::insn::Imm64::Const(v) };
                bench.check(&[insn], &states, |s| s[d] = v);
            }
            for size in [Size::H, Size::W, Size::DW] {
                let swap = |v: u64| v.swap_bytes() >> (64 - size.bits());
                bench.check(&[Insn::Endian { op: EndianOp::ToLe, size, dst }], &states, |s| {
                    s[d] = zero_extend(size, s[d])
                });
                bench.check(&[Insn::Endian { op: EndianOp::ToBe, size, dst }], &states, |s| s[d] = swap(s[d]));
                bench.check(&[Insn::Endian { op: EndianOp::Swap, size, dst }], &states, |s| s[d] = swap(s[d]));
            }
            for (n, op) in [8, 32, 48, 56].into_iter().flat_map(|n| [AluOp::Rsh, AluOp::Arsh].map(|o| (n, o))) {
                let shift = |op| Insn::Alu { op, width: Width::W64, dst, src: Src::Imm(n) };
                bench.check(&[shift(AluOp::Lsh), shift(op)], &states, |s| {
                    s[d] = alu::alu(op, Width::W64, s[d] << n, n as u64);
                });
            }
        }
    });
}

#[test]
fn jumps() {
    benches(|bench| {
        let marker = |n| Insn::Mov { width: Width::W64, dst: Reg::R7, src: Src::Imm(n) };
        for (cond, width) in CONDS.iter().flat_map(|c| WIDTHS.map(|w| (*c, w))) {
            let taken = |a, b| alu::taken(cond, width, a, b);
            for (dst, src) in pairs().filter(|(d, s)| *d != Reg::R7 && *s != Reg::R7) {
                let body = [marker(1), Insn::Jmp { cond, width, dst, src: Src::Reg(src), off: 1 }, marker(2)];
                bench.check(&body, &states(dst, src), |s| {
                    s[7] = if taken(s[dst.index()], s[src.index()]) { 1 } else { 2 }
                });
            }
            for (dst, imm) in general().filter(|d| *d != Reg::R7).flat_map(|d| IMMS.map(|i| (d, i))) {
                let body = [marker(1), Insn::Jmp { cond, width, dst, src: Src::Imm(imm), off: 1 }, marker(2)];
                let states: Vec<State> = VALUES.iter().map(|a| state(dst, *a, dst, *a)).collect();
                bench.check(&body, &states, |s| {
                    s[7] = if taken(s[dst.index()], imm as i64 as u64) { 1 } else { 2 };
                });
            }
        }
    });
}

/// A state in which `base` holds the address of its word 14. It has to stay where it is.
fn with_address(states: &mut [State], base: Reg) {
    for s in states {
        s[base.index()] = std::ptr::from_ref(&s[14]) as u64;
    }
}

impl Bench {
    /// As `check`, on states in which `base` holds the address of word 14.
    fn check_memory(&mut self, body: &[Insn], base: Reg, other: Reg, model: impl Fn(&mut State)) {
        let mut states: Vec<State> = VALUES.iter().map(|v| state(base, 0, other, *v)).collect();
        states.iter_mut().zip(VALUES.iter().rev()).for_each(|(s, v)| (s[13], s[14]) = (*v ^ 0x80, v.rotate_left(8)));
        let verified = unproven(wrap(body));
        let code = jit::compile(&verified, &self.options).expect("compiles");
        self.exec.clear();
        let at = self.exec.place(&code, |s| panic!("no symbol expected: {s:?}"));
        let run = self.exec.entry(at + u64::from(code.entry), 0);
        with_address(&mut states, base);
        for got in &mut states {
            let mut want = *got;
            model(&mut want);
            run(got.as_mut_ptr() as u64, 0, 0, 0, 0);
            assert_eq!(*got, want, "{body:?} ({:?})", self.options);
        }
    }
}

#[test]
fn loads_and_stores() {
    benches(|bench| {
        for ((base, r), size) in pairs().flat_map(|p| [Size::B, Size::H, Size::W, Size::DW].map(|s| (p, s))) {
            let i = r.index();
            bench.check_memory(&[Insn::Load { size, dst: r, base, off: 0 }], base, r, |s| {
                s[i] = zero_extend(size, s[14])
            });
            bench.check_memory(&[Insn::Load { size, dst: r, base, off: -8 }], base, r, |s| {
                s[i] = zero_extend(size, s[13])
            });
            bench.check_memory(&[Insn::LoadAcquire { size, dst: r, base, off: 0 }], base, r, |s| {
                s[i] = zero_extend(size, s[14]);
            });
            if size != Size::DW {
                bench.check_memory(&[Insn::LoadSx { size, dst: r, base, off: 0 }], base, r, |s| {
                    s[i] = sign_extend(size, s[14])
                });
            }
            if size != Size::B {
                for (op, swapped) in [(EndianOp::ToBe, true), (EndianOp::Swap, true), (EndianOp::ToLe, false)] {
                    let body = [Insn::Load { size, dst: r, base, off: 0 }, Insn::Endian { op, size, dst: r }];
                    bench.check_memory(&body, base, r, |s| {
                        let v = zero_extend(size, s[14]);
                        s[i] = if swapped { v.swap_bytes() >> (64 - size.bits()) } else { v };
                    });
                }
            }
            let mask = u64::MAX >> (64 - size.bits());
            let put = |s: &mut State, v: u64| s[14] = s[14] & !mask | v & mask;
            bench.check_memory(&[Insn::Store { size, base, off: 0, src: Src::Reg(r) }], base, r, |s| put(s, s[i]));
            bench.check_memory(&[Insn::StoreRelease { size, base, off: 0, src: r }], base, r, |s| put(s, s[i]));
            for imm in [0, -1, 0x1234_5678] {
                bench.check_memory(&[Insn::Store { size, base, off: 0, src: Src::Imm(imm) }], base, r, |s| {
                    put(s, imm as i64 as u64)
                });
            }
        }
    });
}

#[test]
fn atomics() {
    let ops = [
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
    benches(|bench| {
        for ((base, src), (op, width)) in
            pairs().flat_map(|p| ops.iter().flat_map(|o| WIDTHS.map(|w| (*o, w))).map(move |o| (p, o)))
        {
            let i = src.index();
            let model = |s: &mut State| {
                let old = truncate(width, s[14]);
                let operand = truncate(width, s[i]);
                let (new, fetch) = match op {
                    AtomicOp::Add { fetch } => (old.wrapping_add(operand), fetch),
                    AtomicOp::Or { fetch } => (old | operand, fetch),
                    AtomicOp::And { fetch } => (old & operand, fetch),
                    AtomicOp::Xor { fetch } => (old ^ operand, fetch),
                    AtomicOp::Xchg => (operand, true),
                    AtomicOp::Cmpxchg if old == truncate(width, s[0]) => (operand, false),
                    AtomicOp::Cmpxchg => (old, false),
                };
                let kept = if width == Width::W32 { s[14] >> 32 << 32 } else { 0 };
                s[14] = kept | truncate(width, new);
                if op == AtomicOp::Cmpxchg {
                    s[0] = old;
                } else if fetch {
                    s[i] = old;
                }
            };
            let insn = Insn::Atomic { op, width, base, off: 0, src };
            bench.check_memory(&[insn], base, src, model);
            if op == AtomicOp::Cmpxchg && base != Reg::R0 {
                // With R0 equal to the memory, its upper half not zero.
                let body = [load(Reg::R0, base, 0), insn];
                bench.check_memory(&body, base, src, |s| {
                    s[0] = s[14];
                    model(s);
                });
            }
        }
    });
}
