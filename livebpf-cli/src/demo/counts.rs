//! What the chain counted, and whether it adds up (the equations of assets/demo/README.md).

use livebpf::runtime::{Error, Missed};
use serde_json::{Map, Value, json};

use super::chain::{BACKEND, Chain, STAGES, VERDICTS, word};

/// What one stage counted.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Stage {
    /// Packets that the first version saw.
    pub ran: u64,
    /// Packets that the second version saw.
    pub ran_v2: u64,
    /// Packets that found the slot empty.
    pub missed: u64,
    /// Packets that it refused; for `balance` those that are of no kind to balance.
    pub aside: u64,
}

impl Stage {
    /// Packets that asked for it.
    fn asked(&self) -> u64 {
        self.ran + self.ran_v2 + self.missed
    }
    fn ran_any(&self) -> u64 {
        self.ran + self.ran_v2
    }
}

/// All counts, the CPUs' added up.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Counts {
    pub packets: u64,
    pub malformed: u64,
    pub not_ip: u64,
    /// By verdict.
    pub ended: [u64; 5],
    /// In the order of [`STAGES`], then the backends.
    pub stages: [Stage; STAGES.len() + 1],
    /// Packets recorded in `flows`, and those that found it full.
    pub tracked: u64,
    /// Flows.
    pub flows: u64,
    /// Missed calls that the engine counted, in the order of `stages`: what the programs counted as `missed` by themselves.
    pub engine_missed: [u64; STAGES.len() + 1],
}

impl Counts {
    /// Reads the chain's maps.
    pub fn read(chain: &Chain) -> Result<Counts, Error> {
        let totals = sums(&chain.map("totals")?.read(&[0; 4])?, 8);
        let mut counts = Counts { packets: totals[0], malformed: totals[1], not_ip: totals[2], ..Counts::default() };
        counts.ended.copy_from_slice(&totals[3..8]);
        let stages = chain.map("stage_counts")?;
        for (number, stage) in (0u32..).zip(&mut counts.stages) {
            let sums = sums(&stages.read(&number.to_le_bytes())?, 4);
            *stage = Stage { ran: sums[0], ran_v2: sums[1], missed: sums[2], aside: sums[3] };
        }
        let flows = chain.map("flows")?;
        for key in flows.keys()? {
            counts.tracked += word(&flows.read(&key)?, 0);
            counts.flows += 1;
        }
        counts.tracked += chain.global("flows_full")?;
        let all = |missed: Missed| missed.empty + missed.limit;
        for (slot, missed) in (0..).zip(&mut counts.engine_missed[..BACKEND]) {
            *missed = all(chain.stages.missed(slot));
        }
        counts.engine_missed[BACKEND] = all(chain.backends.missed_total()) + chain.backends.missed_outside();
        Ok(counts)
    }

    /// The equations that do not hold, each with its two sides. `runs`: how often the entry ran.
    pub fn wrong(&self, runs: u64) -> Vec<String> {
        let [acl, conntrack, balance, count, drop, backend] = &self.stages;
        let equations = [
            ("packets = runs", self.packets, runs),
            ("asked(acl) = packets - malformed - not_ip", acl.asked() + self.malformed + self.not_ip, self.packets),
            ("asked(conntrack) = asked(acl) - aside(acl)", conntrack.asked() + acl.aside, acl.asked()),
            (
                "asked(balance) = asked(conntrack) - aside(conntrack)",
                balance.asked() + conntrack.aside,
                conntrack.asked(),
            ),
            ("asked(backend) = ran(balance) - aside(balance)", backend.asked() + balance.aside, balance.ran_any()),
            ("asked(count) = asked(balance) + not_ip", count.asked(), balance.asked() + self.not_ip),
            (
                "asked(drop) = malformed + aside(acl) + aside(conntrack)",
                drop.asked(),
                self.malformed + acl.aside + conntrack.aside,
            ),
            ("sum of the verdicts = packets", self.ended.iter().sum(), self.packets),
            ("ended[drop] = ran(drop)", self.ended[1], drop.ran_any()),
            ("ended[aborted] = missed(drop)", self.ended[0], drop.missed),
            ("ended[tx] = ran(backend)", self.ended[3], backend.ran),
            ("ended[pass] + ended[tx] = asked(count)", self.ended[2] + self.ended[3], count.asked()),
            (
                "packets in flows = ran(conntrack) - aside(conntrack)",
                self.tracked + conntrack.aside,
                conntrack.ran_any(),
            ),
        ];
        let wrong = equations.into_iter().filter(|(_, left, right)| left != right);
        let mut wrong: Vec<String> = wrong
            .map(|(equation, left, right)| format!("the counts do not add up: {equation}: {left} and {right}"))
            .collect();
        for ((name, stage), engine) in self.named().zip(self.engine_missed) {
            if stage.missed != engine {
                let missed = stage.missed;
                wrong
                    .push(format!("{name} was missed {missed} times by its callers' counts, {engine} by the engine's"));
            }
        }
        wrong
    }

    /// The stages with their names, the backends as one.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, &Stage)> {
        STAGES.into_iter().chain(["backend"]).zip(&self.stages)
    }

    /// As JSON: the totals, the verdicts, the stages.
    pub fn json(&self) -> Value {
        let verdicts: Map<String, Value> =
            VERDICTS.iter().zip(self.ended).map(|(name, count)| ((*name).to_owned(), json!(count))).collect();
        let stages: Map<String, Value> = self
            .named()
            .map(|(name, s)| {
                let counts = json!({ "ran": s.ran, "ran_v2": s.ran_v2, "missed": s.missed, "aside": s.aside });
                (name.to_owned(), counts)
            })
            .collect();
        json!({
            "malformed": self.malformed, "not_ip": self.not_ip, "flows": self.flows, "tracked": self.tracked,
            "verdicts": verdicts, "stages": stages,
            "engine_missed": self.engine_missed.iter().sum::<u64>(),
        })
    }
}

/// The words of a value, those of all CPUs added up.
fn sums(value: &[u8], words: usize) -> Vec<u64> {
    let mut sums = vec![0u64; words];
    for (at, sum) in (0..value.len() / 8).zip((0..words).cycle()) {
        sums[sum] = sums[sum].wrapping_add(word(value, at));
    }
    sums
}

const _: () = assert!(BACKEND == STAGES.len());

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_all_cpus_are_added_word_by_word() {
        let value: Vec<u8> = [1u64, 2, 10, 20].iter().flat_map(|w| w.to_le_bytes()).collect();
        assert_eq!(sums(&value, 2), [11, 22]);
    }

    #[test]
    fn a_lost_packet_is_noticed() {
        let stage = |ran| Stage { ran, ..Stage::default() };
        let mut counts = Counts { packets: 10, ended: [0, 0, 10, 0, 0], tracked: 10, ..Counts::default() };
        counts.stages =
            [stage(10), stage(10), Stage { ran: 10, aside: 10, ..Stage::default() }, stage(10), stage(0), stage(0)];
        assert_eq!(counts.wrong(10), Vec::<String>::new());
        counts.stages[1].ran = 9;
        assert!(counts.wrong(10)[0].ends_with("asked(conntrack) = asked(acl) - aside(acl): 9 and 10"));
        assert_eq!(counts.wrong(11).len(), 4);
        counts.engine_missed[4] = 3;
        assert_eq!(counts.wrong(11)[4], "drop was missed 0 times by its callers' counts, 3 by the engine's");
    }
}
