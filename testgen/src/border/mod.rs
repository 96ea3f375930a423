//! Programs near the border between what is safe and what is not: for finding a verifier that accepts too much.
//!
//! [`structured`](crate::structured) makes programs that people write. These are what an attacker writes: numbers of which little
//! is known are narrowed in every way that a verifier follows (masks, comparisons of all kinds and widths, bit tests, shifts,
//! copies, spills, sign extension), then used at the very edge of the stack, a map's value or the packet. What a program holds
//! is followed by kind only; nothing here computes bounds, so that no mistake of a verifier can be repeated here. Now and then
//! ([`Border::slips`]) a step is left out or a bound is one too large. [`tweak`] changes one thing in a program that was
//! accepted, which is where a verifier that believes too much shows.
//!
//! All programs of one [`ProgType`] share [`maps`], so that they can run one after the other on the same maps.

mod call;
mod flow;
mod held;
mod number;
mod place;
pub mod tweak;
mod writer;

use std::sync::Arc;

use livebpf::insn::{Imm64, Insn, Insns, Pc, Reg, Src, Width};
use livebpf::link::{FuncSig, Program, Subprogram, TypeKind};
use livebpf::object::{MapDef, MapInit, MapType, ProgType, ProgramKind, SpecialField, SpecialKind};

use crate::Source;
use writer::{Body, Writer};

/// The functions of iterators.
const ITERATOR: [&str; 3] = ["bpf_iter_num_new", "bpf_iter_num_next", "bpf_iter_num_destroy"];

/// Program types that are made.
pub const TYPES: [ProgType; 4] = [ProgType::XDP, ProgType::SCHED_CLS, ProgType::SOCKET_FILTER, ProgType::CGROUP_SKB];

/// Indexes of the maps in [`maps`].
pub(crate) mod map {
    pub(crate) const SINGLE: usize = 0;
    pub(crate) const ARRAY: usize = 1;
    pub(crate) const HASH: usize = 2;
    pub(crate) const PERCPU: usize = 3;
    pub(crate) const CALLS: usize = 4;
    pub(crate) const FROZEN: usize = 5;
    pub(crate) const RING: usize = 6;
    pub(crate) const LOCKED: usize = 7;
}

/// The maps that every generated program of `prog_type` refers to, in this order. Their names are the same for all types,
/// except for the program array, which takes programs of one type only.
pub fn maps(prog_type: ProgType) -> Vec<Arc<MapDef>> {
    let mut frozen = MapDef::new(".rodata", MapType::ARRAY, 4, 24, 1);
    frozen.section = Some(".rodata".to_owned());
    frozen.frozen = true;
    frozen.init = MapInit::Data((0..24u8).map(|i| i.wrapping_mul(37) ^ 5).collect());
    let mut locked = MapDef::new("locked", MapType::ARRAY, 4, 24, 1);
    locked.special.push(SpecialField { kind: SpecialKind::SpinLock, offset: 4, size: 4 });
    let maps = [
        MapDef::new("single", MapType::ARRAY, 4, 48, 1),
        MapDef::new("array", MapType::ARRAY, 4, 20, 3),
        MapDef::new("hash", MapType::HASH, 8, 16, 4),
        MapDef::new("percpu", MapType::PERCPU_ARRAY, 4, 8, 2),
        MapDef::new(&format!("calls_{}", prog_type.0), MapType::PROG_ARRAY, 4, 4, 4),
        frozen,
        MapDef::new("ring", MapType::RINGBUF, 0, 0, 4096),
        locked,
    ];
    maps.into_iter().map(Arc::new).collect()
}

/// What programs are like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Border {
    /// Slips per thousand opportunities.
    pub slips: u32,
    /// Steps of the main function, at most.
    pub steps: u32,
}

impl Default for Border {
    fn default() -> Border {
        Border { slips: 12, steps: 12 }
    }
}

/// What a subprogram takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Param {
    /// The context.
    Ctx,
    /// A number.
    Number,
    /// A pointer to so many bytes of the caller's stack.
    Buffer(u32),
    /// Something that is not used.
    Opaque,
}

/// What calls a callback.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Callback {
    /// `bpf_loop`
    Loop,
    /// `bpf_for_each_map_elem`
    Each,
}

/// How programs know the functions of iterators: by their place in [`Program::kfuncs`].
pub(crate) const ITER_NEW: i32 = 1;
pub(crate) const ITER_NEXT: i32 = 2;
pub(crate) const ITER_DESTROY: i32 = 3;

/// A subprogram before it is written.
#[derive(Clone, Debug)]
pub(crate) struct Signature {
    pub params: Vec<Param>,
    /// Verified on its own.
    pub global: bool,
    /// Called by a helper only.
    pub callback: Option<Callback>,
}

/// What all functions of a program share.
pub(crate) struct Env {
    pub prog_type: ProgType,
    pub maps: Vec<Arc<MapDef>>,
    pub subprograms: Vec<Signature>,
}

/// Makes one program with the maps of [`maps`].
pub fn program(source: &mut Source<'_>, border: &Border, maps_of: &dyn Fn(ProgType) -> Vec<Arc<MapDef>>) -> Program {
    let prog_type = source.pick(&TYPES);
    let count = [0, 0, 0, 1, 1, 2][source.below(6) as usize];
    let subprograms: Vec<Signature> = (0..count).map(|_| signature(source)).collect();
    let env = Env { prog_type, maps: maps_of(prog_type), subprograms };
    let bodies: Vec<Body> = (0..=count).map(|index| Writer::function(source, border, &env, index)).collect();
    assemble(&env, bodies)
}

fn signature(source: &mut Source<'_>) -> Signature {
    if source.chance(1, 3) {
        let callback = source.pick(&[Callback::Loop, Callback::Each]);
        return Signature { params: held::callback_params(callback), global: false, callback: Some(callback) };
    }
    let global = source.chance(1, 3);
    let mut params = Vec::new();
    if source.chance(2, 3) {
        params.push(Param::Ctx);
    }
    for _ in 0..source.below(4) {
        params.push(match source.below(3) {
            0 => Param::Number,
            1 => Param::Buffer(source.pick(&[8, 4, 16])),
            _ => Param::Number,
        });
    }
    Signature { params, global, callback: None }
}

/// The functions that are called, one after the other.
fn assemble(env: &Env, bodies: Vec<Body>) -> Program {
    let mut called = vec![false; bodies.len()];
    called[0] = true;
    for index in 0..bodies.len() {
        if called[index] {
            bodies[index].calls.iter().for_each(|&(_, callee)| called[callee] = true);
        }
    }
    let (mut insns, mut calls, mut subprogs) = (Insns::default(), Vec::new(), Vec::new());
    let mut starts = vec![Pc(0); bodies.len()];
    for (index, body) in bodies.iter().enumerate().filter(|(index, _)| called[*index]) {
        let start = insns.append(&body.insns);
        starts[index] = start;
        calls.extend(body.calls.iter().map(|&(pc, callee)| (Pc(start.0 + pc.0), callee)));
        let signature = index.checked_sub(1).and_then(|i| env.subprograms.get(i));
        subprogs.push(Subprogram {
            name: if index == 0 { "border".to_owned() } else { format!("sub_{index}") },
            start,
            end: Pc(insns.len()),
            global: signature.is_none_or(|s| s.global),
            signature: Some(btf(env, signature)),
        });
    }
    for (pc, callee) in calls {
        let off = starts[callee].0 as i32 - pc.0 as i32 - 1;
        let insn = match insns.get(pc) {
            Some(Insn::LoadImm64 { dst, .. }) => Insn::LoadImm64 { dst, value: Imm64::Func { off } },
            _ => Insn::CallSubprog { off },
        };
        insns.replace(pc, insn);
    }
    let bare = Program::bare("border", ProgramKind::new(env.prog_type), insns);
    let kfuncs = ITERATOR.map(str::to_owned).to_vec();
    Program { subprogs, kfuncs, maps: env.maps.clone(), license: "Dual MIT/GPL".to_owned(), ..bare }
}

/// The signature that BTF would give.
fn btf(env: &Env, signature: Option<&Signature>) -> FuncSig {
    let name = if env.prog_type == ProgType::XDP { "xdp_md" } else { "__sk_buff" };
    let size = if env.prog_type == ProgType::XDP { 24 } else { 192 };
    let context = TypeKind::Ptr(Box::new(TypeKind::Struct { name: name.to_owned(), size }));
    let number = |size| TypeKind::Int { size, signed: false };
    let params = match signature {
        None => vec![("ctx".to_owned(), context)],
        Some(signature) => {
            let kind = |param: &Param| match *param {
                Param::Ctx => context.clone(),
                Param::Number | Param::Opaque => number(8),
                Param::Buffer(16) => TypeKind::Ptr(Box::new(TypeKind::Struct { name: "pair".to_owned(), size: 16 })),
                Param::Buffer(size) => TypeKind::Ptr(Box::new(number(size))),
            };
            signature.params.iter().enumerate().map(|(i, param)| (format!("a{i}"), kind(param))).collect()
        }
    };
    FuncSig { ret: TypeKind::Int { size: 4, signed: true }, params, tags: Vec::new() }
}

/// A program that ends with `result`.
pub fn constant(prog_type: ProgType, result: i32) -> Program {
    let mov = Insn::Mov { width: Width::W64, dst: Reg::R0, src: Src::Imm(result) };
    Program::bare("constant", ProgramKind::new(prog_type), Insns::from_vec([mov, Insn::Exit]))
}

#[cfg(test)]
mod tests;
