//! The machine: registers, frames, and what each instruction does to them.

use std::sync::Arc;

use super::alu;
use super::fault::{Fault, FaultKind};
use super::memory::Memory;
use super::witness::Witness;
use super::{Executable, Host, Limits, MAX_CALL_DEPTH, MAX_MAY_GOTO};
use crate::context::Context;
use crate::insn::{Imm64, Insn, Pc, Reg, Size, Src};
use crate::map::cell::Slice;

/// A caller that waits for its callee.
pub(super) struct Frame {
    exe: Arc<Executable>,
    /// `None`: a helper, which called back.
    return_to: Option<Pc>,
    /// R6 to R9.
    saved: [u64; 4],
    may_goto: u64,
    depth: u32,
}

/// One run.
pub(super) struct Machine<'a> {
    pub(super) memory: Memory<'a>,
    pub(super) host: &'a mut dyn Host,
    pub(super) regs: [u64; 11],
    /// The program that executes, and where.
    pub(super) exe: Arc<Executable>,
    pub(super) pc: Pc,
    pub(super) tail_calls: u32,
    pub(super) callers: Vec<Frame>,
    /// Passes of `may_goto` left to this activation.
    pub(super) may_goto: u64,
    /// Functions deep in this program, from 1.
    pub(super) depth: u32,
    limits: Limits,
    pub(super) witness: Witness<'a>,
    /// Instructions that may still be executed.
    left: u64,
}

/// What an instruction leads to.
pub(super) enum Next {
    /// The instruction behind it.
    Follow,
    /// Another instruction.
    Goto(Pc),
    /// The end of the run, or of a function that a helper called back.
    Done(u64),
}

impl<'a> Machine<'a> {
    pub(super) fn new(
        exe: &Arc<Executable>,
        context: Option<&'a Context>,
        regions: &'a [Slice<'a>],
        host: &'a mut dyn Host,
        limits: Limits,
    ) -> Machine<'a> {
        Machine {
            memory: Memory::new(context, regions),
            host,
            regs: [0; 11],
            exe: Arc::clone(exe),
            pc: Pc(0),
            tail_calls: 0,
            callers: Vec::new(),
            may_goto: MAX_MAY_GOTO,
            depth: 1,
            limits,
            witness: Witness::default(),
            left: limits.max_insns,
        }
    }

    pub(super) fn run(mut self, r1: u64, r2: u64) -> Result<u64, Fault> {
        self.execute(r1, r2).map_err(|kind| Fault { program: self.exe.program().name.clone(), pc: self.pc, kind })
    }

    fn execute(&mut self, r1: u64, r2: u64) -> Result<u64, FaultKind> {
        self.enter(0)?;
        self.limit_stack(0, Pc(0));
        (self.regs[1], self.regs[2]) = (r1, r2);
        self.go()
    }

    /// Executes until the innermost function that was called from outside returns.
    fn go(&mut self) -> Result<u64, FaultKind> {
        loop {
            let insns = &self.exe.program().insns;
            let insn = insns.get(self.pc).ok_or(FaultKind::BadTarget { target: self.pc.0.into() })?;
            self.left = self.left.checked_sub(1).ok_or(FaultKind::Budget { limit: self.limits.max_insns })?;
            self.compare(insn)?;
            match self.step(insn)? {
                Next::Follow => self.pc = Pc(self.pc.0 + insn.slots()),
                Next::Goto(target) => self.pc = target,
                Next::Done(result) => return Ok(result),
            }
        }
    }

    fn step(&mut self, insn: Insn) -> Result<Next, FaultKind> {
        match insn {
            Insn::Alu { op, width, dst, src } => self.set(dst, alu::alu(op, width, self.reg(dst), self.src(src))),
            Insn::Neg { width, dst } => self.set(dst, alu::neg(width, self.reg(dst))),
            Insn::Mov { width, dst, src } => self.set(dst, alu::mov(width, self.src(src))),
            Insn::MovSx { width, from, dst, src } => {
                self.set(dst, alu::mov(width, alu::sign_extend(from, self.reg(src))))
            }
            Insn::Endian { op, size, dst } => self.set(dst, alu::endian(op, size, self.reg(dst))),
            Insn::LoadImm64 { dst, value } => {
                let value = self.immediate(value)?;
                self.set(dst, value)
            }
            Insn::Load { size, dst, base, off } => {
                let value = self.memory.load(&self.exe, self.address(base, off), size, false)?;
                self.set(dst, value)
            }
            Insn::LoadSx { size, dst, base, off } => {
                let value = self.memory.load(&self.exe, self.address(base, off), size, true)?;
                self.set(dst, alu::sign_extend(size, value))
            }
            Insn::Store { size, base, off, src } => {
                self.memory.store(&self.exe, self.address(base, off), size, src, self.src(src))?;
                Ok(Next::Follow)
            }
            Insn::Atomic { op, width, base, off, src } => self.atomic(op, width, base, off, src),
            Insn::LoadAcquire { size, dst, base, off } => self.load_acquire(size, dst, base, off),
            Insn::StoreRelease { size, base, off, src } => self.store_release(size, base, off, src),
            Insn::LoadAbs { size, off } => self.legacy_load(size, off),
            Insn::LoadInd { size, src, off } => {
                let off = (self.reg(src) as u32).wrapping_add(off as u32);
                self.legacy_load(size, off as i32)
            }
            Insn::Ja { off } => self.jump(off.into()),
            Insn::JaL { off } => self.jump(off),
            Insn::MayGoto { off } => match self.may_goto.checked_sub(1) {
                Some(left) => {
                    self.may_goto = left;
                    Ok(Next::Follow)
                }
                None => self.jump(off.into()),
            },
            Insn::Jmp { cond, width, dst, src, off } => match alu::taken(cond, width, self.reg(dst), self.src(src)) {
                true => self.jump(off.into()),
                false => Ok(Next::Follow),
            },
            Insn::Call { helper } => self.call_helper(helper),
            Insn::CallSubprog { off } => self.call_subprog(off),
            Insn::CallKfunc { btf_id, .. } => self.call_kfunc(btf_id),
            Insn::CallX { .. } => Err(FaultKind::Unsupported("a call through a register")),
            Insn::Exit => Ok(self.leave(self.regs[0])),
        }
    }

    pub(super) fn reg(&self, reg: Reg) -> u64 {
        self.regs[reg.index()]
    }

    pub(super) fn src(&self, src: Src) -> u64 {
        match src {
            Src::Reg(reg) => self.reg(reg),
            Src::Imm(imm) => imm as i64 as u64,
        }
    }

    pub(super) fn set(&mut self, reg: Reg, value: u64) -> Result<Next, FaultKind> {
        if reg == Reg::FP {
            return Err(FaultKind::FramePointer { reg });
        }
        self.regs[reg.index()] = value;
        Ok(Next::Follow)
    }

    pub(super) fn address(&self, base: Reg, off: i16) -> u64 {
        self.reg(base).wrapping_add_signed(off.into())
    }

    fn jump(&self, off: i32) -> Result<Next, FaultKind> {
        let target = i64::from(self.pc.0) + 1 + i64::from(off);
        self.pc.jump(off).map(Next::Goto).ok_or(FaultKind::BadTarget { target })
    }

    fn immediate(&self, value: Imm64) -> Result<u64, FaultKind> {
        let map = |index: i32| {
            let found = usize::try_from(index).ok().and_then(|i| self.exe.maps.get(i));
            found.ok_or(FaultKind::Map { index: index.into() })
        };
        match value {
            Imm64::Const(value) => Ok(value),
            Imm64::MapIdx(index) => Ok(Arc::as_ptr(map(index)?).addr() as u64),
            Imm64::MapIdxValue { idx, off } => {
                let data = map(idx)?.data_addr().ok_or(FaultKind::Map { index: idx.into() })?;
                Ok(data.wrapping_add(off.into()))
            }
            Imm64::Func { off } => {
                let target = i64::from(self.pc.0) + 1 + i64::from(off);
                self.pc.jump(off).map(super::callback::address).ok_or(FaultKind::BadTarget { target })
            }
            Imm64::BtfId { .. } => Err(FaultKind::Unsupported("the address of a kernel variable")),
            Imm64::MapFd(fd) | Imm64::MapFdValue { fd, .. } => Err(FaultKind::Map { index: fd.into() }),
        }
    }

    fn call_subprog(&mut self, off: i32) -> Result<Next, FaultKind> {
        let target = i64::from(self.pc.0) + 1 + i64::from(off);
        let start = self.pc.jump(off).ok_or(FaultKind::BadTarget { target })?;
        self.push(start, Some(self.pc.next()))?;
        Ok(Next::Goto(start))
    }

    /// Runs the function at `target` for a helper; its R0.
    pub(super) fn call_back(&mut self, target: Pc, args: [u64; 5]) -> Result<u64, FaultKind> {
        let at = self.pc;
        self.push(target, None)?;
        self.regs[1..6].copy_from_slice(&args);
        self.pc = target;
        let result = self.go()?;
        self.pc = at;
        Ok(result)
    }

    /// Makes the innermost function wait for the one at `start`, which begins.
    fn push(&mut self, start: Pc, return_to: Option<Pc>) -> Result<(), FaultKind> {
        if self.depth >= MAX_CALL_DEPTH {
            return Err(FaultKind::CallDepth { limit: MAX_CALL_DEPTH });
        }
        let saved = [self.regs[6], self.regs[7], self.regs[8], self.regs[9]];
        let exe = Arc::clone(&self.exe);
        self.callers.push(Frame { exe, return_to, saved, may_goto: self.may_goto, depth: self.depth });
        let depth = self.depth + 1;
        self.enter(self.callers.len())?;
        self.limit_stack(self.callers.len(), start);
        self.depth = depth;
        Ok(())
    }

    /// Begins a function in frame `index`: a zero frame, and `may_goto` passes of its own.
    fn enter(&mut self, index: usize) -> Result<(), FaultKind> {
        self.regs[10] = self.memory.stacks.enter(index)?;
        self.may_goto = MAX_MAY_GOTO;
        self.depth = 1;
        Ok(())
    }

    /// Begins another program in the innermost frame.
    pub(super) fn replace(&mut self, target: Arc<Executable>) -> Result<Next, FaultKind> {
        let r1 = self.regs[1];
        self.enter(self.callers.len())?;
        self.exe = target;
        self.limit_stack(self.callers.len(), Pc(0));
        self.regs[..10].fill(0);
        self.regs[1] = r1;
        Ok(Next::Goto(Pc(0)))
    }

    /// Ends the innermost function.
    pub(super) fn leave(&mut self, result: u64) -> Next {
        let Some(caller) = self.callers.pop() else { return Next::Done(result) };
        self.regs[0] = result;
        self.regs[1..6].fill(0);
        self.regs[6..10].copy_from_slice(&caller.saved);
        self.regs[10] = self.memory.stacks.leave_to(self.callers.len());
        (self.exe, self.may_goto, self.depth) = (caller.exe, caller.may_goto, caller.depth);
        caller.return_to.map_or(Next::Done(result), Next::Goto)
    }

    /// `LD_ABS` and `LD_IND`: outside the packet the *function* ends with 0.
    fn legacy_load(&mut self, size: Size, off: i32) -> Result<Next, FaultKind> {
        let context = self.memory.context.filter(|c| c.record_addr() == self.regs[6] && !c.buffer().is_empty());
        let Some(value) = context.ok_or(FaultKind::NoPacket)?.legacy_load(off, size) else { return Ok(self.leave(0)) };
        self.regs[0] = value;
        self.regs[1..6].fill(0);
        Ok(Next::Follow)
    }
}
