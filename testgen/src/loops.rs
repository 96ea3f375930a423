//! Programs whose loops a verifier does not unroll: callbacks that change their caller's stack, walks through maps,
//! iterators, `may_goto`. What they compute in the loops is used as an index, with a check or without.
//!
//! Everything is deterministic when it runs, and ends soon.

use std::sync::Arc;

use livebpf::insn::{Imm64, Insn, Pc, text};
use livebpf::link::{FuncSig, Program, Subprogram, TypeKind};
use livebpf::object::{KFUNCS, MapDef, ProgType, ProgramKind};

use crate::Source;
use crate::border::map;

/// Callbacks of a program, at most.
const MOST_CALLBACKS: usize = 4;
/// Callbacks inside each other, at most.
const DEEPEST: u32 = 3;
/// The numbers that loops change: eight bytes each from fp-32 upwards.
const NUMBERS: u32 = 4;

/// Whether the program contains what the kernel takes with type information only.
pub fn needs_types(program: &Program) -> bool {
    program
        .insns
        .iter()
        .any(|(_, insn)| matches!(insn, Insn::CallKfunc { .. } | Insn::LoadImm64 { value: Imm64::Func { .. }, .. }))
}

/// Whether a run of it may take long though it ends.
pub fn may_be_long(program: &Program) -> bool {
    needs_types(program) || program.insns.iter().any(|(_, insn)| matches!(insn, Insn::MayGoto { .. }))
}

/// Makes a program with the maps of [`crate::border::maps`].
pub fn program(source: &mut Source<'_>, maps_of: &dyn Fn(ProgType) -> Vec<Arc<MapDef>>) -> Program {
    let mut writer = Writer { source, text: String::new(), slots: 0, labels: 0, callbacks: Vec::new(), depth: 0 };
    writer.main();
    let mut starts = vec![("loops".to_owned(), 0)];
    let mut next = 0;
    while let Some(&callback) = writer.callbacks.get(next) {
        starts.push((format!("cb{next}"), writer.slots));
        writer.callback(next, callback);
        next += 1;
    }
    let (listing, slots) = (writer.text, writer.slots);
    let insns = text::assemble(&listing).unwrap_or_else(|e| panic!("{e}\n{listing}"));
    let ends = starts.iter().skip(1).map(|(_, start)| *start).chain([slots]).collect::<Vec<_>>();
    let number = || TypeKind::Int { size: 4, signed: true };
    let function = |((name, start), end): (&(String, u32), u32)| Subprogram {
        name: name.clone(),
        start: Pc(*start),
        end: Pc(end),
        global: *start == 0,
        signature: Some(FuncSig { ret: number(), params: vec![("a".to_owned(), number())], tags: Vec::new() }),
    };
    let subprogs = starts.iter().zip(ends).map(function).collect();
    let bare = Program::bare("loops", ProgramKind::new(ProgType::XDP), insns);
    let kfuncs = KFUNCS.map(str::to_owned).to_vec();
    Program { subprogs, maps: maps_of(ProgType::XDP), kfuncs, ..bare }
}

/// A function that is called back.
#[derive(Clone, Copy)]
struct Callback {
    /// By a walk through this map, else by a loop.
    walks: Option<usize>,
    /// How many are around it.
    depth: u32,
}

struct Writer<'a, 's> {
    source: &'a mut Source<'s>,
    text: String,
    slots: u32,
    labels: u32,
    callbacks: Vec<Callback>,
    /// Of the function that is written.
    depth: u32,
}

impl Writer<'_, '_> {
    fn put(&mut self, line: &str) {
        self.slots += if line.ends_with(':') { 0 } else { 1 + u32::from(line.contains('[')) };
        self.text.push_str(line);
        self.text.push('\n');
    }
    fn all(&mut self, lines: &[&str]) {
        lines.iter().for_each(|line| self.put(line));
    }
    fn label(&mut self) -> String {
        self.labels += 1;
        format!("l{}", self.labels)
    }
    fn number(&mut self) -> u32 {
        8 * self.source.below(NUMBERS)
    }
    fn small(&mut self) -> i32 {
        let any = self.source.between(0, 40) as i32;
        self.source.pick(&[0, 1, 1, 2, 7, 31, 32, 47, 48, 100, -1, any])
    }

    /// The main function: R6 is the address of the numbers.
    fn main(&mut self) {
        self.all(&["r6 = r10", "r6 += -32"]);
        for i in 0..NUMBERS {
            if self.source.chance(1, 3) {
                let (off, mask) = (8 * self.source.below(6), self.source.pick(&[1, 7, 31, 63, -1]));
                self.put(&format!("r1 = map[idx:{}][0]+0", map::SINGLE));
                self.put(&format!("r1 = *(u64 *)(r1 + {off})"));
                if mask > 0 {
                    self.put(&format!("r1 &= {mask}"));
                }
                self.put(&format!("*(u64 *)(r6 + {}) = r1", 8 * i));
            } else {
                let value = self.small();
                self.put(&format!("*(u64 *)(r6 + {}) = {value}", 8 * i));
            }
        }
        self.put("r7 = 0");
        for _ in 0..self.source.between(1, 3) {
            match self.source.below(4) {
                0 => self.iterator(),
                1 => self.may_goto(),
                _ => self.call(),
            }
            if self.source.chance(1, 2) {
                self.statement();
            }
        }
        let last = self.number();
        self.put(&format!("r0 = *(u64 *)(r6 + {last})"));
        self.all(&["r0 &= 255", "exit"]);
    }

    /// R1 index or R2 key and R3 value; the address of the numbers is the last argument.
    fn callback(&mut self, index: usize, callback: Callback) {
        self.depth = callback.depth;
        self.put(&format!("cb{index}:"));
        match callback.walks {
            None => self.all(&["r6 = r2", "r7 = r1"]),
            Some(which) => {
                self.all(&["r6 = r4", "r8 = r2", "r9 = r3", "r7 = *(u32 *)(r8 + 0)"]);
                if self.source.chance(1, 2) {
                    self.put("r7 = *(u32 *)(r9 + 4)");
                }
                if self.source.chance(1, 2) {
                    self.all(&["r1 = *(u32 *)(r9 + 0)", "r1 += 3", "*(u32 *)(r9 + 0) = r1"]);
                }
                if which == map::HASH && self.source.chance(1, 3) {
                    self.put(&format!("r1 = map[idx:{which}]"));
                    self.all(&["r2 = r8", "call bpf_map_delete_elem#3"]);
                }
            }
        }
        for _ in 0..self.source.between(1, 4) {
            self.statement();
        }
        match self.source.below(4) {
            0 => {
                let number = self.number();
                self.put(&format!("r0 = *(u64 *)(r6 + {number})"));
                self.put("r0 &= 1");
            }
            1 => self.put("r0 = 1"),
            _ => self.put("r0 = 0"),
        }
        self.put("exit");
    }

    /// Something with the numbers and R7.
    fn statement(&mut self) {
        let (from, to) = (self.number(), self.number());
        let value = self.small();
        match self.source.below(9) {
            0 | 1 => {
                let op = self.source.pick(&["+=", "+=", "-=", "*=", "&=", "|=", "^=", "%=", "/="]);
                let value = if matches!(op, "%=" | "/=") { value.max(1) } else { value };
                self.put(&format!("r1 = *(u64 *)(r6 + {from})"));
                self.put(&format!("r1 {op} {value}"));
                self.put(&format!("*(u64 *)(r6 + {to}) = r1"));
            }
            2 => self.put(&format!("*(u64 *)(r6 + {to}) = {value}")),
            3 => self.put(&format!("*(u64 *)(r6 + {to}) = r7")),
            4 => {
                self.put(&format!("r1 = *(u64 *)(r6 + {from})"));
                self.put(&format!("r2 = *(u64 *)(r6 + {to})"));
                self.put(&format!("*(u64 *)(r6 + {from}) = r2"));
                self.put(&format!("*(u64 *)(r6 + {to}) = r1"));
            }
            5 => {
                let (out, cond) = (self.label(), self.source.pick(&["==", "!=", ">", "<", "s>", "s<", "&"]));
                self.put(&format!("r1 = *(u64 *)(r6 + {from})"));
                if self.source.chance(1, 3) {
                    self.put(&format!("r2 = *(u64 *)(r6 + {to})"));
                    self.put(&format!("if r1 {cond} r2 goto {out}"));
                } else {
                    self.put(&format!("if r1 {cond} {value} goto {out}"));
                }
                let last = self.number();
                self.put(&format!("*(u64 *)(r6 + {last}) = {}", value / 2));
                self.put(&format!("{out}:"));
            }
            6 | 7 => self.index(from),
            _ if self.depth < DEEPEST => self.call(),
            _ => self.index(to),
        }
    }

    /// A number, or R7, as an index into a value, most often checked.
    fn index(&mut self, number: u32) {
        let out = self.label();
        match self.source.chance(1, 4) {
            true => self.put("r1 = r7"),
            false => self.put(&format!("r1 = *(u64 *)(r6 + {number})")),
        }
        match self.source.below(5) {
            0 => {}
            1 => self.put("r1 &= 31"),
            _ => {
                let limit = self.source.pick(&[0, 1, 7, 31, 47, 47, 48]);
                self.put(&format!("if r1 > {limit} goto {out}"));
            }
        }
        self.put(&format!("r2 = map[idx:{}][0]+0", map::SINGLE));
        self.all(&["r2 += r1", "r3 = *(u8 *)(r2 + 0)"]);
        if self.source.chance(1, 3) {
            self.put(&format!("*(u64 *)(r6 + {number}) = r3"));
        }
        self.put(&format!("{out}:"));
    }

    /// A helper that calls back.
    fn call(&mut self) {
        let walks = self.source.chance(1, 4).then(|| self.source.pick(&[map::ARRAY, map::HASH, map::PERCPU]));
        let room = self.callbacks.len() < MOST_CALLBACKS;
        let fits = |c: &Callback, depth: u32| c.walks == walks && c.depth == depth;
        let depth = self.depth + 1;
        let known = self.callbacks.iter().position(|c| fits(c, depth));
        let index = match known {
            Some(index) if !room || self.source.chance(1, 4) => index,
            _ if room => {
                self.callbacks.push(Callback { walks, depth });
                self.callbacks.len() - 1
            }
            _ => return,
        };
        match walks {
            Some(map) => self.put(&format!("r1 = map[idx:{map}]")),
            None => {
                let count = self.source.pick(&[0, 1, 2, 3, 5, 9]);
                let number = self.number();
                if self.source.chance(1, 4) {
                    self.put(&format!("r1 = *(u64 *)(r6 + {number})"));
                    self.put("r1 &= 7");
                } else {
                    self.put(&format!("r1 = {count}"));
                }
            }
        }
        self.put(&format!("r2 = subprog[cb{index}]"));
        self.all(&["r3 = r6", "r4 = 0"]);
        self.put(if walks.is_some() { "call bpf_for_each_map_elem#164" } else { "call bpf_loop#181" });
        if self.source.chance(1, 4) {
            let number = self.number();
            self.put(&format!("*(u64 *)(r6 + {number}) = r0"));
        }
    }

    /// A loop over an iterator at fp-40.
    fn iterator(&mut self) {
        let (again, out) = (self.label(), self.label());
        let at = ["r1 = r10", "r1 += -40"];
        let first = self.source.between(0, 3) as i32 - 1;
        let last = self.source.pick(&[0, 1, 4, 9]);
        self.all(&at);
        self.put(&format!("r2 = {first}"));
        self.put(&format!("r3 = {last}"));
        self.put("call kfunc:1");
        self.put(&format!("{again}:"));
        self.all(&at);
        self.put("call kfunc:2");
        self.put(&format!("if r0 == 0 goto {out}"));
        self.put("r7 = *(u32 *)(r0 + 0)");
        for _ in 0..self.source.between(1, 3) {
            self.statement();
        }
        self.put(&format!("goto {again}"));
        self.put(&format!("{out}:"));
        self.all(&at);
        self.put("call kfunc:3");
    }

    /// A loop that `may_goto` ends for the verifier, and a number in R9 that nobody knows in truth.
    fn may_goto(&mut self) {
        let (again, out) = (self.label(), self.label());
        self.put(&format!("r9 = map[idx:{}][0]+0", map::SINGLE));
        self.all(&["r9 = *(u64 *)(r9 + 8)", "r9 &= 15"]);
        self.put(&format!("{again}:"));
        self.put(&format!("may_goto {out}"));
        self.put(&format!("if r9 s< 1 goto {out}"));
        self.put("r9 += -1");
        for _ in 0..self.source.between(1, 3) {
            self.statement();
        }
        self.put(&format!("goto {again}"));
        self.put(&format!("{out}:"));
    }
}
