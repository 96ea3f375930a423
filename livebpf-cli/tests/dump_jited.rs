//! `prog dump jited` shows the bytes as they are: sites close, lead and open with the slots.

mod common;

use common::{batch, bytes, livebpf, object};
use serde_json::{Value, json};

/// The instructions of the first function, that have a `tail_call`: for each jump of each site its state.
fn sites(dump: &Value) -> Vec<&Value> {
    let insns = dump["output"][0]["insns"].as_array().expect("a list of instructions");
    insns.iter().filter(|i| i.get("tail_call").is_some()).collect()
}

#[test]
fn sites_follow_their_slots() {
    let dump = "prog dump jited name entry opcodes\n";
    let set = |program| format!("map update name jmp_table key 1 0 0 0 value name {program}\n");
    let clear = "map delete name jmp_table key 1 0 0 0\n";
    let load = format!("prog loadall {}\n", object("tailcall_1.o"));
    let commands = [&load, dump, &set("classifier_0"), dump, &set("classifier_1"), dump, clear, dump].concat();
    let (status, answers) = batch("jit", false, &commands);
    assert_eq!(status, 0, "{answers:?}");

    // The object has four sites for each of three slots; the second slot's are those that change.
    let states = |dump: &Value| -> Vec<Value> { sites(dump).iter().map(|i| i["tail_call"].clone()).collect() };
    let jump = |jump: &str, state: &str| json!({ "map": "jmp_table", "index": 1, "jump": jump, "state": state });
    let leads = |state: &str, to: Value| {
        let mut json = jump("target", state);
        json.as_object_mut().unwrap().extend(to.as_object().unwrap().clone());
        json
    };
    let poison = json!({ "leads_to": "poison" });
    let program = |id: u32, name: &str| json!({ "leads_to": name, "program_id": id });
    let expected = [
        (1, jump("bypass", "closed"), leads("closed", poison)),
        (3, jump("bypass", "open"), leads("open", program(1, "classifier_0"))),
        (5, jump("bypass", "open"), leads("open", program(2, "classifier_1"))),
    ];
    for (at, bypass, target) in expected {
        let states = states(&answers[at]);
        assert_eq!(states.len(), 24, "two instructions of twelve sites");
        for pair in states.chunks(2).filter(|p| p[0]["index"] == 1) {
            assert_eq!(pair, [bypass.clone(), target.clone()], "answer {at}");
        }
        assert!(states.iter().filter(|s| s["index"] != 1).all(|s| s["state"] == "closed"), "other slots are untouched");
    }
    let closed = states(&answers[7]);
    assert!(closed.iter().all(|s| s["state"] == "closed"), "{closed:?}");
}

#[test]
fn only_the_fields_change() {
    let load = format!("prog loadall {}\n", object("tailcall_1.o"));
    let dump = "prog dump jited name entry opcodes\n";
    let commands = [&load, dump, "map update name jmp_table key 0 0 0 0 value name classifier_2\n", dump].concat();
    let (_, answers) = batch("jit", false, &commands);
    let insns = |n: usize| answers[n]["output"][0]["insns"].as_array().unwrap().clone();
    let mut changed = 0;
    for (before, after) in insns(1).iter().zip(&insns(3)) {
        let (old, new) = (bytes(&before["opcodes"]), bytes(&after["opcodes"]));
        assert_eq!((before["pc"].as_str(), old.len()), (after["pc"].as_str(), new.len()));
        if old != new {
            if after["tail_call"]["jump"] == "bypass" {
                assert_eq!([old, new], [[0x41, 0x83, 0xfc, 0], [0x41, 0x83, 0xfc, 33]], "cmp r12d, imm8");
            } else {
                assert_eq!((old[0], new[0], old.len()), (0xe9, 0xe9, 5), "a jmp rel32");
                let pc = u32::from_str_radix(&after["pc"].as_str().unwrap()[2..], 16).unwrap();
                assert_eq!((pc + 1) % 4, 0, "on a 4-byte boundary");
            }
            changed += 1;
        }
    }
    assert_eq!(changed, 8, "two instructions of the four sites of slot 0");
}

#[test]
fn operands_have_names() {
    let text = |engine: &str, file: &str, program: &str| {
        let ran = livebpf(&["--engine", engine, "-o", &object(file), "prog", "dump", "jited", "name", program]);
        assert_eq!(ran.status, 0, "{}", ran.stderr);
        ran.stdout
    };
    let jit = text("jit", "bpf2bpf_3.o", "entry");
    assert!(jit.starts_with("entry:\n   0:\tpush rbp\n   1:\tmov rbp, rsp\n"), "{jit}");
    assert!(jit.contains("\tcall first\n") && jit.contains("\nfirst:\n"), "{jit}");
    assert!(jit.contains("; tail entry\n") && jit.contains("jmp poison stub"), "{jit}");
    let slot = text("slot", "bpf2bpf_3.o", "entry");
    assert!(slot.contains("; slots of jmp_table\n") && !slot.contains("bypass"), "{slot}");
    let data = text("jit", "accounting.o", "looper");
    assert!(data.contains("; count in .bss\n"), "{data}");
}
