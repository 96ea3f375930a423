//! The long run of the comparison between engines: see docs/generated-programs.md.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use livebpf_testgen::differential::campaign::{self, Plan};

const USAGE: &str =
    "usage: differential [--programs N] [--seed S] [-j THREADS] [--kernel SHARE] [--findings N] [--trace] [--unit N]

  --programs N    accepted programs to run (10000)
  --seed S        the first unit (1)
  -j THREADS      threads (1); beside the kernel all are on CPU 0, and wait for grace periods most of the time
  --kernel SHARE  one round of units of so many runs in the kernel as well (0: none, 1: all); needs bpf(2)
  --findings N    ends after so many differences (10)
  --trace         says each unit before it begins, for runs that end the process
  --unit N        only this unit";

fn main() -> ExitCode {
    let mut plan = Plan { progress: Some(Duration::from_secs(10)), ..Plan::default() };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        if argument == "--trace" {
            plan.trace = true;
            continue;
        }
        let Some(value) = arguments.next().and_then(|value| value.parse::<u64>().ok()) else { return usage() };
        match argument.as_str() {
            "--programs" => plan.programs = value,
            "--seed" => plan.seed = value,
            "-j" => plan.threads = value as u32,
            "--kernel" => plan.kernel_share = value,
            "--findings" => plan.most = value as usize,
            "--unit" => (plan.seed, plan.units) = (value, 1),
            _ => return usage(),
        }
    }
    // Panics are differences; they are printed with the unit.
    std::panic::set_hook(Box::new(|_| {}));
    let begin = Instant::now();
    match campaign::run(&plan) {
        Ok(report) => {
            let (seconds, accepted) = (begin.elapsed().as_secs_f64(), report.accepted());
            println!("{plan:?}");
            print!("{report}");
            let rate = accepted as f64 / seconds;
            println!("{seconds:.0} s, {accepted} programs, {rate:.0} a second, {} differences", report.findings.len());
            if report.findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(why) => {
            eprintln!("differential: {why}");
            ExitCode::from(2)
        }
    }
}

fn usage() -> ExitCode {
    eprintln!("{USAGE}");
    ExitCode::from(2)
}
