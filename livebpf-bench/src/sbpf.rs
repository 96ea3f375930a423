//! Solana's sBPF, from crates.io: its code generator as it is configured by default, which counts instructions and translates the address of
//! every access. It has no maps and no tail calls, and its verifier looks at opcodes and jump ranges only.
//!
//! Programs are given as version 3 of its instruction set, whose calls are BPF's.

use std::sync::Arc;
use std::time::{Duration, Instant};

use livebpf::insn::Insn;
use livebpf::link::Program;
use solana_sbpf::ebpf;
use solana_sbpf::elf::Executable;
use solana_sbpf::error::{EbpfError, StableResult};
use solana_sbpf::program::{BuiltinFunctionDefinition, BuiltinProgram, FunctionRegistry, SBPFVersion};
use solana_sbpf::verifier::RequisiteVerifier;
use solana_sbpf::vm::{Config, EbpfVm, ExecutionMode};

use crate::error::Error;
use crate::helpers::PLUS_ONE;
use crate::raw::SbpfMemory;
use crate::sides::{Batch, Runner};
use crate::work::Work;

const VERSION: SBPFVersion = SBPFVersion::V3;
const FUNCTION: &str = "plus_one";
/// Instructions that a run may have, which is more than any has.
const ENOUGH: u64 = 1 << 40;

struct Sbpf {
    executable: Executable<SbpfMemory>,
    memory: SbpfMemory,
    /// Bytes of the input.
    length: u64,
}

/// The work's program, compiled.
pub fn prepare(work: &Work) -> Result<Box<dyn Runner>, Error> {
    let program =
        work.plain.as_ref().ok_or(Error::Lacks("it has no maps, no tail calls and no helpers of the kernel's"))?;
    let executable = executable(program)?;
    executable.jit_compile().map_err(refused)?;
    let memory = SbpfMemory::new(executable.get_config(), VERSION, work.packet.clone()).map_err(refused)?;
    Ok(Box::new(Sbpf { executable, memory, length: work.packet.len() as u64 }))
}

/// How long it takes to compile `program`, which is loaded and verified before the clock starts.
pub fn compile(program: &Program) -> Result<Duration, Error> {
    let executable = executable(program)?;
    let start = Instant::now();
    executable.jit_compile().map_err(refused)?;
    Ok(start.elapsed())
}

fn executable(program: &Program) -> Result<Executable<SbpfMemory>, Error> {
    let mut loader = BuiltinProgram::new_loader(Config::default());
    PlusOne::register(&mut loader, FUNCTION).map_err(|error| Error::Peer(error.to_string()))?;
    let text = encoded(program);
    let executable =
        Executable::from_text_bytes(&text, Arc::new(loader), VERSION, FunctionRegistry::default()).map_err(refused)?;
    executable.verify::<RequisiteVerifier>().map_err(refused)?;
    Ok(executable)
}

/// Functions of the embedder's are called by the hash of their names.
fn encoded(program: &Program) -> Vec<u8> {
    let mut insns = program.insns.clone();
    for (pc, insn) in program.insns.iter() {
        if insn == (Insn::Call { helper: PLUS_ONE }) {
            insns.replace(pc, Insn::Call { helper: ebpf::hash_symbol_name(FUNCTION.as_bytes()) });
        }
    }
    insns.encode()
}

fn refused(error: EbpfError) -> Error {
    Error::Peer(error.to_string())
}

/// A number in, a number out.
struct PlusOne;

impl BuiltinFunctionDefinition<SbpfMemory> for PlusOne {
    type Error = std::convert::Infallible;

    fn rust(_: &mut SbpfMemory, a: u64, _: u64, _: u64, _: u64, _: u64) -> Result<u64, Self::Error> {
        Ok(a.wrapping_add(1))
    }
}

impl Runner for Sbpf {
    fn batch(&mut self, runs: u32) -> Result<Batch, Error> {
        let Sbpf { executable, memory, length } = self;
        let stack = memory.stack_bytes();
        let mut vm = EbpfVm::new(executable.get_loader().clone(), VERSION, memory, stack);
        let mut registers = vm.registers;
        (registers[1], registers[2]) = (ebpf::MM_INPUT_START, *length);
        let start = Instant::now();
        let mut answer = 0;
        for _ in 0..runs {
            vm.registers = registers;
            vm.context().remaining = ENOUGH;
            match vm.execute_program(executable, &mut ExecutionMode::Jit, &mut []).1 {
                StableResult::Ok(r0) => answer = r0 as u32,
                StableResult::Err(error) => return Err(refused(error)),
            }
        }
        let ns = start.elapsed().as_nanos() as f64 / f64::from(runs);
        Ok(Batch { ns, wall_ns: ns, answer })
    }
}
