//! Calls: helpers with sized memory, subprograms, tail calls, helpers that move the packet.

use livebpf::helper::id;
use livebpf::insn::{Reg, Size, Src};
use livebpf::object::ProgType;

use super::writer::{CTX, SLOTS, What, Writer, slot_offset};
use super::{Param, map};

impl Writer<'_, '_> {
    /// Packet bytes into the stack: as many as a narrowed number says.
    pub(super) fn sized_helper(&mut self) {
        if self.env.prog_type == ProgType::XDP || self.get(CTX) != What::Ctx {
            return self.lookup();
        }
        let slots = self.source.between(1, SLOTS as u32);
        let size = self.own_number(&[Reg::R1, Reg::R2, Reg::R3]);
        let exact = self.source.chance(1, 2);
        if exact {
            let bytes = if self.slip() { 8 * slots + 1 } else { self.source.between(1, 8 * slots) };
            self.code.set(size, bytes as i32);
        } else {
            self.narrow(size, 8 * slots - 1);
            if !self.slip() {
                self.code.add(size, 1);
            }
            for slot in 0..slots as usize {
                if self.holds.slots[slot] != What::Number && !self.slip() {
                    self.code.store(Size::DW, Reg::FP, slot_offset(slot), Src::Imm(0));
                }
                self.holds.slots[slot] = What::Number;
            }
        }
        self.code.copy(Reg::R4, size);
        self.code.copy(Reg::R1, CTX);
        self.code.set(Reg::R2, self.source.pick(&[0, 1, 14, 1000]));
        self.code.copy(Reg::R3, Reg::FP);
        self.code.add(Reg::R3, slot_offset(slots as usize - 1));
        self.code.helper(id::SKB_LOAD_BYTES);
        self.clobber(What::Number);
        if exact {
            for slot in 0..slots as usize {
                if self.holds.slots[slot] != What::Number {
                    self.holds.slots[slot] = What::Nothing;
                }
            }
        }
    }

    /// A subprogram with a number, or a pointer to the stack, at its edge.
    pub(super) fn call_function(&mut self) {
        let callees: Vec<usize> = (self.index + 1..=self.env.subprograms.len())
            .filter(|callee| self.env.subprograms[callee - 1].callback.is_none())
            .collect();
        if callees.is_empty() {
            return;
        }
        let callee = self.source.pick(&callees);
        let signature = self.env.subprograms[callee - 1].clone();
        if signature.params.contains(&Param::Ctx) && self.get(CTX) != What::Ctx {
            return;
        }
        let mut set = vec![];
        for (i, param) in (1u8..).zip(&signature.params) {
            let Some(reg) = Reg::new(i) else { break };
            match *param {
                Param::Ctx => self.code.copy(reg, CTX),
                Param::Opaque => self.code.set(reg, 0),
                Param::Number => {
                    let numbers: Vec<Reg> =
                        self.regs(|what| what == What::Number).into_iter().filter(|r| !set.contains(r)).collect();
                    if numbers.is_empty() {
                        self.code.set(reg, 5);
                    } else {
                        let from = self.source.pick(&numbers);
                        self.code.copy(reg, from);
                    }
                }
                Param::Buffer(bytes) => {
                    let slot = self.source.below(SLOTS as u32 - 1) as usize + 1;
                    for slot in [slot, slot - 1] {
                        if self.holds.slots[slot] != What::Number && !self.slip() {
                            self.code.store(Size::DW, Reg::FP, slot_offset(slot), Src::Imm(2));
                        }
                        self.holds.slots[slot] = What::Number;
                    }
                    self.code.copy(reg, Reg::FP);
                    let edge = if self.slip() { 1 - bytes as i32 } else { slot_offset(slot) };
                    self.code.add(reg, edge);
                }
            }
            self.put(reg, What::Ctx);
            set.push(reg);
        }
        self.code.call(callee);
        self.clobber(What::Number);
        if self.env.prog_type != ProgType::SOCKET_FILTER {
            // It may have moved the packet.
            self.forget_packet();
        }
    }

    fn forget_packet(&mut self) {
        let forget = |what: &mut What| {
            if matches!(what, What::Packet(_)) {
                *what = What::Nothing;
            }
        };
        self.holds.regs.iter_mut().for_each(forget);
        self.holds.slots.iter_mut().for_each(forget);
    }

    /// A tail call by a constant or a number; on failure it goes on.
    pub(super) fn tail_call(&mut self) {
        if self.get(CTX) != What::Ctx {
            return;
        }
        let index = match self.source.below(3) {
            0 => Src::Reg(self.number(&[Reg::R1, Reg::R2])),
            _ => Src::Imm(self.source.below(6) as i32),
        };
        self.code.mov(Reg::R3, index);
        self.code.copy(Reg::R1, CTX);
        self.code.map(Reg::R2, map::CALLS);
        self.code.helper(id::TAIL_CALL);
        self.clobber(What::Nothing);
    }

    /// Packet pointers are stale afterwards; the slip is to go on with them.
    pub(super) fn move_packet(&mut self) {
        if self.env.prog_type != ProgType::XDP || self.get(CTX) != What::Ctx {
            return self.access_any();
        }
        self.code.copy(Reg::R1, CTX);
        self.code.set(Reg::R2, self.source.pick(&[0, 4, -4, 8, -14]));
        self.code.helper(self.source.pick(&[id::XDP_ADJUST_HEAD, id::XDP_ADJUST_TAIL]));
        self.clobber(What::Number);
        if !self.slip() {
            self.forget_packet();
        }
    }
}
