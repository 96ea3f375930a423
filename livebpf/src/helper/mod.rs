//! Helper id → prototype: what each argument must be, what is returned, what the call changes.
//!
//! The functions themselves are native glue and live in `run::helpers`; this room holds what the verifier, the
//! code generator and the interpreter need to know about them, as data.

mod builtin;
pub mod id;
pub mod kfunc;
pub(crate) mod redirect;
mod sets;

pub use sets::HelperSet;

use std::collections::BTreeMap;

use thiserror::Error;

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
    /// The same, or the constant null when the size is 0.
    MemUninitOrNull,
    /// Readable memory that is written as well; the next argument is its size.
    MemInOut,
    /// Memory of this many bytes to be written, need not be initialised, at an address that is a multiple of its size.
    Out(u32),
    /// A string that ends with NUL, in data that nobody can change: `.rodata`.
    ConstStr,
    /// Size in bytes of the memory in the argument before; at least 1.
    Size,
    /// Size in bytes of the memory in the argument before; 0 allowed.
    SizeOrZero,
    /// Size in bytes of the memory that is handed out, a constant.
    AllocSize,
    /// A record of a ring buffer as it was reserved, which the call takes back.
    Record,
    /// The lock in a map's value: `struct bpf_spin_lock`.
    SpinLock,
    /// What an embedder's helper handed out ([`Ret::AcquiredOrNull`]) and the program keeps.
    Borrowed(Class),
    /// The same, which the call takes back.
    Released(Class),
    /// A function of the program that the helper calls back.
    Callback,
    /// An address in the stack, or null: what callbacks are given.
    StackOrNull,
    /// A dynptr that was made.
    Dynptr,
    /// 16 bytes of the stack, where the call makes a dynptr of this kind.
    DynptrNew(DynptrKind),
    /// 16 bytes of the stack, where the call makes another dynptr of what the one in an argument before stands for.
    DynptrClone,
    /// A dynptr of a record of a ring buffer, which the call takes back.
    DynptrReleased,
    /// Memory that is read and written, or null; the next argument is its size.
    Scratch,
    /// Size in bytes of the memory in the argument before, and of the memory that is handed out, a constant.
    ScratchSize,
}

/// What a dynptr stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DynptrKind {
    /// Memory in a map's value.
    Local,
    /// A record of a ring buffer.
    Ringbuf,
    /// The packet of a socket buffer.
    Skb,
    /// The packet of an XDP program.
    Xdp,
}

/// Bytes of a dynptr in the stack.
pub const DYNPTR_SIZE: u32 = 16;

impl DynptrKind {
    /// The name in the kernel's messages.
    pub const fn name(self) -> &'static str {
        match self {
            DynptrKind::Local => "local",
            DynptrKind::Ringbuf => "ringbuf",
            DynptrKind::Skb => "skb",
            DynptrKind::Xdp => "xdp",
        }
    }
    /// Whether it stands for a packet.
    pub const fn is_packet(self) -> bool {
        matches!(self, DynptrKind::Skb | DynptrKind::Xdp)
    }
}

/// What an embedder's helpers hand out and take back: a number of the embedder's choice for each kind of it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Class(pub u32);

/// What is returned in R0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ret {
    /// A number.
    Integer,
    /// Nothing: R0 is unreadable.
    Void,
    /// A pointer to the map's value, or null.
    MapValueOrNull,
    /// A record of the ring buffer, as long as [`Arg::AllocSize`] says, or null. Programs must submit or discard it.
    RecordOrNull,
    /// What the embedder hands out, or null: memory of `size` bytes, or with 0 an opaque handle. Programs must pass it to a
    /// helper with [`Arg::Released`] of the same class, once on every path.
    AcquiredOrNull {
        /// Who takes it back.
        class: Class,
        /// Bytes that programs may read and write; 0: none.
        size: u32,
    },
    /// The number of a CPU.
    Cpu,
    /// At most the size in the argument numbered so (from 0), or a negative error number.
    AtMost(usize),
    /// Memory of the dynptr among the arguments, as long as [`Arg::AllocSize`] or [`Arg::ScratchSize`] says, or null.
    SliceOrNull {
        /// It may be written, too.
        write: bool,
    },
}

/// Largest error number (`MAX_ERRNO`).
pub const MAX_ERRNO: i64 = 4095;

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
    /// Memory arguments may lie in the packet.
    pub packet_memory: bool,
    /// Needs a GPL-compatible licence.
    pub gpl_only: bool,
}

/// Most bytes of memory that an embedder's helper hands out at a time.
pub const MAX_ACQUIRED: u32 = 1 << 24;

/// Helpers numbered from here belong to the embedder.
pub const FIRST_CUSTOM: u32 = 0x1_0000;

/// Whether the kernel's helper `id` calls functions of the program.
pub const fn calls_back(id: u32) -> bool {
    matches!(id, id::FOR_EACH_MAP_ELEM | id::LOOP)
}

/// Most calls of one `loop`, and most passes of `may_goto` in one activation (the kernel's `BPF_MAX_LOOPS`).
pub const MAX_LOOPS: u64 = 8 * 1024 * 1024;

/// All helpers of a runtime: the built-in ones and the embedder's.
#[derive(Clone, Debug, Default)]
pub struct Table {
    protos: BTreeMap<u32, Proto>,
}

/// Why a helper cannot be registered.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[allow(missing_docs)]
pub enum TableError {
    #[error("helper {name}: number {id} belongs to the kernel's helpers, wanted {FIRST_CUSTOM} or more")]
    Reserved { name: String, id: u32 },
    #[error("helper {name}: number {id} is taken by {by}")]
    NumberTaken { name: String, id: u32, by: String },
    #[error("helper {id}: the name {name} is taken by helper {by}")]
    NameTaken { id: u32, name: String, by: u32 },
    #[error("helper {id}: found the name {name:?}, wanted a C identifier")]
    BadName { id: u32, name: String },
    #[error("helper {name}: {found} arguments, wanted at most 5")]
    TooManyArgs { name: String, found: usize },
    #[error("helper {name}: argument {arg} is a memory address, wanted its size in the next argument")]
    MemWithoutSize { name: String, arg: usize },
    #[error("helper {name}: argument {arg} is a size, wanted a memory address in the argument before")]
    SizeWithoutMem { name: String, arg: usize },
    #[error("helper {name}: argument {arg} depends on a map, wanted a map in an argument before")]
    NoMap { name: String, arg: usize },
    #[error("helper {name}: argument {arg} is a second map, wanted at most one")]
    SecondMap { name: String, arg: usize },
    #[error(
        "helper {name}: the result is an address or a limited number, which only the kernel's helpers may answer; wanted a number or nothing"
    )]
    ResultIsAddress { name: String },
    #[error("helper {name}: argument {arg} is a function, which only the kernel's helpers may call back")]
    Callback { name: String, arg: usize },
    #[error("helper {name}: the result depends on a map, wanted a map among the arguments")]
    ResultWithoutMap { name: String },
    #[error("helper {name}: the result is limited by argument {arg}, wanted a size there")]
    ResultUnlimited { name: String, arg: usize },
    #[error("helper {name}: the result's size is in an argument, wanted such an argument")]
    ResultWithoutSize { name: String },
    #[error("helper {name}: argument {arg} is a second thing to be taken back, wanted at most one")]
    SecondRelease { name: String, arg: usize },
    #[error("helper {name}: argument {arg} is a lock, which only the kernel's helpers take")]
    Lock { name: String, arg: usize },
    #[error("helper {name}: argument {arg} is a dynptr, which only the kernel's helpers take")]
    Dynptr { name: String, arg: usize },
    #[error("helper {name}: hands out memory of {size} bytes, wanted at most {MAX_ACQUIRED}")]
    AcquiredSize { name: String, size: u32 },
}

impl Arg {
    /// A memory address whose size is the next argument.
    pub const fn has_size(self) -> bool {
        matches!(self, Arg::Mem | Arg::MemOrNull | Arg::MemUninit | Arg::MemUninitOrNull | Arg::MemInOut | Arg::Scratch)
    }
    /// The size of the memory in the argument before.
    pub const fn is_size(self) -> bool {
        matches!(self, Arg::Size | Arg::SizeOrZero | Arg::ScratchSize)
    }
    /// Something that the call takes back.
    pub const fn releases(self) -> bool {
        matches!(self, Arg::Record | Arg::Released(_) | Arg::DynptrReleased)
    }
    /// A dynptr, or a place for one.
    pub const fn is_dynptr(self) -> bool {
        matches!(self, Arg::Dynptr | Arg::DynptrNew(_) | Arg::DynptrClone | Arg::DynptrReleased)
    }
    /// Memory whose size is the map's key or value size.
    pub const fn needs_map(self) -> bool {
        matches!(self, Arg::MapKey | Arg::MapValue | Arg::MapValueUninit)
    }
}

impl Proto {
    /// Checks that the contract makes sense by itself: at most five arguments, sizes beside their memory, maps before
    /// what depends on them.
    pub fn check(&self) -> Result<(), TableError> {
        let name = || self.name.clone();
        if self.args.len() > 5 {
            return Err(TableError::TooManyArgs { name: name(), found: self.args.len() });
        }
        let letter = |c: char| c.is_ascii_alphabetic() || c == '_';
        if !self.name.starts_with(letter) || !self.name.chars().all(|c| letter(c) || c.is_ascii_digit()) {
            return Err(TableError::BadName { id: self.id, name: name() });
        }
        let (mut map, mut released) = (false, false);
        for (i, arg) in self.args.iter().enumerate() {
            let number = i + 1;
            let before = i.checked_sub(1).map(|i| self.args[i]);
            if arg.has_size() && !self.args.get(number).is_some_and(|a| a.is_size()) {
                return Err(TableError::MemWithoutSize { name: name(), arg: number });
            }
            if arg.is_size() && !before.is_some_and(Arg::has_size) {
                return Err(TableError::SizeWithoutMem { name: name(), arg: number });
            }
            if arg.needs_map() && !map {
                return Err(TableError::NoMap { name: name(), arg: number });
            }
            if *arg == Arg::SpinLock && self.id >= FIRST_CUSTOM {
                return Err(TableError::Lock { name: name(), arg: number });
            }
            if (arg.is_dynptr() || matches!(arg, Arg::Scratch | Arg::ScratchSize)) && self.id >= FIRST_CUSTOM {
                return Err(TableError::Dynptr { name: name(), arg: number });
            }
            if arg.releases() && std::mem::replace(&mut released, true) {
                return Err(TableError::SecondRelease { name: name(), arg: number });
            }
            if *arg == Arg::Callback && !calls_back(self.id) {
                return Err(TableError::Callback { name: name(), arg: number });
            }
            if *arg == Arg::Map && std::mem::replace(&mut map, true) {
                return Err(TableError::SecondMap { name: name(), arg: number });
            }
        }
        if matches!(self.ret, Ret::MapValueOrNull | Ret::RecordOrNull) && !map {
            return Err(TableError::ResultWithoutMap { name: name() });
        }
        if self.ret == Ret::RecordOrNull && !self.args.contains(&Arg::AllocSize) {
            return Err(TableError::ResultWithoutSize { name: name() });
        }
        match self.ret {
            Ret::AcquiredOrNull { size, .. } if size > MAX_ACQUIRED => {
                return Err(TableError::AcquiredSize { name: name(), size });
            }
            Ret::AtMost(arg) if !self.args.get(arg).is_some_and(|a| a.is_size()) => {
                return Err(TableError::ResultUnlimited { name: name(), arg: arg + 1 });
            }
            _ => {}
        }
        Ok(())
    }
}

impl Table {
    /// The kernel's helpers that livebpf provides.
    pub fn builtin() -> Table {
        let protos = builtin::protos().into_iter().map(|p| (p.id, p)).collect();
        Table { protos }
    }
    /// The helper numbered `id`.
    pub fn get(&self, id: u32) -> Option<&Proto> {
        self.protos.get(&id)
    }
    /// The helper named `name`, without `bpf_`.
    pub fn by_name(&self, name: &str) -> Option<&Proto> {
        self.protos.values().find(|p| p.name == name)
    }
    /// All of them, by number.
    pub fn iter(&self) -> impl Iterator<Item = &Proto> {
        self.protos.values()
    }
    /// Adds or replaces one, whatever its number.
    pub fn insert(&mut self, proto: Proto) {
        self.protos.insert(proto.id, proto);
    }
    /// Adds an embedder's helper: a free number from [`FIRST_CUSTOM`], a free name, and a contract that passes
    /// [`Proto::check`].
    pub fn register(&mut self, proto: Proto) -> Result<(), TableError> {
        if proto.id < FIRST_CUSTOM {
            return Err(TableError::Reserved { name: proto.name, id: proto.id });
        }
        if let Some(by) = self.get(proto.id) {
            return Err(TableError::NumberTaken { id: proto.id, by: by.name.clone(), name: proto.name });
        }
        if let Some(by) = self.by_name(&proto.name) {
            return Err(TableError::NameTaken { id: proto.id, by: by.id, name: proto.name });
        }
        proto.check()?;
        if !matches!(proto.ret, Ret::Integer | Ret::Void | Ret::AcquiredOrNull { .. }) {
            // Nobody could check what a closure answers before a program relies on it.
            return Err(TableError::ResultIsAddress { name: proto.name });
        }
        self.insert(proto);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn custom(id: u32, name: &str, args: &[Arg]) -> Proto {
        Proto {
            id,
            name: name.to_owned(),
            args: args.to_vec(),
            ret: Ret::Integer,
            changes_packet: false,
            packet_memory: false,
            gpl_only: false,
        }
    }

    #[test]
    fn builtin_contracts_make_sense() {
        let table = Table::builtin();
        for proto in table.iter() {
            assert_eq!(proto.check(), Ok(()));
            assert!(proto.id < FIRST_CUSTOM);
            assert_eq!(table.by_name(&proto.name), Some(proto));
        }
        assert_eq!(table.get(id::TAIL_CALL).unwrap().ret, Ret::Void);
        assert_eq!(table.get(0), None);
    }

    #[test]
    fn registering() {
        let mut table = Table::builtin();
        let base = FIRST_CUSTOM;
        table.register(custom(base, "log_line", &[Arg::Mem, Arg::Size])).unwrap();
        let mut refused = |proto: Proto| table.register(proto).unwrap_err().to_string();
        assert!(refused(custom(3, "x", &[])).contains("belongs to the kernel"));
        assert!(refused(custom(base, "x", &[])).contains("is taken by log_line"));
        assert!(refused(custom(base + 1, "log_line", &[])).contains("is taken by helper 65536"));
        assert!(refused(custom(base + 1, "a b", &[])).contains("identifier"));
        assert!(refused(custom(base + 1, "", &[])).contains("identifier"));
        assert!(refused(custom(base + 1, "x", &[Arg::Scalar; 6])).contains("6 arguments"));
        assert!(refused(custom(base + 1, "x", &[Arg::Mem])).contains("argument 1 is a memory"));
        assert!(refused(custom(base + 1, "x", &[Arg::Ctx, Arg::Size])).contains("argument 2 is a size"));
        assert!(refused(custom(base + 1, "x", &[Arg::MapKey, Arg::Map])).contains("argument 1 depends"));
        assert!(refused(custom(base + 1, "x", &[Arg::Map, Arg::Map])).contains("second map"));
        let lookup = Proto { ret: Ret::MapValueOrNull, ..custom(base + 1, "x", &[Arg::Ctx]) };
        assert!(refused(lookup).contains("the result depends"));
        let lookup = Proto { ret: Ret::MapValueOrNull, ..custom(base + 1, "x", &[Arg::Map]) };
        assert!(refused(lookup).contains("the result is an address"));
        for arg in [Arg::Dynptr, Arg::DynptrNew(DynptrKind::Local), Arg::DynptrClone, Arg::DynptrReleased] {
            assert!(refused(custom(base + 1, "x", &[arg])).contains("argument 1 is a dynptr"));
        }
        assert_eq!(table.iter().filter(|p| p.id >= FIRST_CUSTOM).count(), 1);
    }
}
