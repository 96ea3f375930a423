//! Hash maps against a model, and under many threads.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::super::{BPF_ANY, BPF_EXIST, BPF_NOEXIST};
use super::*;

/// A generator good enough for choosing operations.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

fn errno(result: Result<(), MapError>) -> i32 {
    result.map_or_else(|error| error.errno(), |()| 0)
}

fn key_of(n: u64, size: u32) -> Vec<u8> {
    (0..size).map(|i| (n.wrapping_mul(0x0101_0101_0101_0101) >> (8 * (i % 8))) as u8 ^ i as u8).collect()
}

#[test]
fn behaves_like_a_model_for_every_kind_of_key_size() {
    for key_size in [1, 2, 3, 4, 5, 7, 8, 9, 12, 13, 16, 17, 40] {
        let hash = Hash::new(key_size, 11, 20, 2).unwrap();
        let mut model: HashMap<Vec<u8>, Vec<u8>> = HashMap::new();
        let mut random = Random(0x1234_5678_9abc_def1 + u64::from(key_size));
        for step in 0..if cfg!(miri) { 200u64 } else { 20_000 } {
            let key = key_of(random.below(32), key_size);
            let value: Vec<u8> = (0..11).map(|i| (step + i) as u8).collect();
            let (there, full) = (model.contains_key(&key), model.len() == 20);
            match random.below(6) {
                0 => assert_eq!(hash.read(&key), model.get(&key).cloned()),
                1 => assert_eq!(hash.lookup(&key, 0).map(Slice::to_vec), model.get(&key).cloned()),
                2 => {
                    let want = if there { 0 } else { libc::ENOENT };
                    assert_eq!(errno(hash.delete(&key)), want);
                    model.remove(&key);
                }
                _ => {
                    let flags = random.below(4);
                    let want = match flags {
                        BPF_NOEXIST if there => libc::EEXIST,
                        BPF_EXIST if !there => libc::ENOENT,
                        BPF_ANY | BPF_NOEXIST if !there && full => libc::E2BIG,
                        BPF_ANY | BPF_NOEXIST | BPF_EXIST => 0,
                        _ => libc::EINVAL,
                    };
                    let cpu = [0, 1, USER][random.below(3) as usize];
                    assert_eq!(errno(hash.update(&key, &value[..], flags, cpu)), want);
                    if want == 0 {
                        model.insert(key, value);
                    }
                }
            }
            assert!(step % 64 != 0 || hash.len() as usize == model.len());
        }
        let mut seen = HashSet::new();
        let mut key = hash.next_key(None);
        while let Some(k) = key {
            key = hash.next_key(Some(&k));
            assert!(seen.insert(k));
        }
        assert_eq!(seen, model.keys().cloned().collect());
        assert_eq!(hash.next_key(Some(&key_of(99, key_size))), hash.next_key(None), "an unknown key begins anew");
    }
}

#[test]
fn a_key_of_another_size_is_never_found() {
    let hash = Hash::new(4, 8, 4, 1).unwrap();
    hash.update(&[0; 4], &[1; 8][..], BPF_ANY, 0).unwrap();
    for size in [0, 3, 5, 8, 16] {
        assert!(hash.lookup(&vec![0; size], 0).is_none());
    }
}

#[test]
fn a_replaced_value_is_a_new_element_and_a_deleted_one_is_used_again() {
    let hash = Hash::new(4, 8, 2, 1).unwrap();
    hash.update(&[1; 4], &[1; 8][..], BPF_ANY, 0).unwrap();
    let old = hash.lookup(&[1; 4], 0).unwrap();
    hash.update(&[1; 4], &[2; 8][..], BPF_ANY, 0).unwrap();
    assert_eq!(old.to_vec(), [1; 8], "the old element still shows the old value");
    assert_eq!(hash.read(&[1; 4]).unwrap(), [2; 8]);
    let now = hash.lookup(&[1; 4], 0).unwrap();
    assert_ne!(now.addr(), old.addr());
    hash.delete(&[1; 4]).unwrap();
    hash.update(&[2; 4], &[3; 8][..], BPF_NOEXIST, 0).unwrap();
    assert_eq!(hash.lookup(&[2; 4], 0).unwrap().addr(), now.addr());
}

#[test]
fn regions_are_values_and_nothing_else() {
    let hash = Hash::new(5, 12, 3, 1).unwrap();
    for n in 0..3 {
        hash.update(&[n; 5], &[n; 12][..], BPF_ANY, 0).unwrap();
    }
    for n in 0..3 {
        let addr = hash.lookup(&[n; 5], 0).unwrap().addr();
        assert_eq!(hash.value_region(addr, 12).unwrap().to_vec(), [n; 12]);
        assert_eq!(hash.value_region(addr + 4, 8).unwrap().addr(), addr + 4);
        for (at, len) in [(addr - 1, 1), (addr, 13), (addr + 12, 1), (addr + 5, 8), (addr, usize::MAX)] {
            assert!(hash.value_region(at, len).is_none());
        }
    }
    let end = hash.elements.addr() + hash.elements.len() as u64;
    assert!(hash.value_region(end, 1).is_none() && hash.value_region(hash.elements.addr() - 1, 1).is_none());
}

#[test]
fn the_spare_in_use_means_overwriting_in_place() {
    let hash = Hash::new(4, 8, 2, 1).unwrap();
    hash.update(&[1; 4], &[1; 8][..], BPF_ANY, 0).unwrap();
    let spare = hash.spares[0].0.swap(0, Relaxed);
    let before = hash.lookup(&[1; 4], 0).unwrap();
    hash.update(&[1; 4], &[2; 8][..], BPF_ANY, 0).unwrap();
    assert_eq!(before.to_vec(), [2; 8]);
    assert_eq!(hash.spares[0].0.swap(spare, Relaxed), 0, "only its taker gives a spare back");
}

#[test]
fn an_interrupted_writer_gets_busy_and_the_lock_is_freed_by_a_panic() {
    let hash = Hash::new(4, 8, 1, 1).unwrap();
    let held = Locked::new(hash.bucket(0).unwrap()).unwrap();
    assert_eq!(errno(hash.delete(&[1; 4])), libc::ENOENT, "nothing is changed where there is nothing");
    drop(held);
    hash.update(&[1; 4], &[1; 8][..], BPF_ANY, 0).unwrap();
    let held = Locked::new(hash.bucket(0).unwrap()).unwrap();
    assert_eq!(errno(hash.update(&[1; 4], &[1; 8][..], BPF_ANY, 0)), libc::EBUSY);
    assert_eq!(errno(hash.delete(&[1; 4])), libc::EBUSY);
    assert!(hash.lookup(&[1; 4], 0).is_some(), "readers do not wait");
    drop(held);
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _held = Locked::new(hash.bucket(0).unwrap()).unwrap();
        panic!("on purpose");
    }));
    assert!(result.is_err());
    hash.update(&[1; 4], &[1; 8][..], BPF_ANY, 0).unwrap();
}

/// Wrong answers that readers got.
#[derive(Default)]
struct Wrong {
    missed: AtomicU64,
    mixed: AtomicU64,
}

/// Keys 0..8 are always there. Two writers insert and delete other keys, so that elements wander between chains;
/// another replaces the values of 0..8. Every value holds its key in both halves. Readers count keys not found and
/// values of another key.
fn stress(trusting: bool, time: Duration) -> (Wrong, u64) {
    const STABLE: u64 = 8;
    let hash = Hash::new(8, 16, 16, 4).unwrap();
    hash.trusting.store(trusting, Relaxed);
    let value = |key: u64| [key.to_ne_bytes(), key.to_ne_bytes()].concat();
    for key in 0..STABLE {
        hash.update(&key.to_ne_bytes(), &value(key)[..], BPF_NOEXIST, 0).unwrap();
    }
    let (stop, wrong, lookups) = (AtomicBool::new(false), Wrong::default(), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for writer in 0..2 {
            let (hash, stop) = (&hash, &stop);
            scope.spawn(move || {
                let mut random = Random(77 + writer);
                while !stop.load(Relaxed) {
                    let key = STABLE + writer * 1000 + random.below(16);
                    // Full now and then; both outcomes are right.
                    let _ = hash.update(&key.to_ne_bytes(), &value(key)[..], BPF_ANY, writer as u32);
                    let _ = hash.delete(&(STABLE + writer * 1000 + random.below(16)).to_ne_bytes());
                }
            });
        }
        scope.spawn(|| {
            let mut random = Random(5);
            while !stop.load(Relaxed) {
                let key = random.below(STABLE);
                hash.update(&key.to_ne_bytes(), &value(key)[..], BPF_EXIST, 2).unwrap();
            }
        });
        for reader in 0..2 {
            let (hash, stop, wrong, lookups) = (&hash, &stop, &wrong, &lookups);
            scope.spawn(move || {
                let mut random = Random(999 + reader);
                let mut done = 0;
                while !stop.load(Relaxed) {
                    let stable = random.below(2) == 0;
                    let key =
                        if stable { random.below(STABLE) } else { STABLE + random.below(2) * 1000 + random.below(16) };
                    match hash.read(&key.to_ne_bytes()) {
                        Some(found) if found != value(key) => _ = wrong.mixed.fetch_add(1, Relaxed),
                        None if stable => _ = wrong.missed.fetch_add(1, Relaxed),
                        _ => {}
                    }
                    done += 1;
                }
                lookups.fetch_add(done, Relaxed);
            });
        }
        let end = Instant::now() + time;
        while Instant::now() < end && !(trusting && wrong.missed.load(Relaxed) > 0 && wrong.mixed.load(Relaxed) > 0) {
            std::thread::sleep(Duration::from_millis(5));
        }
        stop.store(true, Relaxed);
    });
    // What is left is a sound map.
    hash.trusting.store(false, Relaxed);
    for key in 0..STABLE {
        assert_eq!(hash.read(&key.to_ne_bytes()), Some(value(key)));
    }
    assert!(hash.len() >= STABLE as u32 && hash.len() <= 16);
    (wrong, lookups.into_inner())
}

fn seconds() -> f64 {
    std::env::var("LIVEBPF_STRESS_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(1.0)
}

#[test]
#[cfg_attr(miri, ignore)]
fn readers_are_never_wrong_while_elements_wander() {
    let (wrong, lookups) = stress(false, Duration::from_secs_f64(seconds()));
    assert!(lookups > 1000, "only {lookups} lookups");
    assert_eq!((wrong.missed.into_inner(), wrong.mixed.into_inner()), (0, 0), "in {lookups} lookups");
}

#[test]
#[cfg_attr(miri, ignore)]
fn without_the_version_check_the_same_readers_are_wrong() {
    let (wrong, lookups) = stress(true, Duration::from_secs(30));
    let (missed, mixed) = (wrong.missed.into_inner(), wrong.mixed.into_inner());
    assert!(missed > 0 && mixed > 0, "missed {missed}, mixed {mixed} in {lookups} lookups");
}

#[test]
fn a_map_that_forgets_holds_each_key_once_and_whole() {
    let kind = Kind { forgets: true, ..Kind::default() };
    let hash = Hash::of_kind(kind, 4, 16, 32, 4).unwrap();
    let each = if cfg!(miri) { 100u64 } else { 20_000 };
    std::thread::scope(|scope| {
        for cpu in 0..3u32 {
            let hash = &hash;
            scope.spawn(move || {
                let mut random = Random(0x9876_5432 + u64::from(cpu));
                for _ in 0..each {
                    let key = random.below(100) as u32;
                    let value = [u64::from(key), !u64::from(key)].map(u64::to_ne_bytes).concat();
                    match random.below(4) {
                        0 => assert!(hash.read(&key.to_ne_bytes()).is_none_or(|found| found == value)),
                        1 => assert!(matches!(hash.delete(&key.to_ne_bytes()), Ok(()) | Err(MapError::NotFound))),
                        2 => drop(hash.lookup(&key.to_ne_bytes(), 0).map(Slice::to_vec)),
                        _ => hash.update(&key.to_ne_bytes(), &value[..], 0, cpu).unwrap(),
                    }
                }
            });
        }
    });
    let keys: Vec<Vec<u8>> = (0..=hash.bucket_mask).flat_map(|i| hash.keys_of(i).unwrap()).collect();
    assert!(keys.len() <= 32 && keys.iter().collect::<HashSet<_>>().len() == keys.len());
    // None was lost: as many new keys as the map can hold are all there in the end.
    for key in 1000..1032u32 {
        hash.update(&key.to_ne_bytes(), &[1; 16][..], 0, 0).unwrap();
    }
    assert_eq!(hash.len(), 32);
}
