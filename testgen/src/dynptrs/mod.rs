//! Programs about what is held and what belongs to it: dynptrs, their clones and slices, in functions and callbacks, and locks
//! in map values. Most is done right; now and then something is used after its end, written over, forgotten, or reached past.
//!
//! What a place or register holds is followed by kind only, as in [`crate::border`]. Everything ends soon.

mod functions;

use std::sync::Arc;

use livebpf::insn::{Pc, text};
use livebpf::link::{Program, Subprogram};
use livebpf::object::{KFUNCS, MapDef, ProgType, ProgramKind};

use crate::Source;
use crate::border::{TYPES, map};
use functions::{Function, signature};

/// Where dynptrs lie, from the frame pointer. The last one overlaps two others.
const PLACES: [i32; 4] = [-16, -32, -48, -24];
/// Where numbers lie: eight bytes each.
const NUMBERS: [i32; 6] = [-64, -72, -80, -88, -96, -104];
/// Registers for slices.
const KEPT: [&str; 3] = ["r7", "r8", "r9"];
/// Functions of a program, at most.
const MOST_FUNCTIONS: usize = 3;

/// What a place holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Held {
    Nothing,
    Memory,
    /// One of the records, by number.
    Record(u32),
    Packet,
}

/// What a register holds: so many bytes, of the dynptr at a place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Slice {
    bytes: u32,
    write: bool,
    of: Held,
    place: usize,
}

/// Makes a program with the maps of [`crate::border::maps`].
pub fn program(source: &mut Source<'_>, maps_of: &dyn Fn(ProgType) -> Vec<Arc<MapDef>>) -> Program {
    let prog_type = source.pick(&TYPES);
    let mut writer = Writer {
        plain: source.chance(1, 2),
        source,
        prog_type,
        text: String::new(),
        slots: 0,
        labels: 0,
        records: 0,
        places: [Held::Nothing; 4],
        kept: [None; 3],
        functions: Vec::new(),
    };
    writer.main();
    let mut starts = vec![("dynptrs".to_owned(), 0, None)];
    let mut next = 0;
    while let Some(&function) = writer.functions.get(next) {
        starts.push((format!("f{next}"), writer.slots, Some(function)));
        writer.function(next, function);
        next += 1;
    }
    let (listing, slots) = (writer.text, writer.slots);
    let insns = text::assemble(&listing).unwrap_or_else(|e| panic!("{e}\n{listing}"));
    let ends = starts.iter().skip(1).map(|(_, start, _)| *start).chain([slots]).collect::<Vec<_>>();
    let subprogs = starts.iter().zip(ends).map(|((name, start, function), end)| Subprogram {
        name: name.clone(),
        start: Pc(*start),
        end: Pc(end),
        global: matches!(function, None | Some(Function::Global)),
        signature: Some(signature(*function)),
    });
    let bare = Program::bare("dynptrs", ProgramKind::new(prog_type), insns);
    let kfuncs = KFUNCS.map(str::to_owned).to_vec();
    Program { subprogs: subprogs.collect(), maps: maps_of(prog_type), kfuncs, license: "GPL".to_owned(), ..bare }
}

struct Writer<'a, 's> {
    source: &'a mut Source<'s>,
    /// No kernel functions: then the kernel can be asked without type information.
    plain: bool,
    prog_type: ProgType,
    text: String,
    slots: u32,
    labels: u32,
    records: u32,
    places: [Held; 4],
    kept: [Option<Slice>; 3],
    functions: Vec<Function>,
}

impl Writer<'_, '_> {
    fn put(&mut self, line: &str) {
        let two = line.contains('[') || line.ends_with(" ll");
        self.slots += if line.ends_with(':') { 0 } else { 1 + u32::from(two) };
        self.text.push_str(&line.replace("+ -", "- "));
        self.text.push('\n');
    }
    fn all(&mut self, lines: &[&str]) {
        lines.iter().for_each(|line| self.put(line));
    }
    fn label(&mut self) -> String {
        self.labels += 1;
        format!("l{}", self.labels)
    }
    /// True where something is to be done wrong.
    fn slip(&mut self) -> bool {
        self.source.chance(1, 60)
    }
    /// `reg` points so far below the frame pointer.
    fn at(&mut self, reg: &str, off: i32) {
        self.put(&format!("{reg} = r10"));
        self.put(&format!("{reg} += {off}"));
    }
    fn number(&mut self) -> i32 {
        self.source.pick(&NUMBERS)
    }
    /// `reg` holds a number: a small one, or one from the stack, cut down or not.
    fn value(&mut self, reg: &str, most: u32) {
        match self.source.below(5) {
            0 | 1 => {
                let value = self.source.below(most + 2);
                self.put(&format!("{reg} = {value}"));
            }
            2 => self.put(&format!("{reg} = 0")),
            other => {
                let (from, mask) = (self.number(), self.source.pick(&[7, 15, 31]));
                self.put(&format!("{reg} = *(u64 *)(r10 + {from})"));
                if other == 3 {
                    self.put(&format!("{reg} &= {mask}"));
                }
            }
        }
    }
    /// A place that holds what is wanted; any at times.
    fn place(&mut self, wanted: impl Fn(Held) -> bool) -> Option<usize> {
        if self.slip() {
            return Some(self.source.below(4) as usize);
        }
        let found: Vec<usize> = (0..4).filter(|i| wanted(self.places[*i])).collect();
        (!found.is_empty()).then(|| self.source.pick(&found))
    }
    /// Whatever belongs to what lies there is gone.
    fn lose(&mut self, place: usize) {
        let overlaps = |other: usize| (PLACES[place] - PLACES[other]).abs() < 16;
        for other in (0..4).filter(|other| overlaps(*other)) {
            if !matches!(self.places[other], Held::Record(_)) && !self.slip() {
                for kept in &mut self.kept {
                    kept.take_if(|slice| slice.place == other);
                }
            }
            self.places[other] = Held::Nothing;
        }
    }
    /// A place for a new dynptr: free of records.
    fn free(&mut self) -> Option<usize> {
        let held = |other: usize| matches!(self.places[other], Held::Record(_));
        let apart = |a: usize, b: usize| (PLACES[a] - PLACES[b]).abs() >= 16;
        let free: Vec<usize> = (0..4).filter(|i| (0..4).all(|j| !held(j) || apart(*i, j))).collect();
        if self.slip() {
            return Some(self.source.below(4) as usize);
        }
        (!free.is_empty()).then(|| self.source.pick(&free))
    }

    fn main(&mut self) {
        self.put("r6 = r1");
        for off in NUMBERS {
            let value = self.source.below(50);
            match self.source.below(3) {
                0 => {
                    let from = 8 * self.source.below(6);
                    self.put(&format!("r1 = map[idx:{}][0]+0", map::SINGLE));
                    self.put(&format!("r1 = *(u64 *)(r1 + {from})"));
                    self.put(&format!("*(u64 *)(r10 + {off}) = r1"));
                }
                _ => self.put(&format!("*(u64 *)(r10 + {off}) = {value}")),
            }
        }
        for _ in 0..self.source.between(3, 14) {
            self.step(0);
        }
        for place in 0..4 {
            if matches!(self.places[place], Held::Record(_)) && !self.slip() {
                self.give(place);
            }
        }
        let last = self.number();
        self.put(&format!("r0 = *(u64 *)(r10 + {last})"));
        self.all(&["r0 &= 1", "exit"]);
    }

    fn step(&mut self, depth: u32) {
        match self.source.below(26) {
            0..=3 => self.memory(),
            4 | 5 => self.record(),
            6 | 7 => self.packet(),
            8..=10 => self.read_or_write(),
            11..=14 => self.slice(),
            15..=17 => self.touch(),
            18 => self.ask(),
            19 => self.clone(),
            20 => self.end(),
            21 => self.write_over(),
            22 => self.move_packet(),
            23 if depth < 2 => self.diamond(depth),
            24 => self.lock(),
            _ => self.call(),
        }
    }

    /// A dynptr of memory in a map's value.
    fn memory(&mut self) {
        let Some(place) = self.free() else { return };
        let locked = self.source.chance(1, 6) && self.prog_type != ProgType::SOCKET_FILTER;
        let (idx, first, bytes) = if locked { (map::LOCKED, 12, 24) } else { (map::SINGLE, 0, 48) };
        let off = first + self.source.below(if locked { 12 } else { 40 });
        let off = if locked && self.slip() { 4 } else { off };
        self.put(&format!("r1 = map[idx:{idx}][0]+{off}"));
        let most = bytes - off + u32::from(self.slip());
        if self.source.chance(1, 3) && most > 7 {
            let from = self.number();
            self.put(&format!("r2 = *(u64 *)(r10 + {from})"));
            self.put(&format!("r2 &= {}", if most > 31 { 31 } else { 7 }));
        } else {
            self.put(&format!("r2 = {most}"));
        }
        let flags = u32::from(self.source.chance(1, 12));
        self.put(&format!("r3 = {flags}"));
        self.at("r4", PLACES[place]);
        self.put("call bpf_dynptr_from_mem#197");
        self.lose(place);
        self.places[place] = Held::Memory;
    }

    fn record(&mut self) {
        let Some(place) = self.free() else { return };
        self.put(&format!("r1 = map[idx:{}]", map::RING));
        self.value("r2", 64);
        self.put("r3 = 0");
        self.at("r4", PLACES[place]);
        self.put("call bpf_ringbuf_reserve_dynptr#198");
        self.lose(place);
        self.records += 1;
        self.places[place] = Held::Record(self.records);
    }

    fn packet(&mut self) {
        let Some(place) = self.free().filter(|_| !self.plain) else { return self.memory() };
        let number = if self.prog_type == ProgType::XDP { 12 } else { 11 };
        self.put("r1 = r6");
        self.put("r2 = 0");
        self.at("r3", PLACES[place]);
        self.put(&format!("call kfunc:{number}"));
        self.lose(place);
        self.places[place] = Held::Packet;
    }

    fn read_or_write(&mut self) {
        let Some(place) = self.place(|held| held != Held::Nothing) else { return self.memory() };
        let slot = self.source.below(5) as usize + 1;
        let bytes = self.source.pick(&[8, 4, 1, 8 * slot as u32]).min(8 * slot as u32) + u32::from(self.slip());
        if self.source.chance(1, 2) {
            self.at("r1", NUMBERS[slot]);
            self.put(&format!("r2 = {bytes}"));
            self.at("r3", PLACES[place]);
            self.value("r4", 48);
            self.put("r5 = 0");
            self.put("call bpf_dynptr_read#201");
        } else {
            self.at("r1", PLACES[place]);
            self.value("r2", 48);
            self.at("r3", NUMBERS[slot]);
            self.put(&format!("r4 = {bytes}"));
            self.put("r5 = 0");
            self.put("call bpf_dynptr_write#202");
            if self.prog_type != ProgType::XDP && self.places[place] == Held::Packet {
                self.forget_packet();
            }
        }
        if self.source.chance(1, 3) {
            let to = self.number();
            self.put(&format!("*(u64 *)(r10 + {to}) = r0"));
        }
    }

    fn forget_packet(&mut self) {
        if self.slip() {
            return;
        }
        for kept in &mut self.kept {
            kept.take_if(|slice| slice.of == Held::Packet);
        }
    }

    /// A slice, in one of the registers that stay.
    fn slice(&mut self) {
        let Some(place) = self.place(|held| held != Held::Nothing) else { return self.memory() };
        let bytes = self.source.pick(&[8, 1, 4, 14, 16, 20]);
        let of = self.places[place];
        self.at("r1", PLACES[place]);
        self.value("r2", 24);
        let direct = matches!(self.prog_type, ProgType::XDP | ProgType::SCHED_CLS);
        let way = if self.plain { 0 } else { self.source.below(3) };
        match way {
            0 => {
                self.put(&format!("r3 = {bytes}"));
                self.put("call bpf_dynptr_data#203");
            }
            _ => {
                if self.source.chance(1, 3) {
                    self.at("r3", NUMBERS[2]);
                } else {
                    self.put("r3 = 0");
                }
                self.put(&format!("r4 = {bytes}"));
                let write = way == 1 && (direct || self.slip());
                self.put(if write { "call kfunc:10" } else { "call kfunc:9" });
            }
        }
        let write = way == 0 || way == 1 && direct;
        let reg = self.source.below(3) as usize;
        self.put(&format!("{} = r0", KEPT[reg]));
        self.kept[reg] = Some(Slice { bytes, write, of, place });
        self.touch_one(reg);
    }

    fn touch(&mut self) {
        let found: Vec<usize> = (0..3).filter(|i| self.kept[*i].is_some()).collect();
        if found.is_empty() {
            return self.slice();
        }
        let reg = self.source.pick(&found);
        self.touch_one(reg);
    }

    /// An access at the edge of a slice, where it is not null.
    fn touch_one(&mut self, reg: usize) {
        let Some(slice) = self.kept[reg] else { return };
        let (name, out) = (KEPT[reg], self.label());
        if !self.slip() {
            self.put(&format!("if {name} == 0 goto {out}"));
        }
        let (size, bytes) = self.source.pick(&[("u8", 1), ("u32", 4), ("u64", 8), ("u16", 2)]);
        if bytes <= slice.bytes {
            let last = slice.bytes - bytes;
            let off = if self.slip() { last + 1 } else { self.source.pick(&[last, 0]) };
            let to = self.number();
            if (slice.write || self.slip()) && self.source.chance(1, 2) {
                self.put(&format!("r1 = *(u64 *)(r10 + {to})"));
                self.put(&format!("*({size} *)({name} + {off}) = r1"));
            } else {
                self.put(&format!("r1 = *({size} *)({name} + {off})"));
                self.put(&format!("*(u64 *)(r10 + {to}) = r1"));
            }
        }
        self.put(&format!("{out}:"));
    }

    fn ask(&mut self) {
        let Some(place) = self.place(|held| held != Held::Nothing).filter(|_| !self.plain) else { return };
        self.at("r1", PLACES[place]);
        let number = self.source.pick(&[4, 4, 5, 6, 7]);
        if number == 4 {
            self.value("r2", 16);
            self.value("r3", 40);
        }
        self.put(&format!("call kfunc:{number}"));
        let to = self.number();
        self.put(&format!("*(u64 *)(r10 + {to}) = r0"));
    }

    fn clone(&mut self) {
        let from = self.place(|held| held != Held::Nothing).filter(|_| !self.plain);
        let (Some(from), Some(to)) = (from, self.free()) else { return };
        self.at("r1", PLACES[from]);
        self.at("r2", PLACES[to]);
        self.put("call kfunc:8");
        let held = self.places[from];
        self.lose(to);
        self.places[to] = held;
    }

    /// A record is given back.
    fn end(&mut self) {
        if let Some(place) = self.place(|held| matches!(held, Held::Record(_))) {
            self.give(place);
        }
    }

    fn give(&mut self, place: usize) {
        self.at("r1", PLACES[place]);
        self.put("r2 = 0");
        let way = self.source.pick(&["call bpf_ringbuf_submit_dynptr#199", "call bpf_ringbuf_discard_dynptr#200"]);
        self.put(way);
        self.given(self.places[place]);
    }

    /// The clones and slices of a record are gone with it.
    fn given(&mut self, record: Held) {
        if self.slip() {
            return;
        }
        for held in &mut self.places {
            if *held == record {
                *held = Held::Nothing;
            }
        }
        for kept in &mut self.kept {
            kept.take_if(|slice| slice.of == record);
        }
    }

    fn write_over(&mut self) {
        let Some(place) = self.place(|held| matches!(held, Held::Memory | Held::Packet)) else { return };
        let off = PLACES[place] + self.source.pick(&[0, 8, 4, 15]);
        self.put(&format!("*(u8 *)(r10 + {off}) = 1"));
        self.lose(place);
    }

    fn move_packet(&mut self) {
        let call = match self.prog_type {
            ProgType::XDP => self.source.pick(&["call bpf_xdp_adjust_head#44", "call bpf_xdp_adjust_tail#65"]),
            ProgType::SCHED_CLS => self.source.pick(&["call bpf_skb_pull_data#39", "call bpf_skb_change_tail#38"]),
            _ => return self.touch(),
        };
        self.all(&["r1 = r6", "r2 = *(u64 *)(r10 - 64)", "r2 &= 31"]);
        if self.source.chance(1, 2) {
            self.put("r2 -= 20");
        }
        self.put(if call.contains("tail#38") { "r3 = 0" } else { "r4 = 0" });
        self.put(call);
        self.forget_packet();
    }

    /// Two ways to one place: what was made, ended or moved on one of them counts as gone.
    fn diamond(&mut self, depth: u32) {
        let (out, from) = (self.label(), self.number());
        let (cond, limit) = (self.source.pick(&["==", ">", "s<", "&"]), self.source.below(40));
        self.put(&format!("r1 = *(u64 *)(r10 + {from})"));
        self.put(&format!("if r1 {cond} {limit} goto {out}"));
        let (places, kept) = (self.places, self.kept);
        for _ in 0..self.source.between(1, 3) {
            match self.source.below(6) {
                0 => self.memory(),
                1 => self.read_or_write(),
                2 => self.write_over(),
                3 => self.slice(),
                4 if depth < 1 => self.diamond(depth + 1),
                _ => self.touch(),
            }
        }
        self.put(&format!("{out}:"));
        if self.slip() {
            return;
        }
        for (now, before) in self.places.iter_mut().zip(places) {
            *now = if *now == before { before } else { Held::Nothing };
        }
        let fresh = self.places;
        for (now, before) in self.kept.iter_mut().zip(kept) {
            now.take_if(|slice| before != Some(*slice) || fresh[slice.place] != slice.of);
        }
    }

    /// A lock, and what it guards.
    fn lock(&mut self) {
        if self.prog_type == ProgType::SOCKET_FILTER {
            return self.touch();
        }
        let value = format!("r1 = map[idx:{}][0]+4", map::LOCKED);
        let lock = "call bpf_spin_lock#93";
        self.all(&[&value, lock]);
        if self.slip() {
            self.all(&[&value, lock]);
        }
        for _ in 0..self.source.below(3) {
            let off = if self.slip() { 4 } else { self.source.pick(&[12, 16, 20, 0]) };
            let (from, to) = (self.number(), self.number());
            self.put(&format!("r1 = map[idx:{}][0]+0", map::LOCKED));
            self.put(&format!("r2 = *(u32 *)(r1 + {off})"));
            self.put(&format!("r3 = *(u64 *)(r10 + {from})"));
            self.all(&["r2 ^= r3", &format!("*(u32 *)(r1 + {off}) = r2")]);
            self.put(&format!("*(u64 *)(r10 + {to}) = r2"));
        }
        if self.source.chance(1, 3) {
            self.touch();
        }
        if self.slip() {
            self.ask();
        }
        let out = self.label();
        if self.slip() {
            self.put(&format!("if r6 != 0 goto {out}"));
        }
        self.all(&[&value, "call bpf_spin_unlock#94"]);
        self.put(&format!("{out}:"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::border::maps;
    use livebpf::helper::Table;
    use livebpf::verify::{Options, Rule, verify};

    fn made(seed: u64) -> Program {
        program(&mut Source::seeded(seed), &maps)
    }

    #[test]
    fn programs_are_accepted_more_often_than_not_and_refused_for_what_is_held() {
        assert_eq!(made(3), made(3));
        let helpers = Table::builtin();
        let (mut accepted, mut refused) = (0, std::collections::BTreeMap::<String, u32>::new());
        for seed in 0..600 {
            match verify(made(seed), &Options::new(&helpers)) {
                Ok(_) => accepted += 1,
                Err(rejection) => {
                    assert_ne!(rejection.rule, Rule::Unsupported, "{rejection}");
                    *refused.entry(rejection.message).or_default() += 1;
                }
            }
        }
        assert!((200..500).contains(&accepted), "{accepted} accepted; {refused:#?}");
        for wanted in
            ["cannot overwrite referenced", "Expected an initialized dynptr", "Unreleased", "mem access 'scalar'"]
        {
            assert!(refused.keys().any(|message| message.contains(wanted)), "{wanted}: {refused:#?}");
        }
    }
}
