//! Tests of grace periods: who is waited for, and what is refused.

use std::sync::atomic::AtomicU32;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::*;

fn domains() -> [Arc<Domain>; 2] {
    [CoreSync::detect(), CoreSync::unavailable("to test the other way")].map(|sync| Domain::new(sync).unwrap())
}

/// Longer than any wait that waits for nobody.
const LONG: Duration = Duration::from_millis(60);

#[test]
fn a_grace_period_waits_for_an_open_section_and_for_no_later_one() {
    for domain in domains() {
        let (entered, leave, left) = (AtomicBool::new(false), AtomicBool::new(false), AtomicBool::new(false));
        thread::scope(|scope| {
            scope.spawn(|| {
                let reader = domain.reader();
                let outer = reader.enter();
                // Nested sections do not end it.
                drop(reader.enter());
                entered.store(true, Ordering::SeqCst);
                while !leave.load(Ordering::SeqCst) {
                    drop(reader.enter());
                    // Asleep in a helper, so to speak.
                    thread::sleep(Duration::from_millis(1));
                }
                left.store(true, Ordering::SeqCst);
                drop(outer);
                // From here on there is nearly always some section open.
                for _ in 0..20 {
                    let _later = reader.enter();
                    thread::sleep(Duration::from_millis(5));
                }
            });
            while !entered.load(Ordering::SeqCst) {
                thread::yield_now();
            }
            scope.spawn(|| {
                thread::sleep(LONG);
                leave.store(true, Ordering::SeqCst);
            });
            let begin = Instant::now();
            domain.synchronize().unwrap();
            assert!(left.load(Ordering::SeqCst) && begin.elapsed() >= LONG / 2);
        });
    }
}

#[test]
fn idle_readers_and_threads_that_exit_delay_nobody() {
    for domain in domains() {
        let idle = domain.reader();
        thread::scope(|scope| {
            scope.spawn(|| drop(domain.reader().enter()));
            scope.spawn(|| {
                // Moved to another thread, left open for ever there, and dropped.
                let reader = domain.reader();
                std::mem::forget(reader.enter());
            });
        });
        domain.synchronize().unwrap();
        assert_eq!((domain.readers(), idle.depth()), (1, 0));
        drop(idle);
        assert_eq!(domain.readers(), 0);
    }
}

#[test]
fn a_reader_that_exits_ends_a_wait() {
    for domain in domains() {
        let (send, receive) = mpsc::channel();
        thread::scope(|scope| {
            scope.spawn(|| {
                let reader = domain.reader();
                std::mem::forget(reader.enter());
                send.send(()).unwrap();
                thread::sleep(LONG);
            });
            receive.recv().unwrap();
            domain.synchronize().unwrap();
        });
    }
}

#[test]
fn waiting_for_oneself_is_refused() {
    for domain in domains() {
        let other = Domain::new(CoreSync::detect()).unwrap();
        let reader = domain.reader();
        let section = reader.enter();
        assert!(inside());
        for domain in [&domain, &other] {
            assert_eq!(domain.synchronize(), Err(WaitError::WouldDeadlock));
            assert_eq!(domain.barrier(), Err(WaitError::WouldDeadlock));
        }
        drop(section);
        assert!(!inside());
        let (send, receive) = mpsc::channel();
        let inner = Arc::downgrade(&domain);
        domain.defer(move || {
            let domain = inner.upgrade().unwrap();
            send.send((domain.synchronize(), domain.barrier())).unwrap();
        });
        let refused = Err(WaitError::WouldDeadlock);
        assert_eq!(receive.recv().unwrap(), (refused, refused));
        domain.synchronize().unwrap();
        domain.barrier().unwrap();
    }
}

#[test]
fn deferred_work_runs_in_order_after_the_sections_open_then() {
    for domain in domains() {
        let reader = domain.reader();
        let order = Arc::new(Mutex::new(Vec::new()));
        let push = |n: u32| {
            let order = order.clone();
            move || order.lock().unwrap().push(n)
        };
        let section = reader.enter();
        (0..10).for_each(|n| domain.defer(push(n)));
        domain.defer(|| panic!("work that panics stops nobody; this message is part of the test"));
        thread::sleep(LONG);
        assert!(order.lock().unwrap().is_empty() && domain.pending() == 11);
        drop(section);
        let again = Arc::downgrade(&domain);
        let late = push(11);
        domain.defer(push(10));
        domain.defer(move || {
            if let Some(domain) = again.upgrade() {
                domain.defer(late);
            }
        });
        domain.barrier().unwrap();
        domain.barrier().unwrap();
        assert_eq!(*order.lock().unwrap(), (0..12).collect::<Vec<_>>());
        assert_eq!(domain.pending(), 0);
    }
}

#[test]
fn dropping_a_domain_does_what_is_queued() {
    for domain in domains() {
        let done = Arc::new(AtomicU32::new(0));
        for _ in 0..100 {
            let done = done.clone();
            domain.defer(move || {
                done.fetch_add(1, Ordering::SeqCst);
            });
        }
        drop(domain);
        assert_eq!(done.load(Ordering::SeqCst), 100);
    }
}

#[test]
fn the_last_domain_handle_may_go_in_deferred_work_or_in_a_section() {
    for domain in domains() {
        let (send, receive) = mpsc::channel();
        let own = domain.clone();
        domain.defer(move || {
            drop(own);
            send.send(()).unwrap();
        });
        drop(domain);
        receive.recv().unwrap();
    }
    for domain in domains() {
        let reader = domain.reader();
        let _section = reader.enter();
        domain.defer(|| ());
        drop(domain);
    }
}

/// What is published is used only while it lives: the classic test of the whole thing, in both modes.
#[test]
fn nothing_is_reclaimed_under_a_reader() {
    for domain in domains() {
        const ALIVE: u64 = 0x5afe;
        let cells: Vec<_> = (0..16).map(|_| Arc::new(std::sync::atomic::AtomicU64::new(0))).collect();
        let current = std::sync::atomic::AtomicUsize::new(0);
        cells[0].store(ALIVE, Ordering::SeqCst);
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let reader = domain.reader();
                    while !stop.load(Ordering::Relaxed) {
                        let _section = reader.enter();
                        let cell = &cells[current.load(Ordering::Relaxed)];
                        for _ in 0..20 {
                            assert_eq!(cell.load(Ordering::Relaxed), ALIVE, "reclaimed under a reader");
                        }
                    }
                });
            }
            let (end, give_up) =
                (Instant::now() + Duration::from_millis(300), Instant::now() + Duration::from_secs(60));
            let (mut at, mut rounds) = (0, 0u32);
            while Instant::now() < end || rounds <= 10 && Instant::now() < give_up {
                let next = (at + 1) % cells.len();
                cells[next].store(ALIVE, Ordering::SeqCst);
                current.store(next, Ordering::Release);
                domain.synchronize().unwrap();
                cells[at].store(0xdead, Ordering::SeqCst);
                (at, rounds) = (next, rounds + 1);
            }
            stop.store(true, Ordering::Relaxed);
            assert!(rounds > 10);
        });
    }
}
