//! One runtime and everything loaded into it, found by name or by number.
//!
//! A session lives as long as the process: one command, or all commands of a batch. A command that is refused has
//! changed nothing in it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use livebpf::cbpf::{CbpfError, Filter};
use livebpf::object::Object;
use livebpf::runtime::{Ebpf, Engine, LoadOptions, MapHandle, Program, Runtime, TraceLog, Worker};

use crate::args::Args;
use crate::error::CliError;
use crate::output::{self, Answer};
use crate::words::Words;
use crate::{map, prog};

/// A runtime and what was loaded into it, in the order of loading.
pub struct Session {
    runtime: Runtime,
    worker: Option<Worker>,
    loaded: Vec<Ebpf>,
}

/// `trace_printk` goes to standard error: standard output is for answers.
struct Stderr;

impl TraceLog for Stderr {
    fn line(&self, cpu: u32, text: &str) {
        output::note(&format!("[{cpu:03}] {text}"));
    }
}

impl Session {
    /// A runtime as the options say, with the objects of `-o` in it.
    pub fn new(args: &Args) -> Result<Session, CliError> {
        let engine = args.engine.unwrap_or(Engine::Jit);
        let builder = Runtime::builder().engine(engine).count_missed(!args.no_count);
        let runtime = builder.trace_log(Stderr).build()?;
        if let Some(why) = runtime.no_patching() {
            let used = runtime.engine();
            output::note(&format!("Note: engine {engine} is not available here ({why}), {used} is used"));
        }
        let mut session = Session { runtime, worker: None, loaded: Vec::new() };
        for path in &args.object {
            session.load(path, |_| Ok(LoadOptions::default()))?;
        }
        Ok(session)
    }

    /// Gives everything back; returns when that is done.
    pub fn close(self) -> Result<(), CliError> {
        let Session { runtime, worker, loaded } = self;
        drop((worker, loaded));
        Ok(runtime.barrier()?)
    }

    /// Carries out one `prog` or `map` command.
    pub fn execute(&mut self, object: &str, words: &[String]) -> Result<Answer, CliError> {
        let mut words = Words::new(words);
        match object {
            "prog" => prog::execute(self, &mut words),
            "map" => map::execute(self, &mut words),
            other => Err(CliError::usage(format!("found {other:?} where `prog` or `map` is wanted"))),
        }
    }

    /// Loads an object file; `options` sees the parsed object.
    pub fn load(
        &mut self,
        path: &Path,
        options: impl FnOnce(&Object) -> Result<LoadOptions, CliError>,
    ) -> Result<&Ebpf, CliError> {
        let name = path.display();
        let located = |error: CliError| match error {
            CliError::Refused(message) => CliError::Refused(format!("{name}: {message}")),
            CliError::Usage(message) => CliError::Usage(message),
        };
        let bytes = std::fs::read(path).map_err(|e| CliError::io(&name.to_string(), &e))?;
        let object = Object::parse(&bytes).map_err(|e| located(CliError::refused(e.to_string())))?;
        let options = options(&object).map_err(located)?;
        let ebpf = self.runtime.load_with(&object, &options).map_err(|e| located(e.into()))?;
        self.loaded.push(ebpf);
        Ok(self.loaded.last().expect("just pushed"))
    }

    /// Loads a classic filter as `tcpdump -ddd` writes it, `-` from standard input, as a socket filter called `name`.
    pub fn load_classic(&mut self, path: &str, name: Option<&str>) -> Result<&Ebpf, CliError> {
        let located = |message: String| CliError::refused(format!("{path}: {message}"));
        let bytes = crate::run::read(path)?;
        let text = String::from_utf8(bytes).map_err(|e| {
            let at = e.utf8_error().valid_up_to();
            located(format!("byte {at} is no text, wanted the decimal numbers of tcpdump -ddd"))
        })?;
        let filter = Filter::parse(&text).map_err(|e| located(format!("{e}{}", form(&e))))?;
        let stem = Path::new(path).file_stem().and_then(|stem| stem.to_str()).filter(|stem| *stem != "-");
        let program = filter.translate(name.or(stem).unwrap_or("cbpf"));
        let ebpf = self.runtime.load_linked(vec![program]).map_err(|e| located(e.to_string()))?;
        self.loaded.push(ebpf);
        Ok(self.loaded.last().expect("just pushed"))
    }

    /// The worker that runs this session's programs.
    pub fn worker(&mut self) -> Result<&mut Worker, CliError> {
        if self.worker.is_none() {
            self.worker = Some(self.runtime.worker()?);
        }
        Ok(self.worker.as_mut().expect("just made"))
    }

    /// Why tail calls read their slots, where that is the system's choice.
    pub fn no_patching(&self) -> Option<&str> {
        self.runtime.no_patching()
    }

    /// How many values an element of a per-CPU map has.
    pub fn cpus(&self) -> u32 {
        self.runtime.cpus()
    }

    /// All programs, by number.
    pub fn programs(&self) -> impl Iterator<Item = &Program> {
        self.loaded.iter().flat_map(Ebpf::programs)
    }

    /// All maps, by number; one that several objects share is there once.
    pub fn maps(&self) -> impl Iterator<Item = &MapHandle> {
        let by_id: BTreeMap<u32, &MapHandle> = self.loaded.iter().flat_map(Ebpf::maps).map(|m| (m.id(), m)).collect();
        by_id.into_values()
    }

    /// Takes `id N` or `name N`; answers all programs that fit.
    pub fn take_programs(&self, words: &mut Words<'_>) -> Result<Vec<Program>, CliError> {
        let all = self.programs().map(|p| (p.id(), p.name(), p));
        select(words, "program", all).map(|found| found.into_iter().cloned().collect())
    }

    /// As [`take_program`](Self::take_program); or takes `cbpf FILE`, and loads that.
    pub fn take_program_or_filter(&mut self, words: &mut Words<'_>) -> Result<Program, CliError> {
        if words.accept("cbpf") {
            let path = words.take("a file that tcpdump -ddd wrote")?;
            let loaded = self.load_classic(path, None)?;
            return Ok(loaded.programs().next().expect("one was loaded").clone());
        }
        self.take_program(words)
    }

    /// Takes `id N` or `name N`; answers the one program that fits.
    pub fn take_program(&self, words: &mut Words<'_>) -> Result<Program, CliError> {
        only(self.take_programs(words)?, "program", |p| (p.id(), p.name()))
    }

    /// Takes `id N` or `name N`; answers all maps that fit.
    pub fn take_maps(&self, words: &mut Words<'_>) -> Result<Vec<MapHandle>, CliError> {
        let all = self.maps().map(|m| (m.id(), m.name(), m));
        select(words, "map", all).map(|found| found.into_iter().cloned().collect())
    }

    /// Takes `id N` or `name N`; answers the one map that fits.
    pub fn take_map(&self, words: &mut Words<'_>) -> Result<MapHandle, CliError> {
        only(self.take_maps(words)?, "map", |m| (m.id(), m.name()))
    }

    /// The program numbered `id`.
    pub fn program(&self, id: u32) -> Option<&Program> {
        self.programs().find(|p| p.id() == id)
    }
}

/// What to do about a file that is no filter, where it looks like something else.
fn form(error: &CbpfError) -> &'static str {
    match error {
        CbpfError::Line { .. } => ": make the file with tcpdump -ddd, three times d",
        _ => "",
    }
}

/// Takes `id N` or `name N` and answers what fits, at least one.
fn select<'a, T>(
    words: &mut Words<'_>,
    kind: &str,
    all: impl Iterator<Item = (u32, &'a str, T)>,
) -> Result<Vec<T>, CliError> {
    let wanted = format!("`id` or `name` of a {kind}");
    match words.take(&wanted)? {
        "id" => {
            let wanted = words.number("a number")?;
            let found: Vec<T> = all.filter(|(id, ..)| u64::from(*id) == wanted).map(|(.., item)| item).collect();
            if found.is_empty() {
                return Err(CliError::refused(format!("no {kind} has the id {wanted} (ENOENT)")));
            }
            Ok(found)
        }
        "name" => {
            let wanted = words.take(&format!("the name of a {kind}"))?;
            let (mut found, mut known) = (Vec::new(), String::new());
            for (_, name, item) in all {
                if name == wanted {
                    found.push(item);
                }
                let comma = if known.is_empty() { "" } else { ", " };
                // Writing to a string cannot fail.
                let _ = write!(known, "{comma}{name}");
            }
            if found.is_empty() {
                let known = if known.is_empty() { "none is loaded".to_owned() } else { format!("there is {known}") };
                return Err(CliError::refused(format!("no {kind} is named {wanted:?}; {known}")));
            }
            Ok(found)
        }
        found @ ("tag" | "pinned") => {
            Err(CliError::usage(format!("a {kind} is named by `id` or `name` here, `{found}` does not exist")))
        }
        found => Err(CliError::usage(format!("found {found:?} where {wanted} is wanted"))),
    }
}

/// The only item, or an error that lists the numbers to choose from.
fn only<T>(mut found: Vec<T>, kind: &str, describe: impl Fn(&T) -> (u32, &str)) -> Result<T, CliError> {
    if found.len() > 1 {
        let ids: Vec<String> = found.iter().map(|item| describe(item).0.to_string()).collect();
        let name = describe(&found[0]).1;
        let message = format!("{} {kind}s are named {name:?}: use `id` with one of {}", found.len(), ids.join(", "));
        return Err(CliError::refused(message));
    }
    Ok(found.pop().expect("`select` finds at least one"))
}
