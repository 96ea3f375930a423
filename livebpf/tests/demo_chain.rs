//! The demo's chain (livebpf-cli/assets/demo), packet by packet and stage by stage, against what a Linux kernel did.
#![allow(dead_code, reason = "the folder `scenario` serves several tests")]

mod scenario;

use std::collections::BTreeMap;
use std::path::PathBuf;

use scenario::bare::Bare;
use scenario::live::{ENGINES, Live};
use scenario::play::Bench;
use scenario::refusal::refused;

const STAGES: [&str; 5] = ["acl", "conntrack", "balance", "count", "drop"];
const BLOCKED: [[u8; 4]; 2] = [[198, 51, 100, 66], [203, 0, 113, 66]];

fn demo(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../livebpf-cli/assets/demo").join(file)
}

fn packets() -> Vec<Vec<u8>> {
    let file = std::fs::read(demo("traffic.pcap")).expect("the capture");
    let mut rest = &file[24..];
    let mut packets = Vec::new();
    while !rest.is_empty() {
        let length = u32::from_le_bytes(rest[8..12].try_into().expect("four bytes")) as usize;
        packets.push(rest[16..16 + length].to_vec());
        rest = &rest[16 + length..];
    }
    packets
}

/// What stands in slot `stage` of `stages` in a configuration of verdicts.tsv.
fn program_in(configuration: &str, stage: &str) -> Option<String> {
    let second = Some(format!("{stage}_v2"));
    match (configuration, stage) {
        ("v2", _) | ("mixed", "acl" | "balance") => second,
        ("nothing", _) | ("mixed", "count") => None,
        _ if configuration.strip_prefix("no_") == Some(stage) => None,
        _ => Some(stage.to_owned()),
    }
}

fn configure(bench: &mut dyn Bench, configuration: &str) {
    for (slot, stage) in (0..).zip(STAGES) {
        match program_in(configuration, stage) {
            Some(program) => bench.set("stages", slot, &program).expect("a stage of the chain"),
            None => _ = bench.clear("stages", slot),
        }
    }
    for slot in 0..4 {
        match configuration {
            "no_backends" | "nothing" => _ = bench.clear("backends", slot),
            _ => bench.set("backends", slot, &format!("backend_{slot}")).expect("a backend"),
        }
    }
}

/// The words of a value, those of all CPUs added up.
fn sums(value: &[u8], words: usize) -> Vec<u64> {
    let mut sums = vec![0; words];
    for (position, word) in value.chunks_exact(8).enumerate() {
        sums[position % words] += u64::from_le_bytes(word.try_into().expect("eight bytes"));
    }
    sums
}

/// The equations of assets/demo/README.md. `runs`: how often the entry ran.
fn assert_adds_up(bench: &dyn Bench, runs: u64) {
    let totals = sums(&bench.lookup("totals", &[0; 4]).expect("totals"), 8);
    let (packets, malformed, not_ip, ended) = (totals[0], totals[1], totals[2], &totals[3..]);
    let counts: Vec<Vec<u64>> =
        (0..6u32).map(|stage| sums(&bench.lookup("stage_counts", &stage.to_le_bytes()).expect("counts"), 4)).collect();
    let asked = |stage: usize| counts[stage][..3].iter().sum::<u64>();
    let ran = |stage: usize| counts[stage][0] + counts[stage][1];
    let missed = |stage: usize| counts[stage][2];
    let aside = |stage: usize| counts[stage][3];
    let [acl, conntrack, balance, count, drop, backend] = [0, 1, 2, 3, 4, 5];
    assert_eq!(packets, runs);
    assert_eq!(asked(acl), packets - malformed - not_ip);
    assert_eq!(asked(conntrack), asked(acl) - aside(acl));
    assert_eq!(asked(balance), asked(conntrack) - aside(conntrack));
    assert_eq!(asked(backend), ran(balance) - aside(balance));
    assert_eq!(asked(count), asked(balance) + not_ip);
    assert_eq!(asked(drop), malformed + aside(acl) + aside(conntrack));
    assert_eq!(ended.iter().sum::<u64>(), packets);
    assert_eq!((ended[1], ended[0]), (ran(drop), missed(drop)));
    assert_eq!((ended[3], ended[2] + ended[3]), (ran(backend), asked(count)));
    let tracked: u64 = bench.keys("flows").expect("flows").iter().map(|key| flow_packets(bench, key)).sum();
    assert_eq!(tracked, ran(conntrack) - aside(conntrack));
    assert!(asked(drop) > 100 && ran(backend) > 100 && missed(acl) > 100, "the capture reaches every branch");
}

fn flow_packets(bench: &dyn Bench, key: &[u8]) -> u64 {
    let flow = bench.lookup("flows", key).expect("a flow");
    u64::from_le_bytes(flow[..8].try_into().expect("eight bytes"))
}

/// Runs every packet in every configuration and compares verdict and trail with the kernel's.
fn compare_with_kernel(bench: &mut dyn Bench) {
    for address in BLOCKED {
        bench.update("blocked", &address, &[0; 8]).expect("a blocked address");
    }
    let table = std::fs::read_to_string(demo("verdicts.tsv")).expect("the kernel's verdicts");
    let mut lines = table.lines().map(|line| line.split('\t'));
    let configurations: Vec<&str> = lines.next().expect("a heading").skip(1).collect();
    let rows: BTreeMap<usize, Vec<&str>> =
        lines.map(|mut cells| (cells.next().expect("a number").parse().expect("a number"), cells.collect())).collect();
    let packets = packets();
    assert_eq!(rows.len(), packets.iter().filter(|packet| packet.len() >= 14).count());
    let mut runs = 0;
    for (column, configuration) in configurations.iter().enumerate() {
        configure(bench, configuration);
        for (number, row) in &rows {
            let verdict = bench.run("parse", &packets[*number], 1, 1).expect("a run")[0];
            let scratch = bench.lookup("scratch", &[0; 4]).expect("scratch");
            let trail = u32::from_le_bytes(scratch[..4].try_into().expect("four bytes"));
            assert_eq!(format!("{verdict}/{trail:03x}"), row[column], "packet {number}, {configuration}");
            runs += 1;
        }
    }
    assert_adds_up(bench, runs);
}

#[test]
fn interpreter_without_verifier() {
    compare_with_kernel(&mut Bare::with_helpers(&demo("chain.o"), &BTreeMap::new()).expect("the chain"));
}

#[test]
fn the_verifier_accepts_the_chain() {
    assert_eq!(refused(&demo("chain.o"), &BTreeMap::new()), BTreeMap::new());
}

#[test]
fn every_engine() {
    for engine in ENGINES {
        compare_with_kernel(
            &mut Live::with_helpers(engine, &demo("chain.o"), &BTreeMap::new(), &[]).expect("the chain"),
        );
    }
}
