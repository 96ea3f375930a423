//! `livebpf-conformance`: one program, one block of memory, R0. The plugin that the public bpf_conformance suite calls.
//!
//! Programs are loaded through the runtime's unverified door, as the suite's are made for execution and not for a verifier. So this
//! is for its tests and for code that one trusts: in the machine code engines a program can do whatever this process can.
//!
//! Exit status: 0 and R0 in hex on standard output; 1 refused or stopped (why is on standard error); 2 usage. It never
//! panics and never runs on: after `--timeout` seconds it ends by itself.

use std::io::{Read as _, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use livebpf::insn::Insns;
use livebpf::link::Program;
use livebpf::object::{Object, ProgType, ProgramKind};
use livebpf::runtime::{Ebpf, Engine, LoadOptions, Runtime};

/// Run one BPF program on one block of memory and print R0: the plugin for the bpf_conformance suite.
#[derive(Parser, Debug)]
#[command(name = "livebpf-conformance", version, after_help = AFTER)]
struct Args {
    /// The memory, bytes in hex: R1 points to it, R2 is its length. Both are 0 without it.
    #[arg(value_name = "MEMORY")]
    memory: Vec<String>,
    /// The program, in hex, instead of on standard input.
    #[arg(long, value_name = "HEX")]
    program: Option<String>,
    /// The program is an ELF object (in hex): its first XDP program is run, else its first, else what is in `.text`.
    #[arg(long)]
    elf: bool,
    /// How it is executed: interp (checking interpreter), jit (patched jumps) or slot (jumps through slots).
    #[arg(long, value_name = "ENGINE", default_value = "jit")]
    engine: Engine,
    /// End with an error after so many seconds.
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    timeout: Duration,
    /// Print the program to standard error first.
    #[arg(long)]
    debug: bool,
}

const AFTER: &str = "\
The bytes are pairs of hexadecimal digits, with or without spaces between them.

  echo 'b7 00 00 00 2a 00 00 00  95 00 00 00 00 00 00 00' | livebpf-conformance
  echo '71 10 01 00 00 00 00 00  95 00 00 00 00 00 00 00' | livebpf-conformance '11 22 33' --engine interp
  bpf_conformance_runner --test_file_directory tests --plugin_path livebpf-conformance --plugin_options '--engine slot'

The program is not verified: only its shape is checked (encoding, jumps, calls, endings). With jit and slot it can read and write
any memory of this process; with interp every access is checked.

Exit status: 0 and R0 in hex on standard output, 1 refused (the message says why), 2 usage.";

fn seconds(word: &str) -> Result<Duration, String> {
    let seconds = word.parse::<f64>().ok().filter(|s| (0.01..=3600.0).contains(s));
    seconds.map(Duration::from_secs_f64).ok_or_else(|| "wanted seconds, 0.01 to 3600".to_owned())
}

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            let status = if error.use_stderr() { 2 } else { 0 };
            // Nobody is left to tell where this fails.
            let _ = error.print();
            return ExitCode::from(status);
        }
    };
    watch(args.timeout);
    let r0 = run(&args).and_then(|r0| {
        writeln!(std::io::stdout().lock(), "{r0:x}").map_err(|e| Refused::Program(format!("standard output: {e}")))
    });
    match r0 {
        Ok(()) => ExitCode::SUCCESS,
        Err(refused) => {
            let (status, message) = match refused {
                Refused::Usage(message) => (2, message),
                Refused::Program(message) => (1, message),
            };
            let _ = writeln!(std::io::stderr().lock(), "Error: {message}");
            ExitCode::from(status)
        }
    }
}

/// Why there is no result.
enum Refused {
    Usage(String),
    Program(String),
}

/// Ends the process after `limit`: generated code cannot be interrupted from inside.
fn watch(limit: Duration) {
    std::thread::spawn(move || {
        std::thread::sleep(limit);
        let text = format!("Error: stopped after {limit:?}: the program did not end (--timeout gives it longer)\n");
        let _ = std::io::stderr().write_all(text.as_bytes());
        std::process::exit(1);
    });
}

fn run(args: &Args) -> Result<u64, Refused> {
    let refused = |message: String| Refused::Program(message);
    // The suite passes empty arguments where it has nothing to say.
    let given: Vec<&String> = args.memory.iter().filter(|word| !word.trim().is_empty()).collect();
    if let Some(extra) = given.get(1) {
        return Err(Refused::Usage(format!("found {extra:?} behind the memory, wanted one block of bytes in hex")));
    }
    let memory = given.first().map_or(Ok(Vec::new()), |text| bytes("memory", text));
    let mut memory = memory.map_err(Refused::Usage)?;
    let text = match &args.program {
        Some(text) => text.clone(),
        None => standard_input().map_err(refused)?,
    };
    let program = bytes("program", &text).map_err(refused)?;

    let runtime = Runtime::builder().engine(args.engine).report_traps(args.engine != Engine::Interp).build();
    let runtime = runtime.map_err(|e| refused(e.to_string()))?;
    let loaded = if args.elf { load_elf(&runtime, &program, args.debug) } else { load(&runtime, &program, args.debug) };
    let (ebpf, name) = loaded.map_err(refused)?;
    let program = ebpf.program(&name).ok_or_else(|| refused(format!("program {name} was not loaded")))?;
    let mut worker = runtime.worker().map_err(|e| refused(e.to_string()))?;
    // SAFETY: nobody can vouch for the program but the user, who has asked for just this; --help says so.
    unsafe { worker.run_unverified(program, &mut memory) }.map_err(|e| refused(e.to_string()))
}

fn standard_input() -> Result<String, String> {
    let mut text = Vec::new();
    std::io::stdin().lock().read_to_end(&mut text).map_err(|e| format!("standard input: {e}"))?;
    String::from_utf8(text).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        format!("program: byte {at} of standard input is no text, wanted hexadecimal digits")
    })
}

/// Pairs of hexadecimal digits, with or without spaces between them.
fn bytes(what: &str, text: &str) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::with_capacity(text.len() / 2);
    for word in text.split_whitespace() {
        if let Some(wrong) = word.chars().find(|c| !c.is_ascii_hexdigit()) {
            return Err(format!("{what}: found {wrong:?} behind {} bytes, wanted hexadecimal digits", bytes.len()));
        }
        if word.len() % 2 != 0 {
            let shown: String = word.chars().rev().take(8).collect::<Vec<_>>().into_iter().rev().collect();
            let found = bytes.len() + word.len() / 2;
            return Err(format!(
                "{what}: found half a byte at the end of \"{shown}\" (byte {found}), wanted pairs of digits"
            ));
        }
        // All digits, in pairs: nothing is left out.
        bytes.extend((0..word.len()).step_by(2).filter_map(|at| u8::from_str_radix(word.get(at..at + 2)?, 16).ok()));
    }
    Ok(bytes)
}

const NAME: &str = "main";

/// Loads instructions as they stand.
fn load(runtime: &Runtime, code: &[u8], debug: bool) -> Result<(Ebpf, String), String> {
    if code.is_empty() {
        return Err("program: found no bytes, wanted instructions of 8 bytes each, in hex".to_owned());
    }
    let insns = Insns::decode(code).map_err(|e| format!("program: {e}"))?;
    if debug {
        let lines: String = insns.iter().map(|(pc, insn)| format!("{pc}: {insn}\n")).collect();
        // What nobody reads is not missed.
        let _ = std::io::stderr().lock().write_all(lines.as_bytes());
    }
    let program = Program::from_insns(NAME, ProgramKind::new(ProgType::XDP), insns);
    // SAFETY: the user vouches for the program; --help says so.
    let ebpf = unsafe { runtime.load_linked_unverified(vec![program]) }.map_err(|e| e.to_string())?;
    Ok((ebpf, NAME.to_owned()))
}

/// Loads a program of an object. The suite's own objects have neither relocations nor, perhaps, a section that says a type.
fn load_elf(runtime: &Runtime, bytes: &[u8], debug: bool) -> Result<(Ebpf, String), String> {
    let object = Object::parse(bytes).map_err(|e| e.to_string())?;
    let xdp = object.programs().find(|p| p.kind.is_some_and(|kind| kind.prog_type == ProgType::XDP));
    let chosen = xdp.or_else(|| object.programs().next());
    let section = chosen.as_ref().map_or(".text", |program| program.section.as_str());
    if let Some(code) = object.plain_code(section).filter(|_| object.maps().is_empty()) {
        return load(runtime, code, debug);
    }
    let Some(program) = chosen else {
        return Err("the object has no program: found no section with a program type and no code in .text".to_owned());
    };
    let options = LoadOptions::default().programs([program.name.clone()]);
    // SAFETY: as in `load`.
    let ebpf = unsafe { runtime.load_unverified(&object, &options) }.map_err(|e| e.to_string())?;
    Ok((ebpf, program.name))
}
