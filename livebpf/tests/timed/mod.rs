//! Tests that take time: how much, and what they say at the end. scripts/stress.sh runs them for long and keeps what they say.
#![allow(dead_code)]

use std::time::{Duration, Instant};

/// How long a timed test takes: `LIVEBPF_STRESS_SECONDS`, or one second.
pub fn stress() -> Duration {
    let seconds = std::env::var("LIVEBPF_STRESS_SECONDS").ok().and_then(|s| s.parse().ok());
    Duration::from_secs_f64(seconds.unwrap_or(1.0))
}

/// Whether a timed test goes on: for `time`, and beyond it until `enough` happened, on a machine that is busy with other things.
pub fn goes_on(begin: Instant, time: Duration, enough: impl FnOnce() -> bool) -> bool {
    let passed = begin.elapsed();
    passed < time || passed < time + Duration::from_secs(60) && !enough()
}

/// What a timed test came to, on one line: `stress: NAME; 60 s; 5 runs; 3 updates`.
pub fn report(name: &str, begin: Instant, counts: &[(&str, u64)]) {
    let counts: String = counts.iter().map(|(what, count)| format!("; {count} {what}")).collect();
    println!("stress: {name}; {:.0} s{counts}", begin.elapsed().as_secs_f64());
}
