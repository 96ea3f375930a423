//! `lookup_T`, `map_update_T`: one lookup of an element that is there, one update of it, for each type of map; `map_refill_hash`: one
//! removed and put back; `map_push_pop_T`: one element in and out; `ring_output`, `ring_reserve`: one record of eight bytes.
//!
//! Every map has 256 elements, which are gone through in order. Keys have four bytes, or as many as the name says. Taken off is the
//! loop with the key and what is read or written, without the lookup or the update. Records are taken out between the batches.

use crate::contestant::Contestant;
use crate::objects::{self, MAPS, RINGS};
use crate::row::Wanted;
use crate::work::{Item, Ring, Task, Work};

/// Lookups or updates in a run.
const ROUNDS: u32 = 1000;
/// Records in a run, and bytes of each with its header.
const RECORDS: (u32, u32) = (100, 16);
/// Bytes of the ring.
const RING: u32 = 1 << 22;

/// A type of map, the kind of key in the names of its base programs, and what is wanted of lookups and updates beside the kernel.
const KEYED: [(&str, &str, Option<f64>, Option<f64>); 9] = [
    ("array", "4", Some(1.0), Some(0.5)),
    ("percpu_array", "4", Some(1.3), None),
    ("hash", "4", Some(0.4), Some(0.5)),
    ("hash_8", "8", None, None),
    ("hash_16", "16", None, None),
    ("percpu_hash", "4", Some(0.5), None),
    ("lru_hash", "4", Some(0.5), None),
    ("lru_percpu_hash", "4", None, None),
    ("lpm_trie", "lpm", None, None),
];

pub fn items() -> Vec<Item> {
    let kernel =
        |factor: Option<f64>| factor.map(|factor| Wanted::Of(Contestant::Kernel, factor)).into_iter().collect();
    let lookups = |(map, key, wanted, _)| Item::new(format!("lookup_{map}"), kernel(wanted), move || lookup(map, key));
    let updates = |(map, key, _, wanted)| {
        let task = move || update(&format!("update_{map}"), map, key);
        Item::new(format!("map_update_{map}"), kernel(wanted), task)
    };
    let mut items: Vec<Item> = KEYED.map(lookups).into();
    let of_maps = |map: &'static str| Item::new(format!("lookup_{}", &map[2..]), Vec::new(), move || nested(map));
    items.extend(["m_array_of_maps", "m_hash_of_maps"].map(of_maps));
    items.extend(KEYED.map(updates));
    items.push(Item::new("map_refill_hash", Vec::new(), || update("refill_hash", "hash", "4")));
    let push_pop = |map: &'static str| Item::new(format!("map_push_pop_{map}"), Vec::new(), move || push_pop(map));
    items.extend(["queue", "stack"].map(push_pop));
    items.extend(["ring_output", "ring_reserve"].map(|name| Item::new(name, Vec::new(), move || ring(name))));
    items
}

fn program(name: &str, answer: u32) -> Work {
    Work::of(objects::program(MAPS, name), answer)
}

/// The work with a map that is filled first.
fn filled(mut work: Work, map: &str) -> Work {
    work.first = Some(work.programs.len());
    work.programs.push(objects::program(MAPS, &format!("fill_{map}")));
    work
}

fn lookup(map: &str, key: &str) -> Task {
    lookup_of(map, map, key)
}

/// Lookups by the program that is named after `map`, once `filled_map` is filled.
fn lookup_of(map: &str, filled_map: &str, key: &str) -> Task {
    // What the loop without lookups reads is the first word of the key.
    let keys: u32 = (0..ROUNDS).map(|i| if key == "lpm" { 32 } else { i % 256 }).sum();
    Task {
        work: filled(program(&format!("lookup_{map}"), ROUNDS), filled_map),
        base: Some(program(&format!("base_lookup_{key}"), keys)),
        per: f64::from(ROUNDS),
    }
}

/// An array in every slot of a map of maps, looked up there and then in.
fn nested(outer: &'static str) -> Task {
    let Task { work, base, per } = lookup_of(&outer[2..], "array", "4");
    Task { work: Work { nested: Some([outer, "m_array"]), ..work }, base, per }
}

fn update(name: &str, map: &str, key: &str) -> Task {
    let base = program(&format!("base_update_{key}"), ROUNDS);
    Task { work: filled(program(name, ROUNDS), map), base: Some(base), per: f64::from(ROUNDS) }
}

fn push_pop(map: &str) -> Task {
    let base = program("base_update_4", ROUNDS);
    Task { work: program(&format!("push_pop_{map}"), ROUNDS), base: Some(base), per: f64::from(ROUNDS) }
}

fn ring(name: &str) -> Task {
    let (records, bytes) = RECORDS;
    let ring = Ring { map: "m_ring", runs: RING / (records * bytes) - 1 };
    let work = Work { ring: Some(ring), ..Work::of(objects::program(RINGS, name), records) };
    Task::over_empty(work, records)
}
