//! Rows of tests/data/helpers: calls of helpers on a packet, as a program, and what comes out of them.
//!
//! A row is `TYPE PACKET CALL; CALL; .. = ANSWER`. A call is a helper's name and its arguments behind the context: a number,
//! `mem:HEX` (memory with these bytes), `buf:N` (N bytes to be written), `map:TYPE/KEY/VALUE/ENTRIES/FLAGS`. A helper whose first
//! argument is no context is marked by a `-` in front of its arguments. The answer is every call's result, fields of the
//! context afterwards, the contents of all `buf`, and the packet where it changed.
#![allow(dead_code, reason = "each test uses its part")]

use std::fmt::Write as _;
use std::sync::Arc;

use livebpf::helper::id;
use livebpf::insn::text;
use livebpf::link::Program;
use livebpf::object::{MapDef, MapType, ProgType, ProgramKind};

/// Bytes of the value that a program writes what it sees into.
pub const SEEN: usize = 512;
/// Where in it results, fields and buffers are.
const FIELDS: usize = 128;
const BUFFERS: usize = 256;

/// One row.
pub struct Row {
    /// Everything in front of the `=`.
    pub question: String,
    /// Behind it.
    pub answer: String,
    pub program: Program,
    pub packet: Vec<u8>,
    calls: usize,
    fields: usize,
    buffers: Vec<usize>,
}

/// What a run gave.
pub struct Outcome<'a> {
    /// The value that the program has written.
    pub seen: &'a [u8],
    pub packet: &'a [u8],
}

/// The rows of a file, with the comments in front of them: (comments, row).
pub fn rows(text: &str) -> Vec<(String, Row)> {
    let (mut rows, mut comments) = (Vec::new(), String::new());
    for line in text.lines() {
        if line.starts_with('#') || line.trim().is_empty() {
            comments += line;
            comments.push('\n');
            continue;
        }
        rows.push((std::mem::take(&mut comments), row(line)));
    }
    rows
}

fn hex(text: &str) -> Vec<u8> {
    let digit = |i| u8::from_str_radix(&text[i..i + 2], 16).unwrap_or_else(|e| panic!("{text}: {e}"));
    (0..text.len()).step_by(2).map(digit).collect()
}

fn show(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, b| {
        let _ = write!(text, "{b:02x}");
        text
    })
}

fn packet(name: &str) -> Vec<u8> {
    let ethernet = |ether_type: &str| format!("020000000002020000000001{ether_type}");
    let ip4 = "4500002800010000400666cd0a0000010a000002";
    let tcp = "30390050000003e800000000500220 00476f0000".replace(' ', "");
    let ip6 = "6000000000140640fd000000000000000000000000000001fd000000000000000000000000000002";
    hex(&match name {
        "tcp4" => ethernet("0800") + ip4 + &tcp,
        "tcp6" => ethernet("86dd") + ip6 + &tcp,
        "vlan" => ethernet("8100") + "00640800" + ip4 + &tcp,
        "qinq" => ethernet("88a8") + "0065810000640800" + ip4 + &tcp,
        "arp" => ethernet("0806") + &"00".repeat(46),
        "zero" => "00".repeat(64),
        other => panic!("no packet {other}"),
    })
}

/// A program being written.
#[derive(Default)]
struct Writer {
    listing: String,
    maps: Vec<Arc<MapDef>>,
    named: Vec<String>,
    depth: usize,
    buffers: Vec<(usize, usize)>,
}

impl Writer {
    fn line(&mut self, line: &str) {
        self.listing += line;
        self.listing.push('\n');
    }

    /// Room on the stack, zero; how far below the frame pointer it begins.
    fn room(&mut self, len: usize) -> usize {
        let words = len.div_ceil(8);
        self.depth += 8 * words;
        for i in 0..words {
            self.line(&format!("*(u64 *)(r10 - {}) = 0", self.depth - 8 * i));
        }
        self.depth
    }

    fn argument(&mut self, reg: usize, argument: &str) {
        match argument.split_once(':') {
            None => {
                let number: i64 = argument.parse().unwrap_or_else(|e| panic!("{argument}: {e}"));
                if i32::try_from(number).is_ok() {
                    self.line(&format!("r{reg} = {number}"));
                } else {
                    self.line(&format!("r{reg} = {number} ll"));
                }
            }
            Some(("mem", bytes)) => {
                let bytes = hex(bytes);
                let at = self.room(bytes.len());
                for (i, byte) in bytes.iter().enumerate() {
                    self.line(&format!("*(u8 *)(r10 - {}) = {}", at - i, byte));
                }
                self.line(&format!("r{reg} = r10"));
                self.line(&format!("r{reg} += -{at}"));
            }
            Some(("buf", len)) => {
                let len = len.parse().expect("a length");
                let at = self.room(len);
                self.buffers.push((at, len));
                self.line(&format!("r{reg} = r10"));
                self.line(&format!("r{reg} += -{at}"));
            }
            Some(("map", map)) => {
                let index = self.named.iter().position(|m| m == map).unwrap_or_else(|| {
                    let parts: Vec<&str> = map.split('/').collect();
                    let number = |i: usize| parts.get(i).map_or(0, |n| n.parse::<u32>().expect("a number"));
                    let map_type = MapType::from_name(parts[0]).expect("a map type");
                    let mut def =
                        MapDef::new(&format!("m{}", self.maps.len()), map_type, number(1), number(2), number(3));
                    def.map_flags = number(4);
                    self.maps.push(Arc::new(def));
                    self.named.push(map.to_owned());
                    self.maps.len() - 1
                });
                self.line(&format!("r{reg} = map[idx:{index}]"));
            }
            Some(other) => panic!("no argument {other:?}"),
        }
    }

    fn call(&mut self, call: &str) {
        let mut words = call.split_whitespace();
        let name = words.next().expect("a helper");
        let arguments: Vec<&str> = words.collect();
        let (first, arguments) = match arguments.split_first() {
            Some((&"-", rest)) => (1, rest),
            _ => (2, &arguments[..]),
        };
        for (i, argument) in arguments.iter().enumerate() {
            self.argument(first + i, argument);
        }
        if first == 2 {
            self.line("r1 = r6");
        }
        let number = (1..300).find(|n| id::name(*n) == Some(name)).unwrap_or_else(|| panic!("no helper {name}"));
        self.line(&format!("call bpf_{name}#{number}"));
    }
}

fn row(line: &str) -> Row {
    let (question, answer) = line.split_once(" =").unwrap_or((line, ""));
    let mut words = question.splitn(3, ' ');
    let mut word = || words.next().expect("type, packet and calls");
    let (kind, packet_name, calls) = (word(), word(), word());
    let kind = ProgType::from_name(kind).expect("a program type");
    let mut writer = Writer { named: vec![String::new()], ..Writer::default() };
    writer.maps.push(Arc::new(MapDef::new("seen", MapType::ARRAY, 4, SEEN as u32, 1)));
    writer.line("r6 = r1");
    let mut count = 0;
    for (i, call) in calls.split(';').enumerate() {
        writer.call(call.trim());
        writer.line("r9 = map[idx:0][0]+0");
        writer.line(&format!("*(u64 *)(r9 + {}) = r0", 8 * i));
        count = i + 1;
    }
    let fields = fields(&mut writer, kind);
    let mut at = BUFFERS;
    let buffers = writer.buffers.clone();
    for (depth, len) in &buffers {
        for i in (0..*len).step_by(8) {
            writer.line(&format!("r1 = *(u64 *)(r10 - {})", depth - i));
            writer.line(&format!("*(u64 *)(r9 + {at}) = r1"));
            at += 8;
        }
    }
    writer.line("r0 = 0");
    writer.line("exit");
    let insns = text::assemble(&writer.listing).unwrap_or_else(|e| panic!("{question}: {e}\n{}", writer.listing));
    let mut program = Program::bare("row", ProgramKind::new(kind), insns);
    program.maps = writer.maps;
    program.license = "GPL".to_owned();
    let lengths = buffers.iter().map(|(_, len)| *len).collect();
    let (question, answer) = (question.to_owned(), answer.trim().to_owned());
    Row { question, answer, program, packet: packet(packet_name), calls: count, fields, buffers: lengths }
}

/// Notes context fields behind [`FIELDS`]; how many.
fn fields(writer: &mut Writer, kind: ProgType) -> usize {
    if kind == ProgType::XDP {
        for line in ["r1 = *(u32 *)(r6 + 0)", "r2 = *(u32 *)(r6 + 4)", "r3 = *(u32 *)(r6 + 8)", "r2 -= r1", "r1 -= r3"]
        {
            writer.line(line);
        }
        writer.line(&format!("*(u64 *)(r9 + {FIELDS}) = r2"));
        writer.line(&format!("*(u64 *)(r9 + {}) = r1", FIELDS + 8));
        return 2;
    }
    // len, pkt_type, protocol, vlan_present, vlan_tci, vlan_proto
    let offsets = [0, 4, 16, 20, 24, 28];
    for (i, offset) in offsets.iter().enumerate() {
        writer.line(&format!("r1 = *(u32 *)(r6 + {offset})"));
        writer.line(&format!("*(u64 *)(r9 + {}) = r1", FIELDS + 8 * i));
    }
    offsets.len()
}

impl Row {
    /// The answer in the file's form.
    pub fn answer(&self, outcome: &Outcome<'_>) -> String {
        let word = |at: usize| u64::from_le_bytes(outcome.seen[at..at + 8].try_into().expect("eight bytes"));
        let results: Vec<String> = (0..self.calls).map(|i| (word(8 * i) as i64).to_string()).collect();
        let fields: Vec<String> = (0..self.fields).map(|i| format!("{:x}", word(FIELDS + 8 * i))).collect();
        let mut text = format!("{} | {}", results.join(" "), fields.join(" "));
        let mut at = BUFFERS;
        for len in &self.buffers {
            let _ = write!(text, " | buf {}", show(&outcome.seen[at..at + len]));
            at += len.next_multiple_of(8);
        }
        if outcome.packet != self.packet {
            let _ = write!(text, " | packet {}", show(outcome.packet));
        }
        text
    }
}
