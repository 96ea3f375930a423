//! What goes round and what must be given back: callbacks, iterators of numbers, `may_goto`, records of ring buffers.

use livebpf::helper::id;
use livebpf::insn::{AluOp, Cond, Imm64, Insn, Reg, Size, Src, Width};

use super::writer::{SLOTS, What, Writer, slot_offset};
use super::{Callback, ITER_DESTROY, ITER_NEW, ITER_NEXT, Param, map};
use crate::corners;

impl Writer<'_, '_> {
    /// A record of the ring buffer: reserved, written to its last byte, given back once.
    pub(super) fn record(&mut self) {
        let bytes = self.source.pick(&[8, 1, 16, 20, 64]);
        self.code.map(Reg::R1, map::RING);
        self.code.set(Reg::R2, bytes as i32);
        self.code.set(Reg::R3, 0);
        self.code.helper(id::RINGBUF_RESERVE);
        self.clobber(What::Nothing);
        let done = self.code.label();
        if !self.slip() {
            self.code.jump_if(Cond::Eq, Width::W64, Reg::R0, Src::Imm(0), done);
        }
        let kept = self.source.pick(&[Reg::R7, Reg::R8, Reg::R9]);
        if self.fixed.contains(&kept) {
            self.code.copy(Reg::R1, Reg::R0);
        } else {
            self.code.copy(kept, Reg::R0);
            self.put(kept, What::Memory(bytes));
            for _ in 0..self.source.below(3) {
                let size = self.source.pick(&[Size::B, Size::DW, Size::W]);
                if size.bytes() > bytes {
                    continue;
                }
                let last = (bytes - size.bytes()) as i32;
                let off = if self.slip() { last + 1 } else { self.source.pick(&[last, 0, last / 2]) };
                let src = Src::Imm(corners::i32(self.source));
                self.code.store(size, kept, off, src);
            }
            if self.source.chance(1, 3) {
                // One side gives it back in another way, or forgets to.
                let (cond, other) = (self.pick_condition(), self.number(&[kept]));
                if other != kept && self.get(other) == What::Number {
                    let skip = self.code.label();
                    self.code.jump_if(cond, Width::W64, other, Src::Imm(4), skip);
                    let off = self.source.below(2) as i32;
                    self.code.store(Size::B, kept, if bytes > 1 { off } else { 0 }, Src::Imm(1));
                    self.code.bind(skip);
                }
            }
            self.code.copy(Reg::R1, kept);
        }
        self.code.set(Reg::R2, 0);
        let back = self.source.pick(&[id::RINGBUF_SUBMIT, id::RINGBUF_DISCARD]);
        if !self.slip() {
            self.code.helper(back);
        }
        if self.slip() {
            self.code.copy(Reg::R1, kept);
            self.code.helper(back);
        }
        self.code.bind(done);
        self.clobber(What::Nothing);
        if !self.slip() && !self.fixed.contains(&kept) {
            self.put(kept, What::Nothing);
        }
    }

    /// A loop over the numbers of an iterator.
    pub(super) fn iterate(&mut self, depth: u32) {
        let slot = self.source.below(SLOTS as u32) as usize;
        let iterator = |writer: &mut Self, number: i32| {
            writer.code.copy(Reg::R1, Reg::FP);
            writer.code.add(Reg::R1, slot_offset(slot));
            writer.code.push(Insn::CallKfunc { btf_id: number, off: 0 });
            writer.clobber(What::Nothing);
        };
        let first = self.source.below(4) as i32;
        self.code.set(Reg::R2, first);
        self.code.set(Reg::R3, first + self.source.between(0, 9) as i32);
        iterator(self, ITER_NEW);
        self.holds.slots[slot] = What::Nothing;
        let before = self.holds.clone();
        let (head, done) = (self.code.here(), self.code.label());
        iterator(self, ITER_NEXT);
        if !self.slip() {
            self.code.jump_if(Cond::Eq, Width::W64, Reg::R0, Src::Imm(0), done);
        }
        let item = self.fresh(&[Reg::R0]);
        self.code.load(Size::W, item, Reg::R0, 0);
        self.put(item, What::Number);
        if self.source.chance(1, 2) {
            self.source.below(1);
            self.arithmetic();
        } else if depth < 1 && self.source.chance(1, 2) {
            self.indexed_inside(item);
        }
        self.code.jump(head);
        self.code.bind(done);
        self.holds.meet(&before);
        if !self.slip() {
            iterator(self, ITER_DESTROY);
        }
    }

    /// A place of the map of one element by a number of an iterator or a callback.
    fn indexed_inside(&mut self, index: Reg) {
        let base = self.fresh(&[index]);
        let own = self.fresh(&[index, base]);
        self.code.copy(own, index);
        self.put(own, What::Number);
        // Nothing leaves from inside: what is held has to be given back.
        let skip = self.code.label();
        let most = if self.slip() { 48 } else { self.source.pick(&[47, 40, 7]) };
        self.code.jump_if(Cond::Gt, Width::W64, own, Src::Imm(most), skip);
        let value = Imm64::MapIdxValue { idx: map::SINGLE as i32, off: 0 };
        self.code.push(Insn::LoadImm64 { dst: base, value });
        self.code.alu(AluOp::Add, base, Src::Reg(own));
        self.code.store(Size::B, base, 0, Src::Imm(7));
        self.code.bind(skip);
        self.put(base, What::Nothing);
        self.put(own, What::Nothing);
    }

    /// A loop that `may_goto` ends, or its counter.
    pub(super) fn perhaps_loop(&mut self) {
        let choices: Vec<Reg> =
            [Reg::R7, Reg::R8, Reg::R9].into_iter().filter(|reg| !self.fixed.contains(reg)).collect();
        let counter = self.source.pick(&choices);
        self.code.set(counter, 0);
        self.put(counter, What::Number);
        self.fixed.push(counter);
        let before = self.holds.clone();
        let (head, done) = (self.code.here(), self.code.label());
        self.code.may_goto(done);
        let limit = Src::Imm(self.source.between(1, 40) as i32);
        self.code.jump_if(self.source.pick(&[Cond::Ge, Cond::Gt, Cond::Eq]), Width::W64, counter, limit, done);
        if self.source.chance(1, 2) {
            self.indexed_inside(counter);
        } else {
            self.arithmetic();
        }
        self.code.add(counter, 1);
        self.code.jump(head);
        self.code.bind(done);
        self.holds.meet(&before);
        self.fixed.retain(|reg| *reg != counter);
        self.put(counter, What::Number);
    }

    /// A helper that calls a function of the program.
    pub(super) fn call_back(&mut self) {
        let Some(callee) = (self.index + 1..=self.env.subprograms.len())
            .find(|callee| self.env.subprograms[callee - 1].callback.is_some())
        else {
            return self.arithmetic();
        };
        let slot = self.source.between(1, SLOTS as u32 - 1) as usize;
        if self.holds.slots[slot] != What::Number && !self.slip() {
            self.code.store(Size::DW, Reg::FP, slot_offset(slot), Src::Imm(2));
        }
        let number = self.own_number(&[Reg::R1, Reg::R2, Reg::R3, Reg::R4]);
        let pointer = |writer: &mut Self, reg: Reg| {
            writer.code.copy(reg, Reg::FP);
            writer.code.add(reg, slot_offset(slot));
        };
        match self.env.subprograms[callee - 1].callback {
            Some(Callback::Loop) => {
                let most = self.source.pick(&[1, 3, 10]);
                self.narrow(number, most);
                self.code.copy(Reg::R1, number);
                self.code.function(Reg::R2, callee);
                pointer(self, Reg::R3);
                self.code.set(Reg::R4, 0);
                self.code.helper(id::LOOP);
            }
            _ => {
                self.code.map(Reg::R1, self.source.pick(&[map::ARRAY, map::HASH]));
                self.code.function(Reg::R2, callee);
                pointer(self, Reg::R3);
                self.code.set(Reg::R4, 0);
                self.code.helper(id::FOR_EACH_MAP_ELEM);
            }
        }
        self.clobber(What::Number);
        self.holds.slots[slot] = What::Number;
    }
}

/// What a callback takes.
pub(super) fn callback_params(callback: Callback) -> Vec<Param> {
    match callback {
        Callback::Loop => vec![Param::Number, Param::Buffer(8)],
        Callback::Each => vec![Param::Opaque, Param::Buffer(4), Param::Buffer(16), Param::Buffer(8)],
    }
}
