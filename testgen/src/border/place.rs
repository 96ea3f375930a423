//! Memory at its edges: the stack, values of maps, the packet, the context.

use livebpf::helper::id;
use livebpf::insn::{AluOp, AtomicOp, Cond, Imm64, Insn, Reg, Size, Src, Width};
use livebpf::object::ProgType;

use super::map;
use super::writer::{CTX, SLOTS, What, Writer, slot_offset};
use crate::corners;
use crate::single::{ATOMIC_OPS, SIZES, WIDTHS};

impl Writer<'_, '_> {
    /// A size and an offset within `bytes`, at the end more often than not; beyond at times.
    fn place(&mut self, bytes: u32) -> Option<(Size, i32)> {
        let sizes: Vec<Size> = SIZES.into_iter().filter(|size| size.bytes() <= bytes).collect();
        if sizes.is_empty() {
            return None;
        }
        let size = self.source.pick(&sizes);
        let last = bytes - size.bytes();
        let off = match self.source.below(4) {
            0 => self.source.below(last + 1),
            1 => self.source.below(last / size.bytes() + 1) * size.bytes(),
            _ => last,
        } as i32;
        Some((size, if self.slip() { self.source.pick(&[last as i32 + 1, -1]) } else { off }))
    }

    /// Loads a number from what `base` points to.
    pub(super) fn load_within(&mut self, dst: Reg, base: Reg) {
        let Some((size, off)) = self.place(self.get(base).bytes()) else { return self.code.set(dst, 7) };
        if size != Size::DW && self.source.chance(1, 4) {
            self.code.push(Insn::LoadSx { size, dst, base, off: off as i16 });
        } else {
            self.code.load(size, dst, base, off);
        }
    }

    /// A load or a store through any pointer.
    pub(super) fn access_any(&mut self) {
        let pointers = self.regs(|what| what.bytes() > 0);
        if pointers.is_empty() {
            return self.lookup();
        }
        let base = self.source.pick(&pointers);
        if self.source.chance(1, 2) || !self.may_write(self.get(base)) {
            let dst = self.fresh(&[base]);
            self.load_within(dst, base);
            self.put(dst, What::Number);
        } else if let Some((size, off)) = self.place(self.get(base).bytes()) {
            let src = if self.source.chance(1, 2) {
                Src::Reg(self.number(&[base]))
            } else {
                Src::Imm(corners::i32(self.source))
            };
            if matches!(src, Src::Reg(reg) if reg == base) || self.get(base).bytes() == 0 {
                return;
            }
            self.code.store(size, base, off, src);
        }
    }

    fn may_write(&mut self, what: What) -> bool {
        let packet = matches!(self.env.prog_type, ProgType::XDP | ProgType::SCHED_CLS);
        !matches!(what, What::Packet(_)) || packet || self.slip()
    }

    /// A number that is narrowed, scaled and added to a pointer, then an access at the edge of what is there.
    pub(super) fn indexed_access(&mut self) {
        let base = self.fresh(&[]);
        self.put(base, What::Nothing);
        let Some((bytes, writable)) = self.region(base) else { return };
        let index = self.own_number(&[base]);
        if index == base {
            return;
        }
        let sizes: Vec<Size> = SIZES.into_iter().filter(|size| size.bytes() <= bytes / 2).collect();
        if sizes.is_empty() {
            return;
        }
        let size = self.source.pick(&sizes);
        let room = bytes - size.bytes();
        let scales: Vec<u32> = [1, 2, 4, 8, 3, 12].into_iter().filter(|scale| *scale <= room).collect();
        let scale = if scales.is_empty() { 1 } else { self.source.pick(&scales) };
        let most = (room / scale).max(1);
        let most = if self.source.chance(1, 3) { self.source.between(1, most) } else { most };
        self.narrow(index, most);
        if self.source.chance(1, 6) {
            let fixed = self.source.below(4) as i32;
            self.code.add(index, fixed);
            self.code.add(index, -fixed);
        }
        self.scale(index, scale);
        // Aligned places for the kernel's and our stack, where an access must be.
        let rest = (room as i32 - (most * scale) as i32).max(0);
        let off = if self.source.chance(1, 2) { rest } else { self.source.below(rest as u32 + 1) as i32 };
        let off = if self.slip() { off + 1 } else { off };
        self.offset_pointer(base, index, most * scale, off, size, writable);
    }

    fn scale(&mut self, index: Reg, scale: u32) {
        match scale {
            1 => {}
            2 | 4 | 8 if self.source.chance(1, 2) => {
                let width = self.source.pick(&[Width::W64, Width::W64, Width::W32]);
                let by = Src::Imm(scale.trailing_zeros() as i32);
                self.code.push(Insn::Alu { op: AluOp::Lsh, width, dst: index, src: by });
            }
            _ => self.code.alu(AluOp::Mul, index, Src::Imm(scale as i32)),
        }
    }

    /// `base ± index`, then the access `off` further.
    fn offset_pointer(&mut self, base: Reg, index: Reg, reach: u32, off: i32, size: Size, writable: bool) {
        let what = self.get(base);
        match self.source.below(6) {
            0 if what != What::Nothing => {
                // From behind: the pointer goes up first and comes back.
                self.code.add(base, reach as i32);
                self.code.alu(AluOp::Sub, base, Src::Reg(index));
            }
            1 => {
                // The sum is in the other register.
                self.code.alu(AluOp::Add, index, Src::Reg(base));
                self.code.copy(base, index);
                self.put(index, What::Nothing);
            }
            2 => {
                self.code.alu(AluOp::Add, base, Src::Reg(index));
                self.code.add(base, off);
                return self.touch(base, size, 0, writable);
            }
            _ => self.code.alu(AluOp::Add, base, Src::Reg(index)),
        }
        self.touch(base, size, off, writable);
    }

    fn touch(&mut self, base: Reg, size: Size, off: i32, writable: bool) {
        self.put(base, What::Nothing);
        if writable && self.source.chance(1, 2) {
            let src = if self.source.chance(1, 2) {
                Src::Imm(corners::i32(self.source))
            } else {
                Src::Reg(self.number(&[base]))
            };
            self.code.store(size, base, off, src);
            return;
        }
        let dst = self.fresh(&[]);
        self.code.load(size, dst, base, off);
        self.put(dst, What::Number);
    }

    /// Makes `base` point to the start of some memory; how many bytes, and whether they may be written.
    fn region(&mut self, base: Reg) -> Option<(u32, bool)> {
        match self.source.below(8) {
            0..=2 => {
                // The stack, aligned or not; what is read there has to be initialised.
                let slots = self.source.between(2, SLOTS as u32) as usize;
                for slot in 0..slots {
                    if self.holds.slots[slot] != What::Number && !self.slip() {
                        self.code.store(Size::DW, Reg::FP, slot_offset(slot), Src::Imm(slot as i32));
                        self.holds.slots[slot] = What::Number;
                    }
                }
                self.code.copy(base, Reg::FP);
                self.code.add(base, slot_offset(slots - 1));
                Some((8 * slots as u32, true))
            }
            3..=5 => {
                let (idx, bytes, writable) =
                    self.source.pick(&[(map::SINGLE, 48, true), (map::SINGLE, 48, true), (map::FROZEN, 24, false)]);
                let off = if self.source.chance(1, 3) { self.source.below(bytes / 2) } else { 0 };
                let value = Imm64::MapIdxValue { idx: idx as i32, off };
                self.code.push(Insn::LoadImm64 { dst: base, value });
                let writable = writable || self.slip();
                self.put(base, What::Memory(bytes - off));
                Some((bytes - off, writable))
            }
            _ => {
                let pointers = self.regs(|what| what.bytes() >= 2);
                if pointers.is_empty() {
                    return None;
                }
                let from = self.source.pick(&pointers);
                let what = self.get(from);
                self.code.copy(base, from);
                let writable = self.may_write(what);
                // The index moves a packet pointer away from what was checked: then the check comes afterwards.
                if matches!(what, What::Packet(_)) && !self.slip() {
                    self.checked_packet_index();
                    return None;
                }
                self.put(base, what);
                Some((what.bytes(), writable))
            }
        }
    }

    /// The registers for the packet's beginning and end.
    fn packet_ends(&mut self) -> Option<(Reg, Reg)> {
        let (start, end) = match self.env.prog_type {
            ProgType::XDP => (if self.source.chance(1, 6) { 8 } else { 0 }, 4),
            ProgType::SOCKET_FILTER => return None,
            _ => (76, 80),
        };
        if self.get(CTX) != What::Ctx {
            return None;
        }
        let data = self.fresh(&[]);
        let stop = self.fresh(&[data]);
        self.code.load(Size::W, data, CTX, start);
        self.code.load(Size::W, stop, CTX, end);
        self.put(data, What::Nothing);
        self.put(stop, What::Nothing);
        if start == 8 {
            // Metadata ends where the packet begins.
            let limit = if self.source.chance(2, 3) { 0 } else { 4 };
            self.code.load(Size::W, stop, CTX, limit);
        }
        Some((data, stop))
    }

    /// A pointer into the packet, and how many bytes from there exist.
    pub(super) fn packet_check(&mut self) {
        let Some((data, stop)) = self.packet_ends() else { return self.legacy() };
        if self.source.chance(1, 3) {
            let off = self.source.below(20) as i32;
            self.code.add(data, off);
        }
        let bytes = self.source.pick(&[1, 2, 4, 8, 14, 15, 20, 34, 60]);
        self.compare_end(data, stop, bytes);
        self.put(data, What::Packet(bytes));
    }

    /// A bounded number is added to a packet pointer, and then it is checked.
    fn checked_packet_index(&mut self) {
        let Some((data, stop)) = self.packet_ends() else { return };
        self.holds.regs[data.index()] = What::Ctx;
        let index = self.own_number(&[data, stop]);
        if index == data || index == stop {
            return;
        }
        let most = self.source.pick(&[3, 15, 63, 255, 1000]);
        self.narrow(index, most);
        self.code.alu(AluOp::Add, data, Src::Reg(index));
        if self.source.chance(1, 3) {
            self.code.add(data, self.source.below(9) as i32);
        }
        let bytes = self.source.pick(&[1, 2, 4, 8, 9]);
        self.compare_end(data, stop, bytes);
        self.put(data, What::Packet(bytes));
        if self.source.chance(1, 2) {
            let dst = self.fresh(&[data]);
            self.load_within(dst, data);
            self.put(dst, What::Number);
        }
    }

    /// `data + bytes <= stop`, in any form.
    fn compare_end(&mut self, data: Reg, stop: Reg, bytes: u32) {
        if self.slip() {
            return;
        }
        let bytes = if self.slip() { bytes - 1 } else { bytes } as i32;
        let past = self.fresh(&[data, stop]);
        self.code.copy(past, data);
        self.put(past, What::Nothing);
        let (out, width) = (self.out, Width::W64);
        let open = self.source.chance(1, 4);
        // `past >= stop` leaves one byte more than `past > stop`.
        self.code.add(past, if open { bytes - 1 } else { bytes });
        let (greater, less) = if open { (Cond::Ge, Cond::Le) } else { (Cond::Gt, Cond::Lt) };
        match self.source.below(4) {
            0 => self.code.jump_if(greater, width, past, Src::Reg(stop), out),
            1 => self.code.jump_if(less, width, stop, Src::Reg(past), out),
            2 => {
                let ok = self.code.label();
                self.code.jump_if(if open { Cond::Lt } else { Cond::Le }, width, past, Src::Reg(stop), ok);
                self.code.jump(out);
                self.code.bind(ok);
            }
            _ => {
                let ok = self.code.label();
                self.code.jump_if(if open { Cond::Gt } else { Cond::Ge }, width, stop, Src::Reg(past), ok);
                self.code.jump(out);
                self.code.bind(ok);
            }
        }
    }

    /// Packet loads of old; they leave where the packet is too short.
    fn legacy(&mut self) {
        let types = [ProgType::SOCKET_FILTER, ProgType::SCHED_CLS];
        if self.get(CTX) != What::Ctx || !types.contains(&self.env.prog_type) {
            return;
        }
        let size = self.source.pick(&[Size::B, Size::H, Size::W]);
        let off = self.source.below(40) as i32;
        if self.source.chance(1, 2) {
            self.code.push(Insn::LoadAbs { size, off });
        } else {
            let src = self.number(&[]);
            self.code.push(Insn::LoadInd { size, src, off });
        }
        self.clobber(What::Number);
    }

    /// A map's value, checked for null in one of many ways.
    pub(super) fn lookup(&mut self) {
        let (idx, key, bytes) =
            self.source.pick(&[(map::ARRAY, 4, 20), (map::HASH, 8, 16), (map::PERCPU, 4, 8), (map::SINGLE, 4, 48)]);
        self.write_key(key);
        self.code.map(Reg::R1, idx);
        self.code.helper(id::MAP_LOOKUP_ELEM);
        self.clobber(What::Nothing);
        let (out, width) = (self.out, Width::W64);
        let kept = self.fresh(&[Reg::R0]);
        if self.slip() {
            self.put(Reg::R0, What::Memory(bytes));
            return;
        }
        match self.source.below(5) {
            0 => {
                self.code.jump_if(Cond::Eq, width, Reg::R0, Src::Imm(0), out);
                self.put(Reg::R0, What::Memory(bytes));
            }
            1 => {
                let ok = self.code.label();
                self.code.jump_if(Cond::Ne, width, Reg::R0, Src::Imm(0), ok);
                self.code.jump(out);
                self.code.bind(ok);
                self.put(Reg::R0, What::Memory(bytes));
            }
            2 => {
                // A copy is checked, the other one used.
                self.code.copy(kept, Reg::R0);
                let checked = if self.source.chance(1, 2) { kept } else { Reg::R0 };
                self.code.jump_if(Cond::Eq, width, checked, Src::Imm(0), out);
                self.put(kept, What::Memory(bytes));
                self.put(Reg::R0, What::Memory(bytes));
            }
            3 => {
                // Stored before it is checked.
                let slot = self.source.below(SLOTS as u32) as usize;
                self.code.store(Size::DW, Reg::FP, slot_offset(slot), Src::Reg(Reg::R0));
                self.code.jump_if(Cond::Eq, width, Reg::R0, Src::Imm(0), out);
                self.holds.slots[slot] = What::Memory(bytes);
                self.code.load(Size::DW, kept, Reg::FP, slot_offset(slot));
                self.put(kept, What::Memory(bytes));
            }
            _ => {
                // Used on one side only.
                let (null, done) = (self.code.label(), self.code.label());
                self.code.jump_if(Cond::Eq, width, Reg::R0, Src::Imm(0), null);
                self.put(Reg::R0, What::Memory(bytes));
                self.load_within(kept, Reg::R0);
                self.code.jump(done);
                self.code.bind(null);
                self.code.set(kept, 3);
                self.code.bind(done);
                self.put(Reg::R0, What::Nothing);
                self.put(kept, What::Number);
            }
        }
    }

    /// Puts a key on the stack and its address into R2.
    fn write_key(&mut self, bytes: i32) {
        let slot = self.source.below(SLOTS as u32) as usize;
        let key = self.source.below(5) as i32;
        if !self.slip() {
            let size = if bytes == 4 { Size::W } else { Size::DW };
            self.code.store(size, Reg::FP, slot_offset(slot), Src::Imm(key));
            if self.holds.slots[slot] != What::Number || bytes == 8 {
                self.holds.slots[slot] = if bytes == 8 { What::Number } else { What::Nothing };
            }
        }
        self.code.copy(Reg::R2, Reg::FP);
        self.code.add(Reg::R2, slot_offset(slot));
    }

    /// An update with key and value from the stack.
    pub(super) fn map_update(&mut self) {
        let (idx, key, value) = self.source.pick(&[(map::ARRAY, 4, 20), (map::HASH, 8, 16), (map::PERCPU, 4, 8)]);
        self.write_key(key);
        // The value begins deep enough, and all of it is there.
        let slots = (value as usize).div_ceil(8);
        let first = self.source.below((SLOTS - slots + 1) as u32) as usize + slots - 1;
        for slot in first + 1 - slots..=first {
            if self.holds.slots[slot] != What::Number && !self.slip() {
                self.code.store(Size::DW, Reg::FP, slot_offset(slot), Src::Imm(9));
                self.holds.slots[slot] = What::Number;
            }
        }
        self.code.copy(Reg::R3, Reg::FP);
        self.code.add(Reg::R3, slot_offset(first));
        self.code.set(Reg::R4, self.source.pick(&[0, 0, 1, 2, 3]));
        self.code.map(Reg::R1, idx);
        let delete = self.source.chance(1, 4);
        self.code.helper(if delete { id::MAP_DELETE_ELEM } else { id::MAP_UPDATE_ELEM });
        self.clobber(What::Number);
    }

    /// A register to the stack, whole or in part, and perhaps something over it.
    pub(super) fn spill(&mut self) {
        let regs = self.regs(|what| what != What::Nothing);
        if regs.is_empty() {
            return;
        }
        let (src, slot) = (self.source.pick(&regs), self.source.below(SLOTS as u32) as usize);
        let off = slot_offset(slot);
        if self.get(src) == What::Number && self.source.chance(1, 2) {
            let size = self.source.pick(&SIZES);
            let at = self.source.below(8 / size.bytes()) * size.bytes();
            self.code.store(size, Reg::FP, off + at as i32, Src::Reg(src));
            if size == Size::DW {
                self.holds.slots[slot] = What::Number;
            } else if self.holds.slots[slot] != What::Number {
                self.holds.slots[slot] = What::Nothing;
            }
            return;
        }
        self.code.store(Size::DW, Reg::FP, off, Src::Reg(src));
        self.holds.slots[slot] = self.get(src);
        if self.slip() {
            // Part of it is overwritten, and nobody remembers.
            let at = self.source.below(8) as i32;
            self.code.store(Size::B, Reg::FP, off + at, Src::Imm(1));
        }
    }

    /// A slot to a register, whole or in part.
    pub(super) fn fill(&mut self) {
        let slots: Vec<usize> = (0..SLOTS).filter(|i| self.holds.slots[*i] != What::Nothing).collect();
        if slots.is_empty() {
            return self.spill();
        }
        let slot = self.source.pick(&slots);
        let (what, off) = (self.holds.slots[slot], slot_offset(slot));
        let dst = self.fresh(&[]);
        if what == What::Number && self.source.chance(1, 2) {
            let size = self.source.pick(&SIZES);
            let at = (self.source.below(8 / size.bytes()) * size.bytes()) as i32;
            if size != Size::DW && self.source.chance(1, 4) {
                self.code.push(Insn::LoadSx { size, dst, base: Reg::FP, off: (off + at) as i16 });
            } else {
                self.code.load(size, dst, Reg::FP, off + at);
            }
        } else {
            self.code.load(Size::DW, dst, Reg::FP, off);
        }
        self.put(dst, what);
    }

    /// Bytes of the stack one by one, at the ends of what is initialised.
    pub(super) fn stack_bytes(&mut self) {
        let size = self.source.pick(&[Size::B, Size::H, Size::W]);
        let count = 8 / size.bytes();
        let slot = self.source.below(SLOTS as u32) as usize;
        let missing = if self.slip() { self.source.below(count) } else { count };
        for i in (0..count).filter(|i| *i != missing) {
            let off = slot_offset(slot) + (i * size.bytes()) as i32;
            let src = if self.source.chance(1, 2) { Src::Imm(0) } else { Src::Reg(self.number(&[])) };
            self.code.store(size, Reg::FP, off, src);
        }
        self.holds.slots[slot] = What::Number;
        let dst = self.fresh(&[]);
        self.code.load(self.source.pick(&[Size::DW, Size::DW, size]), dst, Reg::FP, slot_offset(slot));
        self.put(dst, What::Number);
    }

    /// A read-modify-write of the stack or a map's value.
    pub(super) fn atomic(&mut self) {
        let op = self.source.pick(&ATOMIC_OPS);
        let width = self.source.pick(&WIDTHS);
        let bytes = if width == Width::W64 { 8 } else { 4 };
        let memory = self.regs(|what| matches!(what, What::Memory(n) if n >= 8));
        let src = self.own_number(&[Reg::R0]);
        let (base, off) = if memory.is_empty() || self.source.chance(1, 2) {
            let numbers: Vec<usize> = (0..SLOTS).filter(|i| self.holds.slots[*i] == What::Number).collect();
            if numbers.is_empty() {
                return;
            }
            let slot = self.source.pick(&numbers);
            (Reg::FP, slot_offset(slot) + if bytes == 4 && self.source.chance(1, 2) { 4 } else { 0 })
        } else {
            let base = self.source.pick(&memory);
            let room = self.get(base).bytes() / bytes;
            (base, (self.source.below(room) * bytes) as i32)
        };
        if base == src || self.get(base) == What::Number {
            return;
        }
        if op == AtomicOp::Cmpxchg {
            if base == Reg::R0 || self.fixed.contains(&Reg::R0) || src == Reg::R0 {
                return;
            }
            self.code.set(Reg::R0, corners::i32(self.source));
            self.put(Reg::R0, What::Number);
        }
        let off = if self.slip() { off + self.source.between(1, 8) as i32 } else { off };
        self.code.push(Insn::Atomic { op, width, base, off: off as i16, src });
    }

    /// A field of the context, or what is beside it.
    pub(super) fn context_access(&mut self) {
        if self.get(CTX) != What::Ctx {
            return;
        }
        let xdp = self.env.prog_type == ProgType::XDP;
        let off = if xdp { self.source.pick(&[12, 16]) } else { self.source.pick(&[0, 4, 8, 16, 40, 48, 52, 64]) };
        let size = self.source.pick(&[Size::W, Size::W, Size::H, Size::B]);
        let at = (self.source.below(4 / size.bytes()) * size.bytes()) as i32;
        let off = if self.slip() { off + self.source.between(1, 120) as i32 } else { off };
        if !xdp
            && (off == 8 && self.env.prog_type == ProgType::SCHED_CLS || (48..68).contains(&off))
            && self.source.chance(1, 2)
        {
            let src = self.number(&[]);
            self.code.store(Size::W, CTX, off, Src::Reg(src));
            return;
        }
        let dst = self.fresh(&[]);
        self.code.load(size, dst, CTX, off + at);
        self.put(dst, What::Number);
    }
}
