//! Third-party instruction tests in compiled code, where they are available: the public bpf_conformance suite and the
//! kernel's test_bpf, as JSON files in `corpus` of the directory that `LIVEBPF_SHARED` names (otherwise ../shared beside
//! the repository). None of it belongs to this project, and what needs it is skipped with one line.

mod jit_support;

use std::path::{Path, PathBuf};

use jit_support::{Exec, bare, variants};
use livebpf::insn::Insns;
use livebpf::jit::{self, Options};
use livebpf::verify::Verified;
use serde_json::Value;

fn corpus(file: &str) -> Option<Vec<Value>> {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared");
    let path = std::env::var_os("LIVEBPF_SHARED").map_or_else(beside, PathBuf::from).join("corpus").join(file);
    let Ok(text) = std::fs::read_to_string(&path) else {
        eprintln!("skipped: {} is not there", path.display());
        return None;
    };
    Some(serde_json::from_str(&text).expect("an array of tests"))
}

fn bytes(hex: &str) -> Vec<u8> {
    let nibble = |b: u8| (b as char).to_digit(16).expect("hexadecimal") as u8;
    hex.as_bytes().chunks(2).map(|pair| nibble(pair[0]) << 4 | nibble(pair[1])).collect()
}

/// Functions: the entry and every call's target.
fn program(insns: Insns) -> livebpf::link::Program {
    let mut starts = vec![0];
    for (pc, insn) in insns.iter() {
        if let livebpf::insn::Insn::CallSubprog { off } = insn {
            starts.extend(pc.jump(off).map(|t| t.0));
        }
    }
    starts.sort_unstable();
    starts.dedup();
    let mut program = bare(insns);
    let main = program.subprogs.remove(0);
    let ends = starts.iter().skip(1).copied().chain([program.insns.len()]);
    for (start, end) in starts.iter().zip(ends) {
        let (start, end) = (livebpf::insn::Pc(*start), livebpf::insn::Pc(end));
        program.subprogs.push(livebpf::link::Subprogram { start, end, ..main.clone() });
    }
    program
}

/// What `insns` return for a block of memory, by every set of CPU features; `Err` says why they do not run here.
fn run(insns: &str, mem: &[u8]) -> Result<Vec<u64>, String> {
    let insns = Insns::decode(&bytes(insns)).map_err(|e| e.to_string())?;
    if insns.iter().any(|(_, i)| matches!(i, livebpf::insn::Insn::Call { .. })) {
        return Err("calls a helper".to_owned());
    }
    let verified = Verified::without_proof(program(insns)).map_err(|e| e.to_string())?;
    let one = |options: Options| {
        let code = jit::compile(&verified, &options).map_err(|e| e.to_string())?;
        let mut exec = Exec::new();
        let base = exec.place(&code, |symbol| panic!("no symbol expected: {symbol:?}"));
        let (mut mem, len) = (mem.to_vec(), mem.len() as u64);
        let at = if len == 0 { 0 } else { mem.as_mut_ptr() as u64 };
        Ok(exec.entry(base + u64::from(code.entry), 0)(at, len, 0, 0, 0))
    };
    variants().into_iter().map(one).collect()
}

#[test]
fn bpf_conformance() {
    let Some(tests) = corpus("bpf_conformance.json") else { return };
    let (mut ran, mut skipped) = (0, Vec::new());
    for test in &tests {
        let name = test["file"].as_str().expect("a name");
        let mem = bytes(test["mem"].as_str().expect("memory"));
        match run(test["insns"].as_str().expect("instructions"), &mem) {
            Ok(got) => {
                let want = test["result"].as_u64().expect("a result");
                assert!(got.iter().all(|r| *r == want), "{name}: {got:x?}, wanted {want:#x}");
                ran += 1;
            }
            Err(why) => skipped.push(format!("{name}: {why}")),
        }
    }
    eprintln!("{ran} ran, {} did not: {skipped:#?}", skipped.len());
    assert!(ran * 10 > tests.len() * 9, "{ran} of {} ran", tests.len());
}

#[test]
fn test_bpf() {
    let Some(tests) = corpus("test_bpf.json") else { return };
    let (mut ran, mut skipped) = (0, Vec::new());
    let internal = |t: &&Value| t["kind"] == "internal" && t["expected_fail"] == false && t["insns"].is_string();
    for test in tests.iter().filter(internal) {
        let name = test["descr"].as_str().expect("a name");
        for case in test["runs"].as_array().expect("runs") {
            match run(test["insns"].as_str().expect("instructions"), &[0; 1 << 16]) {
                Ok(got) => {
                    let want = case["result"].as_u64().expect("a result");
                    assert!(got.iter().all(|r| *r as u32 == want as u32), "{name}: {got:x?}, wanted {want:#x}");
                    ran += 1;
                }
                Err(why) => skipped.push(format!("{name}: {why}")),
            }
        }
    }
    eprintln!("{ran} ran, {} did not: {skipped:#?}", skipped.len());
    assert!(ran > 300, "{ran} ran");
}
