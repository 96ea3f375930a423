//! What `BPF_MAP_CREATE` checks, in its order, and the storage for each map type.

use super::array::Array;
use super::cell::OutOfMemory;
use super::hash::Hash;
use super::prog_array::ProgArray;
use super::{MapError, Storage};
use crate::object::{MapDef, MapInit, MapType};

pub mod flag {
    //! Creation flags, `BPF_F_*` of the kernel's `enum` in uapi/linux/bpf.h.

    /// Elements are allocated on demand. Has no visible effect here.
    pub const NO_PREALLOC: u32 = 1 << 0;
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
            Ok(Storage::Hash(hash))
        }
        map_type => Err(MapError::Unsupported { name: def.name.clone(), map_type }),
    }
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
    check_map_flags(def, flag::NO_PREALLOC | flag::NUMA_NODE | flag::ACCESS | flag::ZERO_SEED)?;
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
    Ok(())
}

fn invalid(why: impl Into<std::borrow::Cow<'static, str>>) -> MapError {
    MapError::Invalid(why.into())
}

pub(super) fn no_memory(def: &MapDef, error: OutOfMemory) -> MapError {
    MapError::NoMemory(format!("map {:?} of type {}: {error}", def.name, def.map_type).into())
}
