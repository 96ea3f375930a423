//! Where choices come from: a seed (SplitMix64) or a fuzzer's bytes. The value 0 is the simplest choice throughout,
//! because that is what a source of bytes gives for ever when it has run out.

/// A sequence of choices.
#[derive(Clone, Debug)]
pub struct Source<'a> {
    kind: Kind<'a>,
}

#[derive(Clone, Debug)]
enum Kind<'a> {
    Seed(u64),
    Bytes(&'a [u8]),
}

impl Source<'static> {
    /// A pseudo-random sequence, the same everywhere.
    pub fn seeded(seed: u64) -> Source<'static> {
        Source { kind: Kind::Seed(seed) }
    }
}

impl<'a> Source<'a> {
    /// Choices read from `bytes`, then zeros.
    pub fn bytes(bytes: &'a [u8]) -> Source<'a> {
        Source { kind: Kind::Bytes(bytes) }
    }

    /// Nothing but zeros will follow.
    pub fn is_exhausted(&self) -> bool {
        matches!(self.kind, Kind::Bytes([]))
    }

    /// `n` bytes of choice, at most 8, little endian.
    fn take(&mut self, n: usize) -> u64 {
        match &mut self.kind {
            Kind::Seed(state) => {
                *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let mut z = *state;
                z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                let word = z ^ (z >> 31);
                if n >= 8 { word } else { word & ((1 << (8 * n)) - 1) }
            }
            Kind::Bytes(bytes) => {
                let (head, rest) = bytes.split_at(n.min(bytes.len()));
                *bytes = rest;
                head.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte))
            }
        }
    }

    /// Any 64-bit number.
    pub fn u64(&mut self) -> u64 {
        self.take(8)
    }

    /// Any 32-bit number.
    pub fn u32(&mut self) -> u32 {
        self.take(4) as u32
    }

    /// A number below `n`; 0 when `n` is 0.
    pub fn below(&mut self, n: u32) -> u32 {
        let bytes = if n <= 1 << 8 {
            1
        } else if n <= 1 << 16 {
            2
        } else {
            4
        };
        (self.take(bytes) % u64::from(n.max(1))) as u32
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&mut self, low: u32, high: u32) -> u32 {
        low + self.below(high.saturating_sub(low).saturating_add(1))
    }

    /// True in about `numerator` of `denominator` cases; false when the choices have run out.
    pub fn chance(&mut self, numerator: u32, denominator: u32) -> bool {
        self.below(denominator) >= denominator.saturating_sub(numerator)
    }

    /// One of `items`.
    ///
    /// # Panics
    /// When there are none.
    pub fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len() as u32) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_one_sequence() {
        // The first numbers of SplitMix64 with seed 0 (Steele, Lea, Flood 2014).
        let mut source = Source::seeded(0);
        assert_eq!(source.u64(), 0xe220_a839_7b1d_cdaf);
        assert_eq!(source.u64(), 0x6e78_9e6a_a1b9_65f4);
        assert_ne!(Source::seeded(1).u64(), Source::seeded(0).u64());
    }

    #[test]
    fn bytes_are_used_up_and_then_zeros_follow() {
        let mut source = Source::bytes(&[7, 1, 2, 0xff]);
        assert_eq!(source.below(5), 2);
        assert_eq!(source.below(1000), 0x201);
        assert!(source.chance(1, 10) == (255 % 10 >= 9));
        assert!(source.is_exhausted());
        assert_eq!((source.u64(), source.below(9), source.between(3, 8)), (0, 0, 3));
        assert!(!source.chance(9, 10));
    }

    #[test]
    fn every_choice_is_made() {
        let mut source = Source::seeded(7);
        let mut seen = [0; 10];
        for _ in 0..1000 {
            seen[source.below(10) as usize] += 1;
        }
        assert!(seen.iter().all(|&n| n > 50), "{seen:?}");
    }
}
