//! The kernel's tail-call tests (lib/test_bpf.c): one array with a program in each slot but the last, a thousand runs of each.

use std::sync::{Arc, OnceLock};

use livebpf::helper::{FIRST_CUSTOM, Proto, Ret, id};
use livebpf::insn::Insns;
use livebpf::link::Program;
use livebpf::object::{MapDef, MapInit, MapType, ProgType, ProgramKind};
use livebpf::runtime::{Ebpf, Engine, Runtime, Worker};
use serde_json::Value;

use super::Results;
use crate::verdicts::{bytes, corpus};

const RUNS: u64 = 1000;
/// Stands for the helper of the kernel's test that overwrites all registers which a call may change.
const CLOBBER: u32 = FIRST_CUSTOM;
/// The kernel's own opcode of a tail call, which its verifier puts in place of the call.
const KERNELS_OWN: u8 = 0xf5;

/// The results; `None` where the table is missing.
pub fn results() -> Option<&'static Results> {
    static RESULTS: OnceLock<Option<Results>> = OnceLock::new();
    RESULTS.get_or_init(take).as_ref()
}

fn take() -> Option<Results> {
    let table = corpus("test_bpf_tail_calls.json")?;
    let rows = table.as_array().expect("rows");
    let names: Vec<String> = rows.iter().map(|row| row["descr"].as_str().unwrap_or_default().to_owned()).collect();
    let about = "the kernel's tail-call tests, the count of 1,000 runs each";
    Some(Results::take("test_bpf-tail-calls", about, &names, |engine| {
        let runtime = runtime(engine);
        let programs = rows.iter().enumerate().map(|(i, row)| program(i, row, rows.len())).collect();
        // SAFETY: the programs access what they are started with, and their stack.
        let ebpf = unsafe { runtime.load_linked_unverified(programs) }.expect("well-formed");
        let mut worker = runtime.worker().expect("a worker");
        move |i| run(&ebpf, &mut worker, i, &rows[i])
    }))
}

fn runtime(engine: Engine) -> Runtime {
    let clobber = Proto {
        id: CLOBBER,
        name: "clobber".to_owned(),
        args: Vec::new(),
        ret: Ret::Integer,
        changes_packet: false,
        packet_memory: false,
        gpl_only: false,
    };
    let builder = Runtime::builder().engine(engine).helper(clobber, |_| 0xdead_beef_dead_beef);
    builder.build().expect("a runtime")
}

fn name(index: usize) -> String {
    format!("test_{index}")
}

/// A row's program: its relocations say where the array, an index or a helper goes.
fn program(index: usize, row: &Value, rows: usize) -> Program {
    let mut code = bytes(row["insns"].as_str().expect("instructions"));
    for reloc in row["relocs"].as_array().expect("relocations") {
        let at = reloc["insn"].as_u64().expect("an instruction") as usize * 8;
        let value = reloc["value"].as_i64().expect("a number");
        let (source, immediate) = match reloc["what"].as_str() {
            Some("prog_array") => (5, 0),
            Some("index") => (0, value as i32),
            Some("helper") if value < 0 => (0, CLOBBER as i32),
            Some("helper") => (0, value as i32),
            other => panic!("a relocation {other:?}"),
        };
        code[at + 1] = code[at + 1] & 15 | source << 4;
        // The upper bytes hold marks that the kernel's test looks for.
        code[at + 2..at + 4].fill(0);
        code[at + 4..at + 8].copy_from_slice(&immediate.to_le_bytes());
    }
    for slot in code.chunks_exact_mut(8).filter(|slot| slot[0] == KERNELS_OWN) {
        slot.copy_from_slice(&[0x85, 0, 0, 0, id::TAIL_CALL as u8, 0, 0, 0]);
    }
    let insns = Insns::decode(&code).expect("instructions");
    let mut program = Program::from_insns(&name(index), ProgramKind::new(ProgType::SOCKET_FILTER), insns);
    let slots = (0..rows).map(|i| (i as u32, name(i))).collect();
    let array = MapDef::new("array", MapType::PROG_ARRAY, 4, 4, rows as u32 + 1);
    program.maps = vec![Arc::new(MapDef { init: MapInit::Programs(slots), ..array })];
    program
}

/// A thousand runs: the last result, or what they counted.
fn run(ebpf: &Ebpf, worker: &mut Worker, index: usize, row: &Value) -> Result<(), String> {
    let program = ebpf.program(&name(index)).ok_or("the program is not there")?;
    let mut state = if row["need_state"] == true { vec![0; 4] } else { Vec::new() };
    let mut last = 0;
    for _ in 0..RUNS {
        // SAFETY: as in `take`.
        last = unsafe { worker.run_unverified(program, &mut state) }.map_err(|e| e.to_string())?;
    }
    let counted = state.first_chunk().map_or(0, |bytes| u64::from(u32::from_ne_bytes(*bytes)));
    let found = if row["result_in_state"] == true { counted } else { last & 0xffff_ffff };
    let wanted = row["result_1000_runs"].as_u64().expect("a result");
    if found == wanted { Ok(()) } else { Err(format!("{found}, wanted {wanted}")) }
}
