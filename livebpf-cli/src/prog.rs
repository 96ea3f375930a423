//! `prog`: load, show, run and dump programs.

use std::fmt::Write as _;
use std::path::Path;

use livebpf::object::{Object, ProgType};
use livebpf::observe;
use livebpf::runtime::{Ebpf, LoadOptions, MapHandle, Program};
use serde_json::{Value, json};

use crate::error::CliError;
use crate::output::Answer;
use crate::session::Session;
use crate::words::Words;
use crate::{dump, run, verify};

/// What follows clap's own help.
pub const HELP: &str = "\
  prog load OBJ [type TYPE] [prog NAME]... [map name NAME MAP]... [slots NAME]...     the first program of the object
  prog load cbpf FILE [name NAME]                                                     a classic filter, as a socket filter
  prog loadall OBJ [type TYPE] [prog NAME]... [map name NAME MAP]... [slots NAME]...  all of them
  prog show [PROG]
  prog run PROG data_in FILE [data_out FILE] [ctx_in FILE] [ctx_out FILE] [repeat N]
  prog dump xlated PROG [opcodes] [linum]
  prog dump jited PROG [opcodes] [linum]
  prog verify OBJ [NAME]... [--log] [--untrusted] [--type TYPE]

  PROG := id N | name NAME, with run and dump also: cbpf FILE        MAP := id N | name NAME        FILE: `-` is standard input or output

  livebpf prog loadall chain.o
  livebpf -o chain.o prog run name parse data_in packet.bin repeat 1000
  livebpf -o chain.o prog dump jited name parse opcodes
  tcpdump -ddd udp port 53 > dns.txt && livebpf prog run cbpf dns.txt data_in packet.bin
  livebpf prog verify chain.o                 is each program safe, and if not, what to change
  livebpf prog verify chain.o parse --log     every step, in the notation of the kernel's log

`load` and `loadall` verify and compile; nothing stays behind when the command ends. An object's programs are run with -o or
in a batch. With `slots` the tail calls through that program array read its slots and are never patched. `run` gives retval (the verdict), duration (nanoseconds per run, average) and the packet after the last run.

A classic filter is what `tcpdump -ddd` writes. It is translated, verified and run as a socket filter on a packet socket: the packet
begins with its Ethernet header, and the verdict is how many bytes of it to keep, 0 for none.

`verify` checks each program on its own and loads nothing. Of a rejected one it tells the rule, the source line and instruction, the
registers that matter and what made them, the branches that lead there, and what would help; of an accepted one the instructions
processed, the states kept and the stack of each function. --log adds the whole trace; --untrusted applies the rules for authors
without CAP_BPF; --type takes the programs for ones of another type. Exit status 1 if any program is rejected.";

/// Carries out the words behind `prog`.
pub fn execute(session: &mut Session, words: &mut Words<'_>) -> Result<Answer, CliError> {
    match words.take("`load`, `loadall`, `show`, `run`, `dump` or `verify`")? {
        "load" => load(session, words, false),
        "loadall" => load(session, words, true),
        "show" | "list" => show(session, words),
        "run" => run::execute(session, words),
        "dump" => dump::execute(session, words),
        "verify" => verify::execute(words),
        "help" => Ok(Answer::new(json!(HELP), format!("{HELP}\n"))),
        other => Err(CliError::usage(format!(
            "found {other:?} where `load`, `loadall`, `show`, `run`, `dump` or `verify` is wanted"
        ))),
    }
}

/// What `load` and `loadall` were told.
#[derive(Default)]
struct Selection {
    prog_type: Option<ProgType>,
    programs: Vec<String>,
    maps: Vec<(String, MapHandle)>,
    slots: Vec<String>,
}

impl Selection {
    fn take(session: &Session, words: &mut Words<'_>) -> Result<Selection, CliError> {
        let mut selection = Selection::default();
        while words.peek().is_some() {
            match words.take("`type`, `prog`, `map` or `slots`")? {
                "type" => selection.prog_type = Some(program_type(words.take("a program type")?)?),
                "prog" => selection.programs.push(words.take("the name of a program")?.to_owned()),
                "map" => {
                    words.expect("name")?;
                    let name = words.take("the name of a map of the object")?.to_owned();
                    selection.maps.push((name, session.take_map(words)?));
                }
                "slots" => selection.slots.push(words.take("the name of a program array of the object")?.to_owned()),
                path if path.contains('/') => {
                    return Err(CliError::usage(format!("nothing is pinned here: leave the path {path:?} out")));
                }
                other => {
                    return Err(CliError::usage(format!(
                        "found {other:?} where `type`, `prog`, `map` or `slots` is wanted"
                    )));
                }
            }
        }
        Ok(selection)
    }

    fn options(&self, object: &Object, all: bool) -> Result<LoadOptions, CliError> {
        let mut options = LoadOptions::default();
        if !self.programs.is_empty() {
            options = options.programs(self.programs.iter().cloned());
        } else if !all {
            let first = object.programs().find(|p| p.autoload);
            let first = first.ok_or_else(|| CliError::refused("the object has no program to load"))?;
            options = options.programs([first.name]);
        }
        if let Some(prog_type) = self.prog_type {
            options = options.prog_type(prog_type);
        }
        for (name, map) in &self.maps {
            options = options.reuse_map(name, map);
        }
        for array in &self.slots {
            options = options.slots(array);
        }
        Ok(options)
    }
}

/// A program type by bpftool's names and libbpf's section names.
pub fn program_type(word: &str) -> Result<ProgType, CliError> {
    let name = match word {
        "socket" => "socket_filter",
        "classifier" | "tc" | "tcx" => "sched_cls",
        "action" => "sched_act",
        "cgroup/skb" | "cgroup_skb/ingress" | "cgroup_skb/egress" => "cgroup_skb",
        "raw_tp" => "raw_tracepoint",
        other => other,
    };
    let found = ProgType::from_name(name).filter(|t| t.0 != 0);
    found.ok_or_else(|| {
        CliError::usage(format!("found {word:?} where a program type is wanted, for instance xdp or tc"))
    })
}

fn load(session: &mut Session, words: &mut Words<'_>, all: bool) -> Result<Answer, CliError> {
    let path = words.take("an object file")?;
    if path == "cbpf" && !all && (words.peek().is_some() || !Path::new(path).exists()) {
        return load_classic(session, words);
    }
    let selection = Selection::take(session, words)?;
    let loaded = session.load(Path::new(path), |object| selection.options(object, all))?;
    Ok(loaded_answer(loaded))
}

fn load_classic(session: &mut Session, words: &mut Words<'_>) -> Result<Answer, CliError> {
    let path = words.take("a file that tcpdump -ddd wrote")?;
    let name = if words.accept("name") { Some(words.take("a name for the program")?) } else { None };
    words.end()?;
    Ok(loaded_answer(session.load_classic(path, name)?))
}

/// What was loaded, with the numbers it goes by.
fn loaded_answer(loaded: &Ebpf) -> Answer {
    let programs: Vec<Program> = loaded.programs().cloned().collect();
    let maps: Vec<MapHandle> = loaded.maps().cloned().collect();
    let named = |id: u32, name: &str| json!({ "id": id, "name": name });
    let mut text = String::new();
    for p in &programs {
        let _ = writeln!(text, "program {}: {}  {}", p.id(), p.name(), p.prog_type());
    }
    for m in &maps {
        let _ = writeln!(text, "map {}: {}  {}", m.id(), m.name(), m.map_type());
    }
    let json = json!({
        "programs": programs.iter().map(|p| named(p.id(), p.name())).collect::<Value>(),
        "maps": maps.iter().map(|m| named(m.id(), m.name())).collect::<Value>(),
    });
    Answer::new(json, text)
}

fn show(session: &Session, words: &mut Words<'_>) -> Result<Answer, CliError> {
    if words.peek().is_none() {
        let programs: Vec<&Program> = session.programs().collect();
        let json = programs.iter().map(|p| describe(session, p)).collect();
        return Ok(Answer::new(json, programs.iter().map(|p| line(session, p)).collect::<String>()));
    }
    let found = session.take_programs(words)?;
    words.end()?;
    let text: String = found.iter().map(|p| line(session, p)).collect();
    let json = match found.as_slice() {
        [one] => describe(session, one),
        several => several.iter().map(|p| describe(session, p)).collect(),
    };
    Ok(Answer::new(json, text))
}

fn bytes_xlated(program: &Program) -> u64 {
    u64::from(program.linked().insns.len()) * 8
}

fn describe(session: &Session, program: &Program) -> Value {
    let jited = observe::jited_bytes(program);
    let mut json = json!({
        "id": program.id(),
        "type": program.prog_type().to_string(),
        "name": program.name(),
        "gpl_compatible": program.linked().gpl_compatible(),
        "bytes_xlated": bytes_xlated(program),
        "jited": jited.is_some(),
    });
    if let Some(bytes) = jited {
        json["bytes_jited"] = json!(bytes);
    }
    json["map_ids"] = json!(observe::map_ids(program));
    let mode = observe::tail_call_mode(program);
    json["engine"] = json!(mode.engine.name());
    if let Some(why) = session.no_patching() {
        json["engine_why"] = json!(why);
    }
    if !mode.slots.is_empty() {
        json["slot_map_ids"] = json!(mode.slots);
    }
    json
}

fn line(session: &Session, program: &Program) -> String {
    let gpl = if program.linked().gpl_compatible() { "  gpl" } else { "" };
    let jited = match observe::jited_bytes(program) {
        Some(bytes) => format!("jited {bytes}B"),
        None => "not jited".to_owned(),
    };
    let ids = |what: &str, ids: &[u32]| {
        let ids: Vec<String> = ids.iter().map(u32::to_string).collect();
        if ids.is_empty() { String::new() } else { format!("  {what} {}", ids.join(",")) }
    };
    let mode = observe::tail_call_mode(program);
    let why = session.no_patching().map(|why| format!("  ({why})")).unwrap_or_default();
    let engine = format!("engine {}{why}{}", mode.engine, ids("slot_map_ids", &mode.slots));
    let maps = ids("map_ids", &observe::map_ids(program));
    let (id, kind, name, xlated) = (program.id(), program.prog_type(), program.name(), bytes_xlated(program));
    format!("{id}: {kind}  name {name}{gpl}\n\txlated {xlated}B  {jited}{maps}\n\t{engine}\n")
}
