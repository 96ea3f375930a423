//! A runtime of one engine that runs one suite after the other.

use livebpf::context::Context;
use livebpf::link::Program;
use livebpf::object::MapType;
pub use livebpf::runtime::Engine;
use livebpf::runtime::{Ebpf, Error, LoadOptions, RunError, Runtime, Worker};

#[cfg(feature = "campaign")]
use livebpf::verify::Verified;

use crate::Suite;

/// Address space for code: far more than a suite takes.
const CODE_BYTES: u64 = 16 << 20;

/// Workers of a bench, which have a CPU each.
pub const CPUS: u32 = 2;

/// Every other suite counts its missed tail calls: decided by the suite, so that it is the same in every engine and whenever the
/// suite is made again.
fn options<'p>(programs: impl Iterator<Item = &'p Program> + Clone) -> LoadOptions {
    let counts = programs.clone().map(|program| program.insns.len()).sum::<u32>().is_multiple_of(2);
    let maps = programs.flat_map(|program| &program.maps);
    let arrays = maps.filter(|map| counts && map.map_type == MapType::PROG_ARRAY);
    arrays.fold(LoadOptions::default(), |options, map| options.count_missed(&map.name, true))
}

/// A runtime and its workers.
pub struct Bench {
    runtime: Runtime,
    workers: Vec<Worker>,
    /// Bytes of code in use before anything is loaded.
    empty: u64,
}

impl Bench {
    /// A runtime without programs.
    ///
    /// # Errors
    /// Where the system refuses executable memory.
    pub fn new(engine: Engine) -> Result<Bench, Error> {
        let runtime = Runtime::builder().engine(engine).cpus(CPUS).code_bytes(CODE_BYTES).build()?;
        let workers = (0..CPUS).map(|_| runtime.worker()).collect::<Result<_, _>>()?;
        let empty = runtime.code_used();
        Ok(Bench { runtime, workers, empty })
    }

    /// How programs are executed.
    pub fn engine(&self) -> Engine {
        self.runtime.engine()
    }

    /// Loads all programs of the suite, with maps of their own. Every other suite counts its missed tail calls.
    ///
    /// # Errors
    /// As [`Runtime::load_linked`].
    pub fn load(&self, suite: &Suite) -> Result<Ebpf, Error> {
        self.runtime.load_linked_with(suite.programs.clone(), &options(suite.programs.iter()))
    }

    /// The same for programs that have been verified.
    ///
    /// # Errors
    /// As [`Runtime::load_linked`].
    #[cfg(feature = "campaign")]
    pub fn load_proven(&self, programs: Vec<Verified>) -> Result<Ebpf, Error> {
        let options = options(programs.iter().map(Verified::program));
        self.runtime.load_proven(programs, &options)
    }

    /// Takes the programs that the verifier refuses out of the suite and loads the others.
    ///
    /// # Errors
    /// Where one is refused that the verifier accepted.
    pub fn load_accepted(&self, suite: &mut Suite) -> Result<Ebpf, Error> {
        loop {
            match self.load(suite) {
                Err(Error::Rejected { program, .. }) => suite.programs.retain(|kept| kept.name != program),
                loaded => return loaded,
            }
        }
    }

    /// Runs a program that was loaded here.
    ///
    /// # Errors
    /// As [`Worker::run`].
    ///
    /// # Panics
    /// Without such a program or CPU.
    pub fn run(&mut self, ebpf: &Ebpf, program: &str, cpu: u32, context: &mut Context) -> Result<u32, RunError> {
        let program = ebpf.program(program).expect("a program that was loaded");
        self.workers[cpu as usize].run(program, context)
    }

    /// The same in the interpreter, which gives up after so many instructions.
    ///
    /// # Errors
    /// As [`Worker::run`].
    ///
    /// # Panics
    /// Without such a program or CPU.
    #[cfg(feature = "campaign")]
    pub fn interpret(
        &mut self,
        ebpf: &Ebpf,
        program: &str,
        cpu: u32,
        context: &mut Context,
        max_insns: u64,
    ) -> Result<u32, RunError> {
        let program = ebpf.program(program).expect("a program that was loaded");
        let limits = livebpf::interp::Limits { max_insns };
        self.workers[cpu as usize].run_witnessed(program, context, limits, &[]).map(|r0| r0 as u32)
    }

    /// After all programs have been dropped: the code memory is as empty as at the start.
    ///
    /// # Errors
    /// Says how much is in use.
    pub fn check_empty(&self) -> Result<(), String> {
        // What the first wait frees can free more: a map's programs after the map.
        for _ in 0..3 {
            self.runtime.barrier().map_err(|error| error.to_string())?;
        }
        match self.runtime.code_used() {
            used if used == self.empty => Ok(()),
            used => Err(format!("{}: {used} bytes of code in use, {} at the start", self.engine(), self.empty)),
        }
    }
}
