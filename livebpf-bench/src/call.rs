//! `subprogram_call`, `subprogram_call_leaf`, `subprogram_tail_call`: what a function costs that is not the main one: called with one
//! argument, and returning; the same of one so small that a code generator may put it in place of its calls, which the branch in the first
//! one forbids ours; and where it calls on into another program, which then returns in its place. Taken off is the same loop without the call.

use std::sync::Arc;

use livebpf::insn::text;
use livebpf::link::{FuncSig, Program, TypeKind};
use livebpf::object::{ProgType, ProgramKind};

use crate::contestant::Contestant;
use crate::programs;
use crate::row::Wanted;
use crate::work::{Each, Item, Shape, Slot, Task, Work};

/// Calls in a run.
const CALLS: u32 = 1000;
/// Tail calls in a run: one less than the limit.
const TAIL_CALLS: u32 = 32;
const ARRAY: &str = "bench_slots";

pub fn items() -> Vec<Item> {
    let kernel = |factor| vec![Wanted::Of(Contestant::Kernel, factor)];
    vec![
        Item::new(
            "subprogram_call",
            vec![Wanted::Of(Contestant::Kernel, 0.2), Wanted::Of(Contestant::Rbpf, 0.9)],
            || subprogram_call("sub: r0 = r1\nif r0 == -1 goto out\nr0 += 1\nout: exit"),
        ),
        Item::new("subprogram_call_leaf", Vec::new(), || subprogram_call("sub: r0 = r1\nr0 += 1\nexit")),
        Item::new("subprogram_tail_call", kernel(0.25), subprogram_tail_call),
    ]
}

/// One more, as often as `sub` is called.
fn subprogram_call(sub: &str) -> Task {
    let around = |body: &str, behind: &str| {
        format!("r6 = 0\nr7 = {CALLS}\nloop: {body}\nr7 -= 1\nif r7 != 0 goto loop\nr0 = r6\nexit\n{behind}")
    };
    let called = around("r1 = r6\ncall sub\nr6 = r0", sub);
    let work =
        Work::of(functions("bench_call", &called), CALLS).native("call_loop").plain().shape(loops(CALLS, Each::Calls));
    let base = Work::of(functions("bench_no_call", &around("r6 += 1", "")), CALLS)
        .native("no_call_loop")
        .plain()
        .shape(loops(CALLS, Each::Adds(1)));
    Task { work, base: Some(base), per: f64::from(CALLS) }
}

fn subprogram_tail_call() -> Task {
    let around = |body: &str, behind: &str| {
        format!(
            "r6 = r1\nr7 = {TAIL_CALLS}\nr8 = 0\nloop: {body}\nr8 += r0\nr7 -= 1\nif r7 != 0 goto loop\nr0 = r8\nexit\n{behind}"
        )
    };
    let sub = "sub: r2 = map[idx:0]\nr3 = 0\ncall bpf_tail_call#12\nr0 = 1\nexit";
    let mut caller = functions("bench_call", &around("r1 = r6\ncall sub", sub));
    caller.maps = vec![Arc::new(programs::array(1))];
    let base = Work::of(functions("bench_no_call", &around("r0 = 2", "")), 2 * TAIL_CALLS)
        .shape(loops(TAIL_CALLS, Each::Adds(2)));
    let programs = vec![caller, programs::answers("bench_leaf", 2)];
    let slots = vec![Slot { array: ARRAY, index: 0, program: 1 }];
    let work = Work { slots, programs, ..Work::of(programs::answers("", 0), 2 * TAIL_CALLS) };
    let work = work.shape(loops(TAIL_CALLS, Each::TailCall));
    Task { work, base: Some(base), per: f64::from(TAIL_CALLS) }
}

fn loops(count: u32, each: Each) -> Shape {
    Shape::Loop { count, each }
}

/// A program of the text `source`, with a function wherever a call leads.
fn functions(name: &str, source: &str) -> Program {
    let insns = text::assemble(source).expect("the text is made here");
    let mut program = Program::from_insns(name, ProgramKind::new(ProgType::SCHED_CLS), insns);
    // Tail calls in functions other than the main one are allowed where their types are known.
    let context = TypeKind::Ptr(Box::new(TypeKind::Struct { name: "__sk_buff".to_owned(), size: 192 }));
    let int = TypeKind::Int { size: 4, signed: true };
    let signature = FuncSig { ret: int, params: vec![("skb".to_owned(), context)], tags: Vec::new() };
    program.subprogs.iter_mut().for_each(|function| function.signature = Some(signature.clone()));
    program
}
