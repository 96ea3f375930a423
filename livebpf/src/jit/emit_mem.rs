//! Loads, stores and 64-bit immediates.

use super::code::{RelocKind, Symbol};
use super::emit::{Emitter, gpr};
use super::emit_alu::{mem_size, sum_of};
use super::options::JitError;
use super::plan;
use super::x64::{Alu, Cc, Gpr, Mem, Scale, Size};
use crate::context::NO_QUEUE;
use crate::insn::{self, AluOp, EndianOp, Imm64, Insn, Pc, Reg, Src, Width};
use crate::link::MapId;

impl Emitter<'_> {
    /// A constant in its shortest form; `mov dst, imm64` for the address of a map or a value, `lea dst, [rip + rel32]`
    /// for that of a function.
    pub(super) fn emit_ld_imm64(&mut self, pc: Pc, dst: Reg, value: Imm64) -> Result<(), JitError> {
        let dst = gpr(dst);
        match value {
            Imm64::Const(v) if self.blinds() => self.emit_blinded_const64(dst, v),
            Imm64::Const(v) => self.emit_const(dst, v),
            Imm64::MapIdx(i) => {
                let map = self.map(pc, i.into())?.0;
                self.emit_address(dst, Symbol::Map(map));
            }
            Imm64::MapIdxValue { idx, off } => {
                let map = self.map(pc, idx.into())?.0;
                self.emit_address(dst, Symbol::MapData(map, off));
            }
            Imm64::Func { off } => {
                let func = plan::callee(self.program, pc, off)?;
                if self.facts.at(self.program.subprogs[func].start).reached {
                    let label = self.function_label(func);
                    self.asm.lea_label(dst, label);
                } else {
                    // Whoever gets the address never calls it.
                    self.emit_address(dst, Symbol::Poison);
                }
            }
            Imm64::MapFd(_) | Imm64::MapFdValue { .. } => {
                return Err(JitError::Unsupported { pc, what: "a map by file descriptor" });
            }
            Imm64::BtfId { .. } => return Err(JitError::Unsupported { pc, what: "a kernel variable" }),
        }
        Ok(())
    }

    /// `mov dst, imm64`, the immediate being a symbol's address.
    pub(super) fn emit_address(&mut self, dst: Gpr, symbol: Symbol) {
        let at = self.asm.mov_ri64(dst, 0);
        self.reloc(at, RelocKind::Abs64, symbol);
    }

    /// `mov dst, imm64`, the immediate being the address of a program array's slot table.
    pub(super) fn emit_slot_table(&mut self, dst: Gpr, map: MapId) {
        self.emit_address(dst, Symbol::SlotTable(map));
    }

    /// Where an access really goes: context accesses go to the record.
    fn place(&self, pc: Pc, size: insn::Size, base: Reg, off: i16) -> (Mem, Size) {
        match self.facts.at(pc).record() {
            Some(at) => (Mem::new(gpr(base), at.offset as i32), mem_size(at.size)),
            None => (Mem::new(gpr(base), off.into()), mem_size(size)),
        }
    }

    /// `movzx dst32, byte/word [base + off]`, `mov dst32, [base + off]`, `mov dst, [base + off]`
    pub(super) fn emit_ldx(&mut self, pc: Pc, size: insn::Size, dst: Reg, base: Reg, off: i16) {
        let (mem, size) = self.place(pc, size, base, off);
        self.emit_zero_extended_load(size, gpr(dst), mem);
    }

    /// A load into the register that holds the address, which is a sum: `mov r1, [r2 + r3 + off]` for `r1 = r2; r1 += r3;
    /// r1 = *(r1 + off)` (or without the move). Returns how many slots that took, or 0.
    pub(super) fn emit_indexed_load(&mut self, pc: Pc, first: &Insn, second: &Insn) -> u32 {
        let (sum, dst, load_at, load) = match (sum_of(first, second), *first) {
            (Some((Width::W64, dst, sum)), _) => {
                let load_at = Pc(pc.0 + first.slots());
                let Some(load) = self.partner(load_at, second) else { return 0 };
                (sum, dst, Pc(load_at.0 + second.slots()), load)
            }
            (None, Insn::Alu { op: AluOp::Add, width: Width::W64, dst, src: Src::Reg(src) }) => {
                let sum = Mem::indexed(gpr(dst), gpr(src), Scale::X1);
                (sum, dst, Pc(pc.0 + first.slots()), second)
            }
            _ => return 0,
        };
        let Insn::Load { size, dst: to, base, off } = *load else { return 0 };
        let Some(disp) = sum.disp.checked_add(off.into()).filter(|_| to == dst && base == dst) else { return 0 };
        if self.facts.at(load_at).record().is_some() {
            return 0;
        }
        self.emit_zero_extended_load(mem_size(size), gpr(dst), Mem { disp, ..sum });
        load_at.0 + load.slots() - pc.0
    }

    /// A load whose upper bits are zero.
    pub(super) fn emit_zero_extended_load(&mut self, size: Size, dst: Gpr, mem: Mem) {
        match size {
            Size::B | Size::W => self.asm.movzx_rm(size, dst, mem),
            Size::D | Size::Q => self.asm.mov_rm(size, dst, mem),
        }
    }

    /// `movsx dst, byte/word [base + off]`, `movsxd dst, [base + off]`
    pub(super) fn emit_ldsx(&mut self, pc: Pc, size: insn::Size, dst: Reg, base: Reg, off: i16) {
        let (mem, size) = self.place(pc, size, base, off);
        match size {
            Size::B | Size::W | Size::D => self.asm.movsx_rm(Size::Q, size, gpr(dst), mem),
            Size::Q => self.asm.mov_rm(Size::Q, gpr(dst), mem),
        }
    }

    /// A load and a swap to big endian of the whole of it: `movbe dst, [base + off]`, for 16 bits `movzx` and
    /// `rol r16, 8`. Returns whether it was that.
    pub(super) fn emit_load_swapped(&mut self, pc: Pc, load: &Insn, swap: &Insn) -> bool {
        let (Insn::Load { size, dst, base, off }, Insn::Endian { op, size: swapped, dst: swap_dst }) = (*load, *swap)
        else {
            return false;
        };
        if size != swapped || dst != swap_dst || op == EndianOp::ToLe || self.facts.at(pc).record().is_some() {
            return false;
        }
        let mem = Mem::new(gpr(base), off.into());
        match mem_size(size) {
            Size::W => {
                self.asm.movzx_rm(Size::W, gpr(dst), mem);
                self.asm.shift_ri(super::x64::Shift::Rol, Size::W, gpr(dst), 8);
            }
            size @ (Size::D | Size::Q) if self.options.cpu.movbe => self.asm.movbe_rm(size, gpr(dst), mem),
            _ => return false,
        }
        true
    }

    /// `mov [base + off], src` or `mov [base + off], imm`; of a queue's number behind `cmp src, 65535 ; jae`, or nothing.
    pub(super) fn emit_stx(&mut self, pc: Pc, size: insn::Size, base: Reg, off: i16, src: Src) {
        match (self.facts.at(pc).record().filter(|at| at.queue), src) {
            (None, _) => self.emit_store(pc, size, base, off, src),
            (Some(_), Src::Reg(number)) => {
                let ignored = self.asm.new_label();
                self.asm.alu_ri(Alu::Cmp, Size::Q, gpr(number), NO_QUEUE as i32);
                self.asm.jcc(Cc::Ae, ignored);
                self.emit_store(pc, size, base, off, src);
                self.asm.bind(ignored);
            }
            (Some(at), Src::Imm(imm)) => {
                if at.is_stored(src, imm as i64 as u64) {
                    self.emit_store(pc, size, base, off, src);
                }
            }
        }
    }

    fn emit_store(&mut self, pc: Pc, size: insn::Size, base: Reg, off: i16, src: Src) {
        let (mem, size) = self.place(pc, size, base, off);
        match src {
            Src::Reg(src) => self.asm.mov_mr(size, mem, gpr(src)),
            Src::Imm(imm) if self.blinds() => {
                self.emit_blinded_const(size, Gpr::R11, imm);
                self.asm.mov_mr(size, mem, Gpr::R11);
            }
            Src::Imm(imm) => self.asm.mov_mi(size, mem, imm),
        }
    }
}
