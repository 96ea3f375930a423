//! Classic filters: whatever passes the checks becomes a program that the verifier takes, and that answers in every engine what
//! a plain reading of the classic instructions answers.

use livebpf::cbpf::{ClassicInsn, Filter};
use livebpf::context::Context;
use livebpf::object::ProgType;
use livebpf::runtime::{Engine, Runtime};

const ENGINES: [Engine; 3] = [Engine::Interp, Engine::Jit, Engine::Slot];

/// What ancillary data is in these tests: `SKF_AD_OFF` + offset, the context's field, its value there, and what the filter sees.
const ANCILLARY: [(u32, &str, u64, u32); 9] = [
    (0, "protocol", 0xdd86, 0x86dd),
    (4, "pkt_type", 2, 2),
    (8, "ifindex", 77, 77),
    (20, "mark", 0xdead_beef, 0xdead_beef),
    (24, "queue_mapping", 9, 9),
    (28, "hatype", 803, 803),
    (32, "hash", 0x8000_0001, 0x8000_0001),
    (44, "vlan_tci", 0x2064, 0x2064),
    (60, "vlan_proto", 0xa888, 0x88a8),
];

/// A reading of classic instructions, one by one, as the manual page of BPF has them.
fn interpret(insns: &[ClassicInsn], packet: &[u8]) -> u32 {
    let (mut a, mut x, mut scratch, mut pc) = (0u32, 0u32, [0u32; 16], 0usize);
    let bytes = |at: u64, len: usize| {
        let at = usize::try_from(at).ok().filter(|at| *at <= packet.len())?;
        let found = packet.get(at..at + len)?;
        Some(found.iter().fold(0u32, |value, byte| value << 8 | u32::from(*byte)))
    };
    let size = |code: u16| [4, 2, 1][usize::from(code >> 3 & 3)];
    loop {
        let ClassicInsn { code, jt, jf, k } = insns[pc];
        pc += 1;
        let operand = if code & 8 == 0 { k } else { x };
        match code {
            0x00 => a = k,
            0x01 => x = k,
            0x80 => a = packet.len() as u32,
            0x81 => x = packet.len() as u32,
            0x60 => a = scratch[k as usize],
            0x61 => x = scratch[k as usize],
            0x02 => scratch[k as usize] = a,
            0x03 => scratch[k as usize] = x,
            0x20 | 0x28 | 0x30 if k >= 0xffff_f000 => {
                let found = ANCILLARY.iter().find(|row| row.0 == k - 0xffff_f000);
                a = match found {
                    Some(row) => row.3,
                    None => a ^ x,
                };
            }
            0x20 | 0x28 | 0x30 => match bytes(k.into(), size(code)) {
                Some(value) => a = value,
                None => return 0,
            },
            0x40 | 0x48 | 0x50 => match bytes(x.wrapping_add(k).into(), size(code)) {
                Some(value) => a = value,
                None => return 0,
            },
            0xb1 => match bytes(k.into(), 1) {
                Some(value) => x = (value & 15) * 4,
                None => return 0,
            },
            0x04 | 0x0c => a = a.wrapping_add(operand),
            0x14 | 0x1c => a = a.wrapping_sub(operand),
            0x24 | 0x2c => a = a.wrapping_mul(operand),
            0x34 | 0x3c | 0x94 | 0x9c if operand == 0 => return 0,
            0x34 | 0x3c => a /= operand,
            0x94 | 0x9c => a %= operand,
            0x44 | 0x4c => a |= operand,
            0x54 | 0x5c => a &= operand,
            0xa4 | 0xac => a ^= operand,
            // What a shift by more than 31 does is eBPF's to say: the low five bits count.
            0x64 | 0x6c => a = a.wrapping_shl(operand),
            0x74 | 0x7c => a = a.wrapping_shr(operand),
            0x84 => a = a.wrapping_neg(),
            0x05 => pc += k as usize,
            0x15 | 0x1d => pc += usize::from(if a == operand { jt } else { jf }),
            0x25 | 0x2d => pc += usize::from(if a > operand { jt } else { jf }),
            0x35 | 0x3d => pc += usize::from(if a >= operand { jt } else { jf }),
            0x45 | 0x4d => pc += usize::from(if a & operand != 0 { jt } else { jf }),
            0x06 => return k,
            0x16 => return a,
            0x07 => x = a,
            0x87 => a = x,
            other => panic!("code {other:#x}"),
        }
    }
}

/// Numbers that are the same on every machine (splitmix64).
struct Choices(u64);

impl Choices {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
    fn pick<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len() as u64) as usize]
    }
    fn constant(&mut self) -> u32 {
        let any = self.next() as u32;
        self.pick(&[0, 1, 4, 14, 31, 63, 0x7fff_ffff, 0x8000_0000, u32::MAX, any, any & 255])
    }

    /// One instruction of a filter in which `left` more follow.
    fn insn(&mut self, left: u64) -> ClassicInsn {
        const ALU: [u16; 10] = [0x04, 0x14, 0x24, 0x34, 0x44, 0x54, 0x64, 0x74, 0x94, 0xa4];
        let plain = |code, k| ClassicInsn { code, jt: 0, jf: 0, k };
        match self.below(20) {
            0..=4 => plain(self.pick(&ALU) | self.pick(&[0, 8]), self.constant()),
            5..=8 => {
                let code = self.pick(&[0x15, 0x25, 0x35, 0x45]) | self.pick(&[0, 8]);
                let mut skip = || self.below(left.min(6)) as u8;
                let (jt, jf) = (skip(), skip());
                ClassicInsn { code, jt, jf, k: self.constant() }
            }
            9 => plain(0x05, self.below(left.min(4)) as u32),
            10 | 11 => plain(self.pick(&[0x20, 0x28, 0x30]), self.below(40) as u32),
            12 => plain(self.pick(&[0x40, 0x48, 0x50]), self.pick(&[0, 2, 14, u32::MAX, 0xffff_fff0])),
            13 => plain(0xb1, self.below(40) as u32),
            14 => plain(self.pick(&[0x02, 0x03, 0x60, 0x61]), self.below(3) as u32),
            15 => plain(self.pick(&[0x00, 0x01]), self.constant()),
            16 => plain(self.pick(&[0x07, 0x87, 0x80, 0x81, 0x84]), 0),
            17 => plain(self.pick(&[0x06, 0x16]), self.constant()),
            18 => plain(0x20, 0xffff_f000 + self.pick(&ANCILLARY).0),
            _ => plain(0x20, 0xffff_f000 + 40),
        }
    }

    fn filter(&mut self) -> Vec<ClassicInsn> {
        let len = 2 + self.below(40);
        let mut insns: Vec<ClassicInsn> = (1..len).map(|at| self.insn(len - at)).collect();
        insns.push(ClassicInsn { code: self.pick(&[0x06, 0x16, 0x16]), jt: 0, jf: 0, k: self.constant() });
        insns
    }
}

fn context(packet: &[u8]) -> Context {
    let mut context = Context::packet_socket(packet).expect("a context");
    for (_, name, value, _) in ANCILLARY {
        context.set(name, value).expect("a field");
    }
    context
}

#[test]
fn filters_mean_what_their_instructions_say() {
    let mut choices = Choices(1);
    let runtimes = ENGINES.map(|engine| Runtime::builder().engine(engine).build().expect("a runtime"));
    let mut workers = runtimes.each_ref().map(|runtime| runtime.worker().expect("a worker"));
    let (mut taken, mut results) = (0, std::collections::BTreeSet::new());
    for round in 0..3_000 {
        let insns = choices.filter();
        let Ok(filter) = Filter::new(&insns) else { continue };
        taken += 1;
        let program = filter.translate("filter");
        let packets: Vec<Vec<u8>> =
            [0, 1, 13, 14, 20, 40, 64].map(|len| (0..len).map(|_| choices.next() as u8).collect()).to_vec();
        for (runtime, worker) in runtimes.iter().zip(&mut workers) {
            let ebpf = runtime.load_linked(vec![program.clone()]);
            let ebpf = ebpf.unwrap_or_else(|e| panic!("round {round}: {insns:?}\n{e}"));
            let program = ebpf.program("filter").expect("the program");
            for packet in &packets {
                let found = worker.run(program, &mut context(packet)).expect("a result");
                let wanted = interpret(&insns, packet);
                assert_eq!(found, wanted, "round {round}, {}: {insns:?} on {packet:?}", runtime.engine());
                results.insert(wanted);
            }
        }
    }
    assert!(taken > 500 && results.len() > 300, "{taken} filters, {} results", results.len());
}

/// What the kernel computes with its own functions.
#[test]
fn netlink_attributes_and_payload_offsets() {
    let load = |offset: u32| ClassicInsn { code: 0x20, jt: 0, jf: 0, k: 0xffff_f000 + offset };
    let run = |filter: &[ClassicInsn], packet: &[u8], protocol: u64| {
        let program = Filter::new(filter).expect("a filter").translate("filter");
        ENGINES.map(|engine| {
            let runtime = Runtime::builder().engine(engine).build().expect("a runtime");
            let ebpf = runtime.load_linked(vec![program.clone()]).expect("accepted");
            let mut context = Context::packet_socket(packet).expect("a context");
            context.set("protocol", protocol).expect("a field");
            let mut worker = runtime.worker().expect("a worker");
            worker.run(ebpf.program("filter").expect("the program"), &mut context).expect("a result")
        })
    };
    let set =
        |a: u32, x: u32| [ClassicInsn { code: 0, jt: 0, jf: 0, k: a }, ClassicInsn { code: 1, jt: 0, jf: 0, k: x }];
    let ret = ClassicInsn { code: 0x16, jt: 0, jf: 0, k: 0 };
    let attributes = |a, x, offset| [&set(a, x)[..], &[load(offset), ret]].concat();
    // Types 1 (5 bytes long, padded to 8), 2, and 3 with 4 and 5 inside; the last is cut.
    let data = [5, 0, 1, 0, 9, 0, 0, 0, 4, 0, 2, 0, 12, 0, 3, 0x80, 4, 0, 4, 0, 4, 0, 5, 0, 9, 0, 6, 0];
    let rows = [
        (12, 0, 1, 0),
        (12, 0, 2, 8),
        (12, 0, 3, 12),
        (12, 0, 4, 0),
        (12, 0, 6, 0),
        (12, 8, 3, 12),
        (12, 25, 3, 0),
        (12, 1000, 1, 0),
        (12, u32::MAX, 1, 0),
        (12, 4, 2, 0),
        (16, 12, 4, 16),
        (16, 12, 5, 20),
        (16, 12, 6, 0),
        (16, 8, 3, 0),
        (16, 24, 6, 0),
        (16, 28, 6, 0),
    ];
    for (offset, a, x, wanted) in rows {
        assert_eq!(run(&attributes(a, x, offset), &data, 0), [wanted; 3], "offset {offset}, A {a}, X {x}");
    }

    let payload = |packet: &[u8], protocol: u16| run(&[load(52), ret], packet, protocol.swap_bytes().into());
    let frame = |header: &[u8]| [&[0; 14], header, &[0; 60]].concat();
    let ipv4 = |protocol: u8, words: u8, fragment: u16| {
        let mut header = vec![0x40 | words, 0, 0, 0, 0, 0, (fragment >> 8) as u8, fragment as u8, 64, protocol];
        header.resize(4 * usize::from(words), 0);
        frame(&header)
    };
    assert_eq!(payload(&ipv4(17, 5, 0), 0x0800), [14 + 20 + 8; 3]);
    assert_eq!(payload(&ipv4(17, 7, 0), 0x0800), [14 + 28 + 8; 3]);
    assert_eq!(payload(&ipv4(17, 4, 0), 0x0800), [0; 3], "a header that is too short");
    assert_eq!(payload(&ipv4(17, 5, 3), 0x0800), [14 + 20; 3], "a later fragment");
    assert_eq!(payload(&ipv4(17, 5, 0x2000), 0x0800), [14 + 20 + 8; 3], "the first fragment");
    assert_eq!(payload(&ipv4(47, 5, 0), 0x0800), [14 + 20; 3]);
    assert_eq!(payload(&ipv4(17, 5, 0)[..33], 0x0800), [0; 3], "a cut header");
    let mut tcp = ipv4(6, 5, 0);
    tcp[14 + 20 + 12] = 0x80;
    assert_eq!(payload(&tcp, 0x0800), [14 + 20 + 32; 3]);
    tcp[14 + 20 + 12] = 0x10;
    assert_eq!(payload(&tcp, 0x0800), [14 + 20 + 20; 3], "no TCP header is shorter than 20 bytes");
    let tagged = frame(&[&[0, 5, 8, 0], &ipv4(132, 5, 0)[14..]].concat());
    assert_eq!(payload(&tagged, 0x8100), [14 + 4 + 20 + 12; 3]);
    let ipv6 = |next: u8, more: &[u8]| {
        let mut header = vec![0x60, 0, 0, 0, 0, 0, next, 64];
        header.resize(40, 0);
        frame(&[&header, more].concat())
    };
    assert_eq!(payload(&ipv6(58, &[]), 0x86dd), [14 + 40 + 8; 3]);
    assert_eq!(payload(&ipv6(0, &[17, 1]), 0x86dd), [14 + 40 + 16 + 8; 3], "16 bytes of options");
    assert_eq!(payload(&ipv6(44, &[17, 0, 0, 8]), 0x86dd), [14 + 40 + 8; 3], "a later fragment");
    assert_eq!(payload(&ipv6(41, &[&[0x60, 0, 0, 0, 0, 0, 17, 64], &[0; 32][..]].concat()), 0x86dd), [14 + 80 + 8; 3]);
    assert_eq!(payload(&frame(&[]), 0x0806), [0; 3], "no IP");
}

#[test]
fn a_packet_socket_sees_everything_from_the_ethernet_header_on() {
    let mut context = Context::packet_socket(&[1, 2, 3]).expect("three bytes are enough");
    assert_eq!(
        (context.packet(), context.get("len"), context.prog_type()),
        (vec![1, 2, 3], Some(3), ProgType::SOCKET_FILTER)
    );
    context.set("ifindex", 0).expect("a number of the driver's choice");
    assert_eq!(context.get("ifindex"), Some(0));
    for wrong in ["len", "data", "wire_len", "tstamp", "hatypo"] {
        let error = context.set(wrong, 1).expect_err(wrong).to_string();
        assert!(error.contains("hatype"), "{error}");
    }
    context.reset(&[0; 65_535]).expect("the longest packet");
    assert!(context.reset(&[0; 65_536]).is_err() && context.packet_len() == 65_535);
}
