//! Programs of every type on contexts that the caller supplies (tests/data/contexts/runs.txt), in every engine: what they
//! return, and what they leave in the context.

use livebpf::context::{Context, describe};
use livebpf::insn::text;
use livebpf::link::Program;
use livebpf::object::{AttachType, ProgType, ProgramKind};
use livebpf::runtime::{Engine, Runtime};

const ENGINES: [Engine; 3] = [Engine::Interp, Engine::Jit, Engine::Slot];

/// One case: lines of words, and instructions.
struct Case {
    name: String,
    kind: ProgramKind,
    /// The packet, or the bytes of the context.
    input: Vec<u8>,
    data: Option<Vec<u8>>,
    given: Vec<(String, u64)>,
    retval: u32,
    /// What must hold after the run: a word, what it names, a value.
    after: Vec<(String, String, String)>,
    listing: String,
}

/// `1234` → two bytes; `00*14` → fourteen; several of them one after another.
fn hex(words: &[&str]) -> Vec<u8> {
    let digits = |word: &str| {
        let byte = |at: usize| u8::from_str_radix(&word[at..at + 2], 16).expect("hexadecimal digits");
        (0..word.len()).step_by(2).map(byte).collect::<Vec<u8>>()
    };
    let part = |word: &&str| match word.split_once('*') {
        Some((word, times)) => digits(word).repeat(times.parse().expect("a number")),
        None => digits(word),
    };
    words.iter().flat_map(part).collect()
}

fn number(word: &str) -> u64 {
    let parsed = word.strip_prefix("0x").map_or_else(|| word.parse().ok(), |hex| u64::from_str_radix(hex, 16).ok());
    parsed.unwrap_or_else(|| panic!("{word} is a number"))
}

fn case(name: &str, body: &str) -> Case {
    let mut case = Case {
        name: name.to_owned(),
        kind: ProgramKind::new(ProgType::XDP),
        input: Vec::new(),
        data: None,
        given: Vec::new(),
        retval: 0,
        after: Vec::new(),
        listing: String::new(),
    };
    for line in body.lines().filter(|line| !line.is_empty()) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[0] {
            "type" => case.kind.prog_type = ProgType::from_name(words[1]).expect("a program type"),
            "attach" => case.kind.attach_type = AttachType(number(words[1]) as u32),
            "input" => case.input = hex(&words[1..]),
            "data" => case.data = Some(hex(&words[1..])),
            "set" => case.given.push((words[1].to_owned(), number(words[2]))),
            "retval" => case.retval = number(words[1]) as u32,
            "after" => case.after.push((words[1].to_owned(), words[2].to_owned(), words[3..].join(" "))),
            _ => case.listing += &format!("{line}\n"),
        }
    }
    case
}

fn cases() -> Vec<Case> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/contexts/runs.txt");
    let file = std::fs::read_to_string(path).expect("the file is there");
    let file = file.strip_prefix("== ").expect("a case at the start");
    let bodies = file.split("\n== ").map(|part| part.split_once('\n').expect("a name and a body"));
    bodies.map(|(name, body)| case(name, body)).collect()
}

fn context(case: &Case) -> Context {
    let mut context = Context::for_type(case.kind.prog_type, &case.input).expect("a context");
    if let Some(data) = &case.data {
        context.set_data(data).expect("data");
    }
    for (field, value) in &case.given {
        context.set(field, *value).expect("a field that can be set");
    }
    context
}

fn run(case: &Case, engine: Engine) {
    let Case { name, .. } = case;
    let mut program = Program::bare("main", case.kind, text::assemble(&case.listing).expect("instructions"));
    program.license = "GPL".to_owned();
    let runtime = Runtime::builder().engine(engine).build().expect("a runtime");
    let loaded = runtime.load_linked(vec![program]).unwrap_or_else(|e| panic!("{name}: {e}"));
    let mut context = context(case);
    let mut worker = runtime.worker().expect("a worker");
    let found = worker.run(loaded.program("main").expect("it is there"), &mut context);
    assert_eq!(found.unwrap_or_else(|e| panic!("{name}, {engine}: {e}")), case.retval, "{name}, {engine}");
    for (what, of, value) in &case.after {
        let bytes = || hex(&[vec![of.as_str()], value.split_whitespace().collect()].concat());
        match what.as_str() {
            "field" => assert_eq!(context.get(of), Some(number(value)), "{name}, {engine}: {of}"),
            "data" => assert_eq!(context.data(), bytes(), "{name}, {engine}"),
            "packet" => assert_eq!(context.packet(), bytes(), "{name}, {engine}"),
            "memory" => {
                let wanted = bytes();
                assert_eq!(context.memory().to_vec()[..wanted.len()], wanted, "{name}, {engine}");
            }
            other => panic!("{name}: after {other}?"),
        }
    }
}

#[test]
fn every_engine_runs_every_type() {
    let cases = cases();
    for case in &cases {
        for engine in ENGINES {
            run(case, engine);
        }
    }
    let untried = |n: &u32| !cases.iter().any(|case| case.kind.prog_type.0 == *n);
    let described = (0..64).filter(|n| describe(ProgType(*n)).is_some());
    assert_eq!(described.filter(untried).collect::<Vec<u32>>(), [], "types without a case");
}
