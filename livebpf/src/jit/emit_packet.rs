//! Legacy packet loads: R0 = bytes of the packet in network order, the context being in R6.
//!
//! Offsets count from `data`, from -0x100000 (`SKF_NET_OFF`) from the network header, from -0x200000 (`SKF_LL_OFF`) from
//! the Ethernet header, as `context::legacy_load` says. A load that is out of bounds makes the function return 0.

use super::emit::{Emitter, gpr};
use super::emit_alu::mem_size;
use super::x64::{Alu, Cc, Gpr, Label, Mem, Scale, Shift, Size};
use crate::context::record;
use crate::insn::{self, Reg};

const NET_OFF: i32 = -0x10_0000;
const LL_OFF: i32 = -0x20_0000;

impl Emitter<'_> {
    /// ```text
    /// mov  r9, [rbx + DATA]        NETWORK, MAC for negative offsets
    /// lea  r10, [r9 + off + size]
    /// cmp  r10, [rbx + DATA_END]
    /// ja   return 0
    /// mov  eax, [r9 + off]
    /// bswap eax                    16 bits: rol ax, 8
    /// ```
    pub(super) fn emit_ld_abs(&mut self, size: insn::Size, off: i32) {
        let fail = self.return_zero_label();
        let (start, off) = match off {
            0.. => (record::DATA, off),
            NET_OFF..0 => (record::NETWORK, off - NET_OFF),
            LL_OFF..NET_OFF => (record::MAC, off - LL_OFF),
            _ => return self.asm.jmp(fail),
        };
        let Some(end) = off.checked_add(size.bytes() as i32) else { return self.asm.jmp(fail) };
        self.emit_load_record_word(start);
        if self.blinds() {
            self.emit_blinded_const(Size::Q, Gpr::R11, off);
            return self.emit_load_checked(size, fail);
        }
        self.emit_check_end(Mem::new(Gpr::R9, end), fail);
        self.emit_load_network_order(mem_size(size), Mem::new(Gpr::R9, off));
    }

    /// ```text
    ///        lea  r11d, [src + off]       mov r11d, src when off is 0
    ///        mov  r9, [rbx + DATA]
    ///        test r11d, r11d
    ///        jns  found
    ///        mov  r9, [rbx + NETWORK]
    ///        add  r11d, 0x100000
    ///        jb   found
    ///        mov  r9, [rbx + MAC]
    ///        add  r11d, 0x100000
    ///        jae  return 0
    /// found: lea  r10, [r9 + r11 + size]
    ///        cmp  r10, [rbx + DATA_END]
    ///        ja   return 0
    ///        mov  eax, [r9 + r11]
    ///        bswap eax                    16 bits: rol ax, 8
    /// ```
    pub(super) fn emit_ld_ind(&mut self, size: insn::Size, src: Reg, off: i32) {
        let (fail, found) = (self.return_zero_label(), self.asm.new_label());
        match off {
            0 => self.asm.mov_rr(Size::D, Gpr::R11, gpr(src)),
            _ if self.blinds() => {
                self.emit_blinded_const(Size::D, Gpr::R11, off);
                self.asm.alu_rr(Alu::Add, Size::D, Gpr::R11, gpr(src));
            }
            _ => self.asm.lea(Size::D, Gpr::R11, Mem::new(gpr(src), off)),
        }
        self.emit_load_record_word(record::DATA);
        self.asm.test_rr(Size::D, Gpr::R11, Gpr::R11);
        self.asm.jcc(Cc::Ns, found);
        self.emit_load_record_word(record::NETWORK);
        self.asm.alu_ri(Alu::Add, Size::D, Gpr::R11, -NET_OFF);
        self.asm.jcc(Cc::B, found);
        self.emit_load_record_word(record::MAC);
        self.asm.alu_ri(Alu::Add, Size::D, Gpr::R11, NET_OFF - LL_OFF);
        self.asm.jcc(Cc::Ae, fail);
        self.asm.bind(found);
        self.emit_load_checked(size, fail);
    }

    /// The load itself, from r9 + r11.
    fn emit_load_checked(&mut self, size: insn::Size, fail: Label) {
        let at = Mem::indexed(Gpr::R9, Gpr::R11, Scale::X1);
        self.emit_check_end(Mem { disp: size.bytes() as i32, ..at }, fail);
        self.emit_load_network_order(mem_size(size), at);
    }

    fn return_zero_label(&mut self) -> Label {
        match self.return_zero {
            Some(label) => label,
            None => *self.return_zero.insert(self.asm.new_label()),
        }
    }

    /// `mov r9, [rbx + word]`
    fn emit_load_record_word(&mut self, word: u32) {
        self.asm.mov_rm(Size::Q, Gpr::R9, Mem::new(gpr(Reg::R6), word as i32));
    }

    /// `lea r10, end ; cmp r10, [rbx + DATA_END] ; ja fail`
    fn emit_check_end(&mut self, end: Mem, fail: Label) {
        self.asm.lea(Size::Q, Gpr::R10, end);
        self.asm.alu_rm(Alu::Cmp, Size::Q, Gpr::R10, Mem::new(gpr(Reg::R6), record::DATA_END as i32));
        self.asm.jcc(Cc::A, fail);
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
