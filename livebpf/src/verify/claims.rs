//! What the verifier claims about registers, kept so that tests can hold it against what registers really hold.
//!
//! The strongest test of a verifier is not that accepted programs do no harm but that every statement made on the way to
//! the verdict is true: with the feature `fault-injection`, [`Claims`] keeps for each instruction the states that were explored
//! there, and `Claims::check` says whether a running machine is described by one of them. Without the feature nothing is
//! kept and [`Claims`] is empty. Never part of a proof.

use super::state::State;
use crate::insn::Pc;

#[cfg(not(feature = "fault-injection"))]
pub use off::Claims;
#[cfg(feature = "fault-injection")]
pub use on::{Claims, World};

#[cfg(not(feature = "fault-injection"))]
mod off {
    use super::{Pc, State};

    /// Nothing is kept.
    #[derive(Clone, Copy, Debug)]
    pub struct Claims(());

    impl Claims {
        pub(in crate::verify) fn begin(&self, _slots: u32) {}
        pub(in crate::verify) fn every_number(&self) -> bool {
            false
        }
        #[inline]
        pub(in crate::verify) fn note(&self, _state: &State, _pc: Pc) {}
        pub(in crate::verify) fn end(&self, _live: &[u16]) {}
    }
}

#[cfg(feature = "fault-injection")]
mod on {
    use std::cell::RefCell;
    use std::fmt;
    use std::sync::Arc;

    use super::super::live::Mask;
    use super::super::scalar::Scalar;
    use super::super::state::{AT_END, Frame, Kind, PAST_END, Value};
    use super::{Pc, State};
    use crate::insn::Reg;
    use crate::map::Map;

    /// States kept for one instruction; beyond, nothing is claimed there.
    const MOST: usize = 32;

    /// Which states were explored where.
    pub struct Claims {
        every_number: bool,
        kept: RefCell<Kept>,
    }

    #[derive(Default)]
    struct Kept {
        /// By instruction; `None` where there are too many.
        states: Vec<Option<Vec<Claim>>>,
        live: Vec<u16>,
    }

    impl fmt::Debug for Claims {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "claims about {:?} instructions", self.extent())
        }
    }

    struct Claim {
        depth: usize,
        frame: Frame,
    }

    /// What claims are held against: a machine just before an instruction.
    pub struct World<'a> {
        /// R0 to R10.
        pub regs: &'a [u64; 11],
        /// Where R1 pointed at the start.
        pub context: u64,
        /// Where metadata, packet and what is behind the packet begin; `None` without a packet.
        pub packet: Option<[u64; 3]>,
        /// The frame pointers, the outermost first; the last is R10.
        pub frames: &'a dyn Fn(usize) -> Option<u64>,
        /// The index of the frame that runs.
        pub depth: usize,
        /// The program's maps.
        pub maps: &'a [Arc<Map>],
    }

    impl Claims {
        /// Keeps everything. With `every_number`, the verifier treats each number as one that matters, so that each is
        /// claimed; otherwise nothing is claimed of numbers, which need not be what they were on the path that was explored.
        pub fn keep(every_number: bool) -> Claims {
            Claims { every_number, kept: RefCell::default() }
        }
        pub(in crate::verify) fn every_number(&self) -> bool {
            self.every_number
        }
        /// Another exploration begins, which makes claims of its own.
        pub(in crate::verify) fn begin(&self, slots: u32) {
            self.kept.borrow_mut().states = (0..slots).map(|_| Some(Vec::new())).collect();
        }
        /// `state` is about to execute the instruction at `pc`.
        #[inline]
        pub(in crate::verify) fn note(&self, state: &State, pc: Pc) {
            let place = &mut self.kept.borrow_mut().states[pc.index()];
            match place {
                Some(states) if states.len() < MOST => {
                    states.push(Claim { depth: state.depth(), frame: state.cur.clone() });
                }
                full => *full = None,
            }
        }
        /// The exploration that counts is over.
        pub(in crate::verify) fn end(&self, live: &[u16]) {
            self.kept.borrow_mut().live = live.to_vec();
        }

        /// How many instructions claims are made about, of how many that were reached.
        pub fn extent(&self) -> (usize, usize) {
            let states = &self.kept.borrow().states;
            let reached = states.iter().filter(|s| s.as_ref().is_none_or(|s| !s.is_empty())).count();
            (states.iter().filter(|s| s.as_ref().is_some_and(|s| !s.is_empty())).count(), reached)
        }

        /// Whether a machine that is about to execute the instruction at `pc` is one that was explored.
        ///
        /// # Errors
        /// The claims at `pc`, and which register does not fit which of them.
        pub fn check(&self, pc: Pc, world: &World<'_>) -> Result<(), String> {
            let kept = self.kept.borrow();
            let Some(Some(states)) = kept.states.get(pc.index()) else { return Ok(()) };
            let live = Mask { regs: kept.live[pc.index()], slots: 0 };
            if states.iter().any(|claim| first_wrong(claim, world, live, self.every_number).is_none()) {
                return Ok(());
            }
            let mut text = format!("claims at {pc} do not hold; {} states were explored there", states.len());
            for claim in states.iter().take(4) {
                if let Some(reg) = first_wrong(claim, world, live, self.every_number) {
                    let (found, claimed) = (world.regs[reg.index()], claim.frame.reg(reg));
                    let line = format!("\n  R{} is {found:#x}, claimed {claimed} {claimed:?}", reg.number());
                    text.push_str(&line);
                }
            }
            Err(text)
        }
    }

    /// The first register that matters and is not what `claim` says.
    fn first_wrong(claim: &Claim, world: &World<'_>, live: Mask, numbers: bool) -> Option<Reg> {
        let wrong = |reg: &Reg| {
            let value = claim.frame.reg(*reg);
            live.reg(*reg) && !holds(claim, value, numbers, world.regs[reg.index()], world)
        };
        Reg::ALL.into_iter().find(wrong).or_else(|| unequal(claim, world, live).filter(|_| numbers))
    }

    /// Registers with one name hold one number, but for the distance that is known. Claimed only where every number
    /// counts: a path on which they do not matter may have been taken for one on which they were found equal.
    fn unequal(claim: &Claim, world: &World<'_>, live: Mask) -> Option<Reg> {
        let named = |reg: &Reg| {
            let value = claim.frame.reg(*reg);
            live.reg(*reg) && value.is_scalar() && value.id != 0
        };
        let origin = |reg: Reg| world.regs[reg.index()].wrapping_sub(claim.frame.reg(reg).off as i64 as u64);
        let differs = |a: Reg, b: Reg| claim.frame.reg(a).id == claim.frame.reg(b).id && origin(a) != origin(b);
        let others = |reg: &Reg| Reg::ALL.into_iter().filter(named).any(|other| differs(*reg, other));
        Reg::ALL.into_iter().filter(named).find(others)
    }

    fn holds(claim: &Claim, value: &Value, numbers: bool, found: u64, world: &World<'_>) -> bool {
        if value.is_scalar() {
            return !numbers || member(&value.num, found);
        }
        if value.nullable && found == 0 {
            return true;
        }
        let at = |base: u64| member(&value.num, found.wrapping_sub(base).wrapping_sub(value.off as i64 as u64));
        match value.kind {
            Kind::Ctx => at(world.context),
            Kind::Packet => world.packet.is_none_or(|[_, data, end]| at(data) && in_range(value, found, data, end)),
            Kind::PacketMeta => {
                world.packet.is_none_or(|[meta, data, _]| at(meta) && in_range(value, found, meta, data))
            }
            Kind::PacketEnd => world.packet.is_none_or(|[_, _, end]| at(end)),
            Kind::Stack(frame) => {
                let back = claim.depth.checked_sub(usize::from(frame));
                let index = back.and_then(|back| world.depth.checked_sub(back));
                index.and_then(|index| (world.frames)(index)).is_none_or(at)
            }
            Kind::Map(map) => world.maps.get(map.0 as usize).is_none_or(|map| Arc::as_ptr(map) as u64 == found),
            // Which element it is in is not claimed.
            Kind::MapValue(map) => match world.maps.get(map.0 as usize) {
                Some(map) if map.max_entries() == 1 => map.data_addr().is_none_or(at),
                _ => found != 0,
            },
            _ => true,
        }
    }

    fn member(num: &Scalar, found: u64) -> bool {
        found & !num.bits.mask == num.bits.value && num.r.contains(found) && num.w.contains(found as u32)
    }

    /// So many bytes from the pointer's base exist. The fixed offset counts from the base.
    fn in_range(value: &Value, found: u64, start: u64, end: u64) -> bool {
        let base = found.wrapping_sub(value.off as i64 as u64);
        matches!(value.range, 0 | AT_END | PAST_END)
            || base >= start && base.checked_add(u64::from(value.range)).is_some_and(|last| last <= end)
    }
}
