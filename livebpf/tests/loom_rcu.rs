//! Models of reader sections, grace periods and core syncs: see `livebpf::rcu` and `livebpf::text::sync`, whose code runs
//! here under loom. Each has a control with a protection switched off, in which loom must find the failure.
#![cfg(loom)]

mod loom_support;

use std::sync::Arc;

use livebpf::rcu::{Domain, Reader};
use livebpf::text::CoreSync;
use livebpf::text::sync::SyncFault;
use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicUsize, Ordering, fence};
use loom::thread;
use loom_support::check;

/// Two objects, of which one is published.
#[derive(Default)]
struct Published {
    current: AtomicUsize,
    objects: [Object; 2],
}

/// Loom reports every use that is not ordered against the end of the object; `gone` those that come after it.
#[derive(Default)]
struct Object {
    memory: UnsafeCell<()>,
    gone: std::sync::atomic::AtomicBool,
}

// SAFETY: the cell holds nothing; loom reports concurrent access.
unsafe impl Sync for Object {}

impl Object {
    fn used(&self) {
        self.memory.with(|_| ());
        assert!(!self.gone.load(Ordering::Relaxed), "used after its end");
    }

    fn ended(&self) {
        self.memory.with_mut(|_| ());
        self.gone.store(true, Ordering::Relaxed);
    }
}

impl Published {
    /// A run: uses what is published, twice.
    fn read(&self) {
        let object = &self.objects[self.current.load(Ordering::Relaxed)];
        object.used();
        object.used();
    }

    fn replace(&self) {
        self.current.store(1, Ordering::Relaxed);
    }

    fn reclaim(&self) {
        self.objects[0].ended();
    }
}

fn in_section(reader: &Reader, published: &Published) {
    let _section = reader.enter();
    published.read();
}

/// One thread runs, this one replaces and reclaims after a grace period.
fn synchronize_model(domain: Arc<Domain>, run: impl FnOnce(&Domain, Reader, &Published) + 'static) {
    let published = Arc::<Published>::default();
    let reader = domain.reader();
    loom::explore();
    let runner = thread::spawn({
        let (domain, published) = (domain.clone(), published.clone());
        move || run(&domain, reader, &published)
    });
    published.replace();
    domain.synchronize().unwrap();
    published.reclaim();
    runner.join().unwrap();
}

fn two_sections(_: &Domain, reader: Reader, published: &Published) {
    in_section(&reader, published);
    in_section(&reader, published);
}

#[test]
fn nothing_is_reclaimed_under_a_reader() {
    check(4, || synchronize_model(Domain::new(CoreSync::detect()).unwrap(), two_sections));
}

#[test]
fn nor_where_readers_fence_for_themselves() {
    check(4, || synchronize_model(Domain::new(CoreSync::unavailable("a model")).unwrap(), two_sections));
}

#[test]
fn a_nested_section_does_not_end_the_outer_one() {
    check(4, || {
        synchronize_model(Domain::new(CoreSync::detect()).unwrap(), |_, reader, published| {
            let _outer = reader.enter();
            in_section(&reader, published);
            published.read();
        });
    });
}

#[test]
fn a_reader_that_comes_during_a_snapshot_sees_what_was_unpublished() {
    check(4, || {
        synchronize_model(Domain::new(CoreSync::detect()).unwrap(), |domain, _, published| {
            in_section(&domain.reader(), published);
        });
    });
}

#[test]
fn two_readers_and_deferred_work() {
    check(2, || {
        let domain = Domain::new(CoreSync::detect()).unwrap();
        let published = Arc::<Published>::default();
        let readers = [domain.reader(), domain.reader()];
        loom::explore();
        let runners = readers.map(|reader| {
            let published = published.clone();
            thread::spawn(move || in_section(&reader, &published))
        });
        published.replace();
        let reclaimed = published.clone();
        domain.defer(move || reclaimed.reclaim());
        // Its thread does what is queued, then ends.
        drop(domain);
        for runner in runners {
            runner.join().unwrap();
        }
    });
}

#[test]
fn an_update_from_inside_a_run_waits_for_that_run() {
    check(3, || {
        let domain = Domain::new(CoreSync::detect()).unwrap();
        let published = Arc::<Published>::default();
        let reader = domain.reader();
        loom::explore();
        let runner = thread::spawn({
            let (domain, published) = (domain.clone(), published.clone());
            move || {
                let _section = reader.enter();
                published.replace();
                let reclaimed = published.clone();
                domain.defer(move || reclaimed.reclaim());
                // It may have got hold of the old object before.
                published.objects[0].used();
            }
        });
        runner.join().unwrap();
        domain.barrier().unwrap();
    });
}

#[test]
#[should_panic(expected = "Causality violation")]
fn control_no_grace_period() {
    check(4, || {
        let domain = Domain::new(CoreSync::detect()).unwrap();
        domain.inject_no_grace(true);
        synchronize_model(domain, two_sections);
    });
}

#[test]
#[should_panic(expected = "Causality violation")]
fn control_a_snapshot_without_core_sync() {
    check(4, || {
        synchronize_model(Domain::new(CoreSync::faulty(SyncFault::Omitted)).unwrap(), two_sections);
    });
}

/// Two callers store, sync, and tell; whoever is told must see the store.
fn sharing_model(sync: Arc<CoreSync>) {
    let stored: Arc<[AtomicUsize; 2]> = Arc::default();
    let told: Arc<[AtomicUsize; 2]> = Arc::default();
    let caller = |who: usize| {
        let (sync, stored, told) = (sync.clone(), stored.clone(), told.clone());
        move || {
            stored[who].store(1, Ordering::Relaxed);
            sync.core_sync();
            told[who].store(1, Ordering::Relaxed);
        }
    };
    loom::explore();
    let callers = [0, 1].map(|who| thread::spawn(caller(who)));
    for who in [0, 1] {
        if told[who].load(Ordering::Relaxed) == 1 {
            fence(Ordering::SeqCst);
            assert_eq!(stored[who].load(Ordering::Relaxed), 1, "a caller's store was not synced");
        }
    }
    for caller in callers {
        caller.join().unwrap();
    }
    assert!(sync.calls() <= 2);
}

#[test]
fn callers_that_share_a_core_sync_are_all_covered() {
    check(4, || sharing_model(CoreSync::detect()));
}

#[test]
#[should_panic(expected = "a caller's store was not synced")]
fn control_a_core_sync_shared_too_early() {
    check(4, || sharing_model(CoreSync::faulty(SyncFault::SharedTooEarly)));
}

#[test]
#[should_panic(expected = "a caller's store was not synced")]
fn control_no_core_sync() {
    check(4, || sharing_model(CoreSync::faulty(SyncFault::Omitted)));
}
