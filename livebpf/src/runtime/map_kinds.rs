//! What a user does with maps that are more than keys and values: ring buffers, perf event arrays, maps of maps.

use std::sync::Arc;

use super::error::Error;
use super::maps::MapHandle;
use crate::map::{Map, MapError};
use crate::object::MapType;

fn wanted(handle: &MapHandle, types: &[MapType]) -> Result<MapHandle, Error> {
    if types.contains(&handle.map_type()) {
        return Ok(handle.clone());
    }
    let names: Vec<String> = types.iter().map(MapType::to_string).collect();
    let (name, found) = (handle.name(), handle.map_type());
    Err(Error::Options(format!("map {name} is of type {found}, wanted {}", names.join(" or "))))
}

/// A ring buffer, to be read. Programs write records into it from any thread; one reader at a time takes them out.
///
/// Nobody is woken: look as often as suits. `BPF_RB_NO_WAKEUP` and `BPF_RB_FORCE_WAKEUP` make no difference.
#[derive(Clone, Debug)]
pub struct RingBuffer {
    handle: MapHandle,
}

impl TryFrom<&MapHandle> for RingBuffer {
    type Error = Error;
    fn try_from(handle: &MapHandle) -> Result<RingBuffer, Error> {
        Ok(RingBuffer { handle: wanted(handle, &[MapType::RINGBUF])? })
    }
}

impl RingBuffer {
    /// Takes all committed records out, in the order in which they were reserved, and calls `each` with the bytes of each;
    /// discarded ones are left out. Stops at a record that is not committed yet. Answers how many there were.
    ///
    /// # Errors
    /// [`Error::Map`]: EBUSY while somebody else reads, `each` included.
    pub fn consume(&self, each: impl FnMut(&[u8])) -> Result<usize, Error> {
        self.consume_some(usize::MAX, each)
    }

    /// The same for at most `most` records.
    ///
    /// # Errors
    /// As [`consume`](Self::consume).
    pub fn consume_some(&self, most: usize, each: impl FnMut(&[u8])) -> Result<usize, Error> {
        self.handle.check_process()?;
        let ring = self.handle.map().ring().expect("checked when the handle was made");
        ring.consume(most, each).ok_or_else(|| self.handle.error(busy()))
    }

    /// Bytes that records take which were not consumed yet, headers included.
    pub fn pending(&self) -> u64 {
        let ring = self.handle.map().ring().expect("checked when the handle was made");
        ring.produced().saturating_sub(ring.consumed())
    }
}

fn busy() -> MapError {
    MapError::Busy("somebody else reads it".into())
}

/// One entry of a perf event array that is listened to: what programs send to it by `bpf_perf_event_output`.
///
/// Records are the program's data with as much of the packet behind it as its flags asked for, without padding.
#[derive(Clone, Debug)]
pub struct PerfBuffer {
    handle: MapHandle,
    index: u32,
}

impl PerfBuffer {
    /// Starts to listen at `index`, mostly a CPU's number, with room for `size` bytes, a power of two. For as long as the map
    /// lives.
    ///
    /// # Errors
    /// [`Error::Options`] for other maps; [`Error::Map`]: E2BIG past the end, EEXIST where somebody listens, EINVAL for the size,
    /// ENOMEM.
    pub fn open(handle: &MapHandle, index: u32, size: u32) -> Result<PerfBuffer, Error> {
        let handle = wanted(handle, &[MapType::PERF_EVENT_ARRAY])?;
        handle.check_process()?;
        handle.map().perf_open(index, size).map_err(|e| handle.error(e))?;
        Ok(PerfBuffer { handle, index })
    }

    /// Takes all records out, in order, and calls `each` with the bytes of each. Answers how many there were.
    ///
    /// # Errors
    /// [`Error::Map`]: EBUSY while somebody else reads, `each` included.
    pub fn consume(&self, each: impl FnMut(&[u8])) -> Result<usize, Error> {
        self.handle.check_process()?;
        let (ring, _) = self.handle.map().perf_events(self.index).expect("open");
        ring.consume(usize::MAX, each).ok_or_else(|| self.handle.error(busy()))
    }

    /// Records that there was no room for so far.
    pub fn lost(&self) -> u64 {
        self.handle.map().perf_events(self.index).expect("open").1
    }
}

/// A map of maps. Runs that look a key up after a change has returned see it; a run that has looked it up before goes on with
/// the map that it found.
#[derive(Clone, Debug)]
pub struct MapOfMaps {
    handle: MapHandle,
}

impl TryFrom<&MapHandle> for MapOfMaps {
    type Error = Error;
    fn try_from(handle: &MapHandle) -> Result<MapOfMaps, Error> {
        Ok(MapOfMaps { handle: wanted(handle, &[MapType::ARRAY_OF_MAPS, MapType::HASH_OF_MAPS])? })
    }
}

impl MapOfMaps {
    /// Puts `inner` at `key`; `flags` as in [`MapHandle::write`].
    ///
    /// # Errors
    /// [`Error::Map`]: EINVAL for a map that is not like the template (type, sizes, flags, and for arrays the length), E2BIG,
    /// EEXIST, ENOENT. [`Error::Options`] for a map of another runtime.
    pub fn set(&self, key: &[u8], inner: &MapHandle, flags: u64) -> Result<(), Error> {
        self.handle.check_process()?;
        if !Arc::ptr_eq(self.handle.shared(), inner.shared()) {
            let outer = self.handle.name();
            return Err(Error::Options(format!("{inner:?} belongs to another runtime than map {outer}")));
        }
        let old = self.handle.map().set_inner(key, inner.map().clone(), flags).map_err(|e| self.handle.error(e))?;
        self.retire(old);
        Ok(())
    }

    /// Takes the map at `key` out.
    ///
    /// # Errors
    /// [`Error::Map`]: E2BIG past an array's end, ENOENT.
    pub fn clear(&self, key: &[u8]) -> Result<(), Error> {
        self.handle.check_process()?;
        let old = self.handle.map().clear_inner(key).map_err(|e| self.handle.error(e))?;
        self.retire(Some(old));
        Ok(())
    }

    /// The map at `key`.
    pub fn get(&self, key: &[u8]) -> Option<MapHandle> {
        Some(MapHandle::new(self.handle.map().inner(key)?, self.handle.shared().clone()))
    }

    /// Runs that began before may still have the map's address.
    fn retire(&self, old: Option<Arc<Map>>) {
        if let Some(old) = old {
            self.handle.shared().domain.defer(move || drop(old));
        }
    }
}
