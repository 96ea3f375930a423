//! Every engine against the tables of other people's programs, and against encodings that mean nothing.
//!
//! The tables are not part of the project: where they are missing, their tests skip with one line. What differs is in
//! tests/data/conformance/exceptions.txt, each with its reason. docs/conformance.md is written from the results:
//! `LIVEBPF_BLESS=1 cargo test -p livebpf --test conformance`.
#![allow(dead_code, reason = "the folder `verdicts` serves several tests")]

mod tables;
mod verdicts;

use tables::{refused, suite};

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
