//! Choices → call graphs with tail calls, and updates between their runs → every engine leaves the same behind.
#![no_main]

use std::cell::RefCell;

use livebpf_testgen::differential::Engines;
use livebpf_testgen::{Source, graph};

thread_local! {
    static ENGINES: RefCell<Engines> = RefCell::new(Engines::new().expect("executable memory"));
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut source = Source::bytes(bytes);
    let suite = graph::suite(&mut source);
    let programs = suite.programs.len() as u64;
    ENGINES.with_borrow_mut(|engines| match engines.check_suite(&mut source, suite) {
        Ok(counts) => assert_eq!(counts.accepted, programs, "all are to be accepted"),
        Err(difference) => panic!("{difference}"),
    });
});
