//! Packet accesses behind bound checks, in the shapes that compilers produce, and helpers that move the packet.

use livebpf::context::{FieldKind, Packet};
use livebpf::helper::id;
use livebpf::insn::{AluOp, Cond, Insn, Reg, Size, Src, Width};

use super::func::{CTX, Func};
use super::state::{Kind, NUMBER};

impl Func<'_, '_> {
    /// `if (data + n > data_end)`, then accesses of the `n` bytes and a block in which they may be accessed.
    pub(super) fn packet_check(&mut self, depth: u32) {
        let readable = self.shape.packet && self.env.desc.is_some_and(|desc| desc.packet >= Packet::Read);
        let meta = self.source.chance(1, 12);
        let (from, to) = if meta {
            (FieldKind::PacketMeta, FieldKind::PacketData)
        } else {
            (FieldKind::PacketData, FieldKind::PacketEnd)
        };
        let fields = self.env.pointer_field(from).zip(self.env.pointer_field(to));
        let Some((data, end)) = fields.filter(|_| readable) else { return self.context_access() };

        let start = self.target(false, &[]);
        let limit = self.target(false, &[start]);
        let (first, second) =
            if self.source.chance(1, 2) { ((start, data), (limit, end)) } else { ((limit, end), (start, data)) };
        self.code.load(Size::W, first.0, CTX, first.1);
        self.code.load(Size::W, second.0, CTX, second.1);
        self.state.set(start, Kind::Packet { range: 0 });
        self.state.set(limit, Kind::PacketEnd);
        self.advance(start, limit);

        let checked = self.source.between(1, 40);
        let probe = self.target(false, &[start, limit]);
        self.code.copy(probe, start);
        self.code.add(probe, checked as i32);
        self.state.set(probe, Kind::Packet { range: 0 });
        let range = if self.slip() { checked + 1 } else { checked };
        self.guarded(start, limit, probe, range, depth);
    }

    /// Moves a packet pointer ahead: not at all, by a constant, or by a bounded number.
    fn advance(&mut self, start: Reg, limit: Reg) {
        match self.source.below(4) {
            2 => {
                let by = self.source.pick(&[14, 1, 2, 20, 34]);
                self.code.add(start, by);
            }
            3 => {
                let max = self.source.pick(&[15, 63, 255, 9, 0x7fff]);
                let by = self.bounded(max, &[start, limit]);
                self.code.alu(AluOp::Add, start, Src::Reg(by));
            }
            _ => {}
        }
    }

    /// The comparison and what it guards.
    fn guarded(&mut self, start: Reg, limit: Reg, probe: Reg, range: u32, depth: u32) {
        let skip = self.code.label();
        let leave = self.source.chance(1, 3);
        let out = if leave { self.bail_out() } else { skip };
        let (start_or_probe, unchecked) = if self.slip() { (start, false) } else { (probe, self.slip()) };
        let (probe_src, limit_src) = (Src::Reg(start_or_probe), Src::Reg(limit));
        let before = self.state.clone();
        match self.source.below(4) {
            _ if unchecked => {}
            0 => self.code.jump_if(Cond::Gt, Width::W64, start_or_probe, limit_src, out),
            1 => self.code.jump_if(Cond::Lt, Width::W64, limit, probe_src, out),
            inverted => {
                let inside = self.code.label();
                if inverted == 2 {
                    self.code.jump_if(Cond::Le, Width::W64, start_or_probe, limit_src, inside);
                } else {
                    self.code.jump_if(Cond::Ge, Width::W64, limit, probe_src, inside);
                }
                self.code.jump(out);
                self.code.bind(inside);
            }
        }
        self.state.set(start, Kind::Packet { range });
        let keep = self.state.clone();
        for _ in 0..self.source.between(1, 3) {
            if self.state.get(start) != keep.get(start) {
                break;
            }
            self.access(start);
        }
        if !leave {
            let count = self.source.below(4);
            self.block(count, depth + 1);
            self.state.join(&before);
        }
        self.code.bind(skip);
    }

    /// Helpers without a map: move the packet's bounds, copy its bytes, ask for the CPU.
    pub(super) fn helper(&mut self) {
        let moves = self.shape.adjust && !self.state.kept.packet;
        match self.source.below(3) {
            0 if moves && self.env.has_helper(id::XDP_ADJUST_HEAD) => {
                let helper = self.source.pick(&[id::XDP_ADJUST_HEAD, id::XDP_ADJUST_TAIL]);
                self.adjust(helper);
            }
            1 if self.env.has_helper(id::SKB_LOAD_BYTES) => self.load_bytes_helper(),
            _ => {
                self.code.helper(id::GET_SMP_PROCESSOR_ID);
                self.state.clobber(NUMBER);
            }
        }
    }

    fn adjust(&mut self, helper: u32) {
        let by = self.source.between(0, 16) as i32 - 8;
        self.code.copy(Reg::R1, CTX);
        self.code.set(Reg::R2, by);
        self.code.helper(helper);
        self.state.clobber(NUMBER);
        self.changes_packet = true;
        if !self.slip() {
            self.state.forget_packet();
        }
    }

    fn load_bytes_helper(&mut self) {
        let len = self.source.pick(&[8, 1, 4, 6, 14, 16]);
        let Some(area) = self.stack_area(len, false) else { return self.arithmetic_fallback() };
        let from = self.source.between(0, 40) as i32;
        let len = if self.slip() { len + 64 } else { len };
        self.code.copy(Reg::R1, CTX);
        self.code.set(Reg::R2, from);
        self.code.copy(Reg::R3, Reg::FP);
        self.code.add(Reg::R3, area);
        self.code.set(Reg::R4, len as i32);
        self.code.push(Insn::Call { helper: id::SKB_LOAD_BYTES });
        self.state.clobber(NUMBER);
        // What the helper does not fill: it writes `len` bytes, and the area is whole slots.
        self.trim_area(area, len);
    }

    /// A legacy load, which ends the function with 0 where the packet is too short.
    pub(super) fn legacy_load(&mut self) {
        if self.env.desc.is_none_or(|desc| desc.context.name != "__sk_buff") {
            return self.arithmetic_fallback();
        }
        const NETWORK: i32 = -0x10_0000;
        const ETHERNET: i32 = -0x20_0000;
        let size = self.source.pick(&[Size::W, Size::B, Size::H]);
        let from = self.source.pick(&[0, 0, 0, NETWORK, ETHERNET]);
        let off = from + self.source.between(0, 40) as i32;
        if self.source.chance(1, 2) {
            let src = self.scalar(&[]);
            self.code.push(Insn::LoadInd { size, src, off });
        } else {
            self.code.push(Insn::LoadAbs { size, off });
        }
        self.state.clobber(NUMBER);
    }

    fn arithmetic_fallback(&mut self) {
        let dst = self.writable_scalar(&[]);
        self.code.add(dst, 1);
        self.state.set(dst, NUMBER);
    }
}
