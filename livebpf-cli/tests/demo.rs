//! The demo: its numbers add up, it fails when a stage is broken, and it takes the user's capture, whole or not.

mod common;

use std::time::{Duration, Instant};

use common::{ENGINES, Ran, Scratch, livebpf};
use serde_json::Value;

const TRAFFIC: &[u8] = include_bytes!("../assets/demo/traffic.pcap");

fn number(json: &Value) -> u64 {
    json.as_u64().unwrap_or_else(|| panic!("no number: {json}"))
}

/// What assets/demo/README.md says about the counts, from the report alone.
#[track_caller]
fn assert_adds_up(report: &Value) {
    let count = |stage: &str, what: &str| number(&report["stages"][stage][what]);
    let asked = |stage: &str| count(stage, "ran") + count(stage, "ran_v2") + count(stage, "missed");
    let ran = |stage: &str| count(stage, "ran") + count(stage, "ran_v2");
    let ended = |verdict: &str| number(&report["verdicts"][verdict]);
    let [packets, malformed, not_ip] = ["packets", "malformed", "not_ip"].map(|name| number(&report[name]));
    assert_eq!(["aborted", "drop", "pass", "tx", "redirect"].map(ended).iter().sum::<u64>(), packets);
    assert_eq!(asked("acl"), packets - malformed - not_ip);
    assert_eq!(asked("conntrack"), asked("acl") - count("acl", "aside"));
    assert_eq!(asked("balance"), asked("conntrack") - count("conntrack", "aside"));
    assert_eq!(asked("backend"), ran("balance") - count("balance", "aside"));
    assert_eq!(asked("count"), asked("balance") + not_ip);
    assert_eq!(asked("drop"), malformed + count("acl", "aside") + count("conntrack", "aside"));
    assert_eq!((ended("drop"), ended("aborted")), (ran("drop"), count("drop", "missed")));
    assert_eq!((ended("tx"), ended("pass") + ended("tx")), (ran("backend"), asked("count")));
    assert_eq!(number(&report["tracked"]), ran("conntrack") - count("conntrack", "aside"));
    let missed = ["acl", "conntrack", "balance", "count", "drop", "backend"].map(|stage| count(stage, "missed"));
    assert_eq!(number(&report["engine_missed"]), missed.iter().sum::<u64>());
}

/// What must hold for every run of the demo that ends well.
#[track_caller]
fn assert_good(ran: &Ran) -> Value {
    let report = ran.json();
    assert_eq!((ran.status, number(&report["mismatches"])), (0, 0), "{report:#}");
    assert_eq!(report["mismatch"], Value::Array(Vec::new()));
    assert_adds_up(&report);
    for kind in ["insert", "replace", "delete"] {
        let update = &report["updates"][kind];
        let [min, median, max] = ["min", "median", "max"].map(|name| number(&update["latency_ns"][name]));
        assert!(number(&update["count"]) >= 1000 && min > 0 && min <= median && median <= max, "{kind}: {update}");
    }
    let checked = &report["checked"];
    assert!(number(&checked["trails"]) > 50 && number(&checked["bytes"]) > 0, "{checked}");
    // All of them, unless the machine is so busy that the time for it runs out.
    let [pairs, interpreted] = ["pairs", "interpreted"].map(|name| number(&checked[name]));
    assert!(interpreted > 1000 && interpreted <= pairs, "{checked}");
    assert_eq!(checked["runs"], report["packets"]);
    report
}

#[test]
fn every_engine_runs_it_without_a_mismatch() {
    for engine in ENGINES {
        let ran = livebpf(&["-j", "--engine", engine, "demo", "--seconds", "0.2"]);
        let report = assert_good(&ran);
        assert!(!ran.stderr.contains('\r'), "no terminal, no control characters: {:?}", ran.stderr);
        // Every stage ran in both versions and was missed: the updates were real.
        for stage in ["acl", "conntrack", "balance", "count", "drop"] {
            for what in ["ran", "ran_v2", "missed"] {
                assert!(number(&report["stages"][stage][what]) > 0, "{stage} {what}: {report:#}");
            }
        }
    }
}

#[test]
fn the_report_shows_a_site_before_and_after_updates() {
    let ran = livebpf(&["-j", "demo", "--seconds", "0.1"]);
    let report = assert_good(&ran);
    if report["engine"] != "jit" {
        return; // No patching on this machine.
    }
    let snapshots = report["site"]["snapshots"].as_array().unwrap();
    let jump = |n: usize, note: &str| {
        let lines = snapshots[n]["lines"].as_array().unwrap();
        let line = lines.iter().find(|l| l["note"].as_str().unwrap().starts_with(note)).unwrap();
        let text = |field: &str| line[field].as_str().unwrap().to_owned();
        (text("note"), text("bytes"))
    };
    let notes = |n: usize| (jump(n, "bypass").0, jump(n, "target").0);
    let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    assert_eq!(notes(0), pair("bypass, open: on to the target", "target: acl"));
    assert_eq!(notes(1), pair("bypass, open: on to the target", "target: acl_v2"));
    assert_eq!(notes(2), pair("bypass, closed: past the target", "target: the poison stub"));
    assert_eq!(notes(3), notes(0));
    assert_eq!([0, 2].map(|n| jump(n, "bypass").1), ["41 83 fc 21", "41 83 fc 00"]);
    assert_ne!(jump(0, "target").1, jump(1, "target").1);
    assert_eq!((jump(0, "bypass"), jump(0, "target")), (jump(3, "bypass"), jump(3, "target")));
    // Nothing but those two instructions ever changes.
    let others = |n: usize| -> Vec<&Value> {
        let lines = snapshots[n]["lines"].as_array().unwrap();
        lines.iter().filter(|l| l["note"] == "").map(|l| &l["bytes"]).collect()
    };
    assert!((1..4).all(|n| others(n) == others(0)) && others(0).len() > 2);
}

#[test]
fn without_any_argument_it_is_the_demo_and_takes_seconds() {
    let start = Instant::now();
    let ran = livebpf(&[]);
    assert_eq!(ran.status, 0, "{ran:?}");
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    assert!(ran.stdout.ends_with("No mismatch.\n") && ran.stdout.contains("packets/s"), "{}", ran.stdout);
    assert!(ran.stderr.contains("million packets"), "it shows progress: {}", ran.stderr);
}

#[test]
fn a_broken_stage_is_noticed() {
    let ran = livebpf(&["-j", "demo", "--seconds", "0.1", "--break", "acl"]);
    let report = ran.json();
    assert_eq!(ran.status, 1, "{report:#}");
    assert!(number(&report["mismatches"]) > 0);
    let first = report["mismatch"][0].as_str().unwrap();
    assert!(first.contains("the interpreter says verdict 1"), "{first}");
    let ran = livebpf(&["demo", "--seconds", "0.1", "--break", "acl"]);
    assert!(ran.status == 1 && ran.stdout.ends_with(" MISMATCHES.\n"), "{ran:?}");
}

/// A capture that says of itself what it is, with the packets given.
fn pcap(link: u32, packets: &[&[u8]]) -> Vec<u8> {
    let mut file = [0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0].to_vec();
    file.extend(link.to_le_bytes());
    for packet in packets {
        let length = (packet.len() as u32).to_le_bytes();
        file.extend([[0; 4], [0; 4], length, length].concat());
        file.extend(*packet);
    }
    file
}

#[test]
fn bad_captures_are_refused_with_a_reason() {
    let scratch = Scratch::new("bad-captures");
    let mut endless = pcap(1, &[]);
    endless.extend([0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
    let mut no_block = vec![0x0a, 0x0d, 0x0d, 0x0a, 28, 0, 0, 0];
    no_block.extend([7; 20]);
    let no_packet = "the capture has no packet that an XDP program can be given";
    let table: [(&str, Vec<u8>, String); 11] = [
        ("empty", vec![], "the file is empty, wanted a capture (pcap or pcapng)".into()),
        (
            "elf",
            b"\x7fELF\x02\x01".to_vec(),
            "not a capture: it begins with 7f 45 4c 46, wanted a pcap (d4 c3 b2 a1) or pcapng (0a 0d 0d 0a) file"
                .into(),
        ),
        (
            "letter",
            b"x".to_vec(),
            "not a capture: it begins with 78, wanted a pcap (d4 c3 b2 a1) or pcapng (0a 0d 0d 0a) file".into(),
        ),
        ("head", TRAFFIC[..23].to_vec(), "the capture ends inside its header: found 23 bytes, wanted 24".into()),
        (
            "head.ng",
            vec![0x0a, 0x0d, 0x0d, 0x0a, 28, 0, 0, 0],
            "the capture ends inside its header: found 8 bytes, wanted 28".into(),
        ),
        ("no_block", no_block, format!("{no_packet}; the capture is damaged: the block at byte 0 makes no sense")),
        ("raw", pcap(101, &[&[0; 60]]), "the packets are of link type 101, wanted 1 (Ethernet)".into()),
        ("none", pcap(1, &[]), no_packet.into()),
        (
            "short",
            pcap(1, &[&[0; 13], &[]]),
            format!("{no_packet}; left out 2 of 2 packets: shorter than an Ethernet header (14 bytes)"),
        ),
        (
            "long",
            pcap(1, &[&[0; 3521]]),
            format!("{no_packet}; left out 1 of 1 packets: longer than XDP takes without fragments (3520 bytes)"),
        ),
        (
            "endless",
            endless,
            format!("{no_packet}; the capture is cut short: packet 1, at byte 24, does not fit the 16 bytes left"),
        ),
    ];
    for (name, bytes, message) in table {
        let path = scratch.file(name, &bytes);
        let ran = livebpf(&["demo", "--pcap", &path]);
        assert_eq!((ran.status, ran.stderr), (1, format!("Error: {path}: {message}\n")), "{name}");
    }
    let missing = scratch.path("missing");
    let ran = livebpf(&["-j", "demo", "--pcap", &missing]);
    let message = format!("{missing}: No such file or directory (os error 2)");
    assert_eq!((ran.status, ran.json()["error"].as_str()), (1, Some(&*message)));
    for arguments in [["--seconds", "0"], ["--seconds", "NaN"], ["--seconds", "x"], ["--break", "parse"]] {
        let ran = livebpf(&["demo", arguments[0], arguments[1]]);
        assert_eq!((ran.status, &*ran.stdout), (2, ""), "{arguments:?}");
    }
}

#[test]
fn a_capture_that_is_cut_short_is_run_up_to_the_cut_and_says_so() {
    let scratch = Scratch::new("cut-capture");
    // In the middle of the 101st packet.
    let mut at = 24;
    for _ in 0..100 {
        at += 16 + u32::from_le_bytes(TRAFFIC[at + 8..at + 12].try_into().unwrap()) as usize;
    }
    let path = scratch.file("cut.pcap", &TRAFFIC[..at + 20]);
    let ran = livebpf(&["-j", "demo", "--seconds", "0.1", "--pcap", &path]);
    let report = assert_good(&ran);
    let notes: Vec<&str> = report["capture"]["notes"].as_array().unwrap().iter().map(|n| n.as_str().unwrap()).collect();
    let cut = format!("the capture is cut short: packet 101, at byte {at}, does not fit the 20 bytes left");
    assert_eq!(notes.last(), Some(&&*cut));
    let left_out = 100 - number(&report["capture"]["packets"]);
    assert_eq!(notes.len(), 1 + usize::from(left_out > 0), "{notes:?}");
    let plain = livebpf(&["demo", "--seconds", "0.01", "--pcap", &path]);
    assert!(plain.status == 0 && plain.stdout.contains(&format!("note: {cut}\n")), "{plain:?}");
}
