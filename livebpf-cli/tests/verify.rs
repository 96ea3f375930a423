//! `prog verify`: what is said of programs that are fine and of such that are not, as text and as JSON, and the trace.
//!
//! What is printed for objects of our own lies under tests/data/verify; `LIVEBPF_BLESS=1 cargo test --test verify` writes it.

mod common;

use std::path::{Path, PathBuf};

use common::{Scratch, livebpf, with_input};
use serde_json::json;

fn refused() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../livebpf/tests/data/objects/refused.o");
    path.to_str().expect("the project's path is text").to_owned()
}

/// Compares with the file of that name.
#[track_caller]
fn golden(name: &str, found: &str) {
    let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/verify").join(name);
    if std::env::var_os("LIVEBPF_BLESS").is_some() {
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("the folder can be made");
        std::fs::write(&path, found).expect("the file can be written");
    }
    let wanted = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    assert_eq!(found, wanted, "{}", path.display());
}

#[test]
fn each_program_is_judged_on_its_own() {
    let ran = livebpf(&["prog", "verify", &refused()]);
    assert_eq!((ran.status, ran.stderr.as_str()), (1, ""));
    golden("refused.txt", &ran.stdout);
    for part in
        ["fine: accepted", "unchecked_packet: rejected", "rule: memory", "refused.bpf.c:33", "help: ", "comes from"]
    {
        assert!(ran.stdout.contains(part), "{part:?} is not in\n{}", ran.stdout);
    }
    let ran = livebpf(&["prog", "verify", &refused(), "fine"]);
    assert_eq!((ran.status, ran.stdout.matches("accepted").count()), (0, 1));
}

#[test]
fn the_trace_is_in_the_notation_of_the_kernel() {
    for name in ["fine", "unchecked_packet"] {
        let ran = livebpf(&["prog", "verify", &refused(), name, "--log"]);
        assert_eq!(ran.status, i32::from(name != "fine"));
        golden(&format!("{name}.log"), &ran.stdout);
        let listed = livebpf(&["-j", "prog", "verify", &refused(), name, "--log"]).json();
        let lines: Vec<&str> = listed[0]["log"].as_array().expect("lines").iter().filter_map(|l| l.as_str()).collect();
        assert!(ran.stdout.starts_with(&lines.join("\n")), "both forms have the same trace");
        assert!(lines.contains(&"0: R1=ctx() R10=fp0"), "{lines:?}");
        assert!(
            lines.last().is_some_and(|line| line.starts_with("processed ") && line.contains(" insns (limit 1000000)"))
        );
    }
}

#[test]
fn json_has_an_object_for_each_program() {
    let ran = livebpf(&["-j", "prog", "verify", &refused()]);
    assert_eq!(ran.status, 1);
    let answer = ran.json();
    let of = |key: &str| answer.as_array().expect("a list").iter().map(|p| p[key].clone()).collect::<Vec<_>>();
    assert_eq!(of("name"), ["fine", "unchecked_packet", "unchecked_value", "endless"]);
    assert_eq!(of("verdict"), ["accept", "reject", "reject", "reject"]);
    assert_eq!(of("rule")[1..], ["memory", "memory", "termination"]);
    assert_eq!(
        answer[0]["stack_depth"],
        json!([{ "function": "fine", "bytes": 4 }, { "function": "twice", "bytes": 0 }])
    );
    assert!(answer[0]["processed"].as_u64().is_some_and(|n| n > 5));
    let packet = &answer[1];
    assert_eq!((&packet["function"], &packet["line_num"]), (&json!("unchecked_packet"), &json!(33)));
    assert!(packet["message"].as_str().is_some_and(|m| m.contains("invalid access to packet")), "{packet}");
    assert_eq!(packet["path"][0]["line_num"], json!(31));
    assert!(packet["help"].as_str().is_some_and(|h| h.contains("data_end")));
    let (reg, value) = packet["registers"].as_object().and_then(|r| r.iter().next()).expect("a register");
    assert!(value.as_str().is_some_and(|v| v.starts_with("pkt(")), "{packet}");
    assert_eq!(packet["origins"][reg][0]["line_num"], json!(29), "{packet}");
    assert!(answer[0].get("log").is_none());
}

#[test]
fn options_change_the_rules() {
    let ran = livebpf(&["-j", "prog", "verify", &refused(), "fine", "--untrusted"]);
    assert_eq!((ran.status, &ran.json()[0]["verdict"]), (1, &json!("reject")), "it calls a function");
    let ran = livebpf(&["-j", "prog", "verify", &refused(), "unchecked_packet", "--type", "socket"]);
    let answer = &ran.json()[0];
    assert_eq!((ran.status, &answer["type"]), (1, &json!("socket_filter")));
    assert!(
        answer["message"].as_str().is_some_and(|m| m.contains("mem access 'scalar'")),
        "no address there: {answer}"
    );
    let input = format!("prog verify {} fine\nprog verify {} endless --log\nprog show\n", refused(), refused());
    let ran = with_input(&["batch", "file", "-"], input.as_bytes());
    assert_eq!(ran.status, 1);
    assert!(ran.stdout.contains("fine: accepted") && ran.stdout.contains("infinite loop detected"), "{}", ran.stdout);
}

#[test]
fn what_cannot_be_verified_is_said() {
    let scratch = Scratch::new("verify");
    let check = |args: &[&str], status: i32, part: &str| {
        let ran = livebpf(args);
        assert_eq!(ran.status, status, "{ran:?}");
        assert!(ran.stderr.contains(part), "{ran:?}");
    };
    check(&["prog", "verify"], 2, "an object file");
    check(&["prog", "verify", &refused(), "nobody"], 1, "no program is named \"nobody\"; there is fine, ");
    check(&["prog", "verify", &refused(), "--type", "tune"], 2, "program type");
    check(&["prog", "verify", &scratch.file("none.o", b"no object")], 1, "none.o");
    let kernel = refused().replace("refused.o", "kernel_only.o");
    let answer = livebpf(&["-j", "prog", "verify", &kernel]);
    assert_eq!(answer.status, 1);
    let rules = answer.json();
    assert!(rules.as_array().is_some_and(|list| list.iter().any(|p| p["rule"] == "unsupported")), "{rules}");
}
