//! Models of transactions: what runs and single updates see while the next generation takes over. The whole runtime runs
//! here under loom, with the interpreter; the machine code's part, `UpdateGuard::take_over`, with a runner that fetches
//! code as a processor would. Controls have a protection switched off: in them loom must find the failure.
#![cfg(loom)]

mod live_support;
mod loom_support;

use std::sync::Arc;

use livebpf::map::prog_array::{ProgArray, Table};
use livebpf::runtime::{Ebpf, Engine, Program, ProgramArray, Runtime};
use livebpf::text::Tracking;
use livebpf::text::patch::Faults;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread::JoinHandle;
use loom_support::{Bench, Prog, check, spawn};

// --- The runtime ---

/// Version 1 of a chain is entry → slot 0 → slot 1, version 2 is entry → slot 0 → slot 2; the last stage answers the
/// version. A stage that finds its slot empty answers 91 or 92. Slot 3 has nothing to do with it.
struct Chain {
    runtime: Runtime,
    array: ProgramArray,
    entry: Program,
    stages: [Program; 2],
    ends: [Program; 2],
    _objects: Vec<Ebpf>,
}

impl Chain {
    fn new() -> Arc<Chain> {
        let runtime = Runtime::builder().engine(Engine::Interp).cpus(4).build().unwrap();
        let def = live_support::prog_array("chain", 4);
        let stage = |name: &str, slot: u32, missed: u32| {
            let text = format!("r6 = r1\n{}w0 = {missed}\nexit", live_support::tail_call(0, slot));
            live_support::linked(name, &text, &[&def])
        };
        let programs = vec![
            stage("entry", 0, 90),
            stage("stage1", 1, 91),
            stage("stage2", 2, 92),
            live_support::answers("end1", 1),
            live_support::answers("end2", 2),
        ];
        let object = runtime.load_linked(programs).unwrap();
        let program = |name: &str| object.program(name).unwrap().clone();
        let array = ProgramArray::try_from(object.map("chain").unwrap()).unwrap();
        let entry = program("entry");
        let (stages, ends) = ([program("stage1"), program("stage2")], [program("end1"), program("end2")]);
        array.set(0, &stages[0]).unwrap();
        array.set(1, &ends[0]).unwrap();
        Arc::new(Chain { runtime, array, entry, stages, ends, _objects: vec![object] })
    }

    fn upgrade(&self) {
        let changed = self.runtime.transaction(|tx| {
            tx.set(&self.array, 0, &self.stages[1]);
            tx.clear(&self.array, 1);
            tx.set(&self.array, 2, &self.ends[1]);
        });
        changed.unwrap();
    }

    fn run(&self) -> u32 {
        live_support::run(&self.runtime, &self.entry)
    }
}

fn upgrade_beside_a_run(prepare: impl Fn(&Runtime)) {
    let chain = Chain::new();
    prepare(&chain.runtime);
    let returned = Arc::new(AtomicUsize::new(0));
    let mut worker = chain.runtime.worker().unwrap();
    loom::explore();
    let runner = spawn({
        let (chain, returned) = (chain.clone(), returned.clone());
        move || {
            let before = returned.load(Ordering::Acquire);
            let answer = worker.run(&chain.entry, &mut live_support::context(&chain.entry)).unwrap();
            drop(worker);
            assert!([1, 2].contains(&answer), "a run saw half of a transaction: {answer}");
            assert!(before == 0 || answer == 2, "a run that began after the transaction had returned did not see it");
        }
    });
    chain.upgrade();
    returned.store(1, Ordering::Release);
    runner.join().unwrap();
    chain.runtime.barrier().unwrap();
    loom::stop_exploring();
    assert_eq!(chain.run(), 2);
}

#[test]
fn a_run_sees_all_of_a_transaction_or_nothing() {
    check(3, || upgrade_beside_a_run(|_| ()));
}

#[test]
#[should_panic(expected = "a run saw half of a transaction")]
fn control_a_transaction_without_generation() {
    let faults = Faults { transaction_without_generation: true, ..Faults::default() };
    check(3, move || upgrade_beside_a_run(|runtime| runtime.inject(faults)));
}

#[test]
#[should_panic(expected = "a run saw half of a transaction")]
fn control_a_generation_that_goes_without_grace_period() {
    check(3, || upgrade_beside_a_run(Runtime::inject_no_grace));
}

#[test]
fn a_single_update_beside_a_transaction_is_not_lost() {
    check(3, || {
        let chain = Chain::new();
        loom::explore();
        let updater = spawn({
            let chain = chain.clone();
            move || chain.array.set(3, &chain.ends[0]).unwrap()
        });
        chain.upgrade();
        updater.join().unwrap();
        chain.runtime.barrier().unwrap();
        loom::stop_exploring();
        let slots = [0, 1, 2, 3].map(|slot| chain.array.program_id(slot).ok());
        let wanted = [Some(&chain.stages[1]), None, Some(&chain.ends[1]), Some(&chain.ends[0])];
        assert_eq!(slots, wanted.map(|program| program.map(Program::id)));
        assert_eq!(chain.run(), 2);
    });
}

#[test]
fn two_transactions_follow_one_another() {
    check(2, || {
        let chain = Chain::new();
        loom::explore();
        let other = spawn({
            let chain = chain.clone();
            move || chain.runtime.transaction(|tx| tx.set(&chain.array, 3, &chain.ends[0])).unwrap()
        });
        chain.upgrade();
        other.join().unwrap();
        chain.runtime.barrier().unwrap();
        loom::stop_exploring();
        assert_eq!((chain.runtime.generation(), chain.run()), (2, 2));
        assert_eq!(chain.array.program_id(3).ok(), Some(chain.ends[0].id()));
    });
}

// --- The machine code ---

/// A caller of slot 0 in two generations, and a transaction that makes the second one current, step by step as
/// `runtime::transaction` does.
struct Takeover {
    bench: Bench,
    array: Arc<ProgArray>,
    callers: [Arc<Prog>; 2],
    current: AtomicUsize,
    returned: AtomicUsize,
}

impl Takeover {
    fn new() -> Arc<Takeover> {
        let bench = Bench::new();
        let array = Arc::new(ProgArray::new(1).unwrap());
        let callers = [bench.caller(&array), bench.placed_caller()];
        Arc::new(Takeover { bench, array, callers, current: AtomicUsize::new(0), returned: AtomicUsize::new(0) })
    }

    fn fill(&self, table: &Table) {
        for (index, member) in self.array.current().occupied() {
            let word = member.tail_entry();
            table.fill(index, member, word);
        }
    }

    /// `early`: the next generation gets what the slots hold before the lock is taken.
    fn transaction(&self, early: bool) -> Tracking {
        let table = self.array.next_table(1).unwrap();
        let tracking = self.bench.patcher.track(&self.callers[1].image, &|_| Some(&self.array)).unwrap();
        if early {
            self.fill(&table);
        }
        let mut guard = self.bench.patcher.update().unwrap();
        if !early {
            self.fill(&table);
        }
        guard.take_over(&[&tracking], &|_, index| table.word(index));
        self.array.publish(table);
        self.current.store(1, Ordering::Release);
        drop(guard);
        let array = self.array.clone();
        self.bench.domain.defer(move || drop(array.forget_before(1)));
        tracking
    }

    fn run(&self) -> Option<u64> {
        let generation = self.current.load(Ordering::Acquire);
        self.bench.run(&self.callers[generation].image)
    }
}

/// Q takes the place of P beside the transaction, and beside a run.
fn take_over(early: bool) {
    let scene = Takeover::new();
    let (p, q) = (scene.bench.leaf(), scene.bench.leaf());
    let entries = [p.entry(), q.entry()];
    scene.bench.set(&scene.array, p);
    let reader = scene.bench.domain.reader();
    loom::explore();
    let runner: JoinHandle<()> = spawn({
        let scene = scene.clone();
        move || {
            let returned = scene.returned.load(Ordering::Relaxed);
            let _section = reader.enter();
            let to = scene.run();
            assert!(to.is_some_and(|to| entries[returned..].contains(&to)), "a single update was lost: {to:x?}");
        }
    });
    let updater = spawn({
        let scene = scene.clone();
        move || {
            scene.bench.set(&scene.array, q);
            scene.returned.store(1, Ordering::Relaxed);
        }
    });
    let tracking = scene.transaction(early);
    updater.join().unwrap();
    runner.join().unwrap();
    scene.bench.domain.barrier().unwrap();
    loom::stop_exploring();
    let audit = scene.bench.patcher.update().unwrap().audit(&[&scene.array]);
    let (seen, word) = (scene.run(), scene.array.word(0));
    drop(tracking);
    assert_eq!((audit, seen, word), (Ok(1), Some(entries[1]), entries[1]), "a single update was lost");
}

#[test]
fn a_take_over_beside_a_replace_loses_nothing() {
    check(1, || take_over(false));
}

#[test]
#[should_panic(expected = "a single update was lost")]
fn control_a_take_over_by_what_the_slots_held_before_the_lock() {
    check(1, || take_over(true));
}
