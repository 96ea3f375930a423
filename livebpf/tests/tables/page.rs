//! docs/conformance.md: what passes in which engine, and every exception by name. Written from the results.

use std::fmt::Write as _;
use std::path::PathBuf;

use super::Results;
use crate::verdicts::ENGINES;

const HEAD: &str = "\
# Conformance

Written by `LIVEBPF_BLESS=1 cargo test -p livebpf --test conformance -- the_page`, from tables that are no part of the project; the same
test compares this page with the results wherever the tables are. All engines answer the same programs: *interp* is the checking
interpreter, *jit* machine code with patched tail calls, *slot* machine code whose tail calls read their slots.

";

const TAIL: &str = "
How a row is judged:

* bpf_conformance: instructions and memory as in the suite, loaded through the unverified door, all 64 bits of R0 compared. The suite itself runs
  the same programs through the command `livebpf-conformance`; of its 313 tests Linux 6.18 passes 300 and uBPF 312.
* reserved: programs of our own, one for each encoding that RFC 9669 reserves and each shape that is none; every one must be refused with
  exactly the error that livebpf/tests/data/conformance/reserved.txt has.
* test_bpf: rows that Linux 6.18 loads are verified and must return what it returned; the others test a JIT alone, are loaded unverified,
  and must return what the table says. The ten tail-call rows compare the counts of 1,000 runs, 34,000 where the limit ends each.
* test_run: programs of the kernel's selftests that belong in user space and answer the same every time: each on 23 packets in order; verdict, length and bytes out.

Programs of ten thousand, sixty thousand and a million instructions are compared in `testgen/tests/long_programs.rs`, verdicts of the
verifier in `livebpf/tests/kernel_verdicts.rs` (docs/verifier.md).
";

fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/conformance.md")
}

fn page(suites: &[&Results]) -> String {
    let mut out = HEAD.to_owned();
    let _ = writeln!(out, "| suite | what | {} |", ENGINES.map(|e| e.name()).join(" | "));
    let _ = writeln!(out, "| --- | --- |{}", " ---: |".repeat(ENGINES.len()));
    for suite in suites {
        let passed = ENGINES.map(|engine| format!("{}/{}", suite.passed(engine), suite.total));
        let _ = writeln!(out, "| {} | {} | {} |", suite.suite, suite.about, passed.join(" | "));
    }
    out += "\nEvery exception:\n\n";
    for suite in suites {
        for line in suite.lines() {
            let key = suite.failed.keys().find(|(engine, name)| {
                [*engine, "all", "skip"].iter().any(|e| line.starts_with(&format!("{} {e} {name}: ", suite.suite)))
            });
            let Some((engine, name)) = key else { continue };
            let reason = suite.reason(engine, name).unwrap_or_default();
            let word = line.split(' ').nth(1).unwrap_or_default();
            let engines = match word {
                "all" => String::new(),
                "skip" => " (not compared)".to_owned(),
                engine => format!(" ({engine} only)"),
            };
            let _ = writeln!(out, "* {} `{name}`{engines}: {reason}", suite.suite);
        }
    }
    out + TAIL
}

/// Compares the page with the results; with `LIVEBPF_BLESS` writes it.
pub fn check(suites: &[&Results]) {
    let wanted = page(suites);
    if std::env::var_os("LIVEBPF_BLESS").is_some() {
        std::fs::write(path(), &wanted).expect("the page can be written");
    }
    let found = std::fs::read_to_string(path()).unwrap_or_default();
    assert!(found == wanted, "docs/conformance.md is not current: LIVEBPF_BLESS=1 writes it");
}
