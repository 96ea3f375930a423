//! Bad objects and bad words: the exact message, the exit status, and in JSON the same message as a document.

mod common;

use common::{ENGINES, Scratch, batch, chain, livebpf, object, with_input};
use serde_json::json;

/// A call with `status` whose message is `message`; as text on standard error, with `-j` as the only output.
#[track_caller]
fn check(args: &[&str], status: i32, message: &str) {
    let ran = livebpf(args);
    let found = (ran.status, ran.stderr.as_str(), ran.stdout.as_str());
    assert_eq!(found, (status, format!("Error: {message}\n").as_str(), ""), "{args:?}");
    let with_json: Vec<&str> = ["-j"].iter().chain(args).copied().collect();
    let ran = livebpf(&with_json);
    assert_eq!((ran.status, ran.json(), ran.stderr.as_str()), (status, json!({ "error": message }), ""), "{args:?}");
}

#[test]
fn objects_that_are_none() {
    let scratch = Scratch::new("objects");
    let good = std::fs::read(object("tailcall_1.o")).unwrap();
    let changed = |at: usize, bytes: &[u8]| {
        let mut object = good.clone();
        object[at..at + bytes.len()].copy_from_slice(bytes);
        object
    };
    let wanted = "wanted a 64-bit little-endian ELF relocatable for EM_BPF, as clang -target bpf -c writes";
    let headers = u64::from_le_bytes(good[40..48].try_into().unwrap());
    let count = u16::from_le_bytes(good[60..62].try_into().unwrap());
    let len = good.len();
    let table: [(&str, &[u8], String); 9] = [
        ("empty.o", b"", "found 0 bytes".into()),
        ("text.o", b"#include <linux/bpf.h>\n", "found 23 bytes".into()),
        ("cut.o", &good[..1000], format!("found {count} section headers at {headers} of 1000 bytes")),
        ("class.o", &changed(4, &[1]), "found class 1 and data encoding 1".into()),
        ("endian.o", &changed(5, &[2]), "found class 2 and data encoding 2".into()),
        ("machine.o", &changed(18, &[62, 0]), "found file type 1 for machine 62".into()),
        ("executable.o", &changed(16, &[2, 0]), "found file type 2 for machine 247".into()),
        (
            "far.o",
            &changed(40, &(1u64 << 60).to_le_bytes()),
            format!("found {count} section headers at {} of {len} bytes", 1u64 << 60),
        ),
        ("many.o", &changed(60, &[255, 255]), format!("found 65535 section headers at {headers} of {len} bytes")),
    ];
    for (name, bytes, found) in table {
        let path = scratch.file(name, bytes);
        check(&["prog", "loadall", &path], 1, &format!("{path}: elf header: {found}, {wanted}"));
        check(&["-o", &path, "prog", "show"], 1, &format!("{path}: elf header: {found}, {wanted}"));
    }
    let missing = scratch.path("missing.o");
    check(&["prog", "load", &missing], 1, &format!("{missing}: No such file or directory (os error 2)"));
}

#[test]
fn programs_that_are_refused() {
    let objects = |name: &str| object(&format!("../objects/{name}"));
    let kernel = objects("kernel_only.o");
    let wanted = "function option, slot 0: found kernel configuration option CONFIG_HZ, wanted a weak extern: there is no kernel here";
    check(&["prog", "loadall", &kernel, "prog", "option"], 1, &format!("{kernel}: program option: {wanted}"));
    let refused = objects("refused.o");
    let message = format!(
        "{refused}: verifier: program unchecked_value: R0 invalid mem access 'map_value_or_null'\n  rule: memory\n  \
         at instruction 7 (r1 = *(u64 *)(r0 +0)) in unchecked_value\n  ./refused.bpf.c:41: *count += 1;\n  \
         with R0=map_value_or_null(id=1,map=seen,ks=4,vs=8)\n    \
         R0 comes from instruction 6 (call 1), ./refused.bpf.c:39: __u64 *count = bpf_map_lookup_elem(&seen, &key);\n  \
         help: compare the pointer with NULL before using it"
    );
    check(&["prog", "loadall", &refused, "prog", "unchecked_value"], 1, &message);
}

#[test]
fn words_of_prog() {
    let t = &object("tailcall_1.o");
    let verbs = "`load`, `loadall`, `show`, `run`, `dump` or `verify`";
    check(&["prog"], 2, &format!("the command ends where {verbs} is wanted"));
    check(&["prog", "attach"], 2, &format!("found \"attach\" where {verbs} is wanted"));
    check(&["prog", "load"], 2, "the command ends where an object file is wanted");
    check(&["prog", "load", t, "frob"], 2, "found \"frob\" where `type`, `prog`, `map` or `slots` is wanted");
    check(&["prog", "load", t, "/sys/fs/bpf/x"], 2, "nothing is pinned here: leave the path \"/sys/fs/bpf/x\" out");
    check(
        &["prog", "load", t, "type", "frob"],
        2,
        "found \"frob\" where a program type is wanted, for instance xdp or tc",
    );
    let known = "there is classifier_0, classifier_1, classifier_2, entry";
    check(&["prog", "load", t, "prog", "nope"], 1, &format!("{t}: no program named \"nope\"; {known}"));
    check(&["-o", t, "prog", "show", "name", "nope"], 1, &format!("no program is named \"nope\"; {known}"));
    check(&["prog", "show", "name", "nope"], 1, "no program is named \"nope\"; none is loaded");
    check(&["prog", "show", "name"], 2, "the command ends where the name of a program is wanted");
    check(&["prog", "show", "id", "x"], 2, "found \"x\" where a number is wanted");
    check(&["-o", t, "prog", "show", "id", "5"], 1, "no program has the id 5 (ENOENT)");
    check(&["prog", "show", "pinned", "x"], 2, "a program is named by `id` or `name` here, `pinned` does not exist");
    check(&["-o", t, "prog", "show", "id", "1", "x"], 2, "found \"x\" behind the end of the command");
    check(
        &["-o", t, "-o", t, "prog", "run", "name", "entry"],
        1,
        "2 programs are named \"entry\": use `id` with one of 4, 8",
    );
    check(&["prog", "dump", "source"], 2, "found \"source\" where `xlated` or `jited` is wanted");
    check(
        &["-o", t, "prog", "dump", "xlated", "id", "1", "x"],
        2,
        "found \"x\" where `opcodes`, `linum` or the end is wanted",
    );
    let interpreted = "program entry is interpreted: it has no machine code (use --engine jit or slot)";
    check(&["--engine", "interp", "-o", t, "prog", "dump", "jited", "name", "entry"], 1, interpreted);
}

#[test]
fn words_of_prog_run() {
    let scratch = Scratch::new("run");
    let (t, packet, short) = (&object("tailcall_1.o"), &scratch.file("p", &[0; 64]), &scratch.file("s", &[0; 9]));
    let run = |rest: &[&'static str], status, message: &str| {
        let words: Vec<&str> = ["-o", t, "prog", "run", "name", "entry"].iter().chain(rest).copied().collect();
        check(&words, status, message);
    };
    run(&[], 2, "the command ends where `data_in FILE` is wanted");
    run(&["data_in"], 2, "the command ends where a file to read the packet from is wanted");
    run(&["frob"], 2, "found \"frob\" where `data_in`, `data_out`, `ctx_in`, `ctx_out` or `repeat` is wanted");
    run(&["data_in", "/none"], 1, "/none: No such file or directory (os error 2)");
    run(&["repeat", "x"], 2, "found \"x\" where how often to run is wanted");
    run(&["repeat", "4294967296"], 2, "found 4294967296 where at most 4294967295 runs are wanted");
    run(&["data_in", "-", "ctx_in", "-"], 2, "only one of data_in and ctx_in can be standard input");
    let entry = ["-o", t, "prog", "run", "name", "entry", "data_in"];
    let with = |rest: &[&str], message: &str| {
        check(&entry.iter().chain(rest).copied().collect::<Vec<_>>(), 1, message);
    };
    with(&[short], &format!("{short}: packet: found 9 bytes, wanted at least 14 (an Ethernet header)"));
    with(&[packet, "data_out", "/none/x"], "/none/x: No such file or directory (os error 2)");
    let long = &scratch.file("c", &[0; 193]);
    with(&[packet, "ctx_in", long], &format!("{long}: found 193 bytes, wanted at most 192 for struct __sk_buff"));
    let len = &scratch.file("l", &[1]);
    let settable = "mark, priority, ingress_ifindex, ifindex, cb[0..4], tstamp, wire_len, gso_segs, gso_size, hwtstamp";
    with(
        &[packet, "ctx_in", len],
        &format!("{len}: context: __sk_buff has no field len that can be set; fields that can: {settable}"),
    );
}

#[test]
fn words_of_map() {
    let (t, c) = (&object("tailcall_1.o"), &chain());
    let verbs = "`show`, `dump`, `lookup`, `update` or `delete`";
    check(&["map"], 2, &format!("the command ends where {verbs} is wanted"));
    check(&["map", "create"], 2, &format!("found \"create\" where {verbs} is wanted"));
    check(&["map", "dump", "x"], 2, "found \"x\" where `id` or `name` of a map is wanted");
    check(&["-o", t, "map", "dump", "name", "x"], 1, "no map is named \"x\"; there is jmp_table");
    check(
        &["-o", t, "-o", t, "map", "dump", "name", "jmp_table"],
        1,
        "2 maps are named \"jmp_table\": use `id` with one of 1, 2",
    );
    let map = |object: &str, words: &str, status, message: &str| {
        let words: Vec<&str> = ["-o", object, "map"].into_iter().chain(words.split(' ')).collect();
        check(&words, status, message);
    };
    map(t, "lookup id 1 0 0 0 0", 2, "found \"0\" where `key` is wanted");
    map(t, "lookup id 1 key 0 0 0", 2, "the command ends where byte 4 of 4 of the key is wanted");
    map(t, "lookup id 1 key 0 256 0 0", 2, "found \"256\" where byte 2 of 4 of the key is wanted");
    map(t, "lookup id 1 key hex 0 gg 0 0", 2, "found \"gg\" where byte 2 of 4 of the key is wanted");
    map(t, "lookup id 1 key 0 0 0 0 0", 2, "found \"0\" behind the end of the command");
    map(t, "lookup id 1 key 0 0 0 0", 1, "map jmp_table: no such key (ENOENT)");
    map(t, "delete id 1 key 0 0 0 0", 1, "map jmp_table: no such key (ENOENT)");
    map(
        t,
        "delete id 1 key 3 0 0 0",
        1,
        "map jmp_table: index 3 is past the end, the program array has 3 entries (E2BIG)",
    );
    map(
        t,
        "update id 1 key 3 0 0 0 value name entry",
        1,
        "map jmp_table: index 3 is past the end, the program array has 3 entries (E2BIG)",
    );
    map(
        t,
        "update id 1 key 0 0 0 0 value 1 0 0 0",
        1,
        "map jmp_table: the value of a slot is a program: `value name PROG` or `value id N` (EBADF)",
    );
    map(t, "update id 1 key 0 0 0 0 value id 77", 1, "no program has the id 77 (ENOENT)");
    map(
        t,
        "update id 1 key 0 0 0 0 value name entry noexist",
        1,
        "map jmp_table: a slot is set whatever it holds, the only flag is `any` (EINVAL)",
    );
    map(t, "update id 1 key 0 0 0 0", 2, "the command ends where `value` is wanted");
    let key = "key hex c6 33 64 42";
    map(c, &format!("lookup name blocked {key}"), 1, "map blocked: no such key (ENOENT)");
    map(c, &format!("update name blocked {key} value 0 0 0 0 0 0 0 0 exist"), 1, "map blocked: no such key (ENOENT)");
    map(
        c,
        &format!("update name blocked {key} value 0 0 0 0 0 0 0 0 now"),
        2,
        "found \"now\" where `any`, `noexist`, `exist` or the end is wanted",
    );
    map(
        c,
        &format!("update name blocked {key} value 0 0 0"),
        2,
        "the command ends where byte 4 of 8 of the value is wanted",
    );
    map(c, "delete name totals key 0 0 0 0", 1, "map totals: elements of an array cannot be deleted (EINVAL)");
}

#[test]
fn what_is_refused_changes_nothing() {
    let (t, unsafe_one) = (object("tailcall_1.o"), object("../objects/refused.o"));
    let load = format!("prog loadall {t}\nmap update name jmp_table key 1 0 0 0 value name classifier_1\n");
    let look = "prog show\nmap show\nmap dump name jmp_table\nprog dump xlated name entry\n";
    for engine in ENGINES {
        let refused = format!(
            "prog load {t} prog entry type xdp map name jmp_table id 1\n\
             prog loadall {unsafe_one}\n\
             map update name jmp_table key 1 0 0 0 value 1 0 0 0\n\
             map update name jmp_table key 3 0 0 0 value name entry\n\
             map delete name jmp_table key 0 0 0 0\n"
        );
        let (status, answers) = batch(engine, true, &format!("{load}{look}{refused}{look}"));
        let (before, rest) = answers[2..].split_at(4);
        let (errors, after) = rest.split_at(5);
        assert_eq!((status, before), (1, after), "{engine}");
        let errors: Vec<&str> = errors.iter().map(|a| a["error"].as_str().unwrap_or("accepted")).collect();
        let owner =
            "the program does not fit the program array: its type is \"xdp\", the array's programs have \"sched_cls\"";
        assert_eq!(errors[0], format!("{t}: map jmp_table: {owner} (EINVAL)"), "{engine}");
        assert!(errors[1].starts_with(&format!("{unsafe_one}: verifier: ")), "{errors:?}");
        for (error, name) in errors[2..].iter().zip(["(EBADF)", "(E2BIG)", "(ENOENT)"]) {
            assert!(error.starts_with("map jmp_table: ") && error.ends_with(name), "{error}");
        }
    }
}

#[test]
fn the_options_own_usage_errors() {
    for (args, part) in [
        (&["frob"][..], "unrecognized subcommand 'frob'"),
        (&["prog", "--frob"], "unexpected argument '--frob' found"),
        (&["--engine", "fast", "prog", "show"], "unknown engine \"fast\", wanted interp, jit or slot"),
        (&["batch"], "required arguments were not provided"),
        (&["batch", "fil", "x"], "[possible values: file]"),
    ] {
        let ran = livebpf(args);
        assert_eq!((ran.status, ran.stdout.as_str()), (2, ""), "{args:?}");
        assert!(ran.stderr.starts_with("error: ") && ran.stderr.contains(part), "{args:?}: {}", ran.stderr);
        for json in ["-j", "-p", "--json", "--pretty", "-jp"] {
            let args: Vec<&str> = [json].iter().chain(args).copied().collect();
            let ran = livebpf(&args);
            let error = ran.json()["error"].as_str().map(str::to_owned);
            assert_eq!((ran.status, ran.stderr.as_str()), (2, ""), "{args:?}");
            assert!(error.is_some_and(|e| e.contains(part)), "{args:?}: {}", ran.stdout);
        }
    }
}

#[test]
fn files_of_commands_that_cannot_be_read() {
    check(&["batch", "file", "/none"], 1, "/none: No such file or directory (os error 2)");
    let scratch = Scratch::new("commands");
    let open = &scratch.file("open", b"prog show\nprog load 'x\n");
    check(&["batch", "file", open], 2, &format!("{open}: line 2: the quote ' is not closed"));
    let binary = &scratch.file("binary", b"prog show\n\xff\n");
    check(&["batch", "file", binary], 1, &format!("{binary}: byte 10 is not UTF-8"));
    let ran = with_input(&["batch", "file", "-"], b"\n  prog frob\nprog show\n");
    let message = "Error: -:2: found \"frob\" where `load`, `loadall`, `show`, `run`, `dump` or `verify` is wanted\n";
    assert_eq!((ran.status, ran.stderr.as_str(), ran.stdout.as_str()), (1, message, ""));
}

#[test]
fn help_and_version_are_no_errors() {
    for args in [
        &["--help"][..],
        &["prog", "--help"],
        &["map", "--help"],
        &["batch", "--help"],
        &["prog", "help"],
        &["map", "help"],
    ] {
        let ran = livebpf(args);
        assert_eq!((ran.status, ran.stderr.as_str()), (0, ""), "{args:?}");
        assert!(
            ran.stdout.contains("livebpf -o chain.o") || ran.stdout.contains("livebpf -j batch file"),
            "{args:?} shows examples"
        );
    }
    let version = format!("livebpf {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(livebpf(&["--version"]).stdout, version);
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    use std::process::{Command, Stdio};
    let mut child = Command::new(env!("CARGO_BIN_EXE_livebpf"))
        .args(["-o", &chain(), "prog", "dump", "jited", "name", "parse"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let out = child.wait_with_output().unwrap();
    assert_eq!((out.status.code(), String::from_utf8_lossy(&out.stderr).as_ref()), (Some(0), ""));
}
