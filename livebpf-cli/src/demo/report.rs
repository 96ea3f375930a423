//! What the demo found, for people and as data.

use std::fmt::Write as _;
use std::time::Duration;

use livebpf::runtime::Engine;
use serde_json::{Map, Value, json};

use super::Ran;
use super::chain::VERDICTS;
use super::counts::Counts;
use super::seen::Checked;
use super::site::{self, Snapshot};
use super::updates::{Kind, Latency};

/// Packets in a time.
#[derive(Debug, Clone, Copy)]
pub struct Rate {
    pub runs: u64,
    pub time: Duration,
}

impl Rate {
    /// Packets a second, of all workers.
    fn per_second(self) -> f64 {
        self.runs as f64 / self.time.as_secs_f64().max(1e-9)
    }

    /// Nanoseconds a packet, of one worker.
    fn nanoseconds(self, workers: u32) -> f64 {
        self.time.as_nanos() as f64 * f64::from(workers) / (self.runs as f64).max(1.0)
    }

    fn json(self, workers: u32) -> Value {
        json!({
            "packets": self.runs,
            "seconds": rounded(self.time.as_secs_f64(), 3),
            "packets_per_second": self.per_second().round() as u64,
            "ns_per_packet": rounded(self.nanoseconds(workers), 1),
        })
    }
}

/// Everything that the demo reports.
pub struct Report {
    pub engine: Engine,
    pub workers: u32,
    /// `None` for the built-in one.
    pub capture_name: Option<String>,
    pub packets_in_capture: usize,
    /// Packets of the capture whose verdicts are checked.
    pub packets_checked: usize,
    /// About the capture.
    pub notes: Vec<String>,
    pub ran: Ran,
    pub counts: Counts,
    pub checked: Checked,
    /// Patched sites that were compared with their slots at the end.
    pub sites: usize,
    pub site: Vec<Snapshot>,
    pub mismatches: u64,
    /// The first few mismatches.
    pub described: Vec<String>,
}

impl Report {
    fn capture(&self) -> &str {
        self.capture_name.as_deref().unwrap_or("built in")
    }

    pub fn json(&self) -> Value {
        let updates: Map<String, Value> =
            Kind::ALL.iter().zip(&self.ran.latencies).map(|(k, l)| (k.name().to_owned(), latency_json(l))).collect();
        let mut json = json!({
            "engine": self.engine.name(),
            "workers": self.workers,
            "capture": { "file": self.capture(), "packets": self.packets_in_capture, "notes": self.notes },
            "packets": self.counts.packets,
            "packets_per_second": self.ran.updated.per_second().round() as u64,
            "ns_per_packet": rounded(self.ran.updated.nanoseconds(self.workers), 1),
            "without_updates": self.ran.quiet.json(self.workers),
            "with_updates": self.ran.updated.json(self.workers),
        });
        // The counts stand beside the packets that they add up to.
        if let (Some(all), Value::Object(counts)) = (json.as_object_mut(), self.counts.json()) {
            all.extend(counts);
        }
        json["updates"] = Value::Object(updates);
        json["checked"] = json!({
            "runs": self.ran.work.checked, "packets_of_capture": self.packets_checked, "trails": self.checked.trails,
            "pairs": self.checked.pairs, "interpreted": self.checked.interpreted, "bytes": self.checked.bytes,
            "sites": self.sites,
        });
        json["site"] = site::json(&self.site);
        json["mismatches"] = json!(self.mismatches);
        json["mismatch"] = json!(self.described);
        json
    }

    pub fn text(&self) -> String {
        let mut text = String::new();
        let _ = writeln!(
            text,
            "{} workers, engine {}, capture {} ({} packets)",
            self.workers,
            self.engine,
            self.capture(),
            grouped(self.packets_in_capture as u64)
        );
        for note in &self.notes {
            let _ = writeln!(text, "  note: {note}");
        }
        text.push('\n');
        if self.site.is_empty() {
            let _ = writeln!(text, "Engine {} has no machine code that is patched.", self.engine);
        } else {
            text += &site::text(&self.site);
        }
        self.rates(&mut text);
        self.stages(&mut text);
        self.updates(&mut text);
        self.verdict(&mut text);
        text
    }

    fn rates(&self, text: &mut String) {
        let _ = writeln!(text, "\nPackets: {} through the whole chain", grouped(self.counts.packets));
        for (what, rate) in [("without updates", self.ran.quiet), ("with updates", self.ran.updated)] {
            let per_second = grouped(rate.per_second().round() as u64);
            let ns = rate.nanoseconds(self.workers);
            let _ = writeln!(text, "  {what:<16} {per_second:>14} packets/s  {ns:>7.1} ns per packet and core");
        }
        let ended: Vec<String> = VERDICTS
            .iter()
            .zip(self.counts.ended)
            .filter(|(_, n)| *n > 0)
            .map(|(v, n)| format!("{v} {}", grouped(n)))
            .collect();
        let _ = writeln!(text, "  verdicts: {}", ended.join(", "));
    }

    fn stages(&self, text: &mut String) {
        let _ = writeln!(text, "\n{:<10} {:>14} {:>14} {:>14} {:>14}", "stage", "ran", "ran v2", "slot empty", "aside");
        for (name, stage) in self.counts.named() {
            let [ran, v2, missed, aside] = [stage.ran, stage.ran_v2, stage.missed, stage.aside].map(grouped);
            let _ = writeln!(text, "{name:<10} {ran:>14} {v2:>14} {missed:>14} {aside:>14}");
        }
        let (malformed, not_ip) = (grouped(self.counts.malformed), grouped(self.counts.not_ip));
        let _ = writeln!(text, "malformed {malformed}, not IP {not_ip}, {} flows", grouped(self.counts.flows));
        let missed = grouped(self.counts.engine_missed.iter().sum());
        let _ = writeln!(text, "missed tail calls by the engine's own counters, compared slot by slot: {missed}");
    }

    fn updates(&self, text: &mut String) {
        let _ =
            writeln!(text, "\n{:<10} {:>14} {:>14} {:>14} {:>14}", "update", "done", "min µs", "median µs", "max µs");
        for (kind, latency) in Kind::ALL.iter().zip(&self.ran.latencies) {
            let [min, median, max] = [latency.min, latency.median, latency.max].map(|ns| ns as f64 / 1000.0);
            let count = grouped(latency.count as u64);
            let _ = writeln!(text, "{:<10} {count:>14} {min:>14.1} {median:>14.1} {max:>14.1}", kind.name());
        }
    }

    fn verdict(&self, text: &mut String) {
        let Checked { pairs, interpreted, bytes, trails } = self.checked;
        let _ = writeln!(
            text,
            "\nChecked: {} runs, which met the stages in {} different ways; the interpreter ran {} of {} pairs of packet and\n\
             way ({} with their bytes); {} patched sites compared with their slots.",
            grouped(self.ran.work.checked),
            grouped(trails),
            grouped(interpreted),
            grouped(pairs),
            grouped(bytes),
            grouped(self.sites as u64)
        );
        if self.packets_checked < self.packets_in_capture {
            let (checked, all) = (grouped(self.packets_checked as u64), grouped(self.packets_in_capture as u64));
            let _ = writeln!(text, "The capture is large: the verdicts of {checked} of its {all} packets are checked.");
        }
        if interpreted < pairs {
            let _ = writeln!(text, "There was no time for the interpreter to run all of them.");
        }
        for mismatch in &self.described {
            let _ = writeln!(text, "  mismatch: {mismatch}");
        }
        match self.mismatches {
            0 => text.push_str("No mismatch.\n"),
            n => _ = writeln!(text, "{} MISMATCHES.", grouped(n)),
        }
    }
}

fn latency_json(latency: &Latency) -> Value {
    json!({
        "count": latency.count,
        "latency_ns": { "min": latency.min, "median": latency.median, "max": latency.max },
    })
}

fn rounded(value: f64, digits: i32) -> f64 {
    let scale = 10f64.powi(digits);
    (value * scale).round() / scale
}

/// `1234567` as `1,234,567`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_by_thousands() {
        let all = [0, 999, 1000, 123_456, 1_234_567].map(grouped);
        assert_eq!(all, ["0", "999", "1,000", "123,456", "1,234,567"]);
    }

    #[test]
    fn a_packet_costs_the_time_of_all_workers() {
        let rate = Rate { runs: 1000, time: Duration::from_micros(100) };
        assert_eq!((rate.per_second().round(), rate.nanoseconds(2)), (1e7, 200.0));
    }
}
