//! The one place where this crate leaves safe Rust: machine code that others made is called from here.
//!
//! It is code of functions `uint32_t f(const uint8_t *)` that read at most [`READS`] bytes there and return: what this crate's own C
//! says, compiled by the system's compiler, or what `replay` assembles. And what others' machines make of this crate's own programs, which read no more.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::NonNull;

use rbpf::EbpfVmRaw;
use solana_sbpf::ebpf;
use solana_sbpf::error::EbpfError;
use solana_sbpf::memory_region::{MemoryMapping, MemoryRegion};
use solana_sbpf::program::SBPFVersion;
use solana_sbpf::vm::{Config, ContextObject};

use crate::error::Error;

/// Bytes that a function may read.
pub const READS: usize = 1500;

/// A function of C's.
#[derive(Clone, Copy, Debug)]
pub struct Function(unsafe extern "C" fn(*const u8) -> u32);

impl Function {
    /// Calls it `runs` times; the last answer.
    ///
    /// # Panics
    /// For fewer than [`READS`] bytes.
    pub fn call(self, runs: u32, data: &[u8]) -> u32 {
        assert!(data.len() >= READS, "functions read {READS} bytes");
        let mut answer = 0;
        for _ in 0..runs {
            // SAFETY: it reads at most `READS` bytes, which are there, and returns. The compiler cannot know which function it is.
            answer = unsafe { std::hint::black_box(self).0(data.as_ptr()) };
        }
        answer
    }
}

/// Machine code that was assembled here: its first byte begins a function of the kind that this file is about. It stays as long as
/// the process.
#[derive(Debug)]
pub struct Code(NonNull<u8>);

impl Code {
    /// `bytes` in memory of their own, at a page's beginning: written, then executable and no longer writable.
    pub fn new(bytes: &[u8]) -> Result<Code, Error> {
        let failed = || Error::Library(std::io::Error::last_os_error().to_string());
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: new memory, where there is room for it.
        let memory = unsafe { libc::mmap(std::ptr::null_mut(), bytes.len(), protection, flags, -1, 0) };
        if memory == libc::MAP_FAILED {
            return Err(failed());
        }
        let start = NonNull::new(memory.cast::<u8>()).ok_or(Error::Lacks("memory at address 0"))?;
        // SAFETY: as many bytes as that were mapped, and nobody else knows them.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), start.as_ptr(), bytes.len()) };
        // SAFETY: the same memory; nobody writes there any more.
        if unsafe { libc::mprotect(memory, bytes.len(), libc::PROT_READ | libc::PROT_EXEC) } != 0 {
            return Err(failed());
        }
        Ok(Code(start))
    }

    /// Where it lies.
    pub fn address(&self) -> u64 {
        self.0.as_ptr() as u64
    }

    /// What begins at its first byte.
    pub fn function(&self) -> Function {
        // SAFETY: a function of this kind begins there.
        Function(unsafe { std::mem::transmute::<*mut u8, unsafe extern "C" fn(*const u8) -> u32>(self.0.as_ptr()) })
    }
}

/// A shared library, which stays loaded as long as the process runs.
#[derive(Debug)]
pub struct Library(usize);

impl Library {
    /// Loads the library that was compiled from this crate's own source.
    pub fn open(path: &Path) -> Result<Library, Error> {
        let name =
            CString::new(path.as_os_str().as_bytes()).map_err(|_| Error::Lacks("a file's name with a zero in it"))?;
        // SAFETY: the name ends in a zero. Our source has no constructors: nothing runs.
        let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        if handle.is_null() { Err(Error::Library(last_error())) } else { Ok(Library(handle as usize)) }
    }

    /// Its function `name`, which is of the kind that this file is about.
    pub fn function(&self, name: &str) -> Result<Function, Error> {
        let symbol = CString::new(name).map_err(|_| Error::Lacks("a function's name with a zero in it"))?;
        // SAFETY: the handle is open and the name ends in a zero.
        let address = unsafe { libc::dlsym(self.0 as *mut libc::c_void, symbol.as_ptr()) };
        if address.is_null() {
            return Err(Error::Library(last_error()));
        }
        // SAFETY: the address of a function of this kind: all that our source exports.
        Ok(Function(unsafe {
            std::mem::transmute::<*mut libc::c_void, unsafe extern "C" fn(*const u8) -> u32>(address)
        }))
    }
}

/// Runs what rbpf compiled of a program of ours `runs` times with the address of `memory`; the last answer.
pub fn run_rbpf(vm: &EbpfVmRaw<'_>, runs: u32, memory: &mut [u8]) -> std::io::Result<u64> {
    assert!(memory.len() >= READS, "programs read {READS} bytes");
    let mut answer = 0;
    for _ in 0..runs {
        // SAFETY: it checks nothing; but our programs read at most `READS` bytes, which are there, and their own stack.
        answer = unsafe { vm.execute_program_jit(memory) }?;
    }
    Ok(answer)
}

/// What an sBPF program sees: a stack and an input, and the count of the instructions that are left to it.
#[derive(Debug)]
pub struct SbpfMemory {
    mapping: MemoryMapping,
    /// Instructions.
    pub remaining: u64,
    /// What the mapping leads to: never touched as long as it is there.
    stack: NonNull<[u8]>,
    input: NonNull<[u8]>,
}

impl SbpfMemory {
    /// A stack as `config` has it, and `input`.
    pub fn new(config: &Config, version: SBPFVersion, input: Vec<u8>) -> Result<SbpfMemory, EbpfError> {
        let [stack, input] =
            [vec![0; config.stack_size()], input].map(|bytes| Box::leak(bytes.into_boxed_slice()).into());
        let regions = vec![
            MemoryRegion::new_empty(ebpf::MM_RODATA_START),
            MemoryRegion::new(NonNull::as_ptr(stack), ebpf::MM_STACK_START),
            MemoryRegion::new(NonNull::as_ptr(input), ebpf::MM_INPUT_START),
        ];
        // SAFETY: both blocks are bytes, and stay as long as the mapping: see `drop`.
        let mapping = unsafe { MemoryMapping::new(regions, config, version) };
        Ok(SbpfMemory { mapping: mapping?, remaining: 0, stack, input })
    }

    /// Bytes of the stack.
    pub fn stack_bytes(&self) -> usize {
        self.stack.len()
    }
}

impl Drop for SbpfMemory {
    fn drop(&mut self) {
        for block in [self.stack, self.input] {
            // SAFETY: leaked in `new`. Nobody but the mapping knows them, which goes with this and accesses nothing when it does.
            drop(unsafe { Box::from_raw(block.as_ptr()) });
        }
    }
}

impl ContextObject for SbpfMemory {
    fn consume(&mut self, amount: u64) {
        self.remaining = self.remaining.saturating_sub(amount);
    }
    fn get_remaining(&self) -> u64 {
        self.remaining
    }
    fn active_mapping_ptr(&mut self) -> NonNull<MemoryMapping> {
        NonNull::from(&mut self.mapping)
    }
}

/// What dlopen or dlsym had to say.
fn last_error() -> String {
    // SAFETY: dlerror answers null or a text that stays until the next call of this thread.
    let text = unsafe { libc::dlerror() };
    if text.is_null() {
        return "no reason given".to_owned();
    }
    // SAFETY: not null, so a text that ends in a zero.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}
