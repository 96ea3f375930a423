//! One function: prologue, statements, epilogue, and what every kind of statement needs.

use livebpf::insn::{AluOp, Cond, EndianOp, Imm64, Insn, Insns, Pc, Reg, Size, Src, Width};

use super::Shape;
use super::code::{Code, Label};
use super::env::{Env, Param};
use super::state::{Kind, NUMBER, State};
use crate::single::WIDTHS;
use crate::{Source, corners, straight};

/// The register that holds the context throughout.
pub(super) const CTX: Reg = Reg::R6;

/// A finished function.
pub(super) struct Body {
    pub insns: Insns,
    /// Calls: where, and of which function (0 is main).
    pub calls: Vec<(Pc, usize)>,
    pub changes_packet: bool,
    pub mistakes: u32,
}

/// A function while it is written.
pub(super) struct Func<'f, 's> {
    pub source: &'f mut Source<'s>,
    pub shape: &'f Shape,
    pub env: &'f Env,
    /// Its number: 0 is main.
    pub index: usize,
    pub code: Code,
    pub state: State,
    pub changes_packet: bool,
    pub mistakes: u32,
    left: u32,
    bail_out: Option<Label>,
}

impl<'f, 's> Func<'f, 's> {
    pub(super) fn generate(source: &'f mut Source<'s>, shape: &'f Shape, env: &'f Env, index: usize) -> Body {
        let slots = source.between(1, shape.stack_slots.clamp(1, 60)) as usize;
        let most = shape.statements.clamp(1, 1000);
        let left = source.between(most.div_ceil(3), most);
        let state = State::new(slots);
        let mut func = Func {
            source,
            shape,
            env,
            index,
            code: Code::default(),
            state,
            changes_packet: false,
            mistakes: 0,
            left,
            bail_out: None,
        };
        func.prologue();
        func.block(u32::MAX, 0);
        func.epilogue();
        let (insns, calls) = func.code.finish();
        Body { insns, calls, changes_packet: func.changes_packet, mistakes: func.mistakes }
    }

    fn prologue(&mut self) {
        self.code.copy(CTX, Reg::R1);
        self.state.set(CTX, Kind::Ctx);
        self.state.set(Reg::R1, Kind::Ctx);
        self.state.lock(CTX);
        let env = self.env;
        if let Some(signature) = self.index.checked_sub(1).and_then(|i| env.subprograms.get(i)) {
            for (reg, param) in Reg::ALL[2..].iter().zip(&signature.params) {
                let kind = match *param {
                    Param::Scalar => NUMBER,
                    Param::Buffer(size) => Kind::Buffer { size },
                };
                self.state.set(*reg, kind);
            }
        }
    }

    fn epilogue(&mut self) {
        match self.state.regs_where(Kind::is_scalar).as_slice() {
            _ if self.slip() => {}
            [] => self.code.set(Reg::R0, 0),
            scalars => {
                let result = self.source.pick(scalars);
                self.code.copy(Reg::R0, result);
            }
        }
        self.code.push(Insn::Exit);
        // Verifiers refuse code that nothing reaches.
        if let Some(bail_out) = self.bail_out {
            self.code.bind(bail_out);
            let value = self.source.below(5) as i32;
            self.code.set(Reg::R0, value);
            self.code.push(Insn::Exit);
        }
    }

    /// A label at the end that returns a constant: may be reached with any state.
    pub(super) fn bail_out(&mut self) -> Label {
        *self.bail_out.get_or_insert_with(|| self.code.label())
    }

    /// Whether to make a mistake at this opportunity; without mistakes this takes no choice from the source.
    pub(super) fn slip(&mut self) -> bool {
        let slip = self.shape.mistakes > 0 && self.source.chance(self.shape.mistakes, 1000);
        self.mistakes += u32::from(slip);
        slip
    }

    /// Up to `count` statements, nested `depth` deep.
    pub(super) fn block(&mut self, count: u32, depth: u32) {
        for _ in 0..count {
            if self.left == 0 {
                return;
            }
            self.left -= 1;
            self.statement(depth);
        }
    }

    fn statement(&mut self, depth: u32) {
        if self.slip() {
            self.blunder();
        }
        let nested = depth < self.shape.depth;
        match self.source.below(100) {
            0..=15 => self.arithmetic(),
            16..=20 => self.fresh_number(),
            21..=24 => self.copy_register(),
            25..=31 => self.stack_store(),
            32..=37 => self.stack_load(),
            38..=43 => self.context_access(),
            44..=49 => self.pointer_access(),
            50..=59 if nested => self.packet_check(depth),
            60..=68 if nested => self.map_lookup(depth),
            69..=72 => self.map_change(),
            73..=79 if nested => self.branch(depth),
            80..=83 if nested => self.bounded_loop(depth),
            84..=89 => self.call_subprogram(),
            90..=94 => self.tail_call(),
            95..=96 if self.shape.legacy && self.source.chance(1, 2) => self.legacy_load(),
            95..=96 => self.helper(),
            97 => self.global_data(),
            _ => self.arithmetic(),
        }
    }

    /// A register that may be overwritten, by a number or (`number` false) by a pointer too. R0 to R5 always may.
    pub(super) fn target(&mut self, number: bool, avoid: &[Reg]) -> Reg {
        let free = |reg: &Reg| self.state.may_write(*reg, number) && !avoid.contains(reg);
        let targets: Vec<Reg> = Reg::ALL[..10].iter().copied().filter(free).collect();
        self.source.pick(&targets)
    }

    /// A register that holds a number; sets one when there is none.
    pub(super) fn scalar(&mut self, avoid: &[Reg]) -> Reg {
        let mut scalars = self.state.regs_where(Kind::is_scalar);
        scalars.retain(|reg| !avoid.contains(reg));
        if !scalars.is_empty() {
            return self.source.pick(&scalars);
        }
        let dst = self.target(true, avoid);
        let value = corners::i32(self.source);
        self.code.set(dst, value);
        self.state.set(dst, NUMBER);
        dst
    }

    /// The same, and it may be overwritten.
    pub(super) fn writable_scalar(&mut self, avoid: &[Reg]) -> Reg {
        let mut scalars = self.state.regs_where(Kind::is_scalar);
        scalars.retain(|&reg| self.state.may_write(reg, true) && !avoid.contains(&reg));
        if !scalars.is_empty() {
            return self.source.pick(&scalars);
        }
        let dst = self.target(true, avoid);
        let value = corners::i32(self.source);
        self.code.set(dst, value);
        self.state.set(dst, NUMBER);
        dst
    }

    /// A number or an immediate.
    pub(super) fn scalar_or_imm(&mut self, avoid: &[Reg]) -> Src {
        if self.source.chance(1, 2) { Src::Reg(self.scalar(avoid)) } else { Src::Imm(corners::i32(self.source)) }
    }

    /// A register that holds a number from 0 to `max`, made so by a mask, a shift or a comparison.
    pub(super) fn bounded(&mut self, max: u32, avoid: &[Reg]) -> Reg {
        let small = |kind| matches!(kind, Kind::Scalar { max: Some(known) } if known <= max);
        let mut known = self.state.regs_where(small);
        known.retain(|reg| !avoid.contains(reg));
        if !known.is_empty() && self.source.chance(1, 3) {
            return self.source.pick(&known);
        }
        let from = self.scalar(avoid);
        let dst = self.target(true, avoid);
        self.code.copy(dst, from);
        let limit = if self.slip() { max.saturating_mul(2).saturating_add(1) } else { max } as i32;
        let is_mask = max & max.wrapping_add(1) == 0;
        match self.source.below(4) {
            0 | 1 if is_mask => self.code.alu(AluOp::And, dst, Src::Imm(limit)),
            2 if is_mask && limit > 0 => self.code.alu(AluOp::Rsh, dst, Src::Imm(limit.leading_zeros() as i32 + 32)),
            _ => {
                let fits = self.code.label();
                self.code.jump_if(Cond::Le, Width::W64, dst, Src::Imm(limit), fits);
                self.code.set(dst, 0);
                self.code.bind(fits);
            }
        }
        self.state.set(dst, Kind::Scalar { max: Some(max) });
        dst
    }

    fn arithmetic(&mut self) {
        let dst = self.writable_scalar(&[]);
        let width = self.source.pick(&WIDTHS);
        let insn = match self.source.below(12) {
            0 => Insn::Neg { width, dst },
            1 => {
                let size = self.source.pick(&[Size::H, Size::W, Size::DW]);
                Insn::Endian { op: self.source.pick(&[EndianOp::ToBe, EndianOp::ToLe, EndianOp::Swap]), size, dst }
            }
            2 => {
                let src = self.scalar(&[]);
                Insn::MovSx { width, from: self.source.pick(&[Size::B, Size::H]), dst, src }
            }
            _ => {
                let op = self.source.pick(&crate::single::ALU_OPS);
                let src = match self.scalar_or_imm(&[]) {
                    Src::Imm(_) => Src::Imm(straight::immediate(self.source, op, width)),
                    reg => reg,
                };
                Insn::Alu { op, width, dst, src }
            }
        };
        self.code.push(insn);
        self.state.set(dst, Kind::Scalar { max: bound_after(&insn) });
    }

    fn fresh_number(&mut self) {
        let dst = self.target(true, &[]);
        if self.source.chance(1, 3) {
            let value = Imm64::Const(corners::u64(self.source));
            self.code.push(Insn::LoadImm64 { dst, value });
            self.state.set(dst, NUMBER);
        } else {
            let value = corners::i32(self.source);
            self.code.set(dst, value);
            self.state.set(dst, Kind::Scalar { max: u32::try_from(value).ok() });
        }
    }

    fn copy_register(&mut self) {
        let usable = self.state.regs_where(Kind::is_usable);
        let src = self.source.pick(&usable);
        let kind = self.state.get(src);
        let dst = self.target(kind.is_scalar(), &[]);
        self.code.copy(dst, src);
        self.state.set(dst, kind);
    }
}

/// The bound that an instruction gives its result.
fn bound_after(insn: &Insn) -> Option<u32> {
    let Insn::Alu { op, src: Src::Imm(imm), .. } = *insn else { return None };
    let imm = u32::try_from(imm).ok()?;
    (op == AluOp::And).then_some(imm)
}
