//! Calls of helpers and subprograms, and what is inlined instead of a call.

use super::code::{RelocKind, Symbol};
use super::emit::{Emitter, gpr};
use super::options::JitError;
use super::plan;
use super::x64::{Alu, Cc, Gpr, Mem, Scale, Shift, Size};
use crate::helper;
use crate::insn::{Pc, Reg};
use crate::link::MapId;
use crate::map::{ArrayLayout, Map};
use crate::object::{MapDef, MapType};

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

    /// `call entry`; a few plain instructions instead of the call where the function has no more than that.
    pub(super) fn emit_call_subprog(&mut self, pc: Pc, off: i32) -> Result<(), Box<JitError>> {
        let func = plan::callee(self.program, pc, off)?;
        if let Some(body) = plan::inlined(self.program, self.facts, func) {
            return self.emit_body(body);
        }
        if !self.facts.at(self.program.subprogs[func].start).reached {
            return Err(Box::new(JitError::BadCall { pc, target: i64::from(pc.0) + 1 + i64::from(off) }));
        }
        let label = self.function_label(func);
        self.asm.call(label);
        Ok(())
    }

    /// `mov dst, r12 ; shr dst, 32`: the number of the CPU that this run counts as.
    pub(super) fn emit_cpu(&mut self, dst: Gpr) {
        self.asm.mov_rr(Size::Q, dst, Gpr::R12);
        self.asm.shift_ri(Shift::Shr, Size::Q, dst, 32);
    }

    /// `map_lookup_elem` of an array, without a call:
    ///
    /// ```text
    ///       mov  r10d, [rsi]
    ///       xor  eax, eax
    ///       cmp  r10d, max_entries
    ///       jae  miss
    ///       mov  rax, first value
    ///       mov  r11, r12           per CPU
    ///       shr  r11, 32
    ///       imul r11, r11, bytes of a CPU's values
    ///       add  rax, r11
    ///       shl  r10, n             values are 2^n bytes apart; up to 8: none; else: imul r10, r10, stride
    ///       add  rax, r10           up to 8: lea rax, [rax + r10 * 8]
    /// miss:
    /// ```
    pub(super) fn emit_array_map_lookup(&mut self, map: MapId, def: &MapDef) {
        let (stride, cpu_stride) = ArrayLayout::strides(def.value_size, def.max_entries);
        let miss = self.asm.new_label();
        self.asm.mov_rm(Size::D, Gpr::R10, Mem::new(gpr(Reg::R2), 0));
        self.asm.alu_rr(Alu::Xor, Size::D, Gpr::Rax, Gpr::Rax);
        self.asm.alu_ri(Alu::Cmp, Size::D, Gpr::R10, def.max_entries as i32);
        self.asm.jcc(Cc::Ae, miss);
        self.emit_address(Gpr::Rax, Symbol::MapData(map, 0));
        if def.map_type == MapType::PERCPU_ARRAY {
            self.emit_values_of_cpu(cpu_stride);
        }
        self.emit_step(stride);
        self.asm.bind(miss);
    }

    /// The same where the key is known, and is there. Nothing reads R1 and R2 then.
    ///
    /// ```text
    /// mov  rax, value
    /// mov  r11, r12                 per CPU
    /// shr  r11, 32
    /// imul r11, r11, bytes of a CPU's values
    /// add  rax, r11
    /// ```
    pub(super) fn emit_array_element(&mut self, map: MapId, def: &MapDef, offset: u32) {
        self.emit_address(Gpr::Rax, Symbol::MapData(map, offset));
        if def.map_type == MapType::PERCPU_ARRAY {
            self.emit_values_of_cpu(ArrayLayout::strides(def.value_size, def.max_entries).1);
        }
    }

    /// `map_lookup_elem` of an array of maps: the address in the slot, which is 0 where there is no map. One load of a word that is
    /// written by one store, after all of the map that it leads to; x86 keeps the order of both. Who takes a map out of its slot
    /// keeps it until all runs are over that can have seen it.
    ///
    /// ```text
    ///       mov  r10d, [rsi]
    ///       xor  eax, eax
    ///       cmp  r10d, max_entries
    ///       jae  miss
    ///       mov  rax, first slot
    ///       mov  rax, [rax + r10 * 8]
    /// miss:
    /// ```
    pub(super) fn emit_array_of_maps_lookup(&mut self, map: MapId, def: &MapDef) {
        let miss = self.asm.new_label();
        self.asm.mov_rm(Size::D, Gpr::R10, Mem::new(gpr(Reg::R2), 0));
        self.asm.alu_rr(Alu::Xor, Size::D, Gpr::Rax, Gpr::Rax);
        self.asm.alu_ri(Alu::Cmp, Size::D, Gpr::R10, def.max_entries as i32);
        self.asm.jcc(Cc::Ae, miss);
        self.emit_address(Gpr::Rax, Symbol::MapData(map, 0));
        self.asm.mov_rm(Size::Q, Gpr::Rax, Mem::indexed(Gpr::Rax, Gpr::R10, Scale::X8));
        self.asm.bind(miss);
    }

    /// `map_lookup_elem` of an array that is in a map of maps, so that its place and its length are the map's own; the size of its values
    /// is the template's.
    ///
    /// ```text
    ///       mov  r10d, [rsi]
    ///       xor  eax, eax
    ///       cmp  r10d, [rdi + max_entries]
    ///       jae  miss
    ///       mov  rax, [rdi + data]
    ///       shl  r10, n             as in a lookup in an array
    ///       add  rax, r10
    /// miss:
    /// ```
    pub(super) fn emit_inner_array_lookup(&mut self, def: &MapDef) {
        let map = gpr(Reg::R1);
        let miss = self.asm.new_label();
        self.asm.mov_rm(Size::D, Gpr::R10, Mem::new(gpr(Reg::R2), 0));
        self.asm.alu_rr(Alu::Xor, Size::D, Gpr::Rax, Gpr::Rax);
        self.asm.alu_rm(Alu::Cmp, Size::D, Gpr::R10, Mem::new(map, Map::MAX_ENTRIES));
        self.asm.jcc(Cc::Ae, miss);
        self.asm.mov_rm(Size::Q, Gpr::Rax, Mem::new(map, Map::DATA));
        self.emit_step(ArrayLayout::strides(def.value_size, def.max_entries).0);
        self.asm.bind(miss);
    }

    /// From the values of the first CPU to those of this one.
    fn emit_values_of_cpu(&mut self, cpu_stride: u64) {
        self.emit_cpu(Gpr::R11);
        self.emit_scale(Gpr::R11, cpu_stride);
        self.asm.alu_rr(Alu::Add, Size::Q, Gpr::Rax, Gpr::R11);
    }

    /// From the first value to the one with the index in r10.
    fn emit_step(&mut self, stride: u64) {
        if stride == 8 {
            self.asm.lea(Size::Q, Gpr::Rax, Mem::indexed(Gpr::Rax, Gpr::R10, Scale::X8));
        } else {
            self.emit_scale(Gpr::R10, stride);
            self.asm.alu_rr(Alu::Add, Size::Q, Gpr::Rax, Gpr::R10);
        }
    }

    /// `shl r, n`, `imul r, r, factor`, or through r9 where the factor is large
    fn emit_scale(&mut self, r: Gpr, factor: u64) {
        match i32::try_from(factor) {
            Ok(n) if n.count_ones() == 1 => self.asm.shift_ri(Shift::Shl, Size::Q, r, n.trailing_zeros() as u8),
            Ok(n) => self.asm.imul_rri(Size::Q, r, r, n),
            Err(_) => {
                self.asm.mov_ri64(Gpr::R9, factor);
                self.asm.imul_rr(Size::Q, r, Gpr::R9);
            }
        }
    }
}
