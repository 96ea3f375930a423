//! The functions of the programs: what they do with a dynptr of their caller's, and their calls.

use livebpf::link::{FuncSig, TypeKind};

use super::{Held, MOST_FUNCTIONS, PLACES, Writer};
use crate::border::map;

/// A function that gets a dynptr.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Function {
    /// Uses it.
    Uses,
    /// Uses it, verified on its own.
    Global,
    /// Makes one.
    Makes,
    /// Writes over it.
    Spoils,
    /// Gives its record back.
    Gives,
    /// Uses it, called back by `bpf_loop`.
    Callback,
}

pub(super) fn signature(function: Option<Function>) -> FuncSig {
    let number = || TypeKind::Int { size: 4, signed: true };
    let dynptr = || TypeKind::Ptr(Box::new(TypeKind::Struct { name: "bpf_dynptr".to_owned(), size: 16 }));
    let params = match function {
        None => vec![number()],
        Some(Function::Callback) => vec![number(), dynptr()],
        Some(_) => vec![dynptr()],
    };
    FuncSig { ret: number(), params: params.into_iter().map(|p| ("a".to_owned(), p)).collect(), tags: Vec::new() }
}

impl Writer<'_, '_> {
    /// A function of the program, with a dynptr.
    pub(super) fn call(&mut self) {
        let all = [Function::Uses, Function::Makes, Function::Spoils, Function::Gives];
        let more = [Function::Global, Function::Callback, Function::Callback];
        let wanted =
            if self.plain || self.source.chance(1, 2) { self.source.pick(&all) } else { self.source.pick(&more) };
        let place = match wanted {
            Function::Makes => self.free(),
            Function::Gives => self.place(|held| matches!(held, Held::Record(_))),
            Function::Spoils => self.place(|held| matches!(held, Held::Memory | Held::Packet)),
            Function::Uses | Function::Global | Function::Callback => self.place(|held| held != Held::Nothing),
        };
        let known = self.functions.iter().position(|f| *f == wanted);
        let Some(place) = place.filter(|_| known.is_some() || self.functions.len() < MOST_FUNCTIONS) else { return };
        let index = known.unwrap_or_else(|| {
            self.functions.push(wanted);
            self.functions.len() - 1
        });
        if wanted == Function::Callback {
            let count = self.source.pick(&[0, 1, 3, 7]);
            self.put(&format!("r1 = {count}"));
            self.put(&format!("r2 = subprog[f{index}]"));
            self.at("r3", PLACES[place]);
            self.all(&["r4 = 0", "call bpf_loop#181"]);
        } else {
            self.at("r1", PLACES[place]);
            self.put(&format!("call f{index}"));
        }
        match wanted {
            Function::Gives => self.given(self.places[place]),
            Function::Makes => {
                self.lose(place);
                self.places[place] = Held::Memory;
            }
            Function::Spoils => self.lose(place),
            // It may have written by it.
            Function::Uses | Function::Global | Function::Callback => self.forget_packet(),
        }
    }

    /// What the functions do with the dynptr that they get.
    pub(super) fn function(&mut self, index: usize, function: Function) {
        self.put(&format!("f{index}:"));
        self.put(if function == Function::Callback { "r6 = r2" } else { "r6 = r1" });
        match function {
            Function::Makes => {
                self.put(&format!("r1 = map[idx:{}][0]+8", map::SINGLE));
                self.all(&["r2 = 40", "r3 = 0", "r4 = r6", "call bpf_dynptr_from_mem#197"]);
            }
            Function::Spoils => {
                let off = self.source.pick(&[0, 8, 15]);
                self.put(&format!("*(u8 *)(r6 + {off}) = 0"));
            }
            Function::Gives => self.all(&["r1 = r6", "r2 = 0", "call bpf_ringbuf_submit_dynptr#199"]),
            Function::Uses | Function::Global | Function::Callback => self.uses(),
        }
        if function == Function::Callback && self.slip() {
            self.all(&["r1 = r6", "r2 = 0", "call bpf_ringbuf_submit_dynptr#199"]);
        }
        self.all(&["r0 = 0", "exit"]);
    }

    fn uses(&mut self) {
        self.put("*(u64 *)(r10 - 40) = 3");
        for _ in 0..self.source.between(1, 4) {
            let (off, out) = (self.source.below(20), self.label());
            match if self.plain { self.source.below(3) } else { self.source.below(6) } {
                0 => {
                    self.at("r1", -40);
                    self.put("r2 = 8");
                    self.all(&["r3 = r6", &format!("r4 = {off}"), "r5 = 0", "call bpf_dynptr_read#201"]);
                }
                1 => {
                    self.all(&["r1 = r6", &format!("r2 = {off}")]);
                    self.at("r3", -40);
                    self.all(&["r4 = 8", "r5 = 0", "call bpf_dynptr_write#202"]);
                }
                2 => {
                    self.all(&["r1 = r6", &format!("r2 = {off}"), "r3 = 8", "call bpf_dynptr_data#203"]);
                    self.put(&format!("if r0 == 0 goto {out}"));
                    self.all(&["r1 = *(u64 *)(r0 + 0)", "r1 += 1", "*(u64 *)(r0 + 0) = r1"]);
                }
                3 => {
                    self.put("r1 = r6");
                    self.at("r2", -16);
                    self.put("call kfunc:8");
                    self.at("r1", -16);
                    self.all(&["r2 = 1", "r3 = 9", "call kfunc:4"]);
                    if self.slip() {
                        self.at("r1", -16);
                        self.all(&["r2 = 0", "call bpf_ringbuf_submit_dynptr#199"]);
                    }
                }
                4 => {
                    self.all(&["r1 = r6", &format!("r2 = {off}"), "r3 = 0", "r4 = 8", "call kfunc:9"]);
                    self.put(&format!("if r0 == 0 goto {out}"));
                    self.all(&["r1 = *(u64 *)(r0 + 0)", "*(u64 *)(r10 - 40) = r1"]);
                }
                _ => self.all(&["r1 = r6", "call kfunc:7"]),
            }
            self.put(&format!("{out}:"));
        }
    }
}
