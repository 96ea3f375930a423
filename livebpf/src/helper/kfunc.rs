//! Kernel functions that livebpf provides, by name: what each does with its arguments.
//!
//! Objects declare them as externs in `.ksyms` and call them by name. A linked program lists the names it calls
//! ([`crate::link::Program::kfuncs`]). The functions themselves are native glue, as those of helpers are.

use std::sync::LazyLock;

use super::{Arg, Proto, Ret};

/// Numbers under which the native functions are known, next to those of helpers: from here, below
/// [`super::FIRST_CUSTOM`].
pub const FIRST: u32 = 0xff00;

#[allow(missing_docs)]
pub mod id {
    //! Numbers of kernel functions.
    pub const ITER_NUM_NEW: u32 = super::FIRST;
    pub const ITER_NUM_NEXT: u32 = super::FIRST + 1;
    pub const ITER_NUM_DESTROY: u32 = super::FIRST + 2;
}

/// A kernel function's contract.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Kfunc {
    /// The name, with `bpf_`.
    pub name: &'static str,
    /// Its arguments and result. The first argument of an iterator's function is the iterator.
    pub proto: Proto,
    /// The iterator it works on.
    pub step: Option<Step>,
}

/// What a function does with an iterator, which is eight bytes in the stack of the program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Begins it.
    New,
    /// Answers the address of the next item, of so many bytes to be read, or null.
    Next {
        /// Bytes.
        item: u32,
    },
    /// Ends it.
    Destroy,
}

/// The kernel function called `name`.
pub fn by_name(name: &str) -> Option<&'static Kfunc> {
    ALL.iter().find(|kfunc| kfunc.name == name)
}

/// The kernel function numbered `id`.
pub fn by_id(id: u32) -> Option<&'static Kfunc> {
    ALL.iter().find(|kfunc| kfunc.proto.id == id)
}

/// All of them.
pub fn all() -> impl Iterator<Item = &'static Kfunc> {
    ALL.iter()
}

static ALL: LazyLock<Vec<Kfunc>> = LazyLock::new(|| {
    let iterator = |id, name: &'static str, step, more: &[Arg]| {
        let proto = Proto {
            id,
            name: name.to_owned(),
            args: [&[Arg::Out(8)], more].concat(),
            ret: Ret::Integer,
            changes_packet: false,
            packet_memory: false,
            gpl_only: true,
        };
        Kfunc { name, proto, step: Some(step) }
    };
    vec![
        iterator(id::ITER_NUM_NEW, "bpf_iter_num_new", Step::New, &[Arg::Scalar, Arg::Scalar]),
        iterator(id::ITER_NUM_NEXT, "bpf_iter_num_next", Step::Next { item: 4 }, &[]),
        iterator(id::ITER_NUM_DESTROY, "bpf_iter_num_destroy", Step::Destroy, &[]),
    ]
});

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::KFUNCS;

    #[test]
    fn what_objects_find_is_what_there_is() {
        assert_eq!(all().map(|k| k.name).collect::<Vec<_>>(), KFUNCS);
        for kfunc in all() {
            assert!(kfunc.proto.id >= FIRST && kfunc.proto.id < super::super::FIRST_CUSTOM);
            assert_eq!(kfunc.proto.check(), Ok(()));
            assert_eq!(by_id(kfunc.proto.id), by_name(kfunc.name));
        }
        assert_eq!(by_name("bpf_iter_bits_new"), None);
    }
}
