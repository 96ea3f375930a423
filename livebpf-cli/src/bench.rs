//! `bench`: livebpf beside the running kernel and others, row by row, in one run. The rows and how they are measured are the bench crate's.

use std::path::{Path, PathBuf};

use livebpf::runtime::Engine;
use livebpf_bench::{Contestant, Effort, Error, Options, Row, Subject};

use crate::error::CliError;
use crate::output::{self, Answer, Output};

pub const HELP: &str = "\
ROW is the name of a row or the beginning of several; without any, all are measured, which takes some minutes. Rows:

  run_single, run_batch                                 a run of a program that does nothing, one alone or many in a row
  tail_call_direct_N, tail_call_indirect_33             one hop of a chain of N + 1 programs (2, 4, 8, 16, 33)
  tail_call_direct_self, tail_call_indirect_self        one hop of a program into itself
  tail_call_slope                                       how evenly hops cost: from 16 to 33 over from 2 to 16, or vice versa
  scaling_2_threads                                     a run beside another thread's, as a multiple of one alone
  empty_slot_direct, empty_slot_indirect                a tail call through an empty slot
  subprogram_call, _leaf, subprogram_tail_call          a function's call and return; of a tiny one; with a tail call in it
  ktime_get_ns, smp_processor_id, prandom_u32           a call of a helper; helper_call: of a function of the embedder's
  lookup_T, map_update_T, map_refill_hash               a lookup, an update, an element removed and put back, by type of map
  map_push_pop_T, ring_output, ring_reserve             a queue's or stack's element in and out; a record of a ring buffer
  xorshift, lcg, divmod                                 a round of a computation
  fletcher32_1500, csum16_1500, csum32_1500, fnv1a_1500 a sum over 1500 bytes of a packet
  update_insert_N, update_replace_N, update_delete_N    one update of a slot that N direct tail calls go through (1, 10, 100, 1000)
  stall_asleep, stall_spin,                             a run while an updater sleeps, spins,
  stall_replace, stall_replace_async                    replaces the program that is run through, and does so asynchronously
  load_1k, load_10k, load_60k, load_1m                  a load (verification, compilation, publication), for each instruction
  jit_1k, jit_10k, jit_60k, jit_1m                      generating code alone, for each instruction
  transaction_64x1000                                   64 slots that 1000 tail calls go through, changed at once; others: one by one

  livebpf bench update_replace_100
  livebpf bench update stall -j
  livebpf bench --quick --against none
  livebpf bench --object prog.o      its programs: load_OBJECT/PROGRAM, processed_ (instructions verified), size_ (bytes of code), run_
  livebpf -o a.o -o b.o bench size run     with size_total and run_total over all programs that both sides load
  livebpf -o a.o -o b.o bench all          these totals, and every row above

Contestants take turns in one run, and only its ratios count; the report says who was not measured and why. What surrounds the measured thing
is taken off: minimum from minimum, median from median. Spread is the distance of the quartiles over the median. With -j: an array, an object
a row, with row, unit, an object for each contestant (min, median, spread, rounds, or why_not), ratio and wanted.

  kernel    the running one, by BPF_PROG_TEST_RUN, minus the empty run: needs root
  replay-2020, replay-6.18   the kernel's sequences for tail calls and calls of functions, of the mail of July 2020 and of Linux 6.18, in user
            space and without what guards against bugs of the CPU
  rbpf      its code generator, on memory: neither maps nor tail calls
  sbpf      Solana's code generator, as configured by default: the same
  native    the same in C, by `cc -O2`";

/// `bench [ROW...] [--against NAME,...] [--rounds N] [--quick] [--plot FILE]`
#[derive(clap::Args, Debug, Clone)]
pub struct BenchArgs {
    /// Rows to measure.
    #[arg(value_name = "ROW")]
    pub rows: Vec<String>,
    /// Who to measure besides livebpf: kernel, replay-2020, replay-6.18, rbpf, sbpf, native, or none; without it all that can be had.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub against: Option<Vec<String>>,
    /// At most so many rounds of each contestant.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub rounds: Option<u32>,
    /// A tenth of the rounds, and of the time.
    #[arg(long)]
    pub quick: bool,
    /// Draw the ratios, and figures over sizes, into this file.
    #[arg(long, value_name = "FILE.svg")]
    pub plot: Option<PathBuf>,
}

/// Measures and prints, with rows for the programs of `objects`; answers the exit status: 1 when livebpf itself could not be measured in every row.
pub fn run(engine: Engine, objects: &[PathBuf], args: &BenchArgs, output: Output) -> Result<u8, CliError> {
    let objects = Subject::all_of(objects)?;
    let options = Options {
        rows: Row::select(&args.rows, &objects)?,
        objects,
        against: match &args.against {
            Some(names) => Contestant::parse(names)?,
            None => Contestant::OTHERS.to_vec(),
        },
        engine,
        effort: Effort { quick: args.quick, rounds: args.rounds.map(|rounds| rounds as usize) },
    };
    if let Some(path) = &args.plot {
        // Before minutes are spent on what cannot be written.
        write(path, "")?;
    }
    let report = livebpf_bench::run(&options, &mut |line| output::note(line));
    if let Some(path) = &args.plot {
        write(path, &report.svg())?;
    }
    output.answer(&Answer::new(report.json(), report.text()))?;
    Ok(u8::from(!report.is_complete()))
}

fn write(path: &Path, text: &str) -> Result<(), CliError> {
    std::fs::write(path, text).map_err(|error| CliError::io(&path.display().to_string(), &error))
}

impl From<Error> for CliError {
    fn from(error: Error) -> CliError {
        match error {
            Error::Unknown { .. } => CliError::usage(error.to_string()),
            _ => CliError::refused(error.to_string()),
        }
    }
}
