//! Maps of maps: arrays and hash maps whose values are maps.
//!
//! A program that looks a key up gets the inner map's address; generated code reads an array's slots itself. Who takes an inner map
//! out has to keep it until the grace period is over: [`Outer::set`] and [`Outer::clear`] answer it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use super::array::Array;
use super::cell::OutOfMemory;
use super::hash::{self, Hash};
use super::held;
use super::{Map, MapError};
use crate::insn::Size;
use crate::object::{MapDef, MapType};
use crate::primitive::Mutex;

/// The slots of a map of maps.
pub(super) struct Outer {
    /// The inner maps' addresses, for programs; 0: none.
    slots: Slots,
    /// What keeps them alive, for users: by key.
    held: Mutex<BTreeMap<Vec<u8>, Arc<Map>>>,
    template: MapDef,
}

enum Slots {
    Array(Array, u32),
    Hash(Hash),
}

impl Outer {
    pub(super) fn array(entries: u32, template: MapDef) -> Result<Outer, OutOfMemory> {
        let slots = Slots::Array(Array::new(8, entries, None)?, entries);
        Ok(Outer { slots, held: Mutex::new(BTreeMap::new()), template })
    }

    pub(super) fn hash(key_size: u32, entries: u32, cpus: u32, template: MapDef) -> Result<Outer, OutOfMemory> {
        let slots = Slots::Hash(Hash::new(key_size, 8, entries, cpus)?);
        Ok(Outer { slots, held: Mutex::new(BTreeMap::new()), template })
    }

    /// Address of the inner map at `key`, 0 where there is none: for programs. Takes no lock.
    #[inline]
    pub(super) fn address(&self, key: &[u8]) -> u64 {
        let value = match &self.slots {
            Slots::Array(array, _) => super::index(key).and_then(|index| array.value(index, 0)),
            Slots::Hash(hash) => hash.lookup(key, 0),
        };
        value.and_then(|value| value.load(0, Size::DW)).unwrap_or(0)
    }

    /// [`address`](Self::address) in a hash map whose keys are known to be of this size; 0 in others.
    #[inline]
    pub(super) fn lookup_hash<K: hash::Key>(&self, key: K) -> u64 {
        match &self.slots {
            Slots::Hash(hash) if hash.has_keys_of(size_of::<K>()) => {
                hash.lookup_key(key, 0).and_then(|value| value.load(0, Size::DW)).unwrap_or(0)
            }
            _ => 0,
        }
    }

    /// Address of an array's first slot, for generated code; 0 for a hash map.
    pub(super) fn slots_addr(&self) -> u64 {
        match &self.slots {
            Slots::Array(array, _) => array.layout().data,
            Slots::Hash(_) => 0,
        }
    }

    /// The inner map at `key`. A thread that was interrupted while it held such a lock finds none.
    pub(super) fn get(&self, key: &[u8]) -> Option<Arc<Map>> {
        if held::marked() {
            return None;
        }
        held::lock(&self.held).get(key).cloned()
    }

    /// How many there are.
    pub(super) fn len(&self) -> u32 {
        held::lock(&self.held).len() as u32
    }

    /// The key after `key`, or the first.
    pub(super) fn next_key(&self, key: Option<&[u8]>) -> Option<Vec<u8>> {
        match &self.slots {
            Slots::Array(_, entries) => {
                let next = key.and_then(super::index).filter(|i| i < entries).map_or(0, |i| i + 1);
                (next < *entries).then(|| next.to_ne_bytes().to_vec())
            }
            Slots::Hash(hash) => hash.next_key(key),
        }
    }

    /// Whether `inner` can stand where the template does (`bpf_map_meta_equal`, `array_map_meta_equal`).
    fn fits(&self, inner: &MapDef) -> bool {
        let shape = |def: &MapDef| (def.map_type, def.key_size, def.value_size, def.map_flags);
        let any_length = self.template.map_type != MapType::ARRAY
            || inner.map_flags & super::flag::INNER_MAP != 0
            || self.template.max_entries == inner.max_entries;
        shape(&self.template) == shape(inner) && self.template.special == inner.special && any_length
    }

    /// Puts `inner` at `key`; answers the one that was there. `EINVAL`, `E2BIG`, `EEXIST`, `ENOENT`.
    pub(super) fn set(&self, key: &[u8], inner: Arc<Map>, flags: u64) -> Result<Option<Arc<Map>>, MapError> {
        if !self.fits(inner.def()) {
            let why = format!("map {:?} is not like the template {:?}", inner.name(), self.template.name);
            return Err(MapError::Invalid(why.into()));
        }
        let mut held = held::lock(&self.held);
        // Programs reach it by its address: all that makes the map is written before that is. They read what depends on it.
        fence(Ordering::Release);
        let address = Arc::as_ptr(&inner).expose_provenance() as u64;
        match &self.slots {
            Slots::Array(array, entries) => {
                if flags != super::BPF_ANY {
                    return Err(MapError::Invalid(format!("update flags {flags:#x} are not 0 (any)").into()));
                }
                let index = super::index(key).unwrap_or(u32::MAX);
                if index >= *entries {
                    return Err(MapError::IndexTooBig { index, max_entries: *entries });
                }
                array.update(index, &address.to_ne_bytes()[..], 0, false)?;
            }
            Slots::Hash(hash) => hash.update(key, &address.to_ne_bytes()[..], flags, hash::USER)?,
        }
        Ok(held.insert(key.to_vec(), inner))
    }

    /// Takes the map at `key` out. `E2BIG` past an array's end, `ENOENT`.
    pub(super) fn clear(&self, key: &[u8]) -> Result<Arc<Map>, MapError> {
        let mut held = held::lock(&self.held);
        match &self.slots {
            Slots::Array(array, entries) => {
                let index = super::index(key).unwrap_or(u32::MAX);
                if index >= *entries {
                    return Err(MapError::IndexTooBig { index, max_entries: *entries });
                }
                array.update(index, &[0; 8][..], 0, false)?;
            }
            Slots::Hash(hash) => hash.delete(key)?,
        }
        held.remove(key).ok_or(MapError::NotFound)
    }
}
