//! One unit of a campaign: a generated program and, where it was accepted, some that differ from it in one thing.

use std::panic::{AssertUnwindSafe, catch_unwind};

use livebpf::link::Program;
use livebpf::verify::claims::Claims;

use super::field::Field;
use super::{Counts, Finding, kernel, kind_of, shrink};
use crate::Source;
use crate::border::{self, Border, tweak};
use crate::dynptrs;
use crate::loops;

/// Programs made from an accepted one.
const CHANGES: u32 = 3;
/// One program of so many is about loops, and one about dynptrs and locks.
const LOOPS: u64 = 8;
/// Refusals whose kind is counted: one of so many.
const COUNTED: u64 = 16;

pub(super) struct Unit<'a> {
    /// Its number, and its seed.
    pub number: u64,
    pub border: &'a Border,
}

impl Unit<'_> {
    /// Makes and checks the programs.
    pub(super) fn check(&self, field: &mut Field, counts: &mut Counts) -> Vec<Finding> {
        let mut source = Source::seeded(self.number.wrapping_mul(0xd6e8_feb8_6659_fd93));
        let maps_of = |prog_type| field.maps(prog_type);
        let mut program = match self.number % LOOPS {
            0 => loops::program(&mut source, &maps_of),
            1 => dynptrs::program(&mut source, &maps_of),
            _ => border::program(&mut source, self.border, &maps_of),
        };
        let mut findings = Vec::new();
        counts.generated += 1;
        let mut accepted = self.one(field, &program, &mut source, counts, &mut findings);
        for _ in 0..CHANGES {
            if !accepted || !findings.is_empty() {
                break;
            }
            let changed = tweak::tweak(&mut source, &program);
            counts.changed += 1;
            if self.one(field, &changed, &mut source, counts, &mut findings) {
                counts.changed_accepted += 1;
                // Changes add up as long as they are accepted.
                program = changed;
            }
            accepted = true;
        }
        findings
    }

    /// Whether `program` is accepted.
    fn one(
        &self,
        field: &mut Field,
        program: &Program,
        source: &mut Source<'_>,
        counts: &mut Counts,
        findings: &mut Vec<Finding>,
    ) -> bool {
        let choices = source.u64();
        let (accepted, wrong) = judge(field, program, choices, counts);
        if let Some(what) = wrong {
            let kind = kind_of(&what);
            let mut still = |smaller: &Program| {
                let (_, wrong) = judge(field, smaller, choices, &mut Counts::default());
                wrong.filter(|what| kind_of(what) == kind)
            };
            let (small, small_what) = shrink::shrink(program, &what, &mut still);
            if what.starts_with(kernel::REFUSES)
                && let Some(why) = kernel::explanation(&small)
            {
                *counts.kernel.explained.entry(why.to_owned()).or_default() += 1;
                return accepted;
            }
            findings.push(Finding { unit: self.number, what, program: program.clone(), small, small_what });
        }
        accepted
    }
}

/// Whether `program` is accepted, and what is wrong with that. `choices` decides about inputs.
fn judge(field: &mut Field, program: &Program, choices: u64, counts: &mut Counts) -> (bool, Option<String>) {
    let judged = catch_unwind(AssertUnwindSafe(|| judge_calmly(field, program, choices, counts)));
    judged.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        (true, Some(format!("a panic: {}", text.unwrap_or_default())))
    })
}

fn judge_calmly(field: &mut Field, program: &Program, choices: u64, counts: &mut Counts) -> (bool, Option<String>) {
    let claims = Claims::keep(false);
    let verdict = field.verify(program, &claims);
    let to_kernel = field.plan.kernel_share > 0 && choices.is_multiple_of(field.plan.kernel_share);
    match verdict {
        Err(rejection) => {
            if choices.is_multiple_of(COUNTED) {
                let kind = format!("{}: {}", rejection.rule.name(), kind_of(&rejection.message));
                *counts.refused.entry(kind).or_default() += COUNTED;
            }
            if to_kernel && let Some(kernel) = &field.kernel {
                kernel.beside_refusal(program, &rejection, &mut counts.kernel);
            }
            (false, None)
        }
        Ok(verified) => {
            counts.accepted += 1;
            let mut source = Source::seeded(choices);
            let mut wrong = field.check(&mut source, verified, &claims, counts).err();
            if wrong.is_none()
                && to_kernel
                && let Some(kernel) = &field.kernel
            {
                wrong = kernel.beside_acceptance(program, &mut counts.kernel);
            }
            (true, wrong)
        }
    }
}
