//! What a runtime holds, as a transaction must find it: every program, every entry and every program array there is. It keeps
//! none of them alive.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use super::generation::EntryId;
use super::program::{Entry, Loaded};
use crate::map::Map;
use crate::map::held::{Held, lock};
use crate::primitive::Mutex;
use crate::text::patch::UpdateGuard;

/// The registry.
#[derive(Default)]
pub(crate) struct Registry {
    lists: Mutex<Lists>,
}

#[derive(Default)]
struct Lists {
    programs: BTreeMap<u32, Weak<Loaded>>,
    /// The program of each entry, which need not be the one that its runs start.
    entries: BTreeMap<EntryId, Weak<Loaded>>,
    arrays: BTreeMap<u32, Weak<Map>>,
}

impl Registry {
    /// Nothing is dropped, and nobody called, while this is held: `forget` may be called anywhere.
    fn lists(&self) -> Held<'_, Lists> {
        lock(&self.lists)
    }

    /// A program was loaded.
    pub(crate) fn add_program(&self, entry: &Entry) {
        let mut lists = self.lists();
        let loaded = Arc::downgrade(&entry.loaded);
        lists.programs.insert(entry.loaded.id, loaded.clone());
        lists.entries.insert(entry.id, loaded);
    }

    /// A program array was made.
    pub(crate) fn add_array(&self, array: &Arc<Map>) {
        let mut lists = self.lists();
        lists.arrays.retain(|_, map| map.strong_count() > 0);
        lists.arrays.insert(array.id(), Arc::downgrade(array));
    }

    /// A program goes.
    pub(super) fn forget_program(&self, id: u32) {
        let gone = self.lists().programs.remove(&id);
        drop(gone);
    }

    /// A program's last handle is gone. Under the lock under which its entry goes.
    pub(super) fn forget_entry(&self, _lock: &UpdateGuard<'_>, id: EntryId) {
        let gone = self.lists().entries.remove(&id);
        drop(gone);
    }

    /// The programs that live.
    pub(crate) fn programs(&self) -> Vec<Arc<Loaded>> {
        self.lists().programs.values().filter_map(Weak::upgrade).collect()
    }

    /// The program of that number, where it lives.
    pub(crate) fn program(&self, id: u32) -> Option<Arc<Loaded>> {
        self.lists().programs.get(&id).and_then(Weak::upgrade)
    }

    /// The entries in use, each with its own program.
    pub(crate) fn entries(&self) -> Vec<(EntryId, Arc<Loaded>)> {
        self.lists().entries.iter().filter_map(|(&id, loaded)| Some((id, loaded.upgrade()?))).collect()
    }

    /// The program arrays.
    pub(crate) fn arrays(&self) -> Vec<Arc<Map>> {
        self.lists().arrays.values().filter_map(Weak::upgrade).collect()
    }
}
