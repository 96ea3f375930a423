//! `map`: show, dump, lookup, update and delete.

use std::fmt::Write as _;

use livebpf::map::{BPF_ANY, BPF_EXIST, BPF_NOEXIST};
use livebpf::object::{DataSymbol, MapType};
use livebpf::runtime::{MapHandle, Missed, ProgramArray};
use serde_json::{Value, json};

use crate::bytes;
use crate::error::CliError;
use crate::output::Answer;
use crate::session::Session;
use crate::words::Words;

/// What follows clap's own help.
pub const HELP: &str = "\
  map show [MAP]
  map dump MAP
  map lookup MAP key BYTES
  map update MAP key BYTES value VALUE [any|noexist|exist]
  map delete MAP key BYTES

  MAP := id N | name NAME         global data: name .bss, .data, .rodata
  BYTES := decimal or 0x numbers, one for each byte; hexadecimal ones after the word `hex`
  VALUE := BYTES, or for a slot of a program array: id N | name PROG

  livebpf -o chain.o map dump name .bss
  map update name jmp_table key 0 0 0 0 value name classifier_0
  map update name ports key hex 50 00 value 1 0 0 0 noexist
  map delete name jmp_table key 0 0 0 0

A value for a per-CPU map is set for all CPUs. Updates are seen by programs that run at that moment.

Of a program array, `show` and `dump` also give the tail calls that fell through: because the slot was empty, because the
limit of 33 was reached, because the index is outside the array. A dump names empty slots that missed calls.";

/// What stands for the value of an empty slot, as in bpftool.
const NO_ENTRY: &str = "<no entry>";

const VERBS: &str = "`show`, `dump`, `lookup`, `update` or `delete`";

/// Carries out the words behind `map`.
pub fn execute(session: &mut Session, words: &mut Words<'_>) -> Result<Answer, CliError> {
    match words.take(VERBS)? {
        "show" | "list" => show(session, words),
        "dump" => dump(session, words),
        "lookup" => lookup(session, words),
        "update" => update(session, words),
        "delete" => delete(session, words),
        "help" => Ok(Answer::new(json!(HELP), format!("{HELP}\n"))),
        other => Err(CliError::usage(format!("found {other:?} where {VERBS} is wanted"))),
    }
}

fn show(session: &Session, words: &mut Words<'_>) -> Result<Answer, CliError> {
    if words.peek().is_none() {
        let maps: Vec<&MapHandle> = session.maps().collect();
        let json = maps.iter().map(|m| describe(m)).collect();
        return Ok(Answer::new(json, maps.iter().map(|m| line(m)).collect::<String>()));
    }
    let found = session.take_maps(words)?;
    words.end()?;
    let text: String = found.iter().map(line).collect();
    let json = match found.as_slice() {
        [one] => describe(one),
        several => several.iter().map(describe).collect(),
    };
    Ok(Answer::new(json, text))
}

fn describe(map: &MapHandle) -> Value {
    let def = map.def();
    let mut json = json!({
        "id": map.id(),
        "type": map.map_type().to_string(),
        "name": map.name(),
        "flags": def.map_flags,
        "bytes_key": def.key_size,
        "bytes_value": def.value_size,
        "max_entries": def.max_entries,
        "frozen": u8::from(def.frozen),
    });
    if let Some(array) = counting(map) {
        add_missed(&mut json, array.missed_total());
        json["missed_outside"] = json!(array.missed_outside());
        let slot = |(index, missed)| {
            let mut slot = json!({ "index": index });
            add_missed(&mut slot, missed);
            slot
        };
        json["missed_slots"] = array.missed_slots().into_iter().map(slot).collect();
    }
    json
}

/// The map as a program array whose missed calls are counted.
fn counting(map: &MapHandle) -> Option<ProgramArray> {
    ProgramArray::try_from(map).ok().filter(ProgramArray::counts_missed)
}

fn add_missed(json: &mut Value, missed: Missed) {
    json["missed_empty"] = json!(missed.empty);
    json["missed_limit"] = json!(missed.limit);
}

fn missed_text(missed: Missed) -> String {
    format!("missed  empty {}  limit {}", missed.empty, missed.limit)
}

fn line(map: &MapHandle) -> String {
    let def = map.def();
    let frozen = if def.frozen { "  frozen" } else { "" };
    let mut missed = String::new();
    if let Some(array) = counting(map) {
        let _ = writeln!(missed, "\t{}  outside {}", missed_text(array.missed_total()), array.missed_outside());
        for (index, slot) in array.missed_slots() {
            let _ = writeln!(missed, "\tslot {index}  {}", missed_text(slot));
        }
    }
    format!(
        "{}: {}  name {}  flags {:#x}\n\tkey {}B  value {}B  max_entries {}{frozen}\n{missed}",
        map.id(),
        map.map_type(),
        map.name(),
        def.map_flags,
        def.key_size,
        def.value_size,
        def.max_entries
    )
}

fn dump(session: &Session, words: &mut Words<'_>) -> Result<Answer, CliError> {
    let map = session.take_map(words)?;
    words.end()?;
    let (mut json, mut text, mut found) = (Vec::new(), String::new(), 0);
    for key in map.keys()? {
        // An element may go between the two steps, and a program array has empty slots.
        match map.read(&key) {
            Ok(value) => {
                found += 1;
                json.push(element(session, &map, &key, &value));
                text += &element_text(session, &map, &key, &value);
            }
            Err(_) => {
                let Some(missed) = slot_missed(&map, &key).filter(|missed| *missed != Missed::default()) else {
                    continue;
                };
                let mut empty = json!({ "key": bytes::to_json(&key), "value": { "error": NO_ENTRY } });
                add_missed(&mut empty, missed);
                json.push(empty);
                let _ = writeln!(text, "key: {}  value: {NO_ENTRY}  {}", bytes::to_text(&key), missed_text(missed));
            }
        }
    }
    let _ = writeln!(text, "Found {found} element{}", if found == 1 { "" } else { "s" });
    Ok(Answer::new(Value::Array(json), text))
}

fn lookup(session: &Session, words: &mut Words<'_>) -> Result<Answer, CliError> {
    let map = session.take_map(words)?;
    let key = take_key(&map, words)?;
    words.end()?;
    let value = map.read(&key)?;
    Ok(Answer::new(element(session, &map, &key, &value), element_text(session, &map, &key, &value)))
}

fn delete(session: &Session, words: &mut Words<'_>) -> Result<Answer, CliError> {
    let map = session.take_map(words)?;
    let key = take_key(&map, words)?;
    words.end()?;
    map.remove(&key)?;
    Ok(Answer::new(Value::Null, ""))
}

fn update(session: &Session, words: &mut Words<'_>) -> Result<Answer, CliError> {
    let map = session.take_map(words)?;
    let key = take_key(&map, words)?;
    words.expect("value")?;
    if map.map_type() == MapType::PROG_ARRAY {
        set_slot(session, &map, &key, words)?;
    } else {
        let value = bytes::take(words, "value", map.def().value_size as usize)?;
        let flags = take_flags(words)?;
        map.write(&key, &for_all_cpus(session, &map, value), flags)?;
    }
    Ok(Answer::new(Value::Null, ""))
}

/// Puts a program into a slot.
fn set_slot(session: &Session, map: &MapHandle, key: &[u8], words: &mut Words<'_>) -> Result<(), CliError> {
    if !matches!(words.peek(), Some("id" | "name")) {
        let message =
            format!("map {}: the value of a slot is a program: `value name PROG` or `value id N` (EBADF)", map.name());
        return Err(CliError::refused(message));
    }
    let program = session.take_program(words)?;
    if take_flags(words)? != BPF_ANY {
        let message = format!("map {}: a slot is set whatever it holds, the only flag is `any` (EINVAL)", map.name());
        return Err(CliError::refused(message));
    }
    let index = key.try_into().map(u32::from_le_bytes);
    let index =
        index.map_err(|_| CliError::refused(format!("map {}: the key is not 4 bytes long (EINVAL)", map.name())))?;
    Ok(ProgramArray::try_from(map)?.set(index, &program)?)
}

fn take_key(map: &MapHandle, words: &mut Words<'_>) -> Result<Vec<u8>, CliError> {
    words.expect("key")?;
    bytes::take(words, "key", map.def().key_size as usize)
}

/// The last word of an update: which state of the element it requires.
fn take_flags(words: &mut Words<'_>) -> Result<u64, CliError> {
    let flags = match words.peek() {
        None => return Ok(BPF_ANY),
        Some("any") => BPF_ANY,
        Some("noexist") => BPF_NOEXIST,
        Some("exist") => BPF_EXIST,
        Some(other) => {
            return Err(CliError::usage(format!(
                "found {other:?} where `any`, `noexist`, `exist` or the end is wanted"
            )));
        }
    };
    words.take("a flag")?;
    words.end()?;
    Ok(flags)
}

/// Whether users see a value for each CPU.
fn per_cpu(map: &MapHandle) -> bool {
    [MapType::PERCPU_ARRAY, MapType::PERCPU_HASH, MapType::LRU_PERCPU_HASH].contains(&map.map_type())
}

/// Bytes from one CPU's value to the next.
fn stride(map: &MapHandle) -> usize {
    (map.def().value_size as usize).next_multiple_of(8).max(8)
}

/// The value as users write it: for a per-CPU map once for each CPU.
fn for_all_cpus(session: &Session, map: &MapHandle, mut value: Vec<u8>) -> Vec<u8> {
    if !per_cpu(map) {
        return value;
    }
    value.resize(stride(map), 0);
    value.repeat(session.cpus() as usize)
}

/// The values of the CPUs, without their padding.
fn split(map: &MapHandle, value: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    let size = map.def().value_size as usize;
    value.chunks(stride(map)).map(move |one| one.iter().take(size).copied().collect()).collect::<Vec<_>>().into_iter()
}

/// The missed calls of a slot, where they are counted.
fn slot_missed(map: &MapHandle, key: &[u8]) -> Option<Missed> {
    let index = u32::from_le_bytes(key.try_into().ok()?);
    counting(map).map(|array| array.missed(index))
}

/// Name of the program in a slot.
fn slot_name(session: &Session, map: &MapHandle, value: &[u8]) -> Option<String> {
    let id = u32::from_le_bytes(value.try_into().ok()?);
    let program = session.program(id).filter(|_| map.map_type() == MapType::PROG_ARRAY)?;
    Some(program.name().to_owned())
}

/// The variables in a value of global data, with their bytes.
fn variables<'a>(map: &'a MapHandle, value: &'a [u8]) -> impl Iterator<Item = (&'a DataSymbol, &'a [u8])> {
    let bytes = |s: &DataSymbol| value.get(s.offset as usize..s.offset as usize + s.size as usize);
    map.def().symbols.iter().filter_map(move |s| Some((s, bytes(s)?)))
}

fn element(session: &Session, map: &MapHandle, key: &[u8], value: &[u8]) -> Value {
    let mut json = json!({ "key": bytes::to_json(key) });
    if per_cpu(map) {
        let one = |(cpu, value): (usize, Vec<u8>)| json!({ "cpu": cpu, "value": bytes::to_json(&value) });
        json["values"] = split(map, value).enumerate().map(one).collect();
        return json;
    }
    json["value"] = bytes::to_json(value);
    if let Some(name) = slot_name(session, map, value) {
        json["program"] = json!(name);
    }
    if let Some(missed) = slot_missed(map, key) {
        add_missed(&mut json, missed);
    }
    if !map.def().symbols.is_empty() {
        json["variables"] = variables(map, value).map(|(s, b)| (s.name.clone(), bytes::to_json(b))).collect();
    }
    json
}

fn element_text(session: &Session, map: &MapHandle, key: &[u8], value: &[u8]) -> String {
    let shown_key = bytes::to_text(key);
    if per_cpu(map) {
        let one = |(cpu, value): (usize, Vec<u8>)| format!("value (CPU {cpu:02}): {}\n", bytes::to_text(&value));
        return format!("key: {shown_key}\n{}", split(map, value).enumerate().map(one).collect::<String>());
    }
    let mut text = format!("key: {shown_key}  value: {}", bytes::to_text(value));
    if let Some(name) = slot_name(session, map, value) {
        let _ = write!(text, "  ({name})");
    }
    if let Some(missed) = slot_missed(map, key) {
        let _ = write!(text, "  {}", missed_text(missed));
    }
    text.push('\n');
    for (symbol, bytes) in variables(map, value) {
        let _ = writeln!(text, "\t{} = {}", symbol.name, bytes::to_text(bytes));
    }
    text
}
