//! Hash maps.

use super::cell::{OutOfMemory, Slice};
use super::{MapError, Source};

/// A hash map.
pub(super) struct Hash {}

impl Hash {
    pub(super) fn new(_key_size: u32, _value_size: u32, _max_entries: u32, _cpus: u32) -> Result<Hash, OutOfMemory> {
        Ok(Hash {})
    }
    pub(super) fn len(&self) -> u32 {
        0
    }
    pub(super) fn lookup(&self, _key: &[u8]) -> Option<Slice<'_>> {
        None
    }
    pub(super) fn update(&self, _key: &[u8], _value: impl Source, _flags: u64, _cpu: u32) -> Result<(), MapError> {
        Err(MapError::NotFound)
    }
    pub(super) fn delete(&self, _key: &[u8]) -> Result<(), MapError> {
        Err(MapError::NotFound)
    }
    pub(super) fn read(&self, _key: &[u8]) -> Option<Vec<u8>> {
        None
    }
    pub(super) fn next_key(&self, _key: Option<&[u8]>) -> Option<Vec<u8>> {
        None
    }
    pub(super) fn value_region(&self, _addr: u64, _len: usize) -> Option<Slice<'_>> {
        None
    }
}
