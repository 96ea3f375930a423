//! Generated programs in all engines: what the verifier accepts runs in the checking interpreter without a fault, and
//! machine code agrees with it. `LIVEBPF_GENERATED` sets how many accepted programs there are to be (default 3,000),
//! `LIVEBPF_SEED` where to begin. With `LIVEBPF_TRACE` each seed is printed before it is used.

use livebpf_testgen::differential::{Counts, Engines, Wrong};
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
