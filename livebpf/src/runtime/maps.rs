//! The user's handles of maps.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use super::error::Error;
use super::map_kinds::MapOfMaps;
use crate::map::prog_array::missed::{Counters, Missed};
use crate::map::prog_array::{Poke, ProgArray, Retired};
use crate::map::{Map, MapError};
use crate::object::{MapDef, MapType};
use crate::run::{Loaded, Program, Shared};
use crate::text::UpdateError;

/// A user's handle of a map. Cheap to clone; programs hold maps on their own.
///
/// Programs hold their maps and a program array holds its programs; that cycle is cut when the last *user's* handle of the
/// array goes: all its slots are emptied, as Linux does.
#[derive(Clone)]
pub struct MapHandle {
    user: Arc<User>,
}

struct User {
    map: Arc<Map>,
    shared: Arc<Shared>,
}

impl Drop for User {
    /// Empties a program array. In the background: this may be dropped inside a run, or with locks held.
    fn drop(&mut self) {
        let last = self.map.prog_array().is_some_and(|array| array.release_user());
        if !last {
            return;
        }
        let (map, shared) = (self.map.clone(), self.shared.clone());
        self.shared.domain.defer(move || {
            // An update is refused only where deferred work does not run: in a fork's child, under the lock.
            if let (Some(array), Ok(mut guard)) = (map.prog_array(), shared.patcher.update()) {
                let retired = array.clear_unused(&mut guard);
                drop(guard);
                shared.domain.retire(retired);
            }
        });
    }
}

impl MapHandle {
    pub(super) fn new(map: Arc<Map>, shared: Arc<Shared>) -> MapHandle {
        if let Some(array) = map.prog_array() {
            array.acquire_user();
        }
        MapHandle { user: Arc::new(User { map, shared }) }
    }
    pub(super) fn map(&self) -> &Arc<Map> {
        &self.user.map
    }
    /// What counts as a user of it, for whoever must keep it.
    pub(super) fn user(&self) -> Arc<dyn Any + Send + Sync> {
        self.user.clone()
    }
    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.user.shared
    }

    /// Its number, unique in the runtime.
    pub fn id(&self) -> u32 {
        self.map().id()
    }
    /// Its name; global data goes by its section.
    pub fn name(&self) -> &str {
        &self.map().def().name
    }
    /// Its type.
    pub fn map_type(&self) -> MapType {
        self.map().def().map_type
    }
    /// Type, sizes and flags.
    pub fn def(&self) -> &Arc<MapDef> {
        self.map().def()
    }
    /// Number of entries in use; for arrays the number there are.
    pub fn len(&self) -> u32 {
        self.map().len()
    }
    /// Whether no entry is in use.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A fork's child has its own copy of the values, which no program of it can see; and a lock on them may be held by a
    /// thread that it does not have.
    pub(super) fn check_process(&self) -> Result<(), Error> {
        if self.shared().domain.forked() { Err(UpdateError::Forked.into()) } else { Ok(()) }
    }

    pub(super) fn error(&self, source: MapError) -> Error {
        Error::Map { map: self.name().to_owned(), source }
    }

    /// The value at `key`. For per-CPU maps one value after the other, each rounded up to 8 bytes; for a program
    /// array the program's number, 4 bytes.
    ///
    /// # Errors
    /// [`Error::Map`]: ENOENT, EINVAL for a key of the wrong size.
    pub fn read(&self, key: &[u8]) -> Result<Vec<u8>, Error> {
        self.map().read(key).map_err(|e| self.error(e))
    }

    /// The same while holding the lock in the value (`BPF_F_LOCK`), so that no program's change is seen half.
    ///
    /// # Errors
    /// [`Error::Map`]: ENOENT, EINVAL for a key of the wrong size and where values have no `struct bpf_spin_lock`.
    pub fn read_locked(&self, key: &[u8]) -> Result<Vec<u8>, Error> {
        self.map().read_locked(key).map_err(|e| self.error(e))
    }

    /// Copies the start of the value at `key` that runs on CPU number `cpu` see (see [`Worker::cpu`](super::Worker::cpu)) into `into`;
    /// answers how many bytes. Takes no lock and no memory. In maps that are not per CPU, `cpu` makes no difference.
    ///
    /// # Errors
    /// [`Error::Map`]: ENOENT where there is no such value.
    #[inline]
    pub fn read_cpu(&self, key: &[u8], cpu: u32, into: &mut [u8]) -> Result<usize, Error> {
        let value = self.map().lookup(key, cpu).ok_or(MapError::NotFound);
        value.map(|value| value.read(into)).map_err(|e| self.error(e))
    }

    /// Writes the value at `key`; `flags` are `BPF_ANY` (0), `BPF_NOEXIST` (1), `BPF_EXIST` (2), with
    /// `BPF_F_LOCK` (4) added to write while holding the lock in the value. Sizes as in [`read`](Self::read).
    ///
    /// # Errors
    /// [`Error::Map`] with the kernel's errno. A program array is written through [`ProgramArray`]: ENOTSUPP (524) here.
    pub fn write(&self, key: &[u8], value: &[u8], flags: u64) -> Result<(), Error> {
        self.check_process()?;
        self.map().write(key, value, flags).map_err(|e| self.error(e))
    }

    /// Adds a value to a queue or stack; with `BPF_EXIST` (2) the oldest one makes room when it is full.
    ///
    /// # Errors
    /// [`Error::Map`]: E2BIG when it is full, EINVAL; ENOTSUPP (524) for other maps.
    pub fn push(&self, value: &[u8], flags: u64) -> Result<(), Error> {
        self.write(&[], value, flags)
    }

    /// Takes the next value out of a queue or stack; `None` when it is empty.
    ///
    /// # Errors
    /// [`Error::Map`]: EPERM where users may not change it; ENOTSUPP (524) for other maps.
    pub fn pop(&self) -> Result<Option<Vec<u8>>, Error> {
        self.check_process()?;
        match self.map().pop() {
            Ok(value) => Ok(Some(value)),
            Err(MapError::NotFound) => Ok(None),
            Err(e) => Err(self.error(e)),
        }
    }

    /// Writes some bytes of global data, and no others: programs may be changing the rest.
    pub(super) fn write_data(&self, offset: usize, value: &[u8]) -> Result<(), Error> {
        self.check_process()?;
        if self.map().is_frozen() {
            return Err(self.error(MapError::Denied("the map is frozen".into())));
        }
        let place = self.map().lookup(&[0; 4], 0).and_then(|data| data.sub(offset, value.len()));
        place.ok_or_else(|| self.error(MapError::NotFound))?.write(value);
        Ok(())
    }

    /// Removes the entry at `key`.
    ///
    /// # Errors
    /// [`Error::Map`]: ENOENT; EINVAL where entries cannot be removed.
    pub fn remove(&self, key: &[u8]) -> Result<(), Error> {
        self.check_process()?;
        if let Ok(array) = ProgramArray::try_from(self) {
            return array.clear_index(array.index(key)?);
        }
        if let Ok(outer) = MapOfMaps::try_from(self) {
            return outer.clear(key);
        }
        self.map().remove(key).map_err(|e| self.error(e))
    }

    /// The key that follows `key`, or the first; `None` after the last.
    ///
    /// # Errors
    /// [`Error::Map`]: EINVAL for a key of the wrong size.
    pub fn next_key(&self, key: Option<&[u8]>) -> Result<Option<Vec<u8>>, Error> {
        match self.map().next_key(key) {
            Ok(key) => Ok(Some(key)),
            Err(e) if e.errno() == libc::ENOENT => Ok(None),
            Err(e) => Err(self.error(e)),
        }
    }

    /// All keys, in the map's order. Entries that come and go meanwhile may be missed or found.
    ///
    /// # Errors
    /// As [`next_key`](Self::next_key).
    pub fn keys(&self) -> Result<Vec<Vec<u8>>, Error> {
        let mut keys: Vec<Vec<u8>> = Vec::new();
        // A map that is written to meanwhile could lead round in circles: never more keys than it can hold.
        while keys.len() < self.def().max_entries as usize {
            match self.next_key(keys.last().map(Vec::as_slice))? {
                Some(key) => keys.push(key),
                None => break,
            }
        }
        Ok(keys)
    }
}

impl fmt::Debug for MapHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "map {} ({}, {})", self.id(), self.name(), self.map_type())
    }
}

/// A program array: slots that tail calls go through. All operations may be called from any thread, while programs run, and from
/// inside a run; runs that start after one has returned see it.
#[derive(Clone, Debug)]
pub struct ProgramArray {
    handle: MapHandle,
}

impl TryFrom<&MapHandle> for ProgramArray {
    type Error = Error;
    fn try_from(handle: &MapHandle) -> Result<ProgramArray, Error> {
        match handle.map().prog_array() {
            Some(_) => Ok(ProgramArray { handle: handle.clone() }),
            None => Err(Error::Options(format!(
                "map {} is of type {}, wanted prog_array",
                handle.name(),
                handle.map_type()
            ))),
        }
    }
}

impl ProgramArray {
    pub(super) fn handle(&self) -> &MapHandle {
        &self.handle
    }

    pub(super) fn array(&self) -> &ProgArray {
        self.handle.map().prog_array().expect("checked when the handle was made")
    }

    /// The slot that `key` names.
    fn index(&self, key: &[u8]) -> Result<u32, Error> {
        let wrong = |_| MapError::Invalid(format!("the key is {} bytes long, the map wants 4", key.len()).into());
        key.try_into().map(u32::from_le_bytes).map_err(wrong).map_err(|e| self.handle.error(e))
    }

    /// One update under the update lock; what it displaces is retired after the lock is released.
    fn update(&self, change: impl FnOnce(&ProgArray, &mut dyn Poke) -> Result<Retired, MapError>) -> Result<(), Error> {
        let shared = self.handle.shared();
        let mut guard = shared.patcher.update()?;
        let retired = change(self.array(), &mut guard);
        drop(guard);
        shared.domain.retire(retired.map_err(|e| self.handle.error(e))?);
        Ok(())
    }

    /// Puts `program` into slot `index`; the program that was there is retired when no run can be inside it any more.
    ///
    /// # Errors
    /// [`Error::Map`]: E2BIG for an index past the end, EINVAL for a program of another contract than the array's.
    /// [`Error::Options`] for a program of another runtime.
    pub fn set(&self, index: u32, program: &Program) -> Result<(), Error> {
        let member = self.member(program)?;
        self.update(|array, poke| array.set(index, member, 0, poke))
    }

    /// What a slot holds of `program`, which must be of this runtime.
    pub(super) fn member(&self, program: &Program) -> Result<Arc<Loaded>, Error> {
        if !Arc::ptr_eq(self.handle.shared(), &program.loaded().shared) {
            return Err(Error::Options(format!(
                "{program:?} belongs to another runtime than map {}",
                self.handle.name()
            )));
        }
        Ok(program.loaded().clone())
    }

    /// Empties slot `index`; tail calls through it fall through from then on.
    ///
    /// # Errors
    /// [`Error::Map`]: E2BIG for an index past the end, ENOENT for an empty slot.
    pub fn clear_index(&self, index: u32) -> Result<(), Error> {
        self.update(|array, poke| array.clear_index(index, poke))
    }

    /// Number of the program in slot `index`.
    ///
    /// # Errors
    /// [`Error::Map`]: ENOENT for an empty slot or one past the end.
    pub fn program_id(&self, index: u32) -> Result<u32, Error> {
        let bytes = self.handle.read(&index.to_le_bytes())?;
        Ok(u32::from_le_bytes(bytes.try_into().expect("a program array's value has 4 bytes")))
    }

    /// Tail calls through slot `index` that were missed so far, as far as they are counted. May be read at any time, from any
    /// thread; takes no lock.
    ///
    /// Calls count where they are made by programs that were loaded to count them: see
    /// [`RuntimeBuilder::count_missed`](super::RuntimeBuilder::count_missed) and [`LoadOptions::count_missed`](super::LoadOptions::count_missed).
    pub fn missed(&self, index: u32) -> Missed {
        self.array().counters().map_or_else(Missed::default, |counters| counters.slot(index))
    }

    /// The slots that missed any, ascending.
    pub fn missed_slots(&self) -> Vec<(u32, Missed)> {
        self.array().counters().map_or_else(Vec::new, |counters| counters.slots().collect())
    }

    /// The sum over all slots.
    pub fn missed_total(&self) -> Missed {
        self.array().counters().map_or_else(Missed::default, Counters::total)
    }

    /// Tail calls that were missed because their index is past the end, and which no slot counts.
    pub fn missed_outside(&self) -> u64 {
        self.array().counters().map_or(0, Counters::outside)
    }

    /// Whether any program was loaded to count the calls that it misses through this array.
    pub fn counts_missed(&self) -> bool {
        self.array().counters().is_some()
    }

    /// Compares the machine code of every direct tail call with what it should be, and those through this array with their
    /// slots. Answers how many were looked at, or the first difference. Updates wait meanwhile.
    ///
    /// # Errors
    /// [`Error::Update`]: it needs the update lock.
    pub fn audit(&self) -> Result<Result<usize, String>, Error> {
        let mut guard = self.handle.shared().patcher.update()?;
        Ok(guard.audit(&[self.array()]))
    }

    /// Number of slots.
    pub fn len(&self) -> u32 {
        self.handle.def().max_entries
    }

    /// Whether it has no slot: never.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
