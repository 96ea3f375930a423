//! `run_single`, `run_batch`: one run of a program that does nothing: `r0 = 0; exit`.
//!
//! Single: from outside every time, as a caller does it that has one packet; livebpf enters a read-side section for each. Batch: many
//! in a row. The kernel has one way, its test run, whose loop is part of the figure, as are other contestants' loops.

use crate::contestant::Contestant;
use crate::programs;
use crate::row::Wanted;
use crate::work::{Item, Shape, Task, Work};

pub fn items() -> Vec<Item> {
    let task = |single| Task { work: Work { single, ..empty() }, base: None, per: 1.0 };
    let native = |factor| vec![Wanted::Of(Contestant::Native, factor)];
    vec![
        Item::new("run_single", native(2.5), move || task(true)),
        Item::new("run_batch", native(1.3), move || task(false)),
    ]
}

/// A run of nothing.
pub fn empty() -> Work {
    Work::of(programs::answers("bench_empty", 0), 0).native("empty").plain().shape(Shape::Answer(0))
}
