//! Queues and stacks: values without keys (kernel/bpf/queue_stack_maps.c).

use std::sync::atomic::{AtomicU64, Ordering};

use super::cell::{Bytes, OutOfMemory, Slice};
use super::spin::Spin;
use super::{BPF_EXIST, BPF_NOEXIST, MapError, Source};

/// Values in the order in which they were pushed; the last or the first of them is the next to be popped.
pub(super) struct Queue {
    values: Bytes,
    value_size: usize,
    entries: u64,
    /// The last one pushed goes first.
    stack: bool,
    /// How many were pushed, and how many of the oldest are gone; changed under the lock.
    pushed: AtomicU64,
    gone: AtomicU64,
    lock: Spin,
}

impl Queue {
    pub(super) fn new(value_size: u32, entries: u32, stack: bool) -> Result<Queue, OutOfMemory> {
        let stride = u64::from(value_size).next_multiple_of(8);
        Ok(Queue {
            values: Bytes::zeroed(stride.saturating_mul(entries.into()))?,
            value_size: value_size as usize,
            entries: entries.into(),
            stack,
            pushed: AtomicU64::new(0),
            gone: AtomicU64::new(0),
            lock: Spin::default(),
        })
    }

    /// Values there are.
    pub(super) fn len(&self) -> u32 {
        let gone = self.gone.load(Ordering::Relaxed);
        self.pushed.load(Ordering::Relaxed).saturating_sub(gone) as u32
    }

    fn place(&self, n: u64) -> Option<Slice<'_>> {
        let stride = self.value_size.next_multiple_of(8);
        self.values.slice().sub((n % self.entries) as usize * stride, self.value_size)
    }

    /// Adds a value. With [`BPF_EXIST`] the oldest one makes room in a full map. `EINVAL`, `E2BIG`.
    pub(super) fn push(&self, value: impl Source, flags: u64) -> Result<(), MapError> {
        if flags > BPF_EXIST || flags & BPF_NOEXIST != 0 {
            return Err(MapError::Invalid(format!("push flags {flags:#x} are not 0 (any) or 2 (exist)").into()));
        }
        let _guard = self.lock.lock()?;
        let (pushed, gone) = (self.pushed.load(Ordering::Relaxed), self.gone.load(Ordering::Relaxed));
        if pushed - gone == self.entries {
            if flags & BPF_EXIST == 0 {
                return Err(MapError::Full { max_entries: self.entries as u32 });
            }
            self.gone.store(gone + 1, Ordering::Relaxed);
        }
        if let Some(place) = self.place(pushed) {
            value.copy_to(place);
        }
        self.pushed.store(pushed + 1, Ordering::Relaxed);
        Ok(())
    }

    /// Copies the next value to `to`, and takes it away where `take` says so. `ENOENT`: `to` is zeroed.
    pub(super) fn next(&self, to: Slice<'_>, take: bool) -> Result<(), MapError> {
        let guard = self.lock.lock();
        let (pushed, gone) = (self.pushed.load(Ordering::Relaxed), self.gone.load(Ordering::Relaxed));
        if guard.is_err() || pushed == gone {
            to.clear();
            return guard.and(Err(MapError::NotFound));
        }
        let n = if self.stack { pushed - 1 } else { gone };
        if let Some(place) = self.place(n) {
            to.copy_from(place);
        }
        match (take, self.stack) {
            (false, _) => {}
            (true, true) => self.pushed.store(pushed - 1, Ordering::Relaxed),
            (true, false) => self.gone.store(gone + 1, Ordering::Relaxed),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_popped_once() {
        for stack in [false, true] {
            let queue = Queue::new(16, 8, stack).unwrap();
            let each = if cfg!(miri) { 20u64 } else { 3000 };
            let popped = std::thread::scope(|scope| {
                for writer in 0..2u64 {
                    let queue = &queue;
                    scope.spawn(move || {
                        for n in 0..each {
                            let value = [writer * each + n, !(writer * each + n)].map(u64::to_ne_bytes).concat();
                            while queue.push(&value[..], 0).is_err() {
                                std::thread::yield_now();
                            }
                        }
                    });
                }
                let mut popped = Vec::new();
                while (popped.len() as u64) < 2 * each {
                    let mut value = [0; 16];
                    if queue.next(Slice::from_mut(&mut value), true).is_err() {
                        assert_eq!(value, [0; 16]);
                        std::thread::yield_now();
                        continue;
                    }
                    let (number, check) = value.split_at(8);
                    let [number, check] = [number, check].map(|b| u64::from_ne_bytes(b.try_into().unwrap()));
                    assert_eq!(number, !check, "values come in one piece");
                    popped.push(number);
                }
                popped
            });
            let mut sorted = popped;
            sorted.sort_unstable();
            assert_eq!(sorted, (0..2 * each).collect::<Vec<_>>());
            assert_eq!(queue.len(), 0);
        }
    }
}
