//! The other kinds of maps: what creates them, and what users and programs get for an answer. Everything here is what Linux 6.18
//! answers.

use libc::{E2BIG, EEXIST, EINVAL, ENOENT, ENOSPC, EOVERFLOW};

use super::*;

const ENOTSUPP: i32 = 524;

fn def(map_type: MapType, key_size: u32, value_size: u32, max_entries: u32, map_flags: u32) -> MapDef {
    let inner = [MapType::ARRAY_OF_MAPS, MapType::HASH_OF_MAPS].contains(&map_type);
    let inner = inner.then(|| Box::new(MapDef::new("inner", MapType::ARRAY, 4, 8, 3)));
    MapDef { map_flags, inner, ..MapDef::new("m", map_type, key_size, value_size, max_entries) }
}

fn map(map_type: MapType, key_size: u32, value_size: u32, max_entries: u32, map_flags: u32) -> Arc<Map> {
    Map::create(Arc::new(def(map_type, key_size, value_size, max_entries, map_flags)), 7, 3).unwrap()
}

fn errno<T>(result: Result<T, MapError>) -> i32 {
    result.map_or_else(|error| error.errno(), |_| 0)
}

fn key(n: u32) -> [u8; 4] {
    n.to_ne_bytes()
}

/// Type, key size, value size, entries, flags, error number.
#[rustfmt::skip]
const CREATED: &[(MapType, u32, u32, u32, u32, i32)] = &[
        (MapType::PERCPU_HASH, 4, 8, 2, 0x0, 0),
        (MapType::PERCPU_HASH, 0, 8, 2, 0x0, EINVAL),
        (MapType::PERCPU_HASH, 4, 0, 2, 0x0, EINVAL),
        (MapType::PERCPU_HASH, 4, 8, 0, 0x0, EINVAL),
        (MapType::PERCPU_HASH, 4, 8, 2, 0x1, 0),
        (MapType::PERCPU_HASH, 4, 8, 2, 0x2, EINVAL),
        (MapType::PERCPU_HASH, 4, 32768, 1, 0x0, 0),
        (MapType::PERCPU_HASH, 4, 32769, 1, 0x0, E2BIG),
        (MapType::PERCPU_HASH, 4, 8, 2, 0x40000000, EINVAL),
        (MapType::LRU_HASH, 4, 8, 2, 0x0, 0),
        (MapType::LRU_HASH, 0, 8, 2, 0x0, EINVAL),
        (MapType::LRU_HASH, 4, 0, 2, 0x0, EINVAL),
        (MapType::LRU_HASH, 4, 8, 0, 0x0, EINVAL),
        (MapType::LRU_HASH, 4, 8, 2, 0x1, 524),
        (MapType::LRU_HASH, 4, 8, 2, 0x2, 0),
        (MapType::LRU_HASH, 4, 32768, 1, 0x0, 0),
        (MapType::LRU_HASH, 4, 32769, 1, 0x0, 0),
        (MapType::LRU_HASH, 4, 8, 2, 0x40000000, EINVAL),
        (MapType::LRU_PERCPU_HASH, 4, 8, 2, 0x0, 0),
        (MapType::LRU_PERCPU_HASH, 0, 8, 2, 0x0, EINVAL),
        (MapType::LRU_PERCPU_HASH, 4, 0, 2, 0x0, EINVAL),
        (MapType::LRU_PERCPU_HASH, 4, 8, 0, 0x0, EINVAL),
        (MapType::LRU_PERCPU_HASH, 4, 8, 2, 0x1, 524),
        (MapType::LRU_PERCPU_HASH, 4, 8, 2, 0x2, 0),
        (MapType::LRU_PERCPU_HASH, 4, 32768, 1, 0x0, 0),
        (MapType::LRU_PERCPU_HASH, 4, 32769, 1, 0x0, E2BIG),
        (MapType::LRU_PERCPU_HASH, 4, 8, 2, 0x40000000, EINVAL),
        (MapType::LPM_TRIE, 8, 8, 2, 0x1, 0),
        (MapType::LPM_TRIE, 8, 8, 2, 0x0, EINVAL),
        (MapType::LPM_TRIE, 4, 8, 2, 0x1, EINVAL),
        (MapType::LPM_TRIE, 5, 8, 2, 0x1, 0),
        (MapType::LPM_TRIE, 260, 8, 2, 0x1, 0),
        (MapType::LPM_TRIE, 261, 8, 2, 0x1, EINVAL),
        (MapType::LPM_TRIE, 8, 0, 2, 0x1, EINVAL),
        (MapType::LPM_TRIE, 8, 8, 0, 0x1, EINVAL),
        (MapType::LPM_TRIE, 8, 5242880, 1, 0x1, EINVAL),
        (MapType::ARRAY_OF_MAPS, 4, 4, 2, 0x0, 0),
        (MapType::ARRAY_OF_MAPS, 4, 8, 2, 0x0, EINVAL),
        (MapType::ARRAY_OF_MAPS, 4, 4, 0, 0x0, EINVAL),
        (MapType::ARRAY_OF_MAPS, 8, 4, 2, 0x0, EINVAL),
        (MapType::ARRAY_OF_MAPS, 4, 4, 2, 0x80, EINVAL),
        (MapType::HASH_OF_MAPS, 4, 4, 2, 0x0, 0),
        (MapType::HASH_OF_MAPS, 4, 8, 2, 0x0, EINVAL),
        (MapType::HASH_OF_MAPS, 4, 4, 0, 0x0, EINVAL),
        (MapType::HASH_OF_MAPS, 8, 4, 2, 0x0, 0),
        (MapType::HASH_OF_MAPS, 4, 4, 2, 0x80, 0),
        (MapType::DEVMAP, 4, 4, 2, 0x0, 0),
        (MapType::DEVMAP, 4, 8, 2, 0x0, 0),
        (MapType::DEVMAP, 8, 4, 2, 0x0, EINVAL),
        (MapType::DEVMAP, 4, 4, 0, 0x0, EINVAL),
        (MapType::DEVMAP, 4, 12, 2, 0x0, EINVAL),
        (MapType::DEVMAP, 4, 4, 2, 0x80, EINVAL),
        (MapType::DEVMAP, 4, 4, 2, 0x8, 0),
        (MapType::DEVMAP, 4, 4, 2, 0x40000000, EINVAL),
        (MapType::DEVMAP_HASH, 4, 4, 2, 0x0, 0),
        (MapType::DEVMAP_HASH, 4, 8, 2, 0x0, 0),
        (MapType::DEVMAP_HASH, 8, 4, 2, 0x0, EINVAL),
        (MapType::DEVMAP_HASH, 4, 4, 0, 0x0, EINVAL),
        (MapType::DEVMAP_HASH, 4, 12, 2, 0x0, EINVAL),
        (MapType::DEVMAP_HASH, 4, 4, 2, 0x80, EINVAL),
        (MapType::DEVMAP_HASH, 4, 4, 2, 0x8, 0),
        (MapType::DEVMAP_HASH, 4, 4, 2, 0x40000000, EINVAL),
        (MapType::CPUMAP, 4, 4, 2, 0x0, 0),
        (MapType::CPUMAP, 4, 8, 2, 0x0, 0),
        (MapType::CPUMAP, 8, 4, 2, 0x0, EINVAL),
        (MapType::CPUMAP, 4, 4, 0, 0x0, EINVAL),
        (MapType::CPUMAP, 4, 12, 2, 0x0, EINVAL),
        (MapType::CPUMAP, 4, 4, 2, 0x80, EINVAL),
        (MapType::CPUMAP, 4, 4, 2, 0x8, EINVAL),
        (MapType::CPUMAP, 4, 4, 2, 0x40000000, EINVAL),
        (MapType::XSKMAP, 4, 4, 2, 0x0, 0),
        (MapType::XSKMAP, 4, 8, 2, 0x0, EINVAL),
        (MapType::XSKMAP, 8, 4, 2, 0x0, EINVAL),
        (MapType::XSKMAP, 4, 4, 0, 0x0, EINVAL),
        (MapType::XSKMAP, 4, 12, 2, 0x0, EINVAL),
        (MapType::XSKMAP, 4, 4, 2, 0x80, EINVAL),
        (MapType::XSKMAP, 4, 4, 2, 0x8, 0),
        (MapType::XSKMAP, 4, 4, 2, 0x40000000, EINVAL),
        (MapType::QUEUE, 0, 8, 2, 0x0, 0),
        (MapType::QUEUE, 4, 8, 2, 0x0, EINVAL),
        (MapType::QUEUE, 0, 0, 2, 0x0, EINVAL),
        (MapType::QUEUE, 0, 8, 0, 0x0, EINVAL),
        (MapType::QUEUE, 0, 8, 2, 0x80, 0),
        (MapType::QUEUE, 0, 8, 2, 0x1, EINVAL),
        (MapType::QUEUE, 0, 4194305, 1, 0x0, E2BIG),
        (MapType::STACK, 0, 8, 2, 0x0, 0),
        (MapType::STACK, 4, 8, 2, 0x0, EINVAL),
        (MapType::STACK, 0, 0, 2, 0x0, EINVAL),
        (MapType::STACK, 0, 8, 0, 0x0, EINVAL),
        (MapType::STACK, 0, 8, 2, 0x80, 0),
        (MapType::STACK, 0, 8, 2, 0x1, EINVAL),
        (MapType::STACK, 0, 4194305, 1, 0x0, E2BIG),
        (MapType::RINGBUF, 0, 0, 4096, 0x0, 0),
        (MapType::RINGBUF, 0, 0, 4095, 0x0, EINVAL),
        (MapType::RINGBUF, 0, 0, 12288, 0x0, EINVAL),
        (MapType::RINGBUF, 0, 0, 0, 0x0, EINVAL),
        (MapType::RINGBUF, 4, 0, 4096, 0x0, EINVAL),
        (MapType::RINGBUF, 0, 8, 4096, 0x0, EINVAL),
        (MapType::RINGBUF, 0, 0, 4096, 0x80, EINVAL),
        (MapType::RINGBUF, 0, 0, 65536, 0x4, 0),
        (MapType::PERF_EVENT_ARRAY, 4, 4, 2, 0x0, 0),
        (MapType::PERF_EVENT_ARRAY, 4, 8, 2, 0x0, EINVAL),
        (MapType::PERF_EVENT_ARRAY, 8, 4, 2, 0x0, EINVAL),
        (MapType::PERF_EVENT_ARRAY, 4, 4, 0, 0x0, EINVAL),
        (MapType::PERF_EVENT_ARRAY, 4, 4, 2, 0x8, 0),
        (MapType::PERF_EVENT_ARRAY, 4, 4, 2, 0x80, EINVAL),
];

#[test]
fn creation_is_checked_as_in_the_kernel() {
    for (map_type, key_size, value_size, entries, flags, want) in CREATED {
        let made = Map::create(Arc::new(def(*map_type, *key_size, *value_size, *entries, *flags)), 1, 2);
        let what = format!("{map_type} {key_size} {value_size} {entries} {flags:#x}: {made:?}");
        assert_eq!(errno(made), *want, "{what}");
    }
}

#[test]
fn queues_give_the_first_and_stacks_the_last() {
    for (map_type, pushed, popped) in [(MapType::QUEUE, [2, 3], [2, 3]), (MapType::STACK, [2, 3], [3, 2])] {
        let map = map(map_type, 0, 8, 2, 0);
        let push = |n: u8, flags| errno(map.push(&[n; 8], flags));
        assert_eq!([push(1, 0), push(2, 1), push(2, 0), push(3, 0)], [0, EINVAL, 0, E2BIG]);
        assert_eq!([push(3, 2), push(4, 3), push(4, 4)], [0, EINVAL, EINVAL], "the oldest makes room");
        assert_eq!(map.len() as usize, pushed.len());
        for n in popped {
            let mut next = [0; 8];
            map.next_value(Slice::from_mut(&mut next), false).unwrap();
            assert_eq!((next, map.read(&[]).unwrap()), ([n; 8], vec![n; 8]));
            assert_eq!(map.pop().unwrap(), [n; 8]);
        }
        let mut next = [9; 8];
        assert_eq!((errno(map.next_value(Slice::from_mut(&mut next), true)), next), (ENOENT, [0; 8]));
        assert_eq!((errno(map.remove(&[])), errno(map.next_key(None))), (EINVAL, EINVAL));
        assert_eq!(errno(map.write(&[], &[1; 7], 0)), EINVAL);
    }
}

#[test]
fn device_maps_are_data() {
    let put = |map: &Map, n: u32, to: u32, flags| errno(map.write(&key(n), &to.to_ne_bytes(), flags));
    let devices = map(MapType::DEVMAP, 4, 4, 2, 0);
    let done = [(0, 1, 0), (2, 1, 0), (1, 1, 1), (0, 1, 1), (1, 1, 2), (0, 0, 0), (1, 1, 3), (7, 1, 0)];
    let want = [0, E2BIG, EEXIST, EEXIST, 0, 0, EINVAL, E2BIG];
    assert_eq!(done.map(|(n, to, flags)| put(&devices, n, to, flags)), want);
    assert_eq!([0, 1, 2].map(|n| errno(devices.read(&key(n)))), [ENOENT, 0, ENOENT]);
    assert_eq!([0, 0, 5].map(|n| errno(devices.remove(&key(n)))), [0, 0, EINVAL]);
    assert_eq!(devices.next_key(Some(&key(0))).unwrap(), key(1));
    assert_eq!(errno(devices.next_key(Some(&key(1)))), ENOENT);
    let hash = map(MapType::DEVMAP_HASH, 4, 4, 2, 0);
    let done = [(0, 1, 0), (2, 1, 0), (1, 1, 1), (0, 1, 1), (1, 1, 2), (0, 0, 0), (1, 1, 3), (7, 1, 0)];
    let want = [0, 0, E2BIG, EEXIST, E2BIG, EINVAL, EINVAL, E2BIG];
    assert_eq!(done.map(|(n, to, flags)| put(&hash, n, to, flags)), want);
    assert_eq!([0, 0, 5].map(|n| errno(hash.remove(&key(n)))), [0, ENOENT, ENOENT]);
    let cpus = map(MapType::CPUMAP, 4, 4, 2, 0);
    let done = [(0, 192, 0), (2, 192, 0), (1, 192, 1), (0, 20000, 0), (1, 192, 2), (1, 0, 0), (1, 192, 3)];
    let want = [0, E2BIG, EEXIST, EOVERFLOW, 0, 0, EINVAL];
    assert_eq!(done.map(|(n, to, flags)| put(&cpus, n, to, flags)), want);
    assert_eq!([0, 1, 2].map(|n| errno(cpus.read(&key(n)))), [0, ENOENT, ENOENT]);
    for map in [&devices, &hash, &cpus] {
        assert_eq!(errno(map.update(&key(0), &key(1), 0, 0)), ENOTSUPP, "programs change none of them");
        assert_eq!(errno(map.delete(&key(0))), ENOTSUPP);
        assert!(!map.programs_may_write());
    }
}

#[test]
fn prefixes_are_found_by_users_and_programs() {
    let map = map(MapType::LPM_TRIE, 8, 1, 2, flag::NO_PREALLOC);
    let prefix = |length: u32, address: [u8; 4]| [length.to_ne_bytes(), address].concat();
    let put = |length, address, value: u8, flags| errno(map.write(&prefix(length, address), &[value], flags));
    assert_eq!([put(8, [10, 9, 9, 9], 1, 0), put(33, [0; 4], 1, 0), put(24, [10, 1, 2, 0], 2, 0)], [0, EINVAL, 0]);
    assert_eq!([put(9, [1; 4], 3, 0), put(9, [1; 4], 3, 2)], [ENOSPC, ENOENT]);
    assert_eq!([put(8, [10, 0, 0, 0], 4, 1), put(8, [10, 0, 0, 0], 4, 0), put(8, [10; 4], 4, 3)], [EEXIST, 0, EINVAL]);
    let find = |length, address| map.lookup(&prefix(length, address), 0).map(|v| v.to_vec()[0]);
    assert_eq!((find(32, [10, 1, 2, 3]), find(23, [10, 1, 2, 3])), (Some(2), Some(4)));
    assert_eq!((find(7, [10, 0, 0, 0]), find(33, [10, 0, 0, 0])), (None, None));
    let value = map.lookup(&prefix(32, [10, 1, 2, 3]), 0).unwrap();
    assert!(map.value_region(value.addr(), 1).is_some() && map.value_region(value.addr(), 9).is_none());
    let done =
        [(40, [0; 4]), (24, [10, 1, 2, 77]), (24, [10, 1, 2, 77])].map(|(n, a)| errno(map.remove(&prefix(n, a))));
    assert_eq!(done, [EINVAL, 0, ENOENT]);
}

#[test]
fn maps_of_maps_take_maps_like_their_template() {
    let inner = |n: u32, map_type, entries| {
        let def = MapDef::new("inner", map_type, 4, 8, entries);
        Map::create(Arc::new(def), n, 3).unwrap()
    };
    let (three, four, hash) = (inner(1, MapType::ARRAY, 3), inner(2, MapType::ARRAY, 4), inner(3, MapType::HASH, 3));
    let outer = map(MapType::ARRAY_OF_MAPS, 4, 4, 2, 0);
    let put = |n: u32, map: &Arc<Map>, flags| errno(outer.set_inner(&key(n), map.clone(), flags));
    assert_eq!([put(0, &three, 0), put(0, &four, 0), put(0, &hash, 0), put(2, &three, 0)], [0, EINVAL, EINVAL, E2BIG]);
    assert_eq!([put(1, &three, 1), put(1, &three, 2)], [EINVAL, EINVAL]);
    assert_eq!(outer.lookup_address(&key(0), 0), Arc::as_ptr(&three) as u64);
    assert_eq!((outer.lookup_address(&key(1), 0), outer.lookup_address(&key(9), 0)), (0, 0));
    assert_eq!(outer.read(&key(0)).unwrap(), 1u32.to_ne_bytes());
    assert!(Arc::ptr_eq(&outer.clear_inner(&key(0)).unwrap(), &three));
    assert_eq!([0, 5].map(|n| errno(outer.clear_inner(&key(n)))), [ENOENT, E2BIG]);
    assert_eq!(outer.lookup_address(&key(0), 0), 0);
    let template = Some(Box::new(MapDef::new("inner", MapType::HASH, 4, 8, 3)));
    let outer = MapDef { inner: template, ..MapDef::new("m", MapType::HASH_OF_MAPS, 8, 4, 2) };
    let outer = Map::create(Arc::new(outer), 9, 3).unwrap();
    let nine = inner(4, MapType::HASH, 9);
    let put = |n: u64, map: &Arc<Map>, flags| errno(outer.set_inner(&n.to_ne_bytes(), map.clone(), flags));
    assert_eq!([put(0, &three, 0), put(0, &hash, 0), put(1, &nine, 0), put(2, &hash, 0)], [EINVAL, 0, 0, E2BIG]);
    assert_eq!([put(1, &hash, 1), put(3, &hash, 2), put(1, &hash, 2)], [EEXIST, ENOENT, 0]);
    assert_eq!(outer.lookup_address(&1u64.to_ne_bytes(), 0), Arc::as_ptr(&hash) as u64);
    assert_eq!((outer.len(), errno(outer.clear_inner(&7u64.to_ne_bytes()))), (2, ENOENT));
}

#[test]
fn rings_and_events_are_not_walked() {
    let ring = map(MapType::RINGBUF, 0, 0, 4096, 0);
    assert_eq!([errno(ring.read(&[])), errno(ring.write(&[], &[], 0)), errno(ring.remove(&[]))], [ENOTSUPP; 3]);
    assert_eq!(errno(ring.next_key(None)), ENOTSUPP);
    let events = map(MapType::PERF_EVENT_ARRAY, 4, 4, 2, 0);
    assert_eq!(errno(events.read(&key(0))), ENOTSUPP);
    assert_eq!([errno(events.remove(&key(0))), errno(events.remove(&key(9)))], [ENOENT, E2BIG]);
    assert_eq!(events.next_key(Some(&key(0))).unwrap(), key(1));
    let send = |index, bytes: &[u8]| {
        let mut bytes = bytes.to_vec();
        errno(events.perf_output(index, Slice::from_mut(&mut bytes), Slice::from_mut(&mut [])))
    };
    assert_eq!([send(0, b"x"), send(2, b"x")], [ENOENT, E2BIG]);
    assert_eq!([errno(events.perf_open(2, 64)), errno(events.perf_open(0, 65))], [E2BIG, EINVAL]);
    assert_eq!([errno(events.perf_open(0, 64)), errno(events.perf_open(0, 64))], [0, EEXIST]);
    assert_eq!([send(0, &[7; 40]), send(0, &[7; 40]), send(0, &[7; 70_000])], [0, ENOSPC, E2BIG]);
    let (ring, lost) = events.perf_events(0).unwrap();
    let mut all = Vec::new();
    ring.consume(usize::MAX, |bytes| all.push(bytes.to_vec())).unwrap();
    assert_eq!((all, lost), (vec![vec![7; 40]], 1));
}

#[test]
fn a_per_cpu_hash_has_a_value_for_each_cpu() {
    for map_type in [MapType::PERCPU_HASH, MapType::LRU_PERCPU_HASH] {
        let map = map(map_type, 4, 6, 2, 0);
        assert_eq!(map.user_value_size(), 24);
        map.update(&key(1), &[5; 6], 0, 1).unwrap();
        let all = |map: &Map| map.read(&key(1)).unwrap();
        assert_eq!(all(&map), [[0; 8], [5, 5, 5, 5, 5, 5, 0, 0], [0; 8]].concat(), "the others' are zero");
        map.update(&key(1), &[6; 6], 0, 2).unwrap();
        assert_eq!(map.lookup(&key(1), 1).unwrap().to_vec(), [5; 6]);
        assert_eq!(map.lookup(&key(1), 2).unwrap().to_vec(), [6; 6]);
        assert!(map.lookup(&key(1), 3).is_none(), "there are three CPUs");
        assert_eq!(errno(map.update(&key(1), &[6; 6], 1, 2)), EEXIST);
        let users: Vec<u8> = (0..24).collect();
        map.write(&key(1), &users, 0).unwrap();
        assert_eq!(map.lookup(&key(1), 1).unwrap().to_vec(), [8, 9, 10, 11, 12, 13]);
        let value = map.lookup(&key(1), 2).unwrap();
        assert!(map.value_region(value.addr(), 6).is_some() && map.value_region(value.addr(), 7).is_none());
        assert_eq!(errno(map.write(&key(1), &[0; 6], 0)), EINVAL);
    }
}

#[test]
fn a_full_map_forgets_what_was_not_used() {
    for map_type in [MapType::LRU_HASH, MapType::LRU_PERCPU_HASH] {
        let map = map(map_type, 4, 8, 64, 0);
        for n in 0..64 {
            map.update(&key(n), &[1; 8], 0, 0).unwrap();
        }
        for n in 0..1000 {
            // These two are used all the time.
            assert!(map.lookup(&key(0), 0).is_some() && map.lookup(&key(1), 0).is_some(), "{n}");
            map.update(&key(100 + n), &[2; 8], 0, 0).unwrap();
            assert!(map.read(&key(100 + n)).is_ok(), "what users read is not counted as used");
            assert!(map.len() <= 64);
        }
        assert_eq!(errno(map.update(&key(5), &[2; 8], 2, 0)), ENOENT);
    }
}
