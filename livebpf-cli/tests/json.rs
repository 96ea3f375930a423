//! The JSON of each command: bpftool's keys, one document, plain or indented.

mod common;

use common::{ENGINES, Scratch, bytes, chain, livebpf, object, with_input};
use serde_json::{Value, json};

#[track_caller]
fn answer(args: &[&str]) -> Value {
    let args: Vec<&str> = ["-j"].iter().chain(args).copied().collect();
    let ran = livebpf(&args);
    assert_eq!((ran.status, ran.stderr.as_str()), (0, ""), "{args:?}");
    ran.json()
}

fn keys(json: &Value) -> Vec<&str> {
    json.as_object().expect("an object").keys().map(String::as_str).collect()
}

#[test]
fn load_takes_the_first_program_and_loadall_takes_all() {
    let t = &object("tailcall_1.o");
    let named = |id: u32, name: &str| json!({ "id": id, "name": name });
    let first = answer(&["prog", "load", t]);
    assert_eq!(first, json!({ "programs": [named(1, "classifier_0")], "maps": [named(1, "jmp_table")] }));
    let all = answer(&["prog", "loadall", t]);
    let names = ["classifier_0", "classifier_1", "classifier_2", "entry"];
    assert_eq!(all["programs"], names.iter().zip(1..).map(|(n, id)| named(id, n)).collect::<Value>());
    let chosen = answer(&["prog", "loadall", t, "prog", "entry", "prog", "classifier_1"]);
    assert_eq!(chosen["programs"], json!([named(1, "entry"), named(2, "classifier_1")]));
}

#[test]
fn prog_show() {
    let t = &object("tailcall_1.o");
    let shown = answer(&["-o", t, "prog", "show"]);
    assert_eq!(shown.as_array().unwrap().len(), 4);
    let one = answer(&["-o", t, "prog", "show", "name", "entry"]);
    let wanted = ["id", "type", "name", "gpl_compatible", "bytes_xlated", "jited", "bytes_jited", "map_ids", "engine"];
    assert_eq!(keys(&one), wanted);
    assert_eq!(one, shown[3]);
    let fields =
        json!([one["id"], one["type"], one["gpl_compatible"], one["bytes_xlated"], one["jited"], one["map_ids"]]);
    assert_eq!(fields, json!([4, "sched_cls", false, 504, true, [1]]));
    let interpreted = answer(&["--engine", "interp", "-o", t, "prog", "show", "id", "4"]);
    assert_eq!((&interpreted["jited"], interpreted.get("bytes_jited")), (&json!(false), None));
    assert_eq!(answer(&["prog", "list"]), json!([]), "nothing is loaded");
    let several = answer(&["-o", t, "-o", t, "prog", "show", "name", "entry"]);
    assert_eq!(several.as_array().unwrap().len(), 2);
}

#[test]
fn prog_run() {
    let (scratch, t) = (Scratch::new("json-run"), &object("tailcall_1.o"));
    let packet: Vec<u8> = (0..60).collect();
    for engine in ENGINES {
        let args = ["-j", "--engine", engine, "-o", t, "prog", "run", "name", "entry", "data_in", "-", "repeat", "10"];
        let ran = with_input(&args, &packet);
        let json = ran.json();
        assert_eq!((ran.status, keys(&json)), (0, vec!["data_out", "retval", "duration"]));
        assert_eq!((json["retval"].as_u64(), bytes(&json["data_out"])), (Some(3), packet.clone()), "{engine}");
        assert!(json["duration"].is_u64());
    }
    let (file, out) = (&scratch.file("in", &packet), &scratch.path("out"));
    let json = answer(&["-o", t, "prog", "run", "name", "entry", "data_in", file, "data_out", out]);
    assert_eq!((keys(&json), std::fs::read(out).unwrap()), (vec!["retval", "duration"], packet));
}

#[test]
fn prog_run_with_a_context() {
    let (scratch, object) = (Scratch::new("json-ctx"), &object("accounting.o"));
    let (packet, ctx) = (&scratch.file("p", &[0; 64]), &mut vec![0u8; 52]);
    ctx[48..52].copy_from_slice(&1000u32.to_le_bytes());
    let ctx = &scratch.file("ctx", ctx);
    // `looper` adds 1 to cb[0] and returns it when its tail call has failed: its slot is empty.
    let json = answer(&["-o", object, "prog", "run", "name", "looper", "data_in", packet, "ctx_in", ctx]);
    assert_eq!((keys(&json), &json["retval"]), (vec!["data_out", "ctx_out", "retval", "duration"], &json!(1001)));
    assert_eq!(bytes(&json["ctx_out"])[48..52], 1001u32.to_le_bytes());
}

#[test]
fn prog_run_with_a_context_of_every_kind() {
    let (scratch, object) = (Scratch::new("json-supplied"), &object("contexts.o"));
    let run = |name: &str, files: &[(&str, &[u8])]| {
        let paths: Vec<String> =
            files.iter().map(|(word, bytes)| scratch.file(&format!("{name}-{word}"), bytes)).collect();
        let mut words = vec!["-o", object, "prog", "run", "name", name];
        words.extend(files.iter().zip(&paths).flat_map(|((word, _), path)| [*word, path.as_str()]));
        let first = answer(&words);
        for engine in ENGINES {
            let mut json = answer(&[&["--engine", engine][..], &words].concat());
            json["duration"] = first["duration"].clone();
            assert_eq!(json, first, "{engine}");
        }
        first
    };
    let words = |words: &[u64]| words.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<u8>>();
    let mut regs = vec![0; 21];
    (regs[13], regs[14]) = (40, 2);
    let probe = run("probe", &[("ctx_in", &words(&regs))]);
    assert_eq!((keys(&probe), &probe["retval"]), (vec!["ctx_out", "retval", "duration"], &json!(42)));
    assert_eq!(run("probe", &[])["retval"], json!(0), "what is not given is zero");
    assert_eq!(run("tracepoint", &[("ctx_in", &words(&[0, 3, 0, 0, 0, 0, 0, 5]))])["retval"], json!(15));
    assert_eq!(run("raw_tracepoint", &[("ctx_in", &words(&[9, 4]))])["retval"], json!(5));
    let mut packet = [0; 64];
    (packet[12], packet[14], packet[23], packet[35], packet[37]) = (8, 0x45, 6, 99, 80);
    let mut flags = [0; 52];
    flags[48] = 1;
    let flow = run("dissect", &[("data_in", &packet), ("ctx_in", &flags)]);
    let flow_keys = bytes(&flow["data_out"]);
    assert_eq!((&flow["retval"], flow_keys.len(), flow_keys[48]), (&json!(0), 56, 1));
    assert_eq!(flow_keys[..16], [14, 0, 34, 0, 0, 0, 0, 0, 0, 6, 8, 0, 0, 99, 0, 80]);
    let mut addr = [0; 72];
    addr[25] = 0x50;
    let connect = run("connect", &[("ctx_in", &addr)]);
    let addr = bytes(&connect["ctx_out"]);
    assert_eq!(
        (addr[16..28].to_vec(), &connect["retval"]),
        (vec![0, 0, 0, 0, 0, 0, 0, 1, 0x1f, 0x90, 0, 0], &json!(1))
    );
    let mut option = [0; 40];
    option[24] = 6;
    let json = run("option", &[("ctx_in", &option), ("data_in", &[1, 2])]);
    assert_eq!((bytes(&json["data_out"]), bytes(&json["ctx_out"])[32]), (vec![7, 2], 1));
    let mut lookup = [0; 64];
    (lookup[12], lookup[60]) = (6, 80);
    assert_eq!(run("lookup", &[("ctx_in", &lookup)])["retval"], json!(1));
}

#[test]
fn map_show() {
    let c = &chain();
    let shown = answer(&["-o", c, "map", "show"]);
    let stages = answer(&["-o", c, "map", "show", "name", "stages"]);
    assert!(shown.as_array().unwrap().contains(&stages));
    let wanted = ["id", "type", "name", "flags", "bytes_key", "bytes_value", "max_entries", "frozen"];
    let missed = ["missed_empty", "missed_limit", "missed_outside", "missed_slots"];
    assert_eq!(keys(&stages), [&wanted[..], &missed].concat());
    assert_eq!(keys(&answer(&["--no-count", "-o", c, "map", "show", "name", "stages"])), wanted);
    assert_eq!(
        json!([stages["type"], stages["bytes_key"], stages["bytes_value"], stages["frozen"]]),
        json!(["prog_array", 4, 4, 0])
    );
    let blocked = answer(&["-o", c, "map", "list", "name", "blocked"]);
    assert_eq!(json!([blocked["type"], blocked["bytes_value"], blocked["max_entries"]]), json!(["hash", 8, 1024]));
}

#[test]
fn map_contents() {
    for engine in ENGINES {
        let c = &chain();
        let commands = format!(
            "prog loadall {c}\n\
             map update name blocked key hex c6 33 64 42 value 7 0 0 0 0 0 0 0 noexist\n\
             map lookup name blocked key 198 51 100 66\n\
             map dump name blocked\n\
             map update name totals key 0 0 0 0 value hex {}\n\
             map lookup name totals key 0 0 0 0\n\
             map delete name blocked key 0xc6 0x33 0x64 0x42\n\
             map dump name blocked\n\
             map dump name stages\n",
            vec!["01"; totals_size()].join(" ")
        );
        let (status, answers) = common::batch(engine, false, &commands);
        assert_eq!((status, answers.len()), (0, 9), "{answers:?}");
        let element = json!({ "key": ["0xc6", "0x33", "0x64", "0x42"],
            "value": ["0x07", "0x00", "0x00", "0x00", "0x00", "0x00", "0x00", "0x00"] });
        assert_eq!(answers[2]["output"], element);
        assert_eq!(answers[3]["output"], json!([element]));
        let totals = &answers[5]["output"];
        assert_eq!(keys(totals), ["key", "values"]);
        for (cpu, one) in totals["values"].as_array().unwrap().iter().enumerate() {
            assert_eq!((one["cpu"].as_u64(), bytes(&one["value"])), (Some(cpu as u64), vec![1; totals_size()]));
        }
        assert_eq!(answers[7]["output"], json!([]));
        let stages = answers[8]["output"].as_array().unwrap();
        let names: Vec<&str> = stages.iter().map(|e| e["program"].as_str().unwrap()).collect();
        assert_eq!(names, ["acl", "conntrack", "balance", "count", "drop"]);
        assert_eq!(bytes(&stages[4]["key"]), [4, 0, 0, 0]);
    }
}

fn totals_size() -> usize {
    answer(&["-o", &chain(), "map", "show", "name", "totals"])["bytes_value"].as_u64().unwrap() as usize
}

#[test]
fn global_data_goes_by_its_section() {
    let o = object("accounting.o");
    let (_, answers) = common::batch(
        "jit",
        false,
        &format!("prog loadall {o}\nmap dump name .bss\nmap lookup name .data key 0 0 0 0\n"),
    );
    let bss = &answers[1]["output"][0];
    assert_eq!(keys(bss), ["key", "value", "variables"]);
    assert_eq!(bytes(&bss["variables"]["count"]), [0; 4]);
    assert_eq!(keys(&answers[2]["output"]), ["key", "value", "variables"]);
}

#[test]
fn dump_xlated() {
    let t = &object("tailcall_1.o");
    let dumped = answer(&["-o", t, "prog", "dump", "xlated", "name", "entry", "opcodes", "linum"]);
    let insns = dumped.as_array().unwrap();
    assert_eq!(insns[0]["proto"], "int entry(struct __sk_buff *skb)");
    assert_eq!(insns[0]["disasm"], "(bf) r6 = r1");
    let opcodes = json!({ "code": "0xbf", "src_reg": "0x1", "dst_reg": "0x6", "off": ["0x00", "0x00"],
        "imm": ["0x00", "0x00", "0x00", "0x00"] });
    assert_eq!(insns[0]["opcodes"], opcodes);
    assert!(insns[0]["line_num"].is_u64() && insns[0]["file"].as_str().unwrap().ends_with("tailcall_1.bpf.c"));
    let disasm: Vec<&str> = insns.iter().map(|i| i["disasm"].as_str().unwrap()).collect();
    assert_eq!(
        disasm[1..5],
        ["(bf) r1 = r6", "(18) r2 = map[id:1]  ; jmp_table", "(b7) r3 = 0", "(85) call bpf_tail_call#12"]
    );
    let text = livebpf(&["-o", t, "prog", "dump", "xlated", "name", "classifier_1"]);
    let lines: Vec<&str> = text.stdout.lines().filter(|l| !l.starts_with(';')).collect();
    assert_eq!(lines, ["int classifier_1(struct __sk_buff *skb):", "   0: (b4) w0 = 1", "   1: (95) exit"]);
}

#[test]
fn pretty_is_the_same_document() {
    let c = &chain();
    let (plain, pretty) = (livebpf(&["-j", "-o", c, "map", "show"]), livebpf(&["-p", "-o", c, "map", "show"]));
    assert_eq!(plain.json(), pretty.json());
    assert_eq!(plain.stdout.lines().count(), 1);
    assert!(pretty.stdout.lines().count() > 10);
}

#[test]
fn missed_calls_are_shown() {
    let (scratch, t) = (Scratch::new("json-missed"), &object("tailcall_1.o"));
    let packet = &scratch.file("p", &[0; 64]);
    // Four calls through each of three slots; the last slot is filled.
    let commands = format!(
        "prog loadall {t}\n\
         map update name jmp_table key 2 0 0 0 value name classifier_2\n\
         prog run name entry data_in {packet} repeat 10\n\
         map show name jmp_table\n\
         map dump name jmp_table\n\
         map lookup name jmp_table key 2 0 0 0\n"
    );
    for engine in ENGINES {
        let (status, answers) = common::batch(engine, false, &commands);
        assert_eq!(status, 0, "{answers:?}");
        let outputs: Vec<&Value> = answers[3..].iter().map(|answer| &answer["output"]).collect();
        let missed = |i: usize| json!({ "index": i, "missed_empty": 40, "missed_limit": 0 });
        assert_eq!(outputs[0]["missed_slots"], json!([missed(0), missed(1)]), "{engine}");
        let total = ["missed_empty", "missed_limit", "missed_outside"].map(|key| outputs[0][key].as_u64());
        assert_eq!(total, [Some(80), Some(0), Some(0)], "{engine}");
        let none = |i: u8| {
            json!({ "key": [format!("{i:#04x}"), "0x00", "0x00", "0x00"], "value": { "error": "<no entry>" },
                "missed_empty": 40, "missed_limit": 0 })
        };
        assert_eq!(outputs[1].as_array().unwrap()[..2], [none(0), none(1)], "{engine}");
        let last = &outputs[1][2];
        assert_eq!(last, outputs[2], "{engine}");
        let fields = json!([last["program"], last["missed_empty"], last["missed_limit"]]);
        assert_eq!(fields, json!(["classifier_2", 0, 0]), "{engine}");
    }
    let args = ["-o", t, "map", "show"];
    let text = livebpf(&args).stdout;
    assert!(text.ends_with("\tmissed  empty 0  limit 0  outside 0\n"), "{text}");
}

#[test]
fn slots_by_choice() {
    let t = &object("tailcall_1.o");
    let commands = format!("prog loadall {t} slots jmp_table\nprog show name entry\nprog dump jited name entry\n");
    let shown = |engine| common::batch(engine, false, &commands).1[1]["output"].clone();
    assert_eq!(json!([shown("jit")["engine"], shown("jit")["slot_map_ids"]]), json!(["jit", [1]]));
    assert_eq!((&shown("slot")["engine"], shown("slot").get("slot_map_ids")), (&json!("slot"), None));
    let ran = livebpf(&["prog", "loadall", t, "slots", "nope"]);
    assert_eq!(ran.status, 1);
    assert!(ran.stderr.contains("no map named \"nope\"; there is jmp_table"), "{}", ran.stderr);
}
