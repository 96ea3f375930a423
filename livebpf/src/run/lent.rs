//! Memory that embedders' helpers hand out: blocks of one size, which live as long as the runtime.
//!
//! A closure names a block by its number, from 1; programs see its address. So whatever a closure answers, a program
//! only ever gets a block or null. Two programs may get the same block at once: then they share it, as they share the
//! values of a map.

use crate::map::cell::{Bytes, OutOfMemory, Slice};

/// The blocks of one class.
#[derive(Debug)]
pub(crate) struct Lent {
    memory: Bytes,
    size: usize,
    stride: usize,
    count: u64,
}

impl Lent {
    /// `count` blocks of `size` bytes, all zero.
    pub(crate) fn new(size: u32, count: u32) -> Result<Lent, OutOfMemory> {
        let stride = u64::from(size).next_multiple_of(8);
        let memory = Bytes::zeroed(stride * u64::from(count))?;
        Ok(Lent { memory, size: size as usize, stride: stride as usize, count: count.into() })
    }
    /// Block `number`, from 1.
    pub(super) fn block(&self, number: u64) -> Option<Slice<'_>> {
        let index = number.checked_sub(1).filter(|n| *n < self.count)?;
        self.memory.slice().sub(index as usize * self.stride, self.size)
    }
    /// The number of the block that begins at `addr`; 0 where none does.
    pub(super) fn number(&self, addr: u64) -> u64 {
        let off = addr.wrapping_sub(self.memory.addr());
        let (index, rest) = (off / self.stride as u64, off % self.stride as u64);
        if rest == 0 && index < self.count { index + 1 } else { 0 }
    }
    /// All of them.
    pub(super) fn blocks(&self) -> impl Iterator<Item = Slice<'_>> {
        (1..=self.count).filter_map(|number| self.block(number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_addresses_lead_to_each_other_and_nowhere_else() {
        let lent = Lent::new(12, 3).unwrap();
        let starts: Vec<u64> = lent.blocks().map(Slice::addr).collect();
        assert_eq!(starts.len(), 3);
        for (i, addr) in starts.iter().enumerate() {
            assert_eq!(lent.number(*addr), i as u64 + 1);
            assert_eq!(lent.block(i as u64 + 1).map(|b| (b.addr(), b.len())), Some((*addr, 12)));
        }
        assert!(lent.block(0).is_none() && lent.block(4).is_none() && lent.block(u64::MAX).is_none());
        assert_eq!([lent.number(0), lent.number(starts[0] + 8), lent.number(starts[2] + 16)], [0; 3]);
    }
}
