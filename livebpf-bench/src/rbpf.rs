//! rbpf, from crates.io: its code generator, on plain memory. It has no maps, no tail calls, and its verifier looks at opcodes and jump
//! ranges only. Its code lies in one page, 4096 bytes, which is enough for what is run here and for no program of a thousand instructions.

use std::time::Instant;

use rbpf::EbpfVmRaw;

use crate::error::Error;
use crate::helpers::PLUS_ONE;
use crate::raw;
use crate::sides::{Batch, Runner};
use crate::work::Work;

struct Rbpf {
    vm: EbpfVmRaw<'static>,
    memory: Vec<u8>,
}

/// The work's program, compiled.
pub fn prepare(work: &Work) -> Result<Box<dyn Runner>, Error> {
    let program =
        work.plain.as_ref().ok_or(Error::Lacks("it has no maps, no tail calls and no helpers of the kernel's"))?;
    // A virtual machine borrows its program: a few hundred bytes that stay.
    let mut vm = machine(Box::leak(program.insns.encode().into_boxed_slice()))?;
    vm.jit_compile().map_err(refused)?;
    let mut memory = work.packet.clone();
    memory.resize(memory.len().max(raw::READS), 0);
    Ok(Box::new(Rbpf { vm, memory }))
}

fn machine(program: &[u8]) -> Result<EbpfVmRaw<'_>, Error> {
    let mut vm = EbpfVmRaw::new(None).map_err(refused)?;
    vm.register_helper(PLUS_ONE, |r1, _, _, _, _| r1.wrapping_add(1)).map_err(refused)?;
    vm.set_program(program).map_err(refused)?;
    Ok(vm)
}

fn refused(error: std::io::Error) -> Error {
    Error::Peer(error.to_string())
}

impl Runner for Rbpf {
    fn batch(&mut self, runs: u32) -> Result<Batch, Error> {
        let start = Instant::now();
        let answer = raw::run_rbpf(&self.vm, runs, &mut self.memory).map_err(refused)? as u32;
        let ns = start.elapsed().as_nanos() as f64 / f64::from(runs);
        Ok(Batch { ns, wall_ns: ns, answer })
    }
}
