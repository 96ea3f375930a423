//! Hidden constants: what a program computes stays the same, and none of its constants stands in the code.

use livebpf::context::Context;
use livebpf::helper::Table;
use livebpf::insn::{Pc, text};
use livebpf::jit::{self, Options};
use livebpf::link::{Program, Subprogram};
use livebpf::object::{ProgType, ProgramKind};
use livebpf::runtime::{Engine, LoadOptions, Runtime};
use livebpf::verify;

/// Every instruction with a constant, each with one that is easy to find.
const LISTING: &str = "r6 = r1
r0 = 0x1a2b3c01
w7 = 0x1a2b3c02
r8 = 0x1a2b3c031a2b3c04 ll
r0 += 0x1a2b3c05
w0 -= 0x1a2b3c06
r0 *= 0x1a2b3c07
r0 /= 0x1a2b3c08
w8 %= 0x1a2b3c09
r8 s/= 0x1a2b3c0a
r7 |= 0x1a2b3c0b
w7 &= 0x1a2b3c0c
r7 ^= 0x1a2b3c0d
r0 += r7
r0 += r8
*(u64 *)(r10 - 8) = 0x1a2b3c0e
*(u32 *)(r10 - 12) = 0x1a2b3c0f
r1 = *(u64 *)(r10 - 8)
r0 += r1
w1 = *(u32 *)(r10 - 12)
r0 += r1
r9 = r0
r9 += 0x1a2b3c10
r0 += r9
if r0 == 0x1a2b3c11 goto out
if w0 & 0x1a2b3c12 goto pc+1
r0 += 1
if r0 s> 0x1a2b3c13 goto out
r0 *= 3
out:
exit";

fn program() -> Program {
    let insns = text::assemble(LISTING).expect("a listing");
    let mut program = Program::bare("main", ProgramKind::new(ProgType::XDP), insns);
    let end = Pc(program.insns.len());
    program.subprogs = vec![Subprogram { name: "main".into(), start: Pc(0), end, global: true, signature: None }];
    program
}

/// How many of the constants stand in the code.
fn found(blind: Option<u64>) -> usize {
    let helpers = Table::builtin();
    let verified = verify::verify(program(), &verify::Options::new(&helpers)).expect("accepted");
    let code = jit::compile(&verified, &Options { blind, ..Options::default() }).expect("compiles");
    let stands = |n: &u32| code.bytes.windows(4).any(|four| four == (0x1a2b_3c00 + n).to_le_bytes());
    (1..=0x13).filter(stands).count()
}

#[test]
fn no_constant_stands_in_the_code() {
    // The control: without the option they are all there, or nearly; some fit a shorter form.
    assert!(found(None) > 15);
    for seed in 0..50 {
        assert_eq!(found(Some(seed)), 0, "seed {seed}");
    }
}

#[test]
fn results_are_the_same() {
    let run = |engine, options: &LoadOptions| {
        let runtime = Runtime::builder().engine(engine).build().expect("a runtime");
        let ebpf = runtime.load_linked_with(vec![program()], options).expect("accepted");
        let mut context = Context::for_type(ProgType::XDP, &[0; 64]).expect("a context");
        let mut worker = runtime.worker().expect("a worker");
        worker.run(ebpf.program("main").expect("the program"), &mut context).expect("a result")
    };
    let wanted = run(Engine::Interp, &LoadOptions::default());
    for engine in [Engine::Interp, Engine::Jit, Engine::Slot] {
        assert_eq!(run(engine, &LoadOptions::default()), wanted, "{engine}");
        // The seed is another each time.
        for _ in 0..20 {
            assert_eq!(run(engine, &LoadOptions::default().blind_constants()), wanted, "{engine}");
        }
    }
}
