//! Ring buffers: records of any length, written by many, read by one (kernel/bpf/ringbuf.c).
//!
//! Positions count bytes for ever; a record of `len` bytes lies at `position % size`: a header of 8 bytes, whose first word is
//! the length with the bits [`BUSY`] and [`DISCARDED`], then the bytes, filled up to a multiple of 8.
//!
//! The memory is twice as long as the ring. A record that begins in the first half and does not end there goes on into the
//! second: it is always in one piece, as in the kernel, which maps the pages twice. The next record begins in the first
//! half again, so no byte belongs to two records.
//!
//! *Guarantees.* A reserved record's memory belongs to who reserved it until it is committed. The reader sees committed
//! records only, in the order in which they were reserved, each completely; it stops at one that is not committed yet. A
//! reservation never reaches memory that the reader has not given back.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::cell::{Bytes, OutOfMemory, Slice};
use super::spin::Spin;
use crate::insn::Size;

/// Bytes of a record's header.
pub(crate) const HEADER: u64 = 8;
/// In a header: reserved, not committed (`BPF_RINGBUF_BUSY_BIT`).
const BUSY: u32 = 1 << 31;
/// In a header: to be skipped (`BPF_RINGBUF_DISCARD_BIT`).
const DISCARDED: u32 = 1 << 30;
/// Longest record (`RINGBUF_MAX_RECORD_SZ`).
const RECORD_MAX: u64 = (u32::MAX / 4) as u64;

/// A ring buffer.
pub(crate) struct Ring {
    memory: Bytes,
    /// Bytes of the ring; a power of two.
    size: u64,
    consumer: AtomicU64,
    producer: AtomicU64,
    /// Held by who reserves.
    reserving: Spin,
    /// Somebody reads.
    reading: AtomicBool,
}

impl Ring {
    /// An empty one of `size` bytes, a power of two of at least 8.
    pub(crate) fn new(size: u32) -> Result<Ring, OutOfMemory> {
        let size = u64::from(size);
        Ok(Ring {
            memory: Bytes::zeroed(2 * size)?,
            size,
            consumer: AtomicU64::new(0),
            producer: AtomicU64::new(0),
            reserving: Spin::default(),
            reading: AtomicBool::new(false),
        })
    }

    /// Bytes of the ring.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }
    /// How far the reader has come.
    pub(crate) fn consumed(&self) -> u64 {
        self.consumer.load(Ordering::Acquire)
    }
    /// How far reservations have come.
    pub(crate) fn produced(&self) -> u64 {
        self.producer.load(Ordering::Acquire)
    }

    /// The header at a position.
    fn header(&self, position: u64) -> Option<Slice<'_>> {
        self.memory.slice().sub((position & (self.size - 1)) as usize, HEADER as usize)
    }

    /// The `len` bytes behind the header at a position.
    fn body(&self, position: u64, len: u64) -> Option<Slice<'_>> {
        let at = (position & (self.size - 1)) + HEADER;
        self.memory.slice().sub(usize::try_from(at).ok()?, usize::try_from(len).ok()?)
    }

    /// Room for a record; `None` where there is none at the moment, or never for so long a one.
    pub(crate) fn reserve(&self, len: u64) -> Option<Slice<'_>> {
        let whole = len.checked_add(HEADER)?.checked_next_multiple_of(8)?;
        if len > RECORD_MAX || whole > self.size {
            return None;
        }
        let guard = self.reserving.lock().ok()?;
        let position = self.producer.load(Ordering::Relaxed);
        let next = position + whole;
        // Acquires the bytes that the reader has given back.
        if next - self.consumer.load(Ordering::Acquire) > self.size - 1 {
            return None;
        }
        self.header(position)?.store(0, Size::W, u64::from(len as u32 | BUSY));
        self.producer.store(next, Ordering::Release);
        drop(guard);
        self.body(position, len)
    }

    /// Gives a reserved record to the reader, or (`discard`) to nobody. `header` is the window of its header.
    pub(crate) fn commit(header: Slice<'_>, discard: bool) {
        let Some(word) = header.atomic_u32(0) else { return };
        let len = word.load(Ordering::Relaxed) & !BUSY;
        word.store(if discard { len | DISCARDED } else { len }, Ordering::Release);
    }

    /// Writes one record made of `parts`; whether there was room.
    pub(crate) fn output(&self, parts: &[Slice<'_>]) -> bool {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        let Some(record) = self.reserve(len as u64) else { return false };
        let mut at = 0;
        for part in parts {
            if let Some(target) = record.sub(at, part.len()) {
                target.copy_from(*part);
            }
            at += part.len();
        }
        let offset = self.memory.slice().find(record.addr(), 0).unwrap_or_default();
        if let Some(header) = self.memory.slice().sub(offset - HEADER as usize, HEADER as usize) {
            Ring::commit(header, false);
        }
        true
    }

    /// [addr, addr + len) where it lies in the ring's memory.
    pub(crate) fn region(&self, addr: u64, len: usize) -> Option<Slice<'_>> {
        self.memory.slice().sub(self.memory.slice().find(addr, len)?, len)
    }

    /// Calls `each` with every committed record, at most `most`; answers how many there were. `None` while somebody else reads.
    pub(crate) fn consume(&self, most: usize, mut each: impl FnMut(&[u8])) -> Option<usize> {
        struct Reading<'a>(&'a AtomicBool);
        impl Drop for Reading<'_> {
            fn drop(&mut self) {
                self.0.store(false, Ordering::Release);
            }
        }
        if self.reading.swap(true, Ordering::Acquire) {
            return None;
        }
        let _reading = Reading(&self.reading);
        let (mut count, mut bytes) = (0, Vec::new());
        while count < most {
            let position = self.consumer.load(Ordering::Relaxed);
            if position == self.producer.load(Ordering::Acquire) {
                break;
            }
            let word = self.header(position)?.atomic_u32(0)?.load(Ordering::Acquire);
            if word & BUSY != 0 {
                break;
            }
            let len = u64::from(word & !DISCARDED);
            if word & DISCARDED == 0 {
                let body = self.body(position, len)?;
                bytes.resize(body.len(), 0);
                body.read(&mut bytes);
                count += 1;
            }
            // The record is copied: its memory can be used again even where `each` panics.
            self.consumer.store(position + (len + HEADER).next_multiple_of(8), Ordering::Release);
            if word & DISCARDED == 0 {
                each(&bytes);
            }
        }
        Some(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header_of<'a>(ring: &'a Ring, record: &Slice<'_>) -> Slice<'a> {
        ring.region(record.addr() - HEADER, HEADER as usize).unwrap()
    }

    fn read(ring: &Ring) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        ring.consume(usize::MAX, |bytes| all.push(bytes.to_vec())).unwrap();
        all
    }

    #[test]
    fn records_come_in_the_order_of_their_reservations_and_when_they_are_committed() {
        let ring = Ring::new(4096).unwrap();
        let (one, two, three) = (ring.reserve(3).unwrap(), ring.reserve(0).unwrap(), ring.reserve(16).unwrap());
        one.write(b"one");
        three.write(b"a record of three");
        Ring::commit(header_of(&ring, &three), false);
        assert!(read(&ring).is_empty(), "the first is not committed");
        Ring::commit(header_of(&ring, &one), false);
        assert_eq!(read(&ring), [b"one"]);
        Ring::commit(header_of(&ring, &two), true);
        assert_eq!(read(&ring), [b"a record of thre"], "a discarded one is skipped");
        assert_eq!((ring.produced(), ring.consumed()), (16 + 8 + 24, 16 + 8 + 24));
    }

    #[test]
    fn room_ends_where_the_reader_is() {
        let ring = Ring::new(4096).unwrap();
        assert!(ring.reserve(4089).is_none());
        assert!(ring.reserve(4088).is_none(), "the kernel leaves one byte free, so the whole is never used");
        assert!(ring.reserve(u64::MAX).is_none() && ring.reserve(u64::MAX - 8).is_none());
        let record = ring.reserve(4080).unwrap();
        assert!(ring.reserve(0).is_none());
        Ring::commit(header_of(&ring, &record), false);
        assert!(ring.reserve(0).is_none());
        assert_eq!(read(&ring).len(), 1);
        assert!(ring.reserve(4000).is_some());
    }

    #[test]
    fn a_record_is_in_one_piece_wherever_it_begins() {
        let ring = Ring::new(64).unwrap();
        for n in 0..100u8 {
            let text = vec![n; usize::from(n) % 48];
            let mut copy = text.clone();
            assert!(ring.output(&[Slice::from_mut(&mut copy)]), "{n}");
            assert_eq!(read(&ring), [text]);
        }
    }

    #[test]
    fn many_writers_one_reader() {
        let ring = Ring::new(1 << 12).unwrap();
        let (writers, each) = (3u8, 2000u32);
        std::thread::scope(|scope| {
            for writer in 0..writers {
                let ring = &ring;
                scope.spawn(move || {
                    let mut sent = 0u32;
                    while sent < each {
                        let mut bytes =
                            [&[writer][..], &sent.to_ne_bytes(), &vec![writer; sent as usize % 50]].concat();
                        if ring.output(&[Slice::from_mut(&mut bytes)]) { sent += 1 } else { std::thread::yield_now() }
                    }
                });
            }
            let mut next = vec![0u32; usize::from(writers)];
            while next.iter().any(|n| *n < each) {
                ring.consume(100, |bytes| {
                    let (writer, rest) = (bytes[0], &bytes[5..]);
                    let number = u32::from_ne_bytes(bytes[1..5].try_into().unwrap());
                    assert_eq!(number, next[usize::from(writer)], "no record is lost or comes twice");
                    assert!(rest.len() == number as usize % 50 && rest.iter().all(|b| *b == writer));
                    next[usize::from(writer)] += 1;
                })
                .unwrap();
            }
        });
        assert!(read(&ring).is_empty());
    }
}
