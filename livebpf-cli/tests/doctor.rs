//! The doctor: what it says about the machine holds together, and its tests find nothing wrong here.

mod common;

use common::livebpf;
use serde_json::Value;

fn number(json: &Value) -> u64 {
    json.as_u64().unwrap_or_else(|| panic!("no number: {json}"))
}

#[test]
fn both_tests_run_and_find_nothing_wrong() {
    let ran = livebpf(&["-j", "doctor", "--seconds", "0.6"]);
    let report = ran.json();
    assert_eq!((ran.status, &report["ok"]), (0, &Value::Bool(true)), "{report:#}");
    let usable = &report["machine"]["offers"]["membarrier_sync_core"]["usable"];
    assert_eq!(&Value::Bool(report["mode"]["engine"] == "jit"), usable, "{report:#}");

    let rows = report["tests"]["tearing"].as_array().unwrap();
    let aligned: Vec<&Value> = rows.iter().filter(|row| row["aligned"] == true).collect();
    assert_eq!((aligned.len(), rows.len()), (3, 5));
    for row in rows {
        assert!(number(&row["stores"]) > 1000 && number(&row["runs"]) > 1000, "{row}");
        assert_eq!(row["aligned"] == true, number(&row["offset"]).is_multiple_of(4), "{row}");
    }
    assert!(aligned.iter().all(|row| number(&row["torn"]) == 0), "{report:#}");

    let forbidden = &report["tests"]["forbidden_state"];
    assert_eq!(number(&forbidden["wrong"]), 0, "{forbidden}");
    assert!(number(&forbidden["updates"]) > 100 && number(&forbidden["runs"]) > 1000, "{forbidden}");
    assert!(number(&forbidden["runs_between_updates"]) > 0, "{forbidden}");
    assert_eq!(number(&forbidden["sites"]) > 0, usable == &Value::Bool(true), "{forbidden}");
}

#[test]
fn the_mode_that_is_asked_for_is_the_one_that_is_tested() {
    let ran = livebpf(&["--engine", "slot", "doctor", "--seconds", "0.2"]);
    assert_eq!(ran.status, 0, "{ran:?}");
    assert!(ran.stdout.contains("Mode: slot: asked for") && ran.stdout.contains("engine slot: "), "{}", ran.stdout);
    assert!(ran.stdout.ends_with("\nEverything is as it should be.\n"), "{}", ran.stdout);
    for arguments in [["--seconds", "-1"], ["--tearing-at", "64"]] {
        assert_eq!(livebpf(&["doctor", arguments[0], arguments[1]]).status, 2, "{arguments:?}");
    }
}
