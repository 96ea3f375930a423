//! Tail calls in compiled code: sites that can be patched, and all four forms counting, failing and unwinding alike.

mod jit_support;

use std::cell::Cell;
use std::sync::Arc;

use iced_x86::{Decoder, DecoderOptions, FlowControl};
use jit_support::{Exec, bare, cpus, options};
use livebpf::insn::{AluOp, Cond, Imm64, Insn, Insns, Pc, Reg, Size, Src, Width, text};
use livebpf::jit::{self, Code, CpuFeatures, Options, PokeSite, Symbol, TailCalls};
use livebpf::link::{MapId, Program, Subprogram};
use livebpf::object::{MapDef, MapType};
use livebpf::verify::{Known, TailCall, Verified};

const SLOTS: u32 = 5;

fn with_array(insns: Insns, entries: u32) -> Program {
    let mut program = bare(insns);
    program.maps = vec![Arc::new(MapDef::new("jmp_table", MapType::PROG_ARRAY, 4, 4, entries))];
    program
}

fn functions(program: &mut Program, starts: &[u32]) {
    let ends = starts[1..].iter().copied().chain([program.insns.len()]);
    program.subprogs = starts
        .iter()
        .zip(ends)
        .enumerate()
        .map(|(i, (start, end))| Subprogram {
            name: format!("f{i}"),
            start: Pc(*start),
            end: Pc(end),
            global: i == 0,
            signature: None,
        })
        .collect();
}

/// How the tail calls of a test are compiled.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Form {
    Patched,
    Slot,
    Indirect,
    Dynamic,
}

const FORMS: [Form; 4] = [Form::Patched, Form::Slot, Form::Indirect, Form::Dynamic];

/// A program array as native code sees it: the beginning of a map object, and the table.
struct Array {
    header: Box<(Cell<u64>, Cell<u32>, Cell<u32>)>,
    table: Box<[Cell<u64>]>,
    /// Missed calls: past the end, nothing, then empty and limit of each slot.
    missed: Box<[Cell<u64>]>,
}

/// Placed code of one program with one array.
struct Loaded {
    code: Code,
    base: u64,
    array: Array,
    exec: Exec,
}

impl Loaded {
    fn new(program: Program, form: Form) -> Loaded {
        Loaded::counting(program, form, false)
    }
    fn counting(program: Program, form: Form, counts: bool) -> Loaded {
        let verified = Verified::without_proof(program).expect("well-formed");
        let mut facts = verified.facts().clone();
        let change = |fact: &mut Option<Known>| {
            let Some(Known::TailCall(TailCall::Direct { map, .. })) = *fact else { return };
            match form {
                Form::Patched | Form::Slot => {}
                Form::Indirect => *fact = Some(Known::TailCall(TailCall::Indirect { map })),
                Form::Dynamic => *fact = Some(Known::TailCall(TailCall::Dynamic)),
            }
        };
        facts.insns.iter_mut().for_each(|f| change(&mut f.known));
        let verified = Verified::with_facts(verified.program().clone(), facts);
        let tail_calls = if form == Form::Slot { TailCalls::Slots } else { TailCalls::Patched };
        let count_missed = if counts { vec![MapId(0)] } else { Vec::new() };
        let options = Options { tail_calls, count_missed, ..options(cpus()[0]) };
        let code = jit::compile(&verified, &options).expect("compiles");
        let missed: Box<[Cell<u64>]> = (0..2 + 2 * SLOTS).map(|_| Cell::new(0)).collect();
        let table: Box<[Cell<u64>]> = (0..SLOTS).map(|_| Cell::new(0)).collect();
        let header = Box::new((Cell::new(table.as_ptr() as u64), Cell::new(SLOTS), Cell::new(3)));
        let array = Array { header, table, missed };
        let mut exec = Exec::new();
        // The poison: what is reached there fails the test by its result.
        let poison = exec.entry(0, 0) as *const () as u64;
        let base = exec.place(&code, |symbol| match symbol {
            Symbol::Map(MapId(0)) => &raw const *array.header as u64,
            Symbol::SlotTable(MapId(0)) => array.table.as_ptr() as u64,
            Symbol::Missed(MapId(0)) => array.missed[2..].as_ptr() as u64,
            Symbol::Poison => poison,
            other => panic!("{other:?}"),
        });
        Loaded { code, base, array, exec }
    }
    /// The same where the call at `pc` is said to be of another form; it counts.
    fn with_fact(program: Program, pc: Pc, form: TailCall) -> Loaded {
        let mut loaded = Loaded::counting(program.clone(), Form::Patched, true);
        let verified = Verified::without_proof(program).expect("well-formed");
        let mut facts = verified.facts().clone();
        facts.insns[pc.index()].known = Some(Known::TailCall(form));
        let verified = Verified::with_facts(verified.program().clone(), facts);
        let options = Options { count_missed: vec![MapId(0)], ..options(cpus()[0]) };
        loaded.code = jit::compile(&verified, &options).expect("compiles");
        let (header, missed) = (&raw const *loaded.array.header as u64, loaded.array.missed[2..].as_ptr() as u64);
        let resolve = |symbol| if symbol == Symbol::Missed(MapId(0)) { missed } else { header };
        loaded.base = loaded.exec.place(&loaded.code, resolve);
        loaded
    }
    /// Puts the program itself into a slot: the table, the targets, the bypasses.
    fn insert_self(&mut self, index: u32) {
        let tail_entry = self.base + u64::from(self.code.tail_entry);
        self.array.table[index as usize].set(tail_entry);
        for site in self.code.sites.iter().filter(|s| s.index == index) {
            let [bypass, target] = [site.bypass_field(), site.target_field()].map(|at| self.base + u64::from(at));
            self.exec.patch(target, tail_entry.wrapping_sub(target + 4) as i32);
            self.exec.patch_byte(bypass, PokeSite::OPEN as u8);
        }
    }
    /// Missed calls counted since the last time: past the end, and of one slot the two kinds; none of any other.
    fn missed(&mut self, index: u32) -> (u64, u64, u64) {
        let counts: Vec<u64> = self.array.missed.iter().map(Cell::take).collect();
        let (empty, limit) = (counts[2 + 2 * index as usize], counts[3 + 2 * index as usize]);
        assert_eq!(counts.iter().sum::<u64>(), counts[0] + empty + limit, "{counts:?}");
        (counts[0], empty, limit)
    }
    /// Runs it on a block of words with a count of `count` to begin with.
    fn run(&mut self, words: &mut [u64], count: u32) -> u64 {
        let entry = self.base + u64::from(self.code.entry);
        self.exec.entry(entry, count)(words.as_mut_ptr() as u64, 0, 0, 0, 0)
    }
}

/// Counts its bodies in word 0, uses a stack and callee-saved registers, calls itself through slot 2.
fn looping() -> Program {
    let listing = "r6 = r1
        r9 = 77
        *(u64 *)(r10 - 8) = r9
        r0 = *(u64 *)(r1 + 0)
        r0 += 1
        *(u64 *)(r1 + 0) = r0
        r2 = map[idx:0]
        r3 = 2
        call 12
        r0 = *(u64 *)(r10 - 8)
        r0 += r9
        r1 = *(u64 *)(r6 + 0)
        r0 += r1
        exit";
    with_array(text::assemble(listing).expect("assembles"), SLOTS)
}

#[test]
fn thirty_three_succeed() {
    for form in FORMS {
        let mut loaded = Loaded::new(looping(), form);
        assert_eq!(loaded.code.sites.len(), usize::from(form == Form::Patched));
        let mut words = [0];
        assert_eq!((loaded.run(&mut words, 0), words[0]), (154 + 1, 1), "{form:?}: the slot is empty");
        loaded.insert_self(1);
        let mut words = [0];
        assert_eq!((loaded.run(&mut words, 0), words[0]), (154 + 1, 1), "{form:?}: another slot is not");
        loaded.insert_self(2);
        for (count, bodies) in [(0, 34), (1, 33), (32, 2), (33, 1), (40, 1)] {
            let mut words = [0];
            assert_eq!((loaded.run(&mut words, count), words[0]), (154 + bodies, bodies), "{form:?} from {count}");
        }
    }
}

/// main calls a subprogram that tail-calls main: callers' frames stay, the count is consumed for all of them.
#[test]
fn from_a_subprogram() {
    let listing = "r6 = r1
        r0 = *(u64 *)(r1 + 0)
        r0 += 1
        *(u64 *)(r1 + 0) = r0
        r8 = r0
        *(u64 *)(r10 - 16) = r0
        call pc+5
        r1 = *(u64 *)(r10 - 16)
        if r1 != r8 goto pc+1
        exit
        r0 = -1
        exit
        r7 = 5
        r2 = map[idx:0]
        r3 = 2
        call 12
        r0 = 9
        exit";
    for form in FORMS {
        let mut program = with_array(text::assemble(listing).expect("assembles"), SLOTS);
        functions(&mut program, &[0, 12]);
        let mut loaded = Loaded::new(program, form);
        let mut words = [0];
        assert_eq!((loaded.run(&mut words, 0), words[0]), (9, 1), "{form:?}: empty");
        loaded.insert_self(2);
        let mut words = [0];
        assert_eq!((loaded.run(&mut words, 0), words[0]), (9, 34), "{form:?}");
    }
}

/// A miss is counted by its reason, the limit before the slot; a call that succeeds counts nowhere.
#[test]
fn missed_calls_are_counted() {
    for form in FORMS {
        let mut loaded = Loaded::counting(looping(), form, true);
        let run = |loaded: &mut Loaded, count| {
            let mut words = [0];
            let result = loaded.run(&mut words, count);
            assert_eq!(result, 154 + words[0], "{form:?} from {count}");
            (words[0], loaded.missed(2))
        };
        assert_eq!(run(&mut loaded, 0), (1, (0, 1, 0)), "{form:?}: the slot is empty");
        assert_eq!(run(&mut loaded, 33), (1, (0, 0, 1)), "{form:?}: and the limit is reached");
        loaded.insert_self(2);
        assert_eq!(run(&mut loaded, 0), (34, (0, 0, 1)), "{form:?}");
        assert_eq!(run(&mut loaded, 33), (1, (0, 0, 1)), "{form:?}");
    }
}

/// Indices as above; also one that is known to be past the end.
#[test]
fn missed_calls_are_counted_by_index() {
    let unknown = "r3 = *(u64 *)(r1 + 0)
        r0 = 1000
        r2 = map[idx:0]
        call 12
        exit";
    let known = "r3 = 5
        r0 = 1000
        r2 = map[idx:0]
        call 12
        exit";
    let program = |listing| with_array(text::assemble(listing).expect("assembles"), SLOTS);
    for form in [Form::Indirect, Form::Dynamic] {
        let mut loaded = Loaded::counting(program(unknown), Form::Patched, true);
        if form == Form::Dynamic {
            loaded = Loaded::with_fact(program(unknown), Pc(4), TailCall::Dynamic);
        }
        for (index, slot, count, missed) in [
            (0, 0, 0, (0, 1, 0)),
            (4, 4, 0, (0, 1, 0)),
            (4, 4, 33, (0, 0, 1)),
            (1 << 32 | 3, 3, 0, (0, 1, 0)),
            (5, 0, 0, (1, 0, 0)),
            (u64::MAX, 0, 33, (1, 0, 0)),
        ] {
            assert_eq!(loaded.run(&mut [index], count), 1000, "{form:?} {index:#x}");
            assert_eq!(loaded.missed(slot), missed, "{form:?} {index:#x} from {count}");
        }
    }
    for form in [Form::Patched, Form::Slot] {
        let mut loaded = Loaded::counting(program(known), form, true);
        for count in [0, 33] {
            assert_eq!(loaded.run(&mut [0], count), 1000, "{form:?}");
            assert_eq!(loaded.missed(0), (1, 0, 0), "{form:?} from {count}");
        }
    }
}

/// Removes the counting code: what is left of a site is what it is without, but for the distances of its jumps.
#[test]
fn counting_leaves_the_way_of_a_successful_call_alone() {
    for form in FORMS {
        let [plain, counting] = [false, true].map(|counts| Loaded::counting(looping(), form, counts).code);
        assert!(counting.bytes.len() >= plain.bytes.len() + 29, "{form:?}");
        let way = |code: &Code| {
            let start = code.lines.iter().find(|(_, pc)| *pc == Pc(9)).expect("the call").0 as usize;
            let site = &code.bytes[start..];
            // Until the way of a successful call has left the program.
            let mut open = true;
            let insns = Decoder::new(64, site, DecoderOptions::NONE).into_iter();
            let until = insns.take_while(|insn| {
                let go_on = open;
                let at = (start as u64 + insn.ip()) as u32;
                let leaves =
                    insn.flow_control() == FlowControl::IndirectBranch || code.sites.iter().any(|s| s.target == at);
                open &= !leaves;
                go_on
            });
            let mut bytes = Vec::new();
            for insn in until {
                let insn_bytes = &site[insn.ip() as usize..insn.next_ip() as usize];
                let opcode = if insn.is_jmp_short_or_near() || insn.is_jcc_short_or_near() { 1 } else { insn.len() };
                bytes.push((insn.len(), insn_bytes[..opcode].to_vec()));
            }
            bytes
        };
        assert!(way(&plain).len() >= 7, "{form:?}: {:02x?}", way(&plain));
        assert_eq!(way(&plain), way(&counting), "{form:?}");
    }
}

/// The index is taken as 32 bits and checked; what fails leaves R0 to R9 as they were, and no address in R1 to R5.
#[test]
fn indices_and_what_a_failure_leaves() {
    let listing = "r6 = r1
        r3 = *(u64 *)(r1 + 8)
        r0 = 1000
        r4 = 44
        r5 = 55
        r2 = map[idx:0]
        call 12
        *(u64 *)(r6 + 16) = r1
        *(u64 *)(r6 + 24) = r3
        *(u64 *)(r6 + 32) = r4
        *(u64 *)(r6 + 40) = r5
        exit";
    for form in [Form::Indirect, Form::Dynamic] {
        let program = with_array(text::assemble(listing).expect("assembles"), SLOTS);
        let verified = Verified::without_proof(program.clone()).expect("well-formed");
        assert_eq!(verified.facts().at(Pc(7)).tail_call(), Some(TailCall::Indirect { map: MapId(0) }));
        let mut facts = verified.facts().clone();
        if form == Form::Dynamic {
            facts.insns[7].known = Some(Known::TailCall(TailCall::Dynamic));
        }
        let mut loaded = Loaded::new(program, Form::Patched);
        let code = jit::compile(&Verified::with_facts(verified.program().clone(), facts), &options(cpus()[0]))
            .expect("compiles");
        let (header, table) = (&raw const *loaded.array.header as u64, loaded.array.table.as_ptr() as u64);
        loaded.base = loaded.exec.place(&code, |s| if s == Symbol::Map(MapId(0)) { header } else { table });
        loaded.code = code;
        for index in [0, 4, 5, 6, 1 << 31, 0xffff_ffff, 1 << 32, u64::MAX] {
            let mut words = [0, index, 0, 0, 0, 0];
            let words_at = words.as_ptr() as u64;
            assert_eq!(loaded.run(&mut words, 0), 1000, "{form:?} {index:#x}");
            assert_eq!(words[2..], [words_at, index, 44, 55], "{form:?} {index:#x}");
        }
        // A leaf in slot 3: `mov eax, 5 ; leave ; ret`, entered as a tail entry is.
        let leaf =
            Verified::without_proof(bare(text::assemble("r0 = 5\nexit").expect("assembles"))).expect("well-formed");
        let leaf = jit::compile(&leaf, &options(cpus()[0])).expect("compiles");
        let at = loaded.exec.place(&leaf, |_| 0) + u64::from(leaf.tail_entry);
        loaded.array.table[3].set(at);
        for (index, want) in [(3, 5), (2, 1000), (1 << 32 | 3, 5), (SLOTS.into(), 1000)] {
            assert_eq!(loaded.run(&mut [0, index, 0, 0, 0, 0], 0), want, "{form:?} {index:#x}");
        }
    }
}

/// Small random programs with tail calls in every function.
fn random_program(random: &mut impl FnMut(u64) -> u64) -> (Program, Vec<u32>) {
    let mut insns = Vec::new();
    let mut starts = Vec::new();
    let funcs = 1 + random(4);
    for func in 0..funcs {
        starts.push(insns.iter().map(Insn::slots).sum());
        for r in [Reg::R0, Reg::R6, Reg::R7, Reg::R8, Reg::R9].into_iter().take(1 + random(5) as usize) {
            insns.push(Insn::Mov { width: Width::W64, dst: r, src: Src::Imm(random(300) as i32) });
        }
        for _ in 0..random(12) {
            match random(5) {
                0 => insns.push(Insn::Alu {
                    op: AluOp::Add,
                    width: Width::W64,
                    dst: Reg::R0,
                    src: Src::Imm(random(1000) as i32),
                }),
                1 => insns.push(Insn::Store { size: Size::W, base: Reg::R10, off: -4, src: Src::Imm(1) }),
                // Over the tail call that follows: near ones and, over the padding instructions, far ones.
                2 => {
                    let far = random(60) as i16;
                    let imm = random(9) as i32;
                    insns.push(Insn::Jmp {
                        cond: Cond::Eq,
                        width: Width::W64,
                        dst: Reg::R0,
                        src: Src::Imm(imm),
                        off: far,
                    });
                    insns.extend((0..far).map(|i| Insn::Alu {
                        op: AluOp::Xor,
                        width: Width::W64,
                        dst: Reg::R0,
                        src: Src::Imm(i.into()),
                    }));
                }
                _ => {
                    let index = random(SLOTS.into()) as i32;
                    insns.push(Insn::LoadImm64 { dst: Reg::R2, value: Imm64::MapIdx(0) });
                    insns.push(Insn::Mov { width: Width::W32, dst: Reg::R3, src: Src::Imm(index) });
                    insns.push(Insn::Call { helper: livebpf::helper::id::TAIL_CALL });
                }
            }
        }
        if func + 1 < funcs {
            // Slots up to the next function: the call itself and the exit behind it.
            insns.push(Insn::CallSubprog { off: 1 });
        }
        insns.push(Insn::Exit);
    }
    (with_array(Insns::from_vec(insns), SLOTS), starts)
}

/// Every branch leads to the start of an instruction.
fn check_shape(code: &Code) {
    let insns: Vec<_> = Decoder::new(64, &code.bytes, DecoderOptions::NONE).iter().collect();
    assert!(insns.iter().all(|i| !i.is_invalid()));
    let starts: Vec<u64> = insns.iter().map(|i| i.ip()).collect();
    for insn in insns
        .iter()
        .filter(|i| matches!(i.flow_control(), FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch))
    {
        assert!(starts.binary_search(&insn.near_branch_target()).is_ok(), "{insn} leads into an instruction");
    }
    for (offset, _) in &code.lines {
        assert!(starts.binary_search(&u64::from(*offset)).is_ok());
    }
}

/// C14.
#[test]
fn sites_are_aligned() {
    let mut seed = 1u64;
    let mut random = |n: u64| {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (seed >> 33) % n
    };
    let mut sites = 0;
    for _ in 0..3000 {
        let (mut program, starts) = random_program(&mut random);
        functions(&mut program, &starts);
        let mut facts = Verified::without_proof(program.clone()).expect("well-formed").facts().clone();
        facts.funcs.iter_mut().for_each(|f| f.stack_depth = [0, 4, 8, 120, 512][random(5) as usize]);
        let verified = Verified::with_facts(program, facts);
        let cpu = CpuFeatures { bmi2: random(2) == 0, movbe: false };
        let code =
            jit::compile(&verified, &Options { helpers_near: random(2) == 0, ..options(cpu) }).expect("compiles");
        check_shape(&code);
        for site in &code.sites {
            sites += 1;
            assert_eq!(site.target_field() % 4, 0, "{site:?}");
            let (bypass, target) = (site.bypass as usize, site.target as usize);
            assert_eq!(code.bytes[bypass..bypass + 4], [0x41, 0x83, 0xfc, 0], "closed at first");
            assert_eq!(code.bytes[target], 0xe9);
            let reloc = code.relocs.iter().find(|r| r.at == site.target_field()).expect("a relocation");
            assert_eq!(reloc.symbol, Symbol::Poison);
        }
    }
    assert!(sites > 10_000, "{sites} sites");
}
