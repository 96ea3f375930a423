//! Why a run did not happen or did not end well.

use crate::interp::Fault;
use crate::object::ProgType;

/// Why [`Worker::run`](super::Worker::run) has no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The program was loaded by another runtime.
    #[error("program {program} belongs to another runtime than the worker")]
    OtherRuntime {
        /// Its name.
        program: String,
    },
    /// The context is of another type than the program's.
    #[error("program {program} takes a context for {wanted}, found one for {found}")]
    Context {
        /// Its name.
        program: String,
        /// Its type.
        wanted: ProgType,
        /// The type that the context was made for.
        found: ProgType,
    },
    /// Runs are nested too deeply.
    #[error("runs are nested {found} deep, at most {limit} are allowed")]
    TooDeep {
        /// How deep this one would be.
        found: u32,
        /// The limit.
        limit: u32,
    },
    /// The thread's stack is too small for the worst chain of tail calls.
    #[error(
        "{found} bytes of stack are left, the worst chain of tail calls needs {wanted}: run on a thread with a larger stack"
    )]
    Stack {
        /// Bytes left.
        found: u64,
        /// Bytes needed.
        wanted: u64,
    },
    /// A helper panicked; the run was ended.
    #[error("a helper called by program {program} panicked")]
    HelperPanicked {
        /// The program that was started.
        program: String,
    },
    /// The interpreter refused an access or an instruction.
    #[error("program {program}: {fault}")]
    Fault {
        /// The program that was started.
        program: String,
        /// What happened.
        fault: Fault,
    },
    /// The process is a fork's child; it shares the parent's code.
    #[error("this process was forked from the one that made the runtime: make a runtime of its own")]
    Forked,
    /// A nested run was asked for outside of a run.
    #[error("a nested run needs a run around it")]
    NotInside,
    /// A nested run of a program that was loaded after a transaction, inside a run that began before it.
    #[error("program {program} was loaded after a transaction that the run around this one does not see")]
    Younger {
        /// Its name.
        program: String,
    },
    /// Every CPU number is taken by a worker.
    #[error("all {cpus} CPU numbers have a worker: build the runtime with a larger `cpus`")]
    NoCpu {
        /// How many there are.
        cpus: u32,
    },
}
