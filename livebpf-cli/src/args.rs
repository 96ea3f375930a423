//! The command line: options by clap, bpftool's words left to the commands.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Parser, Subcommand};
use livebpf::runtime::Engine;

/// Load, verify, run, inspect and re-link eBPF programs in user space.
#[derive(Parser, Debug)]
#[command(name = "livebpf", version, about, after_help = AFTER)]
struct Cli {
    /// Print one JSON document.
    #[arg(short, long, global = true)]
    json: bool,
    /// Print one JSON document, indented.
    #[arg(short, long, global = true)]
    pretty: bool,
    /// How programs are executed: interp, jit (patched jumps) or slot (jumps through slots).
    #[arg(long, global = true, value_name = "ENGINE")]
    engine: Option<Engine>,
    /// Load all programs of this object before the command; may be given several times.
    #[arg(short, long, global = true, value_name = "FILE")]
    object: Vec<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

const AFTER: &str = "\
Everything lives as long as the command: `batch` runs many commands against one runtime, and -o loads objects first.

  livebpf                                        the demo
  livebpf -o chain.o prog run name parse data_in packet.bin
  livebpf -o chain.o prog dump jited name parse
  livebpf batch file commands.txt

Exit status: 0 done, 1 refused, 2 usage.";

/// What to do.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Programs: load, loadall, show, run, dump xlated, dump jited.
    #[command(after_help = crate::prog::HELP)]
    Prog(Words),
    /// Maps: show, dump, lookup, update, delete.
    #[command(after_help = crate::map::HELP)]
    Map(Words),
    /// Run the commands in a file, one a line, against one runtime.
    #[command(after_help = crate::batch::HELP)]
    Batch(BatchArgs),
}

/// A command's words, in bpftool's grammar.
#[derive(clap::Args, Debug)]
pub struct Words {
    /// The command, as in bpftool: `show`, `run name PROG data_in FILE`, ...
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "WORD")]
    pub words: Vec<String>,
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
