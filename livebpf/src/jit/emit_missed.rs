//! Counting the tail calls that are missed, without cost to those that succeed.
//!
//! The code that counts stands behind a site's last jump, where nothing falls into it: only the jumps that leave a site
//! because its call fails lead here. So a call that succeeds executes what it executes without counting, and the short
//! jumps stay short. It is emitted only for arrays that are to be counted ([`Options::count_missed`](super::Options)): it
//! takes 29 bytes and more at every site, and turns a miss from one jump into a locked addition.

use super::code::Symbol;
use super::emit::{Emitter, gpr};
use super::emit_tail_call::MAX_TAIL_CALL_CNT;
use super::x64::{Alu, Cc, Gpr, Label, Mem, Scale, Shift, Size};
use crate::insn::Reg;
use crate::link::MapId;
use crate::map::prog_array::missed;

/// Where the jumps lead that leave a tail call's site, one for each reason to miss. Where nothing is counted they are one.
pub(super) struct Missed {
    /// The index is past the end.
    pub outside: Label,
    /// The limit is reached.
    pub limit: Label,
    /// The slot is empty.
    pub empty: Label,
    /// Behind the site.
    out: Label,
    /// The arrays that are counted.
    arrays: Counted,
}

enum Counted {
    None,
    /// The site's array.
    One(MapId),
    /// The site's array is in R2; if it is one of these, it is counted.
    OneOf(Vec<MapId>),
}

/// What a site knows of its slot.
#[derive(Clone, Copy)]
pub(super) enum Index {
    Known(u32),
    /// The same, and the limit is looked at together with the slot: what leaves the site goes to `empty`.
    Gated(u32),
    /// It is in r11, below the number of entries.
    Clamped,
}

impl Emitter<'_> {
    /// Labels for a site; `map` where its array is known. To be bound by [`Emitter::emit_missed`].
    pub(super) fn missed(&mut self, map: Option<MapId>) -> Missed {
        let out = self.asm.new_label();
        let arrays = match map {
            Some(map) if self.options.counts(map) => Counted::One(map),
            None if !self.options.count_missed.is_empty() => Counted::OneOf(self.options.count_missed.clone()),
            Some(_) | None => return Missed { outside: out, limit: out, empty: out, out, arrays: Counted::None },
        };
        let mut label = || self.asm.new_label();
        Missed { outside: label(), limit: label(), empty: label(), out, arrays }
    }

    /// Behind a site: counts each kind of miss, and goes on behind all of this.
    ///
    /// ```text
    ///          with a known index                   with the index in r11
    /// outside:                                      mov  r11, -16
    ///                                               jmp  count
    /// limit:   mov  r11d, index * 16 + 8            shl  r11, 4
    ///                                               add  r11, 8
    ///          jmp  count                           jmp  count
    /// empty:   mov  r11d, index * 16                shl  r11, 4
    /// count:   mov  r10, counters
    ///          lock inc qword [r10 + r11]
    /// out:
    /// ```
    ///
    /// Where the site is patched, one jump leaves it for both reasons:
    ///
    /// ```text
    /// empty:   mov  r11d, index * 16 + 8
    ///          cmp  r12d, 33
    ///          jae  count
    ///          mov  r11d, index * 16
    /// count:   ...
    /// ```
    ///
    /// With the array in R2, for each array that is counted:
    ///
    /// ```text
    /// count:   mov  r10, map
    ///          cmp  rsi, r10
    ///          mov  r10, counters
    ///          je   found
    ///          ...
    ///          jmp  out
    /// found:   lock inc qword [r10 + r11]
    /// out:
    /// ```
    pub(super) fn emit_missed(&mut self, missed: Missed, index: Index) {
        let Missed { outside, limit, empty, out, arrays } = missed;
        if !matches!(arrays, Counted::None) {
            self.emit_missed_offset(outside, limit, empty, index);
            match arrays {
                Counted::None => {}
                Counted::One(map) => self.emit_address(Gpr::R10, Symbol::Missed(map)),
                Counted::OneOf(maps) => self.emit_missed_array(&maps, out),
            }
            self.asm.lock_inc_m(Size::Q, Mem::indexed(Gpr::R10, Gpr::R11, Scale::X1));
        }
        self.asm.bind(out);
    }

    /// The counter's offset from the first slot's counters, into r11.
    fn emit_missed_offset(&mut self, outside: Label, limit: Label, empty: Label, index: Index) {
        let count = self.asm.new_label();
        match index {
            Index::Known(index) => {
                let slot = u64::from(index) * missed::STRIDE;
                self.asm.bind(limit);
                self.emit_const(Gpr::R11, slot + missed::LIMIT);
                self.asm.jmp(count);
                self.asm.bind(empty);
                self.emit_const(Gpr::R11, slot + missed::EMPTY);
            }
            Index::Gated(index) => {
                let slot = u64::from(index) * missed::STRIDE;
                self.asm.bind(empty);
                self.emit_const(Gpr::R11, slot + missed::LIMIT);
                self.asm.alu_ri(Alu::Cmp, Size::D, Gpr::R12, MAX_TAIL_CALL_CNT);
                self.asm.jcc(Cc::Ae, count);
                self.emit_const(Gpr::R11, slot + missed::EMPTY);
            }
            Index::Clamped => {
                let to_slot = missed::STRIDE.trailing_zeros() as u8;
                self.asm.bind(outside);
                self.emit_const(Gpr::R11, missed::OUTSIDE as u64);
                self.asm.jmp(count);
                self.asm.bind(limit);
                self.asm.shift_ri(Shift::Shl, Size::Q, Gpr::R11, to_slot);
                self.asm.alu_ri(Alu::Add, Size::Q, Gpr::R11, missed::LIMIT as i32);
                self.asm.jmp(count);
                self.asm.bind(empty);
                self.asm.shift_ri(Shift::Shl, Size::Q, Gpr::R11, to_slot);
            }
        }
        self.asm.bind(count);
    }

    /// The counters of the array in R2, into r10; to `out` where it is none of `maps`.
    fn emit_missed_array(&mut self, maps: &[MapId], out: Label) {
        let found = self.asm.new_label();
        for &map in maps {
            self.emit_address(Gpr::R10, Symbol::Map(map));
            self.asm.alu_rr(Alu::Cmp, Size::Q, gpr(Reg::R2), Gpr::R10);
            self.emit_address(Gpr::R10, Symbol::Missed(map));
            self.asm.jcc(Cc::E, found);
        }
        self.asm.jmp(out);
        self.asm.bind(found);
    }

    /// A call that always fails because its index is past the end: nothing, or `mov r10, counters ; lock inc qword [r10 - 16]`.
    pub(super) fn emit_missed_outside(&mut self, map: MapId) {
        if self.options.counts(map) {
            self.emit_address(Gpr::R10, Symbol::Missed(map));
            self.asm.lock_inc_m(Size::Q, Mem::new(Gpr::R10, missed::OUTSIDE as i32));
        }
    }
}
