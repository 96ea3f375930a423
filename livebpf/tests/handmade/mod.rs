//! Programs in machine code, made by hand in the shape that the code generator emits, and a runtime around them that is
//! just large enough to patch them while they run.

pub mod toggle;

use std::any::Any;
use std::sync::Arc;

use livebpf::jit::{Code, PokeSite, Reloc, RelocKind, Symbol};
use livebpf::link::MapId;
use livebpf::map::prog_array::{Contract, Execution, Member, ProgArray};
use livebpf::object::{ProgType, ProgramKind};
use livebpf::rcu::Domain;
use livebpf::text::{CoreSync, Image, Patcher, Region, RegionOptions, TextError, Tracking};

pub const CONTRACT: Contract = Contract { kind: ProgramKind::new(ProgType::XDP), execution: Execution::Native };

/// The parts of a runtime that patching needs.
pub struct Bench {
    pub region: Arc<Region>,
    pub domain: Arc<Domain>,
    pub patcher: Arc<Patcher>,
}

impl Bench {
    pub fn new() -> Bench {
        Bench::with(RegionOptions { capacity: 16 << 20, ..RegionOptions::default() })
    }

    pub fn with(options: RegionOptions) -> Bench {
        let sync = CoreSync::detect();
        let region = Region::new(options).unwrap();
        let domain = Domain::new(sync.clone()).unwrap();
        let patcher = Patcher::new(region.clone(), sync, domain.clone());
        Bench { region, domain, patcher }
    }

    /// Places a program whose map 0, 1, ... are `arrays`.
    pub fn load(&self, code: &Code, arrays: &[&ProgArray]) -> Result<Arc<Prog>, TextError> {
        let image = Image::place(&self.region, code, &|_| None)?;
        let tracking = self.patcher.load(&image, &|map: MapId| arrays.get(map.0 as usize).copied())?;
        Ok(Arc::new(Prog { id: 0, _tracking: tracking, image }))
    }

    pub fn set(&self, array: &ProgArray, index: u32, program: Arc<Prog>) {
        let mut guard = self.patcher.update().unwrap();
        let retired = array.set(index, program, 0, &mut guard).unwrap();
        drop(guard);
        self.domain.retire(retired);
    }

    pub fn clear(&self, array: &ProgArray, index: u32) {
        let mut guard = self.patcher.update().unwrap();
        let retired = array.clear_index(index, &mut guard).unwrap();
        drop(guard);
        self.domain.retire(retired);
    }

    /// The patcher's own comparison of slots, shadows and bytes.
    pub fn audit(&self, arrays: &[&ProgArray]) -> Result<usize, String> {
        self.patcher.update().unwrap().audit(arrays)
    }
}

/// A placed program; the tracking goes before the image.
pub struct Prog {
    id: u32,
    _tracking: Tracking,
    pub image: Image,
}

impl Member for Prog {
    fn id(&self) -> u32 {
        self.id
    }
    fn contract(&self) -> &Contract {
        &CONTRACT
    }
    fn tail_entry(&self) -> u64 {
        self.image.tail_entry()
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Runs the code at `entry` as the entry stub does: tail-call count 0, result in rax.
///
/// # Safety
/// `entry` is that of a loaded image, made here, and the caller is in a section of its domain.
pub unsafe fn run(entry: u64) -> u32 {
    let result: u64;
    // SAFETY: the code keeps the callee-saved registers and the stack, apart from r12; the caller upholds the rest.
    unsafe {
        std::arch::asm!(
            "xor r12d, r12d",
            "call {entry}",
            entry = in(reg) entry,
            out("rax") result,
            out("r12") _,
            clobber_abi("sysv64"),
        );
    }
    result as u32
}

/// One direct tail call of a program.
#[derive(Clone, Copy)]
pub struct Call {
    pub map: u32,
    pub index: u32,
    /// Address of two u32: between bypass and target the program sets the second one to 1, then waits until the first
    /// one is 0.
    pub gate: Option<u64>,
    /// The target's rel32 lies across the boundary of two cache lines, as no image may have it.
    pub torn: bool,
}

/// A direct tail call without a gate.
pub fn call(map: u32, index: u32) -> Call {
    Call { map, index, gate: None, torn: false }
}

/// A program that tries each call in turn and answers `value` when all of them failed, or 0xffff_0bad when its frame
/// was damaged. It has a frame of 16 bytes and uses rbx.
pub fn program(calls: &[Call], value: u32) -> Code {
    let mut code = Code::default();
    let out = &mut code.bytes;
    out.extend([0x0f, 0x1f, 0x44, 0x00, 0x00]); // nop5
    out.extend([0x55, 0x48, 0x89, 0xe5]); // push rbp ; mov rbp, rsp
    code.tail_entry = out.len() as u32;
    out.extend([0x48, 0x83, 0xec, 0x10, 0x53]); // sub rsp, 16 ; push rbx
    out.push(0xbb); // mov ebx, !value
    out.extend((!value).to_le_bytes());
    out.extend([0x48, 0x89, 0x5d, 0xf8]); // mov [rbp - 8], rbx
    for &call in calls {
        direct_call(&mut code, call);
    }
    let out = &mut code.bytes;
    out.push(0xb8); // mov eax, value
    out.extend(value.to_le_bytes());
    out.extend([0x48, 0x3b, 0x5d, 0xf8, 0x74, 0x05]); // cmp rbx, [rbp - 8] ; je over
    out.extend([0xb8, 0xad, 0x0b, 0xff, 0xff]); // mov eax, 0xffff0bad
    out.extend([0x5b, 0xc9, 0xc3]); // pop rbx ; leave ; ret
    code
}

fn direct_call(code: &mut Code, call: Call) {
    let out = &mut code.bytes;
    let bypass = out.len() as u32;
    out.extend([0x41, 0x83, 0xfc, 0]); // cmp r12d, 0
    out.extend([0x0f, 0x83, 0, 0, 0, 0]); // jae out
    let behind = out.len();
    out.extend([0x49, 0xff, 0xc4]); // inc r12
    out.extend([0x5b, 0x48, 0x83, 0xc4, 0x10]); // pop rbx ; add rsp, 16
    if let Some(gate) = call.gate {
        out.extend([0x48, 0xb8]); // mov rax, gate
        out.extend(gate.to_le_bytes());
        out.extend([0xc7, 0x40, 0x04, 0x01, 0x00, 0x00, 0x00]); // mov dword [rax + 4], 1
        out.extend([0xf3, 0x90, 0x83, 0x38, 0x00, 0x75, 0xf9]); // wait: pause ; cmp dword [rax], 0 ; jne wait
    }
    pad(out);
    while call.torn && out.len() % 64 != 61 {
        out.push(0x90);
    }
    let target = out.len() as u32;
    out.extend([0xe9, 0, 0, 0, 0]);
    let end = out.len();
    out[behind - 4..behind].copy_from_slice(&((end - behind) as i32).to_le_bytes());
    code.relocs.push(Reloc { at: target + 1, kind: RelocKind::Rel32, symbol: Symbol::Poison });
    let (map, index, pc) = (MapId(call.map), call.index, Default::default());
    code.sites.push(PokeSite { map, index, pc, bypass, target });
}

/// Pads with nops until a jump's rel32 is aligned.
fn pad(out: &mut Vec<u8>) {
    while out.len() % 4 != 3 {
        out.push(0x90);
    }
}
