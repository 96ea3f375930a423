//! Models of live patching: `livebpf::text::patch`, `livebpf::map::prog_array` and `livebpf::rcu` run here under loom
//! against runners that fetch the bypass, the target, and the first instruction there, as a processor would. Controls
//! have a protection switched off: in them loom must find the failure.
#![cfg(loom)]

mod child;
mod loom_support;

use std::sync::Arc;

use livebpf::map::prog_array::{Change, Poke, ProgArray};
use livebpf::text::Image;
use livebpf::text::patch::Faults;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread::{self, JoinHandle};
use loom_support::{Bench, Prog, caller_code, check};

/// One array, one caller with one site for slot 0, and whatever happens to that.
struct Scene {
    bench: Bench,
    array: ProgArray,
    caller: Arc<Prog>,
    /// Updates that have returned. Relaxed: whoever reads it learns that they have, and nothing else.
    returned: AtomicUsize,
}

/// What a run gave: where it arrived, and how many updates had returned before it began.
struct Run {
    to: Option<u64>,
    returned: usize,
}

impl Scene {
    fn new() -> Arc<Scene> {
        let bench = Bench::new();
        let array = ProgArray::new(1).unwrap();
        let caller = bench.caller(&array);
        Arc::new(Scene { bench, array, caller, returned: AtomicUsize::new(0) })
    }

    fn set(&self, program: Arc<Prog>) {
        self.bench.set(&self.array, program);
        self.tell();
    }

    fn clear(&self) {
        self.bench.clear(&self.array);
        self.tell();
    }

    fn tell(&self) {
        let returned = self.returned.load(Ordering::Relaxed);
        self.returned.store(returned + 1, Ordering::Relaxed);
    }

    /// A thread with one run. What was done before counts as done long ago: updates from here on are the first.
    fn begin(self: &Arc<Self>, see: impl Fn(Run) + 'static) -> JoinHandle<()> {
        self.begin_with(see, |scene| scene.bench.run(&scene.caller.image))
    }

    fn begin_with(
        self: &Arc<Self>,
        see: impl Fn(Run) + 'static,
        run: impl Fn(&Scene) -> Option<u64> + 'static,
    ) -> JoinHandle<()> {
        self.returned.store(0, Ordering::Relaxed);
        let (scene, reader) = (self.clone(), self.bench.domain.reader());
        loom::explore();
        thread::spawn(move || {
            let returned = scene.returned.load(Ordering::Relaxed);
            let _section = reader.enter();
            see(Run { to: run(&scene), returned });
        })
    }

    /// Waits for what was deferred, and compares slot, shadows and bytes of all sites.
    fn end(&self, thread: JoinHandle<()>, sites: usize) {
        thread.join().unwrap();
        self.bench.domain.barrier().unwrap();
        loom::stop_exploring();
        assert_eq!(self.audit(), Ok(sites));
    }

    /// A failed assertion must not hold the lock: loom takes it amiss.
    fn audit(&self) -> Result<usize, String> {
        self.bench.patcher.update().unwrap().audit(&[&self.array])
    }
}

fn no_faults() -> Faults {
    Faults::default()
}

const UNSEEN: &str = "a run that began after the update had returned did not see it";

// --- Insert, replace, delete ---

fn insert(faults: Faults) {
    let scene = Scene::new();
    scene.bench.patcher.inject(faults);
    let p = scene.bench.leaf();
    let entry = p.entry();
    let runner = scene.begin(move |run| {
        assert!(run.to.is_none_or(|to| to == entry));
        assert!(run.to.is_some() || run.returned == 0, "{UNSEEN}");
    });
    scene.set(p);
    scene.end(runner, 1);
}

#[test]
fn an_insert_gives_the_fall_through_or_the_program() {
    check(3, || insert(no_faults()));
}

#[test]
#[should_panic(expected = "the forbidden state")]
fn control_insert_without_core_sync() {
    check(3, || insert(Faults { no_core_sync: true, ..no_faults() }));
}

#[test]
#[should_panic(expected = "the forbidden state")]
fn control_insert_opens_the_bypass_first() {
    check(3, || insert(Faults { bypass_before_target: true, ..no_faults() }));
}

fn replace(prepare: impl Fn(&Bench)) {
    let scene = Scene::new();
    let (p, q) = (scene.bench.leaf(), scene.bench.leaf());
    let entries = [p.entry(), q.entry()];
    scene.set(p);
    prepare(&scene.bench);
    let runner = scene.begin(move |run| {
        assert!(run.to.is_some_and(|to| entries.contains(&to)), "a replace gave {:x?}", run.to);
        assert!(run.to == Some(entries[1]) || run.returned == 0, "{UNSEEN}");
    });
    scene.set(q);
    scene.end(runner, 1);
}

#[test]
fn a_replace_never_gives_the_fall_through_and_frees_after_the_last_run() {
    check(3, || replace(|_| ()));
}

#[test]
#[should_panic(expected = "did not see it")]
fn control_replace_without_core_sync() {
    check(3, || replace(|bench| bench.patcher.inject(Faults { no_core_sync: true, ..no_faults() })));
}

#[test]
#[should_panic(expected = "reached code that was freed")]
fn control_replace_frees_without_grace_period() {
    check(3, || replace(|bench| bench.domain.inject_no_grace(true)));
}

fn delete(prepare: impl Fn(&Bench)) {
    let scene = Scene::new();
    let p = scene.bench.leaf();
    let entry = p.entry();
    scene.set(p);
    prepare(&scene.bench);
    let runner = scene.begin(move |run| {
        assert!(run.to.is_none_or(|to| to == entry));
        assert!(run.to.is_none() || run.returned == 0, "{UNSEEN}");
    });
    scene.clear();
    scene.end(runner, 1);
}

#[test]
fn a_delete_waits_for_whoever_has_passed_the_bypass() {
    check(2, || delete(|_| ()));
}

#[test]
#[should_panic(expected = "did not see it")]
fn control_delete_without_core_sync() {
    check(3, || delete(|bench| bench.patcher.inject(Faults { no_core_sync: true, ..no_faults() })));
}

#[test]
#[should_panic(expected = "the forbidden state")]
fn control_delete_poisons_without_grace_period() {
    check(3, || delete(|bench| bench.patcher.inject(Faults { poison_without_grace: true, ..no_faults() })));
}

#[test]
#[should_panic(expected = "reached code that was freed")]
fn control_delete_frees_without_grace_period() {
    check(3, || delete(|bench| bench.domain.inject_no_grace(true)));
}

/// The indirect form, where one load of the slot's word decides: P is replaced by Q, or deleted.
fn in_slots(by_q: bool, prepare: impl Fn(&Bench)) {
    let scene = Scene::new();
    let (p, q) = (scene.bench.leaf(), scene.bench.leaf());
    let seen = [Some(p.entry()), by_q.then(|| q.entry())];
    scene.set(p);
    prepare(&scene.bench);
    let see = move |run: Run| assert!(seen[run.returned..].contains(&run.to), "{UNSEEN}");
    let runner = scene.begin_with(see, |scene| scene.bench.run_indirect(&scene.array));
    if by_q {
        scene.set(q);
    } else {
        scene.clear();
    }
    scene.end(runner, 1);
}

#[test]
fn a_replace_in_a_slot_gives_one_or_the_other_and_frees_after_the_last_run() {
    check(3, || in_slots(true, |_| ()));
}

#[test]
fn a_delete_in_a_slot_frees_after_the_last_run() {
    check(2, || in_slots(false, |_| ()));
}

#[test]
#[should_panic(expected = "reached code that was freed")]
fn control_slots_free_without_grace_period() {
    check(3, || in_slots(false, |bench| bench.domain.inject_no_grace(true)));
}

#[test]
fn two_updates_at_once_leave_slot_and_code_in_agreement() {
    check(3, || {
        let scene = Scene::new();
        let (p, q) = (scene.bench.leaf(), scene.bench.leaf());
        loom::explore();
        let other = thread::spawn({
            let scene = scene.clone();
            move || scene.bench.set(&scene.array, p)
        });
        scene.bench.set(&scene.array, q);
        scene.end(other, 1);
    });
}

// --- A caller is loaded, or goes, while its slot changes ---

/// Everything that follows [`Image::place`], with a look at the site just before the fix-up.
fn load_in_steps(scene: &Scene, image: &Image) -> livebpf::text::Tracking {
    let placed = image.bytes();
    let tracking = scene.bench.patcher.track(image, &|_| Some(&scene.array)).unwrap();
    let mut guard = scene.bench.patcher.update().unwrap();
    let untouched = image.bytes() == placed;
    tracking.fix_up(&mut guard, &|_, index| scene.array.word(index));
    drop(guard);
    assert!(untouched, "an update patched a site that is not stable");
    scene.bench.patcher.core_sync().core_sync();
    tracking
}

/// Another caller is loaded, in steps or as usual, and run, while P is inserted by `update`.
fn load(faults: Faults, in_steps: bool, update: impl Fn(&Scene, Arc<Prog>)) {
    let scene = Scene::new();
    scene.bench.patcher.inject(faults);
    let p = scene.bench.leaf();
    let entry = p.entry();
    let image = Image::place(&scene.bench.region, &caller_code(), &|_| None).unwrap();
    let reader = scene.bench.domain.reader();
    loom::explore();
    let loader = thread::spawn({
        let scene = scene.clone();
        move || {
            let before = scene.returned.load(Ordering::Relaxed);
            let tracking = match in_steps {
                true => load_in_steps(&scene, &image),
                false => scene.bench.patcher.load(&image, &|_| Some(&scene.array)).unwrap(),
            };
            let section = reader.enter();
            let to = scene.bench.run(&image);
            drop(section);
            assert!(to.is_none_or(|to| to == entry));
            assert!(to.is_some() || before == 0, "{UNSEEN}");
            (image, tracking)
        }
    });
    update(&scene, p);
    let (image, tracking) = loader.join().unwrap();
    assert_eq!(scene.audit(), Ok(2));
    drop(tracking);
    drop(image);
}

#[test]
fn a_caller_that_is_loaded_during_an_update_agrees_with_the_slot() {
    check(3, || load(no_faults(), false, |scene, p| scene.set(p)));
}

#[test]
fn until_its_fix_up_a_site_is_its_loaders_alone() {
    check(3, || load(no_faults(), true, |scene, p| scene.set(p)));
}

#[test]
#[should_panic(expected = "an update patched a site that is not stable")]
fn control_stable_flag_ignored() {
    check(3, || load(Faults { stable_ignored: true, ..no_faults() }, true, |scene, p| scene.set(p)));
}

/// A slot and its site disagree in `broken`. Debug builds notice that with the lock held, which ends a process under
/// loom: so it runs in one of its own.
fn disagrees(test: &str, broken: impl Fn() + Send + Sync + 'static) {
    if child::case().is_some() {
        return check(3, broken);
    }
    let output = child::start(test, "broken");
    let report = child::stderr(&output);
    let noticed = report.contains("is not in Slot") || report.contains("its site does not agree");
    assert!(!output.status.success() && noticed, "{report}");
}

#[test]
fn control_fix_up_by_what_the_slots_held_before_the_lock() {
    disagrees("control_fix_up_by_what_the_slots_held_before_the_lock", || {
        load(Faults { stale_fix_up: true, ..no_faults() }, false, |scene, p| scene.set(p));
    });
}

/// Leaves the sites as they are.
struct SlotsOnly;

impl Poke for SlotsOnly {
    fn reaches(&self, _: u64) -> bool {
        true
    }
    fn poke(&mut self, _: livebpf::map::prog_array::ArrayKey, _: &[Change]) {}
}

#[test]
fn control_the_slot_is_written_after_the_patch() {
    disagrees("control_the_slot_is_written_after_the_patch", || {
        load(no_faults(), false, |scene, p| {
            let patcher = &scene.bench.patcher;
            let change = Change { index: 0, old: None, new: Some(p.entry()) };
            patcher.update().unwrap().poke(scene.array.key(), &[change]);
            let _lock = patcher.update().unwrap();
            let retired = scene.array.set(0, p, 0, &mut SlotsOnly).unwrap();
            assert!(retired.is_empty());
        });
    });
}

#[test]
fn nothing_is_stored_into_a_caller_that_has_gone() {
    check(3, || {
        let scene = Scene::new();
        let (p, going) = (scene.bench.leaf(), scene.bench.caller(&scene.array));
        let words: Vec<u64> = (0..5).map(|i| going.image.base() + 4 * i).collect();
        scene.set(p);
        loom::explore();
        // Nobody runs it any more.
        let unloader = thread::spawn(move || drop(going));
        scene.clear();
        scene.end(unloader, 1);
        for word in words {
            assert_eq!(scene.bench.region.fetch(word) as u32, 0xcccc_cccc, "a store into freed code");
        }
    });
}

// --- The deferred half of a delete, and what comes in between ---

/// A delete of P drains when Q is inserted and, if `twice`, deleted again.
fn insert_while_a_delete_drains(faults: Faults, twice: bool) {
    let scene = Scene::new();
    scene.bench.patcher.inject(faults);
    let (p, q) = (scene.bench.leaf(), scene.bench.leaf());
    let entry = q.entry();
    scene.set(p);
    scene.clear();
    let runner = scene.begin(move |run| {
        assert!(run.to.is_none_or(|to| to == entry));
        assert!(run.to.is_some() == (run.returned == 1) || run.returned != 1 || twice, "{UNSEEN}");
        assert!(run.to.is_none() || run.returned < 2, "{UNSEEN}");
    });
    scene.set(q);
    if twice {
        scene.clear();
    }
    scene.end(runner, 1);
}

#[test]
fn an_insert_takes_the_poison_of_a_delete_away() {
    check(2, || insert_while_a_delete_drains(no_faults(), false));
}

#[test]
fn each_delete_poisons_after_its_own_grace_period() {
    check(2, || insert_while_a_delete_drains(no_faults(), true));
}

#[test]
#[should_panic(expected = "its site does not agree")]
fn control_a_poison_that_looks_at_nothing() {
    check(3, || insert_while_a_delete_drains(Faults { poison_without_generation: true, ..no_faults() }, false));
}

#[test]
#[should_panic(expected = "the forbidden state")]
fn control_a_poison_of_another_delete() {
    check(2, || insert_while_a_delete_drains(Faults { poison_without_generation: true, ..no_faults() }, true));
}
