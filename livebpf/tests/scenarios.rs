//! Every scenario of tests/data/scenarios, in every engine.
#![allow(dead_code, reason = "the folder `scenario` serves several tests")]

mod scenario;

use livebpf::runtime::Engine;
use scenario::bare::Bare;
use scenario::format::{Scenario, Step, read_all};
use scenario::live::{Choice, Live};
use scenario::play::play;
use scenario::refusal::wrong_decisions;

fn refuses(scenario: &Scenario) -> bool {
    scenario.steps.iter().any(|step| matches!(step, Step::Refuse { .. }))
}

/// Plays every scenario that can be loaded; all failures at once.
fn play_all(load_and_play: impl Fn(&Scenario, &std::path::Path) -> Result<usize, String>) {
    let mut failures = Vec::new();
    let mut compared = 0;
    for scenario in read_all().iter().filter(|scenario| !refuses(scenario)) {
        for object in &scenario.objects {
            match load_and_play(scenario, object) {
                Ok(count) => compared += count,
                Err(error) => failures.push(format!("{} {}: {error}", scenario.name, object.display())),
            }
        }
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
    assert!(compared > 10_000, "only {compared} comparisons");
}

#[test]
fn all_scenarios_are_there() {
    let names: Vec<String> = read_all().into_iter().map(|scenario| scenario.name).collect();
    let wanted = (1..=17)
        .chain(30..=38)
        .map(|n| format!("T{n}"))
        .chain((1..=13).map(|n| format!("A{n}")))
        .chain((1..=6).map(|n| format!("M{n}")));
    for name in wanted {
        assert!(names.contains(&name), "{name} is missing");
    }
}

/// The player itself: a wrong expectation of each kind is noticed.
#[test]
fn wrong_numbers_are_noticed() {
    let scenarios = read_all();
    let fails = |name: &str, position: usize, change: &dyn Fn(&mut Step)| {
        let mut scenario = scenarios.iter().find(|scenario| scenario.name == name).expect("the scenario").clone();
        change(&mut scenario.steps[position]);
        let mut bench = Bare::load(&scenario, &scenario.objects[0]).expect("the object");
        play(&scenario, &scenario.objects[0], &mut bench).expect_err("a wrong expectation was met")
    };
    let text = fails("T5", 1, &|step| {
        if let Step::Run { retval, .. } = step {
            *retval = 2;
        }
    });
    assert_eq!(text, "T5 on tailcall_3.o, step 2: entry returned 1 instead of 2");
    let text = fails("T5", 2, &|step| {
        if let Step::Var { value, .. } = step {
            *value = 34;
        }
    });
    assert_eq!(text, "T5 on tailcall_3.o, step 3: count is 33 instead of 34");
    let text = fails("M1", 1, &|step| {
        if let Step::Missed { limit, .. } = step {
            *limit = 1;
        }
    });
    let found = "slot 7 of jmp_table missed 100 calls because it was empty and 0 by the limit instead of 100 and 1";
    assert_eq!(text, format!("M1 on accounting.o, step 2: {found}"));
    let text = fails("T3", 0, &|step| {
        if let Step::Clear { error, .. } = step {
            *error = None;
        }
    });
    assert_eq!(text, "T3 on tailcall_1.o, step 1: Err(\"ENOENT\") instead of success");
}

#[test]
fn interpreter_without_verifier() {
    play_all(|scenario, object| play(scenario, object, &mut Bare::load(scenario, object)?));
}

#[test]
fn verifier_decides_as_the_kernel() {
    let scenarios = read_all();
    let verified = scenarios.iter().filter(|scenario| !scenario.unverified);
    let wrong: Vec<String> = verified
        .flat_map(|scenario| scenario.objects.iter().flat_map(|object| wrong_decisions(scenario, object)))
        .collect();
    assert!(wrong.is_empty(), "{} wrong decisions:\n{}", wrong.len(), wrong.join("\n"));
}

fn play_in(choice: impl Into<Choice>) {
    let choice = choice.into();
    play_all(|scenario, object| play(scenario, object, &mut Live::load(choice, scenario, object)?));
}

#[test]
fn interpreter() {
    play_in(Engine::Interp);
}

#[test]
fn patched_jumps() {
    play_in(Engine::Jit);
}

#[test]
fn jumps_through_slots() {
    play_in(Engine::Slot);
}

#[test]
fn jumps_through_slots_by_choice() {
    play_in(Choice { slots: true, ..Engine::Jit.into() });
}

/// Counting changes nothing but what is counted.
#[test]
fn patched_jumps_that_count() {
    play_in(Choice { count_missed: true, ..Engine::Jit.into() });
}

#[test]
fn jumps_through_slots_that_count() {
    play_in(Choice { count_missed: true, ..Engine::Slot.into() });
}
