//! Arrays and per-CPU arrays: one block of values, by index.
//!
//! Values are `value_size` rounded up to 8 apart, so each is 8-aligned and words in it can be accessed atomically. A
//! per-CPU array is one such array per CPU, each beginning on a cache line of its own.

use super::cell::{Bytes, OutOfMemory, Slice};
use super::{ArrayLayout, MapError, Source, guard};

/// The values of an array.
pub(super) struct Array {
    block: Bytes,
    value_size: usize,
    stride: usize,
    entries: u32,
    /// Bytes from one CPU's array to the next one's; 0 when not per CPU.
    cpu_stride: usize,
    /// 1 when not per CPU.
    cpus: u32,
    /// Offset of the lock in each value, where there is one.
    lock: Option<usize>,
}

impl Array {
    /// `entries` zero values. `cpus` is given for a per-CPU array.
    pub(super) fn new(value_size: u32, entries: u32, cpus: Option<u32>) -> Result<Array, OutOfMemory> {
        let (stride, cpu_stride) = ArrayLayout::strides(value_size, entries);
        let (cpus, cpu_stride, len) = match cpus {
            None => (1, 0, stride.checked_mul(entries.into())),
            Some(cpus) => (cpus, cpu_stride, cpu_stride.checked_mul(cpus.into())),
        };
        let block = Bytes::zeroed(len.unwrap_or(u64::MAX))?;
        Ok(Array {
            block,
            value_size: value_size as usize,
            stride: stride as usize,
            entries,
            cpu_stride: cpu_stride as usize,
            cpus,
            lock: None,
        })
    }

    /// The same with a lock at this offset in each value.
    pub(super) fn with_lock(self, lock: Option<u32>) -> Array {
        Array { lock: lock.map(|off| off as usize), ..self }
    }

    pub(super) fn layout(&self) -> ArrayLayout {
        ArrayLayout { data: self.block.addr(), stride: self.stride as u64, cpu_stride: self.cpu_stride as u64 }
    }

    #[inline]
    fn is_percpu(&self) -> bool {
        self.cpu_stride != 0
    }

    /// Whether there is one value for all CPUs, without a lock.
    #[inline]
    pub(super) fn is_plain(&self) -> bool {
        !self.is_percpu() && self.lock.is_none()
    }

    pub(super) fn user_value_size(&self) -> usize {
        if self.is_percpu() { self.stride * self.cpus as usize } else { self.value_size }
    }

    /// The value at `index`, of CPU `cpu` where that matters.
    #[inline]
    pub(super) fn value(&self, index: u32, cpu: u32) -> Option<Slice<'_>> {
        if index >= self.entries {
            return None;
        }
        // Neither product can overflow for a valid index and CPU; `sub` refuses a CPU that does not exist.
        let cpu_start = self.cpu_stride.checked_mul(cpu as usize)?;
        self.block.slice().sub(cpu_start.checked_add(self.stride * index as usize)?, self.value_size)
    }

    /// Sets it; with `locked`, while holding its lock.
    #[inline]
    pub(super) fn update(&self, index: u32, value: impl Source, cpu: u32, locked: bool) -> Result<(), MapError> {
        let Some(target) = self.value(index, cpu) else {
            return Err(MapError::Invalid(format!("there is no CPU {cpu}, the map has {}", self.cpus).into()));
        };
        match self.lock {
            None => value.copy_to(target),
            Some(lock) => guard::put(value, target, lock, locked)?,
        }
        Ok(())
    }

    /// A copy of the value as users see it.
    pub(super) fn read(&self, index: u32) -> Option<Vec<u8>> {
        if !self.is_percpu() {
            return self.value(index, 0).map(Slice::to_vec);
        }
        let mut all = vec![0; self.user_value_size()];
        for (cpu, part) in all.chunks_exact_mut(self.stride).enumerate() {
            self.value(index, cpu as u32)?.read(part);
        }
        Some(all)
    }

    /// Sets the value from the form in which users see it, whose size has been checked.
    pub(super) fn write(&self, index: u32, value: &[u8], locked: bool) -> Result<(), MapError> {
        if !self.is_percpu() {
            return self.update(index, value, 0, locked);
        }
        for (cpu, part) in value.chunks_exact(self.stride).enumerate() {
            self.update(index, &part[..self.value_size], cpu as u32, false)?;
        }
        Ok(())
    }

    pub(super) fn value_region(&self, addr: u64, len: usize) -> Option<Slice<'_>> {
        let block = self.block.slice();
        let off = block.find(addr, len)?;
        let in_cpu = if self.is_percpu() { off % self.cpu_stride } else { off };
        let in_value = in_cpu % self.stride;
        let inside = in_value.checked_add(len)? <= self.value_size && in_cpu / self.stride < self.entries as usize;
        if inside { block.sub(off, len) } else { None }
    }
}
