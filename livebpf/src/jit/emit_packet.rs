//! Legacy packet loads: R0 = bytes of the packet in network order, the context being in R6.
//!
//! A load that is out of bounds makes the function return 0, as in the kernel; so do the negative offsets by which
//! classic BPF reaches other things than the packet.

use super::emit::{Emitter, gpr};
use super::emit_alu::mem_size;
use super::x64::{Alu, Cc, Gpr, Label, Mem, Scale, Shift, Size};
use crate::context::record;
use crate::insn::{self, Reg};

impl Emitter<'_> {
    /// ```text
    /// mov  r9, [rbx + DATA]
    /// mov  r10, [rbx + DATA_END]
    /// sub  r10, r9                 the packet's length
    /// cmp  r10, off + size
    /// jb   return 0
    /// mov  eax, [r9 + off] ; bswap eax
    /// ```
    pub(super) fn emit_ld_abs(&mut self, size: insn::Size, off: i32) {
        let fail = self.return_zero_label();
        let end = i32::try_from(i64::from(off) + i64::from(size.bytes()));
        let (Ok(end), 0..) = (end, off) else {
            self.asm.jmp(fail);
            return;
        };
        self.emit_packet_length();
        self.asm.alu_ri(Alu::Cmp, Size::Q, Gpr::R10, end);
        self.asm.jcc(Cc::B, fail);
        self.emit_load_network_order(mem_size(size), Mem::new(Gpr::R9, off));
    }

    /// ```text
    /// lea  r11d, [src + off]       mov r11d, src when off is 0
    /// mov  r9, [rbx + DATA]
    /// mov  r10, [rbx + DATA_END]
    /// sub  r10, r9
    /// sub  r10, size
    /// jb   return 0
    /// cmp  r11, r10
    /// ja   return 0
    /// mov  eax, [r9 + r11] ; bswap eax
    /// ```
    pub(super) fn emit_ld_ind(&mut self, size: insn::Size, src: Reg, off: i32) {
        let fail = self.return_zero_label();
        match off {
            0 => self.asm.mov_rr(Size::D, Gpr::R11, gpr(src)),
            _ => self.asm.lea(Size::D, Gpr::R11, Mem::new(gpr(src), off)),
        }
        self.emit_packet_length();
        self.asm.alu_ri(Alu::Sub, Size::Q, Gpr::R10, size.bytes() as i32);
        self.asm.jcc(Cc::B, fail);
        self.asm.alu_rr(Alu::Cmp, Size::Q, Gpr::R11, Gpr::R10);
        self.asm.jcc(Cc::A, fail);
        self.emit_load_network_order(mem_size(size), Mem::indexed(Gpr::R9, Gpr::R11, Scale::X1));
    }

    fn return_zero_label(&mut self) -> Label {
        match self.return_zero {
            Some(label) => label,
            None => *self.return_zero.insert(self.asm.new_label()),
        }
    }

    /// r9 = the packet, r10 = its length.
    fn emit_packet_length(&mut self) {
        let ctx = gpr(Reg::R6);
        self.asm.mov_rm(Size::Q, Gpr::R9, Mem::new(ctx, record::DATA as i32));
        self.asm.mov_rm(Size::Q, Gpr::R10, Mem::new(ctx, record::DATA_END as i32));
        self.asm.alu_rr(Alu::Sub, Size::Q, Gpr::R10, Gpr::R9);
    }

    fn emit_load_network_order(&mut self, size: Size, mem: Mem) {
        self.emit_zero_extended_load(size, Gpr::Rax, mem);
        match size {
            Size::B => {}
            Size::W => self.asm.shift_ri(Shift::Rol, Size::W, Gpr::Rax, 8),
            Size::D | Size::Q => self.asm.bswap(size, Gpr::Rax),
        }
    }
}
