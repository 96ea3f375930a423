//! Random accesses of every context, of what it points to, and of its packet: what is accepted runs without a fault in the
//! checking interpreter, and generated code gives the same result and leaves the same bytes.

use std::fmt::Write as _;

use livebpf::context::{Context, Field, FieldKind, Packet, TypeDesc, describe_kind};
use livebpf::insn::text;
use livebpf::link::Program;
use livebpf::object::{AttachType, ProgType, ProgramKind};
use livebpf::runtime::{Engine, Runtime};

/// A small deterministic generator (splitmix64).
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
    fn pick<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len() as u64) as usize]
    }
    /// A size in bits, and an offset of such a piece near or inside `bytes` bytes.
    fn piece(&mut self, bytes: u32) -> (u32, i64) {
        let size = 1 << self.below(4);
        let at = self.below((u64::from(bytes) / size).max(1)) * size;
        let slip = if self.below(40) == 0 { self.below(19) as i64 - 9 } else { 0 };
        (8 * size as u32, at as i64 + slip)
    }
}

/// Every type with every attach type that makes a difference.
fn kinds() -> Vec<(ProgramKind, &'static TypeDesc)> {
    let mut kinds: Vec<(ProgramKind, &TypeDesc)> = Vec::new();
    for (prog_type, attach) in (0..40).flat_map(|t| (0..AttachType::COUNT).map(move |a| (ProgType(t), AttachType(a)))) {
        let kind = ProgramKind { attach_type: attach, ..ProgramKind::new(prog_type) };
        if let Some(desc) = describe_kind(&kind).filter(|desc| !kinds.iter().any(|(_, known)| known == desc)) {
            kinds.push((kind, desc));
        }
    }
    kinds
}

/// Instructions of one access; R6 is the context, R0 gathers what was read.
fn access(rng: &mut Rng, desc: &TypeDesc, code: &mut String) -> std::fmt::Result {
    let field: &Field = rng.pick(desc.context.fields);
    let (offset, whole) = (field.offset, 8 * field.size.min(8));
    match field.kind {
        FieldKind::Scalar => {
            let (bits, at) = if rng.below(2) == 0 { (8 * field.unit, 0) } else { rng.piece(field.size) };
            let off = i64::from(offset) + at;
            if field.writable && rng.below(2) == 0 {
                writeln!(code, "r2 = {}\n*(u{bits} *)(r6 {off:+}) = r2", rng.next() as i32)
            } else {
                writeln!(code, "r2 = *(u{bits} *)(r6 {off:+})\nr0 ^= r2\nr0 <<= 1")
            }
        }
        FieldKind::Memory(region) => {
            let (bits, at) = rng.piece(region.size());
            writeln!(code, "r2 = *(u{whole} *)(r6 + {offset})\nr3 = *(u{bits} *)(r2 {at:+})\nr0 ^= r3")?;
            let (bits, at) = rng.piece(region.size());
            writeln!(code, "r2 += 4\n*(u{bits} *)(r2 {:+}) = r3", at - 4)
        }
        FieldKind::Socket { view, nullable } => {
            let field = rng.pick(view.desc().fields);
            let at = field.offset + rng.below(u64::from(field.size / field.unit)) as u32 * field.unit;
            writeln!(code, "r2 = *(u{whole} *)(r6 + {offset})")?;
            if nullable {
                writeln!(code, "if r2 == 0 goto pc+2")?;
            }
            writeln!(code, "r3 = *(u{} *)(r2 + {at})\nr0 ^= r3", 8 * field.unit)
        }
        FieldKind::PacketData | FieldKind::PacketEnd | FieldKind::PacketMeta => packet(rng, desc, code),
    }
}

/// An access of the packet behind a comparison with its end.
fn packet(rng: &mut Rng, desc: &TypeDesc, code: &mut String) -> std::fmt::Result {
    let find = |kind| desc.context.fields.iter().find(|field| field.kind == kind).expect("a packet has both ends");
    let (data, end) = (find(FieldKind::PacketData), find(FieldKind::PacketEnd));
    let (known, bits) = (1 + rng.below(40) as u32, 8 * data.size);
    writeln!(code, "r2 = *(u{bits} *)(r6 + {})\nr3 = *(u{bits} *)(r6 + {})", data.offset, end.offset)?;
    writeln!(code, "r4 = r2\nr4 += {known}")?;
    let ((read, from), (write, to)) = (rng.piece(known), rng.piece(known));
    match desc.packet {
        Packet::Write => writeln!(
            code,
            "if r4 > r3 goto pc+3\nr5 = *(u{read} *)(r2 {from:+})\nr0 ^= r5\n*(u{write} *)(r2 {to:+}) = r5"
        ),
        _ => writeln!(code, "if r4 > r3 goto pc+2\nr5 = *(u{read} *)(r2 {from:+})\nr0 ^= r5"),
    }
}

fn program(rng: &mut Rng, kind: ProgramKind, desc: &TypeDesc) -> Program {
    let mut code = "r6 = r1\nr0 = 0\n".to_owned();
    for _ in 0..1 + rng.below(12) {
        access(rng, desc, &mut code).expect("strings can be written");
    }
    match desc.returns {
        Some((0, high)) => writeln!(code, "r0 &= {high}").expect("strings can be written"),
        Some((low, _)) => writeln!(code, "r0 = {low}").expect("strings can be written"),
        None => {}
    }
    let insns = text::assemble(&(code.clone() + "exit")).unwrap_or_else(|e| panic!("{e}\n{code}"));
    Program { license: "GPL".to_owned(), ..Program::bare("main", kind, insns) }
}

fn context(bytes: &[u8], prog_type: ProgType, desc: &TypeDesc) -> Context {
    if Context::takes_packet(prog_type) {
        return Context::for_type(prog_type, bytes).expect("a packet");
    }
    let bytes = bytes.iter().copied().cycle();
    let supplied: Vec<u8> = bytes.clone().take(desc.context.size as usize).collect();
    let mut context = Context::for_type(prog_type, &supplied).expect("a context");
    if desc.packet != Packet::None {
        context.set_data(&bytes.take(24).collect::<Vec<u8>>()).expect("data");
    }
    context
}

/// The result, the context's bytes, the data, and the memory that the context points to.
type Outcome = (u32, Vec<u8>, Vec<u8>, Vec<u8>);

/// What a program leaves; `None` where it is refused.
fn outcome(runtime: &Runtime, program: &Program, mut context: Context) -> Option<Outcome> {
    let loaded = runtime.load_linked(vec![program.clone()]).ok()?;
    let mut worker = runtime.worker().expect("a worker");
    let found = worker.run(loaded.program("main").expect("it is there"), &mut context);
    let result = found.unwrap_or_else(|e| panic!("{e}\n{:?}", program.insns));
    Some((result, context.packet(), context.data(), context.memory().to_vec()))
}

#[test]
fn what_is_accepted_runs_alike_in_every_engine() {
    let runtimes = [Engine::Interp, Engine::Jit, Engine::Slot]
        .map(|engine| Runtime::builder().engine(engine).build().expect("a runtime"));
    let mut rng = Rng(7);
    let kinds = kinds();
    assert!(kinds.len() > 35);
    for (kind, desc) in kinds {
        let (mut accepted, mut refused) = (0, 0);
        while accepted < 40 {
            let program = program(&mut rng, kind, desc);
            // No EtherType: the packet needs no header.
            let mut bytes: Vec<u8> = (0..64).map(|_| rng.next() as u8).collect();
            bytes[12..14].fill(0);
            let outcomes = runtimes.each_ref().map(|r| outcome(r, &program, context(&bytes, kind.prog_type, desc)));
            assert!(outcomes.iter().all(|found| *found == outcomes[0]), "{kind:?}: {outcomes:?}\n{:?}", program.insns);
            if outcomes[0].is_some() {
                accepted += 1
            } else {
                refused += 1
            }
            assert!(refused < 4000, "{kind:?}: hardly anything is accepted");
        }
    }
}
