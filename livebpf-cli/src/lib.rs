//! The `livebpf` command: bpftool's verbs in one process, the demo and the doctor.
//!
//! Exit status: 0 done, 1 refused (the message says why), 2 usage. It is a library so that fuzzing reaches [`commands`]; nobody else
//! is to use it as one.

mod args;
mod batch;
#[cfg(feature = "bench")]
mod bench;
mod bytes;
pub mod commands;
mod demo;
mod doctor;
mod dump;
mod error;
mod map;
mod output;
mod pcap;
mod prog;
mod run;
mod session;
mod verify;
mod words;

use std::process::ExitCode;

use args::{Args, Command, Parsed};
use demo::DemoArgs;
use error::CliError;
use livebpf::runtime::Engine;
use output::Output;
use session::Session;

/// The command: reads the process's arguments and does what they say.
pub fn main() -> ExitCode {
    let args = match args::parse(std::env::args_os()) {
        Parsed::Run(args) => args,
        Parsed::Help(text) => return finish(Output::Text, output::write(&text).map(|()| 0)),
        Parsed::Usage { message, json } => {
            match json {
                Some(output) => output.error(&CliError::usage(message.trim_start_matches("error: ").trim_end())),
                None => output::note(message.trim_end()),
            }
            return ExitCode::from(2);
        }
    };
    let output = Output::new(&args);
    finish(output, execute(&args, output))
}

fn finish(output: Output, result: Result<u8, CliError>) -> ExitCode {
    match result {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            output.error(&error);
            ExitCode::from(error.exit_status())
        }
    }
}

/// Does what the command line says; answers the exit status.
fn execute(args: &Args, output: Output) -> Result<u8, CliError> {
    match &args.command {
        Some(Command::Prog(prog)) => one(args, output, "prog", &prog.all()),
        Some(Command::Map(words)) => one(args, output, "map", &words.words),
        Some(Command::Batch(batch)) => batch::run(args, batch, output),
        Some(Command::Demo(demo)) => demo::run(args.engine.unwrap_or(Engine::Jit), demo, output),
        Some(Command::Doctor(doctor)) => doctor::run(args.engine.unwrap_or(Engine::Jit), doctor, output),
        #[cfg(feature = "bench")]
        Some(Command::Bench(bench)) => bench::run(args.engine.unwrap_or(Engine::Jit), &args.object, bench, output),
        None => demo::run(args.engine.unwrap_or(Engine::Jit), &DemoArgs::default(), output),
    }
}

/// One `prog` or `map` command in a session of its own.
fn one(args: &Args, output: Output, object: &str, words: &[String]) -> Result<u8, CliError> {
    let mut session = Session::new(args)?;
    let answer = session.execute(object, words)?;
    output.answer(&answer)?;
    Ok(answer.status)
}
