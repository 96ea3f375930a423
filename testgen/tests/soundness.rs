//! Whatever the verifier accepts runs in the checking interpreter without a fault: generated programs, with and
//! without mistakes, and damaged ones. `LIVEBPF_GENERATED` sets how many suites are made (default 2,000).

use std::panic::AssertUnwindSafe;

use livebpf::runtime::Engine;
use livebpf_testgen::bench::Bench;
use livebpf_testgen::checks::{Verdicts, soundness};
use livebpf_testgen::{Generator, Shape};

fn suites() -> u64 {
    std::env::var("LIVEBPF_GENERATED").ok().and_then(|n| n.parse().ok()).unwrap_or(2_000)
}

fn first_seed() -> u64 {
    std::env::var("LIVEBPF_SEED").ok().and_then(|n| n.parse().ok()).unwrap_or(1)
}

fn explore(mistakes: u32, mutants: bool) -> Verdicts {
    let mut all = Verdicts::default();
    let mut bench = Bench::new(Engine::Interp).expect("a runtime");
    for seed in first_seed()..first_seed() + suites() / 3 {
        let shape = if seed % 2 == 0 { Shape::xdp() } else { Shape::sched_cls() };
        let shape = Shape { mistakes, ..shape };
        let check = AssertUnwindSafe(|| soundness(&mut bench, &mut Generator::new(seed), &shape, mutants));
        let result = std::panic::catch_unwind(check);
        let found = result.unwrap_or_else(|_| panic!("seed {seed}, mistakes {mistakes}, mutants {mutants}"));
        all.accepted += found.accepted;
        all.refused += found.refused;
    }
    all
}

#[test]
fn programs_without_mistakes() {
    let all = explore(0, false);
    assert!(all.accepted > 9 * all.refused, "{all:?}");
}

#[test]
fn programs_with_mistakes() {
    let all = explore(15, false);
    assert!(all.accepted > 0 && all.refused > 0, "{all:?}");
}

#[test]
fn damaged_programs() {
    let all = explore(0, true);
    assert!(all.accepted > 0 && all.refused > 0, "{all:?}");
}
