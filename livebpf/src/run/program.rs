//! A program that is ready to run, and what happens when its last handle goes.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use super::generation::EntryId;
use super::shared::Shared;
use crate::interp::Executable;
use crate::jit::{self, Code};
use crate::link::Program as Linked;
use crate::map::Map;
use crate::map::prog_array::{Contract, Member};
use crate::object::ProgType;
use crate::text::Image;
use crate::text::patch::Tracking;
use crate::verify::Verified;

/// A loaded program. Handles are cheap to clone; the program goes when the last handle and the last slot that holds it are gone.
#[derive(Clone)]
pub struct Program {
    pub(crate) loaded: Arc<Loaded>,
}

impl Program {
    /// Its number, unique in the runtime.
    pub fn id(&self) -> u32 {
        self.loaded.id
    }
    /// Name of its entry function.
    pub fn name(&self) -> &str {
        &self.loaded.linked().name
    }
    /// Its type.
    pub fn prog_type(&self) -> ProgType {
        self.loaded.linked().kind.prog_type
    }
    /// The linked program it was made from: instructions, functions, maps, source lines.
    pub fn linked(&self) -> &Linked {
        self.loaded.linked()
    }
    /// The proof it runs on, with the facts found on the way.
    pub fn verified(&self) -> &Verified {
        self.loaded.verified()
    }
}

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "program {} ({})", self.id(), self.name())
    }
}

/// Machine code in place, with its registration for patching.
pub(crate) struct Native {
    /// Its direct tail calls are updated as long as this lives. Declared first: dropped before the code.
    pub(crate) _tracking: Tracking,
    /// The code in place.
    pub(crate) image: Image,
    /// What the code generator produced: sites, frames, line table.
    pub(crate) code: Code,
    /// What it was asked for.
    pub(crate) options: jit::Options,
}

impl Native {
    /// Tells who wants to know where the functions of `program` lie. After publication.
    pub(crate) fn announce(&self, id: u32, program: &Linked) {
        let functions = program.subprogs.iter().zip(&self.code.frames);
        self.image.announce(id, functions.map(|(f, at)| (f.name.as_str(), at.start..at.end)));
    }
}

/// What executes the program.
pub(crate) enum Body {
    /// The interpreter.
    Interp,
    /// Machine code.
    Native(Box<Native>),
}

/// A loaded program: one per load, shared by handles and slots.
pub(crate) struct Loaded {
    pub(crate) id: u32,
    pub(crate) contract: Contract,
    pub(crate) entry: EntryId,
    pub(crate) shared: Arc<Shared>,
    /// `None` only while being dropped.
    parts: Option<Parts>,
}

/// What running threads may still use after the last handle is gone.
struct Parts {
    body: Body,
    executable: Arc<Executable>,
}

impl Loaded {
    pub(crate) fn new(
        id: u32,
        contract: Contract,
        entry: EntryId,
        shared: Arc<Shared>,
        body: Body,
        executable: Arc<Executable>,
    ) -> Loaded {
        Loaded { id, contract, entry, shared, parts: Some(Parts { body, executable }) }
    }

    fn parts(&self) -> &Parts {
        self.parts.as_ref().expect("parts are taken in drop only")
    }
    pub(crate) fn body(&self) -> &Body {
        &self.parts().body
    }
    pub(crate) fn executable(&self) -> &Arc<Executable> {
        &self.parts().executable
    }
    pub(crate) fn verified(&self) -> &Verified {
        &self.parts().executable.verified
    }
    pub(crate) fn linked(&self) -> &Linked {
        self.verified().program()
    }
    pub(crate) fn maps(&self) -> &[Arc<Map>] {
        &self.parts().executable.maps
    }
}

impl Member for Loaded {
    fn id(&self) -> u32 {
        self.id
    }
    fn contract(&self) -> &Contract {
        &self.contract
    }
    fn tail_entry(&self) -> u64 {
        match self.body() {
            // The interpreter resolves members, not words: any mark that is not "empty" will do.
            Body::Interp => u64::from(self.id) + 1,
            Body::Native(native) => native.image.tail_entry(),
        }
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Drop for Loaded {
    /// Takes the entry away, so that no new run starts here, and hands code and maps to the reclaimer: runs that
    /// started before may still be inside. May be called anywhere, with locks held and from inside a run: it waits for nothing.
    fn drop(&mut self) {
        self.shared.generations.publish(self.entry, 0);
        let (parts, entry) = (self.parts.take(), self.entry);
        let shared = Arc::downgrade(&self.shared);
        self.shared.domain.defer(move || {
            drop(parts);
            if let Some(shared) = shared.upgrade() {
                shared.generations.release(entry);
            }
        });
    }
}
