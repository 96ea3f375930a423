//! Verdicts and results beside the kernel's, over tables of other people's programs that are not part of the project.
//!
//! `LIVEBPF_VERDICTS=part-of-a-name cargo test --test kernel_verdicts -- --nocapture` prints the rows so named only, and
//! every difference in full. Known differences are in tests/data/verdicts/differences.txt, each with its reason.

mod verdicts;

use verdicts::{corpus, differences, objects, selftests, table};

#[test]
fn table_of_raw_programs() {
    let Some(rows) = corpus("test_verifier.json") else { return };
    let (answers, omitted) = table::answers(&rows);
    for row in &omitted {
        println!("left out: {row}");
    }
    differences::check("test_verifier", &answers);
}

#[test]
fn untrusted_programs() {
    let Some(rows) = corpus("test_verifier.json") else { return };
    differences::check("untrusted", &table::untrusted_answers(&rows));
}

#[test]
fn selftest_objects() {
    let Some(rows) = corpus("selftests.json") else { return };
    let Some(folder) = objects::folder() else { return };
    differences::check("selftests", &selftests::answers(&rows, &folder));
}
