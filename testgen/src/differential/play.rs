//! Plays a plan on one engine and notes what is seen.

use std::time::{Duration, Instant};

use livebpf::context::{Context, record};
use livebpf::insn::Size;
use livebpf::interp::FaultKind;
use livebpf::object::MapType;
use livebpf::runtime::{Ebpf, Engine, Error, MapHandle, ProgramArray, RunError};

use super::plan::{Input, Plan, Step};
use super::trace::{MapState, Seen, Trace};
use crate::bench::Bench;

/// Fields of `struct __sk_buff` that programs write and test runs give back.
pub(super) const FIELDS: [&str; 6] = ["mark", "cb[0]", "cb[1]", "cb[2]", "cb[3]", "cb[4]"];

/// Words of the record that hold addresses: compared as places in the buffer.
const POINTERS: [u32; 8] = [
    record::DATA,
    record::DATA_END,
    record::DATA_META,
    record::BUF_START,
    record::BUF_END,
    record::LOW,
    record::MAC,
    record::NETWORK,
];

/// Instructions after which the interpreter gives up a run: a verifier looks at a million, of each of 34 programs.
const BUDGET: u64 = 40_000_000;
/// Elements of an array that are looked at.
const ELEMENTS: usize = 256;

/// Does what the plan says, up to a run that takes too long.
pub(super) fn play(bench: &mut Bench, ebpf: &Ebpf, plan: &Plan) -> Trace {
    let array = ebpf.maps().find_map(|map| ProgramArray::try_from(map).ok());
    let mut trace = Trace { steps: Vec::with_capacity(plan.steps.len()), time: Duration::ZERO, long: false };
    let mut step = |step: &Step, trace: &mut Trace| match step {
        Step::Run { program, cpu, input } => run(bench, ebpf, program, *cpu, input, trace),
        Step::Set { index, program } => {
            let program = ebpf.program(program).expect("plans name programs that are loaded");
            Seen::Updated(array.as_ref().map(|array| answer(array.set(*index, program))))
        }
        Step::Clear { index } => Seen::Updated(array.as_ref().map(|array| answer(array.clear_index(*index)))),
    };
    for one in &plan.steps {
        let seen = step(one, &mut trace);
        trace.steps.push(seen);
        if trace.long {
            break;
        }
    }
    trace
}

fn answer(result: Result<(), Error>) -> Result<(), String> {
    result.map_err(|error| error.to_string())
}

fn run(bench: &mut Bench, ebpf: &Ebpf, program: &str, cpu: u32, input: &Input, trace: &mut Trace) -> Seen {
    let mut context = Context::for_type(input.prog_type, &input.packet).expect("plans contain sound packets");
    for (field, value) in &input.fields {
        context.set(field, *value).expect("plans set fields to sound values");
    }
    let begin = Instant::now();
    let result = match bench.engine() {
        Engine::Interp => bench.interpret(ebpf, program, cpu, &mut context, BUDGET),
        _ => bench.run(ebpf, program, cpu, &mut context),
    };
    trace.time += begin.elapsed();
    if let Err(RunError::Fault { fault, .. }) = &result {
        trace.long |= matches!(fault.kind, FaultKind::Budget { .. });
    }
    let result = result.map_err(|error| error.to_string());
    Seen::Ran {
        result,
        packet: context.packet(),
        record: record_of(&context),
        fields: FIELDS.iter().filter_map(|field| Some((*field, context.get(field)?))).collect(),
        buffer: context.buffer().to_vec(),
        maps: ebpf.maps().map(|map| contents(ebpf, map)).collect(),
    }
}

/// The record with places in the buffer instead of addresses.
fn record_of(context: &Context) -> Vec<u8> {
    let (record, base) = (context.record(), context.buffer().addr());
    let mut bytes = record.to_vec();
    for at in POINTERS {
        let word = record.load(at as usize, Size::DW).unwrap_or(0);
        let place = if word == 0 { 0 } else { word.wrapping_sub(base) };
        bytes[at as usize..at as usize + 8].copy_from_slice(&place.to_le_bytes());
    }
    bytes
}

/// Keys and values by key; of a program array, the names of the programs.
fn contents(ebpf: &Ebpf, map: &MapHandle) -> MapState {
    let value = |key: &[u8]| {
        let value = map.read(key).ok()?;
        if map.map_type() != MapType::PROG_ARRAY {
            return Some(value);
        }
        let program = ebpf.programs().find(|program| program.id().to_le_bytes() == *value)?;
        Some(program.name().as_bytes().to_vec())
    };
    // Rings, queues and the like have none.
    let mut keys = map.keys().unwrap_or_default();
    if [MapType::ARRAY, MapType::PERCPU_ARRAY].contains(&map.map_type()) {
        keys.truncate(ELEMENTS);
    }
    let mut entries: Vec<_> = keys.into_iter().map(|key| (value(&key).unwrap_or_default(), key)).collect();
    entries.sort_by(|(_, a), (_, b)| a.cmp(b));
    let array = ProgramArray::try_from(map).ok();
    let missed = array.map_or_else(Default::default, |array| (array.missed_slots(), array.missed_outside()));
    let entries = entries.into_iter().map(|(value, key)| (key, value)).collect();
    MapState { name: map.name().to_owned(), entries, missed }
}
