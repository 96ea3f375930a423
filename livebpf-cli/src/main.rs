//! The `livebpf` command: bpftool's verbs in one process, the demo and the doctor.
//!
//! Exit status: 0 done, 1 refused (the message says why), 2 usage.

mod args;
mod batch;
mod bytes;
mod dump;
mod error;
mod map;
mod output;
mod prog;
mod session;
mod words;

use std::process::ExitCode;

use args::{Args, Command, Parsed};
use error::CliError;
use output::{Answer, Output};
use session::Session;

fn main() -> ExitCode {
    let args = match args::parse(std::env::args_os()) {
        Parsed::Run(args) => args,
        Parsed::Done(text, code) => {
            output::print_raw(&text, code != 0);
            return ExitCode::from(code);
        }
    };
    let output = Output::new(&args);
    match run(&args, &output) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            output.error(&error);
            ExitCode::from(error.exit_status())
        }
    }
}

fn run(args: &Args, output: &Output) -> Result<u8, CliError> {
    match &args.command {
        Command::Prog(words) | Command::Map(words) => {
            let mut session = Session::new(args.engine())?;
            for object in &args.object {
                session.load_file(object)?;
            }
            let verb = if matches!(args.command, Command::Prog(_)) { "prog" } else { "map" };
            let answer = session.execute(verb, words)?;
            output.answer(&answer)?;
            Ok(0)
        }
        Command::Batch(batch) => batch::run(args, batch, output),
    }
}

impl Session {
    /// Carries out one `prog` or `map` command.
    fn execute(&mut self, verb: &str, words: &[String]) -> Result<Answer, CliError> {
        match verb {
            "prog" => prog::execute(self, words),
            "map" => map::execute(self, words),
            other => Err(CliError::usage(format!("unknown object {other:?}, wanted prog or map"))),
        }
    }
}
