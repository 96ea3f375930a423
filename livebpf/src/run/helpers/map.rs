//! The map helpers: `bpf_map_lookup_elem`, `bpf_map_update_elem`, `bpf_map_delete_elem`.
#![allow(unsafe_code)]

use super::{current, errno};
use crate::insn::Size;
use crate::map::cell::Slice;
use crate::map::{BPF_ANY, BPF_EXIST, Map, MapError};

/// Keys up to this size are copied to the stack.
const SHORT_KEY: usize = 64;

/// `void *bpf_map_lookup_elem(map, key)`: address of the value (of this CPU), or 0.
///
/// # Safety
/// R1 is the address of a live `Map`, R2 points to its key size of readable bytes.
#[inline(always)]
pub(super) unsafe fn lookup_elem([map, key, ..]: [u64; 5]) -> u64 {
    // SAFETY: as the caller promises.
    unsafe { with_key(live(map), key, |map, key| map.lookup_address(key, current::cpu())) }
}

/// [`lookup_elem`] where the code generator knows the map to be a hash map with keys of 4 bytes: so nothing has to be found out.
///
/// # Safety
/// As for [`lookup_elem`]; the third argument is the number of the CPU, which only maps with values for each CPU look at.
#[inline(always)]
pub(super) unsafe fn lookup_hash_4([map, key, cpu, ..]: [u64; 5]) -> u64 {
    // SAFETY: as the caller promises.
    let (map, key) = unsafe { (live(map), Slice::from_raw(key, 4)) };
    map.lookup_hash(word(key, 0, Size::W) as u32, cpu as u32)
}

/// The same with keys of 8 bytes.
///
/// # Safety
/// As for [`lookup_hash_4`].
#[inline(always)]
pub(super) unsafe fn lookup_hash_8([map, key, cpu, ..]: [u64; 5]) -> u64 {
    // SAFETY: as the caller promises.
    let (map, key) = unsafe { (live(map), Slice::from_raw(key, 8)) };
    map.lookup_hash(word(key, 0, Size::DW), cpu as u32)
}

/// The same with keys of 16 bytes.
///
/// # Safety
/// As for [`lookup_hash_4`].
#[inline(always)]
pub(super) unsafe fn lookup_hash_16([map, key, cpu, ..]: [u64; 5]) -> u64 {
    // SAFETY: as the caller promises.
    let (map, key) = unsafe { (live(map), Slice::from_raw(key, 16)) };
    let (low, high) = (word(key, 0, Size::DW), word(key, 8, Size::DW));
    map.lookup_hash(u128::from(high) << 64 | u128::from(low), cpu as u32)
}

/// `long bpf_map_update_elem(map, key, value, flags)`: 0 or a negative error number.
///
/// # Safety
/// As for [`lookup_elem`], and R3 points to the map's value size of readable bytes.
#[inline(always)]
pub(super) unsafe fn update_elem([map, key, value, flags, _]: [u64; 5]) -> u64 {
    // SAFETY: as the caller promises.
    let map = unsafe { live(map) };
    if matches!(flags, BPF_ANY | BPF_EXIST) {
        // SAFETY: as the caller promises.
        let key = unsafe { Slice::from_raw(key, map.key_size() as usize) };
        if let Some(target) = map.plain_value(key) {
            // SAFETY: as the caller promises.
            target.copy_from(unsafe { Slice::from_raw(value, target.len()) });
            return 0;
        }
    }
    // SAFETY: as the caller promises.
    unsafe { update_other(map, key, value, flags) }
}

/// # Safety
/// As for [`update_elem`].
#[inline(never)]
unsafe fn update_other(map: &Map, key: u64, value: u64, flags: u64) -> u64 {
    // SAFETY: as the caller promises.
    unsafe {
        with_key(map, key, |map, key| {
            let value = Slice::from_raw(value, map.value_size() as usize);
            result(map.update_from(key, value, flags, current::cpu()))
        })
    }
}

/// `long bpf_map_delete_elem(map, key)`: 0 or a negative error number.
///
/// # Safety
/// As for [`lookup_elem`].
#[inline(always)]
pub(super) unsafe fn delete_elem([map, key, ..]: [u64; 5]) -> u64 {
    // SAFETY: as the caller promises.
    unsafe { with_key(live(map), key, |map, key| result(map.delete(key))) }
}

/// `void *bpf_map_lookup_percpu_elem(map, key, cpu)`: address of that CPU's value, or 0.
///
/// # Safety
/// As for [`lookup_elem`].
pub(super) unsafe fn lookup_percpu_elem([map, key, cpu, ..]: [u64; 5]) -> u64 {
    let cpu = cpu as u32;
    let value = |map: &Map, key: &[u8]| {
        if cpu >= map.cpus() || !map.is_per_cpu() { 0 } else { map.lookup(key, cpu).map_or(0, Slice::addr) }
    };
    // SAFETY: as the caller promises.
    unsafe { with_key(live(map), key, value) }
}

/// `long bpf_map_push_elem(map, value, flags)`: 0 or a negative error number.
///
/// # Safety
/// R1 is the address of a live `Map`, R2 points to its value size of readable bytes.
pub(super) unsafe fn push_elem([map, value, flags, ..]: [u64; 5]) -> u64 {
    // SAFETY: as the caller promises.
    let map = unsafe { live(map) };
    // SAFETY: as the caller promises.
    let value = unsafe { Slice::from_raw(value, map.value_size() as usize) };
    result(map.push_from(value, flags))
}

/// `long bpf_map_pop_elem(map, value)`: 0, or a negative error number and zeros.
///
/// # Safety
/// R1 is the address of a live `Map`, R2 points to its value size of writable bytes.
pub(super) unsafe fn pop_elem([map, value, ..]: [u64; 5]) -> u64 {
    // SAFETY: as the caller promises.
    unsafe { next_elem(map, value, true) }
}

/// `long bpf_map_peek_elem(map, value)`: as [`pop_elem`], and the value stays.
///
/// # Safety
/// As for [`pop_elem`].
pub(super) unsafe fn peek_elem([map, value, ..]: [u64; 5]) -> u64 {
    // SAFETY: as the caller promises.
    unsafe { next_elem(map, value, false) }
}

/// # Safety
/// As for [`pop_elem`].
unsafe fn next_elem(map: u64, value: u64, take: bool) -> u64 {
    // SAFETY: as the caller promises.
    let map = unsafe { live(map) };
    // SAFETY: as the caller promises.
    let value = unsafe { Slice::from_raw(value, map.value_size() as usize) };
    result(map.next_value(value, take))
}

/// # Safety
/// `map` is the address of a live `Map`.
pub(super) unsafe fn live<'a>(map: u64) -> &'a Map {
    // SAFETY: as the caller promises; programs have no way to change a `Map` but by its methods.
    unsafe { &*std::ptr::with_exposed_provenance::<Map>(map as usize) }
}

/// Calls `then` with the map and a copy of the key, which others may be changing meanwhile.
///
/// # Safety
/// `key` points to the map's key size of readable bytes.
#[inline(always)]
unsafe fn with_key(map: &Map, key: u64, then: impl FnOnce(&Map, &[u8]) -> u64) -> u64 {
    let size = map.key_size() as usize;
    // SAFETY: the caller promises that many readable bytes.
    let key = unsafe { Slice::from_raw(key, size) };
    // The usual sizes as constants, so that copy, hash and comparison are a few instructions each.
    match size {
        4 => then(map, &(word(key, 0, Size::W) as u32).to_ne_bytes()),
        8 => then(map, &word(key, 0, Size::DW).to_ne_bytes()),
        16 => {
            let (low, high) = (word(key, 0, Size::DW), word(key, 8, Size::DW));
            then(map, &(u128::from(high) << 64 | u128::from(low)).to_ne_bytes())
        }
        _ => with_other_key(map, key, then),
    }
}

#[inline(never)]
fn with_other_key(map: &Map, key: Slice<'_>, then: impl FnOnce(&Map, &[u8]) -> u64) -> u64 {
    if key.len() > SHORT_KEY {
        return then(map, &key.to_vec());
    }
    let mut copy = [0; SHORT_KEY];
    key.read(&mut copy);
    then(map, &copy[..key.len()])
}

#[inline(always)]
fn word(key: Slice<'_>, off: usize, size: Size) -> u64 {
    key.load(off, size).unwrap_or_default()
}

#[inline(always)]
fn result(result: Result<(), MapError>) -> u64 {
    match result {
        Ok(()) => 0,
        Err(error) => errno(error.errno()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::object::{MapDef, MapType};

    fn map(map_type: MapType, key_size: u32, value_size: u32, max_entries: u32) -> Arc<Map> {
        let def = MapDef::new("m", map_type, key_size, value_size, max_entries);
        Map::create(Arc::new(def), 1, 2).unwrap()
    }

    /// Calls the three helpers as a program would.
    struct Program(Arc<Map>);

    impl Program {
        fn map(&self) -> u64 {
            Arc::as_ptr(&self.0).expose_provenance() as u64
        }
        fn lookup(&self, key: &mut [u8]) -> u64 {
            let key = Slice::from_mut(key);
            // SAFETY: the map is alive, the key is as long as the tests' maps want.
            unsafe { lookup_elem([self.map(), key.addr(), 0, 0, 0]) }
        }
        fn update(&self, key: &mut [u8], value: &mut [u8], flags: u64) -> i64 {
            let (key, value) = (Slice::from_mut(key), Slice::from_mut(value));
            // SAFETY: as above, and so is the value.
            unsafe { update_elem([self.map(), key.addr(), value.addr(), flags, 0]) as i64 }
        }
        fn delete(&self, key: &mut [u8]) -> i64 {
            let key = Slice::from_mut(key);
            // SAFETY: as in `lookup`.
            unsafe { delete_elem([self.map(), key.addr(), 0, 0, 0]) as i64 }
        }
    }

    #[test]
    fn hash_results_are_the_kernels_for_each_key_size() {
        for size in [3, 4, 8, 16, 40, 64, 65, 200] {
            let program = Program(map(MapType::HASH, size, 8, 2));
            let key = |n: u8| vec![n; size as usize];
            assert_eq!(program.lookup(&mut key(1)), 0);
            assert_eq!(program.update(&mut key(1), &mut [7; 8], 2), -i64::from(libc::ENOENT));
            assert_eq!(program.update(&mut key(1), &mut [7; 8], 1), 0);
            assert_eq!(program.update(&mut key(1), &mut [7; 8], 1), -i64::from(libc::EEXIST));
            assert_eq!(program.update(&mut key(2), &mut [8; 8], 0), 0);
            assert_eq!(program.update(&mut key(3), &mut [9; 8], 0), -i64::from(libc::E2BIG));
            assert_eq!(program.update(&mut key(1), &mut [9; 8], 3), -i64::from(libc::EINVAL));
            assert_eq!(program.update(&mut key(1), &mut [9; 8], 4), -i64::from(libc::EINVAL));
            assert_eq!(program.update(&mut key(1), &mut [9; 8], u64::MAX), -i64::from(libc::EINVAL));
            let value = program.0.value_region(program.lookup(&mut key(1)), 8).unwrap();
            assert_eq!(value.to_vec(), [7; 8]);
            assert_eq!(program.delete(&mut key(1)), 0);
            assert_eq!(program.delete(&mut key(1)), -i64::from(libc::ENOENT));
        }
    }

    #[test]
    fn array_results_are_the_kernels() {
        let sizes = [1, 6, 8, 12, 40];
        for (map_type, size) in [MapType::ARRAY, MapType::PERCPU_ARRAY].into_iter().flat_map(|t| sizes.map(|n| (t, n)))
        {
            let program = Program(map(map_type, 4, size as u32, 3));
            let key = |n: u32| n.to_ne_bytes();
            let stored = || program.0.value_region(program.lookup(&mut key(2)), size).unwrap().to_vec();
            let update = |n: u32, byte: u8, flags: u64| program.update(&mut key(n), &mut vec![byte; size], flags);
            assert_eq!(update(2, 5, 0), 0);
            assert_eq!(stored(), vec![5; size]);
            assert_eq!(program.lookup(&mut key(3)), 0);
            assert_eq!(program.lookup(&mut key(u32::MAX)), 0);
            assert_eq!(update(3, 5, 0), -i64::from(libc::E2BIG));
            assert_eq!(update(u32::MAX, 5, 2), -i64::from(libc::E2BIG));
            assert_eq!(update(2, 5, 1), -i64::from(libc::EEXIST));
            assert_eq!(update(2, 6, 2), 0);
            assert_eq!(update(3, 6, 3), -i64::from(libc::EINVAL));
            assert_eq!(update(2, 7, 4), -i64::from(libc::EINVAL), "BPF_F_LOCK, and no lock");
            assert_eq!(stored(), vec![6; size]);
            let mut odd: Vec<u8> = [0; 3].into_iter().chain(key(2)).chain(vec![9; size]).collect();
            let (odd_key, odd_value) = odd[3..].split_at_mut(4);
            assert_eq!(program.update(odd_key, odd_value, 0), 0, "neither key nor value is aligned");
            assert_eq!(stored(), vec![9; size]);
            assert_eq!(program.delete(&mut key(0)), -i64::from(libc::EINVAL));
        }
    }
}
