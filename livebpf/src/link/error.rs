//! Why a program could not be linked.

use thiserror::Error;

use crate::insn::{DecodeError, Pc};
use crate::object::BtfError;

/// Why [`super::link`] refused a program. `program` is the entry's name, `pc` a slot within `function`.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum LinkError {
    /// There is no such program.
    #[error("program {program}: found no entry program of that name, wanted one of: {have}")]
    NoProgram {
        /// The name asked for.
        program: String,
        /// The names there are.
        have: String,
    },
    /// The program is of a kind that cannot run here.
    #[error("program {program}: found section {section}, wanted {wanted}")]
    Kind {
        /// The program.
        program: String,
        /// Its section.
        section: String,
        /// What is possible, and why this is not.
        wanted: String,
    },
    /// Bytes that are no instruction.
    #[error("program {program}: function {function} in section {section}: {source}")]
    Decode {
        /// The program.
        program: String,
        /// The function, whose first slot counts as 0.
        function: String,
        /// The section of the function.
        section: String,
        /// What is wrong.
        source: DecodeError,
    },
    /// An instruction and what it refers to do not fit.
    #[error("program {program}: function {function}, slot {pc}: found {found}, wanted {wanted}")]
    Insn {
        /// The program.
        program: String,
        /// The function.
        function: String,
        /// Slot within the function.
        pc: Pc,
        /// What stands there.
        found: String,
        /// What should.
        wanted: String,
    },
    /// A symbol that only a kernel has.
    #[error(
        "program {program}: function {function}, slot {pc}: found {kind} {name}, wanted a weak extern: there is no kernel here"
    )]
    Extern {
        /// The program.
        program: String,
        /// The function.
        function: String,
        /// Slot within the function.
        pc: Pc,
        /// What it is.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// A CO-RE relocation.
    #[error(
        "program {program}: function {function}, slot {pc}: found a CO-RE relocation ({relocation} of {root}, access {access}), wanted types that are the same everywhere: there are no kernel types here"
    )]
    Core {
        /// The program.
        program: String,
        /// The function.
        function: String,
        /// Slot within the function.
        pc: Pc,
        /// What is asked of the type.
        relocation: &'static str,
        /// The type.
        root: String,
        /// The path of member numbers.
        access: String,
    },
    /// The type information that the program uses is broken.
    #[error("program {program}: function {function}: {source}")]
    Btf {
        /// The program.
        program: String,
        /// The function.
        function: String,
        /// What is wrong.
        source: BtfError,
    },
    /// More code than anybody runs.
    #[error("program {program}: found {found} slots, wanted at most {wanted}")]
    TooLong {
        /// The program.
        program: String,
        /// How many, at the point where counting stopped.
        found: u64,
        /// The limit.
        wanted: u64,
    },
}
