//! livebpf's side.

use std::time::Instant;

use livebpf::context::Context;
use livebpf::helper::{Arg, Proto, Ret};
use livebpf::runtime::{Completion, Ebpf, Engine, MapOfMaps, Program, ProgramArray, RingBuffer, Runtime, Worker};

use crate::error::Error;
use crate::helpers::PLUS_ONE;
use crate::programs::{self, MISSED, PACKET, VERSIONS};
use crate::sides::{Batch, Pair, Runner, Shape, Slots};
use crate::tail_call::{self, LIMIT, Way};
use crate::work::{Ring, Slot, Work};

struct LiveSlots {
    runtime: Runtime,
    array: ProgramArray,
    versions: [Program; 2],
}

struct LiveRunner {
    worker: Worker,
    caller: Program,
    /// As many as make a batch, all of one packet.
    contexts: Vec<Context>,
}

/// Contexts of a batch, where the packets together are small enough for the nearest cache.
const BATCH: usize = 64;

/// A program of a [`Work`].
struct Runs {
    runner: LiveRunner,
    /// To be run before anything else.
    first: Option<Program>,
    /// To be emptied, and how many runs fill it.
    ring: Option<(RingBuffer, u32)>,
    /// One section for each run.
    single: bool,
    /// Declared last: it is there as long as anything that refers to it.
    _loaded: (Ebpf, Runtime),
}

/// Loads the programs into a runtime of their own.
pub fn prepare(engine: Engine, work: &Work) -> Result<Box<dyn Runner>, Error> {
    let mut builder = Runtime::builder().engine(engine);
    if work.embedder {
        builder = builder.plain_helper(plus_one(), add_one);
    }
    Ok(Box::new(load(builder.build()?, work)?))
}

fn load(runtime: Runtime, work: &Work) -> Result<Runs, Error> {
    let ebpf = runtime.load_linked(work.programs.clone())?;
    let program = |n: usize| {
        let name = &work.programs[n].name;
        ebpf.program(name).cloned().ok_or(Error::Lacks("a program that was loaded is not there"))
    };
    for Slot { array, index, program: n } in &work.slots {
        let map = ebpf.map(array).ok_or(Error::Lacks("a map that was made is not there"))?;
        ProgramArray::try_from(map)?.set(*index, &program(*n)?)?;
    }
    let map = |name: &str| ebpf.map(name).ok_or(Error::Lacks("a map that was made is not there"));
    if let Some([outer, inner]) = work.nested {
        let (outer, inner) = (MapOfMaps::try_from(map(outer)?)?, map(inner)?);
        Work::nested_keys().try_for_each(|key| outer.set(&key, inner, 0))?;
    }
    if let Some(devices) = work.devices {
        let (key, value) = Work::LOOPBACK;
        map(devices)?.write(&key, &value, 0)?;
    }
    let runner = LiveRunner::new(&runtime, program(0)?, &work.packet)?;
    let first = work.first.map(program).transpose()?;
    let ring = |ring: Ring| {
        let map = ebpf.map(ring.map).ok_or(Error::Lacks("a map that was made is not there"))?;
        Ok::<_, Error>((RingBuffer::try_from(map)?, ring.runs))
    };
    let ring = work.ring.map(ring).transpose()?;
    Ok(Runs { runner, first, ring, single: work.single, _loaded: (ebpf, runtime) })
}

/// Two chains of one runtime, each for a thread of its own.
pub fn chains(engine: Engine) -> Result<[Box<dyn Runner + Send>; 2], Error> {
    let runtime = Runtime::builder().engine(engine).build()?;
    let chain = || -> Result<Box<dyn Runner + Send>, Error> {
        let work = tail_call::hops(Way::Direct, LIMIT).work;
        Ok(Box::new(load(runtime.clone(), &work)?))
    };
    Ok([chain()?, chain()?])
}

impl Runner for Runs {
    fn batch(&mut self, runs: u32) -> Result<Batch, Error> {
        if let Some(first) = self.first.take() {
            self.runner.worker.run(&first, &mut self.runner.contexts[0])?;
        }
        if let Some((ring, _)) = &self.ring {
            ring.consume(|_| {})?;
        }
        if !self.single {
            return self.runner.batch(runs);
        }
        let LiveRunner { worker, caller, contexts } = &mut self.runner;
        let (start, mut answer) = (Instant::now(), MISSED);
        for _ in 0..runs {
            answer = worker.run(caller, &mut contexts[0])?;
        }
        let ns = start.elapsed().as_nanos() as f64 / f64::from(runs);
        Ok(Batch { ns, wall_ns: ns, answer })
    }

    fn most(&self) -> Option<u32> {
        self.ring.as_ref().map(|(_, runs)| *runs)
    }
}

extern "C" fn add_one(r1: u64, _: u64, _: u64, _: u64, _: u64) -> u64 {
    r1.wrapping_add(1)
}

/// The embedder's function: a number in, a number out.
fn plus_one() -> Proto {
    Proto {
        id: PLUS_ONE,
        name: "plus_one".to_owned(),
        args: vec![Arg::Anything],
        ret: Ret::Integer,
        changes_packet: false,
        packet_memory: false,
        gpl_only: false,
    }
}

impl LiveRunner {
    fn new(runtime: &Runtime, caller: Program, packet: &[u8]) -> Result<LiveRunner, Error> {
        let worker = runtime.worker()?;
        let contexts = if packet.len() <= PACKET.len() { BATCH } else { 1 };
        let context = |_| Context::for_type(caller.prog_type(), packet);
        let contexts = (0..contexts).map(context).collect::<Result<_, _>>()?;
        Ok(LiveRunner { worker, caller, contexts })
    }
}

/// Loads everything into a runtime of its own.
pub fn set_up(engine: Engine, shape: &Shape) -> Result<Pair, Error> {
    let runtime = Runtime::builder().engine(engine).build()?;
    let def = programs::array(shape.slots);
    let linked = vec![
        programs::caller(shape.sites, &def),
        programs::answers("bench_first", VERSIONS[0]),
        programs::answers("bench_second", VERSIONS[1]),
    ];
    let ebpf = runtime.load_linked(linked)?;
    let program = |name| ebpf.program(name).cloned().ok_or(Error::Lacks("a program that was loaded is not there"));
    let map = ebpf.map(&def.name).ok_or(Error::Lacks("a map that was made is not there"))?;
    let array = ProgramArray::try_from(map)?;
    let slots = LiveSlots { array, versions: [program("bench_first")?, program("bench_second")?], runtime };
    // More than once: the first displaced program and the first asynchronous update start the threads that the runtime has for them,
    // here, where no thread is pinned.
    for version in [1, 0] {
        (0..shape.slots).try_for_each(|slot| slots.set(slot, version))?;
    }
    if let Some(completion) = slots.set_async(0, 0)? {
        completion.wait()?;
    }
    slots.settle()?;
    let runner = LiveRunner::new(&slots.runtime, program("bench_caller")?, &PACKET)?;
    Ok(Pair { runner: Box::new(runner), slots: Box::new(slots) })
}

impl Slots for LiveSlots {
    fn set(&self, slot: u32, version: usize) -> Result<(), Error> {
        Ok(self.array.set(slot, &self.versions[version])?)
    }
    fn set_async(&self, slot: u32, version: usize) -> Result<Option<Completion>, Error> {
        Ok(Some(self.array.set_async(slot, &self.versions[version])?))
    }
    fn clear(&self, slot: u32) -> Result<(), Error> {
        Ok(self.array.clear_index(slot)?)
    }
    fn set_all(&self, slots: u32, version: usize) -> Result<(), Error> {
        let program = &self.versions[version];
        Ok(self.runtime.transaction(|tx| (0..slots).for_each(|slot| tx.set(&self.array, slot, program)))?)
    }
    fn settle(&self) -> Result<(), Error> {
        Ok(self.runtime.barrier()?)
    }
}

impl Runner for LiveRunner {
    fn batch(&mut self, runs: u32) -> Result<Batch, Error> {
        let start = Instant::now();
        let mut pinned = self.worker.pin()?;
        let mut answer = MISSED;
        let mut left = runs as usize;
        while left > 0 {
            let some = left.min(self.contexts.len());
            pinned.run_batch(&self.caller, &mut self.contexts[..some], |_, verdict, _| answer = verdict)?;
            left -= some;
        }
        drop(pinned);
        let ns = start.elapsed().as_nanos() as f64 / f64::from(runs);
        Ok(Batch { ns, wall_ns: ns, answer })
    }
}
