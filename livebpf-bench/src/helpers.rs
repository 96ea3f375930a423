//! `ktime_get_ns`, `smp_processor_id`, `prandom_u32`: one call of a helper of the kernel's that takes no argument, in a loop; and
//! `helper_call`: one of a function of the embedder's, which the kernel has not. `redirect` and `redirect_map`: one call that says where
//! the packet is to go, in a loop; `redirect_verdict`: a run that ends with such a call, beside one that does not.
//!
//! The loop is in the figures of the first three, as nothing else would be left of some of them; of the others it is taken off.

use std::sync::Arc;

use livebpf::object::{MapDef, MapType, ProgType, ProgramKind};

use crate::contestant::Contestant;
use crate::programs;
use crate::row::Wanted;
use crate::work::{Item, Task, Work};

/// Calls in a run.
const CALLS: u32 = 1000;
/// The number by which programs call the embedder's function: answers its argument plus one.
pub const PLUS_ONE: u32 = livebpf::helper::FIRST_CUSTOM;

/// Row, number and name of the helper, what is wanted beside the kernel.
const HELPERS: [(&str, &str, f64); 3] = [
    ("ktime_get_ns", "call bpf_ktime_get_ns#5", 0.8),
    ("smp_processor_id", "call bpf_get_smp_processor_id#8", 1.5),
    ("prandom_u32", "call bpf_get_prandom_u32#7", 0.3),
];

pub fn items() -> Vec<Item> {
    let item =
        |(name, call, factor)| Item::new(name, vec![Wanted::Of(Contestant::Kernel, factor)], move || calls(call));
    let mut items: Vec<Item> = HELPERS.map(item).into();
    items.push(Item::new("helper_call", vec![Wanted::Of(Contestant::Rbpf, 1.05)], helper_call));
    items.push(Item::new("redirect", Vec::new(), || redirects("r1 = 1\nr2 = 0\ncall bpf_redirect#23")));
    items.push(Item::new("redirect_map", Vec::new(), || redirects(REDIRECT_MAP)));
    items.push(Item::new("redirect_verdict", Vec::new(), redirect_verdict));
    items
}

/// A redirection to the first entry of a map.
const REDIRECT_MAP: &str = "r1 = map[idx:0]\nr2 = 0\nr3 = 2\ncall bpf_redirect_map#51";

/// A program on received packets, with a map of devices where it has maps.
fn received(name: &str, source: &str, answer: u32) -> Work {
    let mut program = programs::program(name, source);
    program.kind = ProgramKind::new(ProgType::XDP);
    let has_map = source.contains("map[");
    let devices = has_map.then(|| MapDef::new("bench_devices", MapType::DEVMAP, 4, 4, 4));
    program.maps = devices.into_iter().map(Arc::new).collect();
    Work { devices: has_map.then_some("bench_devices"), ..Work::of(program, answer) }
}

/// A loop of redirections, whose packets pass in the end. Their verdicts, `XDP_REDIRECT`, add up.
fn redirects(call: &str) -> Task {
    let around = |body: &str| {
        format!("r6 = 0\nr7 = {CALLS}\nloop: {body}\nr6 += r0\nr7 -= 1\nif r7 != 0 goto loop\nr0 = 2\nexit")
    };
    let work = received("bench_redirect", &around(call), 2);
    let base = received("bench_no_redirect", &around("r0 = r7"), 2);
    Task { work, base: Some(base), per: f64::from(CALLS) }
}

fn redirect_verdict() -> Task {
    let work = received("bench_redirect", &format!("{REDIRECT_MAP}\nexit"), 4);
    Task { work, base: Some(received("bench_no_redirect", "r0 = 2\nexit", 2)), per: 1.0 }
}

/// A loop of calls. The answer, that of a processor's number of less than 2^16 or of any number made 0, does not depend on theirs.
fn calls(call: &str) -> Task {
    let source = format!(
        "r6 = 0\nr7 = {CALLS}\nloop: {call}\nr6 |= r0\nr7 -= 1\nif r7 != 0 goto loop\nr6 &= 0\nr0 = r6\nr0 += 1\nexit"
    );
    Task::over_empty(Work::of(programs::program("bench_helper", &source), 1), CALLS)
}

fn helper_call() -> Task {
    let around =
        |body: &str| format!("r6 = 0\nr7 = {CALLS}\nloop: {body}\nr7 -= 1\nif r7 != 0 goto loop\nr0 = r6\nexit");
    let called = around(&format!("r1 = r6\ncall plus_one#{PLUS_ONE}\nr6 = r0"));
    let work = Work::of(programs::program("bench_helper", &called), CALLS).native("helper_loop").plain();
    let work = Work { embedder: true, ..work };
    let base = Work::of(programs::program("bench_no_helper", &around("r6 += 1")), CALLS).native("no_call_loop").plain();
    Task { work, base: Some(base), per: f64::from(CALLS) }
}
