//! Tail calls.
//!
//! All forms fail in the same three cases (index, count, empty slot) and then have changed nothing but r9 to r11 and
//! the flags: R0 to R5 never hold a native address that the program did not have before.
//!
//! Where misses are counted, `out` below is the code of `emit_missed`, which stands behind the site's last jump and ends at
//! `out`; the site itself stays byte for byte what it is, but for the distances of the jumps that leave it.

use super::code::{PokeSite, RelocKind, Symbol};
use super::emit::{Emitter, Site, gpr};
use super::emit_missed::Index;
use super::x64::{Alu, Cc, Gpr, Label, Mem, Scale, Shift, Size};
use crate::insn::{Pc, Reg};
use crate::link::MapId;

/// Successful tail calls that one invocation may make.
pub const MAX_TAIL_CALL_CNT: i32 = 33;

/// Bytes from the start of a program array's header (`map::prog_array::Table`) to its slot table's address. It begins
/// `{ slots: u64, max_entries: u32, kind: u32 }`.
const MAP_SLOTS: i32 = 0;
/// Bytes from the start of a program array's header to its number of entries.
const MAP_MAX_ENTRIES: i32 = 8;

impl Emitter<'_> {
    /// Map and index known: two fields that are patched.
    ///
    /// ```text
    /// bypass:  cmp  r12d, 0            imm8; 33 when open
    ///          jae  out
    ///          inc  r12
    ///          pop  r15, r14, r13, rbx those used
    ///          mov  rsp, rbp           with a frame
    ///          (padding: the rel32 of the next jump lies on a 4-byte boundary)
    /// target:  jmp  poison             rel32; tail_entry of the program in the slot
    /// out:
    /// ```
    pub(super) fn emit_bpf_tail_call_direct(&mut self, pc: Pc, map: MapId, index: u32) {
        let missed = self.missed(Some(map));
        let bypass = self.asm.pos();
        self.asm.alu_ri(Alu::Cmp, Size::D, Gpr::R12, PokeSite::CLOSED.into());
        self.asm.jcc(Cc::Ae, missed.empty);
        self.emit_unwind();
        self.asm.align(4, 3);
        let target = self.asm.jmp_outside();
        self.reloc(target.plus(1), RelocKind::Rel32, Symbol::Poison);
        self.site(Site { map, index, pc, bypass, target });
        self.emit_missed(missed, Index::Gated(index));
    }

    /// Map and index known, through the slot table.
    ///
    /// ```text
    ///          cmp  r12d, 33
    ///          jae  out
    ///          mov  r10, table
    ///          mov  r10, [r10 + index * 8]
    ///          ... as with an unknown index ...
    /// ```
    pub(super) fn emit_bpf_tail_call_slot(&mut self, map: MapId, index: u32) {
        let missed = self.missed(Some(map));
        self.emit_count_check(missed.limit);
        self.emit_slot_table(Gpr::R10, map);
        match i32::try_from(u64::from(index) * 8) {
            Ok(disp) => self.asm.mov_rm(Size::Q, Gpr::R10, Mem::new(Gpr::R10, disp)),
            Err(_) => {
                self.asm.mov_ri32(Gpr::R11, index);
                self.asm.mov_rm(Size::Q, Gpr::R10, Mem::indexed(Gpr::R10, Gpr::R11, Scale::X8));
            }
        }
        self.emit_jump_to_slot(missed.empty);
        self.emit_missed(missed, Index::Known(index));
    }

    /// Map known, index in R3.
    ///
    /// ```text
    ///          mov  r11, rdx           where the author is not trusted:
    ///          shr  r11, 32            all 64 bits count
    ///          jne  out
    ///          mov  r11d, edx
    ///          cmp  r11d, max_entries
    ///          jae  out
    ///          sbb  r9d, r9d           all ones, by data and not by prediction, when the index is in range
    ///          and  r11d, r9d          with 2^n entries instead of both: and r11d, 2^n - 1
    ///          cmp  r12d, 33
    ///          jae  out
    ///          mov  r10, table
    ///          mov  r10, [r10 + r11 * 8]
    ///          test r10, r10
    ///          je   out
    ///          inc  r12
    ///          pop  r15, r14, r13, rbx those used
    ///          mov  rsp, rbp           with a frame
    ///          jmp  r10
    ///          int3
    /// out:
    /// ```
    pub(super) fn emit_bpf_tail_call_indirect(&mut self, map: MapId, max_entries: u32) {
        let missed = self.missed(Some(map));
        self.emit_wide_index(missed.outside);
        self.asm.mov_rr(Size::D, Gpr::R11, gpr(Reg::R3));
        self.asm.alu_ri(Alu::Cmp, Size::D, Gpr::R11, max_entries as i32);
        self.asm.jcc(Cc::Ae, missed.outside);
        if max_entries.is_power_of_two() {
            self.asm.alu_ri(Alu::And, Size::D, Gpr::R11, (max_entries - 1) as i32);
        } else {
            self.emit_clamp();
        }
        self.emit_count_check(missed.limit);
        self.emit_slot_table(Gpr::R10, map);
        self.asm.mov_rm(Size::Q, Gpr::R10, Mem::indexed(Gpr::R10, Gpr::R11, Scale::X8));
        self.emit_jump_to_slot(missed.empty);
        self.emit_missed(missed, Index::Clamped);
    }

    /// Map in R2, index in R3.
    ///
    /// ```text
    ///          mov  r11d, edx
    ///          cmp  r11d, [rsi + 8]    max_entries
    ///          jae  out
    ///          sbb  r9d, r9d
    ///          and  r11d, r9d
    ///          cmp  r12d, 33
    ///          jae  out
    ///          mov  r10, [rsi]         table
    ///          mov  r10, [r10 + r11 * 8]
    ///          ... as above ...
    /// ```
    pub(super) fn emit_bpf_tail_call_dynamic(&mut self) {
        let missed = self.missed(None);
        let map = gpr(Reg::R2);
        self.emit_wide_index(missed.outside);
        self.asm.mov_rr(Size::D, Gpr::R11, gpr(Reg::R3));
        self.asm.alu_rm(Alu::Cmp, Size::D, Gpr::R11, Mem::new(map, MAP_MAX_ENTRIES));
        self.asm.jcc(Cc::Ae, missed.outside);
        self.emit_clamp();
        self.emit_count_check(missed.limit);
        self.asm.mov_rm(Size::Q, Gpr::R10, Mem::new(map, MAP_SLOTS));
        self.asm.mov_rm(Size::Q, Gpr::R10, Mem::indexed(Gpr::R10, Gpr::R11, Scale::X8));
        self.emit_jump_to_slot(missed.empty);
        self.emit_missed(missed, Index::Clamped);
    }

    /// `mov r11, rdx ; shr r11, 32 ; jne outside`, where the upper half of the index counts
    fn emit_wide_index(&mut self, outside: Label) {
        if self.facts.wide_index {
            self.asm.mov_rr(Size::Q, Gpr::R11, gpr(Reg::R3));
            self.asm.shift_ri(Shift::Shr, Size::Q, Gpr::R11, 32);
            self.asm.jcc(Cc::Ne, outside);
        }
    }

    /// `sbb r9d, r9d ; and r11d, r9d`, after `cmp r11d, limit`
    fn emit_clamp(&mut self) {
        self.asm.alu_rr(Alu::Sbb, Size::D, Gpr::R9, Gpr::R9);
        self.asm.alu_rr(Alu::And, Size::D, Gpr::R11, Gpr::R9);
    }

    /// `cmp r12d, 33 ; jae limit`
    fn emit_count_check(&mut self, limit: Label) {
        self.asm.alu_ri(Alu::Cmp, Size::D, Gpr::R12, MAX_TAIL_CALL_CNT);
        self.asm.jcc(Cc::Ae, limit);
    }

    /// Counts, and takes this function's frame away except for rbp: what a tail entry expects.
    fn emit_unwind(&mut self) {
        self.asm.inc(Size::Q, Gpr::R12);
        self.emit_pop_callee_regs();
        if self.frame.bytes != 0 {
            self.asm.mov_rr(Size::Q, Gpr::Rsp, Gpr::Rbp);
        }
    }

    /// Jumps to the tail entry in r10; 0 is an empty slot.
    fn emit_jump_to_slot(&mut self, empty: Label) {
        self.asm.test_rr(Size::Q, Gpr::R10, Gpr::R10);
        self.asm.jcc(Cc::E, empty);
        self.emit_unwind();
        self.asm.jmp_r(Gpr::R10);
        // Stops straight-line speculation behind the jump.
        self.asm.int3();
    }
}
