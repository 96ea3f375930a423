//! Sets of the kernel's helpers, by name.
//!
//! A set may hold helpers that livebpf does not provide: what a program type may call is told apart from what there is.
//! Which type has which is in `context::helper_sets`.

use super::id;

/// One past the last number that a set can hold.
const COUNT: u32 = 256;

/// Some of the kernel's helpers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HelperSet([u64; 4]);

impl HelperSet {
    /// No helper.
    pub const EMPTY: HelperSet = HelperSet([0; 4]);

    /// The helpers with these names, one space between two. A name that does not exist ends compilation.
    pub const fn named(list: &str) -> HelperSet {
        let (list, mut set) = (list.as_bytes(), HelperSet::EMPTY);
        let mut start = 0;
        while start < list.len() {
            let mut end = start;
            while end < list.len() && list[end] != b' ' {
                end += 1;
            }
            let id = number_of(list, start, end);
            set.0[id / 64] |= 1 << (id % 64);
            start = end + 1;
        }
        set
    }
    /// What is in either.
    pub const fn and(self, other: HelperSet) -> HelperSet {
        let ([a, b, c, d], [e, f, g, h]) = (self.0, other.0);
        HelperSet([a | e, b | f, c | g, d | h])
    }
    /// Whether helper `id` is in it. Embedders' helpers are in no set.
    pub fn contains(&self, id: u32) -> bool {
        self.0.get(id as usize / 64).is_some_and(|word| word & 1 << (id % 64) != 0)
    }
    /// The numbers of all in it, ascending.
    pub fn ids(self) -> impl Iterator<Item = u32> {
        (0..256).filter(move |id| self.contains(*id))
    }
}

/// The number of the helper whose name is `list[start..end]`.
const fn number_of(list: &[u8], start: usize, end: usize) -> usize {
    let mut number = 1;
    while number < COUNT {
        let name = match id::name(number) {
            Some(name) => name.as_bytes(),
            None => &[],
        };
        let mut same = 0;
        while name.len() == end - start && same < name.len() && name[same] == list[start + same] {
            same += 1;
        }
        if same == end - start {
            return number as usize;
        }
        number += 1;
    }
    panic!("no helper has this name")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::helper::Table;

    #[test]
    fn numbers_and_names_belong_together() {
        assert_eq!((id::name(0), id::name(211), id::name(212)), (None, Some("cgrp_storage_delete"), None));
        assert_eq!((id::name(COUNT - 1), id::name(COUNT)), (Some("classic_hatype"), None));
        for proto in Table::builtin().iter() {
            assert_eq!(id::name(proto.id), Some(proto.name.as_str()));
        }
    }

    #[test]
    fn sets() {
        let set = HelperSet::named("tail_call").and(HelperSet::named("xdp_adjust_head cgrp_storage_delete"));
        assert_eq!(set.ids().collect::<Vec<_>>(), [id::TAIL_CALL, id::XDP_ADJUST_HEAD, 211]);
        assert!(!set.contains(1) && !set.contains(0) && !set.contains(u32::MAX) && !set.contains(0x1_0000 + 12));
        assert_eq!(HelperSet::named(""), HelperSet::EMPTY);
    }
}
