//! Kernel functions, and the iterators in the stack that they work on.
//!
//! An iterator is begun (then it is *active* and a reference to be given back), gives items until it is *drained*, and is
//! destroyed. A call for the next item goes both ways; why its loops end is said in [`super::looping`].

use super::argument::{Argument, Given};
use super::explore::Verifier;
use super::reject::{Fail, Rule, Step};
use super::resource::Resource;
use super::stack::{self, Span};
use super::state::{Iterator, Kind, Slot, State, Value};
use crate::helper::Arg;
use crate::helper::kfunc::{self, Kfunc, Step as Move};
use crate::insn::{Insn, Pc, Reg};

/// The name of the only kind of iterator.
const NAME: &str = "iter_num";
const SIZE: u32 = 8;

impl Verifier<'_> {
    /// A call of the kernel function that the program knows by this number.
    pub(super) fn kfunc(&mut self, state: &mut State, pc: Pc, number: i32) -> Step<()> {
        let Some(name) = self.program.kfunc(number) else {
            let text = "invalid kernel function call not eliminated in verifier pass";
            return Err(Fail::new(Rule::Helper, text));
        };
        let Some(kfunc) = kfunc::by_name(name) else {
            return Err(Fail::new(Rule::Helper, format!("calling kernel function {name} is not allowed")));
        };
        if !self.program.gpl_compatible() {
            let text = "cannot call kernel function from non-GPL compatible program";
            return Err(Fail::new(Rule::Licence, text).help("declare a GPL-compatible licence in section \"license\""));
        }
        if !kfunc.programs.is_empty() && !kfunc.programs.contains(&self.desc.prog_type) {
            return Err(Fail::new(Rule::Helper, format!("calling kernel function {name} is not allowed")));
        }
        let r0 = match kfunc.step {
            Some(step) => {
                self.numbers_of(state, kfunc)?;
                match step {
                    Move::New => self.iterator_new(state, pc)?,
                    Move::Next { item } => self.iterator_next(state, pc, item)?,
                    Move::Destroy => self.iterator_destroy(state)?,
                }
            }
            None => self.plain_kfunc(state, pc, kfunc)?,
        };
        state.clobber();
        state.set(Reg::R0, r0);
        Ok(())
    }

    /// A call of a function that has nothing to do with iterators; what it answers.
    fn plain_kfunc(&mut self, state: &mut State, pc: Pc, kfunc: &Kfunc) -> Step<Value> {
        if state.lock().is_some() {
            return Err(Fail::new(Rule::Resource, "function calls are not allowed while holding a lock"));
        }
        let mut given = Given::default();
        for (i, arg) in kfunc.proto.args.iter().enumerate() {
            let reg = Reg::ALL[i + 1];
            match arg {
                Arg::Scalar => self.number_of(state, reg)?,
                Arg::Ctx if self.readable(state, reg)?.kind != Kind::Ctx => {
                    let text = format!("arg#{i} expected pointer to ctx, but got {}", state.reg(reg).name());
                    return Err(Fail::new(Rule::Helper, text).with(reg));
                }
                _ => {
                    let value = self.readable(state, reg)?;
                    let argument = Argument { pc, proto: &kfunc.proto, i, reg, arg: *arg, value };
                    self.argument(state, &argument, &mut given)?;
                }
            }
        }
        self.dynptr_called(state, kfunc.proto.id, given.dynptr)?;
        self.result(state, pc, kfunc.proto.ret, &given)
    }

    fn numbers_of(&self, state: &State, kfunc: &Kfunc) -> Step<()> {
        for i in 1..kfunc.proto.args.len() {
            self.number_of(state, Reg::ALL[i + 1])?;
        }
        Ok(())
    }

    fn number_of(&self, state: &State, reg: Reg) -> Step<()> {
        if self.readable(state, reg)?.is_scalar() {
            return Ok(());
        }
        Err(Fail::new(Rule::Helper, format!("R{} is not a scalar", reg.number())).with(reg))
    }

    /// Where the iterator in R1 lies: the frame, and the slot in it.
    fn iterator_place(&self, state: &State) -> Step<(Span, usize)> {
        let base = self.readable(state, Reg::R1)?;
        let fail = |text: &str| Err(Fail::new(Rule::Helper, text).with(Reg::R1));
        if !matches!(base.kind, Kind::Stack(_)) {
            return fail("arg#0 expected pointer to an iterator on stack");
        }
        let Some(off) = base.fixed_offset() else { return fail("iter has to be at a constant offset") };
        if off % i64::from(SIZE) != 0 {
            return fail(&format!("cannot pass in iter at an offset={off}"));
        }
        let span = stack::span(Reg::R1, &base, 0, SIZE, true)?;
        Ok((span, (-off / i64::from(SIZE)) as usize - 1))
    }

    /// The iterator in R1, which was begun.
    fn iterator(&self, state: &State) -> Step<(Span, usize, Iterator)> {
        let (span, slot) = self.iterator_place(state)?;
        match state.frame(span.frame).slot(slot).iterator() {
            Some(it) => Ok((span, slot, it)),
            None => {
                let text = format!("expected an initialized {NAME} as arg #0");
                Err(Fail::new(Rule::Resource, text).with(Reg::R1))
            }
        }
    }

    /// Whether the call at `pc` takes an item that the iterator may have.
    pub(super) fn takes_item(&self, state: &State, insn: &Insn) -> bool {
        let Insn::CallKfunc { btf_id, .. } = *insn else { return false };
        let step = self.program.kfunc(btf_id).and_then(kfunc::by_name).and_then(|kfunc| kfunc.step);
        matches!(step, Some(Move::Next { .. })) && self.iterator(state).is_ok_and(|(_, _, it)| !it.drained)
    }

    fn iterator_new(&mut self, state: &mut State, pc: Pc) -> Step<Value> {
        let (span, slot) = self.iterator_place(state)?;
        if state.frame(span.frame).slot(slot).iterator().is_some() {
            let text = format!("expected uninitialized {NAME} as arg #0");
            return Err(Fail::new(Rule::Resource, text).with(Reg::R1).help("destroy the iterator first"));
        }
        let base = *state.reg(Reg::R1);
        self.stack_span(state, Reg::R1, &base, 0, SIZE, true)?;
        state.overwrite_dynptrs(span, self.options.trust).map_err(|f| f.with(Reg::R1))?;
        let id = self.ids.next();
        state.acquire(id, pc, Resource::Iterator)?;
        *state.frame_mut(span.frame).slot_mut(slot) = Slot::of_iterator(Iterator { id, drained: false, items: 0 });
        Ok(Value::UNKNOWN)
    }

    fn iterator_next(&mut self, state: &mut State, pc: Pc, item: u32) -> Step<Value> {
        let (span, slot, it) = self.iterator(state)?;
        if !it.drained {
            let mut on = self.forks.fork(state);
            let taken = Iterator { items: it.items.wrapping_add(1), ..it };
            *on.frame_mut(span.frame).slot_mut(slot) = Slot::of_iterator(taken);
            on.clobber();
            on.set(Reg::R0, Value { owner: it.id, ..Value::pointer(Kind::Item(item)) });
            self.later(on, pc.next());
        }
        let drained = Iterator { drained: true, ..it };
        *state.frame_mut(span.frame).slot_mut(slot) = Slot::of_iterator(drained);
        Ok(Value::constant(0))
    }

    fn iterator_destroy(&mut self, state: &mut State) -> Step<Value> {
        let (span, slot, it) = self.iterator(state)?;
        *state.frame_mut(span.frame).slot_mut(slot) = Slot::EMPTY;
        state.release(it.id, self.options.trust);
        Ok(Value::UNINIT)
    }
}
