//! What keeps a row, or a contestant in it, from being measured.

/// Why something was not measured.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A name that stands for nothing.
    #[error("no {kind} is named {name:?}; there is {known}")]
    Unknown {
        /// Of what kind.
        kind: &'static str,
        /// What was found.
        name: String,
        /// The names there are.
        known: String,
    },
    /// An object file whose programs cannot be measured.
    #[error("{path}: {why}")]
    Object {
        /// The file.
        path: std::path::PathBuf,
        /// Why not.
        why: String,
    },
    /// livebpf refused.
    #[error(transparent)]
    Livebpf(#[from] livebpf::runtime::Error),
    /// livebpf refused a run.
    #[error(transparent)]
    Run(#[from] livebpf::runtime::RunError),
    /// The kernel refused, or cannot be asked.
    #[error(transparent)]
    Kernel(#[from] livebpf_kernel_bpf::Error),
    /// A program was not given a packet.
    #[error(transparent)]
    Context(#[from] livebpf::context::ContextError),
    /// A thread could not be placed.
    #[error("cpu {cpu}: {source}")]
    Pin {
        /// Where it was to run.
        cpu: usize,
        /// The system's answer.
        source: std::io::Error,
    },
    /// Fewer CPUs than threads that must not share one.
    #[error("found {found} CPU to run on, wanted 2: one for the runner, one for the updater")]
    Cpus {
        /// CPUs there are.
        found: usize,
    },
    /// A contestant computed something else than the row is about.
    #[error("the program answered {found}, wanted {wanted}: what was measured is not what was meant")]
    Answer {
        /// What it answered.
        found: u32,
        /// What is right.
        wanted: &'static str,
    },
    /// A contestant computed something else than the others.
    #[error("the program answered {found}, wanted {wanted}")]
    R0 {
        /// What it answered.
        found: u32,
        /// What is right.
        wanted: u32,
    },
    /// What C there is was not compiled or loaded.
    #[error("{0}")]
    Library(String),
    /// A program whose runs are not measured.
    #[error("{0}")]
    LeftOut(String),
    /// Another's machine refused.
    #[error("{0}")]
    Peer(String),
    /// This contestant has no such thing.
    #[error("{0}")]
    Lacks(&'static str),
}

impl Error {
    pub(crate) fn unknown<'a>(kind: &'static str, name: &str, known: impl Iterator<Item = &'a str>) -> Error {
        Error::Unknown { kind, name: name.to_owned(), known: known.collect::<Vec<_>>().join(", ") }
    }
}
