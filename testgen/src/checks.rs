//! What must hold for any input. Fuzz targets and tests call these; they panic when it does not hold.

use livebpf::context::Context;
use livebpf::insn::{DecodeError, Insns, text};
use livebpf::object::Object;
use livebpf::object::btf::{Btf, Type};

use crate::bench::Bench;
use crate::{Generator, Shape, Source, Suite, mutate};

/// Bytes are refused with an error that names a slot among them, or decode to instructions that encode to the same
/// bytes and whose listing is read back as the same instructions.
pub fn wire(bytes: &[u8]) {
    match Insns::decode(bytes) {
        Ok(insns) => {
            assert_eq!(insns.encode(), bytes, "decoding lost something");
            let listing = insns.to_string();
            assert_eq!(text::assemble(&listing).as_ref(), Ok(&insns), "{listing}");
            for (_, insn) in insns.iter() {
                assert_eq!(text::parse(&insn.to_string()), Ok(insn), "{insn}");
            }
        }
        Err(error) => check_place(&error, bytes.len()),
    }
}

fn check_place(error: &DecodeError, len: usize) {
    let pc = error.pc().expect("no input of this size is too long");
    assert!(pc.index() <= len / 8, "{error}: there are {len} bytes");
}

/// Text is refused with an error that names a line of it, or is read as instructions whose listing is read back as
/// the same instructions and which survive encoding.
pub fn listing(source: &str) {
    match text::assemble(source) {
        Ok(insns) => {
            assert_eq!(text::assemble(&insns.to_string()).as_ref(), Ok(&insns), "{source}");
            assert_eq!(Insns::decode(&insns.encode()).as_ref(), Ok(&insns), "{source}");
        }
        Err(error) => {
            let lines = source.lines().count().max(1);
            assert!((1..=lines as u32).contains(&error.line), "{error}: there are {lines} lines");
            assert!(error.column >= 1);
        }
    }
}

/// Bytes are refused as an object, or give programs whose code survives encoding.
pub fn object(bytes: &[u8]) {
    let Ok(object) = Object::parse(bytes) else { return };
    for (name, linked) in object.link_all() {
        let Ok(program) = linked else { continue };
        assert_eq!(program.name, name);
        assert_eq!(Insns::decode(&program.insns.encode()).as_ref(), Ok(&program.insns), "{name}");
        let end = program.subprogs.last().map(|last| last.end.0);
        assert_eq!(end, Some(program.insns.len()), "{name}: the functions cover the code");
    }
}

/// Bytes are refused as BTF, or every type in them has a number, a name and what it stands for, or a reason why not.
pub fn btf(bytes: &[u8]) {
    let Ok(btf) = Btf::parse(bytes) else { return };
    let mut types = 0;
    for (id, ty) in btf.iter() {
        types += 1;
        assert_eq!(btf.get(id).ok(), Some(ty), "{id:?}");
        assert!(!ty.kind_name().is_empty());
        if let Ok(name) = btf.type_name(id) {
            // What is no UTF-8 becomes a character of three bytes.
            assert!(name.len() <= 3 * bytes.len() && !name.contains('\0'), "{id:?}");
        }
        if let Ok((resolved, ty)) = btf.resolve(id) {
            let stands_for_another = matches!(ty, Type::Typedef { .. } | Type::Modifier { .. } | Type::TypeTag { .. });
            assert!(!stands_for_another && btf.resolve(resolved) == Ok((resolved, ty)), "{id:?}");
            // Sizes are multiplied along arrays of arrays: refused, not wrapped. A name for a type has its size.
            assert_eq!(btf.size_of(id).ok(), btf.size_of(resolved).ok(), "{id:?}");
        } else {
            assert!(btf.size_of(id).is_err(), "{id:?}");
        }
    }
    assert_eq!(types, btf.len(), "all types are seen");
}

/// What became of the programs of a [`soundness`] check.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Verdicts {
    /// Programs the verifier took.
    pub accepted: u32,
    /// Programs it refused.
    pub refused: u32,
}

/// Programs that the verifier accepts run in the checking interpreter without a fault, on packets of many lengths.
/// `mutants` also damages some programs. `bench` is one of the interpreter.
///
/// # Panics
/// When one faults: the verifier accepts too much, or the interpreter refuses too much.
pub fn soundness(bench: &mut Bench, generator: &mut Generator<'_>, shape: &Shape, mutants: bool) -> Verdicts {
    let mut suite = generator.suite(shape);
    let total = suite.programs.len();
    if mutants {
        mutate::suite(generator.source(), &mut suite);
    }
    let ebpf = bench.load_accepted(&mut suite).expect("what the verifier accepts can be loaded");
    for program in &suite.programs {
        for len in [14, 15, 33, 64, 90, 1500] {
            let packet = packet(generator.source(), len);
            let mut context = Context::for_type(program.kind.prog_type, &packet).expect("the packet fits");
            if let Err(fault) = bench.run(&ebpf, &program.name, 0, &mut context) {
                panic!("accepted, but faults on {len} bytes: {fault}\n{} of:\n{}", program.name, listings(&suite));
            }
        }
    }
    let accepted = suite.programs.len();
    Verdicts { accepted: accepted as u32, refused: (total - accepted) as u32 }
}

/// An Ethernet frame of any content. Its type is one for local experiments, because a context refuses frames of a
/// protocol whose header they are too short for.
fn packet(source: &mut Source<'_>, len: u32) -> Vec<u8> {
    let mut packet: Vec<u8> = (0..len).map(|_| source.below(256) as u8).collect();
    packet[12..14].copy_from_slice(&[0x88, 0xb5]);
    packet
}

/// The suite's maps and code, for messages.
pub(crate) fn listings(suite: &Suite) -> String {
    let maps = suite.maps.iter().map(|map| format!("{map:?}\n"));
    let programs = suite.programs.iter().map(|program| format!("{}:\n{}", program.name, program.insns));
    maps.chain(programs).collect()
}

#[cfg(test)]
mod tests {
    use livebpf::runtime::Engine;

    use super::{Bench, Verdicts};
    use crate::{Generator, Shape, Source, mutate};

    #[test]
    fn wire_and_text_hold_on_generated_and_damaged_programs() {
        for seed in 0..300 {
            let program = Generator::new(seed).program(&Shape::sched_cls());
            let mut bytes = program.insns.encode();
            super::wire(&bytes);
            let mut source = Source::seeded(seed);
            mutate::bytes(&mut source, &mut bytes);
            super::wire(&bytes);
            let mut listing = program.insns.to_string().into_bytes();
            mutate::bytes(&mut source, &mut listing);
            super::listing(&String::from_utf8_lossy(&listing));
        }
    }

    #[test]
    fn btf_holds_where_it_is_damaged() {
        // Of one of our own objects; where its types lie in the file is found by their magic number.
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../livebpf/tests/data/objects/functions.o");
        let file = std::fs::read(path).unwrap();
        let at = file.windows(4).position(|window| *window == [0x9f, 0xeb, 1, 0]).unwrap();
        let word = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap()) as usize;
        let whole = &file[at..at + 24 + word(at + 16) + word(at + 20)];
        assert!(livebpf::object::btf::Btf::parse(whole).unwrap().len() > 10);
        super::btf(whole);
        for seed in 0..2_000 {
            let mut bytes = whole.to_vec();
            mutate::bytes(&mut Source::seeded(seed), &mut bytes);
            super::btf(&bytes);
        }
    }

    /// Suites of both kinds from the given seeds.
    fn verdicts(seeds: std::ops::Range<u64>, mistakes: u32) -> Verdicts {
        let mut all = Verdicts::default();
        let mut bench = Bench::new(Engine::Interp).unwrap();
        for seed in seeds {
            let shape = if seed % 2 == 0 { Shape::xdp() } else { Shape::sched_cls() };
            let mutants = mistakes > 0 && seed % 4 >= 2;
            let found =
                super::soundness(&mut bench, &mut Generator::new(seed), &shape.with_mistakes(mistakes), mutants);
            all.accepted += found.accepted;
            all.refused += found.refused;
        }
        all
    }

    #[test]
    fn programs_without_mistakes_are_accepted_and_run_without_a_fault() {
        let all = verdicts(0..500, 0);
        assert!(all.refused * 100 < all.accepted, "{all:?}");
    }

    #[test]
    fn programs_with_mistakes_are_refused_or_run_without_a_fault() {
        let all = verdicts(10_000..10_500, 20);
        assert!(all.accepted > 300 && all.refused > 300, "{all:?}");
    }
}
