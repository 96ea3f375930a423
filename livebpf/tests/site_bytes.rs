//! The machine code of one direct tail call, as the code generator emits it, before and after each kind of update.

// Shared with other tests, which use all of it.
#[allow(dead_code)]
mod handmade;

use std::sync::Arc;

use handmade::{Bench, program, run};
use iced_x86::{Decoder, DecoderOptions, Formatter, Instruction, IntelFormatter, Mnemonic};
use livebpf::insn::text;
use livebpf::jit::{self, Code};
use livebpf::link::Program;
use livebpf::map::prog_array::ProgArray;
use livebpf::object::{MapDef, MapType, ProgType, ProgramKind};
use livebpf::text::Image;
use livebpf::verify::Verified;

/// A program with one tail call through slot 2 of its one map, compiled.
fn compiled() -> Code {
    let insns = text::assemble(
        "
        r6 = r1
        r2 = map[idx:0]
        r3 = 2
        call 12
        r0 = 100
        exit
        ",
    )
    .unwrap();
    let mut program = Program::bare("caller", ProgramKind::new(ProgType::XDP), insns);
    program.maps = vec![Arc::new(MapDef::new("jmp_table", MapType::PROG_ARRAY, 4, 4, 4))];
    jit::compile(&Verified::without_proof(program).unwrap(), &jit::Options::default()).unwrap()
}

/// The instructions from the bypass to the end of the site; where the jumps lead by name.
fn listing(image: &Image, names: &[(&str, u64)]) -> Vec<String> {
    let site = image.sites()[0];
    let bytes = image.bytes();
    let start = image.base() + u64::from(site.bypass);
    let out = image.base() + u64::from(site.target) + 5;
    let code = &bytes[site.bypass as usize..(out - image.base()) as usize];
    let mut formatter = IntelFormatter::new();
    let decoded = Decoder::with_ip(64, code, start, DecoderOptions::NONE).into_iter();
    let line = |instruction: Instruction| {
        let to = instruction.near_branch64();
        let mut line = String::new();
        match instruction.mnemonic() {
            Mnemonic::Jae if to == out => line.push_str("jae out"),
            Mnemonic::Jmp => match names.iter().find(|(_, address)| *address == to) {
                Some((name, _)) => line = format!("jmp {name}"),
                None => line = format!("jmp to nowhere known, {to:#x}"),
            },
            _ => formatter.format(&instruction, &mut line),
        }
        line
    };
    decoded.filter(|instruction| instruction.mnemonic() != Mnemonic::Nop).map(line).collect()
}

#[test]
fn insert_replace_and_delete_change_the_jumps_as_designed() {
    let bench = Bench::new();
    let array = ProgArray::new(4).unwrap();
    let code = compiled();
    let caller = bench.load(&code, &[&array]).unwrap();
    let [p, q] = [7, 8].map(|value| bench.load(&program(&[], value), &[]).unwrap());
    let names = [("poison", bench.region.poison()), ("P", p.image.tail_entry()), ("Q", q.image.tail_entry())];
    let reader = bench.domain.reader();
    let check = |bypass: &str, target: &str, result: u32| {
        let wanted = [bypass, "jae out", "inc r12", "pop rbx", "mov rsp,rbp", target];
        assert_eq!(listing(&caller.image, &names), wanted);
        let _section = reader.enter();
        // SAFETY: a loaded image, in a section; the program uses no context.
        assert_eq!(unsafe { run(caller.image.entry()) }, result);
    };
    check("cmp r12d,0", "jmp poison", 100);
    bench.set(&array, 2, p.clone());
    check("cmp r12d,21h", "jmp P", 7);
    bench.set(&array, 2, q.clone());
    check("cmp r12d,21h", "jmp Q", 8);
    let section = reader.enter();
    bench.clear(&array, 2);
    check("cmp r12d,0", "jmp Q", 100);
    drop(section);
    bench.domain.barrier().unwrap();
    check("cmp r12d,0", "jmp poison", 100);
    bench.set(&array, 2, p.clone());
    check("cmp r12d,21h", "jmp P", 7);
    bench.set(&array, 1, q.clone());
    check("cmp r12d,21h", "jmp P", 7);
}

#[test]
fn the_fields_are_aligned_in_memory_and_nothing_else_differs_from_what_was_compiled() {
    let bench = Bench::new();
    let array = ProgArray::new(4).unwrap();
    let code = compiled();
    for _ in 0..20 {
        let caller = bench.load(&code, &[&array]).unwrap();
        let (mut placed, site) = (caller.image.bytes(), caller.image.sites()[0]);
        assert_eq!((caller.image.base() + u64::from(site.target_field())) % 4, 0);
        placed[site.bypass_field() as usize] = 0;
        placed[site.target_field() as usize..][..4].fill(0);
        assert_eq!(placed, code.bytes);
        bench.set(&array, 2, caller);
    }
}
