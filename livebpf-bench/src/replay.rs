//! The kernel's way of making tail calls and calls of functions, re-emitted in user space by our own assembler: what its designs cost where
//! nothing guards against bugs of the CPU. A return is a `ret`, an indirect jump a jump.
//!
//! `replay-2020`: the count of tail calls is passed in rax and kept on the stack by value (bpf@vger.kernel.org, July 2020). `replay-6.18`: a
//! pointer to the count of the outermost frame is passed (Linux 6.18, whose prologue tells by the value whether it is one). In
//! both a site is a jump past itself, which is a no-operation while the slot is filled, and a jump to the target. Programs lie one after the
//! other on 64-byte boundaries, as in the kernel's packs, with their dead arguments, as the kernel emits them.

use std::time::Instant;

use livebpf::jit::x64::{Alu, Asm, Cc, Gpr, Label, Mem, Scale, Size};

use crate::error::Error;
use crate::raw::{self, Function};
use crate::sides::{Batch, Runner};
use crate::tail_call::{LIMIT, Way};
use crate::work::{Each, Shape, Work};

/// Which sequences.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Design {
    /// Of the mail of July 2020.
    Mail2020,
    /// Of Linux 6.18.
    Linux618,
}

use Design::{Linux618, Mail2020};

/// Bytes into the kernel's structures: an array's number of slots and its slots, a program's entry.
const MAX: i32 = 0x4c;
const SLOTS: i32 = 0x138;
const ENTRY: i32 = 0x48;
/// From a program's first byte to where tail calls enter it: behind the first four instructions.
const SKIPPED: [(Design, i32); 2] = [(Mail2020, 11), (Linux618, 12)];

/// The sequences of what the work does.
pub fn prepare(design: Design, work: &Work) -> Result<Box<dyn Runner>, Error> {
    let shape = work.shape.ok_or(Error::Lacks("it is about tail calls and calls of functions"))?;
    let mut emitter = Emitter::new(design);
    emitter.programs(shape);
    let Emitter { asm, mut data, starts, .. } = emitter;
    let laid = asm.finish().map_err(|_| Error::Lacks("the code is too large"))?;
    let code = raw::Code::new(&laid.bytes)?;
    for (program, start) in starts.iter().enumerate() {
        data.set_entry(program, code.address() + u64::from(laid.label(*start).unwrap_or(0)));
    }
    Ok(Box::new(Replay { function: code.function(), packet: vec![0; raw::READS], _data: data }))
}

struct Replay {
    function: Function,
    packet: Vec<u8>,
    /// What the code's addresses lead to.
    _data: Data,
}

impl Runner for Replay {
    fn batch(&mut self, runs: u32) -> Result<Batch, Error> {
        let start = Instant::now();
        let answer = self.function.call(runs, &self.packet);
        let ns = start.elapsed().as_nanos() as f64 / f64::from(runs);
        Ok(Batch { ns, wall_ns: ns, answer })
    }
}

/// What the kernel's code reads: an array, the programs in its slots, a global variable that is 0.
struct Data {
    array: Box<[u64]>,
    programs: Box<[[u64; 16]]>,
    zero: Box<u64>,
}

impl Data {
    /// An array with room for a chain.
    fn new() -> Data {
        let slots = LIMIT as usize + 1;
        let mut array = vec![0; SLOTS as usize / 8 + slots].into_boxed_slice();
        // A 32-bit number in the upper half of a word.
        array[MAX as usize / 8] = (slots as u64) << 32;
        Data { array, programs: vec![[0; 16]; slots].into_boxed_slice(), zero: Box::new(0) }
    }

    fn array(&self) -> u64 {
        self.array.as_ptr() as u64
    }

    fn zero(&self) -> u64 {
        std::ptr::from_ref(&*self.zero) as u64
    }

    /// Program `n`, at `address`, is in slot `n`.
    fn set_entry(&mut self, n: usize, address: u64) {
        self.programs[n][ENTRY as usize / 8] = address;
        self.array[SLOTS as usize / 8 + n] = self.programs[n].as_ptr() as u64;
    }
}

/// A program's part in tail calls.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    /// Makes none.
    Leaf,
    /// A main function that makes some, or calls a function that does.
    Main,
    /// A function that makes some.
    Function,
}

struct Emitter {
    design: Design,
    asm: Asm,
    data: Data,
    /// By slot: the first byte of the program in it.
    starts: Vec<Label>,
}

const RAX: Gpr = Gpr::Rax;
const RDX: Gpr = Gpr::Rdx;
const RSI: Gpr = Gpr::Rsi;
const RBP: Gpr = Gpr::Rbp;
const RSP: Gpr = Gpr::Rsp;
/// R6 to R8 of BPF.
const SAVED: [Gpr; 3] = [Gpr::Rbx, Gpr::R13, Gpr::R14];

impl Emitter {
    fn new(design: Design) -> Emitter {
        Emitter { design, asm: Asm::with_capacity(1 << 14, 0), data: Data::new(), starts: Vec::new() }
    }

    /// The program that is run first, at the first byte, and the others.
    fn programs(&mut self, shape: Shape) {
        match shape {
            Shape::Answer(value) => {
                let entry = self.asm.new_label();
                self.prologue(Role::Leaf, &[], entry);
                self.answer(value);
            }
            Shape::Chain { way, hops } => self.chain(way, hops),
            Shape::Itself { way } => self.itself(way),
            Shape::Empty { way, sites } => self.empty(way, sites),
            Shape::Loop { count, each } => self.calls(count, each),
        }
    }

    /// A program begins; who comes by a tail call enters at `entry`, behind the first four instructions.
    fn prologue(&mut self, role: Role, saved: &[Gpr], entry: Label) {
        let asm = &mut self.asm;
        asm.align(64, 0);
        asm.nop(5);
        match (role, self.design) {
            (Role::Main, Mail2020) => asm.alu_rr(Alu::Xor, Size::D, RAX, RAX),
            (Role::Main, Linux618) => asm.alu_rr(Alu::Xor, Size::Q, RAX, RAX),
            (_, Mail2020) => asm.nop(2),
            (_, Linux618) => asm.nop(3),
        }
        asm.push(RBP);
        asm.mov_rr(Size::Q, RBP, RSP);
        asm.bind(entry);
        match (role, self.design) {
            (Role::Leaf, _) => {}
            (_, Mail2020) => asm.push(RAX),
            (Role::Function, Linux618) => {
                asm.push(RAX);
                asm.push(RAX);
            }
            (Role::Main, Linux618) => {
                let (inherited, done) = (asm.new_label(), asm.new_label());
                asm.alu_ri(Alu::Cmp, Size::Q, RAX, LIMIT as i32);
                asm.jcc(Cc::A, inherited);
                asm.push(RAX);
                asm.mov_rr(Size::Q, RAX, RSP);
                asm.jmp(done);
                asm.bind(inherited);
                asm.push(RAX);
                asm.bind(done);
                asm.push(RAX);
            }
        }
        saved.iter().for_each(|register| asm.push(*register));
    }

    /// `r0 = value; exit` of a program that saved nothing.
    fn answer(&mut self, value: u32) {
        self.asm.mov_ri32(RAX, value);
        self.asm.leave();
        self.asm.ret();
    }

    /// Map and index as arguments, which the kernel sets up for direct calls too.
    fn arguments(&mut self, way: Way, index: u32) {
        if way == Way::Indirect {
            self.asm.mov_ri64(RSI, self.data.zero());
            self.asm.mov_rm(Size::D, RDX, Mem::new(RSI, 0));
            self.asm.alu_ri(Alu::Add, Size::Q, RDX, index as i32);
        }
        self.asm.mov_ri64(RSI, self.data.array());
        if way == Way::Direct {
            match index {
                0 => self.asm.alu_rr(Alu::Xor, Size::D, RDX, RDX),
                _ => self.asm.mov_ri32(RDX, index),
            }
        }
    }

    /// Where the count, or the pointer to it, is.
    fn count(&self) -> Mem {
        Mem::new(RBP, if self.design == Mail2020 { -8 } else { -16 })
    }

    /// Leaves for `out` at the limit; in the mail's design the call is counted here.
    fn limit(&mut self, out: Label) {
        let count = self.count();
        match self.design {
            Mail2020 => {
                self.asm.mov_rm(Size::D, RAX, count);
                self.asm.alu_ri(Alu::Cmp, Size::D, RAX, LIMIT as i32 - 1);
                self.asm.jcc(Cc::A, out);
                self.asm.alu_ri(Alu::Add, Size::D, RAX, 1);
                self.asm.mov_mr(Size::D, count, RAX);
            }
            Linux618 => {
                self.asm.mov_rm(Size::Q, RAX, count);
                self.asm.alu_mi(Alu::Cmp, Size::Q, Mem::new(RAX, 0), LIMIT as i32);
                self.asm.jcc(Cc::Ae, out);
            }
        }
    }

    /// The frame as it was at the entry.
    fn unwind(&mut self, saved: &[Gpr]) {
        if self.design == Linux618 {
            self.asm.alu_mi(Alu::Add, Size::Q, Mem::new(RAX, 0), 1);
        }
        saved.iter().rev().for_each(|register| self.asm.pop(*register));
        self.asm.pop(RAX);
        if self.design == Linux618 {
            self.asm.pop(RAX);
        }
    }

    /// A call whose target is known: that of an empty slot where there is none.
    fn direct(&mut self, target: Option<Label>, saved: &[Gpr]) {
        let out = self.asm.new_label();
        self.limit(out);
        match target {
            Some(_) => self.asm.nop(5),
            None => {
                self.asm.jmp_rel32(out);
            }
        }
        self.unwind(saved);
        match target {
            Some(target) => {
                self.asm.jmp_rel32(target);
            }
            None => self.asm.nop(5),
        }
        self.asm.bind(out);
    }

    /// A call whose index is in rdx, and the array in rsi.
    fn indirect(&mut self, saved: &[Gpr]) {
        const RCX: Gpr = Gpr::Rcx;
        let out = self.asm.new_label();
        self.asm.mov_rr(Size::D, RDX, RDX);
        self.asm.alu_rm(Alu::Cmp, Size::D, RDX, Mem::new(RSI, MAX));
        self.asm.jcc(Cc::Ae, out);
        self.limit(out);
        let slot = Mem { base: RSI, index: Some((RDX, Scale::X8)), disp: SLOTS };
        self.asm.mov_rm(Size::Q, RCX, slot);
        self.asm.test_rr(Size::Q, RCX, RCX);
        self.asm.jcc(Cc::E, out);
        self.unwind(saved);
        self.asm.mov_rm(Size::Q, RCX, Mem::new(RCX, ENTRY));
        let skipped = SKIPPED.iter().find(|(design, _)| *design == self.design).map_or(0, |(_, bytes)| *bytes);
        self.asm.alu_ri(Alu::Add, Size::Q, RCX, skipped);
        self.asm.jmp_r(RCX);
        self.asm.bind(out);
    }

    fn tail_call(&mut self, way: Way, index: u32, target: Option<Label>, saved: &[Gpr]) {
        self.arguments(way, index);
        match way {
            Way::Direct => self.direct(target, saved),
            Way::Indirect => self.indirect(saved),
        }
    }

    /// The next program of the array begins here.
    fn start(&mut self) {
        self.asm.align(64, 0);
        let start = self.asm.new_label();
        self.asm.bind(start);
        self.starts.push(start);
    }

    fn chain(&mut self, way: Way, hops: u32) {
        let entries: Vec<Label> = (0..=hops).map(|_| self.asm.new_label()).collect();
        for n in 0..=hops {
            self.start();
            let role = if n == hops { Role::Leaf } else { Role::Main };
            self.prologue(role, &[], entries[n as usize]);
            if n < hops {
                self.tail_call(way, n + 1, Some(entries[n as usize + 1]), &[]);
            }
            self.answer(n);
        }
    }

    fn itself(&mut self, way: Way) {
        let entry = self.asm.new_label();
        self.start();
        self.prologue(Role::Main, &[], entry);
        self.tail_call(way, 0, Some(entry), &[]);
        self.answer(1);
    }

    /// R6 is the context, R7 the index where it is not known: registers that are put back before a jump that is never taken.
    fn empty(&mut self, way: Way, sites: u32) {
        let saved = if way == Way::Direct { &SAVED[..1] } else { &SAVED[..2] };
        let entry = self.asm.new_label();
        self.prologue(Role::Main, saved, entry);
        self.asm.mov_rr(Size::Q, SAVED[0], Gpr::Rdi);
        if way == Way::Indirect {
            self.asm.mov_ri64(RSI, self.data.zero());
            self.asm.mov_rm(Size::D, SAVED[1], Mem::new(RSI, 0));
            self.asm.alu_ri(Alu::Add, Size::Q, SAVED[1], 1);
        }
        for _ in 0..sites {
            self.asm.mov_rr(Size::Q, Gpr::Rdi, SAVED[0]);
            self.asm.mov_ri64(RSI, self.data.array());
            match way {
                Way::Direct => {
                    self.asm.mov_ri32(RDX, 1);
                    self.direct(None, saved);
                }
                Way::Indirect => {
                    self.asm.mov_rr(Size::Q, RDX, SAVED[1]);
                    self.indirect(saved);
                }
            }
        }
        self.asm.mov_ri32(RAX, 1);
        self.end(saved);
    }

    /// Registers back, and `exit`.
    fn end(&mut self, saved: &[Gpr]) {
        saved.iter().rev().for_each(|register| self.asm.pop(*register));
        self.asm.leave();
        self.asm.ret();
    }

    /// R6 is the context or a sum, R7 counts down, R8 is a sum.
    fn calls(&mut self, count: u32, each: Each) {
        let [context, left, sum] = SAVED;
        let [entry, sub, leaf] = [0; 3].map(|_| self.asm.new_label());
        let role = if each == Each::TailCall { Role::Main } else { Role::Leaf };
        self.prologue(role, &SAVED, entry);
        self.asm.mov_rr(Size::Q, context, Gpr::Rdi);
        self.asm.mov_ri32(left, count);
        self.asm.alu_rr(Alu::Xor, Size::D, sum, sum);
        let again = self.asm.new_label();
        self.asm.bind(again);
        match each {
            Each::Adds(number) => self.asm.alu_ri(Alu::Add, Size::Q, sum, number),
            Each::Calls => {
                self.asm.mov_rr(Size::Q, Gpr::Rdi, sum);
                self.asm.call(sub);
                self.asm.mov_rr(Size::Q, sum, RAX);
            }
            Each::TailCall => {
                self.asm.mov_rr(Size::Q, Gpr::Rdi, context);
                let size = if self.design == Mail2020 { Size::D } else { Size::Q };
                let passed = self.count();
                self.asm.mov_rm(size, RAX, passed);
                self.asm.call(sub);
                self.asm.alu_rr(Alu::Add, Size::Q, sum, RAX);
            }
        }
        self.asm.alu_ri(Alu::Sub, Size::Q, left, 1);
        self.asm.test_rr(Size::Q, left, left);
        self.asm.jcc(Cc::Ne, again);
        self.asm.mov_rr(Size::Q, RAX, sum);
        self.end(&SAVED);
        match each {
            Each::Adds(_) => {}
            Each::Calls => self.plus_one(sub),
            Each::TailCall => self.calls_leaf(sub, leaf),
        }
    }

    /// `r0 = r1; r0 += 1; exit` in a function.
    fn plus_one(&mut self, sub: Label) {
        let entry = self.asm.new_label();
        self.asm.align(64, 0);
        self.asm.bind(sub);
        self.prologue(Role::Leaf, &[], entry);
        self.asm.mov_rr(Size::Q, RAX, Gpr::Rdi);
        self.asm.alu_ri(Alu::Add, Size::Q, RAX, 1);
        self.asm.leave();
        self.asm.ret();
    }

    /// A function that calls the program `leaf`, which answers 2.
    fn calls_leaf(&mut self, sub: Label, leaf: Label) {
        let entry = self.asm.new_label();
        self.asm.align(64, 0);
        self.asm.bind(sub);
        self.prologue(Role::Function, &[], entry);
        self.tail_call(Way::Direct, 0, Some(leaf), &[]);
        self.answer(1);
        self.prologue(Role::Leaf, &[], leaf);
        self.answer(2);
    }
}
