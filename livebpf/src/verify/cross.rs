//! Numbers that callbacks read and write in the stacks of the functions around them.
//!
//! Which numbers matter is found by data flow within each function ([`super::live`]). That a callback reads a slot of a
//! frame further out, or writes it, is known only from exploration, which notes it here: a link between the callback's
//! register and the slot, at the call of the helper. Such a slot matters there if what the callback reads from it
//! matters, and what the callback writes to it matters if the slot does (then the next callback may read it, or the
//! function after the helper). The order of reads and writes is not regarded, so both are told to matter rather too
//! often.

use std::collections::{BTreeMap, BTreeSet};

use super::live::Mask;
use crate::insn::{Pc, Reg};

/// One access of a callback: the instruction, the register, the helper's call in the frame that owns the slots.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Link {
    pc: Pc,
    reg: Reg,
    site: Pc,
    slots: u64,
}

/// All that is known.
#[derive(Clone, Default)]
pub(super) struct Cross {
    reads: BTreeSet<Link>,
    writes: BTreeSet<Link>,
    /// What follows from it: slots that matter at a helper's call, and registers at a store.
    slots: BTreeMap<Pc, u64>,
    regs: BTreeMap<Pc, u16>,
}

impl Cross {
    /// The instruction at `pc` reads `slots` of the frame that called the helper at `site` into `reg`; whether that is new.
    pub fn read(&mut self, pc: Pc, reg: Reg, site: Pc, slots: u64) -> bool {
        self.reads.insert(Link { pc, reg, site, slots })
    }
    /// The instruction at `pc` writes `reg` there.
    pub fn write(&mut self, pc: Pc, reg: Reg, site: Pc, slots: u64) -> bool {
        self.writes.insert(Link { pc, reg, site, slots })
    }
    /// Nothing is noted.
    pub fn is_empty(&self) -> bool {
        self.reads.is_empty() && self.writes.is_empty()
    }
    /// Forgets what follows; the links stay.
    pub fn restart(&mut self) {
        self.slots.clear();
        self.regs.clear();
    }
    /// What matters before the instruction at `pc` because of the links.
    pub fn wanted(&self, pc: Pc) -> Mask {
        let (slots, regs) = (self.slots.get(&pc), self.regs.get(&pc));
        Mask { regs: regs.copied().unwrap_or(0), slots: slots.copied().unwrap_or(0) }
    }
    /// Draws conclusions from what matters before each instruction; whether there are new ones.
    pub fn conclude(&mut self, before: &[Mask]) -> bool {
        let mut grown = false;
        for link in &self.reads {
            // Loads and atomics run on to the next slot.
            if before[link.pc.next().index()].reg(link.reg) {
                let known = self.slots.entry(link.site).or_default();
                grown |= link.slots & !*known != 0;
                *known |= link.slots;
            }
        }
        for link in &self.writes {
            if before[link.site.index()].slots & link.slots != 0 {
                let known = self.regs.entry(link.pc).or_default();
                let bit = 1 << link.reg.index();
                grown |= *known & bit == 0;
                *known |= bit;
            }
        }
        grown
    }
}
