//! Entering and leaving a function.

use super::emit::Emitter;
use super::x64::{Alu, Cc, Gpr, Label, Mem, Pos, Size};

/// How often a function's may_goto instructions let a loop go on, taken together (the kernel's `BPF_MAX_LOOPS`).
pub const MAX_LOOPS: i32 = crate::helper::MAX_LOOPS as i32;

/// Up to this many bytes, an epilogue is repeated at every exit; a longer one is shared.
const INLINE_EPILOGUE: u32 = 5;

impl Emitter<'_> {
    /// Binds `entry`, and answers where tail calls enter.
    ///
    /// ```text
    /// entry:       push rbp
    ///              mov  rbp, rsp
    /// tail entry:  sub  rsp, frame          omitted when 0
    ///              push rbx, r13, r14, r15  those used
    ///              lea  r10, [rbp-n]        where stack is read that was not written
    ///         loop: mov  qword [r10], 0
    ///              add  r10, 8
    ///              cmp  r10, rbp
    ///              jb   loop
    ///              mov  qword [rbp-n], 8388608   with may_goto
    /// ```
    ///
    /// Where rbp stays the caller's:
    ///
    /// ```text
    /// tail entry:  pop  rbp                 in the function that programs begin with
    /// entry:       push rax                 where that aligns rsp for calls
    ///              push rbx, r13, r14, r15  those used
    /// ```
    pub(super) fn emit_prologue(&mut self, entry: Label, is_main: bool) -> Pos {
        let frame = self.frame;
        if !frame.rbp {
            let tail_entry = self.asm.pos();
            if is_main {
                self.asm.pop(Gpr::Rbp);
            }
            self.asm.bind(entry);
            if frame.padded {
                self.asm.push(Gpr::Rax);
            }
            frame.pushed().for_each(|r| self.asm.push(r));
            return tail_entry;
        }
        self.asm.bind(entry);
        self.asm.push(Gpr::Rbp);
        self.asm.mov_rr(Size::Q, Gpr::Rbp, Gpr::Rsp);
        let tail_entry = self.asm.pos();
        match frame.bytes {
            0 => {}
            128 => self.asm.alu_ri(Alu::Add, Size::Q, Gpr::Rsp, -128),
            n => self.asm.alu_ri(Alu::Sub, Size::Q, Gpr::Rsp, n as i32),
        }
        for r in frame.pushed() {
            self.asm.push(r);
        }
        if frame.zeroed > 0 {
            self.emit_clear_stack(frame.zeroed);
        }
        if let Some(off) = frame.may_goto {
            self.asm.mov_mi(Size::Q, Mem::new(Gpr::Rbp, off), MAX_LOOPS);
        }
        tail_entry
    }

    /// Clears `bytes` below rbp; R0 to R9 stay.
    fn emit_clear_stack(&mut self, bytes: u32) {
        let again = self.asm.new_label();
        self.asm.lea(Size::Q, Gpr::R10, Mem::new(Gpr::Rbp, -(bytes as i32)));
        self.asm.bind(again);
        self.asm.mov_mi(Size::Q, Mem::new(Gpr::R10, 0), 0);
        self.asm.alu_ri(Alu::Add, Size::Q, Gpr::R10, 8);
        self.asm.alu_rr(Alu::Cmp, Size::Q, Gpr::R10, Gpr::Rbp);
        self.asm.jcc(Cc::B, again);
    }

    /// ```text
    /// pop r15, r14, r13, rbx    those used
    /// leave                     where rbp is the caller's: pop rcx, or nothing
    /// ret
    /// ```
    pub(super) fn emit_epilogue(&mut self) {
        self.emit_pop_callee_regs();
        if self.frame.rbp {
            self.asm.leave();
        } else if self.frame.padded {
            self.asm.pop(Gpr::Rcx);
        }
        self.asm.ret();
    }

    /// Pops the used callee-saved registers. Then rsp is rbp − frame.
    pub(super) fn emit_pop_callee_regs(&mut self) {
        for r in self.frame.pushed().rev() {
            self.asm.pop(r);
        }
    }

    /// `exit`: the epilogue, or a jump to the one that the function's exits share where it is long.
    pub(super) fn emit_exit(&mut self) {
        let size: u32 = 2 + self.frame.pushed().map(|r| if r == Gpr::Rbx { 1 } else { 2 }).sum::<u32>();
        match self.shared_epilogue {
            Some(label) if size > INLINE_EPILOGUE => self.asm.jmp(label),
            _ => {
                if self.shared_epilogue.is_none() {
                    let label = self.asm.new_label();
                    self.asm.bind(label);
                    self.shared_epilogue = Some(label);
                }
                self.emit_epilogue();
            }
        }
    }

    /// Behind the function, where a legacy packet load that is out of bounds leads: `xor eax, eax` and the epilogue.
    pub(super) fn emit_return_zero(&mut self) {
        if let Some(label) = self.return_zero {
            self.asm.bind(label);
            self.asm.alu_rr(Alu::Xor, Size::D, Gpr::Rax, Gpr::Rax);
            self.emit_exit();
        }
    }
}
