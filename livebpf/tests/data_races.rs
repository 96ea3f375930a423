//! Programs that are plain memory: what readers use of them, and what their end does to it, is an ordinary access, so that
//! a data race is a data race. The thread sanitiser (`cargo run -p xtask -- tsan`) sees it; without it the values are compared.
//!
//! The sanitiser knows neither membarrier nor generated code. So the readers here are Rust, and the domain is the one
//! whose readers fence for themselves; the other one runs too.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use livebpf::map::prog_array::{Contract, Execution, Member, ProgArray};
use livebpf::object::{ProgType, ProgramKind};
use livebpf::rcu::Domain;
use livebpf::text::{CoreSync, Patcher, Region, RegionOptions};

const CONTRACT: Contract = Contract { kind: ProgramKind::new(ProgType::XDP), execution: Execution::Interpreted };
const SLOTS: u32 = 4;

/// What a run reads, and the end of the program overwrites.
struct Payload {
    number: u64,
    complement: u64,
}

struct Plain {
    payload: Box<Payload>,
}

impl Plain {
    fn new(number: u64) -> Arc<Plain> {
        Arc::new(Plain { payload: Box::new(Payload { number, complement: !number }) })
    }
}

impl Member for Plain {
    fn id(&self) -> u32 {
        self.payload.number as u32
    }
    fn contract(&self) -> &Contract {
        &CONTRACT
    }
    fn tail_entry(&self) -> u64 {
        (&raw const *self.payload).expose_provenance() as u64
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        *self.payload = Payload { number: 0, complement: 0 };
    }
}

/// One slot's program, run: false where there is none.
fn run(array: &ProgArray, index: u32) -> bool {
    let word = array.word(index);
    if word == 0 {
        return false;
    }
    // SAFETY: the word of a slot, in a section: that it lives is what is being tested.
    let payload = unsafe { &*std::ptr::with_exposed_provenance::<Payload>(word as usize) };
    assert_eq!(payload.number, !payload.complement, "a program was used after its end");
    true
}

fn storm(sync: Arc<CoreSync>) {
    let seconds = std::env::var("LIVEBPF_STRESS_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(1.0);
    let region = Region::new(RegionOptions { capacity: 64 << 10, ..RegionOptions::default() }).unwrap();
    let domain = Domain::new(sync.clone()).unwrap();
    let patcher = Patcher::new(region, sync, domain.clone());
    let array = ProgArray::new(SLOTS).unwrap();
    domain.inject_no_grace(std::env::var_os("LIVEBPF_NO_GRACE").is_some());
    let (stop, runs, hits, updates) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let read = || {
        while !stop.load(Ordering::Relaxed) {
            // Readers come and go as well.
            let reader = domain.reader();
            for index in 0..200 {
                let _section = reader.enter();
                hits.fetch_add(u64::from(run(&array, index % SLOTS)), Ordering::Relaxed);
                runs.fetch_add(1, Ordering::Relaxed);
            }
        }
    };
    let write = |first: u64| {
        let mut number = first;
        while !stop.load(Ordering::Relaxed) {
            number += 2;
            let index = (number / 2) as u32 % SLOTS;
            let mut guard = patcher.update().unwrap();
            let retired = match number % 3 {
                0 => array.clear_index(index, &mut guard).unwrap_or_default(),
                _ => array.set(index, Plain::new(number), 0, &mut guard).unwrap(),
            };
            drop(guard);
            domain.retire(retired);
            if number % 64 < 2 {
                domain.barrier().unwrap();
            }
            updates.fetch_add(1, Ordering::Relaxed);
        }
    };
    std::thread::scope(|scope| {
        let (read, write) = (&read, &write);
        let threads =
            [scope.spawn(read), scope.spawn(read), scope.spawn(move || write(2)), scope.spawn(move || write(3))];
        let begin = Instant::now();
        let enough = || updates.load(Ordering::Relaxed) > 1000 && hits.load(Ordering::Relaxed) > 1000;
        while begin.elapsed() < Duration::from_secs_f64(seconds) || !enough() && begin.elapsed().as_secs() < 100 {
            if threads.iter().any(|thread| thread.is_finished()) {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        stop.store(true, Ordering::Relaxed);
        assert!(threads.iter().all(|thread| !thread.is_finished()) || enough(), "a thread has failed");
    });
    println!("{runs:?} runs, {hits:?} of them of a program, {updates:?} updates");
    assert!(updates.into_inner() > 1000 && hits.into_inner() > 1000);
    let retired = array.clear_all(&mut patcher.update().unwrap());
    domain.retire(retired);
    domain.barrier().unwrap();
}

#[test]
fn readers_that_fence_for_themselves_race_with_nobody() {
    storm(CoreSync::unavailable("for the thread sanitiser"));
}

#[test]
fn readers_that_rely_on_core_syncs_race_with_nobody() {
    storm(CoreSync::detect());
}
