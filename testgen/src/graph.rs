//! Call graphs with tail calls: at most five programs of at most four subprograms each, every function of which calls,
//! tail-calls and notes that it was there. What is looked for is what goes wrong around a tail call, taken or missed:
//! the count of them, frames, registers that a callee keeps, the stack's contents, which program is entered, where it returns to.
//!
//! Little else is in these programs, so that they are small: the interpreter, the code generator and the kernel take
//! thousands of suites a second. Always accepted.

use std::sync::Arc;

use livebpf::helper::id;
use livebpf::insn::{AluOp, Cond, Imm64, Insn, Insns, Pc, Reg, Size, Src, Width};
use livebpf::link::{FuncSig, Program, Subprogram, TypeKind};
use livebpf::object::{MapDef, MapInit, MapType, ProgType, ProgramKind};

use crate::structured::code::Code;
use crate::{Source, Suite};

/// Programs of a suite, at most.
pub const MOST_PROGRAMS: u32 = 5;
/// Subprograms of a program, at most.
pub const MOST_SUBPROGRAMS: u32 = 4;

/// Indexes of the maps.
const STATE: usize = 0;
const CALLS: usize = 1;

/// Bytes of the state: words that all programs read and write.
const STATE_BYTES: u32 = 64;

/// The registers of every function: the context, what it has computed, and two that nobody else may change.
const CTX: Reg = Reg::R6;
const SUM: Reg = Reg::R7;
const KEPT: [Reg; 2] = [Reg::R8, Reg::R9];

/// Makes a suite: programs of one type that share a program array and an array.
pub fn suite(source: &mut Source<'_>) -> Suite {
    let prog_type = source.pick(&[ProgType::XDP, ProgType::SCHED_CLS]);
    let programs = source.between(1, MOST_PROGRAMS);
    let slots = source.pick(&[4, 1, 2, 8]);
    let mut array = MapDef::new("jmp_table", MapType::PROG_ARRAY, 4, 4, slots);
    let filled = (0..slots).filter(|_| source.chance(2, 3)).collect::<Vec<_>>();
    array.init = MapInit::Programs(filled.into_iter().map(|slot| (slot, name(source.below(programs)))).collect());
    let maps = vec![Arc::new(MapDef::new("state", MapType::ARRAY, 4, STATE_BYTES, 1)), Arc::new(array)];
    let programs: Vec<Program> = (0..programs).map(|index| program(source, prog_type, &maps, index)).collect();
    Suite { mistakes: vec![0; programs.len()], programs, maps }
}

fn name(index: u32) -> String {
    format!("prog_{index}")
}

fn program(source: &mut Source<'_>, prog_type: ProgType, maps: &[Arc<MapDef>], index: u32) -> Program {
    let count = source.below(MOST_SUBPROGRAMS + 1) as usize;
    let slots = maps[CALLS].max_entries;
    let mut calls_of: Vec<Vec<usize>> = Vec::new();
    let mut bodies = Vec::new();
    for function in 0..=count {
        let mut writer = Writer { source, code: Code::default(), slots, function, count, calls: Vec::new(), stack: 0 };
        writer.function();
        calls_of.push(std::mem::take(&mut writer.calls));
        bodies.push(writer.code.finish());
    }
    // Verifiers refuse code that nothing reaches; functions call only later ones.
    let mut called = vec![false; count + 1];
    called[0] = true;
    for function in 0..=count {
        if called[function] {
            calls_of[function].iter().for_each(|&callee| called[callee] = true);
        }
    }
    let (mut insns, mut subprogs, mut calls) = (Insns::default(), Vec::new(), Vec::new());
    let mut starts = vec![Pc(0); count + 1];
    for (function, (body, sites)) in bodies.into_iter().enumerate().filter(|(function, _)| called[*function]) {
        let start = insns.append(&body);
        starts[function] = start;
        calls.extend(sites.into_iter().map(|(pc, callee)| (Pc(start.0 + pc.0), callee)));
        subprogs.push(Subprogram {
            name: if function == 0 { name(index) } else { format!("sub_{function}") },
            start,
            end: Pc(insns.len()),
            global: function == 0,
            signature: Some(signature(prog_type)),
        });
    }
    for (pc, callee) in calls {
        insns.replace(pc, Insn::CallSubprog { off: starts[callee].0 as i32 - pc.0 as i32 - 1 });
    }
    let bare = Program::bare(&name(index), ProgramKind::new(prog_type), insns);
    Program { subprogs, maps: maps.to_vec(), ..bare }
}

/// The signature that BTF would give: without one, subprograms may not make tail calls.
fn signature(prog_type: ProgType) -> FuncSig {
    let (name, size) = if prog_type == ProgType::XDP { ("xdp_md", 24) } else { ("__sk_buff", 192) };
    let context = TypeKind::Ptr(Box::new(TypeKind::Struct { name: name.to_owned(), size }));
    let ret = TypeKind::Int { size: 4, signed: true };
    FuncSig { ret, params: vec![("ctx".to_owned(), context)], tags: Vec::new() }
}

/// One function while it is written.
struct Writer<'w, 's> {
    source: &'w mut Source<'s>,
    code: Code,
    /// Slots of the program array.
    slots: u32,
    /// Its number, and the number of the last one.
    function: usize,
    count: usize,
    /// Functions that it calls.
    calls: Vec<usize>,
    /// Words of the stack that hold numbers.
    stack: u32,
}

impl Writer<'_, '_> {
    fn function(&mut self) {
        self.code.copy(CTX, Reg::R1);
        let first = self.source.below(1 << 16) as i32;
        self.code.set(SUM, first);
        let kept = self.source.below(3) as usize;
        for reg in &KEPT[..kept] {
            let value = self.source.below(1 << 16) as i32;
            self.code.set(*reg, value);
        }
        // Chains of calls that tail calls are made in have 256 bytes together.
        self.stack = self.source.pick(&[0, 1, 2, 4]);
        for word in 1..=self.stack {
            let value = self.source.below(1 << 16) as i32;
            self.code.store(Size::DW, Reg::FP, -8 * word as i32, Src::Imm(value));
        }
        for _ in 0..self.source.between(1, 4) {
            self.step();
        }
        if self.calls.is_empty() && self.source.chance(3, 4) {
            self.call();
        }
        for word in 1..=self.stack {
            self.code.load(Size::DW, Reg::R1, Reg::FP, -8 * word as i32);
            self.mix(Src::Reg(Reg::R1));
        }
        for reg in &KEPT[..kept] {
            self.mix(Src::Reg(*reg));
        }
        self.code.copy(Reg::R0, SUM);
        self.code.push(Insn::Exit);
    }

    /// What was computed changes by `src`, in a way that depends on the order.
    fn mix(&mut self, src: Src) {
        self.code.alu(AluOp::Mul, SUM, Src::Imm(31));
        self.code.alu(AluOp::Xor, SUM, src);
    }

    fn step(&mut self) {
        match self.source.below(8) {
            0..=2 => self.tail_call(),
            3 | 4 => self.call(),
            5 => self.note(),
            6 => {
                // Sometimes; what decides is not known before.
                let skip = self.code.label();
                let (bit, width) = (1 << self.source.below(4), Width::W64);
                let cond = self.source.pick(&[Cond::Set, Cond::Gt, Cond::Slt]);
                self.word(Reg::R1);
                self.code.jump_if(cond, width, Reg::R1, Src::Imm(bit), skip);
                if self.source.chance(1, 2) {
                    self.tail_call()
                } else {
                    self.call()
                }
                self.code.bind(skip);
            }
            _ if self.stack > 0 => {
                let word = self.source.between(1, self.stack) as i32;
                self.code.store(Size::DW, Reg::FP, -8 * word, Src::Reg(SUM));
            }
            _ => self.note(),
        }
    }

    /// A word of the state.
    fn word(&mut self, dst: Reg) {
        let off = 8 * self.source.below(STATE_BYTES / 8);
        self.code.push(Insn::LoadImm64 { dst, value: Imm64::MapIdxValue { idx: STATE as i32, off } });
        self.code.load(Size::DW, dst, dst, 0);
    }

    /// A word of the state takes up what was computed, and the other way round.
    fn note(&mut self) {
        let off = 8 * self.source.below(STATE_BYTES / 8);
        self.code.push(Insn::LoadImm64 { dst: Reg::R1, value: Imm64::MapIdxValue { idx: STATE as i32, off } });
        self.code.load(Size::DW, Reg::R2, Reg::R1, 0);
        self.mix(Src::Reg(Reg::R2));
        self.code.store(Size::DW, Reg::R1, 0, Src::Reg(SUM));
    }

    fn call(&mut self) {
        // No more than two: calls of calls multiply.
        if self.function == self.count || self.calls.len() >= 2 {
            return self.note();
        }
        let next = self.function as u32 + 1;
        let last = if self.source.chance(1, 2) { next } else { self.count as u32 };
        let callee = self.source.between(next, last) as usize;
        self.calls.push(callee);
        self.code.copy(Reg::R1, CTX);
        self.code.call(callee);
        self.mix(Src::Reg(Reg::R0));
    }

    /// By a constant or by a word of the state, at times outside the array.
    fn tail_call(&mut self) {
        if self.source.chance(2, 3) {
            let outside = u32::from(self.source.chance(1, 8));
            let index = self.source.below(self.slots + outside);
            self.code.set(Reg::R3, index as i32);
        } else {
            self.word(Reg::R3);
            if self.source.chance(3, 4) {
                self.code.alu(AluOp::And, Reg::R3, Src::Imm(self.slots.next_power_of_two() as i32 - 1));
            }
        }
        self.code.copy(Reg::R1, CTX);
        self.code.map(Reg::R2, CALLS);
        self.code.helper(id::TAIL_CALL);
        let missed = self.source.below(1 << 16) as i32;
        self.mix(Src::Imm(missed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use livebpf::helper::Table;
    use livebpf::verify::{Options, verify};

    #[test]
    fn graphs_are_taken_and_of_every_size() {
        let helpers = Table::builtin();
        let (mut programs, mut functions, mut sites, mut in_subprograms) = ([0; 6], [0; 6], 0, 0);
        for seed in 0..600 {
            let suite = suite(&mut Source::seeded(seed));
            programs[suite.programs.len()] += 1;
            for program in suite.programs {
                functions[program.subprogs.len()] += 1;
                for (pc, insn) in program.insns.iter() {
                    if matches!(insn, Insn::Call { helper: id::TAIL_CALL }) {
                        sites += 1;
                        in_subprograms += u32::from(pc >= program.subprogs[0].end);
                    }
                }
                if let Err(refused) = verify(program.clone(), &Options::new(&helpers)) {
                    panic!("seed {seed}: {refused}\n{}", program.insns);
                }
            }
        }
        assert!(programs[1..].iter().all(|n| *n > 50) && functions[1..].iter().all(|n| *n > 20), "{functions:?}");
        assert!(sites > 3_000 && in_subprograms * 3 > sites, "{in_subprograms} of {sites}");
    }
}
