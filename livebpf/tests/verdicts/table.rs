//! The kernel's old table of verifier tests: raw instructions, with maps to be filled in.

use std::sync::Arc;

use livebpf::context::Context;
use livebpf::insn::{Imm64, Insn, Insns, Pc};
use livebpf::link::{FuncSig, Program, Subprogram, TypeKind};
use livebpf::object::{AttachType, MapDef, MapInit, MapType, ProgType, ProgramKind};
use livebpf::runtime::Engine;
use livebpf::verify::Trust;
use serde_json::Value;

use super::{Answer, ENGINES, Verdict, bytes, judge, runtime, wanted};

/// Program types that need the kernel's own types: tracing, LSM.
const KERNEL_TYPES: [u64; 2] = [26, 29];

/// Why a row is left out.
pub fn left_out(row: &Value) -> Option<&'static str> {
    if KERNEL_TYPES.contains(&row["prog_type"].as_u64().unwrap_or(0)) {
        return Some("attaches to kernel functions");
    }
    if row["fixups"].get("fixup_map_kptr").is_some() {
        return Some("kptr");
    }
    if row.get("insns").is_none() {
        return Some("made by a function; the table has no instructions");
    }
    if row["kfunc_fixups"].as_array().is_some_and(|list| !list.is_empty()) {
        return Some("kernel function of a test module");
    }
    None
}

fn name(row: &Value) -> String {
    format!("{} {}", row["id"], row["descr"].as_str().unwrap_or_default().trim())
}

/// Answers every row for trusted programs; the rows that are left out, with the reason.
pub fn answers(rows: &Value) -> (Vec<Answer>, Vec<String>) {
    let (mut out, mut omitted) = (Vec::new(), Vec::new());
    for row in rows.as_array().expect("rows").iter().filter(|row| wanted(&name(row))) {
        match left_out(row) {
            Some(why) => omitted.push(format!("{}: {why}", name(row))),
            None => out.push(answer(row)),
        }
    }
    (out, omitted)
}

/// Answers the rows that say something of their own about programs of authors who are not trusted.
pub fn untrusted_answers(rows: &Value) -> Vec<Answer> {
    let own = |row: &&Value| row["result_unpriv"] != "UNDEF" && left_out(row).is_none() && wanted(&name(row));
    let mut out = Vec::new();
    for row in rows.as_array().expect("rows").iter().filter(own) {
        let kernel = if row["result_unpriv"] == "REJECT" { Verdict::Reject } else { Verdict::Accept };
        let (ours, text, log) = match program(row) {
            Ok(program) => judge(&program, Trust::Untrusted),
            Err(error) => (Verdict::Reject, error, String::new()),
        };
        let of_its_own = row["errstr_unpriv"].as_str().filter(|s| !s.is_empty());
        let phrases = of_its_own.or(row["errstr"].as_str()).filter(|s| !s.is_empty());
        let phrases = phrases.into_iter().map(str::to_owned).collect();
        out.push(Answer { name: name(row), kernel, ours, text, log, phrases, wrong_results: Vec::new(), runs: 0 });
    }
    out
}

fn answer(row: &Value) -> Answer {
    let kernel = if row["kernel"] == "ACCEPT" { Verdict::Accept } else { Verdict::Reject };
    let (program, (ours, text, log)) = match program(row) {
        Ok(program) => {
            let verdict = judge(&program, Trust::Trusted);
            (Some(program), verdict)
        }
        Err(error) => (None, (Verdict::Reject, error, String::new())),
    };
    let phrases = row["errstr"].as_str().filter(|s| !s.is_empty()).into_iter().flat_map(|s| s.split('\t'));
    let phrases = phrases.map(str::to_owned).collect();
    let mut answer = Answer { name: name(row), kernel, ours, text, log, phrases, wrong_results: Vec::new(), runs: 0 };
    if let (Some(program), Verdict::Accept) = (program, &answer.ours) {
        run_all(row, &program, &mut answer);
    }
    answer
}

/// Stands for an address in the table's results.
const POINTER_VALUE: u32 = 0xca_fe4a;

fn run_all(row: &Value, program: &Program, answer: &mut Answer) {
    let results = row["kernel_retvals"].as_array().into_iter().flatten();
    for (run_row, wanted) in row["runs"].as_array().into_iter().flatten().zip(results) {
        // An address was returned: any number will do.
        let Some(wanted) = wanted.as_i64().filter(|_| run_row["retval"] != POINTER_VALUE) else { continue };
        let data = bytes(run_row["data"].as_str().unwrap_or_default());
        for engine in ENGINES {
            answer.runs += 1;
            match run(engine, program, &data) {
                Ok(found) if found == wanted as u32 => {}
                Ok(found) => {
                    answer.wrong_results.push(format!("{engine}: {found:#x}, wanted {:#x}", wanted as u32));
                }
                Err(error) => answer.wrong_results.push(format!("{engine}: {error}")),
            }
        }
    }
}

fn run(engine: Engine, program: &Program, data: &[u8]) -> Result<u32, String> {
    let runtime = runtime(engine);
    let ebpf = runtime.load_linked(vec![program.clone()]).map_err(|e| e.to_string())?;
    let program = ebpf.program(&program.name).ok_or("the program is not there")?;
    let mut context = Context::for_type(program.prog_type(), data).map_err(|e| e.to_string())?;
    let mut worker = runtime.worker().map_err(|e| e.to_string())?;
    worker.run(program, &mut context).map_err(|e| e.to_string())
}

/// The map that a fix-up stands for.
fn map(fixup: &str) -> MapDef {
    let array = |size: u32| MapDef::new(fixup, MapType::ARRAY, 4, size, 1);
    match fixup {
        "fixup_map_hash_8b" => MapDef::new(fixup, MapType::HASH, 8, 8, 11),
        "fixup_map_hash_16b" => MapDef::new(fixup, MapType::HASH, 8, 16, 11),
        "fixup_map_hash_48b" => MapDef::new(fixup, MapType::HASH, 8, 48, 11),
        "fixup_map_array_48b" => {
            // An index, and eleven words of which the seventh is set.
            let mut data = vec![0; 48];
            data[..4].copy_from_slice(&28u32.to_ne_bytes());
            data[28..32].copy_from_slice(&0xabcd_ef12u32.to_ne_bytes());
            MapDef { init: MapInit::Data(data), ..array(48) }
        }
        "fixup_map_array_small" => array(1),
        "fixup_map_event_output" => MapDef::new(fixup, MapType::PERF_EVENT_ARRAY, 4, 4, 1),
        "fixup_map_ringbuf" => MapDef::new(fixup, MapType::RINGBUF, 0, 0, 4096),
        other => panic!("no map for {other}"),
    }
}

/// Builds the program of a row; the error is what refuses its instructions.
fn program(row: &Value) -> Result<Program, String> {
    let mut code = bytes(row["insns"].as_str().expect("instructions"));
    let mut maps = Vec::new();
    for (fixup, places) in row["fixups"].as_object().expect("fixups") {
        let index = maps.len() as i32;
        maps.push(Arc::new(map(fixup)));
        for place in places.as_array().expect("places") {
            let at = place.as_u64().expect("a place") as usize * 8;
            // BPF_PSEUDO_MAP_FD and _MAP_VALUE become the forms that name a map of the program by number.
            let pseudo = match code[at + 1] >> 4 {
                0 | 1 => 5,
                2 => 6,
                other => other,
            };
            code[at + 1] = code[at + 1] & 15 | pseudo << 4;
            code[at + 4..at + 8].copy_from_slice(&index.to_le_bytes());
        }
    }
    let insns = Insns::decode(&code).map_err(|e| e.to_string())?;
    let kind = ProgramKind {
        attach_type: AttachType(row["expected_attach_type"].as_u64().unwrap_or(0) as u32),
        ..ProgramKind::new(ProgType(row["prog_type"].as_u64().unwrap_or(0) as u32))
    };
    let mut program = Program::bare("main", kind, insns);
    program.license = "GPL".to_owned();
    program.maps = maps;
    program.subprogs = subprograms(&program.insns, row["func_info_cnt"].as_u64().unwrap_or(0) > 0);
    Ok(program)
}

/// The functions that calls and taken addresses begin.
fn subprograms(insns: &Insns, btf: bool) -> Vec<Subprogram> {
    let mut starts = vec![Pc(0)];
    for (pc, insn) in insns.iter() {
        let off = match insn {
            Insn::CallSubprog { off } | Insn::LoadImm64 { value: Imm64::Func { off }, .. } => off,
            _ => continue,
        };
        starts.extend(pc.jump(off).filter(|to| to.0 < insns.len()));
    }
    starts.sort();
    starts.dedup();
    let int = || FuncSig { ret: TypeKind::Int { size: 4, signed: true }, params: Vec::new(), tags: Vec::new() };
    let end = |i: usize| starts.get(i + 1).copied().unwrap_or(Pc(insns.len()));
    let one = |(i, &start): (usize, &Pc)| Subprogram {
        name: if i == 0 { "main".to_owned() } else { format!("subprog_{i}") },
        start,
        end: end(i),
        global: i == 0,
        signature: btf.then(int),
    };
    starts.iter().enumerate().map(one).collect()
}
