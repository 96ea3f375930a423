//! Global subprograms: verified once on their own from their BTF signature, and trusted at calls that match it.

use super::cfg::Flow;
use super::explore::{Verifier, first_frame};
use super::reject::{Fail, MEMORY, Rejection, Rule, Step};
use super::state::{Kind, State, Value};
use crate::context::TypeDesc;
use crate::helper;
use crate::insn::{Insn, Pc, Reg};
use crate::link::{FuncSig, Program, SubprogId, Subprogram, TypeKind};

/// What a global function wants in an argument.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Param {
    Scalar,
    Context,
    /// Memory of so many bytes.
    Memory {
        size: u32,
        nullable: bool,
    },
    /// A dynptr, which stays the caller's.
    Dynptr,
}

/// What global functions take and give back; the error is the message.
fn params(sub: &Subprogram, sig: &FuncSig, desc: &TypeDesc) -> Result<Vec<Param>, (Rule, String)> {
    let name = &sub.name;
    if !matches!(sig.ret, TypeKind::Int { .. } | TypeKind::Enum { .. }) {
        return Err((Rule::Call, format!("Global function {name}() doesn't return scalar. Only those are supported.")));
    }
    if sig.params.len() > 5 {
        let text = format!("Global function {name}() with {} > 5 args. Buggy compiler.", sig.params.len());
        return Err((Rule::Call, text));
    }
    let one = |(i, (_, ty)): (usize, &(String, TypeKind))| {
        let tagged = |tag: &str| sig.tags.iter().any(|(n, t)| *n as usize == i && t == tag);
        let known = ["arg:ctx", "arg:nonnull", "arg:nullable"];
        let tags = || sig.tags.iter().filter(|(n, t)| *n as usize == i && t.starts_with("arg:"));
        if let Some((_, tag)) = tags().find(|(_, t)| !known.contains(&t.as_str())) {
            let what = match tag.as_str() {
                "arg:trusted" => ", a pointer to an object of the kernel",
                "arg:untrusted" => ", an unchecked pointer into the kernel",
                "arg:arena" => ", a pointer into an arena",
                _ => "",
            };
            return Err((Rule::Unsupported, format!("unsupported: arg#{i} of {name}() has tag {tag}{what}")));
        }
        let nullable = !tagged("arg:nonnull");
        let pointer = matches!(ty, TypeKind::Ptr(_));
        if !pointer && tags().next().is_some() {
            return Err((Rule::Call, format!("arg#{i} has pointer tag, but is not a pointer type")));
        }
        if nullable != tagged("arg:nullable") && tagged("arg:nullable") {
            return Err((Rule::Call, format!("arg#{i} of {name}() is marked as both nullable and non-null")));
        }
        if pointer && tagged("arg:ctx") {
            return Ok(Param::Context);
        }
        match ty {
            TypeKind::Int { .. } | TypeKind::Enum { .. } => Ok(Param::Scalar),
            TypeKind::Ptr(to) => pointed(to, i, nullable, desc),
            _ => Err((Rule::Call, format!("Arg#{i} type in {name}() is not supported yet."))),
        }
    };
    sig.params.iter().enumerate().map(one).collect()
}

/// What a pointer to `to`, parameter `i` of a global function, stands for.
fn pointed(to: &TypeKind, i: usize, nullable: bool, desc: &TypeDesc) -> Result<Param, (Rule, String)> {
    match to {
        TypeKind::Struct { name: s, .. } if !s.is_empty() && s == desc.context.name => Ok(Param::Context),
        TypeKind::Struct { name: s, .. } if s == "bpf_dynptr" => Ok(Param::Dynptr),
        TypeKind::Struct { size, .. } | TypeKind::Int { size, .. } | TypeKind::Enum { size } if *size > 0 => {
            Ok(Param::Memory { size: *size, nullable })
        }
        TypeKind::Ptr(_) => Ok(Param::Memory { size: 8, nullable }),
        TypeKind::Other { kind, size } if kind == "array" && *size > 0 => Ok(Param::Memory { size: *size, nullable }),
        other => {
            let what = match other {
                TypeKind::Other { kind, .. } => match kind.split_once(' ') {
                    Some((kind, name)) => format!("{} {name}", kind.to_uppercase()),
                    None => format!("{} ", kind.to_uppercase()),
                },
                _ => "UNKNOWN ".to_owned(),
            };
            Err((Rule::Call, format!("arg#{i} reference type('{what}') size cannot be determined: -22")))
        }
    }
}

/// The registers a global function starts with.
pub(super) fn entry(v: &mut Verifier<'_>, func: SubprogId) -> Result<State, Box<Rejection>> {
    let sub = &v.program.subprogs[func.0 as usize];
    let mut state = State::new(first_frame(v.program, func));
    let Some(sig) = &sub.signature else { return Ok(state) };
    let params = params(sub, sig, v.desc).map_err(|(rule, text)| Rejection::new(v.program, sub.start, rule, text))?;
    for (i, param) in params.into_iter().enumerate() {
        let value = match param {
            Param::Scalar => Value::UNKNOWN,
            Param::Context => Value::pointer(Kind::Ctx),
            Param::Dynptr => Value { owner: v.ids.next(), ..Value::pointer(Kind::Dynptr) },
            Param::Memory { size, nullable } => {
                let id = if nullable { v.ids.next() } else { 0 };
                Value { nullable, id, ..Value::pointer(Kind::Mem(size)) }
            }
        };
        state.set(Reg::ALL[i + 1], value);
    }
    Ok(state)
}

impl Verifier<'_> {
    /// Checks the arguments of a call of global function `func`, and steps over it.
    pub(super) fn call_global(&mut self, state: &mut State, pc: Pc, func: SubprogId) -> Step<()> {
        let sub = &self.program.subprogs[func.0 as usize];
        let Some(sig) = &sub.signature else { unreachable!("callers check the signature") };
        let moves_packet = self.moves_packet[func.0 as usize];
        self.say(|| format!("Func#{} ('{}') is global and assumed valid.", func.0, sub.name));
        let params = params(sub, sig, self.desc).map_err(|(rule, text)| Fail::new(rule, text))?;
        if state.lock().is_some() {
            let text = "global function calls are not allowed while holding a lock, use static function instead";
            return Err(Fail::new(Rule::Resource, text));
        }
        for (i, param) in params.into_iter().enumerate() {
            self.global_argument(state, pc, i, param, moves_packet).map_err(|mut fail| {
                let text = format!("\nCaller passes invalid args into func#{} ('{}')", func.0, sub.name);
                fail.message.push_str(&text);
                fail
            })?;
        }
        if moves_packet {
            state.forget_packet(self.options.trust);
        }
        state.clobber();
        state.set(Reg::R0, Value::UNKNOWN);
        Ok(())
    }
}

impl Verifier<'_> {
    /// Checks argument `i` of a call of a global function.
    fn global_argument(&mut self, state: &mut State, pc: Pc, i: usize, param: Param, moves_packet: bool) -> Step<()> {
        let reg = Reg::ALL[i + 1];
        let value = self.readable(state, reg)?;
        let n = reg.number();
        let wrong = |text: String| Err(Fail::new(Rule::Call, text).with(reg));
        match param {
            Param::Scalar if value.is_scalar() => Ok(()),
            Param::Scalar => wrong(format!("R{n} is not a scalar: {}", value.name())),
            Param::Context if value.kind == Kind::Ctx => match value.fixed_offset() {
                Some(0) => Ok(()),
                _ => wrong(format!("dereference of modified ctx ptr R{n} off={} disallowed", value.off)),
            },
            Param::Context => wrong(format!("arg#{i} expected pointer to ctx, but got {}", value.name())),
            Param::Dynptr => self.dynptr(state, reg, false).map(|_| ()),
            Param::Memory { size, nullable } => {
                if value.is_scalar() {
                    self.demand(state, pc, reg);
                    if nullable && value.is_null() {
                        return Ok(());
                    }
                    let wanted = MEMORY;
                    return wrong(format!("R{n} type={} expected={wanted}", value.name()));
                }
                if value.in_packet() && moves_packet {
                    return wrong(format!("R{n} points into the packet, which the function may move"));
                }
                if value.nullable && !nullable {
                    return wrong(format!("arg#{i} is expected to be non-NULL"));
                }
                let kept = state.cur.regs[reg.index()];
                state.cur.regs[reg.index()].nullable = false;
                let checked = self.buffer(state, reg, size.into(), true, true);
                state.cur.regs[reg.index()] = kept;
                checked
            }
        }
    }
}

/// By function: whether it, or anything it calls, may leave packet pointers stale.
pub(super) fn moves_packet(program: &Program, flow: &Flow, helpers: &helper::Table) -> Vec<bool> {
    let mut out = vec![false; program.subprogs.len()];
    for (pc, insn) in program.insns.iter() {
        if let Insn::Call { helper } = insn {
            let moves = helper == helper::id::TAIL_CALL || helpers.get(helper).is_some_and(|p| p.changes_packet);
            out[flow.func[pc.index()] as usize] |= moves;
        }
    }
    for &f in flow.order.iter().rev() {
        let below = flow.callees[f.0 as usize].iter().any(|g| out[g.0 as usize]);
        out[f.0 as usize] |= below;
    }
    out
}
