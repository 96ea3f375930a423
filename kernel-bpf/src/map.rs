//! A map of the kernel's, made from a map definition of ours.
//!
//! Types that are for programs only, or whose values have other sizes than the definition says, can be created, not read or written,
//! so that the kernel never reads or writes past a slice. Values of per-CPU maps stand one after the other, for as many CPUs as there
//! can be, each in whole words.

use std::os::fd::RawFd;

use livebpf::object::{MapDef, MapInit, MapType};

use crate::sys::{self, MapFd};
use crate::{Error, Program};

/// The reading end of a ring buffer in the kernel, which looks at no record.
#[derive(Debug)]
pub struct RingReader {
    positions: sys::RingPositions,
}

impl RingReader {
    /// That of `map`. There is one for each ring: several would take each other's records.
    ///
    /// # Errors
    /// [`Error::MapType`] for another type; [`Error::Refused`].
    pub fn of(map: &Map) -> Result<RingReader, Error> {
        if map.map_type != MapType::RINGBUF {
            return Err(Error::MapType { name: map.name.clone(), found: map.map_type });
        }
        let positions = map.fd.ring_positions().map_err(|source| map.refused("mmap", source))?;
        Ok(RingReader { positions })
    }

    /// Gives back the room of all records that were written. Nobody may be writing.
    pub fn skip(&mut self) {
        self.positions.skip();
    }
}

/// A map in the kernel; it goes with the last program that uses it and this.
#[derive(Debug)]
pub struct Map {
    fd: MapFd,
    name: String,
    map_type: MapType,
}

impl Map {
    /// Creates it: any type but those of sockets, tasks and the like. Only hashes, arrays,
    /// those per CPU, program arrays, maps of maps and arrays of devices can be read and written. Global data is written into it, and frozen where it is constant. A program array is empty: its static
    /// initialisers name programs, which are for the caller to load.
    ///
    /// # Errors
    /// [`Error::MapType`], [`Error::Refused`].
    pub fn create(def: &MapDef) -> Result<Map, Error> {
        let known = [&sys::PLAIN_MAPS[..], &sys::PER_CPU_MAPS, &sys::PROGRAMS_MAPS];
        if !known.iter().any(|types| types.contains(&def.map_type)) {
            return Err(Error::MapType { name: def.name.clone(), found: def.map_type });
        }
        let refused = |source| Error::Refused { what: format!("BPF_MAP_CREATE of {}", def.name), source };
        // The kernel copies what it needs of the template.
        let inner = def.inner.as_deref().map(|inner| MapFd::create(inner, None).map_err(refused)).transpose()?;
        let fd = MapFd::create(def, inner.as_ref()).map_err(refused)?;
        let map = Map { fd, name: def.name.clone(), map_type: def.map_type };
        match &def.init {
            MapInit::Data(data) => map.update(&[0; 4], data, 0)?,
            MapInit::Empty | MapInit::Programs(_) | MapInit::Maps(_) => {}
        }
        if def.frozen {
            map.fd.freeze().map_err(|source| map.refused("BPF_MAP_FREEZE", source))?;
        }
        Ok(map)
    }

    /// Its file descriptor's number, as instructions name it.
    pub fn raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    fn refused(&self, command: &str, source: std::io::Error) -> Error {
        Error::Refused { what: format!("{command} of {}", self.name), source }
    }

    fn check(&self, what: &str, bytes: &[u8], wanted: usize) -> Result<(), Error> {
        if !self.fd.is_known() {
            return Err(Error::MapType { name: self.name.clone(), found: self.map_type });
        }
        if bytes.len() == wanted {
            return Ok(());
        }
        let what = format!("the {what} for map {}", self.name);
        Err(Error::Size { what, found: bytes.len(), wanted: wanted.to_string() })
    }

    /// The value at `key`.
    ///
    /// # Errors
    /// [`Error::Size`]; [`Error::Refused`] with ENOENT where there is none.
    pub fn lookup(&self, key: &[u8]) -> Result<Vec<u8>, Error> {
        self.check("key", key, self.fd.key_size())?;
        let mut value = vec![0; self.fd.value_size()];
        self.fd.lookup(key, &mut value).map_err(|e| self.refused("BPF_MAP_LOOKUP_ELEM", e))?;
        Ok(value)
    }

    /// All keys, in the kernel's order.
    ///
    /// # Errors
    /// [`Error::MapType`], [`Error::Refused`].
    pub fn keys(&self) -> Result<Vec<Vec<u8>>, Error> {
        self.check("key", &[], 0)?;
        let mut keys: Vec<Vec<u8>> = Vec::new();
        loop {
            let mut next = vec![0; self.fd.key_size()];
            match self.fd.next_key(keys.last().map(Vec::as_slice), &mut next) {
                Ok(()) => keys.push(next),
                Err(end) if end.raw_os_error() == Some(libc::ENOENT) => return Ok(keys),
                Err(other) => return Err(self.refused("BPF_MAP_GET_NEXT_KEY", other)),
            }
        }
    }

    /// Writes the value at `key`; `flags` are `BPF_ANY` (0), `BPF_NOEXIST` (1), `BPF_EXIST` (2).
    ///
    /// # Errors
    /// [`Error::Size`], [`Error::Refused`].
    pub fn update(&self, key: &[u8], value: &[u8], flags: u64) -> Result<(), Error> {
        self.check("key", key, self.fd.key_size())?;
        self.check("value", value, self.fd.value_size())?;
        self.fd.update(key, value, flags).map_err(|e| self.refused("BPF_MAP_UPDATE_ELEM", e))
    }

    /// Removes the entry at `key`; empties a program array's slot.
    ///
    /// # Errors
    /// [`Error::Size`]; [`Error::Refused`] with ENOENT where there is none.
    pub fn delete(&self, key: &[u8]) -> Result<(), Error> {
        self.check("key", key, self.fd.key_size())?;
        self.fd.delete(key).map_err(|e| self.refused("BPF_MAP_DELETE_ELEM", e))
    }

    /// Puts a program into slot `index` of a program array.
    ///
    /// # Errors
    /// As [`update`](Self::update).
    pub fn set(&self, index: u32, program: &Program) -> Result<(), Error> {
        self.update(&index.to_ne_bytes(), &program.raw_fd().to_ne_bytes(), 0)
    }

    /// Puts `inner` at `key` of a map of maps.
    ///
    /// # Errors
    /// As [`update`](Self::update).
    pub fn set_map(&self, key: &[u8], inner: &Map) -> Result<(), Error> {
        self.update(key, &inner.raw_fd().to_ne_bytes(), 0)
    }

    /// Empties slot `index` of a program array.
    ///
    /// # Errors
    /// As [`delete`](Self::delete).
    pub fn clear_index(&self, index: u32) -> Result<(), Error> {
        self.delete(&index.to_ne_bytes())
    }
}
