//! Text → commands of a batch → each carried out, or refused with a reason and without a trace.
#![no_main]

use livebpf_cli::commands;

const OBJECT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../livebpf/tests/data/scenarios/tailcall_2.o");

libfuzzer_sys::fuzz_target!(|text: &str| commands::check(OBJECT.as_ref(), text));
