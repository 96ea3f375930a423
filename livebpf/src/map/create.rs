//! What `BPF_MAP_CREATE` checks, in its order, and the storage for each map type.

use super::array::Array;
use super::cell::OutOfMemory;
use super::hash::{self, Hash};
use super::inner::Outer;
use super::lpm::Lpm;
use super::perf::Events;
use super::prog_array::ProgArray;
use super::queue::Queue;
use super::ring::Ring;
use super::targets::Targets;
use super::{MapError, Storage};
use crate::object::{MapDef, MapInit, MapType};

pub mod flag {
    //! Creation flags, `BPF_F_*` of the kernel's `enum` in uapi/linux/bpf.h.

    /// Elements are allocated on demand. Has no visible effect here.
    pub const NO_PREALLOC: u32 = 1 << 0;
    /// Each CPU keeps its own list of what was used. Has no visible effect here.
    pub const NO_COMMON_LRU: u32 = 1 << 1;
    /// NUMA node given. Has no visible effect here.
    pub const NUMA_NODE: u32 = 1 << 2;
    /// Users may not write.
    pub const RDONLY: u32 = 1 << 3;
    /// Users may not read.
    pub const WRONLY: u32 = 1 << 4;
    /// Hash with seed 0. Has no visible effect here.
    pub const ZERO_SEED: u32 = 1 << 6;
    /// Programs may not write.
    pub const RDONLY_PROG: u32 = 1 << 7;
    /// Programs may not read.
    pub const WRONLY_PROG: u32 = 1 << 8;
    /// Users may map it.
    pub const MMAPABLE: u32 = 1 << 10;
    /// An inner map whose size may differ from its template's.
    pub const INNER_MAP: u32 = 1 << 12;

    pub(super) const ACCESS: u32 = RDONLY | WRONLY | RDONLY_PROG | WRONLY_PROG;
}

/// Most bytes of a per-CPU value (the kernel's `PCPU_MIN_UNIT_SIZE`).
const PERCPU_VALUE_MAX: u64 = 32 << 10;
/// Key and value of a hash element together stay below this (the kernel's `KMALLOC_MAX_SIZE` less its element header).
const HASH_ELEMENT_MAX: u64 = (4 << 20) - 48;

/// Checks `def` as the kernel does and allocates.
pub(super) fn storage(def: &MapDef, cpus: u32) -> Result<Storage, MapError> {
    match def.map_type {
        MapType::ARRAY => {
            check_array(def, flag::NUMA_NODE | flag::MMAPABLE | flag::ACCESS | flag::INNER_MAP)?;
            let array = Array::new(def.value_size, def.max_entries, None).map_err(|e| no_memory(def, e))?;
            let array = array.with_lock(def.lock());
            fill(def, &array)?;
            Ok(Storage::Array(array))
        }
        MapType::PERCPU_ARRAY => {
            // No NUMA node: the memory of each CPU is its own.
            check_array(def, flag::ACCESS)?;
            if u64::from(def.value_size).next_multiple_of(8) > PERCPU_VALUE_MAX {
                let why = format!("value_size {} is above the {PERCPU_VALUE_MAX} of a per-CPU map", def.value_size);
                return Err(MapError::TooBig(why.into()));
            }
            let array = Array::new(def.value_size, def.max_entries, Some(cpus)).map_err(|e| no_memory(def, e))?;
            Ok(Storage::Array(array))
        }
        MapType::PROG_ARRAY => {
            if def.value_size != 4 {
                return Err(invalid(format!("value_size is {}, a program array wants 4", def.value_size)));
            }
            check_array(def, flag::NUMA_NODE | flag::RDONLY | flag::WRONLY)?;
            Ok(Storage::Programs(ProgArray::new(def.max_entries).map_err(|e| no_memory(def, e))?))
        }
        MapType::HASH => {
            check_hash(def)?;
            let hash = Hash::new(def.key_size, def.value_size, def.max_entries, cpus).map_err(|e| no_memory(def, e))?;
            let hash = hash.with_lock(def.lock());
            Ok(Storage::Hash(hash))
        }
        MapType::PERCPU_HASH | MapType::LRU_HASH | MapType::LRU_PERCPU_HASH => other_hash(def, cpus),
        MapType::LPM_TRIE => {
            check_lpm(def)?;
            let trie = Lpm::new(def.key_size, def.value_size, def.max_entries, cpus).map_err(|e| no_memory(def, e))?;
            Ok(Storage::Lpm(trie))
        }
        MapType::ARRAY_OF_MAPS | MapType::HASH_OF_MAPS => of_maps(def, cpus),
        MapType::DEVMAP | MapType::DEVMAP_HASH | MapType::CPUMAP | MapType::XSKMAP => targets(def),
        MapType::QUEUE | MapType::STACK => {
            check_queue(def)?;
            let stack = def.map_type == MapType::STACK;
            let queue = Queue::new(def.value_size, def.max_entries, stack).map_err(|e| no_memory(def, e))?;
            Ok(Storage::Queue(queue))
        }
        MapType::RINGBUF => {
            check_ring(def)?;
            Ok(Storage::Ring(Ring::new(def.max_entries).map_err(|e| no_memory(def, e))?))
        }
        MapType::PERF_EVENT_ARRAY => {
            if def.value_size != 4 {
                return Err(invalid(format!("value_size is {}, a perf event array wants 4", def.value_size)));
            }
            check_array(def, flag::NUMA_NODE | flag::RDONLY | flag::WRONLY)?;
            if def.max_entries > EVENTS_MAX {
                return Err(MapError::NoMemory(format!("{} entries", def.max_entries).into()));
            }
            Ok(Storage::Events(Events::new(def.max_entries)))
        }
        map_type => Err(MapError::Unsupported { name: def.name.clone(), map_type }),
    }
}

/// Most entries of a perf event array.
const EVENTS_MAX: u32 = 1 << 16;

fn other_hash(def: &MapDef, cpus: u32) -> Result<Storage, MapError> {
    let per_cpu = def.map_type != MapType::LRU_HASH;
    let forgets = def.map_type != MapType::PERCPU_HASH;
    if forgets && def.map_flags & flag::NO_PREALLOC != 0 {
        return Err(MapError::NotPossible { operation: "BPF_F_NO_PREALLOC", map_type: def.map_type });
    }
    let only_forgetting = if forgets { flag::NO_COMMON_LRU } else { 0 };
    check_hash_flags(def, only_forgetting)?;
    if per_cpu && u64::from(def.value_size).next_multiple_of(8) > PERCPU_VALUE_MAX {
        let why = format!("value_size {} is above the {PERCPU_VALUE_MAX} of a per-CPU map", def.value_size);
        return Err(MapError::TooBig(why.into()));
    }
    let kind = hash::Kind { per_cpu, forgets };
    let hash = Hash::of_kind(kind, def.key_size, def.value_size, def.max_entries, cpus);
    Ok(Storage::Hash(hash.map_err(|e| no_memory(def, e))?))
}

/// Most bytes of what a prefix's length counts bits of.
const LPM_DATA_MAX: u32 = 256;

fn check_lpm(def: &MapDef) -> Result<(), MapError> {
    if def.map_flags & flag::NO_PREALLOC == 0 {
        return Err(invalid("map_flags lacks BPF_F_NO_PREALLOC"));
    }
    check_map_flags(def, flag::NO_PREALLOC | flag::NUMA_NODE | flag::ACCESS)?;
    if def.max_entries == 0 || def.value_size == 0 {
        return Err(invalid("max_entries or value_size is 0"));
    }
    if !(5..=4 + LPM_DATA_MAX).contains(&def.key_size) {
        return Err(invalid(format!("key_size is {}, a trie wants 5 to {}", def.key_size, 4 + LPM_DATA_MAX)));
    }
    if u64::from(def.key_size) + u64::from(def.value_size) >= HASH_ELEMENT_MAX {
        return Err(invalid(format!("value_size {} is too big", def.value_size)));
    }
    Ok(())
}

/// Whether there are maps of this type.
fn provided(map_type: MapType) -> bool {
    let arrays = [MapType::ARRAY, MapType::PERCPU_ARRAY, MapType::PROG_ARRAY, MapType::PERF_EVENT_ARRAY];
    let hashes = [MapType::HASH, MapType::PERCPU_HASH, MapType::LRU_HASH, MapType::LRU_PERCPU_HASH];
    let targets = [MapType::DEVMAP, MapType::DEVMAP_HASH, MapType::CPUMAP, MapType::XSKMAP];
    let others = [MapType::LPM_TRIE, MapType::QUEUE, MapType::STACK, MapType::RINGBUF];
    [arrays, hashes, targets, others].iter().any(|types| types.contains(&map_type))
}

fn of_maps(def: &MapDef, cpus: u32) -> Result<Storage, MapError> {
    let Some(template) = def.inner.as_deref() else {
        return Err(MapError::BadHandle("the map has no template of its inner maps".into()));
    };
    if def.value_size != 4 {
        return Err(invalid(format!("value_size is {}, a map of maps wants 4", def.value_size)));
    }
    match template.map_type {
        MapType::ARRAY_OF_MAPS | MapType::HASH_OF_MAPS => return Err(invalid("maps of maps cannot be inner maps")),
        map_type if !provided(map_type) => return Err(MapError::Unsupported { name: def.name.clone(), map_type }),
        MapType::PROG_ARRAY => {
            return Err(MapError::NotPossible { operation: "being an inner map", map_type: template.map_type });
        }
        _ => {}
    }
    let outer = if def.map_type == MapType::ARRAY_OF_MAPS {
        check_array(def, flag::NUMA_NODE | flag::RDONLY | flag::WRONLY)?;
        Outer::array(def.max_entries, template.clone())
    } else {
        check_hash(def)?;
        Outer::hash(def.key_size, def.max_entries, cpus, template.clone())
    };
    Ok(Storage::Outer(outer.map_err(|e| no_memory(def, e))?))
}

fn targets(def: &MapDef) -> Result<Storage, MapError> {
    let sizes: &[u32] = if def.map_type == MapType::XSKMAP { &[4] } else { &[4, 8] };
    if def.max_entries == 0 || def.key_size != 4 || !sizes.contains(&def.value_size) {
        let (key, value, entries) = (def.key_size, def.value_size, def.max_entries);
        return Err(invalid(format!(
            "found key_size {key}, value_size {value}, max_entries {entries}, wanted 4, {sizes:?}, 1"
        )));
    }
    let allowed = match def.map_type {
        MapType::CPUMAP => flag::NUMA_NODE,
        _ => flag::NUMA_NODE | flag::RDONLY | flag::WRONLY,
    };
    check_map_flags(def, allowed)?;
    let targets = Targets::new(def.map_type, def.value_size, def.max_entries).map_err(|e| no_memory(def, e))?;
    Ok(Storage::Targets(targets))
}

fn check_queue(def: &MapDef) -> Result<(), MapError> {
    if def.max_entries == 0 || def.key_size != 0 || def.value_size == 0 {
        return Err(invalid("wanted max_entries and value_size, and no key_size"));
    }
    check_map_flags(def, flag::NUMA_NODE | flag::ACCESS)?;
    if u64::from(def.value_size) > 4 << 20 {
        return Err(MapError::TooBig(format!("value_size {} is above {}", def.value_size, 4 << 20).into()));
    }
    Ok(())
}

/// Bytes of a page: a ring buffer has whole ones.
const PAGE: u32 = 4096;

fn check_ring(def: &MapDef) -> Result<(), MapError> {
    check_map_flags(def, flag::NUMA_NODE)?;
    if def.key_size != 0 || def.value_size != 0 {
        return Err(invalid("a ring buffer has neither key_size nor value_size"));
    }
    if !def.max_entries.is_power_of_two() || !def.max_entries.is_multiple_of(PAGE) {
        return Err(invalid(format!("max_entries is {}, wanted a power of two of whole pages", def.max_entries)));
    }
    Ok(())
}

fn check_array(def: &MapDef, flags: u32) -> Result<(), MapError> {
    if def.max_entries == 0 {
        return Err(invalid("max_entries is 0"));
    }
    if def.key_size != 4 {
        return Err(invalid(format!("key_size is {}, an array wants 4", def.key_size)));
    }
    if def.value_size == 0 {
        return Err(invalid("value_size is 0"));
    }
    check_map_flags(def, flags)?;
    if def.value_size > i32::MAX as u32 {
        return Err(MapError::TooBig(format!("value_size {} is above {}", def.value_size, i32::MAX).into()));
    }
    Ok(())
}

fn check_hash(def: &MapDef) -> Result<(), MapError> {
    check_hash_flags(def, 0)
}

fn check_hash_flags(def: &MapDef, more: u32) -> Result<(), MapError> {
    check_map_flags(def, flag::NO_PREALLOC | flag::NUMA_NODE | flag::ACCESS | flag::ZERO_SEED | more)?;
    for (what, value) in [("max_entries", def.max_entries), ("key_size", def.key_size), ("value_size", def.value_size)]
    {
        if value == 0 {
            return Err(invalid(format!("{what} is 0")));
        }
    }
    if u64::from(def.key_size) + u64::from(def.value_size) >= HASH_ELEMENT_MAX {
        let (key, value) = (def.key_size, def.value_size);
        let why = format!("key_size {key} and value_size {value} are together not below {HASH_ELEMENT_MAX}");
        return Err(MapError::TooBig(why.into()));
    }
    if def.max_entries > 1 << 31 {
        return Err(MapError::TooBig(format!("max_entries {} is above 2147483648", def.max_entries).into()));
    }
    Ok(())
}

fn check_map_flags(def: &MapDef, allowed: u32) -> Result<(), MapError> {
    let unknown = def.map_flags & !allowed;
    if unknown != 0 {
        return Err(invalid(format!("map_flags {unknown:#x} cannot be used with type {}", def.map_type)));
    }
    let both = flag::RDONLY_PROG | flag::WRONLY_PROG;
    if def.map_flags & both == both {
        return Err(invalid("map_flags has both BPF_F_RDONLY_PROG and BPF_F_WRONLY_PROG"));
    }
    Ok(())
}

/// Copies initial data (global variables) into the first value.
fn fill(def: &MapDef, array: &Array) -> Result<(), MapError> {
    let MapInit::Data(data) = &def.init else { return Ok(()) };
    let value = array.value(0, 0).filter(|value| data.len() <= value.len()).ok_or_else(|| {
        invalid(format!("{} bytes of initial data do not fit into a value of {}", data.len(), def.value_size))
    })?;
    value.write(data);
    // Whatever the object says: nobody holds it yet.
    if let Some(word) = def.lock().and_then(|off| value.atomic_u32(off as usize)) {
        word.store(0, std::sync::atomic::Ordering::Relaxed);
    }
    Ok(())
}

fn invalid(why: impl Into<std::borrow::Cow<'static, str>>) -> MapError {
    MapError::Invalid(why.into())
}

pub(super) fn no_memory(def: &MapDef, error: OutOfMemory) -> MapError {
    MapError::NoMemory(format!("map {:?} of type {}: {error}", def.name, def.map_type).into())
}
