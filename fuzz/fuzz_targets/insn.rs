//! Bytes → instructions → text → instructions → bytes.
#![no_main]

use livebpf_testgen::checks;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| checks::wire(bytes));
