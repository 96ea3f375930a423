//! The seeds of the fuzz targets (fuzz/seeds) through what the targets check; those that are a program, a listing or BTF are taken.

use livebpf::insn::{Insns, text};
use livebpf::object::btf::Btf;
use livebpf_testgen::differential::Engines;
use livebpf_testgen::{Source, checks, graph, machine};

fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = format!("{}/../fuzz/seeds/{target}", env!("CARGO_MANIFEST_DIR"));
    let files = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{folder}: {error}"));
    let read = |path: std::path::PathBuf| (path.display().to_string(), std::fs::read(path).expect("a file"));
    let seeds: Vec<_> = files.map(|file| read(file.expect("an entry").path())).collect();
    assert!(!seeds.is_empty(), "{folder}");
    seeds
}

#[test]
fn programs_listings_and_types_are_taken() {
    for (path, bytes) in seeds("insn") {
        checks::wire(&bytes);
        Insns::decode(&bytes).unwrap_or_else(|error| panic!("{path}: {error}"));
    }
    for (path, bytes) in seeds("text_asm") {
        let listing = String::from_utf8(bytes).expect("text");
        checks::listing(&listing);
        text::assemble(&listing).unwrap_or_else(|error| panic!("{path}: {error}"));
    }
    for (path, bytes) in seeds("btf") {
        checks::btf(&bytes);
        Btf::parse(&bytes).unwrap_or_else(|error| panic!("{path}: {error}"));
    }
}

#[test]
fn choices_make_what_holds() {
    for (_, bytes) in seeds("asm") {
        machine::check(&mut Source::bytes(&bytes));
    }
    let mut engines = Engines::new().expect("executable memory");
    for (path, bytes) in seeds("tail_calls") {
        let mut source = Source::bytes(&bytes);
        let suite = graph::suite(&mut source);
        engines.check_suite(&mut source, suite).unwrap_or_else(|difference| panic!("{path}: {difference}"));
    }
}
