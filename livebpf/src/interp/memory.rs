//! Which memory a running program may touch: its stack frames, the packet, values of its maps, and regions that the
//! caller declared. Every access is looked up here by its address; nothing is remembered from the verifier.

use std::sync::Arc;

use super::Executable;
use crate::context::{Context, FieldKind, Packet, RecordAccess, describe_kind};
use crate::helper::{DYNPTR_SIZE, DynptrKind, id, kfunc};
use crate::insn::{Size, Src};
use crate::interp::FaultKind;
use crate::map::Map;
use crate::map::cell::{Bytes, Slice};
use crate::map::dynptr::Dynptr;

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
    /// How many bytes of a frame may be used, where that is not all of them.
    limits: Vec<Option<usize>>,
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
        (0..self.live).rev().find_map(|index| find_in(self.usable(index)?, addr, len))
    }

    fn usable(&self, index: usize) -> Option<Slice<'_>> {
        let frame = self.frame(index)?;
        match self.limits.get(index).copied().flatten() {
            Some(bytes) if bytes < FRAME => frame.sub(FRAME - bytes, bytes),
            Some(_) | None => Some(frame),
        }
    }

    /// Only the uppermost bytes of frame `index` may be used.
    #[cfg(feature = "fault-injection")]
    pub(super) fn limit(&mut self, index: usize, bytes: Option<usize>) {
        if self.limits.len() <= index {
            self.limits.resize(index + 1, None);
        }
        self.limits[index] = bytes;
    }

    /// Where frame `index` ends: its R10.
    #[cfg(feature = "fault-injection")]
    pub(super) fn end(&self, index: usize) -> Option<u64> {
        Some(self.frame(index)?.addr() + FRAME as u64)
    }
}

/// Everything but the maps, which belong to the program that executes.
pub(super) struct Memory<'a> {
    pub(super) stacks: Stacks,
    pub(super) context: Option<&'a Context>,
    pub(super) regions: &'a [Slice<'a>],
    /// Maps that were looked up in maps of maps.
    inner: Vec<Arc<Map>>,
    /// Records of ring buffers that the run has reserved and not committed: address and length.
    records: Vec<(u64, u64)>,
    /// A dynptr of the packet was made: slices of it may be read.
    reads_packet: bool,
    /// Keys that callbacks read, the innermost last.
    pub(super) keys: Vec<Bytes>,
}

fn find_in(region: Slice<'_>, addr: u64, len: usize) -> Option<Slice<'_>> {
    region.sub(region.find(addr, len)?, len)
}

impl<'a> Memory<'a> {
    pub(super) fn new(context: Option<&'a Context>, regions: &'a [Slice<'a>]) -> Memory<'a> {
        Memory {
            stacks: Stacks::default(),
            context,
            regions,
            inner: Vec::new(),
            records: Vec::new(),
            reads_packet: false,
            keys: Vec::new(),
        }
    }
}

impl Memory<'_> {
    /// The inner map at this address, where the run has looked it up.
    pub(super) fn inner_at(&self, addr: u64) -> Option<&Arc<Map>> {
        self.inner.iter().find(|map| Arc::as_ptr(map).addr() as u64 == addr)
    }

    /// Keeps an inner map until the run ends; answers its address.
    pub(super) fn keep(&mut self, map: Arc<Map>) -> u64 {
        let addr = Arc::as_ptr(&map).expose_provenance() as u64;
        if self.inner_at(addr).is_none() {
            self.inner.push(map);
        }
        addr
    }

    /// Whether a record of this run begins at this address.
    pub(super) fn is_record(&self, addr: u64) -> bool {
        self.records.iter().any(|(start, _)| *start == addr)
    }

    /// Notes the record that the call of helper `id`, which answered `r0`, has reserved.
    pub(super) fn note_record(&mut self, exe: &Executable, id: u32, args: &[u64; 5], r0: u64) {
        match id {
            id::RINGBUF_RESERVE if r0 != 0 => self.records.push((r0, args[1])),
            id::RINGBUF_RESERVE_DYNPTR => {
                let made = self.dynptr(exe, args[3]);
                self.records.extend(made.map(|d| (d.addr, u64::from(d.size))));
            }
            _ => {}
        }
    }

    /// Notes that helper `id` is about to take back the record that its first argument names.
    pub(super) fn give_record_back(&mut self, exe: &Executable, id: u32, arg: u64) {
        let record = match id {
            id::RINGBUF_SUBMIT | id::RINGBUF_DISCARD => Some(arg),
            id::RINGBUF_SUBMIT_DYNPTR | id::RINGBUF_DISCARD_DYNPTR => self.dynptr(exe, arg).map(|d| d.addr),
            _ => None,
        };
        if let Some(record) = record {
            self.records.retain(|(start, _)| *start != record);
        }
    }

    /// Notes that kernel function `id` gives a way to the packet to programs that have no other.
    pub(super) fn note_packet(&mut self, id: u32) {
        self.reads_packet |= id == kfunc::id::DYNPTR_FROM_SKB;
    }

    /// The dynptr that lies at this address; `None`: null, or nothing that is one.
    pub(super) fn dynptr(&self, exe: &Executable, addr: u64) -> Option<Dynptr> {
        Dynptr::load(self.window(exe, addr, DYNPTR_SIZE as usize, false)?)
    }

    /// Whether the program may reach what this dynptr says that it stands for, or give it back (`release`). Nothing is
    /// taken on trust from bytes that lie in the program's memory.
    pub(super) fn may_use(&self, exe: &Executable, dynptr: &Dynptr, release: bool) -> Result<(), String> {
        let Dynptr { addr, kind, read_only, offset, size } = *dynptr;
        let may = match kind {
            _ if release => kind == DynptrKind::Ringbuf && self.is_record(addr),
            DynptrKind::Local | DynptrKind::Ringbuf if size == 0 => true,
            DynptrKind::Local | DynptrKind::Ringbuf => {
                let start = addr.checked_add(offset.into());
                start.is_some_and(|start| self.window(exe, start, size as usize, !read_only).is_some())
            }
            DynptrKind::Skb | DynptrKind::Xdp => {
                let writes = describe_kind(&exe.program().kind).is_some_and(|d| d.packet == Packet::Write);
                (read_only || writes) && self.context.is_some_and(|c| c.record_addr() == addr)
            }
        };
        if may { Ok(()) } else { Err(format!("a dynptr of {size} bytes at {addr:#x} that this program may not use")) }
    }

    /// The window [addr, addr + len) of a record of this run.
    fn record<'m>(&'m self, exe: &'m Executable, addr: u64, len: usize) -> Option<Slice<'m>> {
        let end = addr.checked_add(len as u64)?;
        self.records.iter().find(|(start, size)| *start <= addr && end <= start + size)?;
        let maps = exe.maps.iter().chain(&self.inner);
        // The record is in a ring that some program of this run has, not always this one.
        maps.filter_map(|map| map.ring()).find_map(|ring| ring.region(addr, len))
    }

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
        let allowed = |map: &&Arc<Map>| {
            if write { map.programs_may_write() } else { map.programs_may_read() }
        };
        exe.maps
            .iter()
            .chain(&self.inner)
            .filter(allowed)
            .find_map(|map| map.value_region(addr, len))
            .or_else(|| self.record(exe, addr, len))
            .or_else(|| self.regions.iter().find_map(|region| find_in(*region, addr, len)))
            .or_else(|| self.keys.iter().filter(|_| !write).find_map(|key| find_in(key.slice(), addr, len)))
    }

    fn packet(&self, exe: &Executable, addr: u64, len: usize, write: bool) -> Option<Slice<'_>> {
        let may = describe_kind(&exe.program().kind).is_some_and(|d| {
            if write { d.packet == Packet::Write } else { self.reads_packet || d.packet != Packet::None }
        });
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
            let value = record.load(place.offset as usize, place.size).filter(|_| !(signed && pointer));
            return value.ok_or(FaultKind::Access { addr, size: size.bytes().into(), write: false });
        }
        let fault = FaultKind::Access { addr, size: size.bytes().into(), write: false };
        self.checked(exe, addr, size.bytes(), false)?.load(0, size).ok_or(fault)
    }

    /// Writes `value`, which is that of `src`, for a store instruction.
    pub(super) fn store(&self, exe: &Executable, addr: u64, size: Size, src: Src, value: u64) -> Result<(), FaultKind> {
        let fault = FaultKind::Access { addr, size: size.bytes().into(), write: true };
        if let Some((record, place, _)) = self.context_access(exe, addr, size, true)? {
            if !place.is_stored(src, value) {
                return Ok(());
            }
            return record.store(place.offset as usize, place.size, value).ok_or(fault);
        }
        self.checked(exe, addr, size.bytes(), true)?.store(0, size, value).ok_or(fault)
    }

    /// Where an access of the UAPI struct lands in the record, and whether it is a packet pointer; `None` for an
    /// address outside the context.
    fn context_access(
        &self,
        exe: &Executable,
        addr: u64,
        size: Size,
        write: bool,
    ) -> Result<Option<(Slice<'_>, RecordAccess, bool)>, FaultKind> {
        let Some(context) = self.context else { return Ok(None) };
        let Some(off) = addr.checked_sub(context.record_addr()) else { return Ok(None) };
        if off >= context.record().len() as u64 {
            return Ok(None);
        }
        let name = exe.context_desc().map_or("no context", |d| d.name);
        let fault = FaultKind::Context { context: name, off, size: size.bytes(), write };
        let (field, place) = exe.context_desc().and_then(|d| d.access(off as u32, size, write)).ok_or(fault)?;
        Ok(Some((context.record(), place, field.kind != FieldKind::Scalar)))
    }
}
