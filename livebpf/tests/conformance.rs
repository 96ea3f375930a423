//! Every engine against the tables of other people's programs, and against encodings that mean nothing.
//!
//! The tables are not part of the project: where they are missing, their tests skip with one line. What differs is in
//! tests/data/conformance/exceptions.txt, each with its reason. docs/conformance.md is written from the results:
//! `LIVEBPF_BLESS=1 cargo test -p livebpf --test conformance`.
#![allow(dead_code, reason = "the folder `verdicts` serves several tests")]

mod tables;
mod verdicts;

use tables::{jit_table, refused, suite, tail_calls};

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
