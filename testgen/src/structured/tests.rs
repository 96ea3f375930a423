use std::collections::BTreeSet;

use livebpf::insn::{Insn, Insns};
use livebpf::link::SubprogId;
use livebpf::object::MapType;

use super::Shape;
use crate::Generator;

const SHAPES: [Shape; 2] = [Shape::xdp(), Shape::sched_cls()];

#[test]
fn a_seed_gives_the_same_suite_and_another_seed_another() {
    for shape in SHAPES {
        for seed in 0..50 {
            let suite = Generator::new(seed).suite(&shape);
            assert_eq!(suite, Generator::new(seed).suite(&shape));
            assert_ne!(suite, Generator::new(seed + 1).suite(&shape));
        }
    }
}

#[test]
fn any_bytes_give_a_well_formed_program() {
    for len in 0..200 {
        let bytes: Vec<u8> = (0..len).map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let program = Generator::from_bytes(&bytes).program(&Shape::xdp().with_mistakes(50));
        assert_eq!(Insns::decode(&program.insns.encode()), Ok(program.insns));
    }
}

#[test]
fn programs_are_well_formed() {
    for shape in SHAPES {
        for seed in 0..300 {
            for program in Generator::new(seed).suite(&shape).programs {
                check(&program);
            }
        }
    }
}

fn check(program: &livebpf::link::Program) {
    assert_eq!(Insns::decode(&program.insns.encode()).as_ref(), Ok(&program.insns));
    let mut next = 0;
    for (i, function) in program.subprogs.iter().enumerate() {
        assert_eq!(function.start.0, next, "functions leave no gaps");
        next = function.end.0;
        assert_eq!(program.subprog_at(function.start), Some(SubprogId(i as u32)));
    }
    assert_eq!(next, program.insns.len());
    for (pc, insn) in program.insns.iter() {
        if let Some(target) = insn.jump_target(pc) {
            assert!(program.insns.get(target).is_some(), "{pc}: {insn}");
            assert_eq!(program.subprog_at(pc), program.subprog_at(target), "{pc}: {insn}");
        }
        if let Insn::CallSubprog { off } = insn {
            let target = pc.jump(off).and_then(|target| program.subprog_starting_at(target));
            assert!(target > program.subprog_at(pc), "{pc}: {insn}: only later functions are called");
        }
    }
}

#[test]
fn everything_that_the_shape_names_occurs() {
    let mut helpers = BTreeSet::new();
    let (mut backward, mut atomic, mut calls, mut functions) = (0, 0, 0, 0);
    for seed in 0..400 {
        let shape = SHAPES[seed as usize % 2];
        let program = Generator::new(seed).program(&shape);
        functions = functions.max(program.subprogs.len());
        for (_, insn) in program.insns.iter() {
            match insn {
                Insn::Call { helper } => drop(helpers.insert(helper)),
                Insn::CallSubprog { .. } => calls += 1,
                Insn::Atomic { .. } => atomic += 1,
                Insn::Jmp { off, .. } => backward += u32::from(off < 0),
                _ => {}
            }
        }
    }
    assert_eq!(helpers.into_iter().collect::<Vec<_>>(), [1, 2, 3, 8, 12, 26, 44, 65]);
    assert!(backward > 20 && atomic > 20 && calls > 50, "{backward} loops, {atomic} atomics, {calls} calls");
    assert!(functions >= 4, "at most {functions} functions");
}

#[test]
fn what_the_shape_switches_off_does_not_occur() {
    let shape = Shape { maps: false, tail_calls: false, loops: false, subprograms: 0, packet: false, ..Shape::xdp() };
    for seed in 0..200 {
        let program = Generator::new(seed).program(&shape);
        assert!(program.maps.is_empty());
        assert_eq!(program.subprogs.len(), 1);
        for (_, insn) in program.insns.iter() {
            assert!(!matches!(insn, Insn::Call { helper: 1 | 2 | 3 | 12 } | Insn::CallSubprog { .. }), "{insn}");
            assert!(!matches!(insn, Insn::Jmp { off, .. } if off < 0), "{insn}");
        }
    }
}

#[test]
fn mistakes_are_counted_and_only_made_when_asked_for() {
    let mut total = 0;
    for seed in 0..100 {
        assert!(Generator::new(seed).suite(&Shape::xdp()).mistakes.iter().all(|&n| n == 0));
        total += Generator::new(seed).suite(&Shape::xdp().with_mistakes(30)).mistakes.iter().sum::<u32>();
    }
    assert!(total > 100, "{total}");
}

#[test]
fn slots_of_the_program_array_name_programs_of_the_suite() {
    let mut slots = 0;
    for seed in 0..100 {
        let suite = Generator::new(seed).suite(&Shape::sched_cls());
        let array = suite.maps.iter().find(|map| map.map_type == MapType::PROG_ARRAY).unwrap();
        let livebpf::object::MapInit::Programs(held) = &array.init else { panic!("{array:?}") };
        for (index, name) in held {
            assert!(*index < array.max_entries);
            assert!(suite.programs.iter().any(|program| program.name == *name));
            slots += 1;
        }
    }
    assert!(slots > 50);
}
