//! Runs a suite in the checking interpreter, without a runtime: its own maps, helpers and program array.
#![allow(unsafe_code)]

use std::collections::HashMap;
use std::sync::Arc;

use livebpf::context::{Context, record};
use livebpf::helper::{Proto, Table, id};
use livebpf::insn::Size;
use livebpf::interp::{self, Executable, Fault, FaultKind, Host, Limits};
use livebpf::map::cell::Slice;
use livebpf::map::{Map, MapError};
use livebpf::object::MapInit;
use livebpf::verify::Verified;

use crate::Suite;

/// The CPU that programs run on.
const CPU: u32 = 0;
const EINVAL: i64 = -22;
const EFAULT: i64 = -14;
/// Bytes of an Ethernet header: a packet stays at least so long.
const MIN_PACKET: u64 = 14;
/// Far more than accepted programs of the usual shapes run.
const LIMITS: Limits = Limits { max_insns: 50_000_000 };

/// Programs with their maps, ready to run.
pub struct Bench {
    maps: Vec<Arc<Map>>,
    helpers: Table,
    programs: Vec<Option<Arc<Executable>>>,
    slots: HashMap<u32, Arc<Executable>>,
}

/// What a run leaves.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// R0.
    pub result: u64,
    /// The packet's bytes.
    pub packet: Vec<u8>,
    /// Keys and values of the maps, in the order of the suite, by key.
    pub maps: Vec<Vec<(Vec<u8>, Vec<u8>)>>,
}

impl Bench {
    /// Binds the suite's programs as `check` accepts them; slots whose program it refuses stay empty.
    ///
    /// # Panics
    /// When a map cannot be made.
    pub fn new(suite: &Suite, check: impl Fn(usize) -> Option<Verified>) -> Bench {
        let maps: Vec<Arc<Map>> = (0..).zip(&suite.maps).map(|(id, def)| create(def, id)).collect();
        let bind = |verified| Executable::new(Arc::new(verified), maps.clone());
        let programs: Vec<_> = (0..suite.programs.len()).map(|index| check(index).map(bind)).collect();
        let mut slots = HashMap::new();
        for def in &suite.maps {
            let MapInit::Programs(held) = &def.init else { continue };
            for (slot, name) in held {
                let index = suite.programs.iter().position(|program| program.name == *name);
                if let Some(program) = index.and_then(|index| programs[index].clone()) {
                    slots.insert(*slot, program);
                }
            }
        }
        Bench { maps, helpers: Table::builtin(), programs, slots }
    }

    /// Whether program `index` was accepted.
    pub fn accepted(&self, index: usize) -> bool {
        self.programs[index].is_some()
    }

    /// Runs program `index`, which was accepted, on a packet.
    ///
    /// # Panics
    /// When it was not accepted, or the packet is too long for a context.
    pub fn run(&self, index: usize, packet: &[u8]) -> Result<Outcome, Fault> {
        let exe = self.programs[index].as_ref().expect("the program was accepted");
        let ctx = Context::for_type(exe.verified.program().kind.prog_type, packet).expect("the packet fits");
        let mut run = Run { bench: self, ctx: &ctx };
        let result = interp::run_limited(exe, &ctx, &mut run, LIMITS)?;
        Ok(Outcome { result, packet: ctx.packet(), maps: self.maps.iter().map(contents).collect() })
    }
}

fn create(def: &Arc<livebpf::object::MapDef>, id: u32) -> Arc<Map> {
    let map = Map::create(Arc::clone(def), id, 1).expect("the generators' maps are small and sound");
    if let MapInit::Data(data) = &def.init {
        map.write(&0u32.to_ne_bytes(), data, 0).expect("global data is one value");
    }
    map
}

fn contents(map: &Arc<Map>) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut entries = Vec::new();
    if map.prog_array().is_some() {
        return entries;
    }
    let mut next = map.next_key(None);
    while let Ok(key) = next {
        let value = map.read(&key).unwrap_or_default();
        next = map.next_key(Some(&key));
        entries.push((key, value));
    }
    entries.sort();
    entries
}

/// One run: what its helpers and tail calls refer to.
struct Run<'a> {
    bench: &'a Bench,
    ctx: &'a Context,
}

impl Run<'_> {
    fn map(&self, addr: u64) -> Result<&Arc<Map>, FaultKind> {
        let found = self.bench.maps.iter().find(|map| Arc::as_ptr(map).addr() as u64 == addr);
        found.ok_or_else(|| FaultKind::Helper(format!("no map at {addr:#x}")))
    }
    fn word(&self, field: u32) -> u64 {
        self.ctx.record().load(field as usize, Size::DW).expect("the record has this field")
    }
    fn set_word(&self, field: u32, value: u64) {
        self.ctx.record().store(field as usize, Size::DW, value).expect("the record has this field");
    }

    /// Moves the start of the packet; metadata is dropped.
    fn adjust_head(&self, by: i64) -> i64 {
        let (data, end) = (self.word(record::DATA), self.word(record::DATA_END));
        let moved = data.wrapping_add_signed(by);
        if moved < self.word(record::BUF_START) || moved > end.saturating_sub(MIN_PACKET) {
            return EINVAL;
        }
        self.set_word(record::DATA, moved);
        self.set_word(record::DATA_META, moved);
        0
    }

    /// Moves the end of the packet; new bytes are zero.
    fn adjust_tail(&self, by: i64) -> i64 {
        let (data, end) = (self.word(record::DATA), self.word(record::DATA_END));
        let moved = end.wrapping_add_signed(by);
        if moved > self.word(record::BUF_END) || moved < data.saturating_add(MIN_PACKET) {
            return EINVAL;
        }
        self.set_word(record::DATA_END, moved);
        if moved > end {
            // SAFETY: between the old end and `BUF_END` lies memory of the context's buffer, which is borrowed here.
            unsafe { Slice::from_raw(end, (moved - end) as usize) }.clear();
        }
        0
    }

    fn load_bytes(&self, from: u32, to: Slice<'_>) -> i64 {
        let packet = self.ctx.packet();
        let bytes = packet.get(from as usize..).and_then(|rest| rest.get(..to.len()));
        to.clear();
        bytes.map_or(EFAULT, |bytes| {
            to.write(bytes);
            0
        })
    }
}

fn answer(result: Result<(), MapError>) -> i64 {
    result.map_or_else(|error| -i64::from(error.errno()), |()| 0)
}

impl Host for Run<'_> {
    fn proto(&self, id: u32) -> Option<&Proto> {
        self.bench.helpers.get(id)
    }

    fn call(&mut self, id: u32, args: [u64; 5]) -> Result<u64, FaultKind> {
        // SAFETY: the interpreter calls only with arguments that keep the helper's contract, which it has checked byte
        // by byte: `len` bytes at `addr` are memory of this run, alive until the call returns.
        let memory = |addr: u64, len: u32| unsafe { Slice::from_raw(addr, len as usize) };
        let result = match id {
            id::MAP_LOOKUP_ELEM => {
                let map = self.map(args[0])?;
                let key = memory(args[1], map.key_size()).to_vec();
                return Ok(map.lookup(&key, CPU).map_or(0, |value| value.addr()));
            }
            id::MAP_UPDATE_ELEM => {
                let map = self.map(args[0])?;
                let (key, value) = (memory(args[1], map.key_size()), memory(args[2], map.value_size()));
                answer(map.update(&key.to_vec(), &value.to_vec(), args[3], CPU))
            }
            id::MAP_DELETE_ELEM => {
                let map = self.map(args[0])?;
                answer(map.delete(&memory(args[1], map.key_size()).to_vec()))
            }
            id::GET_SMP_PROCESSOR_ID => CPU.into(),
            // Only damaged programs call these; the answers are constant, so that runs can be compared.
            id::KTIME_GET_NS | id::GET_PRANDOM_U32 => 4,
            id::TRACE_PRINTK => 0,
            id::SKB_LOAD_BYTES => self.load_bytes(args[1] as u32, memory(args[2], args[3] as u32)),
            id::XDP_ADJUST_HEAD => self.adjust_head(i64::from(args[1] as i32)),
            id::XDP_ADJUST_TAIL => self.adjust_tail(i64::from(args[1] as i32)),
            _ => return Err(FaultKind::Helper(format!("helper {id} is not in this bench"))),
        };
        Ok(result as u64)
    }

    fn tail_target(&mut self, _map: &Map, index: u32) -> Option<Arc<Executable>> {
        self.bench.slots.get(&index).cloned()
    }
}
