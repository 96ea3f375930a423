//! Maps: what programs and users keep data in. [`cell`] is the only raw storage; [`prog_array`] knows no machine code.
//!
//! A [`Map`] belongs to two sides. *Programs* reach it by [`Map::lookup`], [`Map::update`] and [`Map::delete`] (which
//! the helpers call) and by the addresses of its values; *users* by [`Map::read`], [`Map::write`], [`Map::remove`] and
//! [`Map::next_key`], which honour freezing and see a per-CPU value as the values of all CPUs. Results and error
//! numbers are the kernel's (kernel/bpf/{syscall,arraymap,hashtab}.c).
//!
//! *Guarantees.* A value's memory stays mapped, and stays inside the map's own storage, for as long as the map lives,
//! whatever happens to the element. No operation calls back into user code, and none blocks.
//!
//! *Never.* No operation panics on any argument, and none leaves a map half changed.

mod array;
pub mod cell;
mod create;
pub(crate) mod dynptr;
mod error;
pub(crate) mod guard;
mod hash;
pub(crate) mod held;
mod inner;
mod lpm;
mod perf;
pub mod prog_array;
mod queue;
pub(crate) mod ring;
mod spin;
mod targets;
mod walk;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub use create::flag;
pub use error::MapError;

use crate::insn::Size;
use crate::object::{MapDef, MapType};
use array::Array;
use cell::Slice;
use hash::Hash;
use inner::Outer;
use lpm::Lpm;
use perf::Events;
use prog_array::{ProgArray, Table};
use queue::Queue;
use ring::Ring;
use targets::Targets;

/// Update: create the element or replace its value.
pub const BPF_ANY: u64 = 0;
/// Update: only create.
pub const BPF_NOEXIST: u64 = 1;
/// Update: only replace.
pub const BPF_EXIST: u64 = 2;
/// Update or lookup under the value's spin lock; no map of ours has one, so it is refused.
pub const BPF_F_LOCK: u64 = 4;

/// A map. Its address, `Arc::as_ptr`, is what `r1 = map` loads in a program; for a program array generated code has the
/// address of its generation's [`prog_array::Table`] instead.
#[repr(C)]
pub struct Map {
    /// What [`first_value`](Map::first_value) answers; 0 in other maps. Generated code reads it.
    data: u64,
    /// Generated code reads it.
    max_entries: u32,
    map_type: u32,
    key_size: u32,
    value_size: u32,
    /// Generated code reads it.
    id: u32,
    cpus: u32,
    storage: Storage,
    /// Offset of the lock in each value, where there is one.
    lock: Option<usize>,
    frozen: AtomicBool,
    def: Arc<MapDef>,
}

/// How a map keeps its elements.
#[repr(u32)]
enum Storage {
    Array(Array),
    Hash(Hash),
    Programs(ProgArray),
    Lpm(Lpm),
    Outer(Outer),
    Targets(Targets),
    Queue(Queue),
    Ring(Ring),
    Events(Events),
}

/// Where the elements of an array map are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ArrayLayout {
    /// Address of the first value (of CPU 0).
    pub data: u64,
    /// Bytes from one value to the next: the value size rounded up to 8.
    pub stride: u64,
    /// Bytes from one CPU's values to the next CPU's; 0 when the array is not per CPU.
    pub cpu_stride: u64,
}

impl ArrayLayout {
    /// Bytes from one value to the next, and from one CPU's values to the next CPU's where there are such, which begin on a cache
    /// line each. At most 2^64 - 1, which no array has.
    pub fn strides(value_size: u32, max_entries: u32) -> (u64, u64) {
        let stride = u64::from(value_size).next_multiple_of(8);
        let all = stride.checked_mul(max_entries.into());
        (stride, all.and_then(|all| all.checked_next_multiple_of(64)).unwrap_or(u64::MAX))
    }
}

impl Map {
    /// Makes the map that `def` describes, filled with `def.init` where that is data.
    ///
    /// `id` is its number in the runtime; `cpus` is how many CPUs a per-CPU map has (at least 1).
    /// Errors are those of `BPF_MAP_CREATE`, which checks in the same order.
    pub fn create(def: Arc<MapDef>, id: u32, cpus: u32) -> Result<Arc<Map>, MapError> {
        let storage = create::storage(&def, cpus.max(1))?;
        let data = match &storage {
            Storage::Array(array) => array.layout().data,
            Storage::Outer(outer) => outer.slots_addr(),
            Storage::Targets(targets) => targets.words_addr(),
            _ => 0,
        };
        Ok(Arc::new(Map {
            data,
            max_entries: def.max_entries,
            map_type: def.map_type.0,
            key_size: def.key_size,
            value_size: def.value_size,
            storage,
            id,
            cpus: cpus.max(1),
            lock: def.lock().map(|off| off as usize),
            frozen: AtomicBool::new(def.frozen),
            def,
        }))
    }

    /// Its number in the runtime.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// What the object (or the user) asked for.
    pub fn def(&self) -> &Arc<MapDef> {
        &self.def
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.def.name
    }

    /// Its type.
    pub fn map_type(&self) -> MapType {
        MapType(self.map_type)
    }

    /// Bytes of a key.
    pub fn key_size(&self) -> u32 {
        self.key_size
    }

    /// Bytes of a value, as programs see it.
    pub fn value_size(&self) -> u32 {
        self.value_size
    }

    /// Bytes of a value, as users see it: for per-CPU maps the values of all CPUs, each rounded up to 8.
    pub fn user_value_size(&self) -> usize {
        match &self.storage {
            Storage::Array(array) => array.user_value_size(),
            Storage::Hash(hash) => hash.user_value_size(),
            _ => self.value_size as usize,
        }
    }

    /// Most elements.
    pub fn max_entries(&self) -> u32 {
        self.max_entries
    }

    /// Elements there are now; an array always has all of them.
    pub fn len(&self) -> u32 {
        match &self.storage {
            Storage::Array(_) => self.max_entries,
            Storage::Hash(hash) => hash.len(),
            Storage::Programs(programs) => programs.entries().len() as u32,
            Storage::Lpm(trie) => trie.len(),
            Storage::Outer(outer) => outer.len(),
            Storage::Targets(targets) => targets.len(),
            Storage::Queue(queue) => queue.len(),
            Storage::Ring(_) => 0,
            Storage::Events(events) => (0..self.max_entries).filter(|i| events.is_open(*i)).count() as u32,
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    // --- The programs' side ---

    /// The value of `key`, of CPU `cpu` where the map is per CPU.
    ///
    /// The window stays valid while the map lives. An element deleted meanwhile may be given to another key at once, as
    /// in the kernel's preallocated maps.
    #[inline]
    pub fn lookup(&self, key: &[u8], cpu: u32) -> Option<Slice<'_>> {
        match &self.storage {
            Storage::Array(array) => array.value(index(key)?, cpu),
            Storage::Hash(hash) => hash.lookup(key, cpu),
            Storage::Lpm(trie) => trie.lookup(key),
            Storage::Targets(targets) => targets.lookup(key),
            Storage::Programs(_) | Storage::Outer(_) | Storage::Queue(_) | Storage::Ring(_) | Storage::Events(_) => {
                None
            }
        }
    }

    /// What `bpf_map_lookup_elem` answers: the value's address, in a map of maps the inner map's, or 0.
    #[inline]
    pub(crate) fn lookup_address(&self, key: &[u8], cpu: u32) -> u64 {
        match &self.storage {
            Storage::Array(array) => index(key).and_then(|i| array.value(i, cpu)).map_or(0, Slice::addr),
            Storage::Hash(hash) => hash.lookup(key, cpu).map_or(0, Slice::addr),
            Storage::Outer(outer) => outer.address(key),
            _ => self.lookup(key, cpu).map_or(0, Slice::addr),
        }
    }

    /// [`lookup_address`](Self::lookup_address) of a hash map, of values or of maps, whose keys are known to be of this size; 0 for
    /// others.
    #[inline]
    pub(crate) fn lookup_hash<K: hash::Key>(&self, key: K, cpu: u32) -> u64 {
        match &self.storage {
            Storage::Hash(hash) if hash.has_keys_of(size_of::<K>()) => hash.lookup_key(key, cpu).map_or(0, Slice::addr),
            Storage::Outer(outer) => outer.lookup_hash(key),
            _ => 0,
        }
    }

    /// The first four bytes of what an entry holds that packets can be redirected to.
    #[inline]
    pub(crate) fn target(&self, key: u32) -> Option<u32> {
        match &self.storage {
            Storage::Targets(targets) => targets.target(key),
            _ => None,
        }
    }

    /// Whether it has a value for each CPU.
    pub fn is_per_cpu(&self) -> bool {
        let types = [MapType::PERCPU_ARRAY, MapType::PERCPU_HASH, MapType::LRU_PERCPU_HASH];
        types.contains(&self.map_type())
    }

    /// How many CPUs it has values for.
    pub fn cpus(&self) -> u32 {
        self.cpus
    }

    /// Adds a value to a queue or stack.
    pub fn push(&self, value: &[u8], flags: u64) -> Result<(), MapError> {
        self.push_from(value, flags)
    }

    /// The same, from memory that may change meanwhile.
    pub(crate) fn push_from(&self, value: impl Source, flags: u64) -> Result<(), MapError> {
        match &self.storage {
            Storage::Queue(queue) => queue.push(value, flags),
            _ => Err(self.not_possible("a push")),
        }
    }

    /// Copies the next value of a queue or stack to `to`, and with `take` takes it away; `ENOENT` and zeros when there is none.
    pub(crate) fn next_value(&self, to: Slice<'_>, take: bool) -> Result<(), MapError> {
        match &self.storage {
            Storage::Queue(queue) => queue.next(to, take),
            _ => Err(self.not_possible("a pop")),
        }
    }

    /// The ring of a ring buffer.
    pub(crate) fn ring(&self) -> Option<&Ring> {
        match &self.storage {
            Storage::Ring(ring) => Some(ring),
            _ => None,
        }
    }

    /// Sends a record to whoever listens at `index` of a perf event array.
    pub(crate) fn perf_output(&self, index: u32, data: Slice<'_>, packet: Slice<'_>) -> Result<(), MapError> {
        match &self.storage {
            Storage::Events(events) => events.output(index, data, packet),
            _ => Err(self.not_possible("output")),
        }
    }

    /// Starts to listen at `index` of a perf event array, with room for `size` bytes.
    pub(crate) fn perf_open(&self, index: u32, size: u32) -> Result<(), MapError> {
        match &self.storage {
            Storage::Events(events) => events.open(index, size),
            _ => Err(self.not_possible("listening")),
        }
    }

    /// What was sent to `index` of a perf event array, and how many records did not fit; `None` where nobody listens.
    pub(crate) fn perf_events(&self, index: u32) -> Option<(&Ring, u64)> {
        match &self.storage {
            Storage::Events(events) => Some((events.ring(index)?, events.lost(index))),
            _ => None,
        }
    }

    /// The map at `key` of a map of maps.
    pub fn inner(&self, key: &[u8]) -> Option<Arc<Map>> {
        match &self.storage {
            Storage::Outer(outer) => outer.get(key),
            _ => None,
        }
    }

    /// Puts a map into a map of maps. Answers the one that was there, which has to be kept for a grace period.
    pub fn set_inner(&self, key: &[u8], inner: Arc<Map>, flags: u64) -> Result<Option<Arc<Map>>, MapError> {
        self.check_user_may_write()?;
        self.check_key(key)?;
        match &self.storage {
            Storage::Outer(outer) => outer.set(key, inner, flags),
            _ => Err(self.not_possible("holding maps")),
        }
    }

    /// Takes a map out of a map of maps. It has to be kept for a grace period.
    pub fn clear_inner(&self, key: &[u8]) -> Result<Arc<Map>, MapError> {
        self.check_user_may_write()?;
        self.check_key(key)?;
        match &self.storage {
            Storage::Outer(outer) => outer.clear(key),
            _ => Err(self.not_possible("holding maps")),
        }
    }

    /// Sets the value of `key` (of CPU `cpu` only, where the map is per CPU). `flags` is one of [`BPF_ANY`],
    /// [`BPF_NOEXIST`] and [`BPF_EXIST`].
    pub fn update(&self, key: &[u8], value: &[u8], flags: u64, cpu: u32) -> Result<(), MapError> {
        self.update_from(key, value, flags, cpu)
    }

    /// The same, from memory that may change meanwhile.
    #[inline]
    pub(crate) fn update_from(&self, key: &[u8], value: impl Source, flags: u64, cpu: u32) -> Result<(), MapError> {
        self.check_key(key)?;
        if value.len() != self.value_size as usize {
            return Err(wrong_size("value", value.len(), self.value_size as usize));
        }
        match &self.storage {
            Storage::Array(array) => array.update(self.array_index(key, flags)?, value, cpu, flags & BPF_F_LOCK != 0),
            Storage::Hash(hash) => hash.update(key, value, flags, cpu),
            Storage::Lpm(trie) => trie.update(key, value, flags, cpu),
            _ => Err(self.not_possible("an update by a program")),
        }
    }

    /// The value of an array that is set by copying alone: the array has it once for all CPUs and no lock in it.
    #[inline]
    pub(crate) fn plain_value(&self, key: Slice<'_>) -> Option<Slice<'_>> {
        match &self.storage {
            Storage::Array(array) if array.is_plain() => array.value(key.load(0, Size::W)? as u32, 0),
            _ => None,
        }
    }

    /// Removes the element of `key`.
    pub fn delete(&self, key: &[u8]) -> Result<(), MapError> {
        self.check_key(key)?;
        match &self.storage {
            Storage::Array(_) => Err(MapError::Invalid("elements of an array cannot be deleted".into())),
            Storage::Hash(hash) => hash.delete(key),
            Storage::Lpm(trie) => trie.delete(key),
            _ => Err(self.not_possible("a deletion by a program")),
        }
    }

    // --- The users' side ---

    /// A copy of the value of `key`; for a per-CPU map the values of all CPUs, each rounded up to 8 bytes; for a program
    /// array the program's number.
    pub fn read(&self, key: &[u8]) -> Result<Vec<u8>, MapError> {
        if self.def.map_flags & flag::WRONLY != 0 {
            return Err(MapError::Denied("the map is write-only for users".into()));
        }
        self.check_key(key)?;
        if let Some(lock) = self.lock {
            let value = self.lookup(key, 0).ok_or(MapError::NotFound)?;
            return guard::copy(value, lock, false);
        }
        match &self.storage {
            Storage::Array(array) => index(key).and_then(|i| array.read(i)).ok_or(MapError::NotFound),
            Storage::Hash(hash) => hash.read(key).ok_or(MapError::NotFound),
            Storage::Programs(programs) => {
                let id = programs.lookup(index(key).unwrap_or(u32::MAX))?;
                Ok(id.to_ne_bytes().to_vec())
            }
            Storage::Lpm(trie) => trie.read(key).ok_or(MapError::NotFound),
            Storage::Targets(targets) => targets.read(key).ok_or(MapError::NotFound),
            Storage::Outer(outer) => {
                outer.get(key).map(|map| map.id().to_ne_bytes().to_vec()).ok_or(MapError::NotFound)
            }
            Storage::Queue(queue) => {
                let mut value = vec![0; self.value_size as usize];
                queue.next(Slice::from_mut(&mut value), false).map(|()| value)
            }
            Storage::Ring(_) | Storage::Events(_) => Err(self.not_possible("reading")),
        }
    }

    /// The same while holding the value's lock (`BPF_F_LOCK`): `EINVAL` for a map whose values have none.
    pub fn read_locked(&self, key: &[u8]) -> Result<Vec<u8>, MapError> {
        if self.def.map_flags & flag::WRONLY != 0 {
            return Err(MapError::Denied("the map is write-only for users".into()));
        }
        self.check_key(key)?;
        let lock = self.lock.ok_or_else(no_lock)?;
        guard::copy(self.lookup(key, 0).ok_or(MapError::NotFound)?, lock, true)
    }

    /// Sets the value of `key`; for a per-CPU map those of all CPUs, in the form in which [`Map::read`] gives them. A
    /// program array's slots are changed by [`ProgArray::set`] and [`ProgArray::clear_index`] instead.
    pub fn write(&self, key: &[u8], value: &[u8], flags: u64) -> Result<(), MapError> {
        self.check_user_may_write()?;
        self.check_key(key)?;
        if value.len() != self.user_value_size() {
            return Err(wrong_size("value", value.len(), self.user_value_size()));
        }
        match &self.storage {
            Storage::Array(array) => array.write(self.array_index(key, flags)?, value, flags & BPF_F_LOCK != 0),
            Storage::Hash(hash) => hash.update(key, value, flags, hash::USER),
            Storage::Lpm(trie) => trie.update(key, value, flags, hash::USER),
            Storage::Targets(targets) => targets.write(key, value, flags),
            Storage::Queue(queue) => queue.push(value, flags),
            Storage::Programs(_) | Storage::Outer(_) | Storage::Ring(_) | Storage::Events(_) => {
                Err(self.not_possible("writing as data"))
            }
        }
    }

    /// Removes the element of `key`.
    pub fn remove(&self, key: &[u8]) -> Result<(), MapError> {
        self.check_user_may_write()?;
        match &self.storage {
            Storage::Targets(targets) => self.check_key(key).and_then(|()| targets.remove(key)),
            Storage::Queue(_) => Err(MapError::Invalid("values without keys cannot be deleted".into())),
            Storage::Events(_) => self.check_key(key).and_then(|()| match index(key) {
                Some(index) if index < self.max_entries => Err(MapError::NotFound),
                index => Err(MapError::IndexTooBig { index: index.unwrap_or(u32::MAX), max_entries: self.max_entries }),
            }),
            _ => self.delete(key),
        }
    }

    /// Takes the next value out of a queue or stack: `ENOENT` when there is none.
    pub fn pop(&self) -> Result<Vec<u8>, MapError> {
        self.check_user_may_write()?;
        let mut value = vec![0; self.value_size as usize];
        self.next_value(Slice::from_mut(&mut value), true).map(|()| value)
    }

    /// The key after `key`; the first one for `None` and for a key that is not there. [`MapError::NotFound`] after the
    /// last. A walk that races with changes may miss or repeat elements, as in the kernel.
    pub fn next_key(&self, key: Option<&[u8]>) -> Result<Vec<u8>, MapError> {
        if self.def.map_flags & flag::WRONLY != 0 {
            return Err(MapError::Denied("the map is write-only for users".into()));
        }
        if let Some(key) = key {
            self.check_key(key)?;
        }
        match &self.storage {
            Storage::Array(_) | Storage::Programs(_) | Storage::Events(_) => {
                let next = match key.and_then(index) {
                    Some(i) if i < self.max_entries => i + 1,
                    _ => 0,
                };
                if next < self.max_entries { Ok(next.to_ne_bytes().to_vec()) } else { Err(MapError::NotFound) }
            }
            Storage::Hash(hash) => hash.next_key(key).ok_or(MapError::NotFound),
            Storage::Lpm(trie) => trie.next_key(key).ok_or(MapError::NotFound),
            Storage::Outer(outer) => outer.next_key(key).ok_or(MapError::NotFound),
            Storage::Targets(targets) => targets.next_key(key).ok_or(MapError::NotFound),
            Storage::Queue(_) => Err(MapError::Invalid("values have no keys".into())),
            Storage::Ring(_) => Err(self.not_possible("walking")),
        }
    }

    /// Forbids users to change the map from now on; `EBUSY` when it is frozen already.
    pub fn freeze(&self) -> Result<(), MapError> {
        if self.frozen.swap(true, Ordering::AcqRel) {
            return Err(MapError::Busy("the map is frozen already".into()));
        }
        Ok(())
    }

    /// Whether users are forbidden to change it.
    pub fn is_frozen(&self) -> bool {
        self.frozen.load(Ordering::Acquire)
    }

    /// An empty table for generation `since` of a program array; `None` for other maps. `ENOMEM`.
    pub fn next_table(&self, since: u64) -> Result<Option<Arc<Table>>, MapError> {
        let table = self.prog_array().map(|array| array.next_table(since)).transpose();
        table.map_err(|error| create::no_memory(&self.def, error))
    }

    /// The slots of a program array; `None` for other maps.
    pub fn prog_array(&self) -> Option<&ProgArray> {
        match &self.storage {
            Storage::Programs(programs) => Some(programs),
            _ => None,
        }
    }

    // --- Addresses ---

    /// Offset in a `Map` of the address, a word, of an array's first value.
    pub(crate) const DATA: i32 = std::mem::offset_of!(Map, data) as i32;
    /// Offset in a `Map` of the number, of four bytes, of the most elements.
    pub(crate) const MAX_ENTRIES: i32 = std::mem::offset_of!(Map, max_entries) as i32;

    /// Offset in a `Map` of its number, of four bytes.
    pub(crate) const ID: i32 = std::mem::offset_of!(Map, id) as i32;

    /// Address of the first value (of CPU 0) of an array, of the first slot of an array of maps, or of the first entry that a packet can be
    /// redirected to, where these are words; `None` for other maps.
    pub(crate) fn first_value(&self) -> Option<u64> {
        (self.data != 0).then_some(self.data)
    }

    /// Whether programs may read values through pointers.
    pub fn programs_may_read(&self) -> bool {
        self.def.map_flags & flag::WRONLY_PROG == 0
    }

    /// Whether programs may write values through pointers.
    pub fn programs_may_write(&self) -> bool {
        self.def.map_flags & flag::RDONLY_PROG == 0 && !matches!(self.storage, Storage::Targets(_))
    }

    /// Where an array's values are; `None` for maps that are no data arrays.
    pub fn array_layout(&self) -> Option<ArrayLayout> {
        match &self.storage {
            Storage::Array(array) => Some(array.layout()),
            _ => None,
        }
    }

    /// Address of an array's first value (of CPU 0); `None` for maps that are no data arrays.
    pub fn data_addr(&self) -> Option<u64> {
        self.array_layout().map(|layout| layout.data)
    }

    /// The window [addr, addr + len) when it lies inside one value of this map, of any CPU. In a hash map the value
    /// may be a live or a deleted element's: both are the map's memory.
    pub fn value_region(&self, addr: u64, len: usize) -> Option<Slice<'_>> {
        match &self.storage {
            Storage::Array(array) => array.value_region(addr, len),
            Storage::Hash(hash) => hash.value_region(addr, len),
            Storage::Lpm(trie) => trie.value_region(addr, len),
            Storage::Targets(targets) => targets.value_region(addr, len),
            Storage::Programs(_) | Storage::Outer(_) | Storage::Queue(_) | Storage::Ring(_) | Storage::Events(_) => {
                None
            }
        }
    }

    // --- Checks ---

    fn check_user_may_write(&self) -> Result<(), MapError> {
        if self.is_frozen() {
            return Err(MapError::Denied("the map is frozen".into()));
        }
        if self.def.map_flags & flag::RDONLY != 0 {
            return Err(MapError::Denied("the map is read-only for users".into()));
        }
        Ok(())
    }

    #[inline]
    fn check_key(&self, key: &[u8]) -> Result<(), MapError> {
        if key.len() == self.key_size as usize {
            Ok(())
        } else {
            Err(wrong_size("key", key.len(), self.key_size as usize))
        }
    }

    /// An array's index and flags for an update, checked in the kernel's order.
    #[inline]
    fn array_index(&self, key: &[u8], flags: u64) -> Result<u32, MapError> {
        check_flags(flags & !BPF_F_LOCK)?;
        // The key's size has been checked.
        let index = index(key).unwrap_or(u32::MAX);
        if index >= self.max_entries {
            return Err(MapError::IndexTooBig { index, max_entries: self.max_entries });
        }
        if flags & BPF_NOEXIST != 0 {
            return Err(MapError::Exists);
        }
        if flags & BPF_F_LOCK != 0 && self.lock.is_none() {
            return Err(no_lock());
        }
        Ok(index)
    }

    #[cold]
    fn not_possible(&self, operation: &'static str) -> MapError {
        MapError::NotPossible { operation, map_type: self.map_type() }
    }
}

impl fmt::Debug for Map {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Map({} {:?} #{})", self.map_type(), self.name(), self.id)
    }
}

/// The index that an array's key holds.
#[inline]
fn index(key: &[u8]) -> Option<u32> {
    key.try_into().ok().map(u32::from_ne_bytes)
}

/// For [`BPF_F_LOCK`] with a map whose values have none.
#[cold]
fn no_lock() -> MapError {
    MapError::Invalid("flag BPF_F_LOCK: the map's values have no lock".into())
}

/// Refuses update flags other than `BPF_ANY`, `BPF_NOEXIST` and `BPF_EXIST`.
#[inline]
fn check_flags(flags: u64) -> Result<(), MapError> {
    if flags <= BPF_EXIST { Ok(()) } else { Err(MapError::UnknownFlags(flags)) }
}

#[cold]
fn wrong_size(what: &str, found: usize, wanted: usize) -> MapError {
    MapError::Invalid(format!("the {what} is {found} bytes long, the map wants {wanted}").into())
}

/// Bytes that a value is set from.
pub(crate) trait Source: Copy {
    /// How many.
    fn len(&self) -> usize;
    /// Copies all of them to the front of `target`.
    fn copy_to(&self, target: Slice<'_>);
}

impl Source for &[u8] {
    #[inline]
    fn len(&self) -> usize {
        <[u8]>::len(self)
    }
    #[inline]
    fn copy_to(&self, target: Slice<'_>) {
        target.write(self);
    }
}

impl Source for Slice<'_> {
    #[inline]
    fn len(&self) -> usize {
        Slice::len(*self)
    }
    #[inline]
    fn copy_to(&self, target: Slice<'_>) {
        target.copy_from(*self);
    }
}

#[cfg(test)]
mod kinds_tests;
#[cfg(test)]
mod tests;
