//! What programs must have in common to be in one program array, and to use it.

use std::fmt;

use crate::map::MapError;
use crate::object::ProgramKind;

/// What executes a program: members of one array must agree, because a tail call cannot change over.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Execution {
    /// The interpreter.
    Interpreted,
    /// Machine code, patched or not.
    Native,
}

/// What programs must have in common to be in one array, and to use it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Contract {
    /// Program type, expected attach type, multi-buffer packets, may sleep.
    pub kind: ProgramKind,
    /// Who executes it.
    pub execution: Execution,
}

impl Contract {
    /// Whether `self`, a program's, fits `owner`, the array's: the first difference otherwise.
    pub(super) fn fits(&self, owner: &Contract) -> Result<(), MapError> {
        let refuse = |what: &str, found: &dyn fmt::Debug, wanted: &dyn fmt::Debug| {
            let text = format!(
                "the program does not fit the program array: its {what} is {found:?}, the array's programs have {wanted:?}"
            );
            Err(MapError::Invalid(text.into()))
        };
        let (found, wanted) = (&self.kind, &owner.kind);
        if found.prog_type != wanted.prog_type {
            let names = (found.prog_type.to_string(), wanted.prog_type.to_string());
            return refuse("type", &names.0, &names.1);
        }
        if self.execution != owner.execution {
            return refuse("way of execution", &self.execution, &owner.execution);
        }
        if found.xdp_frags != wanted.xdp_frags {
            return refuse("support of multi-buffer packets", &found.xdp_frags, &wanted.xdp_frags);
        }
        if found.attach_type != wanted.attach_type {
            return refuse("expected attach type", &found.attach_type.0, &wanted.attach_type.0);
        }
        if found.sleepable != wanted.sleepable {
            return refuse("permission to sleep", &found.sleepable, &wanted.sleepable);
        }
        Ok(())
    }
}
