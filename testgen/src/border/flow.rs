//! Branches that meet again, early ends, and loops.

use livebpf::insn::{AluOp, Cond, Imm64, Insn, Reg, Size, Src, Width};
use livebpf::object::ProgType;

use super::writer::{CTX, What, Writer};
use crate::corners;
use crate::single::WIDTHS;

impl Writer<'_, '_> {
    /// A comparison of two numbers, or of one with a constant.
    fn compare(&mut self) -> (Cond, Width, Reg, Src) {
        let dst = self.number(&[]);
        let src = match self.source.below(4) {
            0 => Src::Reg(self.number(&[dst])),
            1 => Src::Imm(corners::i32(self.source)),
            _ => Src::Imm(self.source.below(70) as i32),
        };
        let dst = if self.get(dst) == What::Number { dst } else { self.number(&[]) };
        (self.pick_condition(), self.source.pick(&WIDTHS), dst, src)
    }

    /// Two ways to one place.
    pub(super) fn diamond(&mut self, depth: u32) {
        let (cond, width, dst, src) = self.compare();
        let (other, join) = (self.code.label(), self.code.label());
        self.code.jump_if(cond, width, dst, src, other);
        let before = self.holds.clone();
        for _ in 0..self.source.between(1, 2) {
            self.step(depth + 1);
        }
        self.code.jump(join);
        let first = std::mem::replace(&mut self.holds, before);
        self.code.bind(other);
        for _ in 0..self.source.below(3) {
            self.step(depth + 1);
        }
        self.code.bind(join);
        self.holds.meet(&first);
    }

    /// Paths that meet with different numbers in one place, which matter only much later: as an index, at the edge for the
    /// larger one. A verifier that takes one path for the other accepts too much where one of them is too large.
    pub(super) fn late_index(&mut self, depth: u32) {
        let free: Vec<Reg> = [Reg::R7, Reg::R8, Reg::R9].into_iter().filter(|reg| !self.fixed.contains(reg)).collect();
        let (index, bytes) = (self.source.pick(&free), 48);
        let size = self.source.pick(&[Size::B, Size::W, Size::DW]);
        let room = (bytes - size.bytes()) as i32;
        let largest = if self.source.chance(1, 12) { room + 1 + self.source.below(30) as i32 } else { room };
        let ways = self.source.between(2, 4);
        let last = self.source.below(ways);
        let join = self.code.label();
        for way in 0..ways {
            let most = if way == last { largest } else { self.source.below(room as u32 + 1) as i32 };
            let next = self.code.label();
            if way + 1 < ways {
                let (cond, width, dst, src) = self.compare();
                if dst != index && src != Src::Reg(index) {
                    self.code.jump_if(cond, width, dst, src, next);
                }
            }
            let unknown = self.source.chance(1, 3) && most > 0;
            if unknown {
                let from = self.new_number(&[index]);
                self.code.copy(index, from);
                self.code.alu(AluOp::Mod, index, Src::Imm(most + 1));
                self.put(from, What::Nothing);
            } else {
                self.code.set(index, most);
            }
            self.code.jump(join);
            self.code.bind(next);
        }
        self.code.set(index, 0);
        self.code.bind(join);
        self.put(index, What::Number);
        self.forget_all_but(&[index, CTX]);
        self.fixed.push(index);
        for _ in 0..self.source.below(4) {
            self.step(depth + 1);
        }
        let used = match self.source.below(4) {
            0 => {
                let copy = self.fresh(&[index]);
                self.code.copy(copy, index);
                self.put(copy, What::Number);
                copy
            }
            1 => {
                let off = super::writer::slot_offset(self.source.below(4) as usize);
                self.code.store(Size::DW, Reg::FP, off, Src::Reg(index));
                let copy = self.fresh(&[index]);
                self.code.load(Size::DW, copy, Reg::FP, off);
                self.put(copy, What::Number);
                copy
            }
            _ => index,
        };
        let base = self.fresh(&[index, used]);
        let value = Imm64::MapIdxValue { idx: super::map::SINGLE as i32, off: 0 };
        self.code.push(Insn::LoadImm64 { dst: base, value });
        self.code.alu(AluOp::Add, base, Src::Reg(used));
        self.code.load(size, base, base, 0);
        self.put(base, What::Number);
        self.fixed.retain(|reg| *reg != index);
    }

    /// Paths met on which other things were done.
    fn forget_all_but(&mut self, kept: &[Reg]) {
        for reg in Reg::ALL[..10].iter().filter(|reg| !kept.contains(reg)) {
            self.put(*reg, What::Nothing);
        }
        self.holds.slots.fill(What::Nothing);
    }

    /// One side goes on; what the comparison says holds from there.
    pub(super) fn early_out(&mut self, depth: u32) {
        let (cond, width, dst, src) = self.compare();
        if self.source.chance(1, 2) {
            let out = self.out;
            return self.code.jump_if(cond, width, dst, src, out);
        }
        let on = self.code.label();
        self.code.jump_if(cond, width, dst, src, on);
        let before = self.holds.clone();
        self.step(depth + 1);
        let out = self.out;
        self.code.jump(out);
        self.code.bind(on);
        self.holds = before;
    }

    /// A loop whose counter goes to a constant or to a number that is small, used in the body.
    pub(super) fn counted_loop(&mut self, depth: u32) {
        let choices: Vec<Reg> =
            [Reg::R7, Reg::R8, Reg::R9].into_iter().filter(|reg| !self.fixed.contains(reg)).collect();
        let counter = self.source.pick(&choices);
        self.code.set(counter, self.source.below(3) as i32);
        self.put(counter, What::Number);
        self.fixed.push(counter);
        let limit = if self.source.chance(1, 3) {
            let reg = self.number(&[counter]);
            if reg != counter && !self.fixed.contains(&reg) && self.source.chance(1, 2) {
                self.narrow(reg, 7);
                self.fixed.push(reg);
                Src::Reg(reg)
            } else {
                Src::Imm(4)
            }
        } else {
            Src::Imm(self.source.between(1, 6) as i32)
        };
        let (head, out) = (self.code.here(), self.code.label());
        let before = self.holds.clone();
        let first_test = self.source.chance(1, 2);
        let width = self.source.pick(&[Width::W64, Width::W64, Width::W32]);
        if first_test {
            let cond = self.source.pick(&[Cond::Ge, Cond::Sge, Cond::Gt]);
            self.code.jump_if(cond, width, counter, limit, out);
        }
        if self.source.chance(1, 2) {
            self.index_by(counter);
        }
        self.step(depth + 1);
        if !self.slip() {
            self.code.add(counter, self.source.pick(&[1, 1, 2, 3]));
        }
        if first_test {
            self.code.jump(head);
        } else {
            let cond = self.source.pick(&[Cond::Lt, Cond::Slt, Cond::Le]);
            self.code.jump_if(cond, width, counter, limit, head);
        }
        self.code.bind(out);
        // The body may not rely on what it destroys; the verifier says so where it did.
        let after = self.holds.clone();
        self.holds = before;
        self.holds.meet(&after);
        self.fixed.retain(|reg| *reg != counter && Src::Reg(*reg) != limit);
    }

    /// A byte of the stack by the loop's counter.
    fn index_by(&mut self, counter: Reg) {
        let pointer = self.fresh(&[counter]);
        self.code.copy(pointer, Reg::FP);
        self.code.alu(AluOp::Add, pointer, Src::Reg(counter));
        let off = -(self.source.between(1, 64) as i32);
        self.put(pointer, What::Nothing);
        if self.source.chance(2, 3) {
            self.code.store(Size::B, pointer, off.min(-9), Src::Imm(1));
        } else {
            let dst = self.fresh(&[counter]);
            self.code.load(Size::B, dst, pointer, off.min(-9));
            self.put(dst, What::Number);
        }
    }

    /// A pointer walks through the packet.
    pub(super) fn packet_walk(&mut self) {
        let (start, end) = match self.env.prog_type {
            ProgType::XDP => (0, 4),
            ProgType::SOCKET_FILTER => return,
            _ => (76, 80),
        };
        if self.get(CTX) != What::Ctx {
            return;
        }
        let (data, stop, counter) = (Reg::R2, Reg::R3, Reg::R4);
        if [data, stop, counter].iter().any(|reg| self.fixed.contains(reg)) {
            return;
        }
        self.code.load(Size::W, data, CTX, start);
        self.code.load(Size::W, stop, CTX, end);
        self.code.set(counter, 0);
        let (head, done) = (self.code.here(), self.code.label());
        let step = self.source.pick(&[1, 2, 4, 8]);
        self.code.copy(Reg::R5, data);
        let checked = if self.slip() { step - 1 } else { step };
        self.code.add(Reg::R5, checked);
        self.code.jump_if(Cond::Gt, Width::W64, Reg::R5, Src::Reg(stop), done);
        self.code.load(Size::B, Reg::R1, data, step - 1);
        self.code.copy(data, Reg::R5);
        self.code.add(counter, 1);
        if self.source.chance(1, 2) {
            self.code.jump_if(Cond::Eq, Width::W64, Reg::R1, Src::Imm(0), done);
        }
        self.code.jump_if(Cond::Lt, Width::W64, counter, Src::Imm(self.source.between(1, 8) as i32), head);
        self.code.bind(done);
        for reg in [Reg::R1, data, stop, Reg::R5] {
            self.put(reg, What::Nothing);
        }
        self.put(counter, What::Number);
    }
}
