//! Atomic read-modify-write.

use super::emit::{Emitter, gpr};
use super::emit_alu::size;
use super::x64::{Alu, Cc, Gpr, Mem, Size};
use crate::insn::{AtomicOp, Reg, Width};

impl Emitter<'_> {
    /// ```text
    /// add, or, and, xor      lock op [base + off], src
    /// add, fetch             lock xadd [base + off], src
    /// or, and, xor, fetch    a loop around lock cmpxchg
    /// xchg                   xchg [base + off], src
    /// cmpxchg                lock cmpxchg [base + off], src    at 32 bits then: mov eax, eax
    /// ```
    pub(super) fn emit_atomic(&mut self, op: AtomicOp, width: Width, base: Reg, off: i16, src: Reg) {
        let (size, mem, src) = (size(width), Mem::new(gpr(base), off.into()), gpr(src));
        match op {
            AtomicOp::Add { fetch: false } => self.asm.lock_alu_mr(Alu::Add, size, mem, src),
            AtomicOp::Or { fetch: false } => self.asm.lock_alu_mr(Alu::Or, size, mem, src),
            AtomicOp::And { fetch: false } => self.asm.lock_alu_mr(Alu::And, size, mem, src),
            AtomicOp::Xor { fetch: false } => self.asm.lock_alu_mr(Alu::Xor, size, mem, src),
            AtomicOp::Add { fetch: true } => self.asm.lock_xadd(size, mem, src),
            AtomicOp::Or { fetch: true } => self.emit_atomic_fetch(Alu::Or, size, mem, src),
            AtomicOp::And { fetch: true } => self.emit_atomic_fetch(Alu::And, size, mem, src),
            AtomicOp::Xor { fetch: true } => self.emit_atomic_fetch(Alu::Xor, size, mem, src),
            AtomicOp::Xchg => self.asm.xchg_mr(size, mem, src),
            AtomicOp::Cmpxchg => {
                self.asm.lock_cmpxchg(size, mem, src);
                if size == Size::D {
                    // On success eax is not written, and its upper half would stay.
                    self.asm.mov_rr(Size::D, Gpr::Rax, Gpr::Rax);
                }
            }
        }
    }

    /// ```text
    ///        mov r10, rax                 (base or src, when it is rax, is r10 from here)
    ///        mov rax, [base + off]
    /// again: mov r11, rax
    ///        op  r11, src
    ///        lock cmpxchg [base + off], r11
    ///        jne again
    ///        mov src, rax ; mov rax, r10  (not when src is rax)
    /// ```
    fn emit_atomic_fetch(&mut self, op: Alu, size: Size, mem: Mem, src: Gpr) {
        let moved = |r: Gpr| if r == Gpr::Rax { Gpr::R10 } else { r };
        let mem = Mem::new(moved(mem.base), mem.disp);
        let again = self.asm.new_label();
        self.asm.mov_rr(Size::Q, Gpr::R10, Gpr::Rax);
        self.asm.mov_rm(size, Gpr::Rax, mem);
        self.asm.bind(again);
        self.asm.mov_rr(size, Gpr::R11, Gpr::Rax);
        self.asm.alu_rr(op, size, Gpr::R11, moved(src));
        self.asm.lock_cmpxchg(size, mem, Gpr::R11);
        self.asm.jcc(Cc::Ne, again);
        if src != Gpr::Rax {
            self.asm.mov_rr(size, src, Gpr::Rax);
            self.asm.mov_rr(Size::Q, Gpr::Rax, Gpr::R10);
        }
    }
}
