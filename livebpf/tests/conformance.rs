//! Every engine against the tables of other people's programs, and against encodings that mean nothing.
//!
//! The tables are not part of the project: where they are missing, their tests skip with one line. What differs is in
//! tests/data/conformance/exceptions.txt, each with its reason. docs/conformance.md is written from the results:
//! `LIVEBPF_BLESS=1 cargo test -p livebpf --test conformance`.
#![allow(dead_code, reason = "the folder `verdicts` serves several tests")]

mod tables;
mod verdicts;

use tables::{jit_table, page, refused, suite, tail_calls, test_run};

#[test]
fn the_public_suite() {
    if let Some(results) = suite::results() {
        results.check();
    }
}

#[test]
fn encodings_that_mean_nothing() {
    refused::results().check();
}

#[test]
fn the_kernels_jit_tests() {
    if let Some(results) = jit_table::internal() {
        results.check();
    }
}

#[test]
fn the_kernels_jit_tests_of_classic_filters() {
    if let Some(results) = jit_table::classic() {
        results.check();
    }
}

#[test]
fn the_kernels_tail_call_tests() {
    if let Some(results) = tail_calls::results() {
        results.check();
    }
}

#[test]
fn selftests_on_packets() {
    if let Some(results) = test_run::results() {
        results.check();
    }
}

#[test]
fn the_page_is_current() {
    let tables =
        [suite::results(), jit_table::internal(), jit_table::classic(), tail_calls::results(), test_run::results()];
    let Some(tables) = tables.into_iter().collect::<Option<Vec<_>>>() else {
        println!("skipped: docs/conformance.md is compared where all tables are");
        return;
    };
    let (first, rest) = tables.split_first().expect("tables");
    page::check(&[&[*first, refused::results()], rest].concat());
}
