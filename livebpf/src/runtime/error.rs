//! The library's top-level error.

use crate::jit::JitError;
use crate::link::LinkError;
use crate::map::MapError;
use crate::object::ObjectError;
use crate::rcu::WaitError;
use crate::run::RunError;
use crate::text::TextError;
use crate::text::patch::UpdateError;
use crate::verify::Rejection;

/// Why an operation on a runtime was refused. Nothing has changed when one is returned.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The object cannot be read.
    #[error(transparent)]
    Object(Box<ObjectError>),
    /// A program of the object cannot be put together.
    #[error("{source}")]
    Link {
        /// Its name.
        program: String,
        /// Why.
        source: Box<LinkError>,
    },
    /// A program was not accepted.
    #[error("verifier: {rejection}")]
    Rejected {
        /// Its name.
        program: String,
        /// Which rule, where, and the way there.
        rejection: Box<Rejection>,
    },
    /// A program cannot be compiled.
    #[error("program {program}: {source}")]
    Jit {
        /// Its name.
        program: String,
        /// Why.
        source: JitError,
    },
    /// There is no room for code, or no way to get it.
    #[error(transparent)]
    Text(#[from] TextError),
    /// A map cannot be created, or an operation on it was refused.
    #[error("map {map}: {source}")]
    Map {
        /// Its name.
        map: String,
        /// Why; [`MapError::errno`] gives the kernel's number.
        source: MapError,
    },
    /// The object has nothing of that name.
    #[error("no {kind} named {name:?}; there is {known}")]
    Unknown {
        /// `program`, `map` or `variable`.
        kind: &'static str,
        /// What was asked for.
        name: String,
        /// What there is, separated by commas.
        known: String,
    },
    /// The options of a load or a builder contradict each other or the object.
    #[error("{0}")]
    Options(String),
    /// The runtime holds as many programs as it can.
    #[error("the runtime holds {0} programs and can hold no more")]
    Full(usize),
    /// A change of a transaction was refused, and with it all others.
    #[error("change {step} of the transaction: {source}")]
    Step {
        /// Which, counted from 1.
        step: usize,
        /// What the single change would be refused with.
        source: Box<Error>,
    },
    /// Runs are still going on in so many generations that no other can be made.
    #[error("{live} generations are in use: runs that began before earlier transactions have not ended yet")]
    Generations {
        /// Generations that exist, the current one included.
        live: usize,
    },
    /// The new version of an object does not fit the old one.
    #[error("{what}: {remedy}")]
    Upgrade {
        /// Which map or program, and the difference.
        what: String,
        /// What the caller can do.
        remedy: &'static str,
    },
    /// A run or a worker was refused.
    #[error(transparent)]
    Run(#[from] RunError),
    /// An update or a load was refused: in a fork's child, or from inside another update (a signal handler).
    #[error(transparent)]
    Update(#[from] UpdateError),
    /// A wait was refused: in a fork's child, or where it would wait for itself.
    #[error(transparent)]
    Wait(#[from] WaitError),
}

/// Why an update of several slots was not made as a whole.
#[derive(Debug, thiserror::Error)]
#[error("after {done} changes were made: {source}")]
pub struct BatchError {
    /// How many changes were made: the first ones.
    pub done: usize,
    /// Why the next was refused.
    pub source: Error,
}

impl From<ObjectError> for Error {
    fn from(error: ObjectError) -> Error {
        Error::Object(Box::new(error))
    }
}
