//! `jit_{1k,10k,60k,1m}`: how long generating code takes, for each instruction, without verification: livebpf's code generator alone, given a
//! verified program and what the runtime would choose; others' compilation of the same program, loaded before the clock starts.
//!
//! The programs are those of `load_*`, without branches. The kernel has no such step of its own: see `load_*`.

use std::time::{Duration, Instant};

use livebpf::helper::Table;
use livebpf::jit::{self, CpuFeatures, Options};
use livebpf::link::Program;
use livebpf::verify::{self, Verified};

use crate::Session;
use crate::contestant::Contestant;
use crate::error::Error;
use crate::lengths::{self, Once};
use crate::report::Measured;
use crate::row::{Row, Wanted};
use crate::sbpf;

pub fn rows() -> Vec<Row> {
    lengths::rows("jit", Wanted::Of(Contestant::Sbpf, 1.0))
}

/// Measures the rows that are wanted.
pub fn measure(session: &mut Session<'_>) -> Vec<Measured> {
    let contestants = session.contestants();
    lengths::measure(session, rows(), contestants, |contestant, program| {
        let generator = Generator::of(contestant, program)?;
        Ok(Box::new(move || generator.compile()) as Once<'_>)
    })
}

/// What compiles the program.
enum Generator<'a> {
    Live(Box<Verified>, Options),
    Sbpf(&'a Program),
}

impl Generator<'_> {
    fn of(contestant: Contestant, program: &Program) -> Result<Generator<'_>, Error> {
        match contestant {
            Contestant::Livebpf => {
                let table = Table::builtin();
                let verified = verify::verify(program.clone(), &verify::Options::new(&table));
                let verified = verified.map_err(|_| Error::Lacks("the verifier refuses it"))?;
                Ok(Generator::Live(Box::new(verified), options()))
            }
            Contestant::Rbpf => Err(Error::Lacks("its code lies in one page, and a longer program's makes it panic")),
            Contestant::Sbpf => Ok(Generator::Sbpf(program)),
            _ => Err(Error::Lacks("it does not generate code on its own")),
        }
    }

    fn compile(&self) -> Result<Duration, Error> {
        match self {
            Generator::Live(verified, options) => {
                let start = Instant::now();
                let code = jit::compile(verified, options).map_err(|error| Error::Peer(error.to_string()))?;
                let took = start.elapsed();
                drop(code);
                Ok(took)
            }
            Generator::Sbpf(program) => sbpf::compile(program),
        }
    }
}

/// What the runtime chooses on this machine.
fn options() -> Options {
    let cpu = CpuFeatures {
        bmi2: std::arch::is_x86_feature_detected!("bmi2"),
        movbe: std::arch::is_x86_feature_detected!("movbe"),
    };
    Options { helpers_near: true, cpu, ..Options::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::programs;

    #[test]
    fn all_that_generate_code_take_the_program() {
        let program = programs::straight(1000);
        for contestant in [Contestant::Livebpf, Contestant::Sbpf] {
            let took = Generator::of(contestant, &program).and_then(|generator| generator.compile());
            assert!(took.expect("a program without anything special") > Duration::ZERO, "{}", contestant.name());
        }
        assert!(Generator::of(Contestant::Rbpf, &program).is_err());
    }

    #[test]
    fn nearly_all_of_the_program_is_of_use() {
        let program = programs::straight(1000);
        let table = livebpf::helper::Table::builtin();
        let verified = livebpf::verify::verify(program, &livebpf::verify::Options::new(&table)).expect("it is sound");
        let code = livebpf::jit::compile(&verified, &Default::default()).expect("it has no calls");
        assert!(code.lines.len() >= 990, "{} of 1000 instructions have code", code.lines.len());
    }
}
