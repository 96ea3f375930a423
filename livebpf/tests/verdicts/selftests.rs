//! Programs of the kernel's selftest objects that say what the verifier must answer.

use std::collections::HashMap;
use std::path::Path;

use livebpf::context::Context;
use livebpf::link::{self, LinkError};
use livebpf::object::{MapInit, Object};
use livebpf::runtime::{Ebpf, LoadOptions};
use livebpf::verify::Trust;
use serde_json::Value;

use super::{Answer, ENGINES, Verdict, judge, objects, runtime, wanted};

/// The packet that a program runs on.
const PACKET: [u8; 64] = [0; 64];

/// Answers every annotated row of category `plain`.
pub fn answers(rows: &Value, folder: &Path) -> Vec<Answer> {
    let mut open = HashMap::new();
    let text = |row: &Value, key: &str| row[key].as_str().unwrap_or_default().to_owned();
    let mut out = Vec::new();
    for row in rows.as_array().expect("rows") {
        let (file, program) = (text(row, "object"), text(row, "program"));
        let name = format!("{file}/{program}");
        if row["category"] != "plain" || row["annotated"] != true || !wanted(&name) {
            continue;
        }
        let object = open.entry(file.clone()).or_insert_with(|| objects::open(folder, &file));
        let Some(object) = object else { continue };
        out.push(answer(row, name, object, &program));
    }
    out
}

fn answer(row: &Value, name: String, object: &Object, program: &str) -> Answer {
    let kernel = if row["kernel_verdict"] == "success" { Verdict::Accept } else { Verdict::Reject };
    let phrases = row["messages"].as_array().into_iter().flatten().filter_map(|m| m.as_str().map(str::to_owned));
    let (ours, text, log) = match link::link(object, program) {
        Ok(linked) => judge(&linked, Trust::Trusted),
        Err(error @ LinkError::Decode { .. }) => (Verdict::Reject, error.to_string(), String::new()),
        Err(error) => (Verdict::Unsupported, error.to_string(), String::new()),
    };
    let mut answer =
        Answer { name, kernel, ours, text, log, phrases: phrases.collect(), wrong_results: Vec::new(), runs: 0 };
    let address = row["expect_retval"] == "POINTER_VALUE";
    if let (Verdict::Accept, Some(wanted)) = (&answer.ours, row["kernel_retval"].as_i64().filter(|_| !address)) {
        for engine in ENGINES {
            answer.runs += 1;
            match run(engine, object, program) {
                Ok(found) if found == wanted as u32 => {}
                Ok(found) => answer.wrong_results.push(format!("{engine}: {found:#x}, wanted {:#x}", wanted as u32)),
                Err(error) => answer.wrong_results.push(format!("{engine}: {error}")),
            }
        }
    }
    answer
}

fn run(engine: livebpf::runtime::Engine, object: &Object, program: &str) -> Result<u32, String> {
    let runtime = runtime(engine);
    let members = object.maps().iter().flat_map(|map| match &map.init {
        MapInit::Programs(slots) => slots.iter().map(|(_, name)| name.clone()).collect(),
        MapInit::Empty | MapInit::Data(_) | MapInit::Maps(_) => Vec::new(),
    });
    let mut programs: Vec<String> = members.collect();
    programs.push(program.to_owned());
    programs.sort();
    programs.dedup();
    let load = |programs: Vec<String>| runtime.load_with(object, &LoadOptions::default().programs(programs));
    let ebpf: Ebpf = load(programs).or_else(|_| load(vec![program.to_owned()])).map_err(|e| e.to_string())?;
    if let Some(map) = ebpf.map("map_array_ro") {
        // What the kernel's results were taken with: an index, and eleven words of which the seventh is set.
        let mut value = vec![0; map.def().value_size as usize];
        value[..4].copy_from_slice(&28u32.to_ne_bytes());
        value[28..32].copy_from_slice(&0xabcd_ef12u32.to_ne_bytes());
        map.write(&[0; 4], &value, 0).map_err(|e| e.to_string())?;
    }
    let program = ebpf.program(program).ok_or("the program is not there")?;
    let mut context = Context::for_type(program.prog_type(), &PACKET).map_err(|e| e.to_string())?;
    let mut worker = runtime.worker().map_err(|e| e.to_string())?;
    worker.run(program, &mut context).map_err(|e| e.to_string())
}
