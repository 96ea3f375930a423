//! The demo's chain in a runtime (assets/demo/README.md says how it is built).

use livebpf::object::Object;
use livebpf::runtime::{Ebpf, Engine, Error, MapHandle, Program, ProgramArray, Runtime};

/// The stages, in the order of the slots of `stages`.
pub const STAGES: [&str; 5] = ["acl", "conntrack", "balance", "count", "drop"];
/// Slots of `backends`.
pub const BACKENDS: u32 = 4;
/// Where the backends stand among the counts and in a trail.
pub const BACKEND: usize = 5;
/// Verdicts of XDP, by number.
pub const VERDICTS: [&str; 5] = ["aborted", "drop", "pass", "tx", "redirect"];
/// Source addresses, as they stand in packets, that the access list refuses.
const BLOCKED: [[u8; 4]; 2] = [[198, 51, 100, 66], [203, 0, 113, 66]];

static OBJECT: &[u8] = include_bytes!("../../assets/demo/chain.o");

/// Which program of a stage.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Version {
    First,
    Second,
}

impl Version {
    pub fn other(self) -> Version {
        match self {
            Version::First => Version::Second,
            Version::Second => Version::First,
        }
    }
}

/// The chain, loaded.
pub struct Chain {
    pub runtime: Runtime,
    pub stages: ProgramArray,
    pub backends: ProgramArray,
    ebpf: Ebpf,
    scratch: MapHandle,
    /// The stage whose first version is a broken one.
    broken: Option<usize>,
}

impl Chain {
    /// Loads the chain, all stages in their first version, for `cpus` workers. `broken` names a stage whose first version
    /// is to be one that does not do what it says.
    pub fn load(engine: Engine, cpus: u32, broken: Option<&str>) -> Result<Chain, Error> {
        let runtime = Runtime::builder().engine(engine).cpus(cpus).count_missed(true).build()?;
        let ebpf = runtime.load(&Object::parse(OBJECT)?)?;
        let map = |name| ebpf.map(name).ok_or_else(|| Error::Options(format!("the chain has no map {name}")));
        let (stages, backends) = (ProgramArray::try_from(map("stages")?)?, ProgramArray::try_from(map("backends")?)?);
        let scratch = map("scratch")?.clone();
        for address in BLOCKED {
            map("blocked")?.write(&address, &[0; 8], 0)?;
        }
        let broken = broken.and_then(|name| STAGES.iter().position(|stage| *stage == name));
        let chain = Chain { runtime, stages, backends, ebpf, scratch, broken };
        for stage in 0..STAGES.len() {
            chain.put(stage, Version::First)?;
        }
        Ok(chain)
    }

    /// A program of the chain.
    pub fn program(&self, name: &str) -> Result<&Program, Error> {
        self.ebpf.program(name).ok_or_else(|| Error::Options(format!("the chain has no program {name}")))
    }

    /// A map of the chain.
    pub fn map(&self, name: &str) -> Result<&MapHandle, Error> {
        self.ebpf.map(name).ok_or_else(|| Error::Options(format!("the chain has no map {name}")))
    }

    /// A global variable of the chain, 8 bytes.
    pub fn global(&self, name: &str) -> Result<u64, Error> {
        Ok(word(&self.ebpf.global(name)?, 0))
    }

    /// The program that every packet starts with.
    pub fn entry(&self) -> Result<&Program, Error> {
        self.program("parse")
    }

    /// Puts a version of a stage into its slot: an insert or a replace.
    pub fn put(&self, stage: usize, version: Version) -> Result<(), Error> {
        let name = match version {
            Version::First if self.broken == Some(stage) => format!("{}_broken", STAGES[stage]),
            Version::First => STAGES[stage].to_owned(),
            Version::Second => format!("{}_v2", STAGES[stage]),
        };
        self.stages.set(stage as u32, self.program(&name)?)
    }

    /// Empties a stage's slot.
    pub fn take(&self, stage: usize) -> Result<(), Error> {
        self.stages.clear_index(stage as u32)
    }

    /// Puts a backend into its slot.
    pub fn put_backend(&self, backend: u32) -> Result<(), Error> {
        self.backends.set(backend, self.program(&format!("backend_{backend}"))?)
    }

    /// What the last packet of worker `cpu` met on its way.
    #[inline]
    pub fn trail(&self, cpu: u32) -> Result<u32, Error> {
        let mut trail = [0; 4];
        self.scratch.read_cpu(&[0; 4], cpu, &mut trail)?;
        Ok(u32::from_le_bytes(trail))
    }
}

/// The 64-bit word at index `at`; 0 where there is none.
pub fn word(bytes: &[u8], at: usize) -> u64 {
    bytes.chunks_exact(8).nth(at).map_or(0, |b| b.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte)))
}
