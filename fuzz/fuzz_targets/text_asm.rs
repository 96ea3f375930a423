//! Text → instructions → text → instructions.
#![no_main]

use livebpf_testgen::checks;

libfuzzer_sys::fuzz_target!(|source: &str| checks::listing(source));
