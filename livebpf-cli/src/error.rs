//! What went wrong, and which exit status it means.

use livebpf::runtime::Error;

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
    fn from(error: Error) -> CliError {
        CliError::Refused(error.to_string())
    }
}
