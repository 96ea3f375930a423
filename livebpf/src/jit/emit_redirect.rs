//! Redirecting helpers without a call: where the packet is to go is noted for the worker, which is known by the number of the CPU.

use super::code::Symbol;
use super::emit::{Emitter, gpr};
use super::x64::{Alu, Cc, Gpr, Label, Mem, Scale, Size};
use crate::helper;
use crate::helper::redirect::{ACTION, Noted, Redirects, XDP_REDIRECT};
use crate::insn::Reg;
use crate::link::MapId;
use crate::map::Map;
use crate::object::MapDef;

impl Emitter<'_> {
    /// `redirect`; its function is called for flags that it refuses.
    ///
    /// ```text
    ///       cmp  rsi, flags
    ///       ja   other
    ///       ...                     r9: the notes
    ///       mov  [r9 + map], 0
    ///       mov  [r9 + key], edi
    ///       ...
    /// ```
    pub(super) fn emit_redirect(&mut self) {
        let [interface, flags] = [Reg::R1, Reg::R2].map(gpr);
        let Redirects { known, done, .. } = Redirects::of(Some(self.program.kind.prog_type));
        let other = self.emit_flags_up_to(flags, known);
        self.emit_notes();
        self.asm.mov_mi(Size::D, Mem::new(Gpr::R9, Noted::MAP), 0);
        self.asm.mov_mr(Size::D, Mem::new(Gpr::R9, Noted::KEY), interface);
        self.emit_noted(flags, done, other, helper::id::REDIRECT);
    }

    /// `redirect_map` of a map whose entries are words; its function is called for other flags than a verdict, and where there is no
    /// entry.
    ///
    /// ```text
    ///       cmp  rdx, 3
    ///       ja   other
    ///       mov  r10d, esi
    ///       cmp  r10d, max_entries
    ///       jae  other
    ///       mov  rax, first entry
    ///       mov  rax, [rax + r10 * 8]
    ///       test rax, rax
    ///       je   other
    ///       ...                     r9: the notes
    ///       mov  r11d, [rdi + id]
    ///       mov  [r9 + map], r11d
    ///       mov  [r9 + key], r10d
    ///       mov  [r9 + value], eax
    ///       ...
    /// ```
    pub(super) fn emit_redirect_map(&mut self, map: MapId, def: &MapDef) {
        let [own, key, flags] = [Reg::R1, Reg::R2, Reg::R3].map(gpr);
        let other = self.emit_flags_up_to(flags, ACTION);
        self.asm.mov_rr(Size::D, Gpr::R10, key);
        self.asm.alu_ri(Alu::Cmp, Size::D, Gpr::R10, def.max_entries as i32);
        self.asm.jcc(Cc::Ae, other);
        self.emit_address(Gpr::Rax, Symbol::MapData(map, 0));
        self.asm.mov_rm(Size::Q, Gpr::Rax, Mem::indexed(Gpr::Rax, Gpr::R10, Scale::X8));
        self.asm.test_rr(Size::Q, Gpr::Rax, Gpr::Rax);
        self.asm.jcc(Cc::E, other);
        self.emit_notes();
        self.asm.mov_rm(Size::D, Gpr::R11, Mem::new(own, Map::ID));
        self.asm.mov_mr(Size::D, Mem::new(Gpr::R9, Noted::MAP), Gpr::R11);
        self.asm.mov_mr(Size::D, Mem::new(Gpr::R9, Noted::KEY), Gpr::R10);
        self.asm.mov_mr(Size::D, Mem::new(Gpr::R9, Noted::VALUE), Gpr::Rax);
        self.emit_noted(flags, XDP_REDIRECT, other, helper::id::REDIRECT_MAP);
    }

    /// `cmp flags, most ; ja other`, or `test flags, flags ; jne other`
    fn emit_flags_up_to(&mut self, flags: Gpr, most: u64) -> Label {
        let other = self.asm.new_label();
        match most {
            0 => {
                self.asm.test_rr(Size::Q, flags, flags);
                self.asm.jcc(Cc::Ne, other);
            }
            _ => {
                self.asm.alu_ri(Alu::Cmp, Size::Q, flags, most as i32);
                self.asm.jcc(Cc::A, other);
            }
        }
        other
    }

    /// ```text
    /// mov  r9, r12
    /// shr  r9, 32
    /// mov  r11, table
    /// mov  r9, [r11 + r9 * 8]
    /// ```
    fn emit_notes(&mut self) {
        self.emit_cpu(Gpr::R9);
        self.emit_address(Gpr::R11, Symbol::Noted);
        self.asm.mov_rm(Size::Q, Gpr::R9, Mem::indexed(Gpr::R11, Gpr::R9, Scale::X8));
    }

    /// ```text
    ///       mov  [r9 + flags], flags
    ///       or   [r9 + asked], bits
    ///       mov  eax, verdict
    ///       jmp  done
    /// other:
    ///       call helper
    /// done:
    /// ```
    fn emit_noted(&mut self, flags: Gpr, verdict: u64, other: Label, helper: u32) {
        let done = self.asm.new_label();
        self.asm.mov_mr(Size::Q, Mem::new(Gpr::R9, Noted::FLAGS), flags);
        let bits = Noted::REDIRECT | Noted::HERE;
        self.asm.alu_mi(Alu::Or, Size::D, Mem::new(Gpr::R9, Noted::ASKED), bits as i32);
        self.emit_const(Gpr::Rax, verdict);
        self.asm.jmp(done);
        self.asm.bind(other);
        self.emit_call(helper);
        self.asm.bind(done);
    }
}
