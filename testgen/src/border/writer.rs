//! One function while it is written: what registers and stack slots hold, by kind, and the main loop.

use livebpf::insn::{Cond, Insn, Insns, Pc, Reg, Size, Src, Width};
use livebpf::object::ProgType;

use super::{Border, Env, Param};
use crate::structured::code::{Code, Label};
use crate::{Source, corners};

/// The register that holds the context where the function has one.
pub(super) const CTX: Reg = Reg::R6;
/// Stack slots of eight bytes.
pub(super) const SLOTS: usize = 8;

/// What a register or slot holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum What {
    Nothing,
    Number,
    Ctx,
    /// So many bytes of packet.
    Packet(u32),
    /// So many bytes of a map's value or of memory that the caller gave.
    Memory(u32),
}

impl What {
    pub(super) fn bytes(self) -> u32 {
        match self {
            What::Packet(n) | What::Memory(n) => n,
            What::Nothing | What::Number | What::Ctx => 0,
        }
    }
}

/// What everything holds at one place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Holds {
    pub regs: [What; 10],
    pub slots: [What; SLOTS],
}

impl Holds {
    /// After a join.
    pub(super) fn meet(&mut self, other: &Holds) {
        let both = |a: &mut What, b: &What| {
            if a != b {
                *a = match (*a, *b) {
                    (What::Packet(x), What::Packet(y)) => What::Packet(x.min(y)),
                    (What::Memory(x), What::Memory(y)) => What::Memory(x.min(y)),
                    _ => What::Nothing,
                };
            }
        };
        self.regs.iter_mut().zip(&other.regs).for_each(|(a, b)| both(a, b));
        self.slots.iter_mut().zip(&other.slots).for_each(|(a, b)| both(a, b));
    }
}

/// A finished function.
pub(super) struct Body {
    pub insns: Insns,
    pub calls: Vec<(Pc, usize)>,
}

/// A function while it is written.
pub(super) struct Writer<'w, 's> {
    pub source: &'w mut Source<'s>,
    pub border: &'w Border,
    pub env: &'w Env,
    pub index: usize,
    pub code: Code,
    pub holds: Holds,
    /// Where a check that fails goes.
    pub out: Label,
    /// Steps left.
    pub left: u32,
    /// Registers that must stay as they are (a loop's counter).
    pub fixed: Vec<Reg>,
}

impl<'w, 's> Writer<'w, 's> {
    /// Function `index` of a program, 0 being main.
    pub(super) fn function(source: &'w mut Source<'s>, border: &'w Border, env: &'w Env, index: usize) -> Body {
        let mut code = Code::default();
        let out = code.label();
        let holds = Holds { regs: [What::Nothing; 10], slots: [What::Nothing; SLOTS] };
        let most = if index == 0 { border.steps } else { border.steps / 2 };
        let left = source.between(2, most.max(2));
        let mut writer = Writer { source, border, env, index, code, holds, out, left, fixed: Vec::new() };
        writer.prologue();
        while writer.left > 0 {
            writer.step(0);
        }
        writer.epilogue();
        let (insns, calls) = writer.code.finish();
        Body { insns, calls }
    }

    fn prologue(&mut self) {
        let params = match self.index.checked_sub(1) {
            None => vec![Param::Ctx],
            Some(i) => self.env.subprograms[i].params.clone(),
        };
        let global = self.index > 0 && self.env.subprograms[self.index - 1].global;
        let mut kept = 7;
        for (i, param) in (1u8..).zip(&params) {
            let Some(reg) = Reg::new(i) else { break };
            let what = match *param {
                Param::Ctx => What::Ctx,
                Param::Number => What::Number,
                Param::Buffer(bytes) => What::Memory(bytes),
                Param::Opaque => continue,
            };
            self.put(reg, what);
            if *param == Param::Ctx {
                self.code.copy(CTX, reg);
                self.put(CTX, What::Ctx);
            } else if let Some(to) = Reg::new(kept).filter(|_| kept < 10) {
                self.code.copy(to, reg);
                self.put(to, what);
                kept += 1;
                // A global function's pointers may be null.
                if matches!(param, Param::Buffer(_)) && global && !self.slip() {
                    let out = self.out;
                    self.code.jump_if(Cond::Eq, Width::W64, to, Src::Imm(0), out);
                    self.put(reg, What::Nothing);
                }
            }
        }
        // Something on the stack, some of it not.
        for slot in 0..SLOTS {
            if self.source.chance(1, 2) {
                let src = Src::Imm(corners::i32(self.source));
                self.code.store(Size::DW, Reg::FP, slot_offset(slot), src);
                self.holds.slots[slot] = What::Number;
            }
        }
    }

    fn epilogue(&mut self) {
        let numbers = self.regs(|what| what == What::Number);
        if let Some(first) = numbers.first() {
            self.code.copy(Reg::R0, *first);
            for reg in &numbers[1..] {
                self.code.alu(livebpf::insn::AluOp::Xor, Reg::R0, Src::Reg(*reg));
            }
            let one_bit = self.index == 0 && self.env.prog_type == ProgType::CGROUP_SKB || self.is_callback();
            if one_bit && !self.slip() {
                self.code.alu(livebpf::insn::AluOp::And, Reg::R0, Src::Imm(1));
            }
        } else {
            self.code.set(Reg::R0, 0);
        }
        self.code.push(Insn::Exit);
        let out = self.out;
        self.code.bind(out);
        self.code.set(Reg::R0, 1);
        self.code.push(Insn::Exit);
    }

    fn is_callback(&self) -> bool {
        self.index.checked_sub(1).is_some_and(|i| self.env.subprograms[i].callback.is_some())
    }

    /// True where something is to be done wrong.
    pub(super) fn slip(&mut self) -> bool {
        self.border.slips > 0 && self.source.chance(self.border.slips, 1000)
    }

    pub(super) fn put(&mut self, reg: Reg, what: What) {
        if let Some(place) = self.holds.regs.get_mut(reg.index()) {
            *place = what;
        }
    }
    pub(super) fn get(&self, reg: Reg) -> What {
        self.holds.regs.get(reg.index()).copied().unwrap_or(What::Nothing)
    }
    /// Registers that hold what is `wanted`.
    pub(super) fn regs(&self, wanted: impl Fn(What) -> bool) -> Vec<Reg> {
        Reg::ALL[..10].iter().copied().filter(|reg| wanted(self.get(*reg))).collect()
    }

    /// A register to write into, none of `avoid`; never the context's.
    pub(super) fn fresh(&mut self, avoid: &[Reg]) -> Reg {
        let usable: Vec<Reg> = Reg::ALL[..10]
            .iter()
            .copied()
            .filter(|reg| *reg != CTX && !avoid.contains(reg) && !self.fixed.contains(reg))
            .collect();
        let empty: Vec<Reg> = usable.iter().copied().filter(|reg| self.get(*reg) == What::Nothing).collect();
        let from = if empty.is_empty() || self.source.chance(1, 4) { &usable } else { &empty };
        self.source.pick(from)
    }

    /// A helper or a function was called.
    pub(super) fn clobber(&mut self, result: What) {
        self.holds.regs[1..6].fill(What::Nothing);
        self.holds.regs[0] = result;
    }

    /// One step, at nesting depth `depth`.
    pub(super) fn step(&mut self, depth: u32) {
        self.left = self.left.saturating_sub(1);
        if self.slip() {
            return self.any_instruction();
        }
        match self.source.below(39) {
            0..=2 => drop(self.new_number(&[])),
            3..=7 => self.arithmetic(),
            8..=11 => self.indexed_access(),
            12 | 13 => self.packet_check(),
            14 | 15 => self.access_any(),
            16 => self.lookup(),
            17 | 18 => self.spill(),
            19 => self.fill(),
            20 if depth < 2 => self.diamond(depth),
            21 if depth < 2 => self.early_out(depth),
            22 if depth < 1 => self.counted_loop(depth),
            23 if depth < 1 => self.packet_walk(),
            24 => self.sized_helper(),
            25 => self.call_function(),
            26 => self.tail_call(),
            27 => self.atomic(),
            28 => self.context_access(),
            29 => self.move_packet(),
            30 => self.map_update(),
            32 => self.record(),
            33 => self.iterate(depth),
            34 if depth < 1 => self.perhaps_loop(),
            35 | 36 => self.call_back(),
            38 if depth < 2 && self.fixed.len() < 2 => self.late_index(depth),
            _ => self.stack_bytes(),
        }
    }

    /// An instruction without a thought, but with registers that exist.
    fn any_instruction(&mut self) {
        let insn = crate::single::any(self.source);
        let writes_fixed = |reg: Reg| reg == Reg::FP;
        match insn {
            Insn::Alu { dst, .. } | Insn::Mov { dst, .. } | Insn::Neg { dst, .. } | Insn::MovSx { dst, .. }
                if !writes_fixed(dst) =>
            {
                self.code.push(insn);
            }
            Insn::Load { size, dst, .. } if !writes_fixed(dst) => {
                let off = -(self.source.below(80) as i32);
                self.code.load(size, dst, Reg::FP, off);
            }
            _ => {
                let reg = self.source.pick(&Reg::ALL[..10]);
                self.code.copy(Reg::R0, reg);
                self.put(Reg::R0, What::Nothing);
            }
        }
    }
}

/// The offset of a slot's first byte from the frame pointer.
pub(super) fn slot_offset(slot: usize) -> i32 {
    -8 * (slot as i32 + 1)
}
