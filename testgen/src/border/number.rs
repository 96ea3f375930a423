//! Numbers: where they come from, what is computed with them, and all the ways to narrow them.

use livebpf::insn::{AluOp, Cond, EndianOp, Imm64, Insn, Reg, Size, Src, Width};

use super::map;
use super::writer::{CTX, What, Writer, slot_offset};
use crate::single::{CONDS, SIZES, WIDTHS};
use crate::{corners, straight};
use livebpf::object::ProgType;

impl Writer<'_, '_> {
    /// A register with a number; a new one at times.
    pub(super) fn number(&mut self, avoid: &[Reg]) -> Reg {
        let numbers: Vec<Reg> =
            self.regs(|what| what == What::Number).into_iter().filter(|reg| !avoid.contains(reg)).collect();
        if numbers.is_empty() || self.source.chance(1, 3) {
            return self.new_number(avoid);
        }
        self.source.pick(&numbers)
    }

    /// A number that may be changed: not a loop's counter.
    pub(super) fn own_number(&mut self, avoid: &[Reg]) -> Reg {
        let reg = self.number(avoid);
        if !self.fixed.contains(&reg) && self.source.chance(2, 3) {
            return reg;
        }
        let own = self.fresh(&[avoid, &[reg]].concat());
        let width = self.source.pick(&[Width::W64, Width::W64, Width::W64, Width::W32]);
        self.code.push(Insn::Mov { width, dst: own, src: Src::Reg(reg) });
        self.put(own, What::Number);
        own
    }

    /// A number of which nothing is known but its size.
    pub(super) fn new_number(&mut self, avoid: &[Reg]) -> Reg {
        let dst = self.fresh(avoid);
        let memory: Vec<Reg> = self.regs(|what| what.bytes() > 0);
        match self.source.below(8) {
            0 => {
                let value = corners::i32(self.source);
                self.code.push(Insn::Mov { width: self.source.pick(&WIDTHS), dst, src: Src::Imm(value) });
            }
            1 => {
                let value = Imm64::Const(corners::u64(self.source));
                self.code.push(Insn::LoadImm64 { dst, value });
            }
            2 | 3 if !memory.is_empty() => {
                let base = self.source.pick(&memory);
                self.load_within(dst, base);
            }
            4 if self.get(CTX) == What::Ctx => {
                let off = if self.env.prog_type == ProgType::XDP {
                    self.source.pick(&[16, 12])
                } else {
                    self.source.pick(&[0, 8, 16, 52])
                };
                self.code.load(Size::W, dst, CTX, off);
            }
            _ => self.read_single(dst),
        }
        self.put(dst, What::Number);
        dst
    }

    /// From the map of one element, by its address: any bits that the run's input has there.
    fn read_single(&mut self, dst: Reg) {
        let size = self.source.pick(&SIZES);
        let at = self.source.below(48 / size.bytes()) * size.bytes();
        let idx = map::SINGLE as i32;
        self.code.push(Insn::LoadImm64 { dst, value: Imm64::MapIdxValue { idx, off: at } });
        if size != Size::DW && self.source.chance(1, 4) {
            self.code.push(Insn::LoadSx { size, dst, base: dst, off: 0 });
        } else {
            self.code.load(size, dst, dst, 0);
        }
    }

    /// One to three operations on a number.
    pub(super) fn arithmetic(&mut self) {
        let dst = self.own_number(&[]);
        for _ in 0..self.source.between(1, 3) {
            self.operate(dst);
        }
    }

    fn operate(&mut self, dst: Reg) {
        let width = self.source.pick(&WIDTHS);
        match self.source.below(12) {
            0 => self.code.push(Insn::Neg { width, dst }),
            1 => {
                let from = self.source.pick(if width == Width::W64 {
                    &[Size::B, Size::H, Size::W]
                } else {
                    &[Size::B, Size::H]
                });
                self.code.push(Insn::MovSx { width, from, dst, src: dst });
            }
            2 => {
                let op = self.source.pick(&[EndianOp::ToLe, EndianOp::ToBe, EndianOp::Swap]);
                self.code.push(Insn::Endian { op, size: self.source.pick(&[Size::H, Size::W, Size::DW]), dst });
            }
            3 => {
                let src = self.number(&[dst]);
                self.code.push(Insn::Mov { width, dst, src: Src::Reg(src) });
            }
            4 => {
                let (a, b) = (self.number(&[dst]), self.pick_condition());
                self.branch_over(b, width, dst, Src::Reg(a));
            }
            5..=7 => {
                let op = self.source.pick(&crate::single::ALU_OPS);
                let src = self.number(&[dst]);
                if matches!(op, AluOp::Lsh | AluOp::Rsh | AluOp::Arsh) && self.source.chance(2, 3) {
                    // A shift by a register that is known to be small.
                    let by = self.fresh(&[dst, src]);
                    self.code.copy(by, src);
                    let mask = self.source.pick(&[31, 7, 63, 15, 3]);
                    self.code.alu(AluOp::And, by, Src::Imm(mask));
                    self.put(by, What::Number);
                    self.code.push(Insn::Alu { op, width, dst, src: Src::Reg(by) });
                } else {
                    self.code.push(Insn::Alu { op, width, dst, src: Src::Reg(src) });
                }
            }
            _ => {
                let op = self.source.pick(&crate::single::ALU_OPS);
                let imm = match self.source.below(3) {
                    0 => straight::immediate(self.source, op, width),
                    _ => (self.source.below(31) + 1) as i32,
                };
                self.code.push(Insn::Alu { op, width, dst, src: Src::Imm(imm) });
            }
        }
        self.put(dst, What::Number);
    }

    pub(super) fn pick_condition(&mut self) -> Cond {
        self.source.pick(&CONDS)
    }

    /// A comparison with a few operations on one side.
    fn branch_over(&mut self, cond: Cond, width: Width, dst: Reg, src: Src) {
        let skip = self.code.label();
        self.code.jump_if(cond, width, dst, src, skip);
        let imm = (self.source.below(16)) as i32;
        let op = self.source.pick(&[AluOp::Add, AluOp::And, AluOp::Or, AluOp::Sub, AluOp::Xor]);
        self.code.push(Insn::Alu { op, width: self.source.pick(&WIDTHS), dst, src: Src::Imm(imm) });
        self.code.bind(skip);
    }

    /// Makes sure that `reg` is from 0 to `most`, in one of many ways; leaves with the label `out` where a check fails.
    pub(super) fn narrow(&mut self, reg: Reg, most: u32) {
        let bound = if self.slip() { most + self.source.between(1, 2) } else { most } as i32;
        if self.slip() {
            return;
        }
        let out = self.out;
        let width = Width::W64;
        match self.source.below(20) {
            // The largest mask below.
            0 | 1 => {
                let mask =
                    ((bound + 1) as u32).next_power_of_two() >> u32::from(!((bound + 1) as u32).is_power_of_two());
                let width = self.source.pick(&WIDTHS);
                self.code.push(Insn::Alu { op: AluOp::And, width, dst: reg, src: Src::Imm(mask as i32 - 1) });
            }
            2 => self.code.jump_if(Cond::Gt, width, reg, Src::Imm(bound), out),
            3 => self.code.jump_if(Cond::Ge, width, reg, Src::Imm(bound + 1), out),
            4 => {
                self.code.jump_if(Cond::Sgt, width, reg, Src::Imm(bound), out);
                self.code.jump_if(Cond::Slt, width, reg, Src::Imm(0), out);
            }
            5 => {
                self.code.jump_if(Cond::Slt, width, reg, Src::Imm(0), out);
                self.code.jump_if(Cond::Sge, width, reg, Src::Imm(bound + 1), out);
            }
            6 => self.code.alu(AluOp::Mod, reg, Src::Imm(bound + 1)),
            7 => {
                let ok = self.code.label();
                let (cond, imm) = self.source.pick(&[(Cond::Le, bound), (Cond::Lt, bound + 1)]);
                self.code.jump_if(cond, width, reg, Src::Imm(imm), ok);
                self.code.jump(out);
                self.code.bind(ok);
            }
            8 => self.narrow_by_register(reg, bound),
            9 => self.narrow_low_half(reg, bound),
            10 => self.narrow_copy(reg, bound),
            11 => {
                // A shift that leaves few bits.
                let bits = ((bound + 1) as u32).ilog2();
                self.code.alu(AluOp::Rsh, reg, Src::Imm(64 - bits.max(1) as i32));
                if bits == 0 {
                    self.code.set(reg, 0);
                }
            }
            12 => {
                // Bit tests: none of the high bits is set.
                let bits = ((bound + 1) as u32).ilog2();
                let high = !((1i32 << bits) - 1);
                self.code.jump_if(Cond::Set, width, reg, Src::Imm(high), out);
            }
            13 => self.narrow_spilled(reg, bound),
            14 => {
                // The smaller of both.
                let small = self.code.label();
                self.code.jump_if(Cond::Lt, width, reg, Src::Imm(bound), small);
                self.code.set(reg, bound);
                self.code.bind(small);
            }
            15 => {
                self.code.push(Insn::MovSx { width, from: Size::B, dst: reg, src: reg });
                self.code.jump_if(Cond::Slt, width, reg, Src::Imm(0), out);
                self.code.jump_if(Cond::Gt, width, reg, Src::Imm(bound), out);
            }
            16 => {
                // One of two values.
                let (ok, value) = (self.code.label(), self.source.below(bound as u32 + 1) as i32);
                self.code.jump_if(Cond::Eq, width, reg, Src::Imm(value), ok);
                self.code.jump_if(Cond::Ne, width, reg, Src::Imm(bound), out);
                self.code.bind(ok);
            }
            17 => {
                self.code.push(Insn::Endian { op: EndianOp::ToBe, size: Size::H, dst: reg });
                self.code.jump_if(Cond::Gt, width, reg, Src::Imm(bound), out);
            }
            18 => self.narrow_twice(reg, bound),
            _ => self.narrow_sum(reg, bound),
        }
    }

    fn narrow_by_register(&mut self, reg: Reg, bound: i32) {
        let limit = self.fresh(&[reg]);
        let (out, width) = (self.out, Width::W64);
        self.code.push(Insn::Mov { width: self.source.pick(&WIDTHS), dst: limit, src: Src::Imm(bound) });
        self.put(limit, What::Number);
        if self.source.chance(1, 2) {
            // The limit is itself only known to be at most that.
            let other = self.number(&[reg, limit]);
            self.code.alu(AluOp::And, limit, Src::Reg(other));
        }
        match self.source.below(4) {
            0 => self.code.jump_if(Cond::Gt, width, reg, Src::Reg(limit), out),
            1 => self.code.jump_if(Cond::Lt, width, limit, Src::Reg(reg), out),
            2 => {
                self.code.jump_if(Cond::Slt, width, reg, Src::Imm(0), out);
                self.code.jump_if(Cond::Sgt, width, reg, Src::Reg(limit), out);
            }
            _ => self.code.jump_if(Cond::Ne, width, reg, Src::Reg(limit), out),
        }
    }

    /// By its low half; the high half has to be cleared before or after.
    fn narrow_low_half(&mut self, reg: Reg, bound: i32) {
        let (out, width) = (self.out, Width::W32);
        let clear = Insn::Mov { width, dst: reg, src: Src::Reg(reg) };
        let (before, forgotten) = (self.source.chance(1, 2), self.slip());
        if before && !forgotten {
            self.code.push(clear);
        }
        match self.source.below(4) {
            0 => self.code.jump_if(Cond::Gt, width, reg, Src::Imm(bound), out),
            1 => {
                self.code.jump_if(Cond::Sgt, width, reg, Src::Imm(bound), out);
                self.code.jump_if(Cond::Slt, width, reg, Src::Imm(0), out);
            }
            2 => self.code.jump_if(Cond::Set, width, reg, Src::Imm(!((1i32 << ((bound + 1) as u32).ilog2()) - 1)), out),
            _ => self.code.jump_if(Cond::Ge, width, reg, Src::Imm(bound + 1), out),
        }
        if !before && !forgotten {
            self.code.push(clear);
        }
    }

    /// By a copy, perhaps one that is a constant away.
    fn narrow_copy(&mut self, reg: Reg, bound: i32) {
        let copy = self.fresh(&[reg]);
        let (out, width) = (self.out, Width::W64);
        let apart = if self.source.chance(1, 2) { self.source.below(9) as i32 } else { 0 };
        if apart > 0 && self.source.chance(3, 4) {
            // So that the sum cannot wrap around.
            self.code.alu(AluOp::And, reg, Src::Imm(0xffff));
        }
        let narrow = if self.source.chance(1, 6) { Width::W32 } else { Width::W64 };
        self.code.push(Insn::Mov { width: narrow, dst: copy, src: Src::Reg(reg) });
        self.put(copy, What::Number);
        if apart > 0 {
            self.code.add(if self.source.chance(1, 2) { copy } else { reg }, apart);
            self.code.jump_if(Cond::Gt, width, copy, Src::Imm(bound), out);
            if self.source.chance(1, 2) {
                self.code.jump_if(Cond::Gt, width, reg, Src::Imm(bound), out);
            }
            return;
        }
        self.code.jump_if(Cond::Gt, self.source.pick(&[width, width, Width::W32]), copy, Src::Imm(bound), out);
    }

    /// Through the stack: what is known of one copy is known of the other, as far as it was stored.
    fn narrow_spilled(&mut self, reg: Reg, bound: i32) {
        let (slot, other) = (self.source.below(super::writer::SLOTS as u32) as usize, self.fresh(&[reg]));
        let out = self.out;
        let stored = self.source.pick(&[Size::DW, Size::DW, Size::W, Size::H]);
        let loaded = if self.source.chance(3, 4) { stored } else { self.source.pick(&SIZES) };
        self.code.store(stored, Reg::FP, slot_offset(slot), Src::Reg(reg));
        if loaded > stored && self.holds.slots[slot] != What::Number {
            self.code.store(Size::DW, Reg::FP, slot_offset(slot), Src::Reg(reg));
        }
        self.holds.slots[slot] = What::Number;
        self.code.load(loaded, other, Reg::FP, slot_offset(slot));
        self.put(other, What::Number);
        if self.source.chance(1, 2) {
            self.code.jump_if(Cond::Gt, Width::W64, other, Src::Imm(bound), out);
            if self.source.chance(1, 2) {
                self.code.copy(reg, other);
            }
        } else {
            self.code.jump_if(Cond::Gt, Width::W64, reg, Src::Imm(bound), out);
            self.code.load(stored, reg, Reg::FP, slot_offset(slot));
        }
    }

    /// A wide bound first, then another in another width.
    fn narrow_twice(&mut self, reg: Reg, bound: i32) {
        let out = self.out;
        match self.source.below(3) {
            0 => self.code.jump_if(Cond::Sgt, Width::W64, reg, Src::Imm(bound), out),
            1 => self.code.jump_if(Cond::Gt, Width::W32, reg, Src::Imm(bound), out),
            _ => self.code.alu(AluOp::Rsh, reg, Src::Imm(self.source.below(33) as i32)),
        }
        if self.source.chance(1, 2) {
            self.operate_softly(reg);
        }
        self.code.jump_if(Cond::Gt, Width::W64, reg, Src::Imm(bound), out);
    }

    /// Two small numbers, together small enough.
    fn narrow_sum(&mut self, reg: Reg, bound: i32) {
        let other = self.own_number(&[reg]);
        let half = ((bound / 2 + 1) as u32).ilog2();
        let mask = (1i32 << half) - 1;
        self.code.alu(AluOp::And, reg, Src::Imm(mask));
        self.code.alu(AluOp::And, other, Src::Imm(mask));
        let op = self.source.pick(&[AluOp::Add, AluOp::Or, AluOp::Xor, AluOp::And]);
        self.code.alu(op, reg, Src::Reg(other));
    }

    fn operate_softly(&mut self, reg: Reg) {
        let op =
            self.source.pick(&[AluOp::Add, AluOp::Xor, AluOp::Or, AluOp::Mul, AluOp::Div, AluOp::Arsh, AluOp::Sub]);
        let imm = self.source.between(1, 5) as i32;
        self.code.push(Insn::Alu { op, width: self.source.pick(&WIDTHS), dst: reg, src: Src::Imm(imm) });
    }
}
