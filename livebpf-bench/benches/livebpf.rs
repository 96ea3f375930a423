//! For who works on livebpf: entries, tail calls, lookups and code generation, by criterion, which compares with its last run on this machine.
//! `cargo bench -p livebpf-bench`; the figures to show are those of `livebpf bench`, which has others beside them.

use std::fmt::Write as _;
use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use livebpf::context::Context;
use livebpf::helper::Table;
use livebpf::insn::text;
use livebpf::jit::{self, Options};
use livebpf::link::{self, Program};
use livebpf::object::{MapDef, MapType, Object, ProgType, ProgramKind};
use livebpf::runtime::{Ebpf, ProgramArray, Runtime};
use livebpf::verify;

const MAPS: &[u8] = include_bytes!("../bpf/maps.o");

fn program(name: &str, source: &str) -> Program {
    Program::bare(name, ProgramKind::new(ProgType::SCHED_CLS), text::assemble(source).expect("text made here"))
}

/// Runs of `name`, each alone.
fn runs(c: &mut Criterion, id: &str, per_run: u64, runtime: &Runtime, ebpf: &Ebpf, name: &str) {
    let mut group = c.benchmark_group(id);
    group.throughput(Throughput::Elements(per_run));
    let program = ebpf.program(name).expect("loaded");
    let mut context = Context::for_type(ProgType::SCHED_CLS, &[0; 64]).expect("a packet");
    let mut worker = runtime.worker().expect("a worker");
    group.bench_function("single", |b| b.iter(|| worker.run(program, &mut context).expect("it runs")));
    let mut pinned = worker.pin().expect("a section");
    group.bench_function("pinned", |b| b.iter(|| pinned.run(program, &mut context).expect("it runs")));
    group.finish();
}

fn entry(c: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let ebpf = runtime.load_linked(vec![program("empty", "r0 = 0\nexit")]).expect("accepted");
    runs(c, "entry", 1, &runtime, &ebpf, "empty");
}

/// 33 direct hops through as many programs.
fn tail_calls(c: &mut Criterion) {
    const HOPS: u32 = 33;
    let array = Arc::new(MapDef::new("slots", MapType::PROG_ARRAY, 4, 4, HOPS + 1));
    let hop = |n: u32| {
        let source = format!("r2 = map[idx:0]\nr3 = {}\ncall bpf_tail_call#12\nr0 = 0\nexit", n + 1);
        Program { maps: vec![array.clone()], ..program(&format!("hop_{n}"), &source) }
    };
    let mut programs: Vec<Program> = (0..HOPS).map(hop).collect();
    programs.push(program(&format!("hop_{HOPS}"), "r0 = 1\nexit"));
    let runtime = Runtime::new().expect("a runtime");
    let ebpf = runtime.load_linked(programs).expect("accepted");
    let slots = ProgramArray::try_from(ebpf.map("slots").expect("made")).expect("an array of programs");
    for n in 1..=HOPS {
        slots.set(n, ebpf.program(&format!("hop_{n}")).expect("loaded")).expect("the slot is there");
    }
    runs(c, "tail_calls_33", HOPS.into(), &runtime, &ebpf, "hop_0");
}

/// A thousand lookups of what is there.
fn lookups(c: &mut Criterion) {
    let object = Object::parse(MAPS).expect("built here");
    for map in ["array", "percpu_array", "hash", "hash_8", "hash_16", "lru_hash", "lpm_trie"] {
        let names = [format!("fill_{map}"), format!("lookup_{map}")];
        let linked = names.iter().map(|name| link::link(&object, name).expect("built here")).collect();
        let runtime = Runtime::new().expect("a runtime");
        let ebpf = runtime.load_linked(linked).expect("accepted");
        let mut context = Context::for_type(ProgType::SCHED_CLS, &[0; 64]).expect("a packet");
        let mut worker = runtime.worker().expect("a worker");
        worker.run(ebpf.program(&names[0]).expect("loaded"), &mut context).expect("it runs");
        drop(worker);
        runs(c, &names[1], 1000, &runtime, &ebpf, &names[1]);
    }
}

/// Verification and code generation of a program without branches.
fn compile(c: &mut Criterion) {
    const INSNS: u64 = 10_000;
    let mut source = "r0 = 1\nr1 = 2\n".to_owned();
    for n in 0..INSNS - 3 {
        let _ = match n % 4 {
            0 => writeln!(source, "r0 += r1"),
            1 => writeln!(source, "w1 ^= {n}"),
            2 => writeln!(source, "*(u64 *)(r10 - 8) = r0"),
            _ => writeln!(source, "r1 = r0"),
        };
    }
    let (table, program) = (Table::builtin(), program("straight", &(source + "exit")));
    let mut group = c.benchmark_group("compile_10k");
    group.throughput(Throughput::Elements(INSNS));
    let verified = || verify::verify(program.clone(), &verify::Options::new(&table)).expect("accepted");
    group.bench_function("verify", |b| b.iter(|| black_box(verified())));
    let (verified, options) = (verified(), Options::default());
    group.bench_function("jit", |b| b.iter(|| jit::compile(black_box(&verified), &options).expect("compiled")));
    group.finish();
}

criterion_group!(benches, entry, tail_calls, lookups, compile);
criterion_main!(benches);
