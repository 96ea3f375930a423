//! The walk over a program: which `emit_*` each instruction goes to, and what is collected on the way.

use std::ops::Range;

use super::code::{Code, FrameInfo, PokeSite, Reloc, RelocKind, Symbol};
use super::frame::{self, Frame};
use super::options::{JitError, Options};
use super::plan::{self, CallKind, Plan};
use super::x64::layout::LIMIT;
use super::x64::{Asm, Gpr, Label, Laid, Pos};
use crate::context::{Packet, describe_kind};
use crate::helper::kfunc;
use crate::insn::{AluOp, Imm64, Insn, Pc, Reg, Src};
use crate::link::{MapId, Program};
use crate::verify::{Facts, TailCall};

/// The native register of each BPF register.
pub(super) const fn gpr(r: Reg) -> Gpr {
    /// Those after R10 are no registers; with them no index is out of bounds.
    const MAP: [Gpr; 16] = {
        use Gpr::{R8, R13, R14, R15, Rax, Rbp, Rbx, Rcx, Rdi, Rdx, Rsi};
        [Rax, Rdi, Rsi, Rdx, Rcx, R8, Rbx, R13, R14, R15, Rbp, Rbp, Rbp, Rbp, Rbp, Rbp]
    };
    MAP[r.index() & 15]
}

/// Functions begin at multiples of this.
const FUNCTION_ALIGN: u8 = 16;

/// A [`PokeSite`] whose place is not final.
pub(super) struct Site {
    pub map: MapId,
    pub index: u32,
    pub pc: Pc,
    pub bypass: Pos,
    pub target: Pos,
}

/// State of one compilation.
pub(super) struct Emitter<'a> {
    pub asm: Asm,
    pub program: &'a Program,
    pub facts: &'a Facts,
    pub options: &'a Options,
    pub plan: Plan,
    /// Of the function being emitted.
    pub frame: Frame,
    /// The slots of the function being emitted.
    span: Range<Pc>,
    /// The epilogue that several exits of the function being emitted share.
    pub shared_epilogue: Option<Label>,
    /// Where the function being emitted returns 0.
    pub return_zero: Option<Label>,
    relocs: Vec<(Pos, RelocKind, Symbol)>,
    sites: Vec<Site>,
    /// Where each instruction's code begins: [`Pos::order`], which the layout turns into offsets.
    lines: Vec<(u32, Pc)>,
    /// Constants hidden so far.
    pub blinded: u64,
}

impl<'a> Emitter<'a> {
    /// Plans the whole program. Label `pc` is the instruction at `pc`, the labels after those are the functions'.
    pub(super) fn new(program: &'a Program, facts: &'a Facts, options: &'a Options) -> Result<Self, JitError> {
        let plan = Plan::new(program, facts, options)?;
        let insns = program.insns.len();
        let asm = Asm::with_capacity(insns as usize * 6 + 64, insns + program.subprogs.len() as u32);
        Ok(Emitter {
            asm,
            program,
            facts,
            options,
            plan,
            frame: Frame::default(),
            span: Pc(0)..Pc(0),
            shared_epilogue: None,
            return_zero: None,
            relocs: Vec::new(),
            sites: Vec::new(),
            lines: Vec::with_capacity(insns as usize),
            blinded: 0,
        })
    }

    /// The label of a function's entry.
    pub(super) fn function_label(&self, func: usize) -> Label {
        Label(self.program.insns.len() + func as u32)
    }
    /// Notes that the field at `at` depends on `symbol`.
    pub(super) fn reloc(&mut self, at: Pos, kind: RelocKind, symbol: Symbol) {
        self.relocs.push((at, kind, symbol));
    }
    pub(super) fn site(&mut self, site: Site) {
        self.sites.push(site);
    }
    /// The instruction after the one at `pc`, where both can be compiled as one: it is no jump's target.
    pub(super) fn partner(&self, pc: Pc, insn: &Insn) -> Option<&'a Insn> {
        let next = Pc(pc.0 + insn.slots());
        self.program.insns.get_ref(next).filter(|_| !self.plan.is_special(next))
    }

    /// The instruction before the one at `pc`, which is being emitted, where that one was emitted alone and nothing else leads here.
    pub(super) fn emitted_before(&self, pc: Pc) -> Option<&'a Insn> {
        let [.., (_, before), _] = self.lines.as_slice() else { return None };
        let insn = self.program.insns.get_ref(*before)?;
        (before.0 + insn.slots() == pc.0 && !self.plan.is_target(pc)).then_some(insn)
    }

    /// Emits everything and puts it in its place.
    pub(super) fn run(mut self) -> Result<Code, JitError> {
        let mut tail_entry = None;
        let mut spans = Vec::with_capacity(self.program.subprogs.len());
        for func in 0..self.program.subprogs.len() {
            let start = &self.program.subprogs[func].start;
            self.frame = Frame::new(&self.plan.needs[func]);
            if !self.facts.reached(*start) || !self.plan.is_needed(func) {
                spans.push((self.asm.pos(), self.asm.pos(), 0));
                continue;
            }
            if func != 0 {
                self.asm.align(FUNCTION_ALIGN, 0);
            }
            let begin = self.asm.pos();
            let tail = self.emit_prologue(self.function_label(func), func == 0);
            tail_entry.get_or_insert(tail);
            self.emit_function(func).map_err(|error| *error)?;
            spans.push((begin, self.asm.pos(), self.frame.native_stack()));
            if self.asm.pos().is_beyond(LIMIT) {
                return Err(JitError::TooLarge { limit: LIMIT });
            }
        }
        self.finish(&spans, tail_entry)
    }

    /// Errors of single instructions are boxed: where there is none, that is a register and not a place in memory.
    fn emit_function(&mut self, func: usize) -> Result<(), Box<JitError>> {
        let (start, end) = (self.program.subprogs[func].start, self.program.subprogs[func].end);
        (self.span, self.shared_epilogue, self.return_zero) = (start..end, None, None);
        let mut pc = start;
        // The last instruction emitted, if there is one in front of `pc`.
        let mut last: Option<Pc> = None;
        while pc < end {
            let Some(insn) = self.program.insns.get_ref(pc) else {
                pc = pc.next();
                continue;
            };
            if self.plan.is_special(pc) {
                if self.plan.is_dead(pc) {
                    if self.is_open(last.take()) {
                        // Verification has shown that nothing gets here.
                        self.asm.ud2();
                    }
                    pc = Pc(pc.0 + insn.slots());
                    continue;
                }
                if let Some(align) = self.plan.loop_alignment(pc) {
                    self.asm.align(align, 0);
                }
                if self.plan.is_target(pc) {
                    self.asm.bind(Label(pc.0));
                }
                if self.plan.is_unused(pc) {
                    last = Some(pc);
                    pc = Pc(pc.0 + insn.slots());
                    continue;
                }
            }
            last = Some(pc);
            pc = self.emit_at(pc, insn)?;
        }
        if let Some(pc) = last
            && self.is_open(last)
        {
            return Err(Box::new(JitError::FallsOff { pc, func: self.program.subprogs[func].name.clone() }));
        }
        self.emit_return_zero();
        Ok(())
    }

    /// Whether control can run on from behind an instruction.
    fn is_open(&self, pc: Option<Pc>) -> bool {
        let insn = pc.and_then(|pc| Some((pc, self.program.insns.get_ref(pc)?)));
        insn.is_some_and(|(pc, insn)| plan::falls_through(self.facts, pc, insn))
    }

    /// Emits the instruction at `pc`, with those after it that become one with it; returns where to go on.
    #[inline(always)]
    fn emit_at(&mut self, pc: Pc, insn: &'a Insn) -> Result<Pc, Box<JitError>> {
        self.lines.push((self.asm.pos().order(), pc));
        if begins_pair(insn) {
            let slots = self.emit_joined(pc, insn);
            if slots > 0 {
                return Ok(Pc(pc.0 + slots));
            }
        }
        self.emit_insn(pc, insn)?;
        Ok(Pc(pc.0 + insn.slots()))
    }

    /// Emits the instructions of another function in this one: plain ones, that nothing leads into the middle of.
    pub(super) fn emit_body(&mut self, body: Range<Pc>) -> Result<(), Box<JitError>> {
        let mut pc = body.start;
        while pc < body.end {
            let Some(insn) = self.program.insns.get_ref(pc) else { break };
            pc = match self.plan.is_unused(pc) {
                true => Pc(pc.0 + insn.slots()),
                false => self.emit_at(pc, insn)?,
            };
        }
        Ok(())
    }

    /// Emits an instruction together with those after it where all make one; returns how many slots that took, or 0.
    #[inline(always)]
    fn emit_joined(&mut self, pc: Pc, insn: &'a Insn) -> u32 {
        match self.partner(pc, insn) {
            Some(next) if may_join(insn, next) => self.emit_pair(pc, insn, next),
            _ => 0,
        }
    }

    /// The same of two in a row that can be the first of what makes one.
    fn emit_pair(&mut self, pc: Pc, insn: &'a Insn, next: &'a Insn) -> u32 {
        if self.blinds() {
            return 0;
        }
        let pair = |fused: bool| if fused { insn.slots() + next.slots() } else { 0 };
        match (*insn, *next) {
            (Insn::Load { .. }, Insn::Endian { .. }) => pair(self.emit_load_swapped(pc, insn, next)),
            (Insn::Load { .. }, _) => self.emit_joined_load(pc, insn, next),
            (Insn::LoadImm64 { .. }, _) => self.emit_constant_load(pc, insn, next),
            (Insn::Mov { .. }, Insn::Alu { op: AluOp::Lsh | AluOp::Rsh, .. }) => self.emit_rotate(pc, insn, next),
            (Insn::Mov { .. }, _) => match self.emit_indexed_load(pc, insn, next) {
                0 => pair(self.emit_mov_add(insn, next)),
                slots => slots,
            },
            (Insn::Alu { op: AluOp::Lsh, .. }, _) => pair(self.emit_shift_pair(insn, next)),
            (Insn::Alu { .. }, _) => self.emit_indexed_load(pc, insn, next),
            _ => 0,
        }
    }

    /// The one match over all instructions.
    #[inline(always)]
    fn emit_insn(&mut self, pc: Pc, insn: &Insn) -> Result<(), Box<JitError>> {
        match *insn {
            Insn::Alu { op, width, dst, src } => self.emit_alu(op, width, dst, src),
            Insn::Neg { width, dst } => self.emit_neg(width, dst),
            Insn::Mov { width, dst, src } => self.emit_mov(width, dst, src),
            Insn::MovSx { width, from, dst, src } => self.emit_movsx(width, from, dst, src),
            Insn::Endian { op, size, dst } => self.emit_endian(op, size, dst),
            Insn::LoadImm64 { dst, value } => self.emit_ld_imm64(pc, dst, value)?,
            Insn::Load { size, dst, base, off } | Insn::LoadAcquire { size, dst, base, off } => {
                self.emit_ldx(pc, size, dst, base, off);
            }
            Insn::LoadSx { size, dst, base, off } => self.emit_ldsx(pc, size, dst, base, off),
            Insn::Store { size, base, off, src } => self.emit_stx(pc, size, base, off, src),
            Insn::StoreRelease { size, base, off, src } => {
                self.emit_stx(pc, size, base, off, Src::Reg(src));
            }
            Insn::Atomic { op, width, base, off, src } => self.emit_atomic(op, width, base, off, src),
            Insn::LoadAbs { size, off } => self.emit_ld_abs(size, off),
            Insn::LoadInd { size, src, off } => self.emit_ld_ind(size, src, off),
            Insn::Ja { .. } | Insn::JaL { .. } => self.emit_ja(pc, insn)?,
            Insn::MayGoto { .. } => self.emit_may_goto(pc, insn)?,
            Insn::Jmp { cond, width, dst, src, .. } => self.emit_cond_jmp(pc, insn, cond, width, dst, src)?,
            Insn::Call { helper } => self.emit_helper_call(pc, helper)?,
            Insn::CallSubprog { off } => self.emit_call_subprog(pc, off)?,
            Insn::CallKfunc { btf_id, .. } => match self.program.kfunc(btf_id).and_then(kfunc::by_name) {
                Some(kfunc) => {
                    let desc = describe_kind(&self.program.kind);
                    self.emit_call(kfunc.function(desc.is_some_and(|d| d.packet == Packet::Write)));
                }
                None => return Err(JitError::Unsupported { pc, what: "a call of a kernel function" }.into()),
            },
            Insn::CallX { .. } => {
                return Err(JitError::Unsupported { pc, what: "a call through a register" }.into());
            }
            Insn::Exit => self.emit_exit(),
        }
        Ok(())
    }

    fn emit_helper_call(&mut self, pc: Pc, helper: u32) -> Result<(), JitError> {
        match plan::call_kind(self.program, self.facts, pc, helper) {
            CallKind::TailCall(TailCall::Direct { map, index }) => {
                let max_entries = self.map(pc, map.0.into())?.1.max_entries;
                if index >= max_entries {
                    // It fails always: no code, unless that is counted.
                    self.emit_missed_outside(map);
                } else if self.options.patches(map) {
                    self.emit_bpf_tail_call_direct(pc, map, index);
                } else {
                    self.emit_bpf_tail_call_slot(map, index);
                }
            }
            CallKind::TailCall(TailCall::Indirect { map }) => {
                let max_entries = self.map(pc, map.0.into())?.1.max_entries;
                self.emit_bpf_tail_call_indirect(map, max_entries);
            }
            CallKind::TailCall(TailCall::Dynamic) => self.emit_bpf_tail_call_dynamic(),
            CallKind::ArrayLookup(map) => {
                let def = self.map(pc, map.0.into())?.1;
                self.emit_array_map_lookup(map, def);
            }
            CallKind::ArrayElement { map, offset } => {
                let def = self.map(pc, map.0.into())?.1;
                self.emit_array_element(map, def, offset);
            }
            CallKind::ArrayOfMapsLookup(map) => {
                let def = self.map(pc, map.0.into())?.1;
                self.emit_array_of_maps_lookup(map, def);
            }
            CallKind::InnerArrayLookup(map) => {
                let def = self.program.find_map(map);
                let have = self.program.maps.len();
                self.emit_inner_array_lookup(def.ok_or(JitError::BadMap { pc, map: map.0.into(), have })?);
            }
            CallKind::HashLookup { helper, per_cpu } => {
                if per_cpu {
                    self.emit_cpu(gpr(Reg::R3));
                }
                self.emit_call(helper);
            }
            CallKind::Cpu => self.emit_cpu(Gpr::Rax),
            CallKind::Redirect => self.emit_redirect(),
            CallKind::RedirectMap(map) => {
                let def = self.map(pc, map.0.into())?.1;
                self.emit_redirect_map(map, def);
            }
            CallKind::Native => self.emit_call(helper),
        }
        Ok(())
    }

    /// A map by number, as found at `pc`.
    pub(super) fn map(&self, pc: Pc, map: i64) -> Result<(MapId, &'a crate::object::MapDef), JitError> {
        usize::try_from(map)
            .ok()
            .and_then(|i| self.program.maps.get(i))
            .map(|def| (MapId(map as u32), &**def))
            .ok_or(JitError::BadMap { pc, map, have: self.program.maps.len() })
    }

    /// The label of the instruction that the jump at `pc` leads to.
    pub(super) fn target(&self, pc: Pc, off: i32) -> Result<Label, JitError> {
        pc.jump(off)
            .filter(|t| self.span.contains(t) && self.program.insns.get_ref(*t).is_some() && self.facts.reached(*t))
            .map(|t| Label(t.0))
            .ok_or(JitError::BadJump { pc, target: i64::from(pc.0) + 1 + i64::from(off) })
    }

    fn finish(mut self, spans: &[(Pos, Pos, u32)], tail_entry: Option<Pos>) -> Result<Code, JitError> {
        let main = self.function_label(0);
        let laid = self.asm.finish().map_err(|_| JitError::TooLarge { limit: LIMIT })?;
        let mut frames: Vec<FrameInfo> = spans
            .iter()
            .map(|(start, end, native_stack)| FrameInfo {
                start: laid.offset(*start),
                end: laid.offset(*end),
                native_stack: *native_stack,
                ..FrameInfo::default()
            })
            .collect();
        frame::chains(&mut frames, &self.plan.calls)
            .map_err(|f| JitError::Recursion { func: self.program.subprogs[f].name.clone() })?;
        laid.settle(&mut self.lines);
        let relocs =
            self.relocs.iter().map(|(at, kind, symbol)| Reloc { at: laid.offset(*at), kind: *kind, symbol: *symbol });
        Ok(Code {
            relocs: relocs.collect(),
            sites: self.sites.iter().map(|s| s.place(&laid)).collect(),
            entry: laid.label(main).unwrap_or(0),
            tail_entry: tail_entry.map_or(0, |t| laid.offset(t)),
            frames,
            lines: self.lines,
            bytes: laid.bytes,
        })
    }
}

/// Whether the instruction can be one with those after it. Asked of each, so that others do not pay for the search.
#[inline(always)]
fn begins_pair(insn: &Insn) -> bool {
    match *insn {
        Insn::Mov { src, .. } => matches!(src, Src::Reg(_)),
        Insn::Alu { op, src, .. } => matches!((op, src), (AluOp::Lsh, Src::Imm(_)) | (AluOp::Add, Src::Reg(_))),
        Insn::Load { .. } => true,
        Insn::LoadImm64 { value, .. } => matches!(value, Imm64::MapIdxValue { .. }),
        _ => false,
    }
}

/// Whether an instruction that [`begins_pair`] can be one with the next, by what the two compute on; asked for the same reason.
#[inline(always)]
fn may_join(first: &Insn, second: &Insn) -> bool {
    match (first, second) {
        (Insn::Load { dst, .. }, Insn::Alu { op, dst: on, .. }) => *op == AluOp::Lsh && on == dst,
        (Insn::Load { .. }, _) => matches!(second, Insn::Load { .. } | Insn::Endian { .. }),
        (Insn::Mov { dst, .. }, _) => matches!(second, Insn::Alu { dst: on, .. } if on == dst),
        (Insn::Alu { op: AluOp::Lsh, dst, .. }, _) => matches!(second, Insn::Alu { dst: on, .. } if on == dst),
        (Insn::Alu { dst, .. }, _) => matches!(second, Insn::Load { base, .. } if base == dst),
        _ => true,
    }
}

impl Site {
    fn place(&self, laid: &Laid) -> PokeSite {
        let (bypass, target) = (laid.offset(self.bypass), laid.offset(self.target));
        PokeSite { map: self.map, index: self.index, pc: self.pc, bypass, target }
    }
}
