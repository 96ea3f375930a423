//! Classic instructions → eBPF. One function for each construct; its documentation shows what comes out.

use super::ancillary::{self, Origin, Place};
use super::{ClassicInsn, Filter, Op};
use crate::context::describe;
use crate::insn::{AluOp, Cond, EndianOp, Insn, Insns, Reg, Size, Src, Width};
use crate::link::Program;
use crate::object::{ProgType, ProgramKind};

const A: Reg = Reg::R0;
const X: Reg = Reg::R7;
/// Keeps A while R0 is needed.
const SAVED: Reg = Reg::R8;
const CTX: Reg = Reg::R6;

impl Filter {
    /// The socket filter that does the same, called `name`. It is to be verified like any other program.
    pub fn translate(&self, name: &str) -> Program {
        let mut out = Translation::default();
        out.start();
        let live = self.reached();
        for (insn, live) in self.insns.iter().zip(live) {
            out.begin();
            // A filter was checked when it was made. What nothing reaches the verifier would refuse.
            if let Some(op) = insn.op().filter(|_| live) {
                out.one(insn, op);
            }
        }
        let mut program = Program::bare(name, ProgramKind::new(ProgType::SOCKET_FILTER), out.finish());
        program.section = "cbpf".to_owned();
        program
    }

    /// Which instructions some way from the first leads to.
    fn reached(&self) -> Vec<bool> {
        let mut live = vec![false; self.insns.len()];
        live[0] = true;
        for (at, insn) in self.insns.iter().enumerate() {
            if !live[at] {
                continue;
            }
            let next = match insn.op() {
                Some(Op::Ja) => [Some(insn.k as usize), None],
                Some(Op::Jump(..)) => [Some(insn.jt.into()), Some(insn.jf.into())],
                Some(Op::ReturnA | Op::ReturnK) | None => [None; 2],
                Some(_) => [Some(0), None],
            };
            next.into_iter().flatten().for_each(|skip| live[at + 1 + skip] = true);
        }
        live
    }
}

/// What was translated so far.
#[derive(Default)]
struct Translation {
    insns: Vec<Insn>,
    /// Where the code of each classic instruction begins.
    starts: Vec<usize>,
    /// Jumps, and the classic instructions that they lead to.
    jumps: Vec<(usize, usize)>,
}

impl Translation {
    fn put(&mut self, insn: Insn) {
        self.insns.push(insn);
    }

    fn mov(&mut self, dst: Reg, src: Src) {
        self.put(Insn::Mov { width: Width::W32, dst, src });
    }

    fn alu(&mut self, op: AluOp, dst: Reg, src: Src) {
        self.put(Insn::Alu { op, width: Width::W32, dst, src });
    }

    /// ```text
    /// r6 = r1        w0 = 0        w7 = 0
    /// ```
    fn start(&mut self) {
        self.put(Insn::Mov { width: Width::W64, dst: CTX, src: Src::Reg(Reg::R1) });
        self.mov(A, Src::Imm(0));
        self.mov(X, Src::Imm(0));
    }

    /// Another classic instruction begins.
    fn begin(&mut self) {
        self.starts.push(self.insns.len());
    }

    fn one(&mut self, insn: &ClassicInsn, op: Op) {
        let k = insn.k as i32;
        match op {
            Op::LoadImm => self.mov(A, Src::Imm(k)),
            Op::LoadXImm => self.mov(X, Src::Imm(k)),
            Op::LoadLen => self.field(A, "len"),
            Op::LoadXLen => self.field(X, "len"),
            Op::LoadAbs(size) => match ancillary::place(insn.k) {
                Place::Ancillary(what) => self.ancillary(what.origin()),
                Place::Packet | Place::Unknown(_) => self.put(Insn::LoadAbs { size, off: k }),
            },
            Op::LoadInd(size) => self.put(Insn::LoadInd { size, src: X, off: k }),
            Op::LoadMem => self.load_scratch(A, insn.k),
            Op::LoadXMem => self.load_scratch(X, insn.k),
            Op::StoreA => self.store_scratch(A, insn.k),
            Op::StoreX => self.store_scratch(X, insn.k),
            Op::LoadXMsh => self.header_length(k),
            Op::Alu(op @ (AluOp::Div | AluOp::Mod), true) => self.division(op),
            Op::Alu(op, true) => self.alu(op, A, Src::Reg(X)),
            Op::Alu(op, false) => self.alu(op, A, Src::Imm(k)),
            Op::Neg => self.put(Insn::Neg { width: Width::W32, dst: A }),
            Op::Ja => self.jump_to(insn.k as usize),
            Op::Jump(cond, with_x) => self.branch(insn, cond, if with_x { Src::Reg(X) } else { Src::Imm(k) }),
            Op::ReturnA => self.put(Insn::Exit),
            Op::ReturnK => {
                self.mov(A, Src::Imm(k));
                self.put(Insn::Exit);
            }
            Op::Tax => self.mov(X, Src::Reg(A)),
            Op::Txa => self.mov(A, Src::Reg(X)),
        }
    }

    /// `r0 = *(u32 *)(r6 + FIELD)`
    fn field(&mut self, dst: Reg, name: &str) {
        let desc = describe(ProgType::SOCKET_FILTER).and_then(|desc| desc.context.field(name));
        // The names are our own, and tests translate each of them.
        let off = desc.and_then(|field| i16::try_from(field.offset).ok()).unwrap_or(i16::MAX);
        self.put(Insn::Load { size: Size::W, dst, base: CTX, off });
    }

    /// A field, `be16` of it, or
    ///
    /// ```text
    /// r1 = r6        w2 = w0        w3 = w7        call HELPER        w0 = w0
    /// ```
    fn ancillary(&mut self, origin: Origin) {
        match origin {
            Origin::Field(name) => self.field(A, name),
            Origin::Swapped(name) => {
                self.field(A, name);
                self.put(Insn::Endian { op: EndianOp::ToBe, size: Size::H, dst: A });
            }
            Origin::Xor => self.alu(AluOp::Xor, A, Src::Reg(X)),
            Origin::Plain(helper) => self.call(helper),
            Origin::Helper(helper) => {
                self.put(Insn::Mov { width: Width::W64, dst: Reg::R1, src: Src::Reg(CTX) });
                self.mov(Reg::R2, Src::Reg(A));
                self.mov(Reg::R3, Src::Reg(X));
                self.call(helper);
            }
        }
    }

    fn call(&mut self, helper: u32) {
        self.put(Insn::Call { helper });
        self.mov(A, Src::Reg(A));
    }

    /// `w0 = *(u32 *)(r10 - 64 + 4 * k)`
    fn load_scratch(&mut self, dst: Reg, word: u32) {
        self.put(Insn::Load { size: Size::W, dst, base: Reg::FP, off: scratch(word) });
    }

    fn store_scratch(&mut self, src: Reg, word: u32) {
        self.put(Insn::Store { size: Size::W, base: Reg::FP, off: scratch(word), src: Src::Reg(src) });
    }

    /// ```text
    /// w8 = w0        r0 = packet[k]        w0 &= 15        w0 <<= 2        w7 = w0        w0 = w8
    /// ```
    fn header_length(&mut self, k: i32) {
        self.mov(SAVED, Src::Reg(A));
        self.put(Insn::LoadAbs { size: Size::B, off: k });
        self.alu(AluOp::And, A, Src::Imm(15));
        self.alu(AluOp::Lsh, A, Src::Imm(2));
        self.mov(X, Src::Reg(A));
        self.mov(A, Src::Reg(SAVED));
    }

    /// ```text
    /// if w7 != 0 goto +2        w0 = 0        exit        w0 /= w7
    /// ```
    fn division(&mut self, op: AluOp) {
        self.put(Insn::Jmp { cond: Cond::Ne, width: Width::W32, dst: X, src: Src::Imm(0), off: 2 });
        self.mov(A, Src::Imm(0));
        self.put(Insn::Exit);
        self.alu(op, A, Src::Reg(X));
    }

    /// A jump over `skip` classic instructions; nothing where it would jump over none.
    fn jump_to(&mut self, skip: usize) {
        if skip > 0 {
            self.note_jump(skip);
            self.put(Insn::JaL { off: 0 });
        }
    }

    /// Notes that the instruction that is put next jumps over `skip` classic instructions.
    fn note_jump(&mut self, skip: usize) {
        self.jumps.push((self.insns.len(), self.starts.len() + skip));
    }

    /// `if w0 COND SRC goto TRUE`, and `goto FALSE` where that is not what follows. Nothing is compared where both are the same.
    fn branch(&mut self, insn: &ClassicInsn, cond: Cond, src: Src) {
        let (jt, jf) = (usize::from(insn.jt), usize::from(insn.jf));
        let inverse = match cond {
            Cond::Eq => Some(Cond::Ne),
            Cond::Gt => Some(Cond::Le),
            Cond::Ge => Some(Cond::Lt),
            _ => None,
        };
        match inverse {
            _ if jt == jf => self.jump_to(jt),
            Some(inverse) if jt == 0 => self.conditional(inverse, src, jf),
            _ => {
                self.conditional(cond, src, jt);
                self.jump_to(jf);
            }
        }
    }

    fn conditional(&mut self, cond: Cond, src: Src, skip: usize) {
        self.note_jump(skip);
        self.put(Insn::Jmp { cond, width: Width::W32, dst: A, src, off: 0 });
    }

    /// Puts the offsets into the jumps. All code takes one slot, so positions are slots.
    fn finish(mut self) -> Insns {
        for (at, target) in self.jumps {
            let Some(to) = self.starts.get(target) else { continue };
            let by = to - at - 1;
            match &mut self.insns[at] {
                Insn::JaL { off } => *off = by as i32,
                // A conditional jump skips at most 255 classic instructions, of at most six each.
                Insn::Jmp { off, .. } => *off = by as i16,
                _ => {}
            }
        }
        Insns::from_vec(self.insns)
    }
}

fn scratch(word: u32) -> i16 {
    4 * word as i16 - 64
}
