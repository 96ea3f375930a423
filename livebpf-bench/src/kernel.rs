//! The running kernel's side, through bpf(2).

use std::time::{Duration, Instant};

use livebpf::link::Program as Linked;
use livebpf_kernel_bpf::{Map, Program, RingReader, probe};

use crate::error::Error;
use crate::programs::{self, PACKET, VERSIONS};
use crate::sides::{Batch, Pair, Runner, Shape, Slots};
use crate::work::{Ring, Slot, Work};

struct KernelSlots {
    map: Map,
    versions: [Program; 2],
}

struct KernelRunner {
    caller: Program,
}

/// Loads everything into the kernel; nothing is attached.
pub fn set_up(shape: &Shape) -> Result<Pair, Error> {
    probe()?;
    let def = programs::array(shape.slots);
    let map = Map::create(&def)?;
    let load = |name, version: usize| Program::load(&programs::answers(name, VERSIONS[version]), &[]);
    let versions = [load("bench_first", 0)?, load("bench_second", 1)?];
    let caller = Program::load(&programs::caller(shape.sites, &def), &[&map])?;
    let slots = KernelSlots { map, versions };
    (0..shape.slots).try_for_each(|slot| slots.set(slot, 0))?;
    Ok(Pair { runner: Box::new(KernelRunner { caller }), slots: Box::new(slots) })
}

/// A program of a [`Work`].
struct Runs {
    /// Declared first: see [`KernelSlots`].
    programs: Vec<Program>,
    maps: Vec<Map>,
    /// To be emptied, and how many runs fill it.
    ring: Option<(RingReader, u32)>,
    /// To be run before anything else.
    first: Option<usize>,
    packet: Vec<u8>,
    slots: bool,
}

/// Loads the programs into the kernel; nothing is attached.
pub fn prepare(work: &Work) -> Result<Box<dyn Runner>, Error> {
    probe()?;
    if work.embedder {
        return Err(Error::Lacks("programs are given no functions of an embedder's"));
    }
    let defs = work.maps();
    let maps: Vec<Map> = defs.iter().map(|def| Map::create(def)).collect::<Result<_, _>>()?;
    let map = |name: &str| {
        let found = defs.iter().position(|def| def.name == name).and_then(|at| maps.get(at));
        found.ok_or(Error::Lacks("a map that was made is not there"))
    };
    let load = |program: &Linked| {
        let maps = program.maps.iter().map(|def| map(&def.name)).collect::<Result<Vec<_>, _>>()?;
        Ok::<_, Error>(Program::load(program, &maps)?)
    };
    let programs: Vec<Program> = work.programs.iter().map(load).collect::<Result<_, _>>()?;
    for Slot { array, index, program } in &work.slots {
        map(array)?.set(*index, &programs[*program])?;
    }
    if let Some([outer, inner]) = work.nested {
        let (outer, inner) = (map(outer)?, map(inner)?);
        Work::nested_keys().try_for_each(|key| outer.set_map(&key, inner))?;
    }
    if let Some(devices) = work.devices {
        let (key, value) = Work::LOOPBACK;
        map(devices)?.update(&key, &value, 0)?;
    }
    let reader = |ring: Ring| Ok::<_, Error>((RingReader::of(map(ring.map)?)?, ring.runs));
    let ring = work.ring.map(reader).transpose()?;
    let slots = !work.slots.is_empty();
    Ok(Box::new(Runs { programs, maps, ring, first: work.first, packet: work.packet.clone(), slots }))
}

impl Runner for Runs {
    fn batch(&mut self, runs: u32) -> Result<Batch, Error> {
        if let Some(n) = self.first.take() {
            self.programs[n].test_run(&self.packet, 1)?;
        }
        if let Some((ring, _)) = &mut self.ring {
            ring.skip();
        }
        test_run(&self.programs[0], &self.packet, runs)
    }

    fn most(&self) -> Option<u32> {
        self.ring.as_ref().map(|(_, runs)| *runs)
    }
}

impl Drop for Runs {
    /// As for [`KernelSlots`]; programs in slots and the array hold each other.
    fn drop(&mut self) {
        self.programs.clear();
        if self.slots {
            std::thread::sleep(Duration::from_millis(100));
        }
        self.maps.clear();
    }
}

impl Slots for KernelSlots {
    fn set(&self, slot: u32, version: usize) -> Result<(), Error> {
        Ok(self.map.set(slot, &self.versions[version])?)
    }
    fn clear(&self, slot: u32) -> Result<(), Error> {
        Ok(self.map.clear_index(slot)?)
    }
    fn settle(&self) -> Result<(), Error> {
        // Its updates return when all is done.
        Ok(())
    }
}

impl Drop for KernelSlots {
    /// The kernel empties an array whose last descriptor is closed, site by site, which takes 10 s for 1000 of them and would disturb
    /// whatever is measured next. The runner's descriptor is closed by now; its sites go a grace period later.
    fn drop(&mut self) {
        std::thread::sleep(Duration::from_millis(100));
    }
}

impl Runner for KernelRunner {
    /// The best clock is the kernel's own, which leaves out the system call and what else ran meanwhile, and rounds the average down to a
    /// nanosecond: half of one is added.
    fn batch(&mut self, runs: u32) -> Result<Batch, Error> {
        test_run(&self.caller, &PACKET, runs)
    }
}

fn test_run(program: &Program, packet: &[u8], runs: u32) -> Result<Batch, Error> {
    let start = Instant::now();
    let ran = program.test_run(packet, runs)?;
    let wall_ns = start.elapsed().as_nanos() as f64 / f64::from(runs);
    Ok(Batch { ns: ran.duration.as_nanos() as f64 + 0.5, wall_ns, answer: ran.retval })
}
