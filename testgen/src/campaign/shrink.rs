//! Makes a program that shows a mistake as small as it goes: instructions are taken out as long as it still shows it.

use std::time::{Duration, Instant};

use livebpf::insn::{Insn, Pc, Src};
use livebpf::link::Program;

use crate::border::tweak;

/// Attempts, at most, and for how long.
const ATTEMPTS: u32 = 4_000;
const TIME: Duration = Duration::from_secs(10);

/// The smallest program found, and what is wrong with it; `still` says what is wrong with a program, where it is the same.
pub(crate) fn shrink(
    program: &Program,
    what: &str,
    still: &mut dyn FnMut(&Program) -> Option<String>,
) -> (Program, String) {
    let (mut small, mut what) = (program.clone(), what.to_owned());
    let (mut attempts, begin) = (0, Instant::now());
    let mut try_one = |candidate: Program, small: &mut Program, what: &mut String| {
        attempts += 1;
        if attempts > ATTEMPTS || begin.elapsed() > TIME {
            return false;
        }
        let Some(found) = still(&candidate) else { return false };
        (*small, *what) = (candidate, found);
        true
    };
    let mut again = true;
    while again {
        again = false;
        for chunk in [16, 8, 4, 2, 1] {
            let mut at = small.insns.len();
            while at > 0 {
                at -= 1;
                let (from, to) = (Pc(at), Pc((at + chunk).min(small.insns.len())));
                // Whole instructions only.
                let whole =
                    small.insns.get(from).is_some() && (to.0 == small.insns.len() || small.insns.get(to).is_some());
                if let Some(candidate) = whole.then(|| tweak::without(&small, from, to)).flatten() {
                    again |= try_one(candidate, &mut small, &mut what);
                }
            }
        }
        // Simpler operands.
        for at in 0..small.insns.len() {
            let Some(Insn::Mov { width, dst, src: Src::Imm(imm) }) = small.insns.get(Pc(at)) else { continue };
            if imm != 0 {
                let mut candidate = small.clone();
                candidate.insns.replace(Pc(at), Insn::Mov { width, dst, src: Src::Imm(0) });
                again |= try_one(candidate, &mut small, &mut what);
            }
        }
    }
    (small, what)
}
