//! Holds what the verifier said about a program against what its run does: facts, claims about registers, and how deep each
//! function's stack is. For tests, with the feature `fault-injection`; without it nothing is compared.
//!
//! Only the program that was started is watched, not those that it tail-calls.

#[cfg(not(feature = "fault-injection"))]
pub(super) use off::Witness;
#[cfg(feature = "fault-injection")]
pub(super) use on::Witness;

#[cfg(not(feature = "fault-injection"))]
mod off {
    use std::marker::PhantomData;

    use super::super::fault::FaultKind;
    use super::super::machine::Machine;
    use crate::insn::{Insn, Pc};

    /// Sees nothing.
    #[derive(Default)]
    pub struct Witness<'a>(PhantomData<&'a ()>);

    impl Witness<'_> {
        #[inline]
        fn silent(&self) -> Result<(), FaultKind> {
            Ok(())
        }
    }

    impl Machine<'_> {
        #[inline]
        pub fn compare(&self, _insn: Insn) -> Result<(), FaultKind> {
            self.witness.silent()
        }
        #[inline]
        pub fn limit_stack(&mut self, _index: usize, _start: Pc) {}
    }
}

#[cfg(feature = "fault-injection")]
mod on {
    use std::sync::Arc;

    use super::super::Executable;
    use super::super::alu;
    use super::super::fault::FaultKind;
    use super::super::machine::Machine;
    use crate::insn::{Insn, Pc, Reg, Size};
    use crate::verify::claims::{Claims, World};

    /// What is watched.
    #[derive(Default)]
    pub struct Witness<'a> {
        exe: Option<Arc<Executable>>,
        claims: &'a [&'a Claims],
        context: u64,
    }

    impl<'a> Witness<'a> {
        /// Watches runs of `exe` that began with the context at `context`.
        pub fn new(exe: &Arc<Executable>, claims: &'a [&'a Claims], context: u64) -> Witness<'a> {
            Witness { exe: Some(exe.clone()), claims, context }
        }
        fn watches(&self, exe: &Arc<Executable>) -> bool {
            self.exe.as_ref().is_some_and(|watched| Arc::ptr_eq(watched, exe))
        }
    }

    impl Machine<'_> {
        /// Before `insn` is executed.
        pub fn compare(&self, insn: Insn) -> Result<(), FaultKind> {
            if !self.witness.watches(&self.exe) {
                return Ok(());
            }
            let fact = self.exe.verified.facts().at(self.pc);
            if !fact.reached {
                return Err(FaultKind::Claim("an instruction that no path reaches is executed".to_owned()));
            }
            if let (Insn::Jmp { cond, width, dst, src, .. }, Some(always)) = (insn, fact.always())
                && alu::taken(cond, width, self.reg(dst), self.src(src)) != always
            {
                return Err(FaultKind::Claim(format!("a jump that always has the outcome {always} has the other one")));
            }
            if let (Insn::Call { .. }, Some(index)) = (insn, fact.index()) {
                let key = self.memory.load(&self.exe, self.reg(Reg::R2), Size::W, false)?;
                if key != u64::from(index) {
                    return Err(FaultKind::Claim(format!("the key that is always {index} is {key}")));
                }
            }
            let context = self.memory.context;
            let packet = context.and_then(|context| context.packet_bounds());
            let world = World {
                regs: &self.regs,
                context: self.witness.context,
                packet,
                frames: &|index| self.memory.stacks.end(index),
                depth: self.callers.len(),
                maps: &self.exe.maps,
            };
            self.witness.claims.iter().try_for_each(|claims| claims.check(self.pc, &world)).map_err(FaultKind::Claim)
        }

        /// The function at `start` may use only as much of frame `index` as it is said to.
        pub fn limit_stack(&mut self, index: usize, start: Pc) {
            let limit = self.witness.watches(&self.exe).then(|| {
                let program = self.exe.program();
                let func = program.subprog_starting_at(start)?;
                let facts = self.exe.verified.facts().funcs.get(func.0 as usize)?;
                Some(facts.stack_depth.next_multiple_of(8) as usize)
            });
            self.memory.stacks.limit(index, limit.flatten());
        }
    }
}
