//! Classic filters: `prog load cbpf`, and wherever a program is named.

mod common;

use common::{ENGINES, Scratch, batch, livebpf, with_input};
use serde_json::json;

/// `udp port 53` over IPv4, as `tcpdump -ddd` writes it for Ethernet.
const UDP_53: &str =
    "13\n40 0 0 12\n21 0 10 2048\n48 0 0 23\n21 0 8 17\n40 0 0 20\n69 6 0 8191\n177 0 0 14\n72 0 0 14\n21 2 0 53
72 0 0 16\n21 0 1 53\n6 0 0 262144\n6 0 0 0\n";

/// An Ethernet frame with an IPv4 packet of the given protocol and ports.
fn packet(protocol: u8, source: u16, target: u16) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
    frame.extend([0x45, 0, 0, 28, 0, 0, 0, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    frame.extend(source.to_be_bytes());
    frame.extend(target.to_be_bytes());
    frame.extend([0, 8, 0, 0]);
    frame
}

#[test]
fn a_filter_is_run_on_frames() {
    let scratch = Scratch::new("cbpf-run");
    let filter = scratch.file("dns.txt", UDP_53.as_bytes());
    let frames = [
        (packet(17, 4000, 53), 262_144),
        (packet(17, 53, 4000), 262_144),
        (packet(17, 4000, 54), 0),
        (packet(6, 4000, 53), 0),
        // Too short for what the filter reads.
        (packet(17, 4000, 53)[..35].to_vec(), 0),
        (Vec::new(), 0),
    ];
    for engine in ENGINES {
        for (frame, wanted) in &frames {
            let path = scratch.file("packet.bin", frame);
            let ran = livebpf(&["-j", "--engine", engine, "prog", "run", "cbpf", &filter, "data_in", &path]);
            assert_eq!((ran.status, &ran.json()["retval"]), (0, &json!(wanted)), "{ran:?}");
        }
    }
    let ran = with_input(&["prog", "run", "cbpf", &filter, "data_in", "-"], &packet(17, 1, 53));
    assert!(ran.stdout.contains("Return value: 262144"), "{ran:?}");
}

#[test]
fn a_filter_is_a_program_like_others() {
    let scratch = Scratch::new("cbpf-load");
    let filter = scratch.file("dns.txt", UDP_53.as_bytes());
    let packet = scratch.file("packet.bin", &packet(17, 4000, 53));
    for engine in ENGINES {
        let commands = format!(
            "prog load cbpf {filter}\nprog load cbpf {filter} name second\nprog show name second\nprog run name dns data_in {packet} repeat 3\n"
        );
        let (status, answers) = batch(engine, false, &commands);
        assert_eq!(status, 0, "{answers:?}");
        assert_eq!(answers[0]["output"]["programs"], json!([{ "id": 1, "name": "dns" }]));
        assert_eq!(answers[2]["output"]["type"], json!("socket_filter"));
        assert_eq!(answers[3]["output"]["retval"], json!(262_144));
    }
    let dumped = livebpf(&["prog", "dump", "xlated", "cbpf", &filter]);
    assert!(dumped.status == 0 && dumped.stdout.contains("skb[23]"), "{dumped:?}");
    let text = livebpf(&["prog", "load", "cbpf", &filter]);
    assert_eq!((text.status, text.stdout.as_str()), (0, "program 1: dns  socket_filter\n"));
}

#[test]
fn what_is_no_filter() {
    let scratch = Scratch::new("cbpf-wrong");
    let check = |text: &[u8], message: &str| {
        let path = scratch.file("filter.txt", text);
        let ran = livebpf(&["prog", "load", "cbpf", &path]);
        let wanted = format!("Error: {path}: {message}\n");
        assert_eq!((ran.status, ran.stderr.as_str(), ran.stdout.as_str()), (1, wanted.as_str(), ""));
    };
    let three = ": make the file with tcpdump -ddd, three times d";
    check(b"", &format!("line 1: found \"\", wanted the number of instructions{three}"));
    let d = "(000) ldh      [12]\n(001) jeq      #0x800           jt 2\tjf 10\n";
    check(d.as_bytes(), &format!("line 1: found \"(000) ldh      [12]\", wanted the number of instructions{three}"));
    let dd = "{ 0x28, 0, 0, 0x0000000c },\n";
    check(dd.as_bytes(), &format!("line 1: found \"{{ 0x28\", wanted the number of instructions{three}"));
    check(b"2\n48 0 0 9\n", "the text ends after 1 of 2 instructions");
    check(b"1\n48 0 0 9\n", "instruction 0, the last one, has code 0x0030, wanted a return (0x06 or 0x16)");
    check(b"2\n21 7 0 9\n6 0 0 0", "instruction 0: a jump to 8, wanted at most 1, the last instruction");
    check(b"1\n\xff\xfe", "byte 2 is no text, wanted the decimal numbers of tcpdump -ddd");
    let usage = |args: &[&str], message: &str| {
        let ran = livebpf(args);
        assert_eq!((ran.status, ran.stderr), (2, format!("Error: {message}\n")), "{args:?}");
    };
    usage(&["prog", "load", "cbpf"], "the command ends where a file that tcpdump -ddd wrote is wanted");
    usage(&["prog", "load", "cbpf", "x", "frob"], "found \"frob\" behind the end of the command");
    let both = with_input(&["prog", "run", "cbpf", "-", "data_in", "-"], UDP_53.as_bytes());
    assert_eq!((both.status, both.stdout.as_str()), (2, ""), "{both:?}");
    let missing = livebpf(&["prog", "load", "cbpf", &scratch.path("missing")]);
    assert!(missing.status == 1 && missing.stderr.contains("No such file"), "{missing:?}");
}
