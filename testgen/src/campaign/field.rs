//! Where accepted programs run: one runtime with its maps and contexts, used for one program after the other.

use livebpf::context::Context;
use livebpf::helper::{Table, id};
use livebpf::insn::{Imm64, Insn};
use livebpf::interp::{FaultKind, Limits};
use livebpf::link::Program;
use livebpf::object::{MapType, ProgType};
use livebpf::runtime::{Ebpf, Engine, LoadOptions, MapHandle, ProgramArray, RingBuffer, RunError, Runtime, Worker};
use livebpf::verify::claims::Claims;
use livebpf::verify::{self, Options, Rejection, Rule, Trust, Verified};

use super::inputs::{Input, Pool};
use super::kernel::Kernel;
use super::{Counts, Maps, Plan};
use crate::Source;
use crate::border::{self, TYPES};
use crate::loops::may_be_long;

/// Instructions that an accepted program may execute. The verifier looks at no more than a million, on all paths together.
pub const BUDGET: u64 = 8_000_000;
/// The same for programs that contain loops which only their number of passes ends: eight million of them may be made.
const LONG_BUDGET: u64 = 200_000;
/// Instructions for the second look, with every number counting; beyond, it is left out.
const SECOND_LOOK: u64 = 20_000;
/// Address space for code: more than what waits to be reclaimed.
const CODE_BYTES: u64 = 64 << 20;

/// What a run left behind.
#[derive(PartialEq, Eq, Debug)]
struct Seen {
    r0: u32,
    packet: Vec<u8>,
    record: Vec<u8>,
    maps: Vec<Vec<(Vec<u8>, Vec<u8>)>>,
}

/// One program type's programs, maps and context.
struct Place {
    prog_type: ProgType,
    defs: Maps,
    options: LoadOptions,
    slots: LoadOptions,
    handles: Vec<MapHandle>,
    context: Context,
    _kept: Vec<Ebpf>,
}

/// A runtime and everything that programs need.
pub struct Field {
    runtime: Runtime,
    worker: Worker,
    helpers: Table,
    places: Vec<Place>,
    pub(super) kernel: Option<Kernel>,
    pub(super) plan: Plan,
    loads: u64,
}

impl Field {
    /// # Errors
    /// Where the system refuses executable memory.
    pub fn new(plan: &Plan) -> Result<Field, String> {
        let text = |error: livebpf::runtime::Error| error.to_string();
        let runtime = Runtime::builder().engine(Engine::Jit).cpus(1).code_bytes(CODE_BYTES).build().map_err(text)?;
        let worker = runtime.worker().map_err(|error| error.to_string())?;
        let mut places: Vec<Place> = Vec::new();
        for prog_type in TYPES {
            places.push(Place::new(&runtime, prog_type, places.first())?);
        }
        let kernel = if plan.kernel_share > 0 { Some(Kernel::new()?) } else { None };
        Ok(Field { runtime, worker, helpers: Table::builtin(), places, kernel, plan: plan.clone(), loads: 0 })
    }

    /// The maps of programs of this type.
    pub(super) fn maps(&self, prog_type: ProgType) -> Maps {
        self.place(prog_type).defs.clone()
    }

    fn place(&self, prog_type: ProgType) -> &Place {
        self.places.iter().find(|place| place.prog_type == prog_type).expect("programs are of these types")
    }

    /// Verifies.
    pub(super) fn verify(&self, program: &Program, claims: &Claims) -> Result<Verified, Box<Rejection>> {
        let options = Options { claims: Some(claims), limit: self.plan.limit, ..Options::new(&self.helpers) };
        verify::verify(program.clone(), &options)
    }

    /// Runs what was accepted on inputs that `source` chooses.
    pub(super) fn check(
        &mut self,
        source: &mut Source<'_>,
        verified: Verified,
        claims: &Claims,
        counts: &mut Counts,
    ) -> Result<(), String> {
        let program = verified.program().clone();
        let every = if source.u64().is_multiple_of(self.plan.second_share.max(1)) {
            self.second_look(&program, counts)?
        } else {
            None
        };
        let watched: Vec<&Claims> = [Some(claims), every.as_ref()].into_iter().flatten().collect();
        let pool = Pool::of(&program);
        let prog_type = program.kind.prog_type;
        let index = self.places.iter().position(|place| place.prog_type == prog_type).ok_or("an unknown type")?;
        self.reclaim();
        let place = &mut self.places[index];
        let options = if source.chance(1, 4) { &place.slots } else { &place.options };
        let ebpf = self.runtime.load_proven(vec![verified], options).map_err(|e| format!("cannot be loaded: {e}"))?;
        let loaded = ebpf.program(&program.name).ok_or("the program is not there")?;
        let used = used_maps(&program);
        let long = may_be_long(&program);
        for _ in 0..self.plan.inputs {
            let input = pool.input(source, prog_type);
            place.prepare(&input, &used)?;
            let limits = Limits { max_insns: if long { LONG_BUDGET } else { BUDGET } };
            let wanted = match self.worker.run_witnessed(loaded, &mut place.context, limits, &watched) {
                Err(RunError::Fault { fault, .. }) if long && matches!(fault.kind, FaultKind::Budget { .. }) => {
                    counts.long += 1;
                    break;
                }
                ran => ran.map_err(|fault| format!("accepted, but fails: {fault}\non {input:02x?}"))?,
            };
            let wanted = place.seen(wanted as u32, &used);
            place.prepare(&input, &used)?;
            let found = self.worker.run(loaded, &mut place.context).map_err(|e| format!("machine code: {e}"))?;
            let found = place.seen(found, &used);
            counts.runs += 1;
            if found != wanted {
                if !self.comparable(&program) {
                    counts.incomparable += 1;
                    break;
                }
                return Err(format!("machine code leaves {found:02x?}\ninterpreter {wanted:02x?}\non {input:02x?}"));
            }
        }
        Ok(())
    }

    /// Verifies once more, with every number counting; `None` where that takes too long.
    fn second_look(&self, program: &Program, counts: &mut Counts) -> Result<Option<Claims>, String> {
        let every = Claims::keep(true);
        let options = Options { limit: SECOND_LOOK, claims: Some(&every), ..Options::new(&self.helpers) };
        match verify::verify(program.clone(), &options) {
            Ok(_) => {
                counts.every_number += 1;
                Ok(Some(every))
            }
            Err(rejection) if rejection.rule == Rule::Termination => Ok(None),
            Err(rejection) => Err(format!("accepted, but refused with every number counting: {rejection}")),
        }
    }

    /// Code that was loaded goes after a grace period; now and then it is waited for.
    fn reclaim(&mut self) {
        self.loads += 1;
        if self.loads.is_multiple_of(512) {
            let _ = self.runtime.barrier();
        }
    }

    /// Whether nothing that the program can see depends on where it runs, or when.
    fn comparable(&self, program: &Program) -> bool {
        // What a record holds before it is written depends on what was in the ring before.
        let varies = [id::KTIME_GET_NS, id::GET_PRANDOM_U32, id::RINGBUF_RESERVE, id::RINGBUF_RESERVE_DYNPTR];
        let varies = |insn| matches!(insn, Insn::Call { helper } if varies.contains(&helper));
        if program.insns.iter().any(|(_, insn)| varies(insn)) {
            return false;
        }
        // Programs with dynptrs are for trusted authors only.
        let tells = |found: Result<Verified, _>| found.is_ok_and(|verified| !verified.facts().shows_addresses);
        let dynptr = |insn| matches!(insn, Insn::Call { helper: id::DYNPTR_FROM_MEM });
        if program.insns.iter().any(|(_, insn)| dynptr(insn)) {
            return tells(verify::verify(program.clone(), &Options::new(&self.helpers)));
        }
        let strict = Options { trust: Trust::Untrusted, ..Options::new(&self.helpers) };
        verify::verify(program.clone(), &strict).is_ok()
    }
}

/// Indexes of the maps that a program mentions.
fn used_maps(program: &Program) -> Vec<usize> {
    let mut used: Vec<usize> = program
        .insns
        .iter()
        .filter_map(|(_, insn)| match insn {
            Insn::LoadImm64 { value: Imm64::MapIdx(idx) | Imm64::MapIdxValue { idx, .. }, .. } => {
                usize::try_from(idx).ok()
            }
            _ => None,
        })
        .collect();
    used.sort_unstable();
    used.dedup();
    used
}

impl Place {
    fn new(runtime: &Runtime, prog_type: ProgType, first: Option<&Place>) -> Result<Place, String> {
        let text = |error: livebpf::runtime::Error| error.to_string();
        let defs = border::maps(prog_type);
        let mut options = LoadOptions::default();
        for handle in first.iter().flat_map(|place| &place.handles) {
            if handle.map_type() != MapType::PROG_ARRAY {
                options = options.reuse_map(handle.name(), handle);
            }
        }
        let anchor = Program { maps: defs.clone(), ..border::constant(prog_type, 1) };
        let ebpf = runtime.load_linked_with(vec![anchor], &options).map_err(text)?;
        let mut handles = Vec::new();
        for def in &defs {
            handles.push(ebpf.map(&def.name).ok_or("a map is missing")?.clone());
        }
        let mut calls = String::new();
        for handle in &handles {
            options = options.reuse_map(handle.name(), handle);
            if let Ok(array) = ProgramArray::try_from(handle) {
                calls = handle.name().to_owned();
                let target = ebpf.program("constant").ok_or("the target of tail calls is missing")?;
                array.set(0, target).map_err(text)?;
                array.set(2, target).map_err(text)?;
            }
        }
        let slots = options.clone().slots(&calls);
        let context = Context::for_type(prog_type, &[0; 64]).map_err(|error| error.to_string())?;
        Ok(Place { prog_type, defs, options, slots, handles, context, _kept: vec![ebpf] })
    }

    /// Maps and context as `input` says.
    fn prepare(&mut self, input: &Input, used: &[usize]) -> Result<(), String> {
        let write = |handle: &MapHandle, key: &[u8], value: &[u8]| {
            handle.write(key, value, 0).map_err(|error| format!("{handle:?}: {error}"))
        };
        for &index in used {
            let Some(handle) = self.handles.get(index) else { continue };
            match index {
                border::map::SINGLE => write(handle, &[0; 4], &input.single)?,
                border::map::ARRAY => {
                    for (key, value) in (0u32..).zip(&input.array) {
                        write(handle, &key.to_le_bytes(), value)?;
                    }
                }
                border::map::PERCPU => {
                    for (key, value) in (0u32..).zip(&input.percpu) {
                        write(handle, &key.to_le_bytes(), value)?;
                    }
                }
                border::map::HASH => {
                    for key in handle.keys().map_err(|error| error.to_string())? {
                        handle.remove(&key).map_err(|error| error.to_string())?;
                    }
                    for (key, value) in &input.hash {
                        write(handle, key, value)?;
                    }
                }
                border::map::LOCKED => write(handle, &[0; 4], &input.single[..24])?,
                border::map::RING => {
                    let ring = RingBuffer::try_from(handle).map_err(|error| error.to_string())?;
                    ring.consume(|_| ()).map_err(|error| error.to_string())?;
                }
                _ => {}
            }
        }
        self.context.reset(&input.packet).map_err(|error| error.to_string())?;
        for (field, value) in &input.fields {
            self.context.set(field, *value).map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    fn seen(&self, r0: u32, used: &[usize]) -> Seen {
        let contents = |handle: &MapHandle| {
            let keys = handle.keys().unwrap_or_default();
            let mut entries: Vec<_> =
                keys.into_iter().map(|key| (handle.read(&key).unwrap_or_default(), key)).collect();
            entries.sort_by(|(_, a), (_, b)| a.cmp(b));
            entries.into_iter().map(|(value, key)| (key, value)).collect()
        };
        let mutable = |index: usize| index <= border::map::PERCPU || index == border::map::LOCKED;
        Seen {
            r0,
            packet: self.context.packet(),
            record: self.context.record().to_vec(),
            maps: used
                .iter()
                .filter(|index| mutable(**index))
                .filter_map(|index| self.handles.get(*index))
                .map(contents)
                .collect(),
        }
    }
}
