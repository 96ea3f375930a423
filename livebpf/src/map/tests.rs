//! Maps as users see them: creation checks, arrays, per-CPU values, freezing, iteration.

use super::*;
use crate::object::MapInit;

fn def(map_type: MapType, key_size: u32, value_size: u32, max_entries: u32, map_flags: u32) -> MapDef {
    MapDef { map_flags, ..MapDef::new("m", map_type, key_size, value_size, max_entries) }
}

fn create(def: MapDef) -> Result<Arc<Map>, MapError> {
    Map::create(Arc::new(def), 7, 3)
}

fn map(map_type: MapType, key_size: u32, value_size: u32, max_entries: u32) -> Arc<Map> {
    create(def(map_type, key_size, value_size, max_entries, 0)).unwrap()
}

fn key(n: u32) -> [u8; 4] {
    n.to_ne_bytes()
}

fn errno<T>(result: Result<T, MapError>) -> i32 {
    result.map_or_else(|error| error.errno(), |_| 0)
}

#[test]
fn creation_is_checked_as_in_the_kernel() {
    use libc::{E2BIG, EINVAL, ENOMEM};
    const ARRAY: MapType = MapType::ARRAY;
    const PERCPU: MapType = MapType::PERCPU_ARRAY;
    const PROGS: MapType = MapType::PROG_ARRAY;
    const HASH: MapType = MapType::HASH;
    for (map_type, key_size, value_size, max_entries, flags, want) in [
        (ARRAY, 4, 1, 1, 0, 0),
        (ARRAY, 4, 8, 1, flag::MMAPABLE | flag::RDONLY_PROG, 0),
        (ARRAY, 4, 8, 1, flag::INNER_MAP, 0),
        (ARRAY, 3, 8, 1, 0, EINVAL),
        (ARRAY, 8, 8, 1, 0, EINVAL),
        (ARRAY, 4, 0, 1, 0, EINVAL),
        (ARRAY, 4, 8, 0, 0, EINVAL),
        (ARRAY, 4, 8, 1, flag::NO_PREALLOC, EINVAL),
        (ARRAY, 4, 8, 1, 1 << 30, EINVAL),
        (ARRAY, 4, 8, 1, flag::RDONLY_PROG | flag::WRONLY_PROG, EINVAL),
        (ARRAY, 4, 0x8000_0000, 1, 0, E2BIG),
        (ARRAY, 4, 0x7fff_ffff, u32::MAX, 0, ENOMEM),
        (PERCPU, 4, 8, 5, 0, 0),
        (PERCPU, 4, 32768, 1, 0, 0),
        (PERCPU, 4, 32769, 1, 0, E2BIG),
        (PERCPU, 4, 8, 1, flag::MMAPABLE, EINVAL),
        (PERCPU, 4, 8, 1, flag::INNER_MAP, EINVAL),
        (PROGS, 4, 4, 3, 0, 0),
        (PROGS, 4, 8, 3, 0, EINVAL),
        (PROGS, 8, 4, 3, 0, EINVAL),
        (PROGS, 4, 4, 0, 0, EINVAL),
        (PROGS, 4, 4, 3, flag::RDONLY_PROG, EINVAL),
        (HASH, 1, 1, 1, 0, 0),
        (HASH, 13, 24, 100, flag::NO_PREALLOC | flag::ZERO_SEED, 0),
        (HASH, 0, 1, 1, 0, EINVAL),
        (HASH, 1, 0, 1, 0, EINVAL),
        (HASH, 1, 1, 0, 0, EINVAL),
        (HASH, 1, 1, 1, flag::MMAPABLE, EINVAL),
        (HASH, 1, 1, 1, 1 << 1, EINVAL),
        (HASH, 4 << 20, 1, 1, 0, E2BIG),
        (HASH, 4, u32::MAX, 1, 0, E2BIG),
        (HASH, 4, 8, (1 << 31) + 1, 0, E2BIG),
        (HASH, 4, 4 << 19, 1 << 31, 0, ENOMEM),
        (MapType::STACK_TRACE, 4, 8, 4096, 0, EINVAL),
        (MapType(9999), 4, 4, 1, 0, EINVAL),
    ] {
        let made = create(def(map_type, key_size, value_size, max_entries, flags));
        let what = format!("{map_type} {key_size} {value_size} {max_entries} {flags:#x}: {made:?}");
        assert_eq!(errno(made), want, "{what}");
    }
    let error = create(def(MapType::STACK_TRACE, 4, 8, 16, 0)).unwrap_err();
    assert_eq!(error.to_string(), "map \"m\" is of type stack_trace, which is not supported");
}

#[test]
fn array_values_begin_as_zero_and_are_found_by_index() {
    let array = map(MapType::ARRAY, 4, 5, 3);
    assert_eq!(array.len(), 3);
    assert_eq!(array.read(&key(2)).unwrap(), [0; 5]);
    array.write(&key(2), b"hello", BPF_ANY).unwrap();
    assert_eq!(array.read(&key(2)).unwrap(), b"hello");
    assert_eq!(array.read(&key(1)).unwrap(), [0; 5]);
    assert_eq!(errno(array.read(&key(3))), libc::ENOENT);
    assert_eq!(errno(array.write(&key(3), b"hello", BPF_ANY)), libc::E2BIG);
    assert_eq!(errno(array.write(&key(0), b"hello", BPF_NOEXIST)), libc::EEXIST);
    assert_eq!(errno(array.write(&key(0), b"hello", 3)), libc::EINVAL);
    assert_eq!(errno(array.write(&key(0), b"hello", BPF_F_LOCK)), libc::EINVAL);
    assert_eq!(errno(array.write(&key(0), b"hello", BPF_F_LOCK | BPF_NOEXIST)), libc::EEXIST);
    assert_eq!(errno(array.write(&key(0), b"four", BPF_ANY)), libc::EINVAL);
    assert_eq!(errno(array.write(b"abc", b"hello", BPF_ANY)), libc::EINVAL);
    assert_eq!(errno(array.read(b"abcde")), libc::EINVAL);
    assert_eq!(errno(array.remove(&key(0))), libc::EINVAL);
    let layout = array.array_layout().unwrap();
    assert_eq!((layout.stride, layout.cpu_stride), (8, 0));
    assert_eq!(array.lookup(&key(2), 0).unwrap().addr(), layout.data + 16);
}

#[test]
fn global_data_is_there_from_the_start() {
    let with = |data: &[u8]| {
        let init = MapInit::Data(data.to_vec());
        create(MapDef { init, frozen: true, ..def(MapType::ARRAY, 4, 6, 1, flag::RDONLY_PROG) })
    };
    let rodata = with(b"abcd").unwrap();
    assert_eq!(rodata.read(&key(0)).unwrap(), b"abcd\0\0");
    assert_eq!(errno(rodata.write(&key(0), b"xxxxxx", BPF_ANY)), libc::EPERM);
    assert!(!rodata.programs_may_write() && rodata.programs_may_read());
    assert_eq!(errno(with(b"seven b")), libc::EINVAL);
}

#[test]
fn each_cpu_has_its_own_value_and_users_see_all() {
    let array = map(MapType::PERCPU_ARRAY, 4, 6, 2);
    assert_eq!(array.user_value_size(), 24);
    for cpu in 0..3 {
        array.update(&key(1), &[cpu as u8 + 1; 6], BPF_ANY, cpu).unwrap();
    }
    let all = array.read(&key(1)).unwrap();
    assert_eq!(all, [[1, 1, 1, 1, 1, 1, 0, 0], [2, 2, 2, 2, 2, 2, 0, 0], [3, 3, 3, 3, 3, 3, 0, 0]].concat());
    assert_eq!(array.read(&key(0)).unwrap(), [0; 24]);
    array.write(&key(0), &[9; 24], BPF_ANY).unwrap();
    assert_eq!(array.lookup(&key(0), 2).unwrap().to_vec(), [9; 6]);
    assert_eq!(array.read(&key(1)).unwrap(), all);
    assert!(array.lookup(&key(0), 3).is_none());
    assert_eq!(errno(array.update(&key(0), &[0; 6], BPF_ANY, 3)), libc::EINVAL);
    assert_eq!(errno(array.write(&key(0), &[9; 6], BPF_ANY)), libc::EINVAL);
    let layout = array.array_layout().unwrap();
    for cpu in 0..3 {
        let addr = array.lookup(&key(1), cpu).unwrap().addr();
        assert_eq!(addr, layout.data + u64::from(cpu) * layout.cpu_stride + layout.stride);
    }
}

#[test]
fn regions_are_single_values() {
    for map_type in [MapType::ARRAY, MapType::PERCPU_ARRAY] {
        let array = map(map_type, 4, 5, 3);
        let start = array.data_addr().unwrap();
        assert_eq!(array.value_region(start + 16, 5).unwrap().addr(), start + 16);
        assert!(array.value_region(start + 17, 4).is_some());
        for (addr, len) in [(start - 1, 1), (start, 6), (start + 5, 1), (start + 24, 1), (start, usize::MAX)] {
            assert!(array.value_region(addr, len).is_none(), "{map_type} {} {len}", addr - start);
        }
        let last = array.lookup(&key(2), 2).unwrap().addr();
        assert!(array.value_region(last, 5).is_some() && array.value_region(last + 5, 1).is_none());
    }
    assert!(map(MapType::PROG_ARRAY, 4, 4, 1).value_region(0, 0).is_none());
}

#[test]
fn frozen_and_restricted_maps_refuse_users_only() {
    let array = map(MapType::ARRAY, 4, 4, 1);
    array.freeze().unwrap();
    assert_eq!(errno(array.freeze()), libc::EBUSY);
    assert_eq!(errno(array.write(&key(0), &[1; 4], BPF_ANY)), libc::EPERM);
    assert_eq!(errno(array.remove(&key(0))), libc::EPERM);
    assert_eq!(errno(array.update(&key(0), &[1; 4], BPF_ANY, 0)), 0);
    assert_eq!(array.read(&key(0)).unwrap(), [1; 4]);
    let reading = create(def(MapType::HASH, 4, 4, 1, flag::RDONLY)).unwrap();
    assert_eq!(errno(reading.write(&key(0), &[1; 4], BPF_ANY)), libc::EPERM);
    assert_eq!(errno(reading.update(&key(0), &[1; 4], BPF_ANY, 0)), 0);
    let writing = create(def(MapType::HASH, 4, 4, 1, flag::WRONLY)).unwrap();
    assert_eq!(errno(writing.write(&key(0), &[1; 4], BPF_ANY)), 0);
    assert_eq!(errno(writing.read(&key(0))), libc::EPERM);
    assert_eq!(errno(writing.next_key(None)), libc::EPERM);
}

#[test]
fn keys_are_walked_to_the_end() {
    let array = map(MapType::ARRAY, 4, 4, 3);
    assert_eq!(array.next_key(None).unwrap(), key(0));
    assert_eq!(array.next_key(Some(&key(1))).unwrap(), key(2));
    assert_eq!(errno(array.next_key(Some(&key(2)))), libc::ENOENT);
    assert_eq!(array.next_key(Some(&key(3))).unwrap(), key(0));
    assert_eq!(array.next_key(Some(&key(u32::MAX))).unwrap(), key(0));
    assert_eq!(errno(array.next_key(Some(b"abc"))), libc::EINVAL);
    let hash = map(MapType::HASH, 2, 4, 8);
    assert_eq!(errno(hash.next_key(None)), libc::ENOENT);
    assert!(hash.is_empty());
    hash.write(b"ab", &[1; 4], BPF_ANY).unwrap();
    assert_eq!(hash.next_key(None).unwrap(), b"ab");
    assert_eq!(errno(hash.next_key(Some(b"ab"))), libc::ENOENT);
    assert_eq!((hash.next_key(Some(b"xy")).unwrap(), hash.len()), (b"ab".to_vec(), 1));
}

#[test]
fn a_program_array_is_read_as_data_but_not_written() {
    let programs = map(MapType::PROG_ARRAY, 4, 4, 2);
    assert_eq!(programs.len(), 0);
    assert_eq!(errno(programs.read(&key(0))), libc::ENOENT);
    assert_eq!(errno(programs.read(&key(2))), libc::ENOENT);
    assert_eq!(errno(programs.write(&key(0), &[0; 4], BPF_ANY)), 524);
    assert_eq!(errno(programs.update(&key(0), &[0; 4], BPF_ANY, 0)), 524);
    assert_eq!(errno(programs.remove(&key(0))), 524);
    assert!(programs.lookup(&key(0), 0).is_none() && programs.data_addr().is_none());
}

#[test]
fn a_huge_map_costs_nothing_until_it_is_used() {
    let hash = map(MapType::HASH, 4, 40, 1 << 24);
    hash.write(&key(1), &[1; 40], BPF_ANY).unwrap();
    assert_eq!(hash.read(&key(1)).unwrap(), [1; 40]);
    let array = map(MapType::ARRAY, 4, 64, 1 << 24);
    array.write(&key((1 << 24) - 1), &[1; 64], BPF_ANY).unwrap();
    let status = std::fs::read_to_string("/proc/self/statm").unwrap();
    let resident: usize = status.split(' ').nth(1).unwrap().parse().unwrap();
    // Eagerly it would be 2.3 GiB; other tests share the process.
    assert!(resident < 256 << 10, "{resident} pages");
}
