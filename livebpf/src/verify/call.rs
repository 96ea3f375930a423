//! Calls: helpers and their contracts, subprograms, tail calls, and returns.

use super::Trust;
use super::cfg::MAX_FRAMES;
use super::dynptr::New;
use super::explore::{To, Verifier, unsupported};
use super::history::Way;
use super::memory::unmodified;
use super::range::R64;
use super::reject::{Fail, MEMORY, Rule, Step};
use super::resource::Resource;
use super::scalar::Scalar;
use super::state::{Dynptr, Frame, Kind, State, Value};
use crate::context::Packet;
use crate::helper::{self, Arg, Proto, Ret, kfunc};
use crate::insn::{Pc, Reg, Size};
use crate::link::{MapId, SubprogId};
use crate::object::ProgType;

/// Records of a ring buffer stay below this.
const MAX_RECORD: u64 = 1 << 29;
/// R1 to R5.
const ARGS: [Reg; 5] = [Reg::R1, Reg::R2, Reg::R3, Reg::R4, Reg::R5];

/// What the arguments of one call of a helper turned out to be.
#[derive(Default)]
pub(super) struct Given {
    /// The map among them.
    map: Option<MapId>,
    /// The largest result, where an argument limits it.
    most: i64,
    /// Bytes to hand out.
    size: u64,
    /// What is taken back.
    released: Option<u32>,
    /// The dynptr among them that was made before.
    pub dynptr: Option<Dynptr>,
}

fn not_of_this_type(name: &str, id: u32) -> Box<Fail> {
    Fail::new(Rule::Helper, format!("program of this type cannot use helper bpf_{name}#{id}"))
}

fn refuse(reg: Reg, text: String) -> Box<Fail> {
    Fail::new(Rule::Helper, text).with(reg)
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
            self.argument(state, pc, proto, i, reg, *arg, &mut given)?;
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
            self.notes.map(pc, map, index);
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
                Some(kind) => handed(kind, None),
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

    #[allow(clippy::too_many_arguments)]
    pub(super) fn argument(
        &mut self,
        state: &mut State,
        pc: Pc,
        proto: &Proto,
        i: usize,
        reg: Reg,
        arg: Arg,
        given: &mut Given,
    ) -> Step<()> {
        let value = self.readable(state, reg)?;
        let n = reg.number();
        let expected = |what: &str| refuse(reg, format!("R{n} type={} expected={what}", value.name()));
        let packet_memory = proto.packet_memory && self.desc.packet >= Packet::Read;
        if value.is_packet() && !packet_memory && (arg.has_size() || arg.needs_map() || matches!(arg, Arg::Out(_))) {
            return Err(refuse(reg, "helper access to the packet is not allowed".to_owned()));
        }
        let map = given.map;
        let map_size = |this: &Self, key: bool| match map {
            Some(map) => {
                let def = this.program.map(map);
                Ok(u64::from(if key { def.key_size } else { def.value_size }))
            }
            None => Err(refuse(reg, "invalid map_ptr to access map".to_owned())),
        };
        match arg {
            Arg::Anything => self.keep_address(reg, &value, "leaks addr into helper function"),
            Arg::Scalar if value.is_scalar() => Ok(()),
            Arg::Scalar => Err(expected("scalar")),
            Arg::Ctx if value.kind == Kind::Ctx => unmodified(reg, &value),
            Arg::Ctx => Err(expected("ctx")),
            Arg::Map => match value.kind {
                Kind::Map(id) if !value.nullable => {
                    given.map = Some(id);
                    Ok(())
                }
                _ => Err(expected("map_ptr")),
            },
            Arg::MapKey => {
                let size = map_size(self, true)?;
                self.buffer(state, reg, size, true, false)
            }
            Arg::MapValue => {
                let size = map_size(self, false)?;
                self.buffer(state, reg, size, true, false)
            }
            Arg::MapValueUninit => {
                let size = map_size(self, false)?;
                self.buffer(state, reg, size, false, true)
            }
            Arg::Out(size) => self.out(state, reg, size),
            Arg::ConstStr => self.constant_text(state, reg),
            Arg::Mem | Arg::MemOrNull | Arg::MemUninit | Arg::MemUninitOrNull | Arg::MemInOut | Arg::Scratch => {
                if value.is_scalar() {
                    self.demand(state, pc, reg);
                }
                let null = matches!(arg, Arg::MemOrNull | Arg::MemUninitOrNull | Arg::Scratch) && value.is_null();
                if value.is_pointer() || null { Ok(()) } else { Err(expected(MEMORY)) }
            }
            Arg::Size | Arg::SizeOrZero => self.sized(state, pc, proto, i, reg),
            Arg::ScratchSize => {
                self.scratch(state, pc, proto, i, reg)?;
                given.size = state.reg(reg).num.known().unwrap_or_default();
                Ok(())
            }
            Arg::Dynptr => {
                given.dynptr = Some(self.dynptr(state, reg, !kfunc::is_function(proto.id))?);
                Ok(())
            }
            Arg::DynptrNew(kind) => self.dynptr_new(state, pc, reg, New::Of(kind), !kfunc::is_function(proto.id)),
            Arg::DynptrClone => match given.dynptr {
                Some(of) => self.dynptr_new(state, pc, reg, New::Clone(of), !kfunc::is_function(proto.id)),
                None => Err(refuse(reg, "a clone without a dynptr".to_owned())),
            },
            Arg::DynptrReleased => {
                given.released = Some(self.dynptr_released(state, reg)?.owner);
                Ok(())
            }
            Arg::AllocSize => {
                if !value.is_scalar() {
                    return Err(expected("scalar"));
                }
                self.demand(state, pc, reg);
                let text = format!("R{n} is not a known constant'");
                given.size = value.num.known().filter(|size| *size < MAX_RECORD).ok_or_else(|| refuse(reg, text))?;
                Ok(())
            }
            Arg::SpinLock => self.spin_lock(state, pc, reg, proto.id == helper::id::SPIN_LOCK),
            Arg::Record if !matches!(value.kind, Kind::Record(_)) => Err(expected("ringbuf_mem")),
            Arg::Record => returned(state, reg, Resource::Record, given),
            Arg::Released(class) => {
                if !matches!(value.kind, Kind::Mem(_) | Kind::Handle(_)) {
                    return Err(expected("handle"));
                }
                returned(state, reg, Resource::Handle(class), given)
            }
            Arg::Borrowed(class) => {
                let of_class = state.held(value.owner).is_some_and(|held| held.what == Resource::Handle(class));
                let whole = !value.nullable && value.fixed_offset() == Some(0);
                if of_class && whole { Ok(()) } else { Err(expected(&format!("handle of class {}", class.0))) }
            }
            Arg::Callback if matches!(value.kind, Kind::Func(_)) => Ok(()),
            Arg::Callback => Err(expected("func")),
            Arg::StackOrNull => {
                if value.is_scalar() {
                    self.demand(state, pc, reg);
                }
                if matches!(value.kind, Kind::Stack(_)) || value.is_null() { Ok(()) } else { Err(expected("fp")) }
            }
        }
    }

    /// The size in `reg` of the memory in the argument before.
    fn sized(&mut self, state: &mut State, pc: Pc, proto: &Proto, i: usize, reg: Reg) -> Step<()> {
        let value = self.readable(state, reg)?;
        let n = reg.number();
        if !value.is_scalar() {
            return Err(refuse(reg, format!("R{n} type={} expected=scalar", value.name())));
        }
        self.demand(state, pc, reg);
        let r = value.num.r;
        if r.smin < 0 {
            let text = format!("R{n} min value is negative, either use unsigned or 'var &= const'");
            return Err(refuse(reg, text));
        }
        if r.umin == 0 && proto.args[i] == Arg::Size {
            let text = format!("R{n} invalid zero-sized read: u64=[{},{}]", r.umin, r.umax);
            return Err(refuse(reg, text).help("make sure that the size is at least 1"));
        }
        let (memory, kind) = (ARGS[i - 1], proto.args[i - 1]);
        if matches!(kind, Arg::MemOrNull | Arg::MemUninitOrNull) && state.reg(memory).is_null() {
            if r.umax == 0 {
                return Ok(());
            }
            let text = format!("R{} type=scalar expected={MEMORY}", memory.number());
            return Err(refuse(memory, text).help("pass a size of 0 with a null pointer"));
        }
        if kind == Arg::Scratch && state.reg(memory).is_null() {
            return Ok(());
        }
        if matches!(kind, Arg::MemInOut | Arg::Scratch) {
            return self.buffer(state, memory, r.umax, true, true);
        }
        let write = matches!(kind, Arg::MemUninit | Arg::MemUninitOrNull);
        if write && r.umin != r.umax {
            // How much is written is not known: what was initialised stays so, nothing else becomes so.
            return self.buffer(state, memory, r.umax, true, true);
        }
        self.buffer(state, memory, r.umax, !write, write)
    }

    /// The size in `reg` of what a kernel function may use, and hands out: memory in the argument before, or null.
    fn scratch(&mut self, state: &mut State, pc: Pc, proto: &Proto, i: usize, reg: Reg) -> Step<()> {
        let memory = ARGS[i - 1];
        let kept = *state.reg(memory);
        // The function itself finds null.
        state.cur.regs[memory.index()].nullable = false;
        let checked = self.sized(state, pc, proto, i, reg);
        state.cur.regs[memory.index()] = kept;
        checked.map_err(|mut fail| {
            fail.message.push_str(&format!("\narg#{} arg#{i} memory, len pair leads to invalid memory access", i - 1));
            fail
        })?;
        let n = reg.number();
        match state.reg(reg).num.known() {
            Some(_) => Ok(()),
            None => Err(refuse(reg, format!("R{n} must be a known constant")).help("use a size that is a constant")),
        }
    }

    /// The other outcome of a tail call: this function ends, with any number as its result.
    fn tail_called(&mut self, state: &State, pc: Pc) -> Step<()> {
        if state.depth() == 0 {
            return Ok(());
        }
        let mut gone = state.fork();
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
            let mut short = state.fork();
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

/// Checks that `reg` holds what the program acquired as `what`, whole, and notes that the call takes it back.
fn returned(state: &State, reg: Reg, what: Resource, given: &mut Given) -> Step<()> {
    let (value, n) = (state.reg(reg), reg.number());
    if value.nullable {
        let text = format!("R{n} type={} expected={}", value.name(), Value { nullable: false, ..*value }.name());
        return Err(refuse(reg, text).help("compare the pointer with NULL before giving it back"));
    }
    let held = state.held(value.owner);
    if held.is_none() {
        let text = format!("R{n} must be referenced when passed to release function");
        return Err(Fail::new(Rule::Resource, text).with(reg));
    }
    if value.fixed_offset() != Some(0) {
        let text = format!("R{n} must have zero offset when passed to release func or trusted arg to kfunc");
        return Err(Fail::new(Rule::Resource, text).with(reg));
    }
    if held.is_none_or(|held| held.what != what) {
        let text = format!("R{n} holds what another function must take back");
        return Err(Fail::new(Rule::Resource, text).with(reg));
    }
    given.released = Some(value.owner);
    Ok(())
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
