//! Bytes → BTF → names, sizes, what types stand for.
#![no_main]

use livebpf_testgen::checks;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| checks::btf(bytes));
