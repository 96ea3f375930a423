//! Programs near the border between safe and unsafe: what the verifier accepts does what the verifier says, in the interpreter
//! and in machine code. `LIVEBPF_SOUND_PROGRAMS` sets how many (default 3,000), `LIVEBPF_SEED` where to begin; the long run is
//! the command `soundness` (see docs/soundness.md).

use livebpf_testgen::campaign::{self, Plan};

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().and_then(|n| n.parse().ok())
}

fn plan() -> Plan {
    let programs = number("LIVEBPF_SOUND_PROGRAMS").unwrap_or(3_000);
    Plan { programs, seed: number("LIVEBPF_SEED").unwrap_or(1), ..Plan::default() }
}

fn check(plan: &Plan) -> campaign::Counts {
    let (counts, findings) = campaign::run(plan).expect("executable memory");
    let text: Vec<String> = findings.iter().map(ToString::to_string).collect();
    assert!(findings.is_empty(), "{}\n{counts}", text.join("\n"));
    counts
}

#[test]
fn what_is_accepted_does_what_is_claimed() {
    let counts = check(&plan());
    println!("{counts}");
    let share = counts.accepted * 100 / counts.programs();
    assert!((30..=70).contains(&share), "{counts}");
    assert!(counts.every_number * 10 > counts.accepted * 9 && counts.runs >= counts.accepted, "{counts}");
}

#[test]
fn what_is_accepted_here_the_kernel_accepts_as_well() {
    if let Err(why) = campaign::kernel::Kernel::new() {
        eprintln!("skipped: {why}");
        return;
    }
    let plan = Plan { programs: plan().programs / 3, seed: 77_000_000, kernel_share: 1, ..plan() };
    let counts = check(&plan);
    println!("{counts}");
    assert!(counts.kernel.both_accept * 3 > counts.programs(), "{counts}");
}
