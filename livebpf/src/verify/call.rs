//! Calls: helpers and their contracts, subprograms, tail calls, and returns.

use super::Trust;
use super::argument::{Argument, Given};
use super::branch::not_null;
use super::cfg::MAX_FRAMES;
use super::explore::{To, Verifier, unsupported};
use super::history::Way;
use super::range::R64;
use super::reject::{Fail, Rule, Step};
use super::resource::Resource;
use super::scalar::Scalar;
use super::state::{Frame, Kind, State, Value};
use crate::helper::{self, Arg, Proto, Ret};
use crate::insn::{Pc, Reg, Size};
use crate::link::SubprogId;
use crate::object::ProgType;

/// R1 to R5.
pub(super) const ARGS: [Reg; 5] = [Reg::R1, Reg::R2, Reg::R3, Reg::R4, Reg::R5];

fn not_of_this_type(name: &str, id: u32) -> Box<Fail> {
    Fail::new(Rule::Helper, format!("program of this type cannot use helper bpf_{name}#{id}"))
}

impl Verifier<'_> {
    /// A call of helper `id`.
    pub(super) fn helper(&mut self, state: &mut State, pc: Pc, id: u32) -> Step<()> {
        let Some(proto) = self.options.helpers.get(id) else {
            return Err(self.no_such_helper(id));
        };
        self.allowed(proto)?;
        if state.lock().is_some() && id != helper::id::SPIN_UNLOCK {
            return Err(Fail::new(Rule::Resource, "function calls are not allowed while holding a lock"));
        }
        let mut given = Given::default();
        for (i, (reg, arg)) in ARGS.into_iter().zip(&proto.args).enumerate() {
            let value = self.readable(state, reg)?;
            self.argument(state, &Argument { pc, proto, i, reg, arg: *arg, value }, &mut given)?;
        }
        if let Some(map) = given.map {
            self.map_allowed(proto, map)?;
            // An address is a number that is not known, whatever is known of its offset.
            let number = Some(state.reg(Reg::R3)).filter(|r| id == helper::id::TAIL_CALL && r.is_scalar());
            let index = number.and_then(|r| match self.options.trust {
                Trust::Trusted => r.num.known32(),
                Trust::Untrusted => r.num.known().and_then(|index| index.try_into().ok()),
            });
            let index = index.filter(|index| *index < self.program.map(map).max_entries);
            if index.is_some() {
                self.demand(state, pc, Reg::R3);
            }
            self.notes.map(pc, map, index.or(given.element));
        }
        self.dynptr_called(state, id, given.dynptr)?;
        if let Some(i) = proto.args.iter().position(|arg| *arg == Arg::Callback) {
            self.call_back(state, pc, proto, ARGS[i], given.map)?;
        }
        self.notes.changes_packet |= proto.changes_packet;
        if id == helper::id::TAIL_CALL {
            state.check_leak("tail_call", true)?;
            self.tail_called(state, pc)?;
        }
        if proto.changes_packet {
            state.forget_packet(self.options.trust);
        }
        if let Some(held) = given.released {
            state.release(held, self.options.trust);
        }
        if let Ret::AtMost(arg) = proto.ret {
            let most = ARGS.get(arg).map_or(u64::MAX, |reg| state.reg(*reg).num.r.umax);
            given.most = i64::try_from(most).unwrap_or(i64::MAX);
        }
        state.clobber();
        let value = self.result(state, pc, proto.ret, &given)?;
        state.set(Reg::R0, value);
        Ok(())
    }

    /// What a function answers.
    pub(super) fn result(&mut self, state: &mut State, pc: Pc, ret: Ret, given: &Given) -> Step<Value> {
        let element = given.map.map(|map| self.looked_up(map));
        let mut handed = |kind: Kind, what: Option<Resource>| {
            let id = self.ids.next();
            let owner = if what.is_some() { id } else { 0 };
            if let Some(what) = what {
                state.acquire(id, pc, what)?;
            }
            Ok(Value { nullable: true, id, owner, ..Value::pointer(kind) })
        };
        match ret {
            Ret::Integer => Ok(Value::UNKNOWN),
            Ret::Cpu => Ok(Value::scalar(Scalar::between(0, i64::from(self.options.cpus) - 1))),
            Ret::AtMost(_) => Ok(Value::scalar(Scalar::between(-helper::MAX_ERRNO, given.most))),
            Ret::Void => Ok(Value::UNINIT),
            Ret::MapValueOrNull => match element {
                Some(kind) => {
                    let mut value = handed(kind, None)?;
                    if given.element.is_some() {
                        let keep = self.has_lock(&value);
                        not_null(&mut value, keep);
                    }
                    Ok(value)
                }
                None => Err(Fail::new(Rule::Helper, "a map value without a map")),
            },
            Ret::RecordOrNull => handed(Kind::Record(given.size as u32), Some(Resource::Record)),
            Ret::SliceOrNull { write } => match given.dynptr {
                Some(dynptr) => Ok(self.slice(dynptr, given.size as u32, write)),
                None => Err(Fail::new(Rule::Helper, "a slice without a dynptr")),
            },
            Ret::AcquiredOrNull { class, size: 0 } => handed(Kind::Handle(class), Some(Resource::Handle(class))),
            Ret::AcquiredOrNull { class, size } => handed(Kind::Mem(size), Some(Resource::Handle(class))),
        }
    }

    /// Why helper `id`, which is not in the table, cannot be called.
    fn no_such_helper(&self, id: u32) -> Box<Fail> {
        match helper::id::name(id) {
            None => Fail::new(Rule::Helper, format!("invalid func unknown#{id}")),
            Some(name) if !self.of_this_type(id) => not_of_this_type(name, id),
            Some(name) => Fail::new(Rule::Unsupported, format!("unsupported: helper bpf_{name}#{id}")),
        }
    }

    /// Whether programs of this type may call helper `id`.
    fn of_this_type(&self, id: u32) -> bool {
        id >= helper::FIRST_CUSTOM || self.desc.helpers.contains(id)
    }

    fn allowed(&self, proto: &Proto) -> Step<()> {
        if !self.of_this_type(proto.id) {
            return Err(not_of_this_type(&proto.name, proto.id));
        }
        if self.options.trust == Trust::Untrusted && proto.args.iter().any(|arg| arg.is_dynptr()) {
            return Err(not_of_this_type(&proto.name, proto.id));
        }
        if proto.gpl_only && !self.program.gpl_compatible() {
            let text = "cannot call GPL-restricted function from non-GPL compatible program";
            return Err(Fail::new(Rule::Licence, text).help("declare a GPL-compatible licence in section \"license\""));
        }
        Ok(())
    }

    /// The other outcome of a tail call: this function ends, with any number as its result.
    fn tail_called(&mut self, state: &State, pc: Pc) -> Step<()> {
        if state.depth() == 0 {
            return Ok(());
        }
        let mut gone = self.forks.fork(state);
        gone.set(Reg::R0, Value::UNKNOWN);
        gone.forget_packet(self.options.trust);
        let back = pop(&mut gone);
        self.history.went(&mut gone.at, pc, back, Way::Left, gone.callers.len());
        self.later(gone, back);
        Ok(())
    }

    /// `BPF_LD_ABS` and `BPF_LD_IND`: a packet load that ends the function with 0 where the packet is too short.
    pub(super) fn legacy_load(&mut self, state: &mut State, pc: Pc, size: Size, index: Option<Reg>) -> Step<()> {
        let types = [ProgType::SOCKET_FILTER, ProgType::SCHED_CLS, ProgType::SCHED_ACT];
        if !types.contains(&self.desc.prog_type) {
            return Err(Fail::new(Rule::Context, "BPF_LD_[ABS|IND] instructions not allowed for this program type"));
        }
        state.check_leak("BPF_LD_[ABS|IND]", true)?;
        let r6 = self.readable(state, Reg::R6)?;
        if r6.kind != Kind::Ctx || r6.fixed_offset() != Some(0) {
            let text = "at the time of BPF_LD_ABS|IND R6 != pointer to skb";
            return Err(Fail::new(Rule::Context, text).with(Reg::R6));
        }
        if let Some(reg) = index
            && self.readable(state, reg)?.is_pointer()
        {
            let text = format!("R{} pointer used as packet offset", reg.number());
            return Err(Fail::new(Rule::Pointer, text).with(reg));
        }
        if state.depth() > 0 {
            let mut short = self.forks.fork(state);
            short.set(Reg::R0, Value::constant(0));
            let back = pop(&mut short);
            self.history.went(&mut short.at, pc, back, Way::Left, short.callers.len());
            self.later(short, back);
        }
        state.clobber();
        state.set(Reg::R0, Value::scalar(Scalar::unsigned_bits(size.bits())));
        Ok(())
    }

    /// A call of a subprogram: static ones are entered, global ones were verified on their own.
    pub(super) fn call(&mut self, state: &mut State, pc: Pc, off: i32) -> Step<To> {
        let Some(func) = pc.jump(off).and_then(|to| self.program.subprog_starting_at(to)) else {
            return Err(unsupported("unsupported: call into the middle of a function"));
        };
        if state.depth() + 1 >= MAX_FRAMES {
            let text = format!("the call stack of {} frames is too deep", state.depth() + 2);
            return Err(Fail::new(Rule::Call, text));
        }
        let sub = &self.program.subprogs[func.0 as usize];
        if sub.global && sub.signature.is_some() {
            self.call_global(state, pc, func)?;
            return Ok(To::Next(pc.next()));
        }
        let mut frame = Frame::new(state.depth() as u8 + 1, func, pc);
        for reg in ARGS {
            frame.set(reg, *state.reg(reg));
        }
        state.clobber();
        state.set(Reg::R0, Value::UNINIT);
        let caller = std::mem::replace(&mut state.cur, frame);
        state.callers.push(std::rc::Rc::new(caller));
        self.history.went(&mut state.at, pc, sub.start, Way::Call, state.callers.len());
        Ok(To::Next(sub.start))
    }

    /// A return.
    pub(super) fn exit(&mut self, state: &mut State, pc: Pc) -> Step<To> {
        let value = *state.reg(Reg::R0);
        state.check_leak("BPF_EXIT instruction in main prog", state.depth() == 0)?;
        if state.depth() > 0 {
            if let Some(results) = state.cur.called_back {
                self.callback_result(state, pc, results)?;
            }
            if matches!(value.kind, Kind::Stack(_)) {
                return Err(Fail::new(Rule::Pointer, "cannot return stack pointer to the caller").with(Reg::R0));
            }
            let way = if state.cur.called_back.is_some() { Way::CalledBack } else { Way::Return };
            let back = pop(state);
            self.history.went(&mut state.at, pc, back, way, state.callers.len());
            return Ok(To::Next(back));
        }
        let value = self.readable(state, Reg::R0)?;
        self.keep_address(Reg::R0, &value, &format!("leaks addr as return value (R0 is {})", value.name()))?;
        let wanted = match self.root {
            SubprogId(0) => self.desc.returns.map(|_| "At program exit the register R0 is not a known value"),
            _ => Some("At subprogram exit the register R0 is not a scalar value"),
        };
        if let (Some(text), true) = (wanted, value.is_pointer()) {
            return Err(Fail::new(Rule::Return, format!("{text} ({})", value.name())).with(Reg::R0));
        }
        if let (Some((low, high)), SubprogId(0)) = (self.desc.returns, self.root) {
            self.demand(state, pc, Reg::R0);
            let r = value.num.r;
            if r.smin < low.into() || r.smax > high.into() {
                return Err(out_of_range(&r, low, high));
            }
        }
        Ok(To::End)
    }
}

/// R0 may hold a number that programs of this type may not return.
fn out_of_range(r: &R64, low: i32, high: i32) -> Box<Fail> {
    let mut has = String::new();
    if r.smin > i64::MIN {
        has += &format!(" smin={}", r.smin);
    }
    if r.smax < i64::MAX {
        has += &format!(" smax={}", r.smax);
    }
    if has.is_empty() {
        has += " unknown scalar value";
    }
    let text = format!("At program exit the register R0 has{has} should have been in [{low}, {high}]");
    Fail::new(Rule::Return, text).with(Reg::R0).help("return a number of that range on every path")
}

/// Leaves the current frame; gives the place to go on at.
fn pop(state: &mut State) -> Pc {
    let Some(caller) = state.callers.pop() else { unreachable!("callers check the depth") };
    let caller = std::rc::Rc::unwrap_or_clone(caller);
    let done = std::mem::replace(&mut state.cur, caller);
    let result = *done.reg(Reg::R0);
    state.set(Reg::R0, result);
    // Nothing may point into the frame that is gone.
    let gone = Kind::Stack(state.depth() as u8 + 1);
    state.for_each(|v| v.kind == gone, |v| *v = Value::UNINIT);
    // A callback returns to the helper, which may call another one.
    if done.called_back.is_some() { done.call_site } else { done.call_site.next() }
}
