//! `upgrade_mixed`: how many packets each upgrade of a chain lets two versions handle at once, or none.
//!
//! The chain is an entry and twelve stages, each of which stamps the packet with its version. Two runners send packets through it and
//! look at the stamps; meanwhile a third thread upgrades: livebpf by [`Runtime::upgrade`], with everything that belongs to it
//! (linking, verifying, compiling, one transaction); the kernel slot by slot, which is the only way it has, with both
//! versions loaded beforehand and the entry exchanged last. Both begin an upgrade every 10 ms,
//! or as soon as the one before is done.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use livebpf::context::Context;
use livebpf::link::{self, Program as Linked};
use livebpf::object::Object;
use livebpf::runtime::{Ebpf, Engine, Error as LiveError, Program, Runtime, UpgradeOptions};
use livebpf_kernel_bpf as kernel;

use crate::Session;
use crate::contestant::{Contestant, NO_RUNTIME};
use crate::error::Error;
use crate::interleave::{Budget, Entrant, Side, interleave};
use crate::report::{Column, Measured};
use crate::row::{Row, Unit, Wanted};

const NAME: &str = "upgrade_mixed";
/// Upgrades in a round.
const UPGRADES: usize = 50;
/// From the beginning of one upgrade to that of the next, for every contestant.
const PACE: Duration = Duration::from_millis(10);
/// 1000 upgrades.
const BUDGET: Budget = Budget { time: Duration::from_secs(60), most: 20, least: 2 };
/// Both versions of the chain.
const OBJECTS: [&[u8]; 2] = [
    include_bytes!("../../livebpf/tests/data/upgrade/chain_v1.o"),
    include_bytes!("../../livebpf/tests/data/upgrade/chain_v2.o"),
];
const STAGES: usize = 12;
const XDP_TX: u32 = 3;
const PACKET: [u8; 64] = [0; 64];

pub fn rows() -> Vec<Row> {
    vec![Row::new(NAME, Unit::Packets, vec![Wanted::AtMost(0.0)])]
}

/// Measures the row, if it is wanted.
pub fn measure(session: &mut Session<'_>) -> Vec<Measured> {
    if !session.wants(NAME) {
        return Vec::new();
    }
    (session.progress)("upgrade_mixed: upgrades of a chain that runs");
    let entrant = |contestant: Contestant| Entrant::new(contestant, set_up(contestant, session.options.engine), 1);
    let mut entrants: Vec<Entrant<'_>> = session.runtimes().map(entrant).collect();
    interleave(&mut entrants, &BUDGET.with(session.options.effort));
    let columns = entrants.iter().map(|entrant| Column::of(entrant, 0)).collect();
    rows().into_iter().map(|row| Measured { row, columns: Vec::clone(&columns) }).collect()
}

fn set_up(contestant: Contestant, engine: Engine) -> Result<Box<dyn Side>, Error> {
    Ok(match contestant {
        Contestant::Livebpf => Box::new(Live::new(engine)?),
        Contestant::Kernel => Box::new(Kernel::new()?),
        _ => return Err(NO_RUNTIME),
    })
}

/// What the runners counted.
#[derive(Default, Clone, Copy)]
struct Counts {
    packets: u64,
    mixed: u64,
}

impl Counts {
    /// A packet that came out, with the chain's answer.
    fn note(&mut self, answer: u32, packet: &[u8]) {
        self.packets += 1;
        let stamps = packet.get(..=STAGES).unwrap_or_default();
        let whole = answer == XDP_TX && stamps.first().is_some_and(|first| stamps.iter().all(|stamp| stamp == first));
        self.mixed += u64::from(!whole);
    }
}

/// Two runners while upgrades are made; adds the mixed packets for each upgrade to the samples.
fn beside(
    samples: &mut [Vec<f64>],
    runner: impl Fn(&AtomicBool) -> Result<Counts, Error> + Sync,
    mut upgrade: impl FnMut() -> Result<(), Error>,
) -> Result<(), Error> {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let runners = [0, 1].map(|_| scope.spawn(|| runner(&stop)));
        let begin = Instant::now();
        let worked = (0..UPGRADES as u32).try_for_each(|number| {
            thread::sleep((PACE * number).saturating_sub(begin.elapsed()));
            upgrade()
        });
        stop.store(true, Ordering::Relaxed);
        let mut total = Counts::default();
        for runner in runners {
            let counts = runner.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            total.packets += counts.packets;
            total.mixed += counts.mixed;
        }
        worked?;
        if total.packets == 0 {
            return Err(Error::Lacks("no packet came through"));
        }
        samples[0].push(total.mixed as f64 / UPGRADES as f64);
        Ok(())
    })
}

fn objects() -> Result<[Object; 2], Error> {
    let parse = |bytes| Object::parse(bytes).map_err(LiveError::from);
    Ok([parse(OBJECTS[0])?, parse(OBJECTS[1])?])
}

/// livebpf's side.
struct Live {
    runtime: Runtime,
    objects: [Object; 2],
    /// The version that runs, and which it is.
    current: Ebpf,
    version: usize,
    entry: Program,
}

impl Live {
    fn new(engine: Engine) -> Result<Live, Error> {
        let runtime = Runtime::builder().engine(engine).cpus(4).build()?;
        let objects = objects()?;
        let current = runtime.load(&objects[0])?;
        let entry = current.program("entry").cloned().ok_or(Error::Lacks("the chain has no entry"))?;
        Ok(Live { runtime, objects, current, version: 0, entry })
    }

    fn upgrade(&self, version: usize) -> Result<Ebpf, Error> {
        let options = UpgradeOptions::default().drop_program("news_count");
        loop {
            match self.runtime.upgrade(&self.current, &self.objects[version], &options) {
                Ok(upgrade) => return Ok(upgrade.finish()),
                // A runner that is not scheduled keeps its generation.
                Err(LiveError::Generations { .. }) => self.runtime.barrier()?,
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Side for Live {
    fn round(&mut self, samples: &mut [Vec<f64>]) -> Result<(), Error> {
        let (runtime, entry) = (self.runtime.clone(), self.entry.clone());
        let runner = |stop: &AtomicBool| {
            let (mut worker, mut counts) = (runtime.worker()?, Counts::default());
            let (mut context, mut packet) = (Context::xdp(&PACKET)?, Vec::new());
            while !stop.load(Ordering::Relaxed) {
                context.reset(&PACKET)?;
                let answer = worker.run(&entry, &mut context)?;
                context.packet_into(&mut packet);
                counts.note(answer, &packet);
            }
            Ok(counts)
        };
        beside(samples, runner, || {
            self.version = 1 - self.version;
            self.current = self.upgrade(self.version)?;
            Ok(())
        })
    }
}

/// The kernel's side.
struct Kernel {
    stages: kernel::Map,
    /// By version: the entry, then the stages.
    versions: [Vec<kernel::Program>; 2],
    version: AtomicUsize,
    _maps: Vec<kernel::Map>,
}

impl Kernel {
    fn new() -> Result<Kernel, Error> {
        kernel::probe()?;
        let objects = objects()?;
        let names: Vec<String> = (0..STAGES).map(|stage| format!("stage_{stage}")).collect();
        let names: Vec<&str> = std::iter::once("entry").chain(names.iter().map(String::as_str)).collect();
        let linked = |object: &Object| -> Result<Vec<Linked>, Error> {
            let link = |name: &&str| link::link(object, name).map_err(|_| Error::Lacks("the chain cannot be linked"));
            names.iter().map(link).collect()
        };
        let linked = [linked(&objects[0])?, linked(&objects[1])?];
        let mut defs = Vec::new();
        for def in linked.iter().flatten().flat_map(|program| &program.maps) {
            if !defs.iter().any(|known: &std::sync::Arc<livebpf::object::MapDef>| known.name == def.name) {
                defs.push(def.clone());
            }
        }
        let mut maps = defs.iter().map(|def| kernel::Map::create(def)).collect::<Result<Vec<_>, _>>()?;
        let load = |program: &Linked| {
            let map = |def: &std::sync::Arc<livebpf::object::MapDef>| {
                let at = defs.iter().position(|known| known.name == def.name);
                at.and_then(|at| maps.get(at)).ok_or(Error::Lacks("a map that was made is not there"))
            };
            let maps = program.maps.iter().map(map).collect::<Result<Vec<_>, _>>()?;
            Ok::<_, Error>(kernel::Program::load(program, &maps)?)
        };
        let version = |programs: &[Linked]| programs.iter().map(load).collect::<Result<Vec<_>, _>>();
        let versions = [version(&linked[0])?, version(&linked[1])?];
        let at = defs.iter().position(|def| def.name == "stages").ok_or(Error::Lacks("the chain has no stages"))?;
        let side = Kernel { stages: maps.remove(at), versions, version: AtomicUsize::new(0), _maps: maps };
        side.fill(0)?;
        Ok(side)
    }

    /// Slot by slot, the entry last.
    fn fill(&self, version: usize) -> Result<(), Error> {
        for (slot, stage) in (0..).zip(&self.versions[version][1..]) {
            self.stages.set(slot, stage)?;
        }
        self.version.store(version, Ordering::Release);
        Ok(())
    }
}

impl Side for Kernel {
    fn round(&mut self, samples: &mut [Vec<f64>]) -> Result<(), Error> {
        let this = &*self;
        let runner = |stop: &AtomicBool| {
            let mut counts = Counts::default();
            while !stop.load(Ordering::Relaxed) {
                let entry = &this.versions[this.version.load(Ordering::Acquire)][0];
                let ran = entry.test_run_packet(&PACKET)?;
                counts.note(ran.retval, &ran.data_out);
            }
            Ok(counts)
        };
        beside(samples, runner, || (0..UPGRADES).try_for_each(|_| this.fill(1 - this.version.load(Ordering::Acquire))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_is_whole_when_one_version_stamped_it_to_the_end() {
        let mut counts = Counts::default();
        let mut packet = [2; 64];
        counts.note(XDP_TX, &packet);
        assert_eq!((counts.packets, counts.mixed), (1, 0));
        counts.note(1, &packet);
        packet[3] = 1;
        counts.note(XDP_TX, &packet);
        counts.note(XDP_TX, &[]);
        assert_eq!((counts.packets, counts.mixed), (4, 3));
    }

    #[test]
    fn livebpf_mixes_nothing() {
        let mut samples = [Vec::new()];
        Live::new(Engine::Jit).and_then(|mut live| live.round(&mut samples)).expect("a round");
        assert_eq!(samples[0], [0.0]);
    }
}
