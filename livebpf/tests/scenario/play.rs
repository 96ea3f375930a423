//! Plays a scenario on something that runs programs, and compares.

use std::path::Path;

use super::format::{Scenario, Step};

/// Something that has loaded one object.
pub trait Bench {
    /// Names of the programs.
    fn programs(&self) -> Vec<String>;
    /// Puts a program into a slot. The error is the kernel's name for it.
    fn set(&mut self, array: &str, index: u32, program: &str) -> Result<(), String>;
    /// Empties a slot. The error is the kernel's name for it.
    fn clear(&mut self, array: &str, index: u32) -> Result<(), String>;
    /// Runs a program `times` in each of `threads` threads; what each run returned.
    fn run(&self, program: &str, packet: &[u8], times: u32, threads: u32) -> Result<Vec<u32>, String>;
    /// A map's value as users read it; for a per-CPU map the values of all CPUs.
    fn lookup(&self, map: &str, key: &[u8]) -> Result<Vec<u8>, String>;
    /// Sets it.
    fn update(&mut self, map: &str, key: &[u8], value: &[u8]) -> Result<(), String>;
    /// All keys of a map.
    fn keys(&self, map: &str) -> Result<Vec<Vec<u8>>, String>;
    /// Tail calls through a slot that were missed: because it was empty, and by the limit.
    fn missed(&self, array: &str, index: u32) -> Result<(u64, u64), String>;
    /// Tail calls that were missed because the index is past the end.
    fn missed_outside(&self, array: &str) -> Result<u64, String>;
    /// The bytes of a global variable.
    fn read(&self, variable: &str) -> Result<Vec<u8>, String>;
    /// Writes them.
    fn write(&mut self, variable: &str, bytes: &[u8]) -> Result<(), String>;
}

/// Plays the steps; the number of things compared, or what went wrong.
pub fn play(scenario: &Scenario, object: &Path, bench: &mut dyn Bench) -> Result<usize, String> {
    let mut compared = 0;
    for (position, step) in scenario.steps.iter().enumerate() {
        compared += play_step(scenario, step, bench).map_err(|error| {
            let file = object.file_name().unwrap_or_default().to_string_lossy().into_owned();
            format!("{} on {file}, step {}: {error}", scenario.name, position + 1)
        })?;
    }
    Ok(compared)
}

fn play_step(scenario: &Scenario, step: &Step, bench: &mut dyn Bench) -> Result<usize, String> {
    match step {
        Step::Set { array, index, program, error } => outcome(bench.set(array, *index, program), error.as_deref()),
        Step::Clear { array, index, error } => outcome(bench.clear(array, *index), error.as_deref()),
        Step::Run { program, retval, times, threads } => {
            let results = bench.run(program, &scenario.packet, *times, *threads)?;
            let runs = (*times * *threads) as usize;
            if results.len() != runs {
                return Err(format!("{program} ran {} times instead of {runs}", results.len()));
            }
            match results.iter().find(|result| *result != retval) {
                Some(result) => Err(format!("{program} returned {result} instead of {retval}")),
                None => Ok(runs),
            }
        }
        Step::RunEach { prefix, programs, retval } => {
            let names: Vec<String> = bench.programs().into_iter().filter(|name| name.starts_with(prefix)).collect();
            if names.len() != *programs {
                return Err(format!("{} programs are called {prefix}*, not {programs}", names.len()));
            }
            for name in &names {
                let results = bench.run(name, &scenario.packet, 1, 1)?;
                if results != [*retval] {
                    return Err(format!("{name} returned {results:?} instead of {retval}"));
                }
            }
            Ok(names.len())
        }
        Step::Var { name, value } => match number(&bench.read(name)?) {
            found if found == *value => Ok(1),
            found => Err(format!("{name} is {found} instead of {value}")),
        },
        Step::NotAddress { name } => match number(&bench.read(name)?) {
            found if (1 << 32..1 << 47).contains(&found) => Err(format!("{name} is {found:#x}, an address")),
            _ => Ok(1),
        },
        Step::SetVar { name, value } => {
            let size = bench.read(name)?.len();
            let mut bytes = value.to_le_bytes().to_vec();
            bytes.resize(size, 0);
            bench.write(name, &bytes)?;
            Ok(0)
        }
        Step::Missed { array, index, empty, limit } => match bench.missed(array, *index)? {
            found if found == (*empty, *limit) => Ok(1),
            (e, l) => {
                let found = format!("missed {e} calls because it was empty and {l} by the limit");
                Err(format!("slot {index} of {array} {found} instead of {empty} and {limit}"))
            }
        },
        Step::MissedOutside { array, value } => match bench.missed_outside(array)? {
            found if found == *value => Ok(1),
            found => Err(format!("{array} missed {found} calls past its end instead of {value}")),
        },
        Step::Refuse { .. } => Err("a refusal in a scenario that is loaded".to_owned()),
    }
}

fn outcome(result: Result<(), String>, wanted: Option<&str>) -> Result<usize, String> {
    match (result, wanted) {
        (Ok(()), None) => Ok(0),
        (Err(found), Some(wanted)) if found == wanted => Ok(1),
        (found, wanted) => Err(format!("{found:?} instead of {}", wanted.unwrap_or("success"))),
    }
}

fn number(bytes: &[u8]) -> u64 {
    let mut word = [0; 8];
    let length = bytes.len().min(8);
    word[..length].copy_from_slice(&bytes[..length]);
    u64::from_le_bytes(word)
}
