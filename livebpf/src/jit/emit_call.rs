//! Calls of helpers and subprograms, and what is inlined instead of a call.

use super::code::{RelocKind, Symbol};
use super::emit::{Emitter, gpr};
use super::options::JitError;
use super::plan;
use super::x64::{Alu, Cc, Gpr, Mem, Scale, Shift, Size};
use crate::helper;
use crate::insn::{Pc, Reg};
use crate::link::MapId;

impl Emitter<'_> {
    /// R1 to R5 are the native arguments already, R0 the native result.
    ///
    /// ```text
    /// mov  r9, data                embedders' helpers only
    /// call helper                  far: mov rax, helper ; call rax
    /// ```
    pub(super) fn emit_call(&mut self, helper: u32) {
        if helper >= helper::FIRST_CUSTOM {
            self.emit_address(Gpr::R9, Symbol::HelperData(helper));
        }
        if self.options.helpers_near {
            let at = self.asm.call_outside();
            self.reloc(at, RelocKind::Rel32, Symbol::Helper(helper));
        } else {
            self.emit_address(Gpr::Rax, Symbol::Helper(helper));
            self.asm.call_r(Gpr::Rax);
        }
    }

    /// `call entry`
    pub(super) fn emit_call_subprog(&mut self, pc: Pc, off: i32) -> Result<(), JitError> {
        let func = plan::callee(self.program, pc, off)?;
        if !self.facts.at(self.program.subprogs[func].start).reached {
            return Err(JitError::BadCall { pc, target: i64::from(pc.0) + 1 + i64::from(off) });
        }
        let label = self.function_label(func);
        self.asm.call(label);
        Ok(())
    }

    /// `map_lookup_elem` of an array, without a call:
    ///
    /// ```text
    ///       mov  r10d, [rsi]
    ///       xor  eax, eax
    ///       cmp  r10d, max_entries
    ///       jae  miss
    ///       mov  rax, first value
    ///       shl  r10, n             values are 2^n bytes apart; up to 8: none; else: imul r10, r10, stride
    ///       add  rax, r10           up to 8: lea rax, [rax + r10 * 8]
    /// miss:
    /// ```
    pub(super) fn emit_array_map_lookup(&mut self, map: MapId, value_size: u32, max_entries: u32) {
        let miss = self.asm.new_label();
        self.asm.mov_rm(Size::D, Gpr::R10, Mem::new(gpr(Reg::R2), 0));
        self.asm.alu_rr(Alu::Xor, Size::D, Gpr::Rax, Gpr::Rax);
        self.asm.alu_ri(Alu::Cmp, Size::D, Gpr::R10, max_entries as i32);
        self.asm.jcc(Cc::Ae, miss);
        self.emit_address(Gpr::Rax, Symbol::MapData(map, 0));
        let stride = u64::from(value_size).next_multiple_of(8);
        if stride == 8 {
            self.asm.lea(Size::Q, Gpr::Rax, Mem::indexed(Gpr::Rax, Gpr::R10, Scale::X8));
        } else {
            match i32::try_from(stride) {
                Ok(n) if n.count_ones() == 1 => {
                    self.asm.shift_ri(Shift::Shl, Size::Q, Gpr::R10, n.trailing_zeros() as u8);
                }
                Ok(n) => self.asm.imul_rri(Size::Q, Gpr::R10, Gpr::R10, n),
                Err(_) => {
                    self.asm.mov_ri64(Gpr::R11, stride);
                    self.asm.imul_rr(Size::Q, Gpr::R10, Gpr::R11);
                }
            }
            self.asm.alu_rr(Alu::Add, Size::Q, Gpr::Rax, Gpr::R10);
        }
        self.asm.bind(miss);
    }
}
