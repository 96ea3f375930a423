//! Calls, inlined lookups, packet loads and may_goto in compiled code; and what the code generator refuses.

mod jit_support;

use std::sync::Arc;

use jit_support::{Exec, bare, cpus, options};
use livebpf::context::record;
use livebpf::insn::{Insns, Pc, text};
use livebpf::jit::x64::{Gpr, Size};
use livebpf::jit::{self, Code, JitError, MAX_LOOPS, Symbol};
use livebpf::link::{MapId, Program, Subprogram};
use livebpf::object::{MapDef, MapType};
use livebpf::verify::{Facts, FuncFacts, InsnFacts, Known, Verified};

fn assemble(listing: &str) -> Insns {
    text::assemble(listing).expect("assembles")
}

/// Facts that say nothing: everything is reached, nothing is known.
fn plain_facts(program: &Program) -> Facts {
    let insn = InsnFacts { reached: true, ..InsnFacts::default() };
    let func = FuncFacts { stack_depth: 64, callee_saved: [true; 4], ..FuncFacts::default() };
    Facts {
        funcs: vec![func; program.subprogs.len()],
        insns: vec![insn; program.insns.len() as usize],
        ..Facts::default()
    }
}

fn compile(program: &Program, facts: Facts) -> Result<Code, JitError> {
    jit::compile(&Verified::with_facts(program.clone(), facts), &options(cpus()[0]))
}

fn compile_plain(listing: &str) -> Result<Code, JitError> {
    let program = bare(assemble(listing));
    compile(&program, plain_facts(&program))
}

/// Weighs its arguments.
extern "C" fn weigh(a: u64, b: u64, c: u64, d: u64, e: u64, data: u64) -> u64 {
    a + 10 * b + 100 * c + 1000 * d + 10_000 * e + 100_000 * data
}

#[test]
fn helpers_get_their_arguments_on_an_aligned_stack() {
    for saved in 0..8u32 {
        for depth in [0, 8, 16, 24] {
            let listing =
                "r9 = r1\nr1 = 1\nr2 = 2\nr3 = 3\nr4 = 4\nr5 = 5\ncall 65536\n*(u64 *)(r9 + 0) = r0\ncall 1\nexit";
            let program = bare(assemble(listing));
            let mut facts = plain_facts(&program);
            facts.funcs[0].callee_saved = std::array::from_fn(|i| i == 3 || saved & 1 << i != 0);
            facts.funcs[0].stack_depth = depth;
            let code = compile(&program, facts).expect("compiles");
            let mut exec = Exec::new();
            let rsp = exec.code(|asm| {
                asm.mov_rr(Size::Q, Gpr::Rax, Gpr::Rsp);
                asm.ret();
            });
            let base = exec.place(&code, |symbol| match symbol {
                Symbol::Helper(1) => rsp,
                Symbol::Helper(65536) => weigh as *const () as u64,
                Symbol::HelperData(65536) => 7,
                other => panic!("{other:?}"),
            });
            let mut word = 0u64;
            let rsp = exec.entry(base + u64::from(code.entry), 0)(&raw mut word as u64, 0, 0, 0, 0);
            assert_eq!((word, (rsp + 8) % 16), (754_321, 0), "{saved:#b}, {depth} bytes");
        }
    }
}

#[test]
fn subprograms_have_their_own_stack_and_keep_callee_saved_registers() {
    let listing = "r6 = 6
        r7 = 7
        *(u64 *)(r10 - 8) = r6
        r1 = 100
        call pc+5
        r1 = *(u64 *)(r10 - 8)
        r0 += r1
        r0 += r6
        r0 += r7
        exit
        r6 = r1
        r7 = r1
        *(u64 *)(r10 - 8) = r1
        r0 = r6
        r0 += r7
        exit";
    let mut program = bare(assemble(listing));
    let main = program.subprogs.remove(0);
    program.subprogs.push(Subprogram { end: Pc(10), ..main.clone() });
    program.subprogs.push(Subprogram { start: Pc(10), ..main });
    let code = compile(&program, plain_facts(&program)).expect("compiles");
    let mut exec = Exec::new();
    let base = exec.place(&code, |s| panic!("{s:?}"));
    assert_eq!(exec.entry(base + u64::from(code.entry), 0)(0, 0, 0, 0, 0), 219);
    assert!(code.frames[0].deepest == code.frames[0].native_stack + code.frames[1].native_stack);
}

#[test]
fn array_lookups() {
    for (value_size, entries) in [(1, 1), (8, 5), (12, 7), (64, 3), (100, 1000)] {
        let mut program = bare(assemble("r2 = r1\nr1 = map[idx:0]\ncall 1\nexit"));
        program.maps = vec![Arc::new(MapDef::new("m", MapType::ARRAY, 4, value_size, entries))];
        let mut facts = plain_facts(&program);
        facts.insns[3].known = Some(Known::Map(MapId(0)));
        let code = compile(&program, facts).expect("compiles");
        let mut exec = Exec::new();
        let values = 0x7000_0000_0000;
        let base = exec.place(&code, |s| if s == Symbol::MapData(MapId(0), 0) { values } else { panic!("{s:?}") });
        let run = exec.entry(base + u64::from(code.entry), 0);
        let stride = u64::from(value_size.next_multiple_of(8));
        for index in [0, 1, entries - 1, entries, entries + 1, u32::MAX] {
            let want = if index < entries { values + u64::from(index) * stride } else { 0 };
            assert_eq!(run(&raw const index as u64, 0, 0, 0, 0), want, "{index} of {entries} of {value_size} bytes");
        }
    }
}

#[test]
fn packet_loads() {
    let packet: Vec<u8> = (1..=20).collect();
    let mut ctx = [0u64; record::SIZE as usize / 8];
    ctx[record::DATA as usize / 8] = packet.as_ptr() as u64;
    ctx[record::NETWORK as usize / 8] = packet.as_ptr() as u64 + 4;
    ctx[record::MAC as usize / 8] = packet.as_ptr() as u64 + 1;
    ctx[record::DATA_END as usize / 8] = packet.as_ptr() as u64 + packet.len() as u64;
    let run = |load: &str, r7: i64| {
        let listing = format!("r6 = r1\nr7 = {r7}\nr0 = {load}\nr1 = 1000000000000 ll\nr0 += r1\nexit");
        let code = compile_plain(&listing).expect("compiles");
        let mut exec = Exec::new();
        let base = exec.place(&code, |s| panic!("{s:?}"));
        exec.entry(base + u64::from(code.entry), 0)(ctx.as_ptr() as u64, 0, 0, 0, 0)
    };
    let found = |value: u64| value + 1_000_000_000_000;
    assert_eq!(run("*(u8 *)skb[19]", 0), found(20));
    assert_eq!(run("*(u16 *)skb[18]", 0), found(0x1314));
    assert_eq!(run("*(u32 *)skb[16]", 0), found(0x1112_1314));
    assert_eq!(run("*(u32 *)skb[17]", 0), 0, "out of bounds: the function returns 0");
    assert_eq!(run("*(u8 *)skb[20]", 0), 0);
    assert_eq!(run("*(u8 *)skb[-1]", 0), 0);
    assert_eq!(run("*(u8 *)skb[-2147483648]", 0), 0);
    assert_eq!(run("*(u8 *)skb[2147483647]", 0), 0);
    assert_eq!(run("*(u16 *)skb[-1048576]", 0), found(0x0506), "from the network header");
    assert_eq!(run("*(u8 *)skb[-1048561]", 0), found(20));
    assert_eq!(run("*(u8 *)skb[-1048560]", 0), 0);
    assert_eq!(run("*(u16 *)skb[-2097152]", 0), found(0x0203), "from the Ethernet header");
    assert_eq!(run("*(u16 *)skb[-2097153]", 0), 0);
    for (off, want) in [(0, found(0x0506)), (14, found(0x1314)), (15, 0), (-0x10_0000, found(0x0203)), (-0x10_0001, 0)]
    {
        assert_eq!(run("*(u16 *)skb[r7 - 1048576]", off), want, "{off:#x}");
    }
    assert_eq!(run("*(u32 *)skb[r7 + 14]", 2), found(0x1112_1314));
    assert_eq!(run("*(u32 *)skb[r7 + 14]", 3), 0);
    assert_eq!(run("*(u16 *)skb[r7 + 4]", -4), found(0x0102));
    assert_eq!(run("*(u16 *)skb[r7 + 3]", -4), 0);
    assert_eq!(run("*(u8 *)skb[r7 + 0]", 20), 0);
}

#[test]
fn may_goto_lets_a_loop_go_on_so_often() {
    let code =
        compile_plain("r0 = 0\nmay_goto pc+2\nr0 += 1\ngoto pc-3\nmay_goto pc+1\nr0 = 0\nexit").expect("compiles");
    let mut exec = Exec::new();
    let base = exec.place(&code, |s| panic!("{s:?}"));
    assert_eq!(exec.entry(base + u64::from(code.entry), 0)(0, 0, 0, 0, 0), MAX_LOOPS as u64);
}

#[test]
fn jumps_of_every_distance() {
    for distance in (0..60).chain([1000, 32_000]) {
        let body = "r0 += 1\n".repeat(distance);
        let listing = format!(
            "r0 = 0\nif r1 == 0 goto pc+{distance}\n{body}if r2 == 0 goto pc+1\ngoto pc-{}\nexit",
            distance + 2
        );
        let code = compile_plain(&listing).expect("compiles");
        let mut exec = Exec::new();
        let base = exec.place(&code, |s| panic!("{s:?}"));
        let run = exec.entry(base + u64::from(code.entry), 0);
        assert_eq!([run(0, 0, 0, 0, 0), run(1, 0, 0, 0, 0)], [0, distance as u64]);
    }
}

#[test]
fn refusals() {
    let says = |listing: &str, want: &str| {
        let error = compile_plain(listing).expect_err(want);
        assert_eq!(error.to_string(), want);
    };
    says("callx r1\nexit", "instruction 0: a call through a register is not supported by the code generator");
    says("call kfunc:7@0\nexit", "instruction 0: a call of a kernel function is not supported by the code generator");
    says("goto pc+7\nexit", "instruction 0: jump leads to 8, which is no reached instruction of the same function");
    says("goto pc-3\nexit", "instruction 0: jump leads to -2, which is no reached instruction of the same function");
    says(
        "goto pc+1\nr0 = 1 ll\nexit",
        "instruction 0: jump leads to 2, which is no reached instruction of the same function",
    );
    says("call pc+1\nexit\nexit", "instruction 0: call leads to 2, where no function begins");
    says("r1 = map[idx:3]\nexit", "instruction 0: map 3 is not among the program's 0 maps");
    says("r0 = 0", "instruction 0: execution runs past the end of function main");
    says("call pc-1\nexit", "function main calls itself, directly or through others");
    let program = bare(assemble("exit"));
    let mut facts = plain_facts(&program);
    facts.funcs[0].stack_depth = 513;
    let error = compile(&program, facts).expect_err("too deep").to_string();
    assert_eq!(error, "function main uses 513 bytes of stack, at most 512 are allowed");
    // Facts that are missing altogether make dead code, not a panic.
    assert_eq!(compile(&program, Facts::default()).map(|c| c.bytes.len()), Ok(0));
}
