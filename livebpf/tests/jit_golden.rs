//! What each `emit_*` function emits: the files of tests/data/golden, one for each function, hold listings and the
//! disassembly expected of them. With `LIVEBPF_BLESS=1` in the environment the files are rewritten.
//!
//! A file is a sequence of cases: `[title]`, directives, a listing, `=>`, the disassembly, and `#` comments.
//!
//! ```text
//! .options slots near bmi2 movbe blind   how to compile (default: none of them)
//! .map NAME TYPE KEY VALUE ENTRIES   the program's maps, in order
//! .inner TYPE KEY VALUE ENTRIES      what the last of them holds, a map of maps
//! .frozen BYTE...                    one more map, of frozen data
//! .missed MAP...                     maps whose missed calls are counted, by number
//! .func PC                           a further function begins here
//! .stack BYTES...                    stack depth by function
//! .unread SLOT...                    slots of the first function's stack that nothing reads; the others are read
//! .zeroed                            stack is read that was not written
//! .untrusted                         the author is not trusted
//! .fact PC direct MAP INDEX          what verification is taken to have found out; MAP by number
//! .fact PC element MAP INDEX         a lookup of that key
//! .fact PC indirect MAP | dynamic | map MAP | inner MAP | record OFFSET SIZE | always taken | never taken | dead
//! .fact PC last REGISTER             nothing reads the register after this
//! ```

mod jit_support;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use iced_x86::{Decoder, DecoderOptions, Formatter, NasmFormatter};
use jit_support::bare;
use livebpf::context::RecordAccess;
use livebpf::insn::{Pc, Size, text};
use livebpf::jit::{self, Code, FrameInfo, Options, RelocKind, Symbol, TailCalls};
use livebpf::link::{MapId, Program, Subprogram};
use livebpf::object::{MapDef, MapInit, MapType, ProgType, ProgramKind};
use livebpf::verify::{Facts, Known, TailCall, Verified};

fn golden_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden")
}

/// One case: its text up to and including `=>`, and the disassembly that follows.
struct Case {
    title: String,
    head: String,
    want: String,
}

fn cases(file: &str) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    let mut in_output = true;
    for line in file.lines() {
        if in_output && (line.starts_with('[') || line.starts_with('#')) {
            cases.push(Case { title: line.to_owned(), head: String::new(), want: String::new() });
            in_output = false;
        }
        let case = cases.last_mut().expect("a file begins with a comment or a title");
        if line.starts_with('[') {
            case.title = line.to_owned();
        }
        let part = if in_output { &mut case.want } else { &mut case.head };
        part.push_str(line);
        part.push('\n');
        in_output |= line == "=>";
    }
    cases
}

fn number<T: std::str::FromStr>(word: Option<&&str>) -> T {
    word.and_then(|w| w.parse().ok()).unwrap_or_else(|| panic!("a number, found {word:?}"))
}

/// Options, program and facts of a case.
fn parse(case: &Case) -> (Options, Verified) {
    let mut options = Options::default();
    let (mut maps, mut funcs, mut stacks) = (Vec::new(), vec![0u32], Vec::new());
    let mut facts_said: Vec<Vec<&str>> = Vec::new();
    let (mut unread, mut prog_type) = (0u64, ProgType::XDP);
    let mut listing = String::new();
    for line in case.head.lines().filter(|l| !l.starts_with(['[', '#', '='])) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.first() {
            Some(&".options") => words[1..].iter().for_each(|w| match *w {
                "slots" => options.tail_calls = TailCalls::Slots,
                "near" => options.helpers_near = true,
                "bmi2" => options.cpu.bmi2 = true,
                "movbe" => options.cpu.movbe = true,
                "blind" => options.blind = Some(1),
                other => panic!("option {other}"),
            }),
            Some(&".map") => {
                let map_type = MapType::from_name(words[2]).expect("a map type");
                let n = |i| number(words.get(i));
                maps.push(Arc::new(MapDef::new(words[1], map_type, n(3), n(4), n(5))));
            }
            Some(&".inner") => {
                let map_type = MapType::from_name(words[1]).expect("a map type");
                let n = |i| number(words.get(i));
                let outer = Arc::get_mut(maps.last_mut().expect("a map of maps")).expect("ours alone");
                outer.inner = Some(Box::new(MapDef::new("inner", map_type, n(2), n(3), n(4))));
            }
            Some(&".frozen") => {
                let data: Vec<u8> = words[1..].iter().map(|w| number(Some(w))).collect();
                let mut map = MapDef::new(".rodata", MapType::ARRAY, 4, data.len() as u32, 1);
                (map.frozen, map.init) = (true, MapInit::Data(data));
                maps.push(Arc::new(map));
            }
            Some(&".type") => prog_type = ProgType::from_name(words[1]).expect("a program type"),
            Some(&".unread") => unread = words[1..].iter().map(|w| 1 << number::<u32>(Some(w))).sum(),
            Some(&".missed") => options.count_missed = words[1..].iter().map(|w| MapId(number(Some(w)))).collect(),
            Some(&".func") => funcs.push(number(words.get(1))),
            Some(&".stack") => stacks = words[1..].iter().map(|w| number(Some(w))).collect(),
            Some(&".zeroed" | &".untrusted") => {}
            Some(&".fact") => facts_said.push(words[1..].to_vec()),
            _ => {
                listing.push_str(line);
                listing.push('\n');
            }
        }
    }
    let insns = text::assemble(&listing).unwrap_or_else(|e| panic!("{}: {e}\n{listing}", case.title));
    let mut program = bare(insns);
    program.maps = maps;
    program.kind = ProgramKind::new(prog_type);
    program.subprogs = subprogs(&program, &funcs);
    let mut facts =
        Verified::without_proof(program.clone()).unwrap_or_else(|e| panic!("{}: {e}", case.title)).facts().clone();
    for (i, func) in facts.funcs.iter_mut().enumerate() {
        func.stack_depth = stacks.get(i).copied().unwrap_or(0);
        func.reads_unwritten = case.head.contains("\n.zeroed");
    }
    facts.funcs[0].unread = unread;
    facts.wide_index = case.head.contains("\n.untrusted");
    facts_said.iter().for_each(|words| set_fact(&mut facts, words));
    (options, Verified::with_facts(program, facts))
}

fn subprogs(program: &Program, starts: &[u32]) -> Vec<Subprogram> {
    let end = |i: usize| Pc(starts.get(i + 1).copied().unwrap_or(program.insns.len()));
    let one = |(i, start): (usize, &u32)| Subprogram {
        name: format!("f{i}"),
        start: Pc(*start),
        end: end(i),
        global: i == 0,
        signature: None,
    };
    starts.iter().enumerate().map(one).collect()
}

fn set_fact(facts: &mut Facts, words: &[&str]) {
    let fact = &mut facts.insns[number::<usize>(words.first())];
    let map = || MapId(number(words.get(2)));
    let tail_call = |call| Some(Known::TailCall(call));
    match words[1] {
        "direct" => fact.known = tail_call(TailCall::Direct { map: map(), index: number(words.get(3)) }),
        "indirect" => fact.known = tail_call(TailCall::Indirect { map: map() }),
        "dynamic" => fact.known = tail_call(TailCall::Dynamic),
        "map" => fact.known = Some(Known::Map(map())),
        "inner" => fact.known = Some(Known::Map(map().template())),
        "element" => fact.known = Some(Known::Element { map: map(), index: number(words.get(3)) }),
        "record" => {
            let size = match words[3] {
                "1" => Size::B,
                "2" => Size::H,
                "4" => Size::W,
                _ => Size::DW,
            };
            let queue = words.get(4) == Some(&"queue");
            fact.known = Some(Known::Record(RecordAccess { queue, ..RecordAccess::at(number(words.get(2)), size) }));
        }
        "always" => fact.known = Some(Known::Always(true)),
        "never" => fact.known = Some(Known::Always(false)),
        "dead" => fact.reached = false,
        "last" => fact.dead |= 1 << number::<u16>(words.get(2).map(|w| &w[1..]).as_ref()),
        other => panic!("fact {other}"),
    }
}

/// The code as text: each instruction of the program as a comment in front of what it became.
fn disassemble(program: &Program, code: &Code) -> String {
    let mut formatter = NasmFormatter::new();
    let options = formatter.options_mut();
    options.set_hex_prefix("0x");
    options.set_hex_suffix("");
    options.set_uppercase_hex(false);
    options.set_branch_leading_zeros(false);
    options.set_show_branch_size(false);
    options.set_space_after_operand_separator(true);
    let mut out = String::new();
    for insn in &mut Decoder::new(64, &code.bytes, DecoderOptions::NONE) {
        let at = insn.ip() as u32;
        for (i, frame) in code.frames.iter().enumerate().filter(|(_, f)| f.start == at && f.end > at) {
            let FrameInfo { native_stack, deepest, retained, .. } = *frame;
            writeln!(out, "; function {i}: {native_stack} bytes of stack, deepest {deepest}, retained {retained}")
                .unwrap();
        }
        for (_, pc) in code.lines.iter().filter(|(offset, _)| *offset == at) {
            let insn = program.insns.get(*pc).expect("an instruction");
            writeln!(out, "; {pc}: {insn}").unwrap();
        }
        let mut text = String::new();
        formatter.format(&insn, &mut text);
        let notes = notes(code, at, insn.len() as u32);
        writeln!(out, "{}", format!("{at:4x}:  {text:36}{notes}").trim_end()).unwrap();
    }
    out
}

/// Sites, relocations and entries at an instruction.
fn notes(code: &Code, at: u32, len: u32) -> String {
    let mut out = String::new();
    if at == code.tail_entry {
        out += "; tail entry";
    }
    for site in &code.sites {
        if site.bypass == at {
            write!(out, "; bypass of slot {} of map {}", site.index, site.map.0).unwrap();
        }
        if site.target == at {
            write!(out, "; target of slot {} of map {}", site.index, site.map.0).unwrap();
        }
    }
    for reloc in code.relocs.iter().filter(|r| (at..at + len).contains(&r.at)) {
        let kind = match reloc.kind {
            RelocKind::Rel32 => "rel32",
            RelocKind::Abs64 => "abs64",
        };
        let symbol = match reloc.symbol {
            Symbol::Helper(id) => format!("helper {id}"),
            Symbol::HelperData(id) => format!("data of helper {id}"),
            Symbol::Map(map) => format!("map {}", map.0),
            Symbol::MapData(map, off) => format!("map {} value + {off}", map.0),
            Symbol::SlotTable(map) => format!("slots of map {}", map.0),
            Symbol::Missed(map) => format!("missed calls of map {}", map.0),
            Symbol::Noted => "notes by CPU".to_owned(),
            Symbol::Poison => "poison".to_owned(),
            Symbol::Here(offset) => format!("here + {offset:#x}"),
        };
        write!(out, "; {kind} {symbol}").unwrap();
    }
    out
}

#[test]
fn golden_files() {
    let bless = std::env::var_os("LIVEBPF_BLESS").is_some();
    let mut files: Vec<PathBuf> = std::fs::read_dir(golden_dir())
        .expect("the golden files are there")
        .map(|entry| entry.expect("readable").path())
        .filter(|path| path.extension().is_some_and(|e| e == "txt"))
        .collect();
    files.sort();
    assert!(!files.is_empty());
    let mut wrong = String::new();
    for path in files {
        let file = std::fs::read_to_string(&path).expect("readable");
        let mut new = String::new();
        for case in cases(&file) {
            let (options, verified) = parse(&case);
            let code =
                jit::compile(&verified, &options).unwrap_or_else(|e| panic!("{}: {}: {e}", path.display(), case.title));
            let got = disassemble(verified.program(), &code);
            if got.trim_end() != case.want.trim_end() {
                writeln!(wrong, "{} {}\nwanted:\n{}\ngot:\n{got}", path.display(), case.title, case.want).unwrap();
            }
            writeln!(new, "{}{got}", case.head).unwrap();
        }
        if bless {
            std::fs::write(&path, new.trim_end().to_owned() + "\n").expect("writable");
        }
    }
    assert!(bless || wrong.is_empty(), "{wrong}\nLIVEBPF_BLESS=1 accepts this");
}

/// Every file is named after a function of the code generator, and every such function has its file.
#[test]
fn every_emit_function_has_its_file() {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/jit");
    let mut functions = Vec::new();
    for entry in std::fs::read_dir(sources).expect("the sources are there") {
        let path = entry.expect("readable").path();
        let is_emit = path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("emit_"));
        if !is_emit {
            continue;
        }
        for line in std::fs::read_to_string(path).expect("readable").lines() {
            let name = line.trim().strip_prefix("pub(super) fn emit_").and_then(|l| l.split('(').next());
            functions.extend(name.map(|n| format!("emit_{n}")));
        }
    }
    // Parts of other functions, shown in their files.
    let parts = [
        "emit_address",
        "emit_alu_imm",
        "emit_const",
        "emit_missed_outside",
        "emit_epilogue",
        "emit_pop_callee_regs",
        "emit_return_zero",
        "emit_slot_table",
        "emit_zero_extended_load",
    ];
    let files: Vec<String> = std::fs::read_dir(golden_dir())
        .expect("the golden files are there")
        .filter_map(|e| e.expect("readable").path().file_stem().map(|s| s.to_string_lossy().into_owned()))
        .collect();
    for function in functions.iter().filter(|f| !parts.contains(&f.as_str())) {
        assert!(files.contains(function), "{function} has no golden file");
    }
    for file in &files {
        assert!(functions.contains(file), "{file}.txt is named after no function");
    }
}
