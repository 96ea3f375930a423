//! Instructions with labels: what a function is written into.

use livebpf::insn::{AluOp, Cond, Imm64, Insn, Insns, Pc, Reg, Size, Src, Width};

/// A place to jump to, bound once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Label(usize);

/// One function's instructions while they are written.
#[derive(Default)]
pub(crate) struct Code {
    insns: Insns,
    labels: Vec<Option<Pc>>,
    jumps: Vec<(Pc, Label)>,
    calls: Vec<(Pc, usize)>,
}

impl Code {
    pub(crate) fn push(&mut self, insn: Insn) {
        self.insns.push(insn);
    }
    pub(crate) fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() - 1)
    }
    pub(crate) fn bind(&mut self, label: Label) {
        self.labels[label.0] = Some(Pc(self.insns.len()));
    }
    /// A new label, bound here.
    pub(crate) fn here(&mut self) -> Label {
        let label = self.label();
        self.bind(label);
        label
    }

    pub(crate) fn mov(&mut self, dst: Reg, src: Src) {
        self.push(Insn::Mov { width: Width::W64, dst, src });
    }
    pub(crate) fn copy(&mut self, dst: Reg, src: Reg) {
        self.mov(dst, Src::Reg(src));
    }
    pub(crate) fn set(&mut self, dst: Reg, imm: i32) {
        self.mov(dst, Src::Imm(imm));
    }
    pub(crate) fn alu(&mut self, op: AluOp, dst: Reg, src: Src) {
        self.push(Insn::Alu { op, width: Width::W64, dst, src });
    }
    pub(crate) fn add(&mut self, dst: Reg, imm: i32) {
        self.alu(AluOp::Add, dst, Src::Imm(imm));
    }
    pub(crate) fn load(&mut self, size: Size, dst: Reg, base: Reg, off: i32) {
        self.push(Insn::Load { size, dst, base, off: off as i16 });
    }
    pub(crate) fn store(&mut self, size: Size, base: Reg, off: i32, src: Src) {
        self.push(Insn::Store { size, base, off: off as i16, src });
    }
    pub(crate) fn map(&mut self, dst: Reg, map: usize) {
        self.push(Insn::LoadImm64 { dst, value: Imm64::MapIdx(map as i32) });
    }
    pub(crate) fn helper(&mut self, helper: u32) {
        self.push(Insn::Call { helper });
    }
    pub(crate) fn jump(&mut self, to: Label) {
        self.jumps.push((Pc(self.insns.len()), to));
        self.push(Insn::Ja { off: 0 });
    }
    pub(crate) fn jump_if(&mut self, cond: Cond, width: Width, dst: Reg, src: Src, to: Label) {
        self.jumps.push((Pc(self.insns.len()), to));
        self.push(Insn::Jmp { cond, width, dst, src, off: 0 });
    }
    pub(crate) fn may_goto(&mut self, to: Label) {
        self.jumps.push((Pc(self.insns.len()), to));
        self.push(Insn::MayGoto { off: 0 });
    }
    /// The address of the function numbered `callee`.
    pub(crate) fn function(&mut self, dst: Reg, callee: usize) {
        self.calls.push((Pc(self.insns.len()), callee));
        self.push(Insn::LoadImm64 { dst, value: Imm64::Func { off: 0 } });
    }
    /// A call of the function numbered `callee`.
    pub(crate) fn call(&mut self, callee: usize) {
        self.calls.push((Pc(self.insns.len()), callee));
        self.push(Insn::CallSubprog { off: 0 });
    }

    /// The instructions, jumps resolved, and the calls: where, and of which function.
    ///
    /// # Panics
    /// When a label is not bound or a jump is too far: a mistake in the generator.
    pub(crate) fn finish(mut self) -> (Insns, Vec<(Pc, usize)>) {
        for (pc, label) in self.jumps {
            let target = self.labels[label.0].expect("every label is bound");
            let off = i16::try_from(i64::from(target.0) - i64::from(pc.0) - 1).expect("functions are short");
            let insn = match self.insns.get(pc) {
                Some(Insn::Jmp { cond, width, dst, src, .. }) => Insn::Jmp { cond, width, dst, src, off },
                Some(Insn::MayGoto { .. }) => Insn::MayGoto { off },
                _ => Insn::Ja { off },
            };
            self.insns.replace(pc, insn);
        }
        (self.insns, self.calls)
    }
}
