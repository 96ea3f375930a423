//! Loops that the verifier does not unroll: helpers that call back, and `may_goto`. Why they end is said in
//! [`super::looping`].
//!
//! A helper's call of a callback is explored like a call of a subprogram that returns to the helper's call, as often as
//! it likes: before each time, and instead of the first, the helper may be done.

use super::cfg::MAX_FRAMES;
use super::explore::{To, Verifier};
use super::history::Way;
use super::looping::Counted;
use super::reject::{Fail, Rule, Step};
use super::scalar::Scalar;
use super::state::{Frame, Kind, State, Value};
use crate::helper::{self, Proto};
use crate::insn::{Insn, Pc, Reg};
use crate::link::MapId;
use crate::object::MapType;

/// What callbacks return: 0 to go on, 1 to stop.
const RESULTS: (u32, u32) = (0, 1);

/// Maps whose elements can be visited.
const WALKED: [MapType; 6] = [
    MapType::ARRAY,
    MapType::PERCPU_ARRAY,
    MapType::HASH,
    MapType::PERCPU_HASH,
    MapType::LRU_HASH,
    MapType::LRU_PERCPU_HASH,
];

impl Verifier<'_> {
    /// Whether the instruction at `pc` makes a limited number of passes; names what it uses up.
    pub(super) fn counted(&mut self, state: &mut State, pc: Pc) -> Option<Counted> {
        if !self.flow.may_goto_ahead(pc) {
            state.cur.budget = Default::default();
        }
        let insn = self.program.insns.get(pc)?;
        match insn {
            Insn::Call { helper } if helper::calls_back(helper) => {
                if state.cur.calls.id == 0 {
                    state.cur.calls.id = self.ids.next();
                }
                Some(Counted::Calls)
            }
            Insn::MayGoto { .. } => {
                if state.cur.budget.id == 0 {
                    state.cur.budget.id = self.ids.next();
                }
                Some(Counted::Budget)
            }
            _ => self.takes_item(state, &insn).then_some(Counted::Item),
        }
    }

    /// `may_goto`: the next instruction as long as there is a budget, then the jump.
    pub(super) fn may_goto(&mut self, state: &mut State, pc: Pc, insn: &Insn) -> To {
        let mut on = self.forks.fork(state);
        on.passes += 1;
        if std::mem::replace(&mut on.cur.budget.spent, false) {
            on.cur.budget.round += 1;
        }
        state.cur.budget.spent = true;
        let target = insn.jump_target(pc).unwrap_or(pc.next());
        self.turn(&mut on, pc, pc.next(), false);
        self.turn(state, pc, target, true);
        self.later(on, pc.next());
        To::Next(target)
    }

    /// The helper that `state` is about to call may call the function in `reg` first.
    pub(super) fn call_back(
        &mut self,
        state: &mut State,
        pc: Pc,
        proto: &Proto,
        reg: Reg,
        map: Option<MapId>,
    ) -> Step<()> {
        let Kind::Func(func) = state.reg(reg).kind else { unreachable!("the argument was checked") };
        let calls = std::mem::take(&mut state.cur.calls);
        if map.is_some_and(|map| !WALKED.contains(&self.program.map(map).map_type)) {
            return Err(Fail::new(Rule::Helper, "callback function not allowed for map"));
        }
        if proto.id == helper::id::LOOP {
            self.demand(state, pc, Reg::R1);
            let count = state.reg(Reg::R1);
            if count.is_scalar() && count.num.r.umax <= calls.count.into() {
                return Ok(());
            }
        }
        if state.depth() + 1 >= MAX_FRAMES {
            let text = format!("the call stack of {} frames is too deep", state.depth() + 2);
            return Err(Fail::new(Rule::Call, text));
        }
        if let Some(at) = self.flow.tail_call_below(func) {
            let text = format!("tail_call (insn {at}) cannot be called from callback subprog");
            return Err(Fail::new(Rule::TailCall, text).help("make the tail call where the helper has returned"));
        }
        let mut frame = Frame::new(state.depth() as u8 + 1, func, pc);
        frame.called_back = Some(RESULTS);
        for (reg, value) in Reg::ALL[1..].iter().zip(callback_args(state, proto, map)) {
            frame.set(*reg, value);
        }
        let mut entered = self.forks.fork(state);
        entered.cur.calls = calls;
        entered.cur.calls.count += 1;
        entered.passes += 1;
        let caller = std::mem::replace(&mut entered.cur, frame);
        entered.callers.push(std::rc::Rc::new(caller));
        let start = self.program.subprogs[func.0 as usize].start;
        self.history.went(&mut entered.at, pc, start, Way::Callback, entered.callers.len());
        self.later(entered, start);
        Ok(())
    }

    /// What a callback returns.
    pub(super) fn callback_result(&mut self, state: &State, pc: Pc, (low, high): (u32, u32)) -> Step<()> {
        let value = self.readable(state, Reg::R0)?;
        if !value.is_scalar() {
            return Err(Fail::new(Rule::Return, "R0 not a scalar value").with(Reg::R0));
        }
        self.demand(state, pc, Reg::R0);
        let r = value.num.r;
        if r.smin < low.into() || r.smax > high.into() {
            let found = described(&value.num);
            let text = format!("At callback return the register R0 has {found} should have been in [{low}, {high}]");
            return Err(Fail::new(Rule::Return, text).with(Reg::R0));
        }
        Ok(())
    }

    /// The address of a function.
    pub(super) fn function(&self, pc: Pc, off: i32) -> Step<Value> {
        let Some(func) = pc.jump(off).and_then(|to| self.program.subprog_starting_at(to)) else {
            return Err(Fail::new(Rule::Structure, "the address of a function does not lead to its start"));
        };
        let sub = &self.program.subprogs[func.0 as usize];
        if sub.signature.is_none() {
            return Err(Fail::new(Rule::Call, "missing btf func_info"));
        }
        if sub.global {
            return Err(Fail::new(Rule::Call, "callback function not static").help("declare the function static"));
        }
        Ok(Value::pointer(Kind::Func(func)))
    }
}

/// R1 to R5 of a callback.
fn callback_args(state: &State, proto: &Proto, map: Option<MapId>) -> [Value; 5] {
    let context = *state.reg(Reg::R3);
    let none = Value::UNINIT;
    match map {
        Some(map) if proto.id == helper::id::FOR_EACH_MAP_ELEM => {
            let of = |kind| Value::pointer(kind);
            [of(Kind::Map(map)), of(Kind::MapKey(map)), of(Kind::MapValue(map)), context, none]
        }
        _ => [Value::UNKNOWN, context, none, none, none],
    }
}

/// The bounds of a number in the kernel's words.
fn described(num: &Scalar) -> String {
    let mut parts = Vec::new();
    if num.r.smin > i64::MIN {
        parts.push(format!("smin={}", num.r.smin));
    }
    if num.r.smax < i64::MAX {
        parts.push(format!("smax={}", num.r.smax));
    }
    if parts.is_empty() { "unknown scalar value".to_owned() } else { parts.join(" ") }
}
