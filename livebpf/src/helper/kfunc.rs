//! Kernel functions that livebpf provides, by name: what each does with its arguments.
//!
//! Objects declare them as externs in `.ksyms` and call them by name. A linked program lists the names it calls
//! ([`crate::link::Program::kfuncs`]). The functions themselves are native glue, as those of helpers are.

use std::sync::LazyLock;

use super::{Arg, DynptrKind, Proto, Ret};
use crate::object::ProgType;

/// Numbers under which the native functions are known, next to those of helpers: from here, below
/// [`super::FIRST_CUSTOM`].
pub const FIRST: u32 = 0xff00;

#[allow(missing_docs)]
pub mod id {
    //! Numbers of kernel functions.
    pub const ITER_NUM_NEW: u32 = super::FIRST;
    pub const ITER_NUM_NEXT: u32 = super::FIRST + 1;
    pub const ITER_NUM_DESTROY: u32 = super::FIRST + 2;
    pub const DYNPTR_ADJUST: u32 = super::FIRST + 3;
    pub const DYNPTR_IS_NULL: u32 = super::FIRST + 4;
    pub const DYNPTR_IS_RDONLY: u32 = super::FIRST + 5;
    pub const DYNPTR_SIZE: u32 = super::FIRST + 6;
    pub const DYNPTR_CLONE: u32 = super::FIRST + 7;
    pub const DYNPTR_SLICE: u32 = super::FIRST + 8;
    pub const DYNPTR_SLICE_RDWR: u32 = super::FIRST + 9;
    pub const DYNPTR_FROM_SKB: u32 = super::FIRST + 10;
    pub const DYNPTR_FROM_XDP: u32 = super::FIRST + 11;
    /// `bpf_dynptr_from_skb` where programs may not write to the packet.
    pub const DYNPTR_FROM_SKB_RDONLY: u32 = super::FIRST + 12;
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
    /// The types of programs that may call it; empty: all.
    pub programs: &'static [ProgType],
}

impl Kfunc {
    /// The number of the native function that programs call which may (`writes_packet`) write to their packets, or not.
    pub fn function(&self, writes_packet: bool) -> u32 {
        match self.proto.id {
            id::DYNPTR_FROM_SKB if !writes_packet => id::DYNPTR_FROM_SKB_RDONLY,
            id => id,
        }
    }
}

/// Types of programs whose context is a socket buffer with a packet.
const SKB: &[ProgType] = &[
    ProgType::SCHED_CLS,
    ProgType::SCHED_ACT,
    ProgType::SK_SKB,
    ProgType::SOCKET_FILTER,
    ProgType::CGROUP_SKB,
    ProgType::LWT_IN,
    ProgType::LWT_OUT,
    ProgType::LWT_XMIT,
    ProgType::LWT_SEG6LOCAL,
];

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

/// Whether this is the number of a kernel function.
pub const fn is_function(id: u32) -> bool {
    id >= FIRST && id < super::FIRST_CUSTOM
}

/// The numbers of all native functions.
pub fn functions() -> impl Iterator<Item = u32> {
    ALL.iter().map(|kfunc| kfunc.proto.id).chain([id::DYNPTR_FROM_SKB_RDONLY])
}

static ALL: LazyLock<Vec<Kfunc>> = LazyLock::new(|| {
    let iterator = |id, name, step, more: &[Arg]| Kfunc {
        step: Some(step),
        ..kfunc(id, name, Ret::Integer, &[&[Arg::Out(8)], more].concat())
    };
    let slice = |id, name, write| {
        kfunc(id, name, Ret::SliceOrNull { write }, &[Arg::Dynptr, Arg::Scalar, Arg::Scratch, Arg::ScratchSize])
    };
    let packet = |id, name, kind, programs| Kfunc {
        programs,
        ..kfunc(id, name, Ret::Integer, &[Arg::Ctx, Arg::Scalar, Arg::DynptrNew(kind)])
    };
    let number = |id, name, more: &[Arg]| kfunc(id, name, Ret::Integer, &[&[Arg::Dynptr], more].concat());
    vec![
        iterator(id::ITER_NUM_NEW, "bpf_iter_num_new", Step::New, &[Arg::Scalar, Arg::Scalar]),
        iterator(id::ITER_NUM_NEXT, "bpf_iter_num_next", Step::Next { item: 4 }, &[]),
        iterator(id::ITER_NUM_DESTROY, "bpf_iter_num_destroy", Step::Destroy, &[]),
        number(id::DYNPTR_ADJUST, "bpf_dynptr_adjust", &[Arg::Scalar, Arg::Scalar]),
        number(id::DYNPTR_IS_NULL, "bpf_dynptr_is_null", &[]),
        number(id::DYNPTR_IS_RDONLY, "bpf_dynptr_is_rdonly", &[]),
        number(id::DYNPTR_SIZE, "bpf_dynptr_size", &[]),
        number(id::DYNPTR_CLONE, "bpf_dynptr_clone", &[Arg::DynptrClone]),
        slice(id::DYNPTR_SLICE, "bpf_dynptr_slice", false),
        slice(id::DYNPTR_SLICE_RDWR, "bpf_dynptr_slice_rdwr", true),
        packet(id::DYNPTR_FROM_SKB, "bpf_dynptr_from_skb", DynptrKind::Skb, SKB),
        packet(id::DYNPTR_FROM_XDP, "bpf_dynptr_from_xdp", DynptrKind::Xdp, &[ProgType::XDP]),
    ]
});

fn kfunc(id: u32, name: &'static str, ret: Ret, args: &[Arg]) -> Kfunc {
    let proto = Proto {
        id,
        name: name.to_owned(),
        args: args.to_vec(),
        ret,
        changes_packet: false,
        packet_memory: false,
        gpl_only: true,
    };
    Kfunc { name, proto, step: None, programs: &[] }
}

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
