//! Choices → machine code → what iced-x86 reads.
#![no_main]

use livebpf_testgen::{Source, machine};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| machine::check(&mut Source::bytes(bytes)));
