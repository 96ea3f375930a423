//! `tail_call_*`, `empty_slot_*`: what one tail call costs.
//!
//! * `tail_call_direct_N`, `tail_call_indirect_N`: N hops through N + 1 different programs, each of which calls the next; `_self`: 33
//!   hops of a program into itself, until the limit lets it go on.
//! * `empty_slot_*`: 100 calls in a row of a slot without a program.
//!
//! Direct: map and index are constants; indirect: the index is read from a global variable, and that is in the figure. Taken off is
//! a run of nothing.

use std::fmt::Write as _;
use std::sync::Arc;

use livebpf::link::Program;
use livebpf::object::{MapDef, MapInit, MapType};

use crate::contestant::Contestant;
use crate::programs;
use crate::row::Wanted;
use crate::work::{Item, Shape, Slot, Task, Work};

/// The limit on tail calls in one run.
pub const LIMIT: u32 = 33;
/// Empty slots in a row.
const EMPTY: u32 = 100;
const ARRAY: &str = "bench_slots";
/// Other lengths of a chain: what one hop costs must not depend on how many there are.
const LENGTHS: [u32; 4] = [2, 4, 8, 16];

/// How a call finds its slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    Direct,
    Indirect,
}

pub fn items() -> Vec<Item> {
    let kernel = |factor| vec![Wanted::Of(Contestant::Kernel, factor)];
    let replays = [Contestant::Replay2020, Contestant::Replay618].map(|replay| Wanted::Of(replay, 0.25));
    let direct = kernel(0.2).into_iter().chain(replays).collect();
    let mut items = vec![
        Item::new("tail_call_direct_33", direct, || hops(Way::Direct, LIMIT)),
        Item::new("tail_call_direct_self", kernel(0.6), || itself(Way::Direct)),
        Item::new("tail_call_indirect_33", kernel(0.12), || hops(Way::Indirect, LIMIT)),
        Item::new("tail_call_indirect_self", Vec::new(), || itself(Way::Indirect)),
        Item::new("empty_slot_direct", kernel(1.0), || empty_slot(Way::Direct)),
        Item::new("empty_slot_indirect", kernel(1.0), || empty_slot(Way::Indirect)),
    ];
    let other =
        |hops_: u32| Item::new(format!("tail_call_direct_{hops_}"), Vec::new(), move || hops(Way::Direct, hops_));
    items.extend(LENGTHS.map(other));
    items
}

/// A chain of `hops` calls, each of the next program.
pub fn hops(way: Way, hops: u32) -> Task {
    let array = programs::array(hops + 1);
    let hop = |n: u32| calls(&format!("bench_hop_{n}"), way, &array, n + 1, 1, n);
    let mut programs: Vec<Program> = (0..hops).map(hop).collect();
    programs.push(programs::answers("bench_last", hops));
    let slots = (1..=hops).map(|n| Slot { array: ARRAY, index: n, program: n as usize }).collect();
    let work = Work { programs, slots, ..Work::of(programs::answers("", 0), hops) };
    Task::over_empty(work.shape(Shape::Chain { way, hops }), hops)
}

/// A program that calls itself up to the limit.
fn itself(way: Way) -> Task {
    let program = calls("bench_self", way, &programs::array(1), 0, 1, 1);
    let slots = vec![Slot { array: ARRAY, index: 0, program: 0 }];
    Task::over_empty(Work { slots, ..Work::of(program, 1) }.shape(Shape::Itself { way }), LIMIT)
}

/// Calls that fall through.
fn empty_slot(way: Way) -> Task {
    let program = calls("bench_empty_slot", way, &programs::array(4), 1, EMPTY, 1);
    Task::over_empty(Work::of(program, 1).shape(Shape::Empty { way, sites: EMPTY }), EMPTY)
}

/// `count` calls of slot `index`, one after the other, then `answer`.
fn calls(name: &str, way: Way, array: &MapDef, index: u32, count: u32, answer: u32) -> Program {
    let mut source = String::new();
    // Registers that calls leave alone are needed where there are several: for the context, and for an index that is read once.
    let (context, at) = if count > 1 { ("r6", "r7") } else { ("r1", "r3") };
    if count > 1 {
        source += "r6 = r1\n";
    }
    if way == Way::Indirect {
        // The verifier cannot know that it is 0.
        let _ = writeln!(source, "r2 = map[idx:1][0]+0\n{at} = *(u32 *)(r2 + 0)\n{at} += {index}");
    }
    for _ in 0..count {
        if count > 1 {
            let _ = writeln!(source, "r1 = {context}");
        }
        let _ = match way {
            Way::Direct => writeln!(source, "r2 = map[idx:0]\nr3 = {index}\ncall bpf_tail_call#12"),
            Way::Indirect if count > 1 => writeln!(source, "r2 = map[idx:0]\nr3 = {at}\ncall bpf_tail_call#12"),
            Way::Indirect => writeln!(source, "r2 = map[idx:0]\ncall bpf_tail_call#12"),
        };
    }
    let _ = writeln!(source, "r0 = {answer}\nexit");
    let mut program = programs::program(name, &source);
    program.maps = vec![Arc::new(array.clone())];
    if way == Way::Indirect {
        program.maps.push(Arc::new(zero()));
    }
    program
}

/// A global variable of a map's single value: 0.
fn zero() -> MapDef {
    let mut def = MapDef::new("bench.bss", MapType::ARRAY, 4, 8, 1);
    def.init = MapInit::Data(vec![0; 8]);
    def
}
