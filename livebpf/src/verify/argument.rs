//! What a function is given: each argument checked against its prototype.
//!
//! The order is that of the registers: what a later argument means may depend on an earlier one ([`Given`]).

use super::call::ARGS;
use super::dynptr::New;
use super::explore::Verifier;
use super::history::Place;
use super::live::Mask;
use super::memory::unmodified;
use super::reject::{Fail, MEMORY, Rule, Step};
use super::resource::Resource;
use super::stack;
use super::state::{Dynptr, Kind, State, Value};
use crate::context::Packet;
use crate::helper::{self, Arg, Proto, kfunc};
use crate::insn::{Pc, Reg};
use crate::link::MapId;
use crate::object::MapType;

/// Records of a ring buffer stay below this.
const MAX_RECORD: u64 = 1 << 29;

/// What the arguments of one call of a helper turned out to be.
#[derive(Default)]
pub(super) struct Given {
    /// The map among them.
    pub map: Option<MapId>,
    /// The largest result, where an argument limits it.
    pub most: i64,
    /// Bytes to hand out.
    pub size: u64,
    /// What is taken back.
    pub released: Option<u32>,
    /// The index that is looked up in an array, where it is known and below the size: the address of its value is never null.
    pub element: Option<u32>,
    /// The dynptr among them that was made before.
    pub dynptr: Option<Dynptr>,
}

/// One argument of a call.
#[derive(Clone, Copy)]
pub(super) struct Argument<'p> {
    /// The call.
    pub pc: Pc,
    pub proto: &'p Proto,
    /// Which, from 0, and the register that it is in.
    pub i: usize,
    pub reg: Reg,
    /// What it has to be.
    pub arg: Arg,
    /// What it is.
    pub value: Value,
}

impl Argument<'_> {
    fn expected(&self, what: &str) -> Box<Fail> {
        refuse(self.reg, format!("R{} type={} expected={what}", self.reg.number(), self.value.name()))
    }
}

fn refuse(reg: Reg, text: String) -> Box<Fail> {
    Fail::new(Rule::Helper, text).with(reg)
}

impl Verifier<'_> {
    /// Checks one argument, and notes in `given` what others, or the result, depend on.
    pub(super) fn argument(&mut self, state: &mut State, argument: &Argument<'_>, given: &mut Given) -> Step<()> {
        let Argument { pc, proto, reg, arg, ref value, .. } = *argument;
        let packet_memory = proto.packet_memory && self.desc.packet >= Packet::Read;
        if value.is_packet() && !packet_memory && (arg.has_size() || arg.needs_map() || matches!(arg, Arg::Out(_))) {
            return Err(refuse(reg, "helper access to the packet is not allowed".to_owned()));
        }
        match arg {
            Arg::Anything => self.keep_address(reg, value, "leaks addr into helper function"),
            Arg::Scalar if value.is_scalar() => Ok(()),
            Arg::Scalar => Err(argument.expected("scalar")),
            Arg::Ctx if value.kind == Kind::Ctx => unmodified(reg, value),
            Arg::Ctx => Err(argument.expected("ctx")),
            Arg::Map => match value.kind {
                Kind::Map(id) if !value.nullable => {
                    given.map = Some(id);
                    Ok(())
                }
                _ => Err(argument.expected("map_ptr")),
            },
            Arg::ConstStr => self.constant_text(state, reg),
            Arg::Callback if matches!(value.kind, Kind::Func(_)) => Ok(()),
            Arg::Callback => Err(argument.expected("func")),
            Arg::StackOrNull => {
                if value.is_scalar() {
                    self.demand(state, pc, reg);
                }
                let fits = matches!(value.kind, Kind::Stack(_)) || value.is_null();
                if fits { Ok(()) } else { Err(argument.expected("fp")) }
            }
            Arg::MapKey
            | Arg::MapValue
            | Arg::MapValueUninit
            | Arg::Out(_)
            | Arg::Mem
            | Arg::MemOrNull
            | Arg::MemUninit
            | Arg::MemUninitOrNull
            | Arg::MemInOut
            | Arg::Scratch
            | Arg::Size
            | Arg::SizeOrZero
            | Arg::ScratchSize
            | Arg::AllocSize => self.memory_argument(state, argument, given),
            Arg::Dynptr
            | Arg::DynptrNew(_)
            | Arg::DynptrClone
            | Arg::DynptrReleased
            | Arg::SpinLock
            | Arg::Record
            | Arg::Released(_)
            | Arg::Borrowed(_) => self.resource_argument(state, argument, given),
        }
    }

    /// Memory, and how much of it.
    fn memory_argument(&mut self, state: &mut State, argument: &Argument<'_>, given: &mut Given) -> Step<()> {
        let Argument { pc, reg, arg, ref value, .. } = *argument;
        match arg {
            Arg::MapKey => {
                self.buffer(state, reg, self.element(reg, given)?.0, true, false)?;
                if argument.proto.id == helper::id::MAP_LOOKUP_ELEM {
                    given.element = self.known_element(state, argument, given);
                }
                Ok(())
            }
            Arg::MapValue => self.buffer(state, reg, self.element(reg, given)?.1, true, false),
            Arg::MapValueUninit => self.buffer(state, reg, self.element(reg, given)?.1, false, true),
            Arg::Out(size) => self.out(state, reg, size),
            Arg::Mem | Arg::MemOrNull | Arg::MemUninit | Arg::MemUninitOrNull | Arg::MemInOut | Arg::Scratch => {
                if value.is_scalar() {
                    self.demand(state, pc, reg);
                }
                let null = matches!(arg, Arg::MemOrNull | Arg::MemUninitOrNull | Arg::Scratch) && value.is_null();
                if value.is_pointer() || null { Ok(()) } else { Err(argument.expected(MEMORY)) }
            }
            Arg::Size | Arg::SizeOrZero => self.sized(state, argument),
            Arg::ScratchSize => {
                self.scratch(state, argument)?;
                given.size = state.reg(reg).num.known().unwrap_or_default();
                Ok(())
            }
            Arg::AllocSize => {
                if !value.is_scalar() {
                    return Err(argument.expected("scalar"));
                }
                self.demand(state, pc, reg);
                let text = format!("R{} is not a known constant'", reg.number());
                given.size = value.num.known().filter(|size| *size < MAX_RECORD).ok_or_else(|| refuse(reg, text))?;
                Ok(())
            }
            _ => unreachable!("callers pass memory and its size"),
        }
    }

    /// Bytes of a key and of a value of the map among the arguments.
    fn element(&self, reg: Reg, given: &Given) -> Step<(u64, u64)> {
        let map = given.map.ok_or_else(|| refuse(reg, "invalid map_ptr to access map".to_owned()))?;
        let def = self.program.map(map);
        Ok((def.key_size.into(), def.value_size.into()))
    }

    /// The key, where it is a known index of an array, as the kernel finds it out: a number that was spilled with the key's size,
    /// or bytes that are zero, within eight bytes of the stack.
    fn known_element(&mut self, state: &State, argument: &Argument<'_>, given: &Given) -> Option<u32> {
        let (Kind::Stack(frame), Some(off), Some(map)) =
            (argument.value.kind, argument.value.fixed_offset(), given.map.filter(|map| !map.is_template()))
        else {
            return None;
        };
        let def = self.program.map(map);
        if !matches!(def.map_type, MapType::ARRAY | MapType::PERCPU_ARRAY) {
            return None;
        }
        let (slot, key) = stack::constant(state.frame(frame.into()), off, def.key_size as usize);
        let index = key.and_then(|key| u32::try_from(key).ok()).filter(|index| *index < def.max_entries)?;
        let at = Place { frame, mask: Mask { regs: 0, slots: 1 << slot } };
        self.history.demand_place(&self.program.insns, &state.at, state.depth(), argument.pc, at);
        Some(index)
    }

    /// What is held, is made, or is given back.
    fn resource_argument(&mut self, state: &mut State, argument: &Argument<'_>, given: &mut Given) -> Step<()> {
        let Argument { pc, proto, reg, arg, ref value, .. } = *argument;
        let helper = !kfunc::is_function(proto.id);
        match arg {
            Arg::Dynptr => {
                given.dynptr = Some(self.dynptr(state, reg, helper)?);
                Ok(())
            }
            Arg::DynptrNew(kind) => self.dynptr_new(state, pc, reg, New::Of(kind), helper),
            Arg::DynptrClone => match given.dynptr {
                Some(of) => self.dynptr_new(state, pc, reg, New::Clone(of), helper),
                None => Err(refuse(reg, "a clone without a dynptr".to_owned())),
            },
            Arg::DynptrReleased => {
                given.released = Some(self.dynptr_released(state, reg)?.owner);
                Ok(())
            }
            Arg::SpinLock => self.spin_lock(state, pc, reg, proto.id == helper::id::SPIN_LOCK),
            Arg::Record if !matches!(value.kind, Kind::Record(_)) => Err(argument.expected("ringbuf_mem")),
            Arg::Record => returned(state, reg, Resource::Record, given),
            Arg::Released(class) => {
                if !matches!(value.kind, Kind::Mem(_) | Kind::Handle(_)) {
                    return Err(argument.expected("handle"));
                }
                returned(state, reg, Resource::Handle(class), given)
            }
            Arg::Borrowed(class) => {
                let of_class = state.held(value.owner).is_some_and(|held| held.what == Resource::Handle(class));
                let whole = !value.nullable && value.fixed_offset() == Some(0);
                if of_class && whole { Ok(()) } else { Err(argument.expected(&format!("handle of class {}", class.0))) }
            }
            _ => unreachable!("callers pass resources"),
        }
    }

    /// The size in `reg` of the memory in the argument before.
    fn sized(&mut self, state: &mut State, argument: &Argument<'_>) -> Step<()> {
        let Argument { pc, proto, i, reg, value, .. } = *argument;
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
    fn scratch(&mut self, state: &mut State, argument: &Argument<'_>) -> Step<()> {
        let Argument { i, reg, .. } = *argument;
        let memory = ARGS[i - 1];
        let kept = *state.reg(memory);
        // The function itself finds null.
        state.cur.regs[memory.index()].nullable = false;
        let checked = self.sized(state, argument);
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
