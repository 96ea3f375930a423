//! Stack, context, and accesses through pointers whose range is known.

use livebpf::context::{Field, Packet};
use livebpf::insn::{AtomicOp, Insn, Reg, Size, Src, Width};

use super::func::{CTX, Func};
use super::state::{Kind, NUMBER, Slot};
use crate::corners;
use crate::single::{ATOMIC_OPS, SIZES};

/// The offset of a slot's first byte from the frame pointer.
pub(super) fn slot_offset(slot: usize) -> i32 {
    -8 * (slot as i32 + 1)
}

/// The bits of `Slot::Bytes` that an access covers.
fn byte_mask(at: u32, size: Size) -> u8 {
    (((1u32 << size.bytes()) - 1) << at) as u8
}

impl Func<'_, '_> {
    /// A slot that may be overwritten.
    fn target_slot(&mut self, number: bool) -> Option<usize> {
        let slots: Vec<usize> =
            (0..self.state.slots.len()).filter(|&slot| self.state.may_write_slot(slot, number)).collect();
        (!slots.is_empty()).then(|| self.source.pick(&slots))
    }

    pub(super) fn stack_store(&mut self) {
        let usable = self.state.regs_where(Kind::is_usable);
        let src = self.source.pick(&usable);
        let kind = self.state.get(src);
        let number = kind.is_scalar() || self.source.chance(1, 2);
        let Some(slot) = self.target_slot(number) else { return };
        let off = slot_offset(slot);
        if !number || (kind.is_scalar() && self.source.chance(1, 2)) {
            self.code.store(Size::DW, Reg::FP, off, Src::Reg(src));
            self.state.slots[slot] = Slot::Spill(kind);
            return;
        }
        let src = self.scalar_or_imm(&[]);
        // Part of a spilled pointer is never overwritten: it would be neither pointer nor number.
        let size = if self.state.slots[slot].is_pointer() { Size::DW } else { self.source.pick(&SIZES) };
        let at = self.source.below(8 / size.bytes()) * size.bytes();
        self.code.store(size, Reg::FP, off + at as i32, src);
        let readable = self.state.slots[slot].readable() | byte_mask(at, size);
        self.state.slots[slot] = Slot::Bytes(readable);
    }

    pub(super) fn stack_load(&mut self) {
        let readable = |slot: &Slot| match *slot {
            Slot::Bytes(mask) => mask != 0,
            Slot::Spill(kind) => kind.is_usable(),
        };
        let slots: Vec<usize> = (0..self.state.slots.len()).filter(|&i| readable(&self.state.slots[i])).collect();
        if slots.is_empty() {
            return self.stack_store();
        }
        let slot = self.source.pick(&slots);
        match self.state.slots[slot] {
            Slot::Spill(kind) if !kind.is_scalar() || self.source.chance(1, 2) => {
                let dst = self.target(kind.is_scalar(), &[]);
                self.code.load(Size::DW, dst, Reg::FP, slot_offset(slot));
                self.state.set(dst, kind);
            }
            bytes => self.load_bytes(slot, bytes.readable()),
        }
    }

    /// Loads some initialised bytes of a slot.
    fn load_bytes(&mut self, slot: usize, readable: u8) {
        let mut places = Vec::new();
        for size in SIZES {
            for at in (0..8).step_by(size.bytes() as usize) {
                if byte_mask(at, size) & !readable == 0 {
                    places.push((size, at));
                }
            }
        }
        let (size, at) = self.source.pick(&places);
        let dst = self.target(true, &[]);
        let off = slot_offset(slot) + at as i32;
        if size != Size::DW && self.source.chance(1, 4) {
            self.code.push(Insn::LoadSx { size, dst, base: Reg::FP, off: off as i16 });
        } else {
            self.code.load(size, dst, Reg::FP, off);
        }
        self.state.set(dst, NUMBER);
    }

    /// Finds slots for `bytes` contiguous bytes and initialises them with numbers; gives the offset of the first byte
    /// from the frame pointer. `None` when there is no room.
    pub(super) fn stack_area(&mut self, bytes: u32, initialise: bool) -> Option<i32> {
        let need = bytes.div_ceil(8) as usize;
        let fits = |first: usize| (first..first + need).all(|slot| self.state.may_write_slot(slot, true));
        let last_start = self.state.slots.len().checked_sub(need)?;
        let starts: Vec<usize> = (0..=last_start).filter(|&first| fits(first)).collect();
        if starts.is_empty() || need == 0 {
            return None;
        }
        let first = self.source.pick(&starts);
        for slot in first..first + need {
            if initialise && !self.slip() {
                let src = if self.source.chance(1, 2) {
                    Src::Imm(corners::i32(self.source))
                } else {
                    Src::Reg(self.scalar(&[]))
                };
                self.code.store(Size::DW, Reg::FP, slot_offset(slot), src);
            }
            self.state.slots[slot] = Slot::Bytes(0xff);
        }
        Some(slot_offset(first + need - 1))
    }

    /// Marks the bytes from `area` that a helper wrote; the rest of their slots is as unknown as it may have been.
    pub(super) fn trim_area(&mut self, area: i32, len: u32) {
        for byte in len..len.next_multiple_of(8) {
            let off = area + byte as i32;
            let slot = (-off - 1) / 8;
            if let Some(Slot::Bytes(mask)) = self.state.slots.get_mut(slot as usize) {
                *mask &= !(1 << (off & 7));
            }
        }
    }

    pub(super) fn context_access(&mut self) {
        let fields = self.env.scalar_fields();
        if fields.is_empty() {
            return;
        }
        let field = self.source.pick(&fields);
        let write = field.writable && self.source.chance(1, 3);
        let (size, off) = self.field_access(field, write);
        if write {
            let src = self.scalar_or_imm(&[]);
            self.code.store(size, CTX, off, src);
            return;
        }
        let dst = self.target(true, &[]);
        let off = if self.slip() { off + 1 } else { off };
        self.code.load(size, dst, CTX, off);
        self.state.set(dst, NUMBER);
    }

    /// An access that the field allows.
    fn field_access(&mut self, field: &Field, write: bool) -> (Size, i32) {
        let size = self.source.pick(&SIZES);
        // Wide accesses of arrays of words must be aligned in the struct, not in the field.
        let at = self.source.below(field.size.div_ceil(size.bytes())) * size.bytes();
        let off = (field.offset + at) / size.bytes() * size.bytes();
        if field.in_record(off, size, write).is_some() {
            return (size, off as i32);
        }
        let part = SIZES.into_iter().find(|size| size.bytes() == field.unit).unwrap_or(Size::B);
        (part, field.offset as i32)
    }

    pub(super) fn pointer_access(&mut self) {
        let pointers = self.state.regs_where(|kind| kind.accessible() > 0);
        if pointers.is_empty() {
            return self.stack_load();
        }
        let base = self.source.pick(&pointers);
        self.access(base);
    }

    /// One access of any kind within what may be accessed through `base`.
    pub(super) fn access(&mut self, base: Reg) {
        let kind = self.state.get(base);
        let range = kind.accessible();
        let sizes: Vec<Size> = SIZES.into_iter().filter(|size| size.bytes() <= range).collect();
        if sizes.is_empty() {
            return;
        }
        let size = self.source.pick(&sizes);
        let last = range - size.bytes();
        let aligned = matches!(kind, Kind::Buffer { .. }) || self.source.chance(1, 2);
        let off = if self.slip() {
            // One byte too far, or one in front.
            if self.source.chance(1, 4) { -1 } else { last as i32 + 1 }
        } else if aligned {
            (self.source.below(last / size.bytes() + 1) * size.bytes()) as i32
        } else {
            self.source.below(last + 1) as i32
        };
        let may_store = !kind.is_packet() || self.env.desc.is_some_and(|desc| desc.packet == Packet::Write);
        let is_value = matches!(kind, Kind::Value { .. });
        match self.source.below(8) {
            0..=3 => self.plain_load(size, base, off),
            4 | 5 if may_store => {
                let src = self.scalar_or_imm(&[base]);
                self.code.store(size, base, off, src);
            }
            6 if self.shape.atomics && is_value => self.atomic(base, range),
            7 if self.shape.ordered && is_value => self.ordered(size, base, off / size.bytes() as i32),
            _ => self.plain_load(size, base, off),
        }
    }

    fn plain_load(&mut self, size: Size, base: Reg, off: i32) {
        let dst = self.target(true, &[]);
        if size != Size::DW && self.source.chance(1, 5) {
            self.code.push(Insn::LoadSx { size, dst, base, off: off as i16 });
        } else {
            self.code.load(size, dst, base, off);
        }
        self.state.set(dst, NUMBER);
    }

    /// An atomic operation on an aligned place of a map's value.
    fn atomic(&mut self, base: Reg, range: u32) {
        let width = if range >= 8 && self.source.chance(1, 2) { Width::W64 } else { Width::W32 };
        let bytes = if width == Width::W64 { 8 } else { 4 };
        if range < bytes {
            return;
        }
        let off = (self.source.below(range / bytes) * bytes) as i16;
        let op = self.source.pick(&ATOMIC_OPS);
        let avoid = [base, Reg::R0];
        let src = self.writable_scalar(&avoid);
        if op == AtomicOp::Cmpxchg {
            if base == Reg::R0 {
                return;
            }
            let expected = self.source.below(3) as i32;
            self.code.set(Reg::R0, expected);
            self.state.set(Reg::R0, NUMBER);
        }
        self.code.push(Insn::Atomic { op, width, base, off, src });
        if !matches!(op, AtomicOp::Cmpxchg) {
            self.state.set(src, NUMBER);
        }
    }

    fn ordered(&mut self, size: Size, base: Reg, index: i32) {
        let off = (index * size.bytes() as i32) as i16;
        if self.source.chance(1, 2) {
            let dst = self.target(true, &[]);
            self.code.push(Insn::LoadAcquire { size, dst, base, off });
            self.state.set(dst, NUMBER);
        } else {
            let src = self.scalar(&[base]);
            self.code.push(Insn::StoreRelease { size, base, off, src });
        }
    }
}
