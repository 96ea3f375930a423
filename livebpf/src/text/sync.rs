//! Core sync: after it, every thread of this process has executed a serialising instruction.
//!
//! It is `membarrier(PRIVATE_EXPEDITED_SYNC_CORE)` (Linux 4.16). For code it means: whatever a thread fetched and decoded
//! before is gone, it sees all stores made to code before the call. For data it is a full memory barrier in every
//! thread, which makes the readers' plain stores of [`crate::rcu`] sufficient.
//!
//! *Sharing.* Callers that wait at the same time share one system call: a caller is done when a core sync has completed
//! that *started* after it arrived. `started` counts; it is advanced before the system call by whoever holds `leader`.
//! A caller that read n is covered by every call numbered above n: reading n (and not n + 1) means that its stores are
//! ordered before the increment to n + 1 (both sides are sequentially consistent read-modify-writes), hence
//! before that call's barrier. (tests/loom_rcu.rs: of two callers each is covered in every execution, and loom finds one in
//! which a caller is not that was content with a call which had started before it came.)
//!
//! *Never.* Nothing here falls back to something weaker in silence: where SYNC_CORE is missing, [`CoreSync::available`]
//! is false, code is not patched (slot mode), and readers pay for their own barrier.
#![allow(unsafe_code)]

use std::sync::{Arc, OnceLock};

use crate::map::held;
use crate::primitive::Mutex;
use crate::primitive::atomic::{AtomicU64, Ordering, fence};

/// The core sync of one runtime.
#[derive(Debug)]
pub struct CoreSync {
    refusal: Option<String>,
    started: AtomicU64,
    leader: Mutex<()>,
    fault: Option<SyncFault>,
    #[cfg(feature = "fault-injection")]
    observer: OnceLock<Observer>,
}

/// What a core sync can do wrong, so that tests can show that they would notice. None, always, in production.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SyncFault {
    /// It does nothing.
    Omitted,
    /// Callers are content with a call that had started before they came.
    SharedTooEarly,
}

/// Called at the beginning of each core sync.
#[cfg(feature = "fault-injection")]
struct Observer(Box<dyn Fn() + Send + Sync>);

#[cfg(feature = "fault-injection")]
impl std::fmt::Debug for Observer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Observer")
    }
}

#[cfg(not(loom))]
fn membarrier(command: libc::c_int) -> libc::c_long {
    // SAFETY: membarrier takes two integers and touches no memory of ours.
    unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) }
}

/// In a model all is offered.
#[cfg(loom)]
fn membarrier(command: libc::c_int) -> libc::c_long {
    if command == libc::MEMBARRIER_CMD_QUERY { libc::c_long::MAX } else { 0 }
}

/// Each execution of a model begins with it.
#[cfg(loom)]
pub fn begin_model() {
    crate::primitive::atomic::begin_model();
}

/// The barrier in every thread. In a model a fence: see [`crate::primitive`].
fn serialise() -> libc::c_long {
    if cfg!(loom) {
        fence(Ordering::SeqCst);
    }
    membarrier(libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE)
}

impl CoreSync {
    /// What this machine offers, which is found out once per process. Registers the process. One per runtime, so that
    /// its callers share.
    pub fn detect() -> Arc<CoreSync> {
        static REFUSAL: OnceLock<Option<String>> = OnceLock::new();
        Arc::new(CoreSync::new(REFUSAL.get_or_init(|| Self::register().err()).clone()))
    }

    /// As on a machine without it, for the reason `why`: a choice of the user, or of a test.
    pub fn unavailable(why: &str) -> Arc<CoreSync> {
        Arc::new(CoreSync::new(Some(why.to_owned())))
    }

    /// One that is broken.
    #[cfg(feature = "fault-injection")]
    pub fn faulty(fault: SyncFault) -> Arc<CoreSync> {
        Arc::new(CoreSync { fault: Some(fault), ..CoreSync::new(None) })
    }

    fn new(refusal: Option<String>) -> CoreSync {
        CoreSync {
            refusal,
            started: AtomicU64::new(0),
            leader: Mutex::new(()),
            fault: None,
            #[cfg(feature = "fault-injection")]
            observer: OnceLock::new(),
        }
    }

    fn register() -> Result<(), String> {
        let last = || std::io::Error::last_os_error();
        let offered = membarrier(libc::MEMBARRIER_CMD_QUERY);
        if offered < 0 {
            return Err(format!("membarrier is refused: {}", last()));
        }
        if offered & libc::c_long::from(libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE) == 0 {
            return Err("membarrier has no SYNC_CORE on this kernel (Linux 4.16 or later is needed)".to_owned());
        }
        if membarrier(libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_SYNC_CORE) != 0 {
            return Err(format!("membarrier SYNC_CORE cannot be registered: {}", last()));
        }
        if membarrier(libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE) != 0 {
            return Err(format!("membarrier SYNC_CORE is refused: {}", last()));
        }
        Ok(())
    }

    /// Whether [`CoreSync::core_sync`] does what it says.
    pub fn available(&self) -> bool {
        self.refusal.is_none()
    }

    /// Why it is not available.
    pub fn refusal(&self) -> Option<&str> {
        self.refusal.as_deref()
    }

    /// Returns after every running thread of the process has serialised; all stores made before the call are seen by
    /// every instruction fetched and every load made after it. A few microseconds. Where it is not available this is
    /// only a full memory barrier of the calling thread.
    pub fn core_sync(&self) {
        if self.refusal.is_some() {
            fence(Ordering::SeqCst);
            return;
        }
        #[cfg(feature = "fault-injection")]
        if let Some(observer) = self.observer.get() {
            (observer.0)();
        }
        // Read-modify-writes that add 0 are the full barriers that the argument above needs.
        let mut arrived = self.started.fetch_add(0, Ordering::SeqCst);
        match self.fault {
            None => {}
            Some(SyncFault::Omitted) => return,
            Some(SyncFault::SharedTooEarly) => arrived = arrived.saturating_sub(1),
        }
        let leader = held::lock(&self.leader);
        // Calls run one at a time under `leader`, so every one that was started is complete here.
        if self.started.load(Ordering::SeqCst) > arrived {
            return;
        }
        self.started.fetch_add(1, Ordering::SeqCst);
        let result = serialise();
        drop(leader);
        // Registered and tried in `detect`: it can fail only if the process was confined afterwards, and going on
        // would mean executing stale code.
        assert!(result == 0, "membarrier SYNC_CORE failed after it had worked: {}", std::io::Error::last_os_error());
    }

    /// Calls `observer` whenever somebody asks for a core sync, on that thread: tests look at what is stored by then.
    #[cfg(feature = "fault-injection")]
    pub fn observe(&self, observer: impl Fn() + Send + Sync + 'static) {
        let _ = self.observer.set(Observer(Box::new(observer)));
    }

    /// System calls made so far: callers that waited together count once.
    pub fn calls(&self) -> u64 {
        self.started.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_caller_is_covered_and_some_share() {
        let sync = CoreSync::detect();
        if !sync.available() {
            return;
        }
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..1000).for_each(|_| sync.core_sync()));
            }
        });
        let calls = sync.calls();
        assert!((1000..=4000).contains(&calls), "{calls} system calls for 4 threads of 1000");
        sync.core_sync();
        assert_eq!(sync.calls(), calls + 1, "a lone caller cannot share");
    }

    #[test]
    fn callers_that_wait_together_make_one_call() {
        use std::sync::atomic::AtomicU64 as Count;
        const CALLERS: u64 = 8;
        let sync = CoreSync::detect();
        if !sync.available() {
            return;
        }
        // Whether all of them have come to the lock cannot be seen; when they have not yet, there is another round.
        let shared = (0..1000).any(|_| {
            let (before, coming) = (sync.calls(), Count::new(0));
            std::thread::scope(|scope| {
                let others = sync.leader.lock().unwrap();
                for _ in 0..CALLERS {
                    scope.spawn(|| {
                        coming.fetch_add(1, Ordering::SeqCst);
                        sync.core_sync();
                    });
                }
                while coming.load(Ordering::SeqCst) < CALLERS {
                    std::thread::yield_now();
                }
                std::thread::sleep(std::time::Duration::from_millis(1));
                drop(others);
            });
            let calls = sync.calls() - before;
            assert!((1..=CALLERS).contains(&calls), "{calls} system calls");
            calls == 1
        });
        assert!(shared, "eight callers never shared one call");
    }

    #[test]
    fn unavailable_says_why() {
        let sync = CoreSync::unavailable("not wanted");
        sync.core_sync();
        assert_eq!((sync.available(), sync.refusal(), sync.calls()), (false, Some("not wanted"), 0));
    }
}
