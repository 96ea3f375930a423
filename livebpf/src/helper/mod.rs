//! Helper id → prototype: what each argument must be, what is returned, what the call changes.
//!
//! The functions themselves are native glue and live in `run::helpers`; this room holds what the verifier, the
//! code generator and the interpreter need to know about them, as data.

use std::collections::BTreeMap;

/// What an argument must be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Arg {
    /// Any initialised value.
    Anything,
    /// A number.
    Scalar,
    /// The context as it was passed to the program.
    Ctx,
    /// A map, known at load time.
    Map,
    /// Readable memory of the map's key size.
    MapKey,
    /// Readable memory of the map's value size.
    MapValue,
    /// Writable memory of the map's value size.
    MapValueUninit,
    /// Readable memory; the next argument is its size.
    Mem,
    /// The same, or null when the size is 0 or the value is the constant null.
    MemOrNull,
    /// Memory to be written, need not be initialised; the next argument is its size.
    MemUninit,
    /// Size in bytes of the memory in the argument before; at least 1.
    Size,
    /// Size in bytes of the memory in the argument before; 0 allowed.
    SizeOrZero,
}

/// What is returned in R0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ret {
    /// A number.
    Integer,
    /// Nothing: R0 is unreadable.
    Void,
    /// A pointer to the map's value, or null.
    MapValueOrNull,
}

/// A helper's contract.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Proto {
    /// Number, as in `enum bpf_func_id`; embedders' own from [`FIRST_CUSTOM`].
    pub id: u32,
    /// Name without `bpf_`, for instance `map_lookup_elem`.
    pub name: String,
    /// Up to five arguments.
    pub args: Vec<Arg>,
    /// Return value.
    pub ret: Ret,
    /// Packet pointers are stale after the call.
    pub changes_packet: bool,
    /// Needs a GPL-compatible licence.
    pub gpl_only: bool,
}

/// Helpers numbered from here belong to the embedder.
pub const FIRST_CUSTOM: u32 = 0x1_0000;

#[allow(missing_docs)]
pub mod id {
    //! Numbers of the helpers, as in `enum bpf_func_id`.
    pub const MAP_LOOKUP_ELEM: u32 = 1;
    pub const MAP_UPDATE_ELEM: u32 = 2;
    pub const MAP_DELETE_ELEM: u32 = 3;
    pub const KTIME_GET_NS: u32 = 5;
    pub const TRACE_PRINTK: u32 = 6;
    pub const GET_PRANDOM_U32: u32 = 7;
    pub const GET_SMP_PROCESSOR_ID: u32 = 8;
    pub const TAIL_CALL: u32 = 12;
    pub const SKB_LOAD_BYTES: u32 = 26;
    pub const XDP_ADJUST_HEAD: u32 = 44;
    pub const XDP_ADJUST_TAIL: u32 = 65;
}

/// All helpers of a runtime: the built-in ones and the embedder's.
#[derive(Clone, Debug, Default)]
pub struct Table {
    protos: BTreeMap<u32, Proto>,
}

impl Table {
    /// The helper numbered `id`.
    pub fn get(&self, id: u32) -> Option<&Proto> {
        self.protos.get(&id)
    }
    /// Adds or replaces one.
    pub fn insert(&mut self, proto: Proto) {
        self.protos.insert(proto.id, proto);
    }
}
