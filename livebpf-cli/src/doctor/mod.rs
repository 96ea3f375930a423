//! What this machine offers, which mode follows from it, and whether live patching works on it: tried, not assumed.
//!
//! Two tests. *Tearing*: an aligned 32-bit store to a jump that other cores execute must never be seen in part. *Forbidden
//! state*: while slots are filled and emptied, a run may see a slot's program or fall through, and nothing else. Exit
//! status 1 when a test saw a wrong result.

mod forbidden;
mod machine;
mod tearing;

use std::fmt::Write as _;
use std::time::Duration;

use livebpf::runtime::{Engine, Runtime};
use serde_json::{Value, json};

use crate::error::CliError;
use crate::output::{Answer, Output};
use forbidden::Forbidden;
use machine::Machine;
use tearing::Row;

/// `doctor [--seconds N]`
#[derive(clap::Args, Debug, Clone)]
pub struct DoctorArgs {
    /// How long each of the tests takes.
    #[arg(long, value_name = "N", default_value = "2", value_parser = crate::args::seconds)]
    pub seconds: Duration,
    /// The part of the tearing test that runs in a process of its own: where in the line the field begins.
    #[arg(long, hide = true, value_parser = clap::value_parser!(u32).range(0..64))]
    pub tearing_at: Option<u32>,
}

/// Which engine programs get, and why.
struct Mode {
    /// `None` where no code can be placed at all.
    engine: Option<Engine>,
    why: String,
}

/// Examines the machine and prints what was found; answers the exit status.
pub fn run(engine: Engine, args: &DoctorArgs, output: Output) -> Result<u8, CliError> {
    if let Some(offset) = args.tearing_at {
        return tearing::child(args.seconds, offset);
    }
    let machine = Machine::examine();
    let mode = mode(engine);
    let rows = if machine.offers.two_views.is_none() { tearing::run(args.seconds) } else { Vec::new() };
    let forbidden = mode.engine.map(|engine| forbidden::run(engine, args.seconds)).transpose()?;
    let wrong = rows.iter().any(Row::is_wrong) || forbidden.as_ref().is_some_and(|f| f.wrong > 0);
    let answer = Answer::new(
        json(&machine, &mode, &rows, forbidden.as_ref(), wrong),
        text(&machine, &mode, &rows, forbidden.as_ref(), wrong),
    );
    output.answer(&answer)?;
    Ok(u8::from(wrong || mode.engine.is_none()))
}

/// Asks a runtime which engine it takes.
fn mode(wanted: Engine) -> Mode {
    let runtime = match Runtime::builder().engine(wanted).build() {
        Ok(runtime) => runtime,
        Err(error) => return Mode { engine: None, why: error.to_string() },
    };
    let why = match (runtime.engine(), runtime.no_patching()) {
        (_, Some(why)) => format!("running code cannot be patched: {why}"),
        (Engine::Jit, None) => {
            "running code can be patched: tail calls through known slots are direct jumps".to_owned()
        }
        (Engine::Slot | Engine::Interp, None) => "asked for".to_owned(),
    };
    Mode { engine: Some(runtime.engine()), why }
}

fn json(machine: &Machine, mode: &Mode, rows: &[Row], forbidden: Option<&Forbidden>, wrong: bool) -> Value {
    json!({
        "machine": machine.json(),
        "mode": { "engine": mode.engine.map(Engine::name), "why": mode.why },
        "tests": {
            "tearing": rows.iter().map(Row::json).collect::<Vec<_>>(),
            "forbidden_state": forbidden.map(Forbidden::json),
        },
        "ok": !wrong && mode.engine.is_some(),
    })
}

fn text(machine: &Machine, mode: &Mode, rows: &[Row], forbidden: Option<&Forbidden>, wrong: bool) -> String {
    let mut text = machine.text();
    let engine = mode.engine.map_or("none", Engine::name);
    let _ = writeln!(text, "\nMode: {engine}: {}", mode.why);
    text += "\nTearing: one thread stores to a jump that the others execute\n";
    for row in rows {
        let _ = writeln!(text, "  {}", row.text());
    }
    if let Some(forbidden) = forbidden {
        text += "\nForbidden state: slots are filled and emptied while runs pass through them\n";
        for line in forbidden.text() {
            let _ = writeln!(text, "  {line}");
        }
    }
    text += match (mode.engine, wrong) {
        (None, _) => "\nlivebpf cannot run programs on this machine.\n",
        (Some(_), true) => {
            "\nWRONG RESULTS: do not patch running code on this machine (use --engine slot), and please report this.\n"
        }
        (Some(_), false) => "\nEverything is as it should be.\n",
    };
    text
}
