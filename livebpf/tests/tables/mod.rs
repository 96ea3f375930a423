//! Suites: what each engine makes of a list of programs, with a time limit for each of them.

pub mod jit_table;
pub mod page;
pub mod refused;
pub mod suite;
pub mod tail_calls;
pub mod test_run;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use livebpf::runtime::Engine;

use crate::verdicts::ENGINES;

/// Longest time for one program in one engine: far more than any takes, even on a busy machine.
const LIMIT: Duration = Duration::from_secs(120);

/// Known differences: `SUITE ENGINE NAME: reason`; an engine `all` stands for each, and `skip` for what is not even compared.
const KNOWN: &str = include_str!("../data/conformance/exceptions.txt");

/// What one suite came to.
pub struct Results {
    pub suite: &'static str,
    /// What it is, in a few words.
    pub about: &'static str,
    /// How many programs it has.
    pub total: usize,
    /// The programs that failed, each with what was found and what was wanted.
    pub failed: BTreeMap<(&'static str, String), String>,
}

impl Results {
    /// Runs programs by number in every engine, each engine in a thread of its own. `open` makes what runs them.
    pub fn take<R>(
        suite: &'static str,
        about: &'static str,
        names: &[String],
        open: impl Fn(Engine) -> R + Sync,
    ) -> Results
    where
        R: FnMut(usize) -> Result<(), String>,
    {
        let mut failed = BTreeMap::new();
        std::thread::scope(|scope| {
            let open = &open;
            for engine in ENGINES {
                let (send, results) = channel();
                scope.spawn(move || {
                    let mut run = open(engine);
                    for (i, name) in names.iter().enumerate() {
                        let result = match skips(suite, name) {
                            true => Ok(Err("not compared".to_owned())),
                            false => catch_unwind(AssertUnwindSafe(|| run(i))),
                        };
                        // Nobody listens any more when a program took too long.
                        if send.send(result.unwrap_or_else(|_| Err("a panic".to_owned()))).is_err() {
                            return;
                        }
                    }
                });
                for name in names {
                    let result = match results.recv_timeout(LIMIT) {
                        Ok(result) => result,
                        // It cannot be ended from here: the whole test process goes.
                        Err(RecvTimeoutError::Timeout) => abort(suite, engine, name, "did not end in time"),
                        Err(RecvTimeoutError::Disconnected) => Err("nothing: the engine did not start".to_owned()),
                    };
                    if let Err(text) = result {
                        failed.insert((engine.name(), name.clone()), text);
                    }
                }
            }
        });
        Results { suite, about, total: names.len(), failed }
    }

    /// The reason why `name` may fail.
    pub fn reason(&self, engine: &str, name: &str) -> Option<&'static str> {
        let keys = [engine, "all", "skip"].map(|engine| format!("{} {engine} {name}: ", self.suite));
        self.lines().find_map(|line| keys.iter().find_map(|key| line.strip_prefix(key.as_str())))
    }

    /// The known differences of this suite.
    fn lines(&self) -> impl Iterator<Item = &'static str> {
        KNOWN.lines().filter(|line| line.split(' ').next() == Some(self.suite))
    }

    /// How many programs passed in `engine`.
    pub fn passed(&self, engine: Engine) -> usize {
        self.total - self.failed.keys().filter(|(name, _)| *name == engine.name()).count()
    }

    /// Fails for differences without a reason and for reasons without a difference.
    pub fn check(&self) {
        for engine in ENGINES {
            println!("{}: {engine} {} of {}", self.suite, self.passed(engine), self.total);
        }
        let unknown = self.failed.iter().filter(|((engine, name), _)| self.reason(engine, name).is_none());
        let unknown: Vec<String> =
            unknown.map(|((e, name), text)| format!("{} {e} {name}: {text}", self.suite)).collect();
        assert!(unknown.is_empty(), "{} differences without a reason:\n{}", unknown.len(), unknown.join("\n"));
        for line in self.lines() {
            let listed = |(engine, name): &(&str, String)| {
                let starts = |engine: &str| line.starts_with(&format!("{} {engine} {name}: ", self.suite));
                starts(engine) || starts("all") || starts("skip")
            };
            let found = self.failed.keys().filter(|key| listed(key)).count();
            let wanted = if matches!(line.split(' ').nth(1), Some("all" | "skip")) { ENGINES.len() } else { 1 };
            assert_eq!(found, wanted, "exceptions.txt: no difference in some engine: {line}");
        }
    }
}

/// Whether the results of a program depend on where things lie.
fn skips(suite: &str, name: &str) -> bool {
    let key = format!("{suite} skip {name}: ");
    KNOWN.lines().any(|line| line.starts_with(&key))
}

fn abort(suite: &str, engine: Engine, name: &str, what: &str) -> ! {
    // Past the test harness, which would keep it.
    let _ = writeln!(std::io::stderr(), "{suite} {engine} {name}: {what}");
    std::process::exit(1);
}
