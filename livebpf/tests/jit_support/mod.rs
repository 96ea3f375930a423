//! Runs compiled code without the runtime: a page that is writable and executable, and an entry stub. For tests only.
#![allow(dead_code)]

use std::ffi::c_void;

use livebpf::insn::Insns;
use livebpf::jit::x64::{Asm, Gpr};
use livebpf::jit::{Code, CpuFeatures, Options, RelocKind, Symbol, TailCalls};
use livebpf::link::Program;
use livebpf::object::{ProgType, ProgramKind};
use livebpf::verify::Verified;

/// Every combination of CPU features that this machine can run.
pub fn cpus() -> Vec<CpuFeatures> {
    let mut all = vec![CpuFeatures { bmi2: false, movbe: false }];
    let (bmi2, movbe) = (std::is_x86_feature_detected!("bmi2"), std::is_x86_feature_detected!("movbe"));
    if bmi2 || movbe {
        all.push(CpuFeatures { bmi2, movbe });
    }
    all
}

/// Options for the given features.
pub fn options(cpu: CpuFeatures) -> Options {
    Options {
        tail_calls: TailCalls::Patched,
        slot_maps: Vec::new(),
        count_missed: Vec::new(),
        helpers_near: false,
        cpu,
        blind: None,
    }
}

/// Options for every combination of CPU features, and with hidden constants.
pub fn variants() -> Vec<Options> {
    let plain: Vec<Options> = cpus().into_iter().map(options).collect();
    let hidden = Options { blind: Some(7), ..plain[0].clone() };
    plain.into_iter().chain([hidden]).collect()
}

/// A program without maps, of one function.
pub fn bare(insns: Insns) -> Program {
    Program::bare("main", ProgramKind::new(ProgType::XDP), insns)
}

/// A program with conservative facts.
pub fn unproven(insns: Insns) -> Verified {
    Verified::without_proof(bare(insns)).expect("well-formed")
}

/// Memory that code runs in.
pub struct Exec {
    base: *mut u8,
    used: usize,
}

const LEN: usize = 1 << 20;

impl Exec {
    pub fn new() -> Exec {
        let (prot, flags) =
            (libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a fresh anonymous mapping; checked below.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), LEN, prot, flags, -1, 0) };
        assert_ne!(base, libc::MAP_FAILED);
        Exec { base: base.cast(), used: 0 }
    }
    /// Forgets what was placed.
    pub fn clear(&mut self) {
        self.used = 0;
    }
    fn put(&mut self, bytes: &[u8]) -> u64 {
        let at = self.used.next_multiple_of(64);
        assert!(at + bytes.len() <= LEN, "the test's code fits");
        // SAFETY: inside the mapping, which no reference points into; nothing runs in it now.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.base.add(at), bytes.len()) };
        self.used = at + bytes.len();
        self.base as u64 + at as u64
    }
    /// Places what `emit` assembles; returns its address.
    pub fn code(&mut self, emit: impl FnOnce(&mut Asm)) -> u64 {
        let mut asm = Asm::default();
        emit(&mut asm);
        self.put(&asm.finish().expect("small").bytes)
    }
    /// Places code; `resolve` says where symbols are. Returns the base address.
    pub fn place(&mut self, code: &Code, resolve: impl Fn(Symbol) -> u64) -> u64 {
        let base = self.base as u64 + self.used.next_multiple_of(64) as u64;
        let mut bytes = code.bytes.clone();
        for reloc in &code.relocs {
            let at = reloc.at as usize;
            let to = resolve(reloc.symbol);
            match reloc.kind {
                RelocKind::Abs64 => bytes[at..at + 8].copy_from_slice(&to.to_le_bytes()),
                RelocKind::Rel32 => {
                    let rel = to.wrapping_sub(base + u64::from(reloc.at) + 4) as i64;
                    let rel = i32::try_from(rel).expect("within reach");
                    bytes[at..at + 4].copy_from_slice(&rel.to_le_bytes());
                }
            }
        }
        assert_eq!(self.put(&bytes), base);
        base
    }
    /// Stores the four bytes of a rel32, as a patch does.
    pub fn patch(&mut self, at: u64, value: i32) {
        // SAFETY: `at` is an aligned field of placed code, and this is the only thread that runs it.
        unsafe { (at as *mut i32).write(value) };
    }
    /// Stores the immediate of a bypass, as a patch does.
    pub fn patch_byte(&mut self, at: u64, value: u8) {
        // SAFETY: as above.
        unsafe { (at as *mut u8).write(value) };
    }
    /// Places a stub that saves r12, sets it to `count` and calls `entry`; returns the stub as a function.
    pub fn entry(&mut self, entry: u64, count: u32) -> extern "C" fn(u64, u64, u64, u64, u64) -> u64 {
        let stub = self.code(|asm| {
            asm.push(Gpr::R12);
            asm.mov_ri32(Gpr::R12, count);
            asm.mov_ri64(Gpr::R11, entry);
            asm.call_r(Gpr::R11);
            asm.pop(Gpr::R12);
            asm.ret();
        });
        // SAFETY: the stub follows the C calling convention, as the code it calls does but for r12.
        unsafe {
            std::mem::transmute::<*const c_void, extern "C" fn(u64, u64, u64, u64, u64) -> u64>(stub as *const c_void)
        }
    }
}

impl Drop for Exec {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`; nothing runs in it now.
        unsafe { libc::munmap(self.base.cast(), LEN) };
    }
}
