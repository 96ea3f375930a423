//! Choices → programs, some with mistakes or damage → verifier → those it accepts run without a fault.
#![no_main]

use std::cell::RefCell;

use livebpf_testgen::bench::{Bench, Engine};
use livebpf_testgen::{Generator, Shape, checks};

thread_local! {
    static BENCH: RefCell<Bench> = RefCell::new(Bench::new(Engine::Interp).expect("a runtime"));
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut generator = Generator::from_bytes(bytes);
    let kind = generator.source().below(4);
    let shape = if kind & 1 == 0 { Shape::xdp() } else { Shape::sched_cls() };
    let mistakes = generator.source().below(40);
    BENCH.with_borrow_mut(|bench| {
        checks::soundness(bench, &mut generator, &shape.with_mistakes(mistakes), kind & 2 != 0);
    });
});
