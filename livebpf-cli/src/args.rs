//! The command line: options by clap, bpftool's words left to the commands.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};
use livebpf::runtime::Engine;

/// Load, verify, run, inspect and re-link eBPF programs in user space.
#[derive(Parser, Debug)]
#[command(name = "livebpf", version, about, after_help = AFTER)]
pub struct Args {
    /// Print one JSON document.
    #[arg(short, long, global = true)]
    pub json: bool,
    /// Print one JSON document, indented.
    #[arg(short, long, global = true)]
    pub pretty: bool,
    /// How programs are executed: interp (checking interpreter), jit (patched jumps, the default) or slot (jumps through slots).
    #[arg(long, global = true, value_name = "ENGINE")]
    pub engine: Option<Engine>,
    /// Do not count missed tail calls; `map show` and `map dump` show them otherwise.
    #[arg(long, global = true)]
    pub no_count: bool,
    /// Load all programs of this object before the command; may be given several times.
    #[arg(short, long, global = true, value_name = "FILE")]
    pub object: Vec<PathBuf>,
    /// What to do; the demo when nothing is said.
    #[command(subcommand)]
    pub command: Option<Command>,
}

const AFTER: &str = "\
Without a command: the demo. Programs and maps live as long as the command: -o loads objects first, and `batch` runs many commands against one runtime.

  livebpf -o chain.o prog show
  livebpf -o chain.o prog run name parse data_in packet.bin repeat 1000000
  livebpf -o chain.o prog dump jited name parse
  livebpf batch file commands.txt

Exit status: 0 done, 1 refused (the message says why), 2 usage.";

/// What to do.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Programs: load, loadall, show, run, dump xlated, dump jited, verify.
    #[command(after_help = crate::prog::HELP)]
    Prog(ProgWords),
    /// Maps: show, dump, lookup, update, delete.
    #[command(after_help = crate::map::HELP)]
    Map(CommandWords),
    /// Run the commands in a file, one a line, against one runtime.
    #[command(after_help = crate::batch::HELP)]
    Batch(BatchArgs),
    /// Run a chain of programs on all cores while its stages are inserted, replaced and deleted.
    Demo(crate::demo::DemoArgs),
    /// Say what this machine offers, and test that running code can be patched on it.
    Doctor(crate::doctor::DoctorArgs),
    /// Measure livebpf beside the running kernel, in one run.
    #[cfg(feature = "bench")]
    #[command(after_help = crate::bench::HELP)]
    Bench(crate::bench::BenchArgs),
}

/// A command's words, in bpftool's grammar.
#[derive(clap::Args, Debug)]
pub struct CommandWords {
    /// The command, as in bpftool: `show`, `run name PROG data_in FILE`, ...
    #[arg(value_name = "WORD")]
    pub words: Vec<String>,
}

/// The words behind `prog`, and the options of `prog verify`.
#[derive(clap::Args, Debug)]
pub struct ProgWords {
    /// The command, as in bpftool: `show`, `run name PROG data_in FILE`, ...
    #[arg(value_name = "WORD")]
    pub words: Vec<String>,
    /// With `verify`: print every step, in the notation of the kernel's log.
    #[arg(long)]
    pub log: bool,
    /// With `verify`: by the rules for authors who are not trusted.
    #[arg(long)]
    pub untrusted: bool,
    /// With `verify`: take the programs for ones of this type.
    #[arg(long = "type", value_name = "TYPE")]
    pub prog_type: Option<String>,
}

impl ProgWords {
    /// Everything as words, as a batch has them.
    pub fn all(&self) -> Vec<String> {
        let mut words = self.words.clone();
        let option = |set: bool, name: &str| set.then(|| name.to_owned());
        words.extend(option(self.log, "--log"));
        words.extend(option(self.untrusted, "--untrusted"));
        words.extend(self.prog_type.iter().flat_map(|word| ["--type".to_owned(), word.clone()]));
        words
    }
}

/// `batch [--keep-going] file FILE`
#[derive(clap::Args, Debug)]
pub struct BatchArgs {
    /// Go on after a command that was refused; the exit status is 1 all the same.
    #[arg(long)]
    pub keep_going: bool,
    /// The word `file`.
    #[arg(value_name = "file", value_parser = ["file"])]
    pub keyword: String,
    /// The file of commands; `-` reads standard input.
    #[arg(value_name = "FILE")]
    pub file: String,
}

/// A time in seconds, for options.
pub fn seconds(word: &str) -> Result<Duration, String> {
    let seconds = word.parse::<f64>().ok().filter(|s| (0.01..=86_400.0).contains(s));
    seconds.map(Duration::from_secs_f64).ok_or_else(|| "wanted seconds, 0.01 to 86400".to_owned())
}

/// What the command line comes to.
pub enum Parsed {
    /// Something to do.
    Run(Args),
    /// Help or the version was asked for: this text.
    Help(String),
    /// The words are off: why, and whether JSON was asked for.
    Usage {
        /// clap's message.
        message: String,
        /// Indented or not; `None` for plain text.
        json: Option<crate::output::Output>,
    },
}

/// Reads the command line.
pub fn parse(words: impl Iterator<Item = OsString>) -> Parsed {
    let words: Vec<OsString> = words.collect();
    match Args::try_parse_from(&words) {
        Ok(args) => Parsed::Run(args),
        Err(error) if !error.use_stderr() => Parsed::Help(error.to_string()),
        Err(error) => Parsed::Usage { message: error.to_string(), json: json_wanted(&words) },
    }
}

/// Whether a command line that clap refused asks for JSON.
fn json_wanted(words: &[OsString]) -> Option<crate::output::Output> {
    let options = words.iter().skip(1).filter_map(|w| w.to_str()).take_while(|w| *w != "--");
    let mut found = None;
    for word in options {
        let short = word.strip_prefix('-').filter(|w| !w.is_empty() && w.chars().all(|c| "jp".contains(c)));
        if word == "--pretty" || short.is_some_and(|s| s.contains('p')) {
            return Some(crate::output::Output::Pretty);
        }
        if word == "--json" || short.is_some() {
            found = Some(crate::output::Output::Json);
        }
    }
    found
}
