//! A program's live machine code with the meaning of its operands.
//!
//! The bytes are those that the processor executes, read through the image while updates go on; each displacement of
//! a patched jump is read whole. What a site's state is, is told from those same bytes, so that bytes and states agree.

use std::sync::Arc;

use crate::insn::Pc;
use crate::jit::{PokeSite, Symbol};
use crate::link::MapId;
use crate::map::Map;
use crate::run::{Loaded, Placement, Program};

/// Machine code, with names. Offsets count bytes from the first.
#[derive(Clone, Debug)]
pub struct Listing {
    /// Address of the first byte.
    pub base: u64,
    /// The bytes.
    pub bytes: Vec<u8>,
    /// Where a fresh invocation enters.
    pub entry: u32,
    /// Where a tail call enters.
    pub tail_entry: u32,
    /// The functions, in the order of [`crate::link::Program::subprogs`].
    pub functions: Vec<Function>,
    /// The direct tail calls.
    pub sites: Vec<Site>,
    /// (offset of a field, what it refers to): `helper bpf_ktime_get_ns`, `map flows`, `slots of jmp_table`, `count in .bss`.
    pub symbols: Vec<(u32, String)>,
    /// (offset, instruction) ascending: where each BPF instruction's code begins.
    pub lines: Vec<(u32, Pc)>,
}

/// One function's code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// Its symbol.
    pub name: String,
    /// First byte.
    pub start: u32,
    /// One past the last.
    pub end: u32,
}

/// One direct tail call: a compare and a jump whose fields are patched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// Name of the program array.
    pub map: String,
    /// The slot.
    pub index: u32,
    /// Offset of the bypass, a `cmp r12d, imm8`.
    pub bypass: u32,
    /// Offset of the target, a `jmp rel32`.
    pub target: u32,
    /// Whether the bypass lets control through to the target.
    pub open: bool,
    /// Where the target leads.
    pub lead: Lead,
}

/// Where a target jump leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lead {
    /// To the stub that reports a mistake in livebpf: nothing reaches it while the bypass is closed.
    Poison,
    /// To the tail entry of the program in the slot.
    Program {
        /// Its number.
        id: u32,
        /// Its name.
        name: String,
    },
    /// To a program that is no longer in the slot; runs that passed the bypass before may be on the way to it.
    Replaced(u64),
}

/// The live code of `program`; `None` when it is interpreted.
pub fn listing(program: &Program) -> Option<Listing> {
    let native = program.loaded().placement()?;
    let bytes = native.image.bytes();
    let functions = program.linked().subprogs.iter().zip(&native.code.frames);
    Some(Listing {
        base: native.image.base(),
        entry: native.code.entry,
        tail_entry: native.code.tail_entry,
        functions: functions.map(|(f, at)| Function { name: f.name.clone(), start: at.start, end: at.end }).collect(),
        sites: native.code.sites.iter().filter_map(|s| site(program.loaded(), &native, &bytes, s)).collect(),
        symbols: native.code.relocs.iter().filter_map(|r| Some((r.at, name(program.loaded(), r.symbol)?))).collect(),
        lines: native.code.lines.clone(),
        bytes,
    })
}

fn map(loaded: &Loaded, id: MapId) -> Option<&Arc<Map>> {
    loaded.maps().get(id.0 as usize)
}

/// The field at `at`.
fn field(bytes: &[u8], at: u32) -> Option<i32> {
    let field = bytes.get(at as usize..at as usize + 4)?;
    field.try_into().ok().map(i32::from_le_bytes)
}

fn site(loaded: &Loaded, native: &Placement, bytes: &[u8], site: &PokeSite) -> Option<Site> {
    let map = map(loaded, site.map)?;
    let next = native.image.base() + u64::from(site.target) + 5;
    let address = next.wrapping_add_signed(field(bytes, site.target_field())?.into());
    let lead = if address == native.image.region().poison() {
        Lead::Poison
    } else {
        member(map, site.index, address).unwrap_or(Lead::Replaced(address))
    };
    Some(Site {
        map: map.name().to_owned(),
        index: site.index,
        bypass: site.bypass,
        target: site.target,
        open: *bytes.get(site.bypass_field() as usize)? == PokeSite::OPEN as u8,
        lead,
    })
}

/// The program in the slot, when its tail entry is at `address`.
fn member(map: &Map, index: u32, address: u64) -> Option<Lead> {
    let member = map.prog_array()?.get(index)?;
    let loaded = member.as_any().downcast_ref::<Loaded>()?;
    let there = member.tail_entry() == address;
    there.then(|| Lead::Program { id: loaded.id, name: loaded.linked().name.clone() })
}

/// What a field refers to; `None` for code of the same image, which its address tells.
fn name(loaded: &Loaded, symbol: Symbol) -> Option<String> {
    let helper = |id| match loaded.shared.helpers.get(id) {
        Some(proto) => format!("bpf_{}", proto.name),
        None => crate::helper::id::name(id).map_or_else(|| format!("helper {id}"), |name| format!("bpf_{name}")),
    };
    let map = |id| map(loaded, id).map_or_else(|| "?".to_owned(), |m| m.name().to_owned());
    Some(match symbol {
        Symbol::Helper(id) => helper(id),
        Symbol::HelperData(id) => format!("data of {}", helper(id)),
        Symbol::Map(id) => format!("map {}", map(id)),
        Symbol::MapData(id, off) => data(loaded, id, off),
        Symbol::SlotTable(id) => format!("slots of {}", map(id)),
        Symbol::Missed(id) => format!("missed calls of {}", map(id)),
        Symbol::Noted => "notes by CPU".to_owned(),
        Symbol::Poison => "poison stub".to_owned(),
        Symbol::Here(_) => return None,
    })
}

/// What lies `off` bytes into a map's first value: the variable's name where the object says so.
fn data(loaded: &Loaded, id: MapId, off: u32) -> String {
    let Some(map) = map(loaded, id) else { return "?".to_owned() };
    let symbols = &map.def().symbols;
    match symbols.iter().find(|s| (s.offset..s.offset.saturating_add(s.size)).contains(&off)) {
        Some(symbol) if symbol.offset == off => format!("{} in {}", symbol.name, map.name()),
        Some(symbol) => format!("{} + {:#x} in {}", symbol.name, off - symbol.offset, map.name()),
        None if off == 0 => format!("data of {}", map.name()),
        None => format!("data of {} + {off:#x}", map.name()),
    }
}
