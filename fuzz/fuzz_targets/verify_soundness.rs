//! Choices → programs, some with mistakes or damage → verifier → those it accepts run without a fault.
#![no_main]

use livebpf_testgen::{Generator, Shape, checks};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut generator = Generator::from_bytes(bytes);
    let kind = generator.source().below(4);
    let shape = if kind & 1 == 0 { Shape::xdp() } else { Shape::sched_cls() };
    let mistakes = generator.source().below(40);
    checks::soundness(&mut generator, &shape.with_mistakes(mistakes), kind & 2 != 0);
});
