//! The whole of livebpf: a runtime with one of its engines.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use livebpf::context::Context;
use livebpf::helper::{Arg, Proto, Ret};
use livebpf::object::{MapType, Object};
use livebpf::runtime::{Ebpf, Engine, Error, LoadOptions, MapHandle, Program, ProgramArray, Runtime, RuntimeBuilder};

use super::format::{CustomHelper, Scenario, Step};
use super::play::Bench;

/// The engines of a runtime.
pub const ENGINES: [Engine; 3] = [Engine::Interp, Engine::Jit, Engine::Slot];

/// How a scenario's programs are compiled.
#[derive(Clone, Copy, Debug)]
pub struct Choice {
    /// Who executes them.
    pub engine: Engine,
    /// Missed tail calls are counted, also where the scenario does not ask for it.
    pub count_missed: bool,
    /// Tail calls through every array read its slots, by the load's choice and not the engine's.
    pub slots: bool,
}

impl From<Engine> for Choice {
    fn from(engine: Engine) -> Choice {
        Choice { engine, count_missed: false, slots: false }
    }
}

impl Choice {
    fn builder(self) -> RuntimeBuilder {
        Runtime::builder().engine(self.engine).count_missed(self.count_missed).cpus(8)
    }
    fn options(self, object: &Object) -> LoadOptions {
        let arrays = object.maps().iter().filter(|def| self.slots && def.map_type == MapType::PROG_ARRAY);
        arrays.fold(LoadOptions::default(), |options, def| options.slots(&def.name))
    }
}

/// One object in a runtime of its own.
pub struct Live {
    runtime: Runtime,
    ebpf: Ebpf,
    /// Held for the helpers: these hold them weakly, or the runtime would hold itself.
    _targets: Vec<Target>,
}

/// The program that a custom helper runs: known when the object is loaded.
type Target = Arc<OnceLock<Program>>;

impl Live {
    /// Loads the object of a scenario.
    pub fn load(choice: impl Into<Choice>, scenario: &Scenario, path: &Path) -> Result<Live, String> {
        let mut choice = choice.into();
        let asks = |step: &Step| matches!(step, Step::Missed { .. } | Step::MissedOutside { .. });
        choice.count_missed |= scenario.steps.iter().any(asks);
        if scenario.unverified {
            return Live::unverified(choice, path);
        }
        Live::with_helpers(choice, path, &scenario.helpers, &scenario.packet)
    }

    /// Loads an object through the unsafe door.
    fn unverified(choice: Choice, path: &Path) -> Result<Live, String> {
        let object = Object::parse(&std::fs::read(path).map_err(text)?).map_err(text)?;
        let runtime = choice.builder().build().map_err(text)?;
        // SAFETY: the programs of result_register.bpf.c end, and touch their own global variables only.
        let ebpf = unsafe { runtime.load_unverified(&object, &choice.options(&object)) }.map_err(text)?;
        Ok(Live { runtime, ebpf, _targets: Vec::new() })
    }

    /// Loads an object; custom helpers run their programs on `packet`.
    pub fn with_helpers(
        choice: impl Into<Choice>,
        path: &Path,
        custom: &BTreeMap<u32, CustomHelper>,
        packet: &[u8],
    ) -> Result<Live, String> {
        let bytes = std::fs::read(path).map_err(text)?;
        let object = Object::parse(&bytes).map_err(text)?;
        let choice = choice.into();
        let mut builder = choice.builder();
        let mut targets: Vec<(&str, Target)> = Vec::new();
        for (id, helper) in custom {
            let target = Target::default();
            let weak = Arc::downgrade(&target);
            targets.push((&helper.runs, target));
            let proto = Proto {
                id: *id,
                name: helper.name.clone(),
                args: vec![Arg::Ctx],
                ret: Ret::Integer,
                changes_packet: false,
                packet_memory: false,
                gpl_only: false,
            };
            let packet = packet.to_vec();
            builder = builder.helper(proto, move |call| {
                let target = weak.upgrade().expect("held by who runs the program");
                let program = target.get().expect("the object is loaded");
                let mut ctx = Context::for_type(program.prog_type(), &packet).expect("a context");
                call.run(program, &mut ctx).expect("a nested run").into()
            });
        }
        let runtime = builder.build().map_err(text)?;
        let ebpf = runtime.load_with(&object, &choice.options(&object)).map_err(text)?;
        for (name, target) in &targets {
            let program = ebpf.program(name).ok_or_else(|| format!("no program {name}"))?;
            target.set(program.clone()).map_err(|_| "a helper's program is set twice")?;
        }
        let _targets = targets.into_iter().map(|(_, target)| target).collect();
        Ok(Live { runtime, ebpf, _targets })
    }

    fn program(&self, name: &str) -> Result<&Program, String> {
        self.ebpf.program(name).ok_or_else(|| format!("no program {name}"))
    }
    fn map(&self, name: &str) -> Result<&MapHandle, String> {
        self.ebpf.map(name).ok_or_else(|| format!("no map {name}"))
    }
    fn array(&self, name: &str) -> Result<ProgramArray, String> {
        ProgramArray::try_from(self.map(name)?).map_err(text)
    }

    fn one_thread(&self, program: &Program, packet: &[u8], times: u32) -> Result<Vec<u32>, String> {
        let mut worker = self.runtime.worker().map_err(text)?;
        let mut ctx = Context::for_type(program.prog_type(), packet).map_err(text)?;
        let mut results = Vec::new();
        for _ in 0..times {
            ctx.reset(packet).map_err(text)?;
            results.push(worker.run(program, &mut ctx).map_err(text)?);
        }
        Ok(results)
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// The kernel's name for what an update answered.
fn errno(error: Error) -> String {
    match &error {
        Error::Map { source, .. } => match source.errno() {
            libc::ENOENT => "ENOENT".to_owned(),
            libc::E2BIG => "E2BIG".to_owned(),
            libc::EINVAL => "EINVAL".to_owned(),
            other => format!("errno {other}: {error}"),
        },
        _ => error.to_string(),
    }
}

impl Bench for Live {
    fn programs(&self) -> Vec<String> {
        self.ebpf.programs().map(|program| program.name().to_owned()).collect()
    }
    fn set(&mut self, array: &str, index: u32, program: &str) -> Result<(), String> {
        self.array(array)?.set(index, self.program(program)?).map_err(errno)
    }
    fn clear(&mut self, array: &str, index: u32) -> Result<(), String> {
        self.array(array)?.clear_index(index).map_err(errno)
    }
    fn run(&self, program: &str, packet: &[u8], times: u32, threads: u32) -> Result<Vec<u32>, String> {
        let program = self.program(program)?;
        std::thread::scope(|scope| {
            let started: Vec<_> =
                (0..threads).map(|_| scope.spawn(|| self.one_thread(program, packet, times))).collect();
            let mut results = Vec::new();
            for thread in started {
                results.extend(thread.join().map_err(|_| "a thread panicked")??);
            }
            Ok(results)
        })
    }
    fn lookup(&self, map: &str, key: &[u8]) -> Result<Vec<u8>, String> {
        self.map(map)?.read(key).map_err(text)
    }
    fn update(&mut self, map: &str, key: &[u8], value: &[u8]) -> Result<(), String> {
        self.map(map)?.write(key, value, 0).map_err(text)
    }
    fn keys(&self, map: &str) -> Result<Vec<Vec<u8>>, String> {
        self.map(map)?.keys().map_err(text)
    }
    fn missed(&self, array: &str, index: u32) -> Result<(u64, u64), String> {
        let missed = self.array(array)?.missed(index);
        Ok((missed.empty, missed.limit))
    }
    fn missed_outside(&self, array: &str) -> Result<u64, String> {
        self.array(array).map(|array| array.missed_outside())
    }
    fn read(&self, variable: &str) -> Result<Vec<u8>, String> {
        self.ebpf.global(variable).map_err(text)
    }
    fn write(&mut self, variable: &str, bytes: &[u8]) -> Result<(), String> {
        self.ebpf.set_global(variable, bytes).map_err(text)
    }
}
