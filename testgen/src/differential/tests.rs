//! The comparison notices what it is there for.

use livebpf::insn::{AluOp, Insn, Reg, Src, Width};
use livebpf::jit::{self, CpuFeatures, TailCalls};

use super::*;
use crate::differential::trace::{Seen, Trace};

fn suite(seed: u64) -> Suite {
    make(&mut Generator::new(seed), Wrong::default())
}

/// The interpreter's trace of a suite, and the plan.
fn played(engines: &mut Engines, seed: u64) -> (Suite, Plan, Trace) {
    let mut suite = suite(seed);
    let ebpf = engines.benches[0].load_accepted(&mut suite).unwrap();
    let plan = Plan::choose(&mut Source::seeded(seed), &suite);
    let trace = play(&mut engines.benches[0], &ebpf, &plan);
    (suite, plan, trace)
}

#[test]
fn every_part_of_what_is_seen_counts() {
    let mut engines = Engines::new().unwrap();
    let seed = (1..).find(|&seed| suite(seed).programs.len() > 2).unwrap();
    let (_, plan, trace) = played(&mut engines, seed);
    trace.check_same(&trace, Engine::Jit, &plan).unwrap();
    for (at, seen) in trace.steps.iter().enumerate() {
        let mut wrong = Vec::new();
        match seen {
            Seen::Ran { result, packet, fields: _, record, buffer, maps } => {
                let ran = |change: &dyn Fn(&mut Seen)| {
                    let mut seen = seen.clone();
                    change(&mut seen);
                    seen
                };
                // A classifier's packet can be empty: then the first byte is new.
                let bit = |bytes: &[u8]| match bytes {
                    [first, rest @ ..] => [&[first ^ 0x80], rest].concat(),
                    [] => vec![0],
                };
                wrong.push(ran(&|seen| {
                    if let Seen::Ran { result: r, .. } = seen {
                        *r = Ok(result.clone().unwrap() ^ 1)
                    }
                }));
                wrong.push(ran(&|seen| {
                    if let Seen::Ran { packet: p, .. } = seen {
                        *p = bit(packet)
                    }
                }));
                wrong.push(ran(&|seen| {
                    if let Seen::Ran { record: c, .. } = seen {
                        *c = bit(record)
                    }
                }));
                wrong.push(ran(&|seen| {
                    if let Seen::Ran { buffer: b, .. } = seen {
                        *b = bit(buffer)
                    }
                }));
                for (index, map) in maps.iter().enumerate().filter(|(_, map)| !map.entries.is_empty()) {
                    let value = bit(&map.entries[0].1);
                    wrong.push(ran(&|seen| {
                        if let Seen::Ran { maps, .. } = seen {
                            maps[index].entries[0].1.clone_from(&value);
                        }
                    }));
                }
            }
            Seen::Updated(answer) => wrong.push(Seen::Updated(match answer {
                Some(Ok(())) => Some(Err("ENOENT".to_owned())),
                Some(Err(_)) | None => Some(Ok(())),
            })),
        }
        for seen in wrong {
            let mut changed = trace.clone();
            changed.steps[at] = seen;
            let message = changed.check_same(&trace, Engine::Jit, &plan).unwrap_err();
            assert!(message.contains(&format!("jit differs from interp at step {at}")), "{message}");
        }
    }
}

#[test]
fn a_wrong_instruction_is_noticed() {
    // As if a code generator took some operations for others. Most programs do not reach them, or mask the result.
    let mut engines = Engines::new().unwrap();
    let mut noticed = 0;
    for seed in 1..=60 {
        let (mut suite, plan, trace) = played(&mut engines, seed);
        for program in &mut suite.programs {
            let mut insns = livebpf::insn::Insns::default();
            for (_, insn) in program.insns.iter() {
                insns.push(match insn {
                    Insn::Mov { width: Width::W64, dst: Reg::R0, src: Src::Reg(src) } => {
                        Insn::Mov { width: Width::W32, dst: Reg::R0, src: Src::Reg(src) }
                    }
                    Insn::Alu { op: AluOp::Add, width: Width::W64, dst, src: Src::Imm(1) } => {
                        Insn::Alu { op: AluOp::Add, width: Width::W64, dst, src: Src::Imm(2) }
                    }
                    Insn::Alu { op: AluOp::Xor, width, dst, src } => Insn::Alu { op: AluOp::Or, width, dst, src },
                    Insn::Alu { op: AluOp::Sub, width, dst, src } => Insn::Alu { op: AluOp::Add, width, dst, src },
                    other => other,
                });
            }
            program.insns = insns;
        }
        let Ok(ebpf) = engines.benches[1].load(&suite) else { continue };
        let found = play(&mut engines.benches[1], &ebpf, &plan);
        noticed += u32::from(found.check_same(&trace, Engine::Jit, &plan).is_err());
    }
    assert!(noticed >= 10, "{noticed}");
}

#[test]
fn a_lost_update_is_noticed() {
    let mut engines = Engines::new().unwrap();
    let mut noticed = 0;
    for seed in 1..=60 {
        let (suite, plan, trace) = played(&mut engines, seed);
        let ebpf = engines.benches[1].load(&suite).unwrap();
        // The programs in the slots change, and the engine goes on with those that were there: all updates set slot 0.
        let steps = plan.steps.iter().cloned().map(|step| match step {
            plan::Step::Set { program, .. } => plan::Step::Set { index: 0, program },
            other => other,
        });
        let found = play(&mut engines.benches[1], &ebpf, &Plan { steps: steps.collect() });
        noticed += u32::from(found.check_same(&trace, Engine::Jit, &plan).is_err());
    }
    assert!(noticed >= 20, "{noticed}");
}

/// C14.
#[test]
fn every_patchable_field_is_aligned() {
    let helpers = Table::builtin();
    let mut sites = 0;
    for seed in 0..200 {
        for program in suite(seed).programs {
            let Ok(verified) = verify::verify(program, &Options::new(&helpers)) else { continue };
            for bits in 0..8 {
                let options = jit::Options {
                    tail_calls: TailCalls::Patched,
                    slot_maps: Vec::new(),
                    count_missed: Vec::new(),
                    helpers_near: bits & 1 != 0,
                    cpu: CpuFeatures { bmi2: bits & 2 != 0, movbe: bits & 4 != 0 },
                    blind: (bits & 4 != 0).then_some(seed),
                };
                for site in jit::compile(&verified, &options).unwrap().sites {
                    sites += 1;
                    assert_eq!(site.target_field() % 4, 0, "seed {seed}: {site:?}");
                }
            }
        }
    }
    assert!(sites > 500, "{sites}");
}

#[test]
fn what_is_left_of_an_address_is_not_compared() {
    let helpers = Table::builtin();
    let verified = |source: &str| {
        let insns = livebpf::insn::text::assemble(source).unwrap();
        let program = livebpf::link::Program::bare("p", ProgramKind::new(ProgType::XDP), insns);
        verify::verify(program, &Options::new(&helpers)).unwrap()
    };
    let spill = "r0 = r10\n*(u64 *)(r10 - 8) = r0\n";
    for overwritten in ["*(u32 *)(r10 - 4) = 32\n", "*(u8 *)(r10 - 8) = 1\n"] {
        let proof = verified(&format!("{spill}{overwritten}r0 = *(u16 *)(r10 - 8)\nexit"));
        assert!(!comparable(&proof), "{overwritten}");
    }
    // Where the packet was before it moved.
    let moves = "r6 = *(u32 *)(r1 + 4)\nr2 = -4\ncall bpf_xdp_adjust_head#44\n";
    assert!(!comparable(&verified(&format!("{moves}r0 = r6\nexit"))));
    assert!(comparable(&verified(&format!("{moves}exit"))));
    assert!(comparable(&verified(&format!("{spill}*(u64 *)(r10 - 8) = 7\nr0 = *(u16 *)(r10 - 8)\nexit"))));
}
