//! Instructions that a verifier must refuse, or that make what follows wrong. The subtle mistakes (a bound off by
//! one, a check left out, a stale pointer) are where the correct statements are written; here are the rest.

use livebpf::helper::id;
use livebpf::insn::{AluOp, Cond, Insn, Reg, Size, Src, Width};

use super::func::{CTX, Func};
use super::state::{Kind, NUMBER};

impl Func<'_, '_> {
    /// One instruction or a few that are wrong, or likely to be.
    pub(super) fn blunder(&mut self) {
        let scratch = self.target(true, &[]);
        match self.source.below(16) {
            0 => self.use_register(|kind| kind == Kind::Unset),
            1 => self.use_register(|kind| kind == Kind::Mixed),
            2 => self.code.add(Reg::FP, -8),
            3 => {
                let off = self.source.pick(&[0, 8, -513, -520, -4, i32::from(i16::MIN)]);
                self.code.store(Size::DW, Reg::FP, off, Src::Imm(0));
            }
            4 => {
                let off = self.source.pick(&[-512, -256, -264, -504]);
                self.code.store(Size::DW, Reg::FP, off, Src::Imm(1));
            }
            5 => {
                let off = self.source.pick(&[-8, -400, -16, -6]);
                self.code.load(Size::W, scratch, Reg::FP, off);
                self.state.set(scratch, NUMBER);
            }
            6 => {
                let off = self.source.pick(&[-1, 24, 192, 144, 168, 4096, 2]);
                self.code.load(Size::W, scratch, CTX, off);
                self.state.set(scratch, NUMBER);
            }
            7 => self.code.store(Size::W, CTX, 0, Src::Imm(1)),
            8 => self.pointer_arithmetic(),
            9 => {
                let number = self.scalar(&[]);
                self.code.load(Size::B, scratch, number, 0);
                self.state.set(scratch, NUMBER);
            }
            10 => self.store_pointer(),
            11 => {
                let number = self.scalar(&[]);
                self.code.copy(Reg::R1, number);
                self.code.helper(self.source_helper());
                self.state.clobber(NUMBER);
            }
            12 => {
                let here = self.code.here();
                let number = self.scalar(&[]);
                self.code.jump_if(Cond::Ne, Width::W64, number, Src::Imm(0), here);
            }
            13 => {
                let number = self.writable_scalar(&[]);
                self.code.alu(AluOp::Lsh, number, Src::Imm(64));
            }
            14 => {
                self.code.push(Insn::Ja { off: 0x7000 });
            }
            _ => self.compare_pointer(),
        }
    }

    fn source_helper(&self) -> u32 {
        [id::MAP_LOOKUP_ELEM, id::MAP_DELETE_ELEM, id::XDP_ADJUST_HEAD, 9999][self.mistakes as usize % 4]
    }

    /// Uses a register that should not be read.
    fn use_register(&mut self, wanted: impl Fn(Kind) -> bool) {
        let regs = self.state.regs_where(wanted);
        if regs.is_empty() {
            return;
        }
        let src = self.source.pick(&regs);
        let dst = self.writable_scalar(&[src]);
        self.code.alu(AluOp::Add, dst, Src::Reg(src));
        self.state.set(dst, NUMBER);
    }

    /// Arithmetic that a pointer does not allow, or by more than is known.
    fn pointer_arithmetic(&mut self) {
        let pointers = self.state.regs_where(|kind| kind.accessible() > 0);
        let mut pointers: Vec<Reg> = pointers.into_iter().filter(|&reg| self.state.may_write(reg, false)).collect();
        pointers.push(CTX);
        let dst = self.source.pick(&pointers);
        match self.source.below(4) {
            0 => {
                let number = self.scalar(&[]);
                self.code.alu(AluOp::Add, dst, Src::Reg(number));
            }
            1 => self.code.alu(AluOp::Mul, dst, Src::Imm(3)),
            2 => self.code.push(Insn::Alu { op: AluOp::Add, width: Width::W32, dst, src: Src::Imm(1) }),
            _ => self.code.add(dst, self.mistakes as i32 - 3),
        }
    }

    /// An address goes where it could be read as a number.
    fn store_pointer(&mut self) {
        let pointers = self.state.regs_where(|kind| kind.accessible() >= 8);
        if pointers.is_empty() {
            self.code.copy(Reg::R0, Reg::FP);
            self.state.set(Reg::R0, NUMBER);
            return;
        }
        let base = self.source.pick(&pointers);
        self.code.store(Size::DW, base, 0, Src::Reg(CTX));
    }

    fn compare_pointer(&mut self) {
        let out = self.bail_out();
        let number = self.scalar(&[]);
        self.code.jump_if(Cond::Gt, Width::W64, CTX, Src::Reg(number), out);
    }
}
