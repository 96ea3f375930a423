//! Global subprograms: verified once on their own from their BTF signature, and trusted at calls that match it.

use super::cfg::Flow;
use super::explore::{Verifier, first_frame};
use super::reject::{Fail, Rejection, Rule, Step};
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
        let odd = sig.tags.iter().find(|(n, t)| *n as usize == i && !["arg:ctx", "arg:nonnull"].contains(&t.as_str()));
        if let Some((_, tag)) = odd.filter(|(_, t)| t.starts_with("arg:")) {
            return Err((Rule::Unsupported, format!("unsupported: arg#{i} of {name}() has tag {tag}")));
        }
        let nullable = !tagged("arg:nonnull");
        let pointer = matches!(ty, TypeKind::Ptr(_));
        if pointer && tagged("arg:ctx") {
            return Ok(Param::Context);
        }
        match ty {
            TypeKind::Int { .. } | TypeKind::Enum { .. } => Ok(Param::Scalar),
            TypeKind::Ptr(to) => match &**to {
                TypeKind::Struct { name, .. } if name == desc.context.name => Ok(Param::Context),
                TypeKind::Struct { size, .. } | TypeKind::Int { size, .. } | TypeKind::Enum { size } if *size > 0 => {
                    Ok(Param::Memory { size: *size, nullable })
                }
                TypeKind::Ptr(_) => Ok(Param::Memory { size: 8, nullable }),
                TypeKind::Other { kind, size } if kind == "array" && *size > 0 => {
                    Ok(Param::Memory { size: *size, nullable })
                }
                _ => Err((Rule::Call, format!("arg#{i} type of {name}() is not supported: pointer to unknown size"))),
            },
            _ => Err((Rule::Call, format!("Arg#{i} type in {name}() is not supported yet."))),
        }
    };
    sig.params.iter().enumerate().map(one).collect()
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
        for (i, param) in params.into_iter().enumerate() {
            let reg = Reg::ALL[i + 1];
            let value = self.readable(state, reg)?;
            let n = reg.number();
            let wrong = |what: &str| {
                let text = format!("arg#{i} of {}(): R{n} is {}, expected {what}", sub.name, value.name());
                Err(Fail::new(Rule::Call, text).with(reg))
            };
            match param {
                Param::Scalar if value.is_scalar() => {}
                Param::Scalar => return wrong("a scalar"),
                Param::Context if value.kind == Kind::Ctx && value.fixed_offset() == Some(0) => {}
                Param::Context => return wrong("pointer to ctx"),
                Param::Memory { size, nullable } => {
                    if value.is_scalar() {
                        self.demand(pc, reg);
                        if nullable && value.is_null() {
                            continue;
                        }
                        return wrong("a pointer to memory");
                    }
                    if value.is_packet() && moves_packet {
                        return wrong("memory that the function cannot move");
                    }
                    let mut plain = value;
                    if nullable && value.nullable {
                        plain.nullable = false;
                    }
                    let kept = std::mem::replace(&mut state.cur.regs[reg.index()], plain);
                    let checked = self.buffer(state, reg, size.into(), true, true);
                    state.cur.regs[reg.index()] = kept;
                    checked?;
                }
            }
        }
        if moves_packet {
            state.forget_packet();
        }
        state.clobber();
        state.set(Reg::R0, Value::UNKNOWN);
        Ok(())
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
