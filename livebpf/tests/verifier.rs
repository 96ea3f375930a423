//! The verifier's verdicts: programs under tests/data/verifier with what must be said about them, and the facts.

use std::path::Path;
use std::sync::Arc;

use livebpf::helper::Table;
use livebpf::insn::{Pc, text};
use livebpf::link::{FuncSig, MapId, Program, Subprogram, TypeKind};
use livebpf::object::{AttachType, MapDef, MapInit, MapType, ProgType, ProgramKind, SpecialField, SpecialKind};
use livebpf::verify::{Options, Rejection, Rule, TailCall, Trust, Verified, verify};

struct Case {
    name: String,
    program: Program,
    trust: Trust,
    /// `None`: accepted; else part of the message.
    expected: Option<String>,
}

fn type_kind(word: &str) -> TypeKind {
    let int = TypeKind::Int { size: 4, signed: true };
    match word {
        "int" => int,
        "void" => TypeKind::Void,
        "enum" => TypeKind::Enum { size: 4 },
        "struct" => TypeKind::Struct { name: "pair".into(), size: 8 },
        "ptr8" => TypeKind::Ptr(Box::new(TypeKind::Int { size: 8, signed: false })),
        "dynptr" => TypeKind::Ptr(Box::new(TypeKind::Struct { name: "bpf_dynptr".into(), size: 16 })),
        "ctx" => TypeKind::Ptr(Box::new(TypeKind::Struct { name: "xdp_md".into(), size: 24 })),
        other => panic!("unknown type {other}"),
    }
}

fn function(words: &[&str], start: u32) -> Subprogram {
    let (name, kind) = (words[0].to_owned(), words[1]);
    let params = || words[3..].iter().map(|w| (String::new(), type_kind(w))).collect();
    let signature = (kind != "nobtf").then(|| FuncSig { ret: type_kind(words[2]), params: params(), tags: vec![] });
    Subprogram { name, start: Pc(start), end: Pc(start), global: kind == "global", signature }
}

fn map(words: &[&str], number: usize) -> Arc<MapDef> {
    let map_type = MapType::from_name(words[0]).expect("a map type");
    let [key, value, entries] = [1, 2, 3].map(|i| words[i].parse::<u32>().expect("a number"));
    let mut def = MapDef::new(&format!("m{number}"), map_type, key, value, entries);
    match words.get(4) {
        Some(&"frozen") => def.frozen = true,
        Some(&"text") => {
            let text = words[5..].join(" ").replace("\\0", "\0");
            (def.frozen, def.init) = (true, MapInit::Data(text.into_bytes()));
        }
        Some(&"flags") => def.map_flags = words[5].parse().expect("flags"),
        Some(&"inner") => def.inner = Some(Box::new(Arc::unwrap_or_clone(map(&words[5..], number)))),
        Some(word @ (&"lock" | &"timer")) => {
            let (kind, size) = if *word == "lock" { (SpecialKind::SpinLock, 4) } else { (SpecialKind::Timer, 16) };
            let offset = words[5].parse().expect("an offset");
            def.special.push(SpecialField { kind, offset, size });
        }
        Some(other) => panic!("unknown word {other}"),
        None => {}
    }
    Arc::new(def)
}

fn case(name: &str, body: &str) -> Case {
    let (mut listing, mut slots, mut expected, mut verdict) = (String::new(), 0, None, false);
    let (mut maps, mut kind, mut license) = (Vec::new(), ProgType::XDP, "GPL".to_owned());
    let mut attach = AttachType::default();
    let main = Subprogram { name: "main".into(), start: Pc(0), end: Pc(0), global: true, signature: None };
    let (mut subprogs, mut trust) = (vec![main], Trust::Trusted);
    for line in body.lines().filter(|l| !l.trim().is_empty()) {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let words: Vec<&str> = rest.split_whitespace().collect();
        match word {
            "type" => kind = ProgType::from_name(rest).expect("a program type"),
            "attach" => attach = AttachType(rest.parse().expect("a number")),
            "license" => license = rest.to_owned(),
            "map" => maps.push(map(&words, maps.len())),
            "fn" => subprogs.push(function(&words, slots)),
            "untrusted" => trust = Trust::Untrusted,
            "accept" => verdict = true,
            "reject" => (expected, verdict) = (Some(rest.to_owned()), true),
            _ => {
                listing.push_str(line);
                listing.push('\n');
                let label = line.trim().ends_with(':');
                let two = line.contains(" ll") || line.contains("map[") || line.contains("subprog[");
                slots += if label { 0 } else { 1 + u32::from(two) };
            }
        }
    }
    assert!(verdict, "{name}: no verdict");
    let insns = text::assemble(&listing).unwrap_or_else(|e| panic!("{name}: {e}"));
    assert_eq!(insns.len(), slots, "{name}");
    for i in 0..subprogs.len() {
        subprogs[i].end = subprogs.get(i + 1).map_or(Pc(slots), |next| next.start);
    }
    let kind = ProgramKind { attach_type: attach, ..ProgramKind::new(kind) };
    let mut program = Program::bare(name, kind, insns);
    (program.subprogs, program.maps, program.license) = (subprogs, maps, license);
    program.kfuncs = livebpf::object::KFUNCS.map(str::to_owned).to_vec();
    program.kfuncs.push("bpf_unknown".to_owned());
    Case { name: name.to_owned(), program, trust, expected }
}

fn cases(file: &str) -> Vec<Case> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/verifier").join(file);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let parts = text
        .strip_prefix("== ")
        .expect("a case at the start")
        .split("\n== ")
        .map(|part| part.split_once('\n').expect("a name and a body"));
    parts.map(|(name, body)| case(name, body)).collect()
}

fn check(program: Program) -> Result<Verified, Box<Rejection>> {
    verify(program, &Options::new(&Table::builtin()))
}

fn run(file: &str, least: usize) {
    let cases = cases(file);
    assert!(cases.len() >= least, "{file} has {} cases", cases.len());
    let mut wrong = Vec::new();
    for case in cases {
        let table = Table::builtin();
        let options = Options { trust: case.trust, ..Options::new(&table) };
        let found = verify(case.program, &options).map(|_| ()).map_err(|r| r.to_string());
        let fine = match (&case.expected, &found) {
            (None, Ok(())) => true,
            (Some(text), Err(message)) => message.contains(text.as_str()),
            _ => false,
        };
        if !fine {
            wrong.push(format!("{}: wanted {:?}, found {found:?}", case.name, case.expected));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn contexts_of_every_type() {
    run("contexts.txt", 40);
}

#[test]
fn numbers_and_control_flow() {
    run("domain.txt", 20);
}

#[test]
fn precision_of_numbers() {
    run("numbers.txt", 10);
}

#[test]
fn memory() {
    run("memory.txt", 38);
}

#[test]
fn calls() {
    run("calls.txt", 29);
}

#[test]
fn tail_calls() {
    run("tail_calls.txt", 19);
}

#[test]
fn helpers_and_maps() {
    run("helpers.txt", 30);
}

#[test]
fn resources() {
    run("resources.txt", 37);
}

#[test]
fn callbacks_and_may_goto() {
    run("callbacks.txt", 32);
}

#[test]
fn iterators() {
    run("iterators.txt", 22);
}

#[test]
fn dynptrs() {
    run("dynptrs.txt", 140);
}

#[test]
fn what_looks_safe_and_is_not() {
    run("soundness.txt", 35);
}

#[test]
fn authors_who_are_not_trusted() {
    run("untrusted.txt", 10);
}

fn accepted(body: &str) -> Verified {
    check(case("facts", &format!("accept\n{body}")).program).unwrap_or_else(|r| panic!("{r}"))
}

const TWO_ARRAYS: &str = "map prog_array 4 4 3\nmap prog_array 4 4 3\n";

/// What is known about the tail call in `listing`, which is its only helper call.
fn tail_call(listing: &str) -> Option<TailCall> {
    let verified = accepted(&format!("{TWO_ARRAYS}{listing}"));
    let facts = verified.facts();
    assert!(facts.has_tail_call);
    facts.insns.iter().find_map(|i| i.tail_call())
}

#[test]
fn a_tail_call_is_direct_only_with_one_map_and_one_index() {
    let call = "call bpf_tail_call#12\nr0 = 0\nexit";
    let direct = tail_call(&format!("r2 = map[idx:1]\nr3 = 2\n{call}"));
    assert_eq!(direct, Some(TailCall::Direct { map: MapId(1), index: 2 }));
    let beyond = tail_call(&format!("r2 = map[idx:1]\nr3 = 3\n{call}"));
    assert_eq!(beyond, Some(TailCall::Indirect { map: MapId(1) }));
    let high = tail_call(&format!("r2 = map[idx:1]\nr3 = 0x100000002 ll\n{call}"));
    assert_eq!(high, Some(TailCall::Direct { map: MapId(1), index: 2 }), "the upper half of the index is ignored");
    let unknown = tail_call(&format!("r3 = *(u32 *)(r1 + 12)\nr2 = map[idx:0]\n{call}"));
    assert_eq!(unknown, Some(TailCall::Indirect { map: MapId(0) }));
    let address = tail_call(&format!("r3 = r1\nr2 = map[idx:0]\n{call}"));
    assert_eq!(address, Some(TailCall::Indirect { map: MapId(0) }), "an address is no known number");
    let choose = "r6 = *(u32 *)(r1 + 12)\nr3 = 0\nr2 = map[idx:0]\nif r6 > 3 goto use\n";
    let index = tail_call(&format!("{choose}r3 = 1\nuse:\n{call}"));
    assert_eq!(index, Some(TailCall::Indirect { map: MapId(0) }));
    let map = tail_call(&format!("{choose}r2 = map[idx:1]\nuse:\n{call}"));
    assert_eq!(map, Some(TailCall::Dynamic));
}

#[test]
fn a_pruned_path_does_not_make_an_index_constant() {
    // Both paths meet with different indices, far enough from each other that states are stored and compared.
    let body = "r6 = *(u32 *)(r1 + 12)
r7 = 0
if r6 > 9 goto a
r7 = 1
a:
r8 = 1
r8 += 1
r8 += 1
r8 += 1
if r6 > 8 goto b
r8 += 1
b:
if r6 > 7 goto c
r8 += 1
c:
r8 += 1
r8 += 1
r2 = map[idx:0]
r3 = r7
call bpf_tail_call#12
r0 = 0
exit";
    assert_eq!(tail_call(body), Some(TailCall::Indirect { map: MapId(0) }));
}

/// The one key, `below` the frame's end, that a lookup behind `listing` is known to have.
fn element_at(below: u32, map: &str, listing: &str) -> Option<u32> {
    let call = format!("r2 = r10\nr2 += -{below}\nr1 = map[idx:0]\ncall bpf_map_lookup_elem#1\nr0 = 0\nexit");
    let verified = accepted(&format!("map {map}\n{listing}\n{call}"));
    let facts = verified.facts();
    let known: Vec<_> = facts.insns.iter().filter(|insn| insn.map().is_some()).collect();
    assert_eq!(known.len(), 1, "the map is known in any case");
    assert_eq!(known[0].map(), Some(MapId(0)));
    known[0].index()
}

fn element(map: &str, listing: &str) -> Option<u32> {
    element_at(8, map, listing)
}

#[test]
fn a_lookup_has_a_known_key_only_where_it_is_one_constant_on_every_path() {
    let array = "array 4 8 4";
    let store = "*(u32 *)(r10 - 8) = 3";
    assert_eq!(element(array, store), Some(3));
    assert_eq!(element("percpu_array 4 8 4", store), Some(3));
    assert_eq!(element("hash 4 8 4", store), None);
    assert_eq!(element(array, "*(u32 *)(r10 - 8) = 4"), None, "past the end");
    assert_eq!(element_at(4, array, "*(u32 *)(r10 - 4) = 0"), Some(0), "bytes that are zero");
    assert_eq!(
        element_at(4, array, "*(u32 *)(r10 - 4) = 3"),
        None,
        "numbers are kept from the front of eight bytes only"
    );
    assert_eq!(element(array, "*(u64 *)(r10 - 8) = 3"), None, "a number of another size");
    assert_eq!(element(array, "*(u16 *)(r10 - 8) = 3\n*(u16 *)(r10 - 6) = 0"), None, "written in two parts");
    assert_eq!(element(array, "r6 = *(u32 *)(r1 + 12)\n*(u32 *)(r10 - 8) = r6"), None);
    assert_eq!(element(array, "r6 = *(u32 *)(r1 + 12)\nr6 &= 3\n*(u32 *)(r10 - 8) = r6"), None);
    let choose = "r6 = *(u32 *)(r1 + 12)\nr7 = 3\nif r6 > 3 goto use\n";
    let same = format!("{choose}r7 = 2\nr7 += 1\nuse:\n*(u32 *)(r10 - 8) = r7");
    assert_eq!(element(array, &same), Some(3));
    let other = format!("{choose}r7 = 2\nuse:\n*(u32 *)(r10 - 8) = r7");
    assert_eq!(element(array, &other), None, "two keys, each of them known");
    let outside = format!("{choose}r7 = 4\nuse:\n*(u32 *)(r10 - 8) = r7");
    assert_eq!(element(array, &outside), None, "one of two is past the end");
    let unknown = format!("{choose}r7 = r6\nuse:\n*(u32 *)(r10 - 8) = r7");
    assert_eq!(element(array, &unknown), None);
    let round = "r6 = 0\nagain:\nr6 += 1\n*(u32 *)(r10 - 8) = r6\nif r6 < 3 goto again";
    assert_eq!(element(array, round), Some(3), "what a loop leaves behind");
}

#[test]
fn a_pruned_path_does_not_make_a_key_constant() {
    // As for tail calls; and the key comes in when everything else is the same.
    let body = "r6 = *(u32 *)(r1 + 12)
r7 = 0
if r6 > 9 goto a
r7 = 1
a:
*(u32 *)(r10 - 8) = r7
r8 = 1
r8 += 1
r8 += 1
r8 += 1
if r6 > 8 goto b
r8 += 1
b:
if r6 > 7 goto c
r8 += 1
c:
r7 = 0
r8 = 0
r6 = 0";
    assert_eq!(element("array 4 8 4", body), None);
    assert_eq!(element("array 4 8 4", &body.replacen("r7 = 1", "r7 = 0", 1)), Some(0));
}

#[test]
fn facts_about_functions_and_instructions() {
    let verified = accepted(
        "r6 = r1
r7 = 5
if r7 == 5 goto live
r8 = 1
live:
*(u32 *)(r10 - 20) = 1
r2 = *(u32 *)(r6 + 0)
call sub
exit
fn sub static int
sub:
call bpf_ktime_get_ns#5
r9 = r0
r0 = 0
exit",
    );
    let facts = verified.facts();
    assert_eq!(facts.funcs.len(), 2);
    let (main, sub) = (facts.funcs[0], facts.funcs[1]);
    assert_eq!((main.stack_depth, main.callee_saved), (20, [true, true, false, false]));
    assert!(main.calls_subprog && !main.calls_helper && !main.tail_call);
    assert_eq!((sub.stack_depth, sub.callee_saved), (0, [false, false, false, true]));
    assert!(sub.calls_helper && !sub.calls_subprog);
    assert_eq!(facts.at(Pc(2)).always(), Some(true));
    assert!(!facts.at(Pc(3)).reached);
    let record = facts.at(Pc(5)).record().expect("a context access");
    assert_eq!((record.offset, record.size.bytes()), (0, 8));
    assert!(!facts.changes_packet && !facts.has_tail_call);
}

#[test]
fn a_register_is_dead_behind_its_last_reader() {
    let verified = accepted(
        "r2 = 1
r3 = 2
r4 = 3
if r1 == 0 goto other
r2 += r3
r2 += r4
r0 = r2
exit
other:
r0 = r4
exit",
    );
    let dead = |pc: u32, reg: u16| verified.facts().at(Pc(pc)).dead >> reg & 1 == 1;
    assert!(!dead(2, 2) && !dead(2, 3) && !dead(2, 4));
    assert!(dead(3, 1) && !dead(3, 2) && !dead(3, 3), "one of the ways reads them");
    assert!(dead(4, 3) && !dead(4, 4) && dead(5, 4) && !dead(5, 2) && dead(6, 2));
    assert!(!dead(7, 0) && !dead(7, 9), "nothing is said of what comes behind the end");
    let called = accepted("r1 = 1\nr2 = 2\ncall sub\nexit\nfn sub static int\nsub:\nr0 = r1\nexit");
    let dead = |pc: u32, reg: u16| called.facts().at(Pc(pc)).dead >> reg & 1 == 1;
    assert!(!dead(0, 1) && dead(1, 2), "the function reads one argument only");
}

/// The slots of the first function's stack that somebody reads.
fn read_slots(body: &str) -> u64 {
    !accepted(body).facts().funcs[0].unread
}

#[test]
fn stack_counts_as_read_whoever_reads_it() {
    let fill = "*(u64 *)(r10 - 8) = 1\n*(u64 *)(r10 - 16) = 1\n*(u64 *)(r10 - 24) = 1\n*(u64 *)(r10 - 32) = 1\n";
    let end = "r0 = 0\nexit\n";
    assert_eq!(read_slots(&format!("{fill}{end}")), 0);
    assert_eq!(read_slots(&format!("{fill}r2 = *(u8 *)(r10 - 9)\n{end}")), 0b10);
    let indirect = format!("{fill}r2 = r10\nr2 += -24\nr2 = *(u64 *)(r2 + 0)\n{end}");
    assert_eq!(read_slots(&indirect), 0b100);
    let added = format!("{fill}r2 = 1\nlock *(u64 *)(r10 - 16) += r2\n{end}");
    assert_eq!(read_slots(&added), 0b10, "an addition reads what it adds to");
    let anywhere =
        format!("{fill}r2 = *(u32 *)(r1 + 12)\nr2 &= 16\nr3 = r10\nr3 += -24\nr3 += r2\nr3 = *(u64 *)(r3 + 0)\n{end}");
    assert_eq!(read_slots(&anywhere), 0b111, "somewhere in there");
    let by_helper =
        format!("map hash 8 8 1\n{fill}r1 = map[idx:0]\nr2 = r10\nr2 += -16\ncall bpf_map_lookup_elem#1\n{end}");
    assert_eq!(read_slots(&by_helper), 0b10);
    let written = format!("{fill}r1 = r10\nr1 += -32\n*(u64 *)(r1 + 0) = 7\n{end}");
    assert_eq!(read_slots(&written), 0, "a write is no read");
    let callee = "fn sub static int\nsub:\nr0 = *(u64 *)(r1 + 0)\n*(u64 *)(r10 - 8) = 1\nr0 = 0\nexit\n";
    let by_callee = format!("{fill}r1 = r10\nr1 += -32\ncall sub\n{end}{callee}");
    assert_eq!(read_slots(&by_callee), 0b1000);
    assert_eq!(accepted(&by_callee).facts().funcs[1].unread, u64::MAX, "nothing of the callee's own");
}

#[test]
fn untrusted_programs_keep_addresses_to_themselves() {
    let body = "map array 4 8 1\naccept\nr2 = map[idx:0][0]+0\n*(u64 *)(r2 + 0) = r1\nr0 = 0\nexit";
    let table = Table::builtin();
    let options = Options { trust: Trust::Untrusted, ..Options::new(&table) };
    let refused = verify(case("leak", body).program, &options).expect_err("an address in a map");
    assert_eq!((refused.rule, refused.pc), (Rule::Pointer, Pc(2)));
    assert!(refused.message.contains("R1 leaks addr into map"));
    check(case("leak", body).program).expect("fine for a trusted author");

    let numbers = [
        ("r2 = -r10", "r2 = r10\nr2 = -r2", "R2 pointer arithmetic prohibited"),
        ("bswap", "r2 = r10\nr2 = bswap32 r2", "R2 pointer arithmetic prohibited"),
        ("mov32", "w2 = w10", "R10 partial copy of pointer"),
        ("movsx", "r2 = (s32)r10", "R10 sign-extension part of pointer"),
        ("sub", "r2 = r10\nr2 -= r10", "R2 pointer -= pointer prohibited"),
        ("sub32", "r2 = r10\nw2 -= 1", "R2 pointer -= pointer prohibited"),
        ("compare", "r2 = 7\nif r10 > r2 goto +0", "R10 pointer comparison prohibited"),
        ("compared", "r2 = 7\nif r2 > r10 goto +0", "R10 pointer comparison prohibited"),
    ];
    for (name, code, message) in numbers {
        let body = format!("accept\n{code}\nr0 = 0\nexit");
        let refused = verify(case(name, &body).program, &options).expect_err(name);
        assert_eq!((refused.rule, refused.message.as_str()), (Rule::Pointer, message), "{name}");
        check(case(name, &body).program).unwrap_or_else(|refused| panic!("{name}: {refused}"));
    }
    let checked = "accept\nr2 = *(u32 *)(r1 + 0)\nr3 = *(u32 *)(r1 + 4)\nr4 = r2\nr4 += 1\nif r4 > r3 goto +1\nr0 = *(u8 *)(r2 + 0)
r0 = 0\nexit";
    verify(case("packet", checked).program, &options).expect("a packet check shows no address");
}

#[test]
fn a_rejection_says_where_and_why() {
    let body = "reject x\nr2 = *(u32 *)(r1 + 0)\nr3 = *(u32 *)(r1 + 12)\nif r3 > 7 goto out\nr0 = *(u8 *)(r2 + 0)
exit\nout:\nr0 = 0\nexit";
    let refused = check(case("unchecked", body).program).expect_err("no check");
    assert_eq!((refused.rule, refused.pc, refused.function.as_str()), (Rule::Memory, Pc(3), "main"));
    assert_eq!(refused.path.len(), 1);
    assert!(!refused.path[0].taken && refused.path[0].pc == Pc(2));
    let text = refused.to_string();
    for part in ["program unchecked", "at instruction 3", "R2=pkt(r=0)", "when 2 is not taken", "help: "] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
}

#[test]
fn the_trace_reads_like_the_kernels_log() {
    let body =
        "accept\nr6 = *(u32 *)(r1 + 12)\n*(u32 *)(r10 - 8) = r6\nif r6 > 7 goto out\nr1 = 3\ncall sub\nout:\nr0 = 0
exit\nfn sub static int\nsub:\nr0 = r1\nexit";
    let (table, log) = (Table::builtin(), std::cell::RefCell::new(String::new()));
    let verified = verify(case("trace", body).program, &Options { log: Some(&log), ..Options::new(&table) });
    let facts = verified.expect("nothing is wrong with it").facts().clone();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/verifier/trace.log");
    if std::env::var_os("LIVEBPF_BLESS").is_some() {
        std::fs::write(&path, log.borrow().as_str()).expect("the file can be written");
    }
    let wanted = std::fs::read_to_string(&path).expect("the file is there");
    assert_eq!(log.into_inner(), wanted, "{}", path.display());
    let silent = check(case("trace", body).program).expect("nothing is wrong with it");
    assert_eq!(silent.facts(), &facts, "a trace changes nothing");
}

#[test]
fn a_rejection_says_what_made_the_registers() {
    let body = "reject x\nr2 = *(u32 *)(r1 + 0)\nr7 = r2\nr7 += 4\nr1 = r7\ncall sub\nexit\nfn sub static int ctx\nsub:\nr0 = *(u8 *)(r1 + 0)\nexit";
    let refused = check(case("origin", body).program).expect_err("no check");
    let made: Vec<u32> = refused.origins.iter().flat_map(|o| &o.made).map(|place| place.pc.0).collect();
    assert_eq!((refused.origins[0].reg.number(), made), (1, vec![3, 2, 1, 0]));
    let text = refused.to_string();
    for part in ["rule: memory", "R1 comes from instruction 3 (r1 = r7)", "made from instruction 2 (r7 += 4)"] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
}

#[test]
fn long_programs_take_linear_time_and_little_stack() {
    let mut listing = String::from("r0 = 0\nr1 = *(u32 *)(r1 + 12)\n");
    for _ in 0..50_000 {
        listing.push_str("r0 += r1\nr0 ^= 77\nr0 <<= 3\nw0 = w1\n");
    }
    listing.push_str("exit\n");
    let verified = accepted(&listing);
    assert_eq!(verified.facts().processed, 200_003);
}

#[test]
fn too_many_open_branches_are_refused() {
    let mut listing = String::from("reject x\nr6 = *(u32 *)(r1 + 12)\nr0 = 0\n");
    for i in 0..9_000 {
        listing.push_str(&format!("if r6 == {i} goto out\n"));
    }
    listing.push_str("r0 = 1\nout:\nexit\n");
    let refused = check(case("many", &listing).program).expect_err("9,000 branches");
    assert_eq!(refused.rule, Rule::Termination);
    assert!(refused.message.contains("jumps is too complex"), "{}", refused.message);
}

#[test]
fn a_null_pointer_goes_with_a_size_of_zero_only() {
    use livebpf::helper::{Arg, FIRST_CUSTOM, Proto};
    let mut table = Table::builtin();
    let ktime = table.by_name("ktime_get_ns").expect("a helper without arguments").clone();
    let args = vec![Arg::MemOrNull, Arg::SizeOrZero];
    table.insert(Proto { id: FIRST_CUSTOM, name: "sum".to_owned(), args, ..ktime });
    let with_size = |size: u32| {
        let listing = format!("accept\nr1 = 0\nr2 = {size}\ncall {FIRST_CUSTOM}\nr0 = 0\nexit\n");
        verify(case("null", &listing).program, &Options::new(&table)).map_err(|refused| refused.message)
    };
    assert!(with_size(0).is_ok());
    assert!(with_size(4).expect_err("four bytes at null").contains("R1 type=scalar expected=fp"));
}

#[test]
fn remembered_states_take_bounded_memory() {
    // Each block leaves a state with a full stack of its own behind: unbounded, 20,000 of about 8 KB.
    let mut listing = String::from("r0 = 0\nr6 = 5\n");
    for i in 1..=64 {
        listing.push_str(&format!("*(u64 *)(r10 - {}) = r6\n", 8 * i));
    }
    for i in 0..20_000 {
        listing.push_str(&format!("*(u64 *)(r10 - 8) = {i}\nif r6 == 7 goto l{i}\n"));
        listing.push_str(&"r0 += 1\n".repeat(6));
        listing.push_str(&format!("l{i}:\n"));
    }
    for i in 1..=64 {
        listing.push_str(&format!("r0 = *(u64 *)(r10 - {})\n", 8 * i));
    }
    listing.push_str("exit\n");
    let peak = accepted(&listing).facts().peak_states;
    assert!((1_000..15_000).contains(&peak), "{peak} states at once");
}

#[test]
fn chained_loops_do_not_make_the_analysis_slow() {
    // Each loop head is jumped to from behind the next one, so that liveness travels one head a pass.
    let mut listing = String::from("r6 = r1\nr0 = 0\nr7 = 0\n");
    for i in 0..2_000 {
        listing.push_str(&format!("l{i}:\nr7 += 1\n"));
        if i > 0 {
            listing.push_str(&format!("if r7 == 77777 goto l{}\n", i - 1));
        }
    }
    listing.push_str("exit\n");
    assert_eq!(accepted(&listing).facts().processed, 4_003);
}
