//! Generated programs in all engines: what the verifier accepts runs in the checking interpreter without a fault, and
//! machine code agrees with it; so does the running kernel, where it lets us. `LIVEBPF_GENERATED` sets how many accepted programs
//! there are to be (default 3,000), `LIVEBPF_SEED` where to begin. With `LIVEBPF_TRACE` each seed is printed before it is used.
//! The long run is the command `differential` (see docs/generated-programs.md).

use livebpf_testgen::differential::campaign::{self, Plan, Report};
use livebpf_testgen::differential::kernel::Kernel;
use livebpf_testgen::differential::{Counts, Engines, Wrong};
use livebpf_testgen::probe::{self, Probe};
use livebpf_testgen::{Generator, Source, Suite, single};

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().and_then(|n| n.parse().ok())
}

/// Suites until `share` percent of the wanted programs have been accepted.
fn explore(name: &str, share: u64, wrong: Wrong) -> Counts {
    let wanted = (number("LIVEBPF_GENERATED").unwrap_or(3_000) * share).div_ceil(100);
    let trace = std::env::var_os("LIVEBPF_TRACE").is_some();
    let mut engines = Engines::new().expect("executable memory");
    let mut all = Counts::default();
    let mut seed = number("LIVEBPF_SEED").unwrap_or(1);
    while all.accepted < wanted {
        if trace {
            eprintln!("{name}: seed {seed}");
        }
        match engines.check(&mut Generator::new(seed), wrong) {
            Ok(counts) => all += counts,
            Err(difference) => {
                panic!("LIVEBPF_SEED={seed} LIVEBPF_GENERATED=1 cargo test --test differential {name}: {difference}")
            }
        }
        seed += 1;
    }
    println!("{name}: up to seed {}: {all:?}", seed - 1);
    all
}

#[test]
fn programs_without_mistakes() {
    let all = explore("programs_without_mistakes", 60, Wrong::default());
    assert!(all.accepted > 9 * all.refused, "{all:?}");
    assert!(all.bodies > all.runs && all.updates > 0 && all.missed > 0, "{all:?}");
}

#[test]
fn programs_with_mistakes() {
    let all = explore("programs_with_mistakes", 20, Wrong { mistakes: 15, damage: false });
    assert!(all.refused > 0 && all.incomparable < all.accepted / 3, "{all:?}");
}

#[test]
fn damaged_programs() {
    let all = explore("damaged_programs", 20, Wrong { mistakes: 0, damage: true });
    assert!(all.refused > 0 && all.incomparable < all.accepted / 3, "{all:?}");
}

#[test]
fn every_instruction_on_corner_values() {
    let mut engines = Engines::new().expect("executable memory");
    let cases: Vec<_> = single::cases().collect();
    for (index, together) in cases.chunks(128).enumerate() {
        let suite = Suite::single(single::together(together));
        let result = engines.check_suite(&mut Source::seeded(1), suite);
        let counts = result.unwrap_or_else(|difference| panic!("cases from {}: {difference}", index * 128));
        assert_eq!(counts.refused, 0, "cases from {}: {:?}", index * 128, together[0]);
    }
}

/// All pairs of registers, all alignments, all displacements, all atomic operations.
#[test]
fn every_instruction_with_every_register_and_place() {
    let mut engines = Engines::new().expect("executable memory");
    let check = |engines: &mut Engines, name: &str, probes: Vec<Probe>| {
        for (index, together) in probes.chunks(48).enumerate() {
            let suite = Suite::single(probe::together(together));
            let result = engines.check_suite(&mut Source::seeded(1), suite);
            let counts = result.unwrap_or_else(|difference| panic!("{name} from {}: {difference}", index * 48));
            assert_eq!((counts.accepted, counts.incomparable), (1, 0), "{name} from {}: {:?}", index * 48, together[0]);
        }
    };
    check(&mut engines, "registers", probe::registers());
    check(&mut engines, "accesses", probe::accesses());
    check(&mut engines, "atomics", probe::atomics());
}

fn campaign(plan: &Plan) -> Report {
    let report = campaign::run(plan).expect("executable memory, and the objects");
    let text: Vec<String> = report.findings.iter().map(ToString::to_string).collect();
    assert!(text.is_empty(), "{}\n{report}", text.join("\n"));
    println!("{report}");
    report
}

fn plan(share: u64) -> Plan {
    let programs = number("LIVEBPF_GENERATED").unwrap_or(3_000).div_ceil(share);
    Plan { programs, seed: number("LIVEBPF_SEED").unwrap_or(1), ..Plan::default() }
}

#[test]
fn suites_of_all_kinds() {
    let report = campaign(&plan(1));
    assert!(report.counts.iter().all(|counts| counts.accepted > 0), "{report}");
}

#[test]
fn suites_of_all_kinds_beside_the_kernel() {
    if let Err(why) = Kernel::new() {
        eprintln!("skipped: {why}");
        return;
    }
    let report = campaign(&Plan { kernel_share: 1, threads: 8, ..plan(6) });
    let kernel = &report.kernel;
    assert!(kernel.programs * 10 > report.accepted() * 7 && kernel.runs >= kernel.programs, "{report}");
}
