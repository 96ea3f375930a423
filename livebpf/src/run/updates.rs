//! Asynchronous updates: changes of program arrays that are asked for now and made a moment later.
//!
//! A thread of the runtime, started when first needed, makes all changes that are queued in one go, in the order in which they
//! were asked for: under one hold of the update lock, with one closing core sync, and one plan for each array
//! (`ProgArray::change_each`), where of several changes of one slot the last wins. A change that comes alone is made at once;
//! those that follow within [`COLLECT`] are made together.
//!
//! *Guarantees.* A change takes effect at some moment between the call and the report of its [`Completion`]; runs that start
//! after the report see it. Two changes of one slot take effect in the order of the calls; about two slots nothing is promised before the
//! reports. What is queued is made, even if every handle is dropped meanwhile: a request holds the user's handle of
//! its array, and with it the runtime.
//!
//! Towards transactions these are single updates: one that is queued while a transaction goes on is made before it, then the new
//! generation has it, or after it, then it changes the new generation.
//!
//! # Why waiting for a completion cannot deadlock
//!
//! The thread waits for the queue's lock, the update lock, core syncs, and a program array's locks, and for nothing else: no grace period, no
//! run, nobody's completion. Whoever holds one of those locks waits for nothing but others of them, later in this
//! order, and for core syncs, which wait for nobody. So every queued change is made after a bounded number of steps of threads that are not
//! waiting; and a waiter may be inside a run, or deferred work. Who may not wait, and is refused: a thread that
//! holds one of those locks (a signal handler in the middle of an update), and the thread itself (a waker of another completion).
//!
//! *Never.* Asking for a change makes no core sync, and waits for no one but for the queue's lock, which is held for a few
//! instructions.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, PoisonError, Weak};
use std::task::{Poll, Waker};
use std::time::Duration;

use crate::map::held::{Held, lock};
use crate::map::prog_array::{ArrayKey, Retired, SlotChange};
use crate::map::{Map, MapError};
use crate::primitive::atomic::{AtomicBool, Ordering};
use crate::primitive::thread::{self, JoinHandle, ThreadId};
use crate::primitive::{Condvar, Mutex, MutexGuard, contained};
use crate::rcu::{Domain, WaitError, inside};
use crate::text::patch::{Patcher, UpdateError, updating};

/// How long changes are collected after others were made.
const COLLECT: Duration = Duration::from_millis(1);

/// One change that was asked for, and has been admitted.
pub(crate) struct Request {
    /// A program array.
    pub(crate) map: Arc<Map>,
    pub(crate) change: SlotChange,
    /// The user's handle of the array: its last one empties the array, so it must not go before the change is made.
    pub(crate) user: Arc<dyn Any + Send + Sync>,
}

/// The updates of one runtime that are not made yet.
pub(crate) struct Updates {
    inner: Arc<Inner>,
}

struct Inner {
    patcher: Arc<Patcher>,
    domain: Arc<Domain>,
    queue: Mutex<Queue>,
    wake: Condvar,
}

#[derive(Default)]
struct Queue {
    waiting: Vec<(Request, Promise)>,
    /// Somebody waits: nothing is to be collected.
    hurry: bool,
    stop: bool,
    rest: Rest,
    thread: Option<JoinHandle<()>>,
    id: Option<ThreadId>,
}

/// What the thread waits for.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Rest {
    /// Nothing.
    #[default]
    Awake,
    /// More requests, for a moment.
    Collecting,
    /// A request.
    Asleep,
}

impl Updates {
    /// Nothing is queued, and there is no thread yet.
    pub(crate) fn new(patcher: Arc<Patcher>, domain: Arc<Domain>) -> Updates {
        let inner = Inner { patcher, domain, queue: Mutex::default(), wake: Condvar::new() };
        Updates { inner: Arc::new(inner) }
    }

    /// Queues a change.
    pub(crate) fn submit(&self, request: Request) -> Result<Completion, UpdateError> {
        let inner = &self.inner;
        if inner.domain.forked() {
            return Err(UpdateError::Forked);
        }
        if updating() {
            return Err(UpdateError::Reentrant);
        }
        let outcome = Arc::new(Outcome::default());
        let completion = Completion { outcome: outcome.clone(), inner: Arc::downgrade(inner) };
        let mut queue = lock(&inner.queue);
        queue.waiting.push((request, Promise(outcome)));
        if inner.start(&mut queue) {
            inner.wake(queue);
        } else {
            let batch = std::mem::take(&mut queue.waiting);
            drop(queue);
            inner.make(batch);
        }
        Ok(completion)
    }
}

impl Drop for Updates {
    /// Ends the thread, which makes what is queued first.
    fn drop(&mut self) {
        if self.inner.domain.forked() {
            // The thread does not exist here, and may have held the lock. What it shares with these updates stays.
            return;
        }
        let mut queue = lock(&self.inner.queue);
        queue.stop = true;
        let own = queue.id == Some(thread::current().id());
        let Some(thread) = queue.thread.take() else { return };
        self.inner.wake(queue);
        if !own && !inside() && !updating() {
            // It contains the panics of others.
            let _ = thread.join();
        }
    }
}

impl Inner {
    /// True when the thread runs (now).
    fn start(self: &Arc<Self>, queue: &mut Queue) -> bool {
        if queue.thread.is_none() {
            let inner = self.clone();
            match thread::Builder::new().name("livebpf-update".to_owned()).spawn(move || inner.run()) {
                Ok(thread) => (queue.id, queue.thread) = (Some(thread.thread().id()), Some(thread)),
                Err(error) => log::warn!("no thread for asynchronous updates ({error}): their callers make them"),
            }
        }
        queue.thread.is_some()
    }

    /// Releases the queue, and wakes the thread where it has to be.
    fn wake(&self, mut queue: Held<'_, Queue>) {
        let wake = match queue.rest {
            Rest::Awake => false,
            Rest::Collecting => queue.hurry || queue.stop,
            Rest::Asleep => true,
        };
        if wake {
            // Nobody else needs to.
            queue.rest = Rest::Awake;
        }
        drop(queue);
        if wake {
            self.wake.notify_one();
        }
    }

    fn run(&self) {
        let mut queue = lock(&self.queue);
        loop {
            while queue.waiting.is_empty() {
                if queue.stop {
                    return;
                }
                queue.rest = Rest::Asleep;
                queue = queue.wait(&self.wake);
            }
            queue.rest = Rest::Awake;
            queue.hurry = false;
            let batch = std::mem::take(&mut queue.waiting);
            drop(queue);
            if !contained(|| self.make(batch)) {
                log::error!("making asynchronous updates panicked");
            }
            queue = lock(&self.queue);
            if !queue.hurry && !queue.stop {
                queue.rest = Rest::Collecting;
                queue = queue.wait_for(&self.wake, COLLECT);
            }
        }
    }

    /// Makes changes, then reports.
    fn make(&self, batch: Vec<(Request, Promise)>) {
        let mut arrays: BTreeMap<ArrayKey, Group> = BTreeMap::new();
        let mut users = Vec::with_capacity(batch.len());
        for (Request { map, change, user }, promise) in batch {
            let Some(array) = map.prog_array() else { continue };
            let group = arrays.entry(array.key()).or_insert_with(|| Group::of(&map));
            group.changes.push(change);
            group.promises.push(promise);
            users.push(user);
        }
        // A refusal is for a fork's child, which has no such thread, and for a thread that holds a lock: not this one.
        let Ok(mut guard) = self.patcher.update() else { return std::mem::forget((arrays, users)) };
        let (mut reports, mut retired) = (Vec::with_capacity(users.len()), Retired::default());
        for Group { map, changes, promises } in arrays.into_values() {
            let Some(array) = map.prog_array() else { continue };
            let (results, displaced) = array.change_each(changes, &mut guard);
            retired.merge(displaced);
            reports.extend(promises.into_iter().zip(results));
        }
        // Runs that start from here on see them.
        drop(guard);
        self.domain.retire(retired);
        reports.into_iter().for_each(|(promise, result)| promise.keep(result));
        // Among them may be the last handle of anything, the runtime included.
        drop(users);
    }
}

/// What is asked of one array.
struct Group {
    map: Arc<Map>,
    changes: Vec<SlotChange>,
    promises: Vec<Promise>,
}

impl Group {
    fn of(map: &Arc<Map>) -> Group {
        Group { map: map.clone(), changes: Vec::new(), promises: Vec::new() }
    }
}

/// What came of a request, once it is known.
#[derive(Default)]
struct Outcome {
    done: AtomicBool,
    state: Mutex<State>,
    told: Condvar,
}

#[derive(Default)]
struct State {
    result: Option<Result<(), MapError>>,
    wakers: Vec<Waker>,
}

impl Outcome {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn report(&self, result: Result<(), MapError>) {
        let mut state = self.state();
        state.result = Some(result);
        let wakers = std::mem::take(&mut state.wakers);
        self.done.store(true, Ordering::Release);
        drop(state);
        self.told.notify_all();
        for waker in wakers {
            if !contained(|| waker.wake()) {
                log::error!("a waker panicked");
            }
        }
    }
}

/// The duty to report. Nobody waits for a report that does not come.
struct Promise(Arc<Outcome>);

impl Promise {
    fn keep(self, result: Result<(), MapError>) {
        self.0.report(result);
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        if !self.0.done.load(Ordering::Acquire) {
            self.0.report(Err(MapError::Busy("the thread that makes asynchronous updates failed".into())));
        }
    }
}

/// The report of one asynchronous change. Dropping it changes nothing.
pub(crate) struct Completion {
    outcome: Arc<Outcome>,
    inner: Weak<Inner>,
}

impl Completion {
    /// Whether the change was made, or refused.
    pub(crate) fn is_done(&self) -> bool {
        self.outcome.done.load(Ordering::Acquire)
    }

    /// Returns when it is done. The outer error is that this thread cannot wait.
    pub(crate) fn wait(&self) -> Result<Result<(), MapError>, WaitError> {
        if !self.is_done() {
            self.hurry()?;
        }
        let mut state = self.outcome.state();
        loop {
            if let Some(result) = &state.result {
                return Ok(result.clone());
            }
            state = self.outcome.told.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Has what is queued made at once. Refused where this thread could not wait for that.
    fn hurry(&self) -> Result<(), WaitError> {
        if updating() {
            return Err(WaitError::WouldDeadlock);
        }
        // Where it is gone everything is done.
        let Some(inner) = self.inner.upgrade() else { return Ok(()) };
        if inner.domain.forked() {
            return Err(WaitError::Forked);
        }
        let mut queue = lock(&inner.queue);
        if queue.id == Some(thread::current().id()) {
            return Err(WaitError::WouldDeadlock);
        }
        queue.hurry = true;
        inner.wake(queue);
        Ok(())
    }

    /// The result, or where there is none yet a promise to wake.
    pub(crate) fn poll(&self, waker: &Waker) -> Poll<Result<(), MapError>> {
        let mut state = self.outcome.state();
        if let Some(result) = &state.result {
            return Poll::Ready(result.clone());
        }
        if !state.wakers.iter().any(|known| known.will_wake(waker)) {
            state.wakers.push(waker.clone());
        }
        Poll::Pending
    }
}

impl fmt::Debug for Updates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Updates").field("queued", &lock(&self.inner.queue).waiting.len()).finish_non_exhaustive()
    }
}
