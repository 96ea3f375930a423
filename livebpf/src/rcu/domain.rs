//! The updater's side: waiting for readers, and work that waits for them. The argument is in [`super`].

use std::fmt;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::reader::{Reader, Seen, Word, inside};
use crate::map::held::{Held, lock};
use crate::map::prog_array::{Member, Retired};
use crate::primitive::atomic::{AtomicBool, Ordering, fence};
use crate::primitive::thread::{self, JoinHandle, ThreadId};
use crate::primitive::{Condvar, Mutex, Pause, contained};
use crate::text::fork::ForkPage;
use crate::text::patch::updating;
use crate::text::{CoreSync, GracePeriod, TextError};

/// What waits for a grace period.
enum Work {
    /// To be called.
    Call(Box<dyn FnOnce() + Send>),
    /// To be dropped.
    Drop(Vec<Arc<dyn Member>>),
}

impl Work {
    fn execute(self) {
        match self {
            Work::Call(f) => f(),
            Work::Drop(members) => drop(members),
        }
    }
}

/// How long work that nobody waits for is collected before the reclaimer begins: updates that follow each other closely then
/// share a grace period, and do not wake anyone.
const COLLECT: Duration = Duration::from_millis(1);

/// As much work as is collected.
const MANY: usize = 256;

/// Why this thread cannot wait for a grace period.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum WaitError {
    /// The wait would be for this thread itself.
    #[error(
        "waiting for running programs from inside one, from deferred work, or in the middle of an update would deadlock"
    )]
    WouldDeadlock,
    /// This process is a child of the one that owns the readers.
    #[error("this process is a fork of the one whose programs are waited for")]
    Forked,
}

/// Readers, and the grace periods among them.
pub struct Domain {
    shared: Arc<Shared>,
}

/// What readers and the reclaimer keep alive.
pub(super) struct Shared {
    sync: Arc<CoreSync>,
    pub(super) fork: Arc<ForkPage>,
    words: Mutex<Vec<Arc<Word>>>,
    queue: Mutex<Queue>,
    /// Something was queued, or the domain goes.
    wake: Condvar,
    /// A batch is done.
    done: Condvar,
    /// Deferred work does not wait: a fault to inject.
    no_grace: AtomicBool,
}

#[derive(Default)]
struct Queue {
    waiting: Vec<Work>,
    /// Deferred so far, and done so far.
    deferred: u64,
    done: u64,
    stop: bool,
    /// What is queued is not to be collected any longer.
    hurry: bool,
    rest: Rest,
    reclaimer: Option<JoinHandle<()>>,
    /// Whoever executes a batch now, so that `barrier` from there is noticed.
    executing: Option<ThreadId>,
}

/// What the reclaimer waits for.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Rest {
    /// Nothing: it works, or has been told to.
    #[default]
    Awake,
    /// More work, for a moment.
    Collecting,
    /// Work.
    Asleep,
}

impl Queue {
    fn add(&mut self, work: Work, hurry: bool) {
        self.waiting.push(work);
        self.deferred += 1;
        self.hurry |= hurry || self.waiting.len() >= MANY;
    }

    /// Whether the reclaimer has to be woken: then it counts as awake, and nobody else wakes it.
    fn must_wake(&mut self) -> bool {
        let wake = match self.rest {
            Rest::Awake => false,
            Rest::Collecting => self.hurry || self.stop,
            Rest::Asleep => true,
        };
        if wake {
            self.rest = Rest::Awake;
        }
        wake
    }
}

impl Domain {
    /// A domain without readers. Where `sync` is not available, readers fence for themselves.
    pub fn new(sync: Arc<CoreSync>) -> Result<Arc<Domain>, TextError> {
        let shared = Shared {
            sync,
            fork: Arc::new(ForkPage::new()?),
            words: Mutex::default(),
            queue: Mutex::default(),
            wake: Condvar::new(),
            done: Condvar::new(),
            no_grace: AtomicBool::new(false),
        };
        Ok(Arc::new(Domain { shared: Arc::new(shared) }))
    }

    /// A new reader; it may outlive the domain.
    pub fn reader(&self) -> Reader {
        Reader::new(self.shared.clone())
    }

    /// Readers there are.
    pub fn readers(&self) -> usize {
        lock(&self.shared.words).len()
    }

    /// Whether this process is a child of the one that made the domain.
    #[inline]
    pub fn forked(&self) -> bool {
        self.shared.forked()
    }

    /// Returns when every section that is open now has been left.
    pub fn synchronize(&self) -> Result<(), WaitError> {
        self.check_wait()?;
        self.shared.wait_for_readers();
        Ok(())
    }

    fn check_wait(&self) -> Result<(), WaitError> {
        if self.forked() {
            return Err(WaitError::Forked);
        }
        if inside() || updating() || lock(&self.shared.queue).executing == Some(thread::current().id()) {
            return Err(WaitError::WouldDeadlock);
        }
        Ok(())
    }

    /// Calls `f` after a grace period, on the domain's own thread. Allowed everywhere, inside sections too.
    pub fn defer(&self, f: impl FnOnce() + Send + 'static) {
        self.enqueue(Work::Call(Box::new(f)), true);
    }

    /// Drops displaced programs after a grace period. Not at once: those of updates that follow each other closely go together.
    pub fn retire(&self, retired: Retired) {
        let members = retired.into_members();
        if !members.is_empty() {
            self.enqueue(Work::Drop(members), false);
        }
    }

    fn enqueue(&self, work: Work, hurry: bool) {
        if self.forked() {
            // Nothing runs here, and what it would free belongs to the parent.
            std::mem::forget(work);
            return;
        }
        let mut queue = lock(&self.shared.queue);
        queue.add(work, hurry);
        self.shared.start_reclaimer(&mut queue);
        let wake = queue.must_wake();
        drop(queue);
        if wake {
            self.shared.wake.notify_one();
        }
    }

    /// Work that was deferred and is not done yet.
    pub fn pending(&self) -> u64 {
        let queue = lock(&self.shared.queue);
        queue.deferred - queue.done
    }

    /// Returns when everything that was deferred before this call is done.
    pub fn barrier(&self) -> Result<(), WaitError> {
        self.check_wait()?;
        let mut queue = lock(&self.shared.queue);
        let wanted = queue.deferred;
        while queue.done < wanted {
            if self.shared.start_reclaimer(&mut queue) || queue.executing.is_some() {
                queue.hurry = true;
                if queue.must_wake() {
                    self.shared.wake.notify_one();
                }
                queue = queue.wait(&self.shared.done);
            } else {
                drop(queue);
                self.shared.run_batch();
                queue = lock(&self.shared.queue);
            }
        }
        Ok(())
    }

    /// Deferred work does not wait for readers from now on, so that tests can show that they would notice.
    #[cfg(feature = "fault-injection")]
    pub fn inject_no_grace(&self, on: bool) {
        self.shared.no_grace.store(on, Ordering::Relaxed);
    }
}

impl GracePeriod for Domain {
    fn defer(&self, f: Box<dyn FnOnce() + Send>) {
        self.enqueue(Work::Call(f), false);
    }
}

impl Drop for Domain {
    /// Ends the thread after it has done what is queued, and waits for that where it can.
    fn drop(&mut self) {
        if self.forked() {
            return;
        }
        let mut queue = lock(&self.shared.queue);
        queue.stop = true;
        let reclaimer = queue.reclaimer.take();
        let own = queue.executing == Some(thread::current().id());
        let left_over = !queue.waiting.is_empty();
        drop(queue);
        self.shared.wake.notify_one();
        match reclaimer {
            // The thread ends by itself: nobody here may wait for it.
            Some(_) if own || inside() || updating() => {}
            Some(thread) => {
                // It catches the panics of deferred work.
                let _ = thread.join();
            }
            None if left_over && !own && !inside() && !updating() => while self.shared.run_batch() {},
            None => {}
        }
    }
}

impl Shared {
    #[inline]
    pub(super) fn forked(&self) -> bool {
        self.fork.forked()
    }

    /// Whether readers must fence for themselves.
    pub(super) fn readers_fence(&self) -> bool {
        !self.sync.available()
    }

    pub(super) fn register(&self, word: Arc<Word>) {
        lock(&self.words).push(word);
        fence(Ordering::SeqCst);
    }

    pub(super) fn unregister(&self, word: &Arc<Word>) {
        if !self.forked() {
            lock(&self.words).retain(|other| !Arc::ptr_eq(other, word));
        }
    }

    fn wait_for_readers(&self) {
        if self.no_grace.load(Ordering::Relaxed) {
            return;
        }
        self.sync.core_sync();
        let open: Vec<(Arc<Word>, Seen)> =
            lock(&self.words).iter().filter_map(|word| Some((word.clone(), word.seen()?))).collect();
        let mut pause = Pause::default();
        for (word, seen) in &open {
            while !word.left(seen) {
                pause.rest();
            }
        }
    }

    /// True when the thread runs (now).
    fn start_reclaimer(self: &Arc<Self>, queue: &mut Queue) -> bool {
        if queue.reclaimer.is_some() {
            return true;
        }
        let shared = self.clone();
        let thread = thread::Builder::new().name("livebpf-reclaim".to_owned()).spawn(move || shared.reclaim());
        match thread {
            Ok(thread) => queue.reclaimer = Some(thread),
            Err(error) => log::warn!("no thread for deferred work ({error}); it stays queued"),
        }
        queue.reclaimer.is_some()
    }

    fn reclaim(&self) {
        let mut queue = lock(&self.queue);
        loop {
            while queue.waiting.is_empty() {
                if queue.stop {
                    return;
                }
                queue.rest = Rest::Asleep;
                queue = queue.wait(&self.wake);
            }
            queue = self.collect(queue);
            drop(queue);
            self.run_batch();
            // Whoever updates often does not have to wake anyone.
            queue = self.collect(lock(&self.queue));
        }
    }

    /// Waits for more work, unless there is a hurry.
    fn collect<'a>(&self, mut queue: Held<'a, Queue>) -> Held<'a, Queue> {
        if !queue.hurry && !queue.stop {
            queue.rest = Rest::Collecting;
            queue = queue.wait_for(&self.wake, COLLECT);
        }
        queue.rest = Rest::Awake;
        queue
    }

    /// Waits for a grace period and does what was queued before it. False when nothing was queued.
    fn run_batch(&self) -> bool {
        let mut queue = lock(&self.queue);
        if queue.executing.is_some() || queue.waiting.is_empty() {
            return false;
        }
        let batch = std::mem::take(&mut queue.waiting);
        queue.executing = Some(thread::current().id());
        queue.hurry = false;
        drop(queue);
        let count = batch.len() as u64;
        self.wait_for_readers();
        for work in batch {
            if !contained(|| work.execute()) {
                log::error!("deferred work panicked");
            }
        }
        let mut queue = lock(&self.queue);
        queue.executing = None;
        queue.done += count;
        drop(queue);
        self.done.notify_all();
        true
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if self.forked() {
            // The thread behind the handle does not exist here.
            let queue = self.queue.get_mut().unwrap_or_else(PoisonError::into_inner);
            std::mem::forget(queue.reclaimer.take());
            std::mem::forget(std::mem::take(&mut queue.waiting));
        }
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("readers", &lock(&self.words).len()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Domain").field("readers", &self.readers()).field("pending", &self.pending()).finish()
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
