//! Choices → a suite, with mistakes or damage at times → every engine leaves the same behind.
#![no_main]

use std::cell::RefCell;

use livebpf_testgen::Generator;
use livebpf_testgen::differential::{Engines, Wrong};

thread_local! {
    static ENGINES: RefCell<Engines> = RefCell::new(Engines::new().expect("executable memory"));
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut generator = Generator::from_bytes(bytes);
    let mistakes = generator.source().pick(&[0, 0, 10, 40]);
    let damage = generator.source().chance(1, 4);
    ENGINES.with_borrow_mut(|engines| {
        if let Err(difference) = engines.check(&mut generator, Wrong { mistakes, damage }) {
            panic!("{difference}");
        }
    });
});
