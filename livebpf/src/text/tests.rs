//! Tests of the region and of images: protection of the memory, relocations, and what malformed code is refused for.

use std::collections::HashSet;

use super::*;
use crate::jit::{Code, PokeSite, Reloc, RelocKind};
use crate::link::MapId;

fn small() -> RegionOptions {
    RegionOptions { capacity: 1 << 20, ..RegionOptions::default() }
}

/// The permissions of the mapping that holds `address`, for instance `r-xs`.
fn permissions(address: u64) -> String {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let line = maps.lines().find(|line| {
        let (begin, end) = line.split(' ').next().unwrap().split_once('-').unwrap();
        let parse = |hex| u64::from_str_radix(hex, 16).unwrap();
        (parse(begin)..parse(end)).contains(&address)
    });
    line.map(|line| line.split(' ').nth(1).unwrap().to_owned()).unwrap_or_default()
}

#[test]
fn no_page_is_writable_and_executable_and_the_file_is_closed() {
    let region = Region::new(small()).unwrap();
    assert_eq!(permissions(region.base()), "r-xs");
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let ours: HashSet<&str> =
        maps.lines().filter(|l| l.contains("livebpf-code")).map(|l| l.split(' ').nth(1).unwrap()).collect();
    assert_eq!(ours, HashSet::from(["rw-s", "r-xs"]));
    assert!(!maps.lines().any(|l| l.split(' ').nth(1).is_some_and(|p| p.contains('w') && p.contains('x'))));
    let files = std::fs::read_dir("/proc/self/fd").unwrap();
    let open = files.filter_map(|f| std::fs::read_link(f.unwrap().path()).ok());
    // Other tests make regions at the same time; theirs are open for an instant only.
    let still_open = open.filter(|link| link.to_string_lossy().contains("livebpf-code")).count();
    assert!(still_open < 8, "{still_open} code files are open");
}

#[test]
fn capacity_is_checked_and_reach_is_found() {
    for capacity in [0, 4096, (1 << 30) + 1, u64::MAX] {
        let error = Region::new(RegionOptions { capacity, ..small() }).unwrap_err();
        assert!(matches!(error, TextError::Capacity { .. }), "{error}");
    }
    let near = permissions as *const () as u64;
    for capacity in [64 << 10, 256 << 20, 1 << 30] {
        let region = Region::new(RegionOptions { capacity, near: Some(near), reuse: true }).unwrap();
        assert!(region.reaches(near), "{:#x} from {near:#x}", region.base());
        assert!(region.contains(region.base()) && !region.contains(region.base() + capacity));
        assert!(!region.reaches(region.base().wrapping_add(1 << 32)));
    }
}

#[test]
fn memory_is_int3_wherever_no_image_is() {
    let region = Region::new(small()).unwrap();
    let code = Code { bytes: vec![0x90; 100], ..Code::default() };
    let one = Image::place(&region, &code, &|_| None).unwrap();
    let two = Image::place(&region, &code, &|_| None).unwrap();
    assert_eq!((one.base() % 64, two.base() % 64, region.used()), (0, 0, 64 + 2 * 128));
    let word = |address: u64| region.load((address - region.base()) as u32) as u32;
    assert_eq!((word(one.base()), word(one.base() + 96), word(one.base() + 100)), (0x90909090, 0x90909090, 0xcccccccc));
    assert_eq!(one.bytes(), code.bytes);
    let base = one.base();
    drop(one);
    assert_eq!((word(base), word(base + 96), word(two.base())), (0xcccccccc, 0xcccccccc, 0x90909090));
    let again = Image::place(&region, &code, &|_| None).unwrap();
    assert_eq!(again.base(), base);
}

#[test]
fn without_reuse_no_address_comes_twice() {
    let region = Region::new(RegionOptions { capacity: 64 << 10, reuse: false, ..small() }).unwrap();
    let code = Code { bytes: vec![0x90; 1000], ..Code::default() };
    let mut seen = HashSet::new();
    let error = loop {
        match Image::place(&region, &code, &|_| None) {
            Ok(image) => assert!(seen.insert(image.base())),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, TextError::Full { .. }), "{error}");
    assert_eq!(seen.len(), (64 << 10) / 1024 - 1);
}

#[test]
fn relocations_are_applied_or_refused() {
    let region = Region::new(small()).unwrap();
    let reloc = |at, kind, symbol| Reloc { at, kind, symbol };
    let code = Code {
        bytes: vec![0; 40],
        relocs: vec![
            reloc(0, RelocKind::Rel32, Symbol::Helper(1)),
            reloc(8, RelocKind::Abs64, Symbol::Map(MapId(3))),
            reloc(16, RelocKind::Abs64, Symbol::Here(24)),
            reloc(24, RelocKind::Rel32, Symbol::Poison),
        ],
        ..Code::default()
    };
    let helper = region.base() + 0x1234;
    let far = 1u64 << 46;
    let resolve = move |symbol| match symbol {
        Symbol::Helper(_) => Some(helper),
        Symbol::Map(_) => Some(far),
        _ => None,
    };
    let image = Image::place(&region, &code, &resolve).unwrap();
    let bytes = image.bytes();
    let rel = |at: usize| i64::from(i32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()));
    let abs = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    assert_eq!(image.base().wrapping_add_signed(rel(0) + 4), helper);
    assert_eq!((abs(8), abs(16)), (far, image.base() + 24));
    assert_eq!(image.base().wrapping_add_signed(rel(24) + 28), region.poison());
    let used = region.used();
    let with = |reloc: Reloc| Code { relocs: vec![reloc], ..code.clone() };
    let refuse = |reloc| Image::place(&region, &with(reloc), &resolve).unwrap_err();
    let error = refuse(reloc(0, RelocKind::Rel32, Symbol::Map(MapId(3))));
    assert!(matches!(error, TextError::Reach { at: 0, .. }), "{error}");
    let error = refuse(reloc(4, RelocKind::Abs64, Symbol::HelperData(9)));
    assert!(matches!(error, TextError::Unresolved { at: 4, .. }), "{error}");
    for (at, kind) in [(37, RelocKind::Rel32), (33, RelocKind::Abs64), (u32::MAX, RelocKind::Abs64)] {
        assert!(matches!(refuse(reloc(at, kind, Symbol::Poison)), TextError::Malformed { .. }));
    }
    assert_eq!(region.used(), used, "a refused image keeps no memory");
}

#[test]
fn sites_that_cannot_be_patched_safely_are_refused() {
    let region = Region::new(small()).unwrap();
    let mut bytes = vec![0x90; 64];
    for at in [1, 20, 33] {
        bytes[at..at + 3].copy_from_slice(&[0x41, 0x83, 0xfc]);
    }
    for at in [11, 28, 31] {
        bytes[at] = 0xe9;
    }
    let site = PokeSite { map: MapId(0), index: 0, pc: Default::default(), bypass: 1, target: 11 };
    let place = |sites: &[PokeSite]| {
        let code = Code { bytes: bytes.clone(), sites: sites.to_vec(), ..Code::default() };
        Image::place(&region, &code, &|_| None).map(|image| image.bytes())
    };
    let placed = place(&[site]).unwrap();
    assert_eq!(placed[4], 0);
    for (bad, what) in [
        (PokeSite { target: 28, ..site }, "4-byte boundary"),
        (PokeSite { target: 15, ..site }, "e9"),
        (PokeSite { bypass: 5, ..site }, "41 83 fc"),
        (PokeSite { bypass: 61, ..site }, "outside"),
        (PokeSite { target: 61, ..site }, "outside"),
        (PokeSite { target: u32::MAX, ..site }, "outside"),
        (PokeSite { bypass: 33, target: 31, ..site }, "follow"),
    ] {
        let error = place(&[bad]).unwrap_err().to_string();
        assert!(error.contains(what), "{bad:?}: {error}");
    }
    assert!(place(&[site, site]).unwrap_err().to_string().contains("share"));
}
