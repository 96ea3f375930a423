//! Where the measured threads run, and how urgently.
//!
//! Where it is allowed they have real-time priority, so that other processes disturb them less; and threads that a contestant starts on
//! its own (livebpf's reclaimer) have a higher one than those that are measured. Otherwise they would wait until the measurement
//! is over, and what they cost would be missing in it.

use std::io;

use livebpf_kernel_bpf::cpu::{Pin, RealTime};

use crate::error::Error;

/// Of the runner and the updater.
const MEASURED: i32 = 10;
/// Of threads that contestants start.
const STARTED: i32 = 11;

/// The calling thread's priority, which threads that are started from it inherit.
pub fn runtime_threads() -> io::Result<RealTime> {
    RealTime::priority(STARTED)
}

/// Does `work` with the calling thread on `cpu`.
pub fn on<T>(cpu: usize, work: impl FnOnce() -> T) -> Result<T, Error> {
    let _pin = Pin::to(cpu).map_err(|source| Error::Pin { cpu, source })?;
    // Where it is not allowed, the report says so once.
    let _real_time = RealTime::priority(MEASURED);
    Ok(work())
}

/// Does `work` with the calling thread on the second of `cpus`, the one that updates are made on. Where that cannot be had, the figures
/// are as good as the scheduler.
pub fn on_second(cpus: &[usize], mut work: impl FnMut()) {
    let placed = cpus.get(1).is_some_and(|cpu| on(*cpu, &mut work).is_ok());
    if !placed {
        work();
    }
}
