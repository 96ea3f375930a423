//! A campaign notices what it is there for: claims of one program do not fit the runs of another.

use livebpf::insn::{Pc, text};
use livebpf::object::{ProgType, ProgramKind};
use livebpf::verify::claims::Claims;

use super::*;
use crate::Source;

/// A program that loads a number from the map of one element, does `then` with it in R7 and uses it.
fn made(field: &Field, then: &str) -> Program {
    let source = format!(
        "r0 = 0\nr7 = map[idx:0][0]+0\nr7 = *(u64 *)(r7 + 0)\n{then}\nr1 = map[idx:0][0]+0\nr1 += r7\nr0 = *(u8 *)(r1 + 0)\nout:\nexit"
    );
    let insns = text::assemble(&source).unwrap();
    let bare = Program::bare("border", ProgramKind::new(ProgType::XDP), insns);
    Program { maps: field.maps(ProgType::XDP), ..bare }
}

/// What comes out when `run` runs and what is claimed is what was claimed of `claimed`, from any of some seeds.
fn noticed(claimed: &str, run: &str) -> Option<String> {
    let mut field = Field::new(&Plan { inputs: 8, ..Plan::default() }).unwrap();
    let (other, claims) = (made(&field, claimed), Claims::keep(true));
    field.verify(&other, &claims).expect("accepted");
    let program = made(&field, run);
    (0..20).find_map(|seed| {
        let verified = field.verify(&program, &Claims::keep(true)).expect("accepted");
        field.check(&mut Source::seeded(seed), verified, &claims, &mut Counts::default()).err()
    })
}

#[test]
fn true_claims_hold() {
    for then in ["r7 &= 31", "if r7 > 31 goto out", "r7 >>= 59", "w7 = w7\nif w7 s> 31 goto out\nif w7 s< 0 goto out"] {
        assert_eq!(noticed(then, then), None);
    }
}

#[test]
fn claims_that_are_too_narrow_are_noticed() {
    let pairs = [
        ("r7 &= 15", "r7 &= 31"),
        ("r7 &= 30", "r7 &= 31"),
        ("if r7 > 30 goto out", "if r7 > 31 goto out"),
        ("r7 >>= 60", "r7 >>= 59"),
        ("if r7 > 31 goto out", "if r7 >= 33 goto out"),
    ];
    for (claimed, run) in pairs {
        let what = noticed(claimed, run).unwrap_or_else(|| panic!("{run} was taken for {claimed}"));
        assert!(what.contains("do not hold"), "{what}");
    }
}

#[test]
fn copies_that_are_not_equal_are_noticed() {
    let what =
        noticed("r7 &= 31\nr8 = r7\nr8 += 1\nif r8 > 7 goto out", "r7 &= 31\nr8 = r7\nr8 += 2\nif r8 > 7 goto out");
    assert!(what.is_some_and(|what| what.contains("do not hold")));
}

#[test]
fn a_mistake_is_made_small() {
    // As if every program with a certain instruction were wrong.
    let field = Field::new(&Plan::default()).unwrap();
    let whole = crate::border::program(&mut Source::seeded(11), &Border::default(), &|t| field.maps(t));
    let wanted = whole.insns.iter().last().map(|(_, insn)| insn).unwrap();
    let mut still =
        |program: &Program| program.insns.iter().any(|(_, insn)| insn == wanted).then(|| "still wrong".to_owned());
    let (small, what) = shrink::shrink(&whole, "wrong", &mut still);
    assert_eq!((small.insns.len(), what.as_str()), (1, "still wrong"));
    assert_eq!(small.insns.get(Pc(0)), Some(wanted));
}

#[test]
fn numbers_do_not_tell_messages_apart() {
    assert_eq!(kind_of("R4 is 0x1f at 12\nmore"), kind_of("R5 is 0xff at 7"));
    assert_ne!(kind_of("R4 is unknown"), kind_of("R4 is known"));
}

#[test]
fn loops_do_what_was_claimed() {
    let mut field = Field::new(&Plan::default()).unwrap();
    let (mut accepted, mut counts, programs) = (0, Counts::default(), 600);
    for seed in 0..programs {
        let mut source = Source::seeded(seed);
        let made = crate::loops::program(&mut source, &|prog_type| field.maps(prog_type));
        let claims = Claims::keep(false);
        let Ok(verified) = field.verify(&made, &claims) else { continue };
        accepted += 1;
        if let Err(what) = field.check(&mut source, verified, &claims, &mut counts) {
            panic!("seed {seed}: {what}\n{:#?}", made.insns);
        }
    }
    assert!(accepted > programs / 4, "{accepted} of {programs} accepted");
    assert!(accepted < programs, "nothing is refused");
}
