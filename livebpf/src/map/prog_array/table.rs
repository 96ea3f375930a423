//! The slots of a program array, as one generation of the runtime has them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::Member;
use super::words::Words;
use crate::map::cell::OutOfMemory;
use crate::map::held::{Held, lock};
use crate::primitive::Mutex;
use crate::primitive::atomic::{AtomicU64, Ordering};

/// What generated code reads when it knows the array by address only (the dynamic tail call).
#[repr(C)]
struct Header {
    /// Address of the words.
    slots: u64,
    max_entries: u32,
    map_type: u32,
}

/// One generation's slots: words for generated code, members for everybody else. A change is made under the runtime's
/// update lock; looking is free.
pub struct Table {
    header: Header,
    since: u64,
    words: Words,
    members: Mutex<BTreeMap<u32, Arc<dyn Member>>>,
}

impl Table {
    /// Offset of the address of the words in what [`Table::header_addr`] points to.
    pub const SLOTS_OFFSET: usize = std::mem::offset_of!(Header, slots);
    /// Offset of the number of slots, a u32.
    pub const MAX_ENTRIES_OFFSET: usize = std::mem::offset_of!(Header, max_entries);

    pub(super) fn new(since: u64, max_entries: u32) -> Result<Table, OutOfMemory> {
        let words = Words::new(max_entries)?;
        let header = Header { slots: words.addr(), max_entries, map_type: crate::object::MapType::PROG_ARRAY.0 };
        Ok(Table { header, since, words, members: Mutex::default() })
    }

    /// The first generation that uses it.
    pub fn since(&self) -> u64 {
        self.since
    }

    /// Slots.
    pub fn max_entries(&self) -> u32 {
        self.header.max_entries
    }

    /// Address of the words, one u64 per slot, for generated code.
    pub fn words_addr(&self) -> u64 {
        self.words.addr()
    }

    /// Address that stands for the array in generated code: `{ slots: u64, max_entries: u32, type: u32 }`.
    pub fn header_addr(&self) -> u64 {
        std::ptr::from_ref(&self.header).addr() as u64
    }

    /// The header's fields, for tests.
    #[cfg(test)]
    pub(super) fn header(&self) -> (u64, u32, u32) {
        (self.header.slots, self.header.max_entries, self.header.map_type)
    }

    /// The word of a slot: the tail entry of its program, 0 where it is empty or there is no such slot.
    #[inline]
    pub fn word(&self, index: u32) -> u64 {
        self.word_cell(index).map_or(0, |word| word.load(Ordering::Acquire))
    }

    #[inline]
    fn word_cell(&self, index: u32) -> Option<&AtomicU64> {
        self.words.get(index)
    }

    pub(super) fn members(&self) -> Held<'_, BTreeMap<u32, Arc<dyn Member>>> {
        lock(&self.members)
    }

    /// The program in a slot.
    pub fn get(&self, index: u32) -> Option<Arc<dyn Member>> {
        self.members().get(&index).cloned()
    }

    /// The occupied slots, ascending, with their programs.
    pub fn occupied(&self) -> Vec<(u32, Arc<dyn Member>)> {
        self.members().iter().map(|(&index, member)| (index, member.clone())).collect()
    }

    /// Fills a slot of a table that is not published yet. `word` is the program's tail entry in the table's generation.
    pub fn fill(&self, index: u32, member: Arc<dyn Member>, word: u64) {
        self.store(index, word);
        self.members().insert(index, member);
    }

    /// Changes a slot; returns the program that was there.
    pub(super) fn put(&self, index: u32, member: Option<Arc<dyn Member>>) -> Option<Arc<dyn Member>> {
        let word = member.as_ref().map_or(0, |member| member.tail_entry());
        debug_assert!(member.is_none() || word != 0, "a tail entry is never 0");
        self.store(index, word);
        let mut members = self.members();
        match member {
            Some(member) => members.insert(index, member),
            None => members.remove(&index),
        }
    }

    /// The code behind a new word was core-synced when it was loaded; Release orders its data before the word.
    fn store(&self, index: u32, word: u64) {
        if let Some(cell) = self.word_cell(index) {
            cell.store(word, Ordering::Release);
        }
    }
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids: Vec<_> = self.members().iter().map(|(&index, member)| (index, member.id())).collect();
        f.debug_struct("Table").field("since", &self.since).field("members", &ids).finish()
    }
}
