//! Batches over the scenarios' objects, in all engines; and what a batch does when a command is refused.

mod common;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use common::{ENGINES, Scratch, batch, bytes, object, scenarios, with_input};
use livebpf::object::{MapDef, MapInit, Object};
use serde_json::Value;

/// A scenario as a file of commands, with what each command has to answer.
struct Play {
    commands: String,
    wanted: Vec<Wanted>,
    /// What was written to sections of variables, by map.
    sections: BTreeMap<String, Vec<u8>>,
}

/// What a command has to answer.
enum Wanted {
    Anything,
    Retval(u64),
    Variable(String, u64),
    /// Of a slot: missed because it was empty, and by the limit.
    Missed(u64, [u64; 2]),
    MissedOutside(u64),
    Error(String),
}

/// A variable's section and its place there.
fn variable<'a>(maps: &'a [Arc<MapDef>], name: &str) -> (&'a MapDef, std::ops::Range<usize>) {
    let found = maps.iter().find_map(|m| m.symbol(name).map(|s| (&**m, s.offset as usize, s.size as usize)));
    let (map, start, size) = found.unwrap_or_else(|| panic!("no variable {name}"));
    (map, start..start + size)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(" ")
}

fn number(json: &Value) -> u64 {
    json.as_u64().unwrap_or_else(|| panic!("no number: {json}"))
}

fn name(json: &Value) -> &str {
    json.as_str().unwrap_or_else(|| panic!("no name: {json}"))
}

impl Play {
    /// `None` for a scenario that needs an embedder's helper, the unverified door or a refusal at load.
    fn new(scenario: &Value, path: &str, packet: &str) -> Option<Play> {
        let steps = scenario["steps"].as_array().unwrap();
        if scenario.get("helpers").is_some()
            || scenario.get("unverified").is_some()
            || steps.iter().any(|s| s.get("refuse").is_some())
        {
            return None;
        }
        let object = Object::parse(&std::fs::read(path).unwrap()).unwrap();
        let commands = format!("prog loadall {path}\n");
        let mut play = Play { commands, wanted: vec![Wanted::Anything], sections: BTreeMap::new() };
        for step in steps {
            play.step(step, &object, packet);
        }
        Some(play)
    }

    fn step(&mut self, step: &Value, object: &Object, packet: &str) {
        let key = |index: &Value| hex(&(number(index) as u32).to_le_bytes());
        let mut wanted = step.get("error").map_or(Wanted::Anything, |e| Wanted::Error(name(e).to_owned()));
        let command = if let Some([array, index, program]) = step["set"].as_array().map(Vec::as_slice) {
            format!("map update name {} key hex {} value name {}", name(array), key(index), name(program))
        } else if let Some([array, index]) = step["clear"].as_array().map(Vec::as_slice) {
            format!("map delete name {} key hex {}", name(array), key(index))
        } else if let Some(variable_name) = step["setvar"].as_str() {
            set_variable(object.maps(), variable_name, number(&step["value"]), &mut self.sections)
        } else if let Some(variable_name) = step["var"].as_str() {
            // Only scenarios of the unverified door ask for something else than a value.
            wanted = Wanted::Variable(variable_name.to_owned(), number(&step["value"]));
            format!("map lookup name {} key 0 0 0 0", variable(object.maps(), variable_name).0.name)
        } else if let Some([array, index]) = step["missed"].as_array().map(Vec::as_slice) {
            wanted = Wanted::Missed(number(index), [number(&step["empty"]), number(&step["limit"])]);
            format!("map show name {}", name(array))
        } else if let Some(array) = step["missed_outside"].as_str() {
            wanted = Wanted::MissedOutside(number(&step["value"]));
            format!("map show name {array}")
        } else if let Some(pattern) = step["run_each"].as_str() {
            return self.run_each(pattern, step, object, packet);
        } else {
            let times = step.get("times").map_or(1, number) * step.get("threads").map_or(1, number);
            wanted = Wanted::Retval(number(&step["retval"]));
            format!("prog run name {} data_in {packet} repeat {times}", name(&step["run"]))
        };
        writeln!(self.commands, "{command}").unwrap();
        self.wanted.push(wanted);
    }

    fn run_each(&mut self, pattern: &str, step: &Value, object: &Object, packet: &str) {
        let prefix = pattern.strip_suffix('*').expect("patterns end in *");
        let names: Vec<String> = object.programs().map(|p| p.name).filter(|n| n.starts_with(prefix)).collect();
        assert_eq!(names.len() as u64, number(&step["programs"]));
        for name in names {
            writeln!(self.commands, "prog run name {name} data_in {packet}").unwrap();
            self.wanted.push(Wanted::Retval(number(&step["retval"])));
        }
    }
}

/// Writes the section as the object has it, with this variable and those set before in it.
fn set_variable(maps: &[Arc<MapDef>], name: &str, value: u64, sections: &mut BTreeMap<String, Vec<u8>>) -> String {
    let (map, place) = variable(maps, name);
    let data = sections.entry(map.name.clone()).or_insert_with(|| match &map.init {
        MapInit::Data(data) => data.clone(),
        MapInit::Empty | MapInit::Programs(_) | MapInit::Maps(_) => Vec::new(),
    });
    data.resize(map.value_size as usize, 0);
    let size = place.len();
    data[place].copy_from_slice(&value.to_le_bytes()[..size]);
    format!("map update name {} key 0 0 0 0 value hex {}", map.name, hex(data))
}

#[track_caller]
fn compare(what: &str, wanted: &Wanted, answer: &Value) {
    let error = answer["error"].as_str();
    match wanted {
        Wanted::Error(errno) => assert!(error.is_some_and(|e| e.contains(errno)), "{what}: wanted {errno}: {answer}"),
        Wanted::Anything => assert_eq!(error, None, "{what}: {answer}"),
        Wanted::Retval(value) => assert_eq!(answer["output"]["retval"].as_u64(), Some(*value), "{what}: {answer}"),
        Wanted::Missed(index, missed) => {
            let slots = answer["output"]["missed_slots"].as_array().expect("it is counted");
            let slot = slots.iter().find(|slot| slot["index"].as_u64() == Some(*index));
            let found = slot.map_or([0, 0], |slot| [number(&slot["missed_empty"]), number(&slot["missed_limit"])]);
            assert_eq!(found, *missed, "{what}: slot {index}: {answer}");
        }
        Wanted::MissedOutside(value) => assert_eq!(number(&answer["output"]["missed_outside"]), *value, "{what}"),
        Wanted::Variable(name, value) => {
            let found =
                bytes(&answer["output"]["variables"][name]).iter().rev().fold(0u64, |v, b| v << 8 | u64::from(*b));
            assert_eq!(found, *value, "{what}: {name}");
        }
    }
}

#[test]
fn the_scenarios_as_batches() {
    let scratch = Scratch::new("batch");
    let mut played = 0;
    for entry in std::fs::read_dir(scenarios()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "json") {
            continue;
        }
        let scenario: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        let data = match (&scenario["data"]["hex"], &scenario["data"]["zero"]) {
            (Value::String(digits), _) => {
                (0..digits.len() / 2).map(|i| u8::from_str_radix(&digits[2 * i..2 * i + 2], 16).unwrap()).collect()
            }
            (_, Value::Number(n)) => vec![0; n.as_u64().unwrap() as usize],
            _ => vec![0; 64],
        };
        let packet = scratch.file("packet", &data);
        let Some(play) = Play::new(&scenario, &object(name(&scenario["object"])), &packet) else { continue };
        for engine in ENGINES {
            let (_, answers) = batch(engine, true, &play.commands);
            assert_eq!(answers.len(), play.wanted.len(), "{}", path.display());
            for (wanted, answer) in play.wanted.iter().zip(&answers) {
                let what = format!("{} in {engine}: {}", path.display(), answer["command"]);
                compare(&what, wanted, answer);
            }
        }
        played += 1;
    }
    assert!(played >= 30, "{played} scenarios were played");
}

#[test]
fn a_refusal_ends_the_batch_or_not() {
    let commands = format!("prog loadall {}\nprog show name nope\nmap show\n", object("tailcall_1.o"));
    let (status, answers) = batch("jit", false, &commands);
    assert_eq!((status, answers.len()), (1, 2));
    let (status, answers) = batch("jit", true, &commands);
    assert_eq!((status, answers.len()), (1, 3));
    assert_eq!(answers[1]["command"], serde_json::json!(["prog", "show", "name", "nope"]));
    assert!(answers[1].get("output").is_none() && answers[2].get("error").is_none());
}

#[test]
fn an_empty_batch_is_an_empty_array() {
    assert_eq!(batch("jit", false, "# nothing\n\n"), (0, vec![]));
}

#[test]
fn text_answers_follow_each_other() {
    let commands = format!("prog load '{}'  # the first\nmap show\n", object("tailcall_1.o"));
    let ran = with_input(&["batch", "file", "-"], commands.as_bytes());
    let wanted = "program 1: classifier_0  sched_cls\nmap 1: jmp_table  prog_array\n1: prog_array  name jmp_table  flags 0x0\n\tkey 4B  \
                  value 4B  max_entries 3\n";
    assert_eq!((ran.status, ran.stdout.as_str(), ran.stderr.as_str()), (0, wanted, ""));
}

#[test]
fn objects_share_a_map_when_told_to() {
    let t = object("tailcall_1.o");
    let scratch = Scratch::new("share");
    let packet = scratch.file("packet", &[0; 64]);
    for engine in ENGINES {
        let commands = format!(
            "prog load {t} prog entry\nprog load {t} prog classifier_1 map name jmp_table name jmp_table\nmap show\n\
             map update name jmp_table key 1 0 0 0 value name classifier_1\nprog run name entry data_in {packet}\n"
        );
        let (status, answers) = batch(engine, false, &commands);
        assert_eq!((status, answers[2]["output"].as_array().map(Vec::len)), (0, Some(1)), "{answers:?}");
        assert_eq!(answers[4]["output"]["retval"], 1, "{engine}");
    }
}
