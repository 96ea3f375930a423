//! The bench command: rows by name, the report's two forms, and what it refuses. No figure is asserted: the tests' machine is busy.
#![cfg(feature = "bench")]

mod common;

use common::{ENGINES, Ran, livebpf};
use serde_json::{Value, json};

/// Names of the rows of a JSON report.
fn rows(ran: &Ran) -> Vec<String> {
    let report = ran.json();
    report.as_array().expect("an array").iter().map(|row| row["row"].as_str().expect("a name").to_owned()).collect()
}

#[track_caller]
fn assert_figures(column: &Value, rounds: u64) {
    let number = |field: &str| column[field].as_f64().unwrap_or_else(|| panic!("no {field}: {column}"));
    assert!(number("min") > 0.0 && number("min") <= number("median"), "{column}");
    assert!(column["rounds"].as_u64().is_some_and(|found| found >= rounds), "{column}");
}

#[test]
fn updates_are_measured_in_every_engine_without_a_kernel() {
    for engine in ENGINES {
        let words = ["-j", "--engine", engine, "bench", "update", "transaction", "--against", "none", "--rounds", "3"];
        let ran = livebpf(&words);
        assert_eq!((ran.status, rows(&ran).len()), (0, 13), "{ran:?}");
        for row in ran.json().as_array().expect("an array") {
            assert_eq!((&row["unit"], &row["ratio"], &row["kernel"]), (&json!("us"), &json!({}), &Value::Null));
            assert_figures(&row["livebpf"], 3);
        }
    }
}

#[test]
fn the_kernel_has_figures_or_a_reason() {
    let ran = livebpf(&["-j", "bench", "update_replace_10", "--rounds", "2"]);
    let report = ran.json();
    assert_eq!((ran.status, rows(&ran)), (0, vec!["update_replace_10".to_owned()]));
    assert!(ran.stderr.contains("update_replace_10\n"), "it says what it is at: {}", ran.stderr);
    let (kernel, ratio) = (&report[0]["kernel"], &report[0]["ratio"]["kernel"]);
    match kernel["why_not"].as_str() {
        Some(why) => assert!(!why.is_empty() && ratio.is_null(), "{report}"),
        None => {
            assert_figures(kernel, 2);
            assert!(ratio.as_f64().is_some_and(|ratio| ratio > 0.0), "{report}");
        }
    }
}

#[test]
fn a_runner_is_measured_under_updates() {
    if std::thread::available_parallelism().map_or(1, |n| n.get()) < 2 {
        eprintln!("skipped: runner and updater need a CPU each");
        return;
    }
    let ran = livebpf(&["-j", "bench", "stall", "--against", "none", "--rounds", "1"]);
    assert_eq!(ran.status, 0, "{ran:?}");
    assert_eq!(rows(&ran), ["stall_asleep", "stall_spin", "stall_replace", "stall_replace_async"]);
    let report = ran.json();
    report.as_array().expect("an array").iter().for_each(|row| assert_figures(&row["livebpf"], 1));
    for row in [2, 3] {
        assert!(report[row]["livebpf"]["updates_per_second"].as_f64().is_some_and(|rate| rate > 0.0), "{report}");
    }
}

#[test]
fn what_is_inside_a_program_is_measured() {
    let ran = livebpf(&["-j", "bench", "run_single", "tail_call_direct_2", "--against", "none", "--rounds", "2"]);
    assert_eq!(
        (ran.status, rows(&ran)),
        (0, vec!["run_single".to_owned(), "tail_call_direct_2".to_owned()]),
        "{ran:?}"
    );
    let report = ran.json();
    assert_figures(&report[0]["livebpf"], 2);
    assert_eq!((&report[1]["unit"], &report[1]["livebpf"]["rounds"]), (&json!("ns"), &json!(2)), "{report}");
}

#[test]
fn loads_of_an_object_are_measured() {
    let object = concat!(env!("CARGO_MANIFEST_DIR"), "/../livebpf/tests/data/scenarios/tailcall_1.o");
    let ran = livebpf(&["-j", "bench", "--object", object, "load_tailcall_1/entry", "load_1k", "--rounds", "2"]);
    assert_eq!(
        (ran.status, rows(&ran)),
        (0, vec!["load_1k".to_owned(), "load_tailcall_1/entry".to_owned()]),
        "{ran:?}"
    );
    ran.json().as_array().expect("an array").iter().for_each(|row| assert_figures(&row["livebpf"], 2));

    let ran = livebpf(&["-j", "bench", "--object", object, "processed", "--against", "none", "--rounds", "1"]);
    let report = ran.json();
    let processed = report.as_array().expect("an array").iter().find(|row| row["row"] == "processed_tailcall_1/entry");
    let row = processed.expect("the entry has a row");
    assert_eq!((&row["unit"], &row["livebpf"]["min"]), (&json!("insns"), &row["livebpf"]["median"]), "{row}");

    for (file, why) in [("no-such-file.o", "No such file"), (file!(), "EM_BPF")] {
        let path = if file == file!() { concat!(env!("CARGO_MANIFEST_DIR"), "/tests/bench.rs") } else { file };
        let ran = livebpf(&["bench", "--object", path]);
        assert!(ran.status != 0 && ran.stderr.contains(path) && ran.stderr.contains(why), "{ran:?}");
    }
}

#[test]
fn code_and_runs_of_objects_are_measured_and_the_rest_is_named() {
    let data = concat!(env!("CARGO_MANIFEST_DIR"), "/../livebpf/tests/data/scenarios/tailcall_1.o");
    let no_object = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/bench.rs");
    let words = [
        "-j",
        "--object",
        data,
        "--object",
        no_object,
        "bench",
        "size",
        "run_tailcall_1/entry",
        "--against",
        "none",
        "--quick",
    ];
    let ran = livebpf(&words);
    let (names, report) = (rows(&ran), ran.json());
    assert_eq!(ran.status, 0, "{ran:?}");
    let row = |name: &str| names.iter().position(|row| row == name).unwrap_or_else(|| panic!("no {name}: {names:?}"));
    assert_figures(&report[row("size_tailcall_1/entry")]["livebpf"], 1);
    assert_figures(&report[row("size_total")]["livebpf"], 1);
    // A difference of minima may be above that of medians.
    assert!(report[row("run_tailcall_1/entry")]["livebpf"]["median"].as_f64().is_some_and(|ns| ns > 0.0), "{report}");
    let left_out = report[row("size_total")]["left_out"].as_array().expect("the file that is no object");
    assert!(left_out.iter().any(|left| left["program"] == "bench" && left["refused_by"] == json!(["livebpf"])));
}

#[test]
fn the_table_ends_with_what_was_wanted() {
    let ran = livebpf(&["bench", "update_replace_1000", "--against", "none", "--rounds", "1"]);
    let lines: Vec<&str> = ran.stdout.lines().collect();
    assert!(ran.status == 0 && lines[0].starts_with("row                  unit  contestant"), "{ran:?}");
    assert!(lines[1].starts_with("update_replace_1000  us "), "{}", ran.stdout);
    let wanted = "at most 0.005 x kernel: not known; at most 3 x update_replace_1: not known";
    assert!(lines[1].ends_with(wanted), "{}", ran.stdout);
}

#[test]
fn a_drawing_is_written() {
    let path = std::env::temp_dir().join(format!("livebpf-plot-{}.svg", std::process::id()));
    let file = path.to_str().expect("a path of this test's");
    let words = ["bench", "load_1k", "load_10k", "load_60k", "--against", "none", "--rounds", "1", "--plot", file];
    let ran = livebpf(&words);
    let svg = std::fs::read_to_string(&path).expect("it was written");
    std::fs::remove_file(&path).expect("it was there");
    assert_eq!(ran.status, 0, "{ran:?}");
    assert!(svg.starts_with("<svg ") && svg.contains("load_N, ns") && svg.contains("<polyline "), "{svg}");
    let nowhere = livebpf(&["bench", "load_1k", "--plot", "/no-such-folder/plot.svg"]);
    assert!(nowhere.status == 1 && nowhere.stderr.contains("/no-such-folder/plot.svg"), "{nowhere:?}");
}

#[test]
fn names_that_stand_for_nothing_are_refused_with_a_list() {
    let ran = livebpf(&["-j", "bench", "update", "tail_cal_"]);
    assert_eq!((ran.status, ran.stderr.as_str()), (2, ""));
    let message = ran.json()["error"].as_str().expect("a message").to_owned();
    assert!(message.starts_with("no row is named \"tail_cal_\"; there is run_single, run_batch, "), "{message}");
    let ran = livebpf(&["bench", "update_insert_1", "--against", "kernel,java"]);
    let message =
        "Error: no contestant is named \"java\"; there is kernel, replay-2020, replay-6.18, rbpf, sbpf, native, none\n";
    assert_eq!((ran.status, ran.stderr.as_str(), ran.stdout.as_str()), (2, message, ""));
    assert_eq!(livebpf(&["bench", "--rounds", "0"]).status, 2);
}
