//! The machine: its kernel, its processor, and what the system lets us do.

use std::fmt::Write as _;

use livebpf::text::selftest;
use serde_json::{Map, Value, json};

/// What is known about it.
pub struct Machine {
    kernel: String,
    cpu: String,
    cpus: usize,
    /// Features that the code generator makes use of.
    features: [(&'static str, bool); 2],
    /// What the system offers.
    pub offers: selftest::Machine,
}

impl Machine {
    /// Looks around.
    pub fn examine() -> Machine {
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease");
        Machine {
            kernel: kernel.map_or_else(|_| "unknown".to_owned(), |release| release.trim().to_owned()),
            cpu: cpu(&cpuinfo),
            cpus: std::thread::available_parallelism().map_or(1, |n| n.get()),
            features: [
                ("bmi2", std::arch::is_x86_feature_detected!("bmi2")),
                ("movbe", std::arch::is_x86_feature_detected!("movbe")),
            ],
            offers: selftest::machine(),
        }
    }

    /// What the system offers: name, what for, and why not.
    fn offered(&self) -> [(&'static str, &'static str, &Option<String>); 3] {
        [
            ("membarrier_sync_core", "membarrier SYNC_CORE", &self.offers.core_sync),
            ("dual_mapping", "memory in two views", &self.offers.two_views),
            ("bpf", "bpf() (not needed)", &self.offers.bpf),
        ]
    }

    pub fn json(&self) -> Value {
        let mut json = json!({ "kernel": self.kernel, "cpu": self.cpu, "cpus": self.cpus });
        json["features"] = Value::Object(self.features.iter().map(|(n, has)| ((*n).to_owned(), json!(has))).collect());
        let offers: Map<String, Value> = self
            .offered()
            .into_iter()
            .map(|(name, _, refusal)| (name.to_owned(), json!({ "usable": refusal.is_none(), "why_not": refusal })))
            .collect();
        json["offers"] = Value::Object(offers);
        json
    }

    pub fn text(&self) -> String {
        let mut text = String::new();
        let yes = |has: bool| if has { "yes" } else { "no" };
        let features: Vec<_> = self.features.iter().map(|(name, has)| format!("{name} {}", yes(*has))).collect();
        let _ = writeln!(text, "kernel                {}", self.kernel);
        let _ = writeln!(text, "processor             {}; {} may be used", self.cpu, self.cpus);
        let _ = writeln!(text, "features              {}", features.join(", "));
        for (_, what, refusal) in self.offered() {
            let answer = refusal.as_ref().map_or_else(|| "yes".to_owned(), |why| format!("no: {why}"));
            let _ = writeln!(text, "{what:<21} {answer}");
        }
        text
    }
}

/// The first processor of /proc/cpuinfo in a few words.
fn cpu(cpuinfo: &str) -> String {
    let field = |name: &str| {
        let mut fields = cpuinfo.lines().filter_map(|line| line.split_once(':'));
        fields.find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim())
    };
    let Some(model) = field("model name") else { return "unknown".to_owned() };
    let [family, number, stepping] = ["cpu family", "model", "stepping"].map(|name| field(name).unwrap_or("?"));
    format!("{model} (family {family}, model {number}, stepping {stepping})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_processor_is_described() {
        let info = "processor\t: 0\ncpu family\t: 25\nmodel\t\t: 1\nmodel name\t: X 9\nstepping\t: 2\n\nmodel\t: 7\n";
        assert_eq!(cpu(info), "X 9 (family 25, model 1, stepping 2)");
        assert_eq!(cpu(""), "unknown");
    }
}
