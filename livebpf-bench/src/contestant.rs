//! Who is measured.

use livebpf::runtime::Engine;

use crate::error::Error;
use crate::replay::{self, Design};
use crate::sides::{Pair, Runner, Shape};
use crate::work::Work;
use crate::{kernel, live, native, rbpf, sbpf};

/// Of one that is in no subject of runtimes.
pub(crate) const NO_RUNTIME: Error = Error::Lacks("it has nothing that can be changed");

/// One column of a report.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord)]
pub enum Contestant {
    /// This project.
    Livebpf,
    /// The Linux kernel that runs here, through bpf(2).
    Kernel,
    /// The sequences of the mail of July 2020, in user space.
    Replay2020,
    /// The sequences of Linux 6.18, in user space.
    Replay618,
    /// rbpf's code generator.
    Rbpf,
    /// The code generator of Solana's sBPF.
    Sbpf,
    /// The same in C, compiled by `cc -O2`.
    Native,
}

impl Contestant {
    /// Those that livebpf can be measured against.
    pub const OTHERS: [Contestant; 6] = [
        Contestant::Kernel,
        Contestant::Replay2020,
        Contestant::Replay618,
        Contestant::Rbpf,
        Contestant::Sbpf,
        Contestant::Native,
    ];
    /// Those whose slots can be changed while programs run through them, and that load programs as livebpf does.
    pub(crate) const RUNTIMES: [Contestant; 2] = [Contestant::Livebpf, Contestant::Kernel];

    /// The name, as options and reports have it.
    pub fn name(self) -> &'static str {
        match self {
            Contestant::Livebpf => "livebpf",
            Contestant::Kernel => "kernel",
            Contestant::Replay2020 => "replay-2020",
            Contestant::Replay618 => "replay-6.18",
            Contestant::Rbpf => "rbpf",
            Contestant::Sbpf => "sbpf",
            Contestant::Native => "native",
        }
    }

    /// Contestants by their names; `none` stands for nobody.
    ///
    /// # Errors
    /// [`Error::Unknown`], with the names there are.
    pub fn parse(names: &[String]) -> Result<Vec<Contestant>, Error> {
        let mut found = Vec::new();
        for name in names.iter().filter(|name| *name != "none") {
            let one = Contestant::OTHERS.into_iter().find(|c| c.name() == name);
            let known = || Contestant::OTHERS.map(Contestant::name).into_iter().chain(["none"]);
            found.push(one.ok_or_else(|| Error::unknown("contestant", name, known()))?);
        }
        found.sort();
        found.dedup();
        Ok(found)
    }

    /// Programs and slots of `shape`, loaded and ready.
    pub(crate) fn set_up(self, engine: Engine, shape: &Shape) -> Result<Pair, Error> {
        match self {
            Contestant::Livebpf => live::set_up(engine, shape),
            Contestant::Kernel => kernel::set_up(shape),
            _ => Err(NO_RUNTIME),
        }
    }

    /// The programs of `work`, loaded and ready to be run.
    pub(crate) fn prepare(self, engine: Engine, work: &Work) -> Result<Box<dyn Runner>, Error> {
        match self {
            Contestant::Livebpf => live::prepare(engine, work),
            Contestant::Kernel => kernel::prepare(work),
            Contestant::Replay2020 => replay::prepare(Design::Mail2020, work),
            Contestant::Replay618 => replay::prepare(Design::Linux618, work),
            Contestant::Rbpf => rbpf::prepare(work),
            Contestant::Sbpf => sbpf::prepare(work),
            Contestant::Native => native::prepare(work),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_in_any_order_and_once() {
        let parse = |names: &[&str]| Contestant::parse(&names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>());
        assert_eq!(parse(&["kernel", "kernel"]).expect("known"), [Contestant::Kernel]);
        assert_eq!(parse(&["none"]).expect("known"), []);
        let message = parse(&["kernel", "java"]).expect_err("not there").to_string();
        assert_eq!(
            message,
            "no contestant is named \"java\"; there is kernel, replay-2020, replay-6.18, rbpf, sbpf, native, none"
        );
    }
}
