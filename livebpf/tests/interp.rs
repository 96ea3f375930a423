//! The interpreter: results, faults, tail calls, contexts. Programs are kernel-syntax text, taken without proof, so that
//! what the verifier would refuse can be shown to fault.

use std::collections::HashMap;
use std::sync::Arc;

use livebpf::context::Context;
use livebpf::helper::{Arg, FIRST_CUSTOM, Proto, Ret, Table, id};
use livebpf::insn::{Insn, Insns, Pc, text};
use livebpf::interp::{self, Executable, FaultKind, Host, Limits, NoHost};
use livebpf::link::{Program, Subprogram};
use livebpf::map::Map;
use livebpf::map::cell::Bytes;
use livebpf::object::{MapDef, MapInit, MapType, Object, ProgType, ProgramKind};

const LIMITS: Limits = Limits { max_insns: 1_000_000 };

/// A program whose functions begin wherever something is called.
fn program(prog_type: ProgType, insns: Insns) -> Program {
    let mut starts = vec![Pc(0)];
    for (pc, insn) in insns.iter() {
        if let Insn::CallSubprog { off } = insn {
            starts.push(pc.jump(off).unwrap());
        }
    }
    starts.sort();
    starts.dedup();
    let mut program = Program::bare("main", ProgramKind::new(prog_type), insns);
    let ends = starts[1..].iter().copied().chain([Pc(program.insns.len())]);
    let subprogs = starts.iter().zip(ends).enumerate();
    program.subprogs = subprogs
        .map(|(i, (start, end))| Subprogram {
            name: format!("f{i}"),
            start: *start,
            end,
            global: false,
            signature: None,
        })
        .collect();
    program
}

fn load_bound(prog_type: ProgType, source: &str, maps: &[&Arc<Map>]) -> Arc<Executable> {
    let insns = text::assemble(source).unwrap_or_else(|e| panic!("{e} in {source}"));
    let mut program = program(prog_type, insns);
    program.maps = maps.iter().map(|map| Arc::clone(map.def())).collect();
    let verified = interp::unproven(program).unwrap_or_else(|e| panic!("{e:?} in {source}"));
    Executable::new(Arc::new(verified), maps.iter().map(|map| Arc::clone(map)).collect())
}

fn load(source: &str) -> Arc<Executable> {
    load_bound(ProgType::XDP, source, &[])
}

fn run(source: &str) -> Result<u64, FaultKind> {
    interp::run_raw(&load(source), 0, 0, &[], &mut NoHost, LIMITS).map_err(|fault| fault.kind)
}

#[track_caller]
fn check(source: &str, expected: u64) {
    assert_eq!(run(source), Ok(expected), "{source}");
}

#[track_caller]
fn faults(source: &str, wanted: &str) {
    let found = run(source).expect_err(source).to_string();
    assert!(found.contains(wanted), "{found:?} does not contain {wanted:?}: {source}");
}

/// Helpers and program arrays for tests: custom helper 0x10000 notes its arguments and answers their sum.
#[derive(Default)]
struct Bench {
    helpers: Table,
    calls: Vec<(u32, [u64; 5])>,
    slots: HashMap<(u32, u32), Arc<Executable>>,
    lookups: u32,
}

impl Bench {
    fn new() -> Bench {
        Bench { helpers: Table::builtin(), ..Bench::default() }
    }
    fn with(args: &[Arg], ret: Ret) -> Bench {
        let mut bench = Bench::new();
        let proto = Proto {
            id: FIRST_CUSTOM,
            name: "probe".to_owned(),
            args: args.to_vec(),
            ret,
            changes_packet: false,
            packet_memory: true,
            gpl_only: false,
        };
        bench.helpers.register(proto).unwrap();
        bench
    }
}

impl Host for Bench {
    fn proto(&self, id: u32) -> Option<&Proto> {
        self.helpers.get(id)
    }
    fn call(&mut self, id: u32, args: [u64; 5]) -> Result<u64, FaultKind> {
        self.calls.push((id, args));
        match id {
            FIRST_CUSTOM => Ok(args.iter().fold(0, |sum, arg| sum.wrapping_add(*arg))),
            id::KTIME_GET_NS => Ok(77),
            _ => Err(FaultKind::Helper(format!("{id} is not in this bench"))),
        }
    }
    fn tail_target(&mut self, map: &Map, index: u32) -> Option<Arc<Executable>> {
        self.lookups += 1;
        self.slots.get(&(map.id(), index)).cloned()
    }
}

fn map(map_type: MapType, id: u32, value_size: u32, max_entries: u32) -> Arc<Map> {
    Map::create(Arc::new(MapDef::new("m", map_type, 4, value_size, max_entries)), id, 1).unwrap()
}

/// 54 bytes: Ethernet, IPv4, TCP; to a foreign MAC address.
fn tcp() -> Vec<u8> {
    let mut packet = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0, 0, 0x28];
    packet.extend([0, 1, 0, 0, 0x40, 6, 0x66, 0xcd, 10, 0, 0, 1, 10, 0, 0, 2]);
    packet.extend([0x30, 0x39, 0, 0x50, 0, 0, 3, 0xe8, 0, 0, 0, 0, 0x50, 2, 0x20, 0, 0x47, 0x6f, 0, 0]);
    packet
}

#[test]
fn arithmetic_and_jumps() {
    check("r0 = 10\nl: r0 -= 1\nif r0 != 3 goto l\nexit", 3);
    check("r0 = -1\nw0 += 2\nexit", 1);
    check("r0 = 0x1122334455667788 ll\nr0 = bswap16 r0\nexit", 0x8877);
    check("r1 = 0x80\nr0 = (s8)r1\nexit", -128i64 as u64);
    check("r1 = 0x80\nw0 = (s8)w1\nexit", 0xffff_ff80);
    check("r0 = 7\nr1 = 0\nr0 %= r1\nexit", 7);
    check("r0 = 7\nr1 = 0\nr0 /= r1\nexit", 0);
    check("r0 = 5\nif r0 == 6 goto l\ngotol m\nl: r0 = 6\nm: exit", 5);
    let exe = load("r0 = 0\nl: r0 += 1\nmay_goto +1\ngoto l\nexit");
    assert_eq!(interp::run_raw(&exe, 0, 0, &[], &mut NoHost, Limits::default()), Ok(8 * 1024 * 1024 + 1));
}

#[test]
fn runs_that_do_not_end_are_stopped() {
    let limits = Limits { max_insns: 1000 };
    let fault =
        interp::run_raw(&load("r0 = 0\nl: if r0 == 0 goto l\nexit"), 0, 0, &[], &mut NoHost, limits).unwrap_err();
    assert_eq!(fault.kind, FaultKind::Budget { limit: 1000 });
    assert_eq!(fault.to_string(), "program main, instruction 1: more than 1000 instructions");
}

#[test]
fn stack_is_zero_private_and_bounded() {
    check("r0 = *(u64 *)(r10 - 512)\nexit", 0);
    check("r1 = 0x1234\n*(u16 *)(r10 - 1) = r1\nr0 = 0\nexit".replace("- 1)", "- 2)").as_str(), 0);
    faults("r0 = *(u64 *)(r10 - 513)\nexit", "a read of 8 bytes");
    faults("*(u8 *)(r10 + 0) = 1\nr0 = 0\nexit", "a write of 1 bytes");
    faults("*(u32 *)(r10 - 3) = 1\nr0 = 0\nexit", "a write of 4 bytes");
    faults("r0 = 8\nr0 = *(u64 *)(r0 + 0)\nexit", "at 0x8, which is no memory");
    // A callee sees its caller's frame by address, not below its own.
    check("*(u64 *)(r10 - 8) = 5\nr1 = r10\ncall f\nr0 = *(u64 *)(r10 - 8)\nexit\nf: *(u64 *)(r1 - 8) = 6\nexit", 6);
    faults("*(u64 *)(r10 - 8) = 5\ncall f\nexit\nf: r0 = *(u64 *)(r10 + 8)\nexit", "a read of 8 bytes");
    // A callee's frame is dead after it returns.
    faults("call f\nr0 = *(u64 *)(r0 - 8)\nexit\nf: r0 = r10\nexit", "a read of 8 bytes");
    // And zero when it is used again.
    check("call f\ncall f\nexit\nf: r0 = *(u64 *)(r10 - 8)\n*(u64 *)(r10 - 8) = 9\nexit", 0);
}

#[test]
fn subprograms_keep_r6_to_r9_and_nest_eight_deep() {
    check("r6 = 1\nr1 = 2\ncall f\nr0 += r6\nexit\nf: r6 = 40\nr0 = r6\nr0 += r1\nexit", 43);
    check("r1 = 7\ncall f\nexit\nf: r0 = r1\nif r1 == 0 goto out\nr1 -= 1\ncall g\nout: exit\ng: r0 = 11\nexit", 11);
    let deep = |n: u32| {
        let calls = (1..n).map(|i| format!("f{i}: call f{}\nexit\n", i + 1));
        format!("call f1\nexit\n{}f{n}: r0 = 3\nexit", calls.collect::<String>())
    };
    check(&deep(7), 3);
    faults(&deep(8), "more than 8 functions deep");
}

#[test]
fn atomics() {
    let with = |op: &str| {
        format!(
            "*(u64 *)(r10 - 8) = 12\nr0 = 12\nr1 = 10\n{op}\nr2 = *(u64 *)(r10 - 8)\nr1 <<= 8\nr0 <<= 16\nr0 |= r1\nr0 |= r2\nexit"
        )
    };
    let result = |r0: u64, r1: u64, memory: u64| r0 << 16 | r1 << 8 | memory;
    check(&with("lock *(u64 *)(r10 - 8) += r1"), result(12, 10, 22));
    check(&with("r1 = atomic64_fetch_add((u64 *)(r10 - 8), r1)"), result(12, 12, 22));
    check(&with("r1 = atomic64_fetch_or((u64 *)(r10 - 8), r1)"), result(12, 12, 14));
    check(&with("r1 = atomic64_fetch_and((u64 *)(r10 - 8), r1)"), result(12, 12, 8));
    check(&with("r1 = atomic64_fetch_xor((u64 *)(r10 - 8), r1)"), result(12, 12, 6));
    check(&with("r1 = atomic64_xchg((u64 *)(r10 - 8), r1)"), result(12, 12, 10));
    check(&with("r0 = atomic64_cmpxchg((u64 *)(r10 - 8), r0, r1)"), result(12, 10, 10));
    check(&with("r0 = 11\nr0 = atomic64_cmpxchg((u64 *)(r10 - 8), r0, r1)"), result(12, 10, 12));
    check(&with("w1 = atomic_fetch_add((u32 *)(r10 - 8), w1)"), result(12, 12, 22));
    // x86 does unaligned ones too.
    check("*(u64 *)(r10 - 16) = 0\nr1 = 0x101\nlock *(u32 *)(r10 - 15) += r1\nr0 = *(u64 *)(r10 - 16)\nexit", 0x1_0100);
    check("r1 = 5\nstore_release((u32 *)(r10 - 8), w1)\nr0 = load_acquire((u64 *)(r10 - 8))\nexit", 5);
    faults("r1 = 5\nlock *(u64 *)(r10 - 520) += r1\nr0 = 0\nexit", "a write of 8 bytes");
}

#[test]
fn declared_regions_and_registers() {
    let memory = Bytes::zeroed(16).unwrap();
    let region = memory.slice();
    region.store(0, livebpf::insn::Size::DW, 0x1122_3344_5566_7788).unwrap();
    let go = |source: &str| interp::run_raw(&load(source), region.addr(), 16, &[region], &mut NoHost, LIMITS);
    assert_eq!(go("r0 = *(u32 *)(r1 + 4)\nr0 += r2\nexit"), Ok(0x1122_3354));
    assert_eq!(go("r0 = *(s8 *)(r1 + 0)\nexit"), Ok(0xffff_ffff_ffff_ff88));
    assert!(go("r0 = *(u64 *)(r1 + 9)\nexit").is_err());
    assert!(go("r0 = *(u8 *)(r1 - 1)\nexit").is_err());
}

#[test]
fn what_is_not_supported_faults() {
    let callx = interp::unproven(program(ProgType::XDP, text::assemble("r0 = 0\ncallx r0\nexit").unwrap()));
    assert!(callx.unwrap_err().message.contains("a call through register R0"));
    faults("call bpf_ktime_get_ns#5\nexit", "helper 5 does not exist");
    assert!(run("r0 = *(u8 *)skb[0]\nexit").is_err());
}

#[test]
fn helper_contracts_are_checked_before_the_call() {
    let array = map(MapType::ARRAY, 1, 16, 4);
    let call = |bench: &mut Bench, source: &str| {
        let exe = load_bound(ProgType::XDP, source, &[&array]);
        interp::run_limited(&exe, &Context::xdp(&tcp()).unwrap(), bench, LIMITS).map_err(|fault| fault.kind.to_string())
    };
    let probe = "call 65536\nexit";
    let refused = |args: &[Arg], setup: &str, wanted: &str| {
        let mut bench = Bench::with(args, Ret::Integer);
        let found = call(&mut bench, &format!("{setup}\n{probe}")).unwrap_err();
        assert!(found.contains(wanted), "{found:?} does not contain {wanted:?}");
        assert_eq!(bench.calls, []);
    };
    refused(&[Arg::Ctx], "r1 = 1", "argument 1: not the context");
    refused(&[Arg::Ctx], "r1 += 4", "argument 1: not the context");
    refused(&[Arg::Map], "r1 = 1", "argument 1: not a map of this program");
    let map_and = |rest: &str| format!("r1 = map[idx:0]\nr2 = r10\n{rest}");
    refused(&[Arg::Map, Arg::MapKey], &map_and("r2 += -3"), "argument 2: 4 bytes at");
    refused(&[Arg::Map, Arg::MapValue], &map_and("r2 += -15"), "argument 2: 16 bytes at");
    refused(&[Arg::Map, Arg::MapValueUninit], &map_and("r2 += -15"), "may not write");
    let memory = |size: i32| format!("r1 = r10\nr1 += -8\nr2 = {size}");
    refused(&[Arg::Mem, Arg::Size], &memory(9), "argument 1: 9 bytes");
    refused(&[Arg::Mem, Arg::Size], &memory(-1), "argument 1:");
    refused(&[Arg::Mem, Arg::Size], "r1 = r10\nr2 = 0", "argument 2: a size of 0");
    refused(&[Arg::MemOrNull, Arg::SizeOrZero], "r1 = 0\nr2 = 1", "argument 1: 1 bytes at 0x0");

    let mut bench = Bench::with(&[Arg::Mem, Arg::Size], Ret::Integer);
    let result = call(&mut bench, &format!("{}\nr3 = 0\nr4 = 0\nr5 = 0\nr6 = r1\n{probe}", memory(8))).unwrap();
    assert_eq!(result, bench.calls[0].1[0] + 8);
    let mut bench = Bench::with(&[Arg::MemOrNull, Arg::SizeOrZero], Ret::Integer);
    assert_eq!(call(&mut bench, &format!("r1 = 0\nr2 = 0\nr3 = 5\n{probe}")), Ok(5));
    let mut bench = Bench::with(&[Arg::Map, Arg::MapKey, Arg::MapValue], Ret::Void);
    let source = "r1 = map[idx:0]\nr2 = r10\nr2 += -4\nr3 = r10\nr3 += -16\ncall 65536\nr0 = 4\nexit";
    assert_eq!(call(&mut bench, source), Ok(4));
    assert_eq!(bench.calls[0].1[0], Arc::as_ptr(&array).addr() as u64);
    let mut bench = Bench::new();
    assert_eq!(call(&mut bench, "call bpf_ktime_get_ns#5\nexit"), Ok(77));
    assert!(call(&mut bench, "r1 = 0\ncall bpf_get_prandom_u32#7\nexit").unwrap_err().contains("not in this bench"));
}

#[test]
fn map_values_are_reached_by_their_own_program_only() {
    let mut def = MapDef::new(".data", MapType::ARRAY, 4, 6, 1);
    def.init = MapInit::Data(vec![1, 2, 3, 4, 5, 6]);
    let data = Map::create(Arc::new(def), 1, 1).unwrap();
    let go = |source: &str, maps: &[&Arc<Map>]| {
        let exe = load_bound(ProgType::XDP, source, maps);
        interp::run_raw(&exe, data.data_addr().unwrap(), 0, &[], &mut NoHost, LIMITS).map_err(|fault| fault.kind)
    };
    assert_eq!(go("r1 = map[idx:0][0]+2\nr0 = *(u16 *)(r1 + 0)\nexit", &[&data]), Ok(0x0403));
    assert_eq!(go("r0 = *(u8 *)(r1 + 5)\nexit", &[&data]), Ok(6));
    assert!(matches!(go("r0 = *(u8 *)(r1 + 6)\nexit", &[&data]), Err(FaultKind::Access { size: 1, .. })));
    assert!(matches!(go("r0 = *(u8 *)(r1 + 0)\nexit", &[]), Err(FaultKind::Access { .. })));
    assert_eq!(go("*(u8 *)(r1 + 1) = 9\nr0 = 0\nexit", &[&data]), Ok(0));
    assert_eq!(data.read(&0u32.to_ne_bytes()).unwrap(), [1, 9, 3, 4, 5, 6]);
    let array = map(MapType::PROG_ARRAY, 2, 4, 1);
    let source = "r1 = map[idx:0][0]+0\nr0 = 0\nexit";
    let exe = load_bound(ProgType::XDP, source, &[&array]);
    let fault = interp::run_raw(&exe, 0, 0, &[], &mut NoHost, LIMITS).unwrap_err();
    assert_eq!(fault.kind, FaultKind::Map { index: 0 });
}

#[test]
fn xdp_context_and_packet() {
    let go = |source: &str| {
        let context = Context::xdp(&tcp()).unwrap();
        let result = interp::run_limited(&load(source), &context, &mut NoHost, LIMITS).map_err(|fault| fault.kind);
        (result, context.packet())
    };
    let value = |source: &str| go(source).0.unwrap();
    let fault = |source: &str| go(source).0.unwrap_err().to_string();
    let pointers = "r2 = *(u32 *)(r1 + 0)\nr3 = *(u32 *)(r1 + 4)\nr4 = *(u32 *)(r1 + 8)\n";
    assert_eq!(value(&format!("{pointers}r0 = r3\nr0 -= r2\nexit")), 54);
    assert_eq!(value(&format!("{pointers}r0 = r4\nr0 -= r2\nexit")), 0);
    assert_eq!(value(&format!("{pointers}r0 = *(u16 *)(r2 + 12)\nexit")), 8);
    assert_eq!(value("r0 = *(u32 *)(r1 + 12)\nexit"), 1, "loopback received it");
    assert!(fault(&format!("{pointers}r0 = *(u8 *)(r3 + 0)\nexit")).contains("a read of 1 bytes"));
    assert!(fault(&format!("{pointers}r0 = *(u8 *)(r2 - 1)\nexit")).contains("a read of 1 bytes"));
    assert!(fault(&format!("{pointers}r0 = *(u64 *)(r3 - 7)\nexit")).contains("a read of 8 bytes"));
    assert!(fault("r0 = *(u64 *)(r1 + 0)\nexit").contains("8 bytes at offset 0 of xdp_md"));
    assert!(fault("r0 = *(s32 *)(r1 + 0)\nexit").contains("a read of 4 bytes"));
    assert!(fault("r0 = *(u32 *)(r1 + 20)\nexit").contains("offset 20 of xdp_md"));
    assert!(fault("r0 = *(u32 *)(r1 + 24)\nexit").contains("offset 24 of xdp_md"));
    assert!(fault("r0 = *(u32 *)(r1 + 48)\nexit").contains("offset 48 of xdp_md"), "not the record itself");
    assert!(fault("*(u32 *)(r1 + 12) = 1\nexit").contains("a write of 4 bytes at offset 12"));
    let (result, packet) = go(&format!("{pointers}*(u8 *)(r2 + 0) = 0xff\nr0 = 2\nexit"));
    assert_eq!((result, packet[0], packet.len()), (Ok(2), 0xff, 54));
}

#[test]
fn socket_buffers_may_be_written_by_some_types_only() {
    let write = "r2 = *(u32 *)(r1 + 76)\n*(u8 *)(r2 + 0) = 1\nr0 = 0\nexit";
    let go = |prog_type, source: &str| {
        let context = Context::skb(prog_type, &tcp()).unwrap();
        let exe = load_bound(prog_type, source, &[]);
        interp::run_limited(&exe, &context, &mut NoHost, LIMITS).map_err(|fault| fault.kind)
    };
    assert_eq!(go(ProgType::SCHED_CLS, write), Ok(0));
    assert!(matches!(go(ProgType::LWT_IN, write), Err(FaultKind::Access { write: true, .. })));
    assert!(matches!(go(ProgType::SOCKET_FILTER, write), Err(FaultKind::Context { off: 76, .. })));
    // The kernel keeps 16 bits of these.
    let half = "*(u32 *)(r1 + 44) = 0x12345\nr0 = *(u32 *)(r1 + 44)\nexit";
    assert_eq!(go(ProgType::SCHED_CLS, half), Ok(0x2345));
    let wide = "r2 = 0x1122334455667788 ll\n*(u64 *)(r1 + 48) = r2\nr0 = *(u16 *)(r1 + 54)\nexit";
    assert_eq!(go(ProgType::SOCKET_FILTER, wide), Ok(0x1122));
}

#[test]
fn legacy_packet_loads() {
    let go = |source: &str| {
        let context = Context::skb(ProgType::SOCKET_FILTER, &tcp()).unwrap();
        let exe = load_bound(ProgType::SOCKET_FILTER, source, &[]);
        interp::run_limited(&exe, &context, &mut NoHost, LIMITS).map_err(|fault| fault.kind)
    };
    assert_eq!(go("r6 = r1\nr0 = *(u16 *)skb[2]\nexit"), Ok(0x28), "network byte order");
    assert_eq!(go("r6 = r1\nr0 = *(u32 *)skb[12]\nexit"), Ok(0x0a00_0001));
    assert_eq!(go("r6 = r1\nr7 = 7\nr0 = *(u8 *)skb[r7 + 2]\nexit"), Ok(6));
    // Outside the packet the function ends with 0.
    assert_eq!(go("r6 = r1\nr0 = *(u32 *)skb[37]\nr0 = 5\nexit"), Ok(0));
    assert_eq!(go("r6 = r1\ncall f\nr0 = 9\nexit\nf: r6 = r1\nr0 = *(u8 *)skb[40]\nr0 = 5\nexit"), Ok(9));
    // Negative offsets count from the headers.
    assert_eq!(go("r6 = r1\nr0 = *(u16 *)skb[-2097140]\nexit"), Ok(0x0800), "SKF_LL_OFF + 12");
    assert_eq!(go("r6 = r1\nr0 = *(u8 *)skb[-1048567]\nexit"), Ok(6), "SKF_NET_OFF + 9");
    assert_eq!(go("r6 = r1\nr0 = *(u8 *)skb[-1]\nr0 = 5\nexit"), Ok(0));
    assert_eq!(go("r6 = 0\nr0 = *(u8 *)skb[0]\nexit"), Err(FaultKind::NoPacket));
}

/// The text of a tail call into slot `index` of map 0, with the context in R6.
fn tail(index: u32) -> String {
    format!("r1 = r6\nr2 = map[idx:0]\nr3 = {index}\ncall bpf_tail_call#12\n")
}

fn chain(slots: &[(u32, &str)], entry: &str) -> (Result<u64, FaultKind>, Bench) {
    let array = map(MapType::PROG_ARRAY, 1, 4, 4);
    let mut bench = Bench::with(&[Arg::Anything], Ret::Integer);
    for (index, source) in slots {
        bench.slots.insert((1, *index), load_bound(ProgType::XDP, source, &[&array]));
    }
    let exe = load_bound(ProgType::XDP, entry, &[&array]);
    let context = Context::xdp(&tcp()).unwrap();
    let result = interp::run_limited(&exe, &context, &mut bench, LIMITS).map_err(|fault| fault.kind);
    (result, bench)
}

#[test]
fn tail_calls_that_succeed_and_that_fail() {
    let to = |index| format!("r6 = r1\n{}r0 = 100\nexit", tail(index));
    let seven = "r0 = 7\nexit";
    assert_eq!(chain(&[(1, seven)], &to(1)).0, Ok(7));
    assert_eq!(chain(&[(1, seven)], &to(0)).0, Ok(100), "an empty slot");
    let (result, bench) = chain(&[(1, seven)], &to(4));
    assert_eq!((result, bench.lookups), (Ok(100), 0), "past the end");
    // The index is 32 bits wide.
    let wide = "r6 = r1\nr2 = map[idx:0]\nr3 = 0x500000001 ll\ncall bpf_tail_call#12\nr0 = 100\nexit";
    assert_eq!(chain(&[(1, seven)], wide).0, Ok(7));
    // A failed one leaves everything: registers, frame, context.
    let keep = format!(
        "r6 = r1\nr7 = 1\nr8 = 2\nr9 = 4\n*(u64 *)(r10 - 8) = 8\nr0 = 16\n{}r0 += r7\nr0 += r8\nr0 += r9\nr1 = *(u64 *)(r10 - 8)\nr0 += r1\nr1 = *(u32 *)(r6 + 12)\nr0 += r1\nexit",
        tail(0)
    );
    assert_eq!(chain(&[], &keep).0, Ok(32));
    // The target gets the context, a zero frame, and nothing else.
    let target = "r0 = *(u64 *)(r10 - 8)\nr2 = *(u32 *)(r1 + 12)\nr0 += r2\nexit";
    assert_eq!(chain(&[(1, target)], &format!("r6 = r1\n*(u64 *)(r10 - 8) = 8\n{}r0 = 100\nexit", tail(1))).0, Ok(1));
    let fault = chain(&[], "r2 = map[idx:0]\nr1 = r10\nr3 = 0\ncall bpf_tail_call#12\nexit").0.unwrap_err();
    assert_eq!(fault.to_string(), "helper tail_call: argument 1: not the context");
    let fault = chain(&[], "r2 = r1\nr3 = 0\ncall bpf_tail_call#12\nexit").0.unwrap_err();
    assert_eq!(fault.to_string(), "helper tail_call: argument 2: not a program array of this program");
}

#[test]
fn thirty_three_tail_calls_succeed_in_one_run() {
    let body = |rest: &str| format!("r6 = r1\ncall 65536\n{}{rest}", tail(0));
    let (result, bench) = chain(&[(0, &body("r0 = 1\nexit"))], &body("r0 = 2\nexit"));
    assert_eq!((result, bench.calls.len()), (Ok(1), 34));
    // Failed ones do not count.
    let misses = format!("r6 = r1\ncall 65536\n{}{}r0 = 1\nexit", tail(1).repeat(3), tail(0));
    let (result, bench) = chain(&[(0, &misses)], &misses);
    assert_eq!((result, bench.calls.len()), (Ok(1), 34));
}

#[test]
fn tail_calls_from_subprograms_keep_the_callers() {
    // The target's result is the subprogram's, and the caller's registers and frame are untouched.
    let entry = format!(
        "r6 = r1\nr7 = 30\n*(u64 *)(r10 - 8) = 400\ncall f\nr0 += r7\nr1 = *(u64 *)(r10 - 8)\nr0 += r1\nexit\nf: r6 = r1\nr7 = 0\n{}r0 = 9\nexit",
        tail(0)
    );
    assert_eq!(chain(&[(0, "r6 = 0\nr7 = 0\n*(u64 *)(r10 - 8) = 0\nr0 = 5\nexit")], &entry).0, Ok(435));
    assert_eq!(chain(&[], &entry).0, Ok(439));
    // The count is one for the whole run, however the calls nest: 33 successes, so 34 runs of the body.
    let tree =
        format!("r6 = r1\ncall 65536\nr1 = r6\ncall f\nr1 = r6\ncall f\nr0 = 1\nexit\nf: r6 = r1\n{}exit", tail(0));
    let (result, bench) = chain(&[(0, &tree)], &tree);
    assert_eq!((result, bench.calls.len()), (Ok(1), 34));
    // Each program of a chain may nest eight functions again.
    let nest = |rest: &str| {
        let mut source = String::from("r6 = r1\ncall f1\nr0 += 1\nexit\n");
        for n in 1..7 {
            source += &format!("f{n}: r6 = r1\ncall f{}\nr0 += 1\nexit\n", n + 1);
        }
        source + "f7: r6 = r1\n" + rest
    };
    assert_eq!(chain(&[(0, &nest("r0 = 100\nexit"))], &nest(&format!("{}exit", tail(0)))).0, Ok(114));
}

// --- Other people's programs, where they are present: tests/conformance.rs has those for all engines ---

fn corpus(name: &str) -> Option<serde_json::Value> {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared");
    let folder = std::env::var("LIVEBPF_SHARED").unwrap_or_else(|_| default.to_owned());
    let Ok(file) = std::fs::read(format!("{folder}/corpus/{name}")) else {
        eprintln!("skipped: no {name} in {folder}/corpus (set LIVEBPF_SHARED)");
        return None;
    };
    Some(serde_json::from_slice(&file).unwrap())
}

fn unhex(hex: &str) -> Vec<u8> {
    hex.as_bytes().chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

/// The built-in helpers as they are, and program arrays filled from the object's initialisers.
struct Native {
    helpers: Table,
    programs: HashMap<String, Arc<Executable>>,
}

impl Host for Native {
    fn proto(&self, id: u32) -> Option<&Proto> {
        self.helpers.get(id)
    }
    fn call(&mut self, id: u32, args: [u64; 5]) -> Result<u64, FaultKind> {
        let native = livebpf::run::helpers::native(id).ok_or(FaultKind::NoHelper { id })?;
        // SAFETY: the interpreter has checked the arguments against the helper's contract.
        Ok(unsafe { (native.inner)(args) })
    }
    fn tail_target(&mut self, map: &Map, index: u32) -> Option<Arc<Executable>> {
        let MapInit::Programs(slots) = &map.def().init else { return None };
        let (_, name) = slots.iter().find(|(slot, _)| *slot == index)?;
        self.programs.get(name).cloned()
    }
}

impl Native {
    /// Every program of the object that uses nothing but what there is, with maps of its own.
    fn load(object: &Object) -> Native {
        let maps: HashMap<_, _> = object
            .maps()
            .iter()
            .enumerate()
            .filter_map(|(i, def)| {
                let mut sized = MapDef::clone(def);
                sized.max_entries = if def.max_entries == 0 { 16 } else { def.max_entries };
                Some((def.name.clone(), Map::create(Arc::new(sized), i as u32 + 1, 2).ok()?))
            })
            .collect();
        let helpers = Table::builtin();
        let unknown = |insn| match insn {
            Insn::Call { helper } => helpers.get(helper).is_none(),
            Insn::CallKfunc { .. } => true,
            _ => false,
        };
        let mut programs = HashMap::new();
        for (name, program) in object.link_all() {
            let Ok(program) = program else { continue };
            let bound = program.maps.iter().map(|def| maps.get(&def.name).cloned()).collect::<Option<Vec<_>>>();
            let (false, Some(bound)) = (program.insns.iter().any(|(_, insn)| unknown(insn)), bound) else { continue };
            if let Ok(verified) = interp::unproven(program) {
                programs.insert(name, Executable::new(Arc::new(verified), bound));
            }
        }
        Native { helpers, programs }
    }
}

/// One program on all packets in order; what differs from the kernel's answers.
fn replay(exe: &Arc<Executable>, host: &mut Native, packets: &[Vec<u8>], runs: &[serde_json::Value]) -> Vec<String> {
    let mut wrong = Vec::new();
    let prog_type = exe.verified.program().kind.prog_type;
    for run in runs {
        let input = &packets[run["i"].as_u64().unwrap() as usize];
        let Some(ret) = run["ret"].as_u64() else { continue };
        let context = Context::for_type(prog_type, input).unwrap();
        match interp::run_limited(exe, &context, host, LIMITS) {
            Ok(found) if found as u32 != ret as u32 => {
                wrong.push(format!("packet {}: returned {found}, wanted {ret}", run["i"]))
            }
            Ok(_) => {
                let wanted = run["out"].as_str().map_or_else(|| input.clone(), unhex);
                if context.packet() != wanted {
                    wrong.push(format!("packet {}: {:02x?}, wanted {wanted:02x?}", run["i"], context.packet()));
                }
                for field in ["mark", "priority", "tstamp"] {
                    if run["skb"][field].as_u64().is_some_and(|v| context.get(field) != Some(v)) {
                        wrong.push(format!("packet {}: {field} is {:?}", run["i"], context.get(field)));
                    }
                }
            }
            Err(fault) => wrong.push(format!("packet {}: {fault}", run["i"])),
        }
    }
    wrong
}

/// Programs whose result is an address, uninitialised memory, a kernel object's field or a socket.
const KERNEL_ONLY: [&str; 7] = [
    "global_func16",
    "read_sk_dst_port",
    "sk_family_non_fullsock_field_1",
    "packet_write_for_lwt_xmit",
    "read_non_existent_field_rejected",
    "ptr_read_ops_field_accepted",
    "check_corrupted_spill_fill_lsb",
];

/// Selftest programs alone on 23 packets, against the answers of `BPF_PROG_TEST_RUN`. Needs the objects, which are not
/// ours: LIVEBPF_SELFTESTS names the folder where they were built.
#[test]
fn kernel_test_runs() {
    let Ok(folder) = std::env::var("LIVEBPF_SELFTESTS") else {
        eprintln!("skipped: LIVEBPF_SELFTESTS is not set");
        return;
    };
    let Some(rows) = corpus("test_run.json") else { return };
    let shared = std::env::var("LIVEBPF_SHARED").unwrap_or(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared").into());
    let packets = std::fs::read_to_string(format!("{shared}/corpus/packets.txt")).unwrap();
    let packets: Vec<_> = packets.lines().map(|line| unhex(line.split(' ').next().unwrap())).collect();
    let (mut wrong, mut done) = (Vec::new(), 0);
    for row in rows.as_array().unwrap().iter().filter(|row| row["deterministic"] == true) {
        let (object, name) = (row["object"].as_str().unwrap(), row["prog"].as_str().unwrap());
        let Ok(bytes) = std::fs::read(format!("{folder}/{object}.o")) else { continue };
        let Ok(mut host) = Object::parse(&bytes).map(|object| Native::load(&object)) else { continue };
        let Some(exe) = host.programs.get(name).cloned() else { continue };
        if KERNEL_ONLY.contains(&name) || livebpf::context::describe_kind(&exe.verified.program().kind).is_none() {
            continue;
        }
        done += 1;
        let found = replay(&exe, &mut host, &packets, row["runs"].as_array().unwrap());
        wrong.extend(found.first().map(|first| format!("{object} {name}: {first} ({} in all)", found.len())));
    }
    eprintln!("{done} programs");
    assert!(done > 0, "no objects in {folder}");
    assert!(wrong.is_empty(), "{} of {done}:\n{}", wrong.len(), wrong.join("\n"));
}
