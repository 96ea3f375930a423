//! Programs of the kernel's selftest objects on 23 packets: verdicts and bytes as the kernel's `BPF_PROG_TEST_RUN` gave them.
//!
//! Each program is loaded alone with empty maps and runs on the packets in order, without anything being reset.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use livebpf::context::Context;
use livebpf::link;
use livebpf::object::{MapInit, MapType, Object};
use livebpf::runtime::{Ebpf, LoadOptions, Runtime, Worker};
use serde_json::Value;

use super::Results;
use crate::verdicts::{bytes, corpus, objects, runtime};

/// The results; `None` where the table or the objects are missing.
pub fn results() -> Option<&'static Results> {
    static RESULTS: OnceLock<Option<Results>> = OnceLock::new();
    RESULTS.get_or_init(take).as_ref()
}

/// The packets, by position.
fn packets() -> Option<Vec<Vec<u8>>> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpus/packets.txt");
    let text = std::fs::read_to_string(path).ok()?;
    Some(text.lines().map(|line| bytes(line.split_whitespace().next().unwrap_or_default())).collect())
}

fn text<'a>(row: &'a Value, key: &str) -> &'a str {
    row[key].as_str().unwrap_or_default()
}

fn take() -> Option<Results> {
    let table = corpus("test_run.json")?;
    let categories = corpus("selftests.json")?;
    let (folder, packets) = (objects::folder()?, packets()?);
    let plain: HashMap<(&str, &str), bool> = categories
        .as_array()
        .expect("rows")
        .iter()
        .map(|row| ((text(row, "object"), text(row, "program")), row["category"] == "plain"))
        .collect();
    let counts = |row: &&Value| {
        row["deterministic"] == true && plain.get(&(text(row, "object"), text(row, "prog"))) == Some(&true)
    };
    let rows: Vec<&Value> = table.as_array().expect("rows").iter().filter(counts).collect();
    let names: Vec<String> = rows.iter().map(|row| format!("{}/{}", text(row, "object"), text(row, "prog"))).collect();
    let about = "plain programs of the kernel's selftests, verdicts and bytes on 23 packets";
    Some(Results::take("test_run", about, &names, |engine| {
        let runtime = runtime(engine);
        let mut worker = runtime.worker().expect("a worker");
        let (rows, folder, packets) = (&rows, &folder, &packets);
        move |i| run(rows[i], folder, packets, &runtime, &mut worker)
    }))
}

fn run(row: &Value, folder: &Path, packets: &[Vec<u8>], runtime: &Runtime, worker: &mut Worker) -> Result<(), String> {
    let object = objects::open(folder, text(row, "object")).ok_or("the object is not there")?;
    let name = text(row, "prog");
    let ebpf = load(runtime, &object, name)?;
    let program = ebpf.program(name).ok_or("the program is not there")?;
    for run in row["runs"].as_array().expect("runs") {
        let index = run["i"].as_u64().expect("a packet") as usize;
        if let Some(errno) = run["err"].as_i64() {
            return Err(format!("packet {index}: the kernel refused the run, errno {errno}"));
        }
        let made = Context::for_type(program.prog_type(), &packets[index]);
        let mut context = made.map_err(|e| format!("packet {index}: {e}"))?;
        let found = worker.run(program, &mut context).map_err(|e| format!("packet {index}: {e}"))?;
        let wanted = run["ret"].as_u64().expect("a verdict") as u32;
        if found != wanted {
            return Err(format!("packet {index}: returned {found:#x}, wanted {wanted:#x}"));
        }
        let packet = context.packet();
        let len = run["len"].as_u64().map_or(packet.len(), |len| len as usize);
        if packet.len() != len {
            return Err(format!("packet {index}: {} bytes out, wanted {len}", packet.len()));
        }
        let unchanged = || packets[index].clone();
        let out = run["out"].as_str().map_or_else(unchanged, bytes);
        if packet != out && !(run["out"].is_null() && same_but_header(&packet, &out)) {
            return Err(format!("packet {index}: other bytes out"));
        }
        fields(&run["skb"], &context).map_err(|text| format!("packet {index}: {text}"))?;
    }
    Ok(())
}

/// Loads the program, and with it those that the static initialisers of its program arrays name. What the kernel ran with had 16
/// entries in maps that leave their number open.
fn load(runtime: &Runtime, object: &Object, name: &str) -> Result<Ebpf, String> {
    let members = object.maps().iter().flat_map(|map| match &map.init {
        MapInit::Programs(slots) => slots.iter().map(|(_, name)| name.clone()).collect(),
        MapInit::Empty | MapInit::Data(_) | MapInit::Maps(_) => Vec::new(),
    });
    let mut all: Vec<String> = members.chain([name.to_owned()]).collect();
    all.sort();
    all.dedup();
    let with = |names: &[String]| runtime.load_with(object, &LoadOptions::default().programs(names.to_vec()));
    let alone = [name.to_owned()];
    let open = object.maps().iter().any(|map| map.max_entries == 0 && map.map_type != MapType::PERF_EVENT_ARRAY);
    let loaded = with(&all).or_else(|_| with(&alone));
    loaded
        .or_else(|error| if open { load_with_entries(runtime, object, name) } else { Err(error.to_string()) })
        .map_err(|text| text.lines().next().unwrap_or_default().to_owned())
}

fn load_with_entries(runtime: &Runtime, object: &Object, name: &str) -> Result<Ebpf, String> {
    let mut program = link::link(object, name).map_err(|e| e.to_string())?;
    for map in program.maps.iter_mut().filter(|map| map.max_entries == 0) {
        Arc::make_mut(map).max_entries = 16;
    }
    runtime.load_linked(vec![program]).map_err(|e| e.to_string())
}

/// Compares the fields of a socket buffer that the kernel gave back, where it did.
fn fields(skb: &Value, context: &Context) -> Result<(), String> {
    let compare = |name: &str, wanted: &Value| match (context.get(name), wanted.as_u64()) {
        (_, None) => Ok(()),
        (found, wanted) if found == wanted => Ok(()),
        (found, wanted) => Err(format!("{name} is {found:?}, wanted {wanted:?}")),
    };
    for (name, wanted) in skb.as_object().into_iter().flatten() {
        match wanted.as_array() {
            Some(words) => words.iter().enumerate().try_for_each(|(i, word)| compare(&format!("{name}[{i}]"), word))?,
            None => compare(name, wanted)?,
        }
    }
    Ok(())
}

/// Programs that see the packet from the network header on get zeros in place of the Ethernet header.
fn same_but_header(found: &[u8], wanted: &[u8]) -> bool {
    found.len() == wanted.len() && found.iter().take(14).all(|b| *b == 0) && found.get(14..) == wanted.get(14..)
}
