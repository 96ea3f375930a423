use livebpf::helper::Table;
use livebpf::insn::Pc;
use livebpf::verify::{self, Options};

use super::*;

fn made(seed: u64) -> Program {
    program(&mut Source::seeded(seed), &Border::default(), &maps)
}

#[test]
fn a_seed_gives_one_program() {
    assert_eq!(made(5), made(5));
    assert_ne!(made(5), made(6));
}

#[test]
fn programs_lie_on_both_sides_of_the_border() {
    let helpers = Table::builtin();
    let (mut accepted, mut steady, mut refused) = (0, 0, std::collections::BTreeMap::<String, u32>::new());
    for seed in 0..600 {
        let whole = made(seed);
        match verify::verify(whole.clone(), &Options::new(&helpers)) {
            Ok(_) => {
                accepted += 1;
                let tweaked = tweak::tweak(&mut Source::seeded(seed), &whole);
                steady += u32::from(verify::verify(tweaked, &Options::new(&helpers)).is_ok());
            }
            Err(rejection) => *refused.entry(rejection.to_string()).or_default() += 1,
        }
    }
    assert!((150..480).contains(&accepted), "{accepted} accepted; {refused:#?}");
    assert!(steady * 10 > accepted && steady < accepted, "{steady} of {accepted} tweaked programs accepted");
}

#[test]
fn taking_instructions_out_keeps_jumps_where_they_lead() {
    let mut whole = constant(ProgType::XDP, 3);
    whole.insns = livebpf::insn::text::assemble("r0 = 1\nif r1 == 0 goto +2\nr2 = 5\nr3 = 6\nr0 = 2\nexit").unwrap();
    whole.subprogs[0].end = Pc(6);
    let less = tweak::without(&whole, Pc(2), Pc(3)).unwrap();
    let wanted = livebpf::insn::text::assemble("r0 = 1\nif r1 == 0 goto +1\nr3 = 6\nr0 = 2\nexit").unwrap();
    assert_eq!((less.insns, less.subprogs[0].end), (wanted, Pc(5)));
}
