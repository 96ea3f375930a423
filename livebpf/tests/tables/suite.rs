//! The public bpf_conformance suite: instructions, memory, and all of R0.

use std::sync::OnceLock;

use livebpf::insn::Insns;
use livebpf::link::Program;
use livebpf::object::{ProgType, ProgramKind};
use livebpf::runtime::{Runtime, Worker};

use super::Results;
use crate::verdicts::{bytes, corpus, runtime};

/// One test of the suite.
struct Test {
    name: String,
    insns: String,
    memory: Vec<u8>,
    wanted: u64,
}

/// The suite's results; `None` where it is missing.
pub fn results() -> Option<&'static Results> {
    static RESULTS: OnceLock<Option<Results>> = OnceLock::new();
    RESULTS.get_or_init(take).as_ref()
}

fn take() -> Option<Results> {
    let rows = corpus("bpf_conformance.json")?;
    let text = |row: &serde_json::Value, key: &str| row[key].as_str().unwrap_or_default().to_owned();
    let test = |row: &serde_json::Value| Test {
        name: text(row, "file"),
        insns: text(row, "insns"),
        memory: bytes(&text(row, "mem")),
        wanted: row["result"].as_u64().expect("a result"),
    };
    let tests: Vec<Test> = rows.as_array().expect("rows").iter().map(test).collect();
    let names: Vec<String> = tests.iter().map(|test| test.name.clone()).collect();
    let about = "the public bpf_conformance suite, all of R0";
    Some(Results::take("bpf_conformance", about, &names, |engine| {
        let runtime = runtime(engine);
        let mut worker = runtime.worker().expect("a worker");
        let tests = &tests;
        move |i| tests[i].run(&runtime, &mut worker)
    }))
}

impl Test {
    fn run(&self, runtime: &Runtime, worker: &mut Worker) -> Result<(), String> {
        let found = run(runtime, worker, &bytes(&self.insns), &mut self.memory.clone())?;
        if found == self.wanted { Ok(()) } else { Err(format!("{found:#x}, wanted {:#x}", self.wanted)) }
    }
}

/// Loads instructions without proof and runs them on memory; all of R0.
pub fn run(runtime: &Runtime, worker: &mut Worker, code: &[u8], memory: &mut [u8]) -> Result<u64, String> {
    let insns = Insns::decode(code).map_err(|e| e.to_string())?;
    let program = Program::from_insns("main", ProgramKind::new(ProgType::XDP), insns);
    // SAFETY: the suite's programs access their memory and their stack only.
    let ebpf = unsafe { runtime.load_linked_unverified(vec![program]) }.map_err(|e| e.to_string())?;
    let program = ebpf.program("main").ok_or("the program is not there")?;
    // SAFETY: as above.
    unsafe { worker.run_unverified(program, memory) }.map_err(|e| e.to_string())
}
