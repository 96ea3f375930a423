//! The long run of soundness: see docs/soundness.md. `--unit N` checks one unit and prints its first program.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use livebpf_testgen::campaign::{self, Plan};

const USAGE: &str = "usage: soundness [--programs N] [--seed S] [-j THREADS] [--inputs N] [--slips N] [--steps N]
                 [--second SHARE] [--limit N] [--kernel SHARE] [--findings N] [--unit N]

  --programs N    programs to verify (10000)
  --seed S        where to begin (1)
  -j THREADS      threads (1)
  --inputs N      inputs per accepted program (4)
  --slips N       mistakes per thousand opportunities (12)
  --steps N       steps of a main function, at most (12)
  --second SHARE  one accepted program of so many is verified with every number counting, too (1)
  --limit N       instructions that the verifier may look at (1000000)
  --kernel SHARE  one program of so many goes to the kernel as well (0: none); needs bpf(2)
  --findings N    ends after so many findings (10)
  --unit N        only this unit";

fn main() -> ExitCode {
    let mut plan = Plan { progress: Some(Duration::from_secs(10)), ..Plan::default() };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let value = arguments.next().and_then(|value| value.parse::<u64>().ok());
        let Some(value) = value else { return usage() };
        match argument.as_str() {
            "--programs" => plan.programs = value,
            "--seed" => plan.seed = value,
            "-j" => plan.threads = value as u32,
            "--inputs" => plan.inputs = value as u32,
            "--slips" => plan.border.slips = value as u32,
            "--steps" => plan.border.steps = value as u32,
            "--second" => plan.second_share = value,
            "--limit" => plan.limit = value,
            "--kernel" => plan.kernel_share = value,
            "--findings" => plan.most_findings = value as usize,
            "--unit" => (plan.seed, plan.programs) = (value, 1),
            _ => return usage(),
        }
    }
    // Panics are findings; they are printed with the program.
    std::panic::set_hook(Box::new(|_| {}));
    let begin = Instant::now();
    match campaign::run(&plan) {
        Ok((counts, findings)) => {
            let seconds = begin.elapsed().as_secs_f64();
            println!("{plan:?}");
            print!("{counts}");
            println!(
                "{seconds:.0} s, {:.0} programs a second, {} findings",
                counts.programs() as f64 / seconds,
                findings.len()
            );
            if findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(why) => {
            eprintln!("soundness: {why}");
            ExitCode::from(2)
        }
    }
}

fn usage() -> ExitCode {
    eprintln!("{USAGE}");
    ExitCode::from(2)
}
