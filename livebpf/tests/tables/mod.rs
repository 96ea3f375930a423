//! Suites: what each engine makes of a list of programs, with a time limit for each of them.

pub mod refused;
pub mod suite;

use std::collections::BTreeMap;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use livebpf::runtime::Engine;

use crate::verdicts::ENGINES;

/// Longest time for one program in one engine: far more than any takes, even on a busy machine.
const LIMIT: Duration = Duration::from_secs(120);

/// Known differences: `SUITE ENGINE NAME: reason`; an engine `all` stands for each.
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
                    for i in 0..names.len() {
                        // Nobody listens any more when a program took too long.
                        if send.send(run(i)).is_err() {
                            return;
                        }
                    }
                });
                for name in names {
                    let result = match results.recv_timeout(LIMIT) {
                        Ok(result) => result,
                        // Neither can be ended from here: the whole test process goes.
                        Err(RecvTimeoutError::Timeout) => abort(suite, engine, name, "did not end in time"),
                        Err(RecvTimeoutError::Disconnected) => abort(suite, engine, name, "panicked"),
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
        let entry = |line: &'static str| {
            let (key, why) = line.split_once(": ")?;
            let mut words = key.splitn(3, ' ');
            let fits = words.next() == Some(self.suite)
                && words.next().is_some_and(|e| e == engine || e == "all")
                && words.next() == Some(name);
            fits.then_some(why)
        };
        KNOWN.lines().filter(|line| !line.starts_with('#')).find_map(entry)
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
        for line in KNOWN.lines().filter(|line| line.starts_with(&format!("{} ", self.suite))) {
            let key = line.split_once(": ").map_or(line, |(key, _)| key);
            let words: Vec<&str> = key.splitn(3, ' ').collect();
            let [_, engine, name] = words[..] else { panic!("exceptions.txt: {line}") };
            let found = |e: &Engine| engine == "all" || engine == e.name();
            for e in ENGINES.iter().filter(|e| found(e)) {
                let there = self.failed.contains_key(&(e.name(), name.to_owned()));
                assert!(there, "exceptions.txt: {} agrees in engine {e}: take it out of the list", line);
            }
        }
    }
}

fn abort(suite: &str, engine: Engine, name: &str, what: &str) -> ! {
    eprintln!("{suite} {engine} {name}: {what}");
    std::process::exit(1);
}
