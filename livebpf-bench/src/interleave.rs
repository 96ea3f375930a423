//! Turns: each contestant runs a short burst of rounds, then the next one does, until all have had enough.
//!
//! That is so when all have had their rounds, or when one has used up its time and none has had less than the least number of
//! rounds. All of them take their turns up to the end: there is never a figure of a time when the other was not measured. A round that
//! fails takes its contestant out, with the reason.

use std::time::{Duration, Instant};

use crate::contestant::Contestant;
use crate::error::Error;

/// How many rounds to run: chosen by the user, applied to each subject's [`Budget`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Effort {
    /// A tenth of everything.
    pub quick: bool,
    /// At most so many rounds of each contestant.
    pub rounds: Option<usize>,
}

/// What a subject allows each contestant.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Budget {
    /// Enough time.
    pub time: Duration,
    /// Enough rounds; the fast one may have more while the other gets its own.
    pub most: usize,
    /// Rounds there must be, however long they take.
    pub least: usize,
}

/// Turns that a budget is divided into.
const TURNS: usize = 10;

impl Budget {
    pub(crate) fn with(self, effort: Effort) -> Budget {
        let mut budget = self;
        if effort.quick {
            budget = Budget { time: self.time / 10, most: self.most.div_ceil(10), least: 1 };
        }
        if let Some(rounds) = effort.rounds {
            budget.most = rounds.max(1);
            budget.least = budget.least.min(budget.most);
        }
        budget
    }
}

/// Something that can be measured round by round.
pub(crate) trait Side {
    /// One round: a sample, or several, for each of the subject's rows that it is about.
    fn round(&mut self, samples: &mut [Vec<f64>]) -> Result<(), Error>;
}

/// A contestant in a subject.
pub(crate) struct Entrant<'a> {
    pub contestant: Contestant,
    /// What is measured, or why it cannot be.
    pub side: Result<Box<dyn Side + 'a>, Error>,
    /// By row of the subject.
    pub samples: Vec<Vec<f64>>,
    rounds: usize,
    spent: Duration,
}

impl<'a> Entrant<'a> {
    pub(crate) fn new(contestant: Contestant, side: Result<Box<dyn Side + 'a>, Error>, rows: usize) -> Entrant<'a> {
        Entrant { contestant, side, samples: vec![Vec::new(); rows], rounds: 0, spent: Duration::ZERO }
    }

    /// At least one round, and not more than its part of the budget.
    fn burst(&mut self, budget: &Budget) {
        let (start, mut rounds) = (Instant::now(), 0);
        let left = if self.rounds < budget.most { budget.most - self.rounds } else { budget.most };
        while rounds < budget.most.div_ceil(TURNS).min(left) {
            let Ok(side) = &mut self.side else { return };
            if let Err(error) = side.round(&mut self.samples) {
                self.side = Err(error);
                return;
            }
            rounds += 1;
            if start.elapsed() >= budget.time / TURNS as u32 {
                break;
            }
        }
        self.rounds += rounds;
        self.spent += start.elapsed();
    }
}

/// Runs all of them, in turn.
pub(crate) fn interleave(entrants: &mut [Entrant<'_>], budget: &Budget) {
    while !is_over(entrants, budget) {
        entrants.iter_mut().for_each(|entrant| entrant.burst(budget));
    }
}

fn is_over(entrants: &[Entrant<'_>], budget: &Budget) -> bool {
    let taking_part = || entrants.iter().filter(|entrant| entrant.side.is_ok());
    taking_part().all(|entrant| entrant.rounds >= budget.least)
        && (taking_part().all(|entrant| entrant.rounds >= budget.most)
            || taking_part().any(|entrant| entrant.spent >= budget.time))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    struct Logs<'a> {
        name: char,
        log: &'a RefCell<String>,
        fails_after: usize,
        takes: Duration,
    }

    impl Side for Logs<'_> {
        fn round(&mut self, samples: &mut [Vec<f64>]) -> Result<(), Error> {
            if self.fails_after == 0 {
                return Err(Error::Lacks("has had it"));
            }
            self.fails_after -= 1;
            std::thread::sleep(self.takes);
            self.log.borrow_mut().push(self.name);
            samples[0].push(1.0);
            Ok(())
        }
    }

    fn run(first: (usize, u64), second: (usize, u64), budget: Budget) -> (String, [usize; 2], [bool; 2]) {
        let log = RefCell::new(String::new());
        let side = |name, (fails_after, millis)| {
            let takes = Duration::from_millis(millis);
            Ok(Box::new(Logs { name, log: &log, fails_after, takes }) as Box<dyn Side>)
        };
        let mut entrants = [
            Entrant::new(Contestant::Livebpf, side('l', first), 1),
            Entrant::new(Contestant::Kernel, side('k', second), 1),
        ];
        interleave(&mut entrants, &budget);
        let rounds = [0, 1].map(|n| entrants[n].samples[0].len());
        let there = [0, 1].map(|n| entrants[n].side.is_ok());
        drop(entrants);
        (log.into_inner(), rounds, there)
    }

    const LONG: Duration = Duration::from_secs(600);
    const ALWAYS: usize = usize::MAX;

    #[test]
    fn contestants_take_turns() {
        let budget = Budget { time: LONG, most: 20, least: 1 };
        assert_eq!(run((ALWAYS, 0), (ALWAYS, 0), budget), ("llkk".repeat(10), [20, 20], [true, true]));
        let three = Budget { time: LONG, most: 3, least: 1 };
        assert_eq!(run((ALWAYS, 0), (ALWAYS, 0), three).0, "lklklk");
    }

    #[test]
    fn the_slow_one_gets_its_least_and_the_fast_one_goes_on_meanwhile() {
        let budget = Budget { time: Duration::ZERO, most: 1000, least: 2 };
        assert_eq!(run((ALWAYS, 0), (ALWAYS, 0), budget).0, "lklk", "one round a turn when there is no time");
        let budget = Budget { time: Duration::from_millis(100), most: 10, least: 2 };
        let (log, [fast, slow], _) = run((ALWAYS, 0), (ALWAYS, 60), budget);
        assert!((slow, fast) == (2, 2) && log == "lklk", "{log}");
    }

    #[test]
    fn who_fails_drops_out_and_the_other_goes_on() {
        let budget = Budget { time: LONG, most: 4, least: 1 };
        assert_eq!(run((ALWAYS, 0), (2, 0), budget), ("lklkll".into(), [4, 2], [true, false]));
        assert_eq!(run((0, 0), (0, 0), budget).2, [false, false]);
    }

    #[test]
    fn effort_scales_the_budget() {
        let budget = Budget { time: Duration::from_secs(3), most: 1000, least: 2 };
        assert_eq!(budget.with(Effort::default()), budget);
        let quick = budget.with(Effort { quick: true, rounds: None });
        assert_eq!(quick, Budget { time: Duration::from_millis(300), most: 100, least: 1 });
        let one = budget.with(Effort { quick: false, rounds: Some(1) });
        assert_eq!((one.most, one.least), (1, 1));
        assert_eq!(budget.with(Effort { quick: false, rounds: Some(50) }).least, 2);
    }
}
