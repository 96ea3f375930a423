//! Branches, loops, calls of subprograms, tail calls.

use livebpf::helper::id;
use livebpf::insn::{Cond, Imm64, Insn, Reg, Src};
use livebpf::object::MapType;

use super::env::Param;
use super::func::{CTX, Func};
use super::state::{Kind, NUMBER};
use crate::corners;
use crate::single::{CONDS, WIDTHS};

impl Func<'_, '_> {
    /// A comparison of numbers with one or two arms, or with a way out.
    pub(super) fn branch(&mut self, depth: u32) {
        let dst = self.scalar(&[]);
        let src = self.scalar_or_imm(&[]);
        let (cond, width) = (self.source.pick(&CONDS), self.source.pick(&WIDTHS));
        if self.source.chance(1, 5) {
            let out = self.bail_out();
            self.code.jump_if(cond, width, dst, src, out);
            return;
        }
        let other = self.code.label();
        self.code.jump_if(cond, width, dst, src, other);
        let before = self.state.clone();
        let count = self.source.between(1, 4);
        self.block(count, depth + 1);
        if self.source.chance(1, 2) {
            self.code.bind(other);
            self.state.join(&before);
            return;
        }
        let end = self.code.label();
        self.code.jump(end);
        self.code.bind(other);
        let after_first = std::mem::replace(&mut self.state, before);
        let count = self.source.between(1, 4);
        self.block(count, depth + 1);
        self.code.bind(end);
        self.state.join(&after_first);
    }

    /// A loop that counts to a small constant in R7, R8 or R9.
    pub(super) fn bounded_loop(&mut self, depth: u32) {
        let free = |reg: &Reg| self.state.may_write(*reg, true);
        let counters: Vec<Reg> = [Reg::R9, Reg::R8, Reg::R7].into_iter().filter(free).collect();
        if !self.shape.loops || counters.is_empty() {
            return self.branch(depth);
        }
        let counter = self.source.pick(&counters);
        let times = self.source.between(2, if depth == 0 { 6 } else { 3 }) as i32;
        let kept = self.state.kept;
        self.code.set(counter, 0);
        self.state.set(counter, NUMBER);
        let keep_packet = self.source.chance(1, 2);
        self.state.enter_loop(keep_packet);
        self.state.lock(counter);
        let head = self.code.here();
        let count = self.source.between(1, 3);
        self.block(count, depth + 1);
        if !self.slip() {
            self.code.add(counter, 1);
        }
        let cond = self.source.pick(&[Cond::Lt, Cond::Ne, Cond::Slt]);
        let width = self.source.pick(&WIDTHS);
        self.code.jump_if(cond, width, counter, Src::Imm(times), head);
        self.state.kept = kept;
        self.state.set(counter, Kind::Scalar { max: Some(times as u32) });
    }

    /// A call of a later subprogram.
    pub(super) fn call_subprogram(&mut self) {
        let env = self.env;
        let packet = self.state.kept.packet;
        // The subprogram numbered i is function i + 1; only later functions are called, so there is no recursion.
        let callable = |i: &usize| *i >= self.index && !(packet && env.subprograms[*i].changes_packet);
        let callees: Vec<usize> = (0..env.subprograms.len()).filter(callable).collect();
        if callees.is_empty() {
            return self.branch_free();
        }
        let callee = self.source.pick(&callees);
        let signature = &env.subprograms[callee];
        let mut areas = Vec::new();
        for param in &signature.params {
            areas.push(match *param {
                Param::Scalar => None,
                Param::Buffer(size) => match self.stack_area(size, true) {
                    Some(area) => Some(area),
                    None => return,
                },
            });
        }
        for (area, &dst) in areas.iter().zip(&Reg::ALL[2..]) {
            match area {
                Some(area) => {
                    self.code.copy(dst, Reg::FP);
                    self.code.add(dst, *area);
                }
                None => self.number_argument(dst),
            }
        }
        self.code.copy(Reg::R1, CTX);
        self.code.call(callee + 1);
        self.state.clobber(NUMBER);
        if signature.changes_packet {
            self.changes_packet = true;
            if !self.slip() {
                self.state.forget_packet();
            }
        }
    }

    /// Sets an argument register to a number that no other argument overwrites.
    fn number_argument(&mut self, dst: Reg) {
        let mut scalars = self.state.regs_where(Kind::is_scalar);
        scalars.retain(|reg| reg.number() == 0 || reg.number() > 5);
        if scalars.is_empty() || self.source.chance(1, 3) {
            let value = corners::i32(self.source);
            self.code.set(dst, value);
        } else {
            let src = self.source.pick(&scalars);
            self.code.copy(dst, src);
        }
    }

    fn branch_free(&mut self) {
        let dst = self.target(true, &[]);
        let value = Imm64::Const(corners::u64(self.source));
        self.code.push(Insn::LoadImm64 { dst, value });
        self.state.set(dst, NUMBER);
    }

    /// A tail call by a constant or a computed index; the program goes on when it fails.
    pub(super) fn tail_call(&mut self) {
        let maps = self.env.maps_of(&[MapType::PROG_ARRAY]);
        if maps.is_empty() || self.state.kept.packet {
            return self.branch_free();
        }
        let map = self.source.pick(&maps);
        let entries = self.env.maps[map].max_entries;
        if self.source.chance(1, 2) {
            let index = self.source.below(entries + 1) as i32;
            self.code.set(Reg::R3, index);
        } else {
            let index = if self.source.chance(1, 2) { self.bounded(entries, &[]) } else { self.scalar(&[]) };
            self.code.copy(Reg::R3, index);
        }
        self.code.map(Reg::R2, map);
        self.code.copy(Reg::R1, CTX);
        self.code.helper(id::TAIL_CALL);
        let result = if self.slip() { NUMBER } else { Kind::Unset };
        self.state.clobber(result);
        // The program that is entered may have moved the packet before it returned to this one's caller.
        self.changes_packet = true;
        if !self.slip() {
            self.state.forget_packet();
        }
    }
}
