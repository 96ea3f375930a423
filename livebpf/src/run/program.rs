//! A program that is ready to run, and what happens when its last handle goes.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::generation::EntryId;
use super::shared::Shared;
use crate::interp::Executable;
use crate::jit::{self, Code};
use crate::link::Program as Linked;
use crate::map::Map;
use crate::map::held::lock;
use crate::map::prog_array::{Contract, Execution, Member};
use crate::object::ProgType;
use crate::primitive::Mutex;
use crate::text::Image;
use crate::text::patch::Tracking;
use crate::verify::Verified;

/// A loaded program. Handles are cheap to clone; the program goes when the last handle and the last slot that holds it are gone.
#[derive(Clone)]
pub struct Program {
    pub(crate) entry: Arc<Entry>,
}

impl Program {
    pub(crate) fn loaded(&self) -> &Arc<Loaded> {
        &self.entry.loaded
    }
    /// Its number, unique in the runtime.
    pub fn id(&self) -> u32 {
        self.loaded().id
    }
    /// Name of its entry function.
    pub fn name(&self) -> &str {
        &self.loaded().linked().name
    }
    /// Its type.
    pub fn prog_type(&self) -> ProgType {
        self.loaded().linked().kind.prog_type
    }
    /// The linked program it was made from: instructions, functions, maps, source lines.
    pub fn linked(&self) -> &Linked {
        self.loaded().linked()
    }
    /// The proof it runs on, with the facts found on the way.
    pub fn verified(&self) -> &Verified {
        self.loaded().verified()
    }
}

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "program {} ({})", self.id(), self.name())
    }
}

/// What the handles of one program share: the place in the generations' tables where their runs begin. A transaction can
/// make them begin in another program.
pub(crate) struct Entry {
    pub(crate) id: EntryId,
    /// Type and engine of the program, and [`Shared::token`] of its runtime: all that an ordinary run looks at, side by side.
    pub(super) prog_type: ProgType,
    pub(super) native: bool,
    pub(super) runtime: usize,
    /// A number that no other entry ever has.
    pub(super) serial: u64,
    pub(crate) loaded: Arc<Loaded>,
}

impl Entry {
    pub(crate) fn new(id: EntryId, loaded: Arc<Loaded>) -> Entry {
        let Contract { execution, kind, .. } = &loaded.contract;
        let (prog_type, native) = (kind.prog_type, *execution == Execution::Native);
        static SERIAL: AtomicU64 = AtomicU64::new(1);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        Entry { id, prog_type, native, runtime: loaded.shared.token(), serial, loaded }
    }
}

impl Drop for Entry {
    /// Nobody can start a run here any more, but some may be about to resolve it. Waits for nothing.
    fn drop(&mut self) {
        let (id, shared) = (self.id, Arc::downgrade(&self.loaded.shared));
        self.loaded.shared.domain.defer(move || {
            if let Some(shared) = shared.upgrade() {
                shared.forget_entry(id);
            }
        });
    }
}

/// A program's machine code as one generation has it.
pub(crate) struct Placement {
    /// Its direct tail calls are updated as long as this lives and its generation is the current one. Declared first: dropped before the code.
    pub(crate) tracking: Tracking,
    /// The code in place.
    pub(crate) image: Image,
    /// What the code generator produced: sites, frames, line table, relocations.
    pub(crate) code: Arc<Code>,
    /// What it was asked for.
    pub(crate) options: jit::Options,
}

impl Placement {
    /// Tells who wants to know where the functions of `program` lie. After publication.
    pub(crate) fn announce(&self, id: u32, program: &Linked) {
        let functions = program.subprogs.iter().zip(&self.code.frames);
        self.image.announce(id, functions.map(|(f, at)| (f.name.as_str(), at.start..at.end)));
    }
}

/// A loaded program: one per load, shared by handles and slots.
pub(crate) struct Loaded {
    pub(crate) id: u32,
    pub(crate) contract: Contract,
    pub(crate) shared: Arc<Shared>,
    /// In the current generation; changed under the update lock.
    tail_entry: AtomicU64,
    /// `None` only while being dropped.
    parts: Option<Parts>,
}

/// What running threads may still use after the last handle is gone.
struct Parts {
    /// In the current generation; `None` for the interpreter.
    placement: Mutex<Option<Arc<Placement>>>,
    executable: Arc<Executable>,
}

impl Loaded {
    /// A program that `placement` executes, or the interpreter.
    pub(crate) fn new(
        id: u32,
        contract: Contract,
        shared: Arc<Shared>,
        placement: Option<Arc<Placement>>,
        executable: Arc<Executable>,
    ) -> Loaded {
        // The interpreter resolves members, not words: any mark that is not "empty" will do.
        let tail_entry = placement.as_ref().map_or(u64::from(id) + 1, |p| p.image.tail_entry());
        let parts = Some(Parts { placement: Mutex::new(placement), executable });
        Loaded { id, contract, shared, tail_entry: AtomicU64::new(tail_entry), parts }
    }

    fn parts(&self) -> &Parts {
        self.parts.as_ref().expect("parts are taken in drop only")
    }
    /// The machine code in the current generation; `None` for the interpreter.
    pub(crate) fn placement(&self) -> Option<Arc<Placement>> {
        lock(&self.parts().placement).clone()
    }
    /// Takes the code of a new generation, under the update lock. The old one is to be retired.
    pub(crate) fn replace(&self, placement: Arc<Placement>) -> Option<Arc<Placement>> {
        self.tail_entry.store(placement.image.tail_entry(), Ordering::Release);
        lock(&self.parts().placement).replace(placement)
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
        self.tail_entry.load(Ordering::Acquire)
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Drop for Loaded {
    /// Hands code and maps to the reclaimer: runs that started before may still be inside. May be called anywhere, with locks
    /// held and from inside a run: it waits for nothing.
    fn drop(&mut self) {
        // In a fork's child the registry may be locked by a thread that it does not have.
        if !self.shared.domain.forked() {
            self.shared.registry.forget_program(self.id);
        }
        let parts = self.parts.take();
        self.shared.domain.defer(move || drop(parts));
    }
}
