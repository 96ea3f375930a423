//! The kernel's JIT tests (lib/test_bpf.c): eBPF rows, and classic rows through the translation.
//!
//! eBPF rows that the kernel's verifier takes are verified here, too, and must return what the kernel returned; the others, which
//! test a JIT alone, are loaded without proof and must return what the table says. Classic rows must return what the table
//! says, or be refused where it says so.

use std::sync::OnceLock;

use livebpf::cbpf::Filter;
use livebpf::context::Context;
use livebpf::insn::Insns;
use livebpf::link::Program;
use livebpf::object::{ProgType, ProgramKind};
use livebpf::runtime::{Ebpf, Runtime, Worker};
use serde_json::Value;

use super::Results;
use crate::verdicts::{bytes, corpus, runtime};

/// The eBPF rows; `None` where the table is missing.
pub fn internal() -> Option<&'static Results> {
    static RESULTS: OnceLock<Option<Results>> = OnceLock::new();
    let about = "the kernel's JIT tests (lib/test_bpf.c), eBPF rows";
    RESULTS.get_or_init(|| take("test_bpf", about, "internal", run_internal)).as_ref()
}

/// The classic rows.
pub fn classic() -> Option<&'static Results> {
    static RESULTS: OnceLock<Option<Results>> = OnceLock::new();
    let about = "the kernel's JIT tests (lib/test_bpf.c), classic rows through the translation";
    RESULTS.get_or_init(|| take("test_bpf-classic", about, "classic", run_classic)).as_ref()
}

type Run = fn(&Value, &Runtime, &mut Worker) -> Result<(), String>;

fn take(suite: &'static str, about: &'static str, kind: &str, run: Run) -> Option<Results> {
    let table = corpus("test_bpf.json")?;
    let rows: Vec<&Value> = table.as_array().expect("rows").iter().filter(|row| row["kind"] == kind).collect();
    let name = |row: &&Value| format!("{} {}", row["id"], row["descr"].as_str().unwrap_or_default());
    let names: Vec<String> = rows.iter().map(name).collect();
    Some(Results::take(suite, about, &names, |engine| {
        let runtime = runtime(engine);
        let mut worker = runtime.worker().expect("a worker");
        let rows = &rows;
        move |i| run(rows[i], &runtime, &mut worker)
    }))
}

fn hex(row: &Value, key: &str) -> Vec<u8> {
    bytes(row[key].as_str().unwrap_or_default())
}

fn result(row: &Value) -> u32 {
    row["result"].as_u64().expect("a result") as u32
}

fn compare(run: usize, found: u32, wanted: u32) -> Result<(), String> {
    if found == wanted { Ok(()) } else { Err(format!("run {run}: {found:#x}, wanted {wanted:#x}")) }
}

/// The socket buffer of the kernel's tests: the row's first bytes, and fields with numbers of their own.
fn context(row: &Value, size: usize) -> Result<Context, String> {
    let mut packet = hex(row, "data");
    packet.resize(size, 0);
    packet.extend(hex(row, "frag"));
    let mut context = Context::packet_socket(&packet).map_err(|e| e.to_string())?;
    let fields = [
        ("protocol", 0x0008),
        ("pkt_type", 3),
        ("mark", 0x1234_aaaa),
        ("hash", 0x1234_aaab),
        ("queue_mapping", 123),
        ("vlan_tci", 0xffff),
        ("vlan_present", 1),
        ("vlan_proto", 0x0008),
        ("ifindex", 577),
        ("hatype", 588),
    ];
    for (name, value) in fields {
        context.set(name, value).map_err(|e| e.to_string())?;
    }
    Ok(context)
}

fn run_internal(row: &Value, runtime: &Runtime, worker: &mut Worker) -> Result<(), String> {
    let mut code = hex(row, "insns");
    for slot in code.chunks_exact_mut(8).filter(|slot| slot[0] == 0xbc && slot[4..] == [1, 0, 0, 0]) {
        // A mark that the kernel's verifier puts into moves for some machines' code generators.
        slot[4] = 0;
    }
    let insns = Insns::decode(&code).map_err(|e| e.to_string())?;
    let program = Program::from_insns("main", ProgramKind::new(ProgType::SOCKET_FILTER), insns);
    let verified = row["kernel_load"] == 0;
    let loaded = if verified {
        runtime.load_linked(vec![program])
    } else {
        // SAFETY: the rows access their memory and their stack only.
        unsafe { runtime.load_linked_unverified(vec![program]) }
    };
    let ebpf = loaded.map_err(|e| e.to_string())?;
    let program = ebpf.program("main").ok_or("the program is not there")?;
    for (i, run) in row["runs"].as_array().expect("runs").iter().enumerate() {
        let size = run["data_size"].as_u64().unwrap_or(0) as usize;
        let wanted = if verified { row["kernel_ret"][i].as_i64().expect("a result") as u32 } else { result(run) };
        let found = if row["large_mem"] == true || row["no_data"] == true {
            // SAFETY: as above.
            unsafe { worker.run_unverified(program, &mut vec![0; size]) }.map(|r0| r0 as u32)
        } else {
            worker.run(program, &mut context(row, size)?)
        };
        compare(i, found.map_err(|e| e.to_string())?, wanted)?;
    }
    Ok(())
}

fn run_classic(row: &Value, runtime: &Runtime, worker: &mut Worker) -> Result<(), String> {
    let filter = match (Filter::decode(&hex(row, "insns")), row["expected_fail"] == true) {
        (Err(_), true) => return Ok(()),
        (Ok(_), true) => return Err("accepted, wanted a refusal".to_owned()),
        (filter, false) => filter.map_err(|e| e.to_string())?,
    };
    let ebpf: Ebpf = runtime.load_linked(vec![filter.translate("main")]).map_err(|e| e.to_string())?;
    let program = ebpf.program("main").ok_or("the program is not there")?;
    for (i, run) in row["runs"].as_array().expect("runs").iter().enumerate() {
        let size = run["data_size"].as_u64().unwrap_or(0) as usize;
        let found = worker.run(program, &mut context(row, size)?).map_err(|e| e.to_string())?;
        compare(i, found, result(run))?;
    }
    Ok(())
}
