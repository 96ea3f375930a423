//! What went wrong, and which exit status it means.

use livebpf::runtime::{Error, RunError};

/// A command that was not carried out.
#[derive(Debug)]
pub enum CliError {
    /// The words of the command are off: exit status 2.
    Usage(String),
    /// The command was understood and refused: exit status 1.
    Refused(String),
}

impl CliError {
    /// The words of the command are off.
    pub fn usage(message: impl Into<String>) -> CliError {
        CliError::Usage(message.into())
    }
    /// The command was understood and refused.
    pub fn refused(message: impl Into<String>) -> CliError {
        CliError::Refused(message.into())
    }
    /// A file could not be read or written.
    pub fn io(path: &str, error: &std::io::Error) -> CliError {
        CliError::Refused(format!("{path}: {error}"))
    }
    /// 1 or 2.
    pub fn exit_status(&self) -> u8 {
        match self {
            CliError::Usage(_) => 2,
            CliError::Refused(_) => 1,
        }
    }
}

impl std::fmt::Display for CliError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            CliError::Usage(message) | CliError::Refused(message) => f.write_str(message),
        }
    }
}

impl From<Error> for CliError {
    /// Map errors get the name of their error number, which scripts look for.
    fn from(error: Error) -> CliError {
        match &error {
            Error::Map { source, .. } => CliError::Refused(format!("{error} ({})", errno_name(source.errno()))),
            _ => CliError::Refused(error.to_string()),
        }
    }
}

impl From<RunError> for CliError {
    fn from(error: RunError) -> CliError {
        CliError::Refused(error.to_string())
    }
}

/// The name of an error number that a map can answer.
fn errno_name(errno: i32) -> String {
    let name = match errno {
        1 => "EPERM",
        2 => "ENOENT",
        7 => "E2BIG",
        9 => "EBADF",
        12 => "ENOMEM",
        16 => "EBUSY",
        17 => "EEXIST",
        22 => "EINVAL",
        524 => "ENOTSUPP",
        other => return format!("errno {other}"),
    };
    name.to_owned()
}
