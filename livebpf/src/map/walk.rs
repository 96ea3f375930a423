//! All elements of a map, one after the other, as `bpf_for_each_map_elem` visits them.
//!
//! *Guarantees.* Each step answers an element that was in the map at some moment of the walk; without changes meanwhile
//! it is each of them once. The visitor may change the map between steps, and delete the element it stands on.

use super::cell::Slice;
use super::{Map, Storage};

/// A walk through a map.
pub(crate) struct Walk<'a> {
    map: &'a Map,
    cpu: u32,
    /// The next index of an array, or bucket of a hash map.
    next: u64,
    /// Of a hash map: the rest of a bucket, the next one last.
    bucket: Vec<(Vec<u8>, Slice<'a>)>,
}

impl Map {
    /// A walk that sees the values of CPU `cpu` where the map is per CPU; `None` for maps without data.
    pub(crate) fn walk(&self, cpu: u32) -> Option<Walk<'_>> {
        match &self.storage {
            Storage::Array(_) | Storage::Hash(_) => Some(Walk { map: self, cpu, next: 0, bucket: Vec::new() }),
            _ => None,
        }
    }
}

impl<'a> Walk<'a> {
    /// Writes the next key to `key`, which has the map's key size; its value.
    pub(crate) fn step(&mut self, key: Slice<'_>) -> Option<Slice<'a>> {
        match &self.map.storage {
            Storage::Array(array) => {
                let index = u32::try_from(self.next).ok().filter(|i| *i < self.map.max_entries)?;
                self.next += 1;
                key.write(&index.to_ne_bytes());
                array.value(index, self.cpu)
            }
            Storage::Hash(hash) => {
                while self.bucket.is_empty() {
                    self.bucket = hash.elements_of(self.next, self.cpu)?;
                    self.bucket.reverse();
                    self.next += 1;
                }
                let (found, value) = self.bucket.pop()?;
                key.write(&found);
                Some(value)
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use super::*;
    use crate::map::BPF_ANY;
    use crate::map::cell::Bytes;
    use crate::object::{MapDef, MapType};

    fn collect(map: &Map, cpu: u32) -> BTreeMap<u32, u64> {
        let key = Bytes::zeroed(4).unwrap();
        let mut walk = map.walk(cpu).unwrap();
        let mut out = BTreeMap::new();
        while let Some(value) = walk.step(key.slice()) {
            let key = u32::from_ne_bytes(key.slice().to_vec().try_into().unwrap());
            let value = u64::from_ne_bytes(value.to_vec().try_into().unwrap());
            assert_eq!(out.insert(key, value), None, "{key} twice");
        }
        out
    }

    fn filled(map_type: MapType, keys: std::ops::Range<u32>, cpu: u32) -> Arc<Map> {
        let map = Map::create(Arc::new(MapDef::new("m", map_type, 4, 8, 64)), 1, 2).unwrap();
        for key in keys {
            map.update(&key.to_ne_bytes(), &u64::from(key * 3).to_ne_bytes(), BPF_ANY, cpu).unwrap();
        }
        map
    }

    #[test]
    fn arrays_show_all_elements_and_hash_maps_those_there_are() {
        let wanted: BTreeMap<u32, u64> = (0..64).map(|i| (i, if i < 40 { u64::from(i * 3) } else { 0 })).collect();
        assert_eq!(collect(&filled(MapType::ARRAY, 0..40, 0), 0), wanted);
        let per_cpu = filled(MapType::PERCPU_ARRAY, 0..40, 1);
        assert_eq!(collect(&per_cpu, 1), wanted);
        assert!(collect(&per_cpu, 0).values().all(|v| *v == 0));
        let wanted: BTreeMap<u32, u64> = (7..60).map(|i| (i, u64::from(i * 3))).collect();
        for map_type in [MapType::HASH, MapType::LRU_HASH] {
            assert_eq!(collect(&filled(map_type, 7..60, 0), 0), wanted);
        }
        for map_type in [MapType::PERCPU_HASH, MapType::LRU_PERCPU_HASH] {
            let per_cpu = filled(map_type, 7..60, 1);
            assert_eq!(collect(&per_cpu, 1), wanted);
            assert_eq!(collect(&per_cpu, 0), wanted.keys().map(|key| (*key, 0)).collect());
        }
    }

    #[test]
    fn elements_may_be_deleted_during_the_walk() {
        let map = filled(MapType::HASH, 0..64, 0);
        let key = Bytes::zeroed(4).unwrap();
        let mut walk = map.walk(0).unwrap();
        let mut seen = 0;
        while walk.step(key.slice()).is_some() {
            map.delete(&key.slice().to_vec()).unwrap();
            seen += 1;
        }
        assert_eq!((seen, map.len()), (64, 0));
    }
}
