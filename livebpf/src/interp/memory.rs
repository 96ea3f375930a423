//! Which memory a running program may touch: its stack frames, the packet, values of its maps, and regions that the
//! caller declared. Every access is looked up here by its address; nothing is remembered from the verifier.

use super::Executable;
use crate::context::{Context, FieldKind, Packet, describe_kind};
use crate::insn::Size;
use crate::interp::FaultKind;
use crate::map::cell::{Bytes, Slice};

/// Bytes of one function's stack.
pub(super) const FRAME: usize = 512;
/// From one frame to the next: an access past a frame's end meets no other frame.
const STRIDE: usize = 2 * FRAME;
/// Frames allocated at a time.
const CHUNK: usize = 8;

/// The stack frames of one run. Frames keep their addresses as long as it lives.
#[derive(Default)]
pub(super) struct Stacks {
    chunks: Vec<Bytes>,
    live: usize,
}

impl Stacks {
    /// Makes frame `index` (at most one past the last) live and zero, and those above it dead. Answers its end: R10.
    pub(super) fn enter(&mut self, index: usize) -> Result<u64, FaultKind> {
        while self.chunks.len() <= index / CHUNK {
            let chunk = Bytes::zeroed((CHUNK * STRIDE) as u64).map_err(|_| FaultKind::OutOfMemory)?;
            self.chunks.push(chunk);
        }
        self.live = index + 1;
        let frame = self.frame(index).ok_or(FaultKind::OutOfMemory)?;
        frame.clear();
        Ok(frame.addr() + FRAME as u64)
    }

    /// Returns to frame `index`; answers its end.
    pub(super) fn leave_to(&mut self, index: usize) -> u64 {
        self.live = index + 1;
        self.frame(index).map_or(0, |frame| frame.addr() + FRAME as u64)
    }

    fn frame(&self, index: usize) -> Option<Slice<'_>> {
        self.chunks.get(index / CHUNK)?.slice().sub(index % CHUNK * STRIDE + FRAME, FRAME)
    }

    fn find(&self, addr: u64, len: usize) -> Option<Slice<'_>> {
        (0..self.live).rev().find_map(|index| find_in(self.frame(index)?, addr, len))
    }
}

/// Everything but the maps, which belong to the program that executes.
pub(super) struct Memory<'a> {
    pub(super) stacks: Stacks,
    pub(super) context: Option<&'a Context>,
    pub(super) regions: &'a [Slice<'a>],
}

fn find_in(region: Slice<'_>, addr: u64, len: usize) -> Option<Slice<'_>> {
    region.sub(region.find(addr, len)?, len)
}

impl Memory<'_> {
    /// The window [addr, addr + len) where the program may read (or write) it.
    pub(super) fn window<'m>(&'m self, exe: &'m Executable, addr: u64, len: usize, write: bool) -> Option<Slice<'m>> {
        if let Some(found) = self.stacks.find(addr, len) {
            return Some(found);
        }
        if let Some(found) = self.packet(exe, addr, len, write) {
            return Some(found);
        }
        if let Some(found) = self.context.and_then(|c| find_in(c.memory(), addr, len)) {
            return Some(found).filter(|_| !write || self.context.is_some_and(Context::memory_is_writable));
        }
        let allowed = |map: &&std::sync::Arc<crate::map::Map>| {
            if write { map.programs_may_write() } else { map.programs_may_read() }
        };
        exe.maps
            .iter()
            .filter(allowed)
            .find_map(|map| map.value_region(addr, len))
            .or_else(|| self.regions.iter().find_map(|region| find_in(*region, addr, len)))
    }

    fn packet(&self, exe: &Executable, addr: u64, len: usize, write: bool) -> Option<Slice<'_>> {
        let may = describe_kind(&exe.program().kind)
            .is_some_and(|d| if write { d.packet == Packet::Write } else { d.packet != Packet::None });
        find_in(self.context.filter(|_| may)?.packet_slice()?, addr, len)
    }

    /// The window of an access by an instruction; a fault where there is none.
    pub(super) fn checked<'m>(
        &'m self,
        exe: &'m Executable,
        addr: u64,
        size: u32,
        write: bool,
    ) -> Result<Slice<'m>, FaultKind> {
        self.window(exe, addr, size as usize, write).ok_or(FaultKind::Access { addr, size: size.into(), write })
    }

    /// Reads for a load instruction; with `signed`, the caller will sign-extend.
    pub(super) fn load(&self, exe: &Executable, addr: u64, size: Size, signed: bool) -> Result<u64, FaultKind> {
        if let Some((record, place, pointer)) = self.context_access(exe, addr, size, false)? {
            let value = record.load(place.0 as usize, place.1).filter(|_| !(signed && pointer));
            return value.ok_or(FaultKind::Access { addr, size: size.bytes().into(), write: false });
        }
        let fault = FaultKind::Access { addr, size: size.bytes().into(), write: false };
        self.checked(exe, addr, size.bytes(), false)?.load(0, size).ok_or(fault)
    }

    /// Writes for a store instruction.
    pub(super) fn store(&self, exe: &Executable, addr: u64, size: Size, value: u64) -> Result<(), FaultKind> {
        let fault = FaultKind::Access { addr, size: size.bytes().into(), write: true };
        if let Some((record, place, _)) = self.context_access(exe, addr, size, true)? {
            return record.store(place.0 as usize, place.1, value).ok_or(fault);
        }
        self.checked(exe, addr, size.bytes(), true)?.store(0, size, value).ok_or(fault)
    }

    /// Where an access of the UAPI struct lands in the record, and whether it is a packet pointer; `None` for an
    /// address outside the context.
    #[allow(clippy::type_complexity)]
    fn context_access(
        &self,
        exe: &Executable,
        addr: u64,
        size: Size,
        write: bool,
    ) -> Result<Option<(Slice<'_>, (u32, Size), bool)>, FaultKind> {
        let Some(context) = self.context else { return Ok(None) };
        let Some(off) = addr.checked_sub(context.record_addr()) else { return Ok(None) };
        if off >= context.record().len() as u64 {
            return Ok(None);
        }
        let name = exe.context_desc().map_or("no context", |d| d.name);
        let fault = FaultKind::Context { context: name, off, size: size.bytes(), write };
        let (field, place) = exe.context_desc().and_then(|d| d.access(off as u32, size, write)).ok_or(fault)?;
        Ok(Some((context.record(), (place.offset, place.size), field.kind != FieldKind::Scalar)))
    }
}
