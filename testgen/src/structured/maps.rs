//! Maps: lookups with null checks, updates and deletions, global data.

use livebpf::helper::id;
use livebpf::insn::{AluOp, Cond, Imm64, Insn, Reg, Size, Src, Width};
use livebpf::object::MapType;

use super::func::Func;
use super::state::{Kind, NUMBER};

/// Types that can be looked up.
const LOOKUP: [MapType; 3] = [MapType::ARRAY, MapType::PERCPU_ARRAY, MapType::HASH];

impl Func<'_, '_> {
    /// Writes a key to the stack and sets R1 to the map and R2 to the key. `None` when there is no map or no room.
    fn map_and_key(&mut self, types: &[MapType]) -> Option<usize> {
        let maps = self.env.maps_of(types);
        if maps.is_empty() {
            return None;
        }
        let map = self.source.pick(&maps);
        let env = self.env;
        let def = &env.maps[map];
        let area = self.stack_area(def.key_size, true)?;
        let size = if def.key_size == 8 { Size::DW } else { Size::W };
        if self.source.chance(3, 4) {
            // A key that is likely to exist; the last one is just outside an array.
            let key = self.source.below(def.max_entries.min(16) + 1) as i32;
            self.code.store(size, Reg::FP, area, Src::Imm(key));
        }
        self.code.map(Reg::R1, map);
        self.code.copy(Reg::R2, Reg::FP);
        self.code.add(Reg::R2, area);
        Some(map)
    }

    /// `value = bpf_map_lookup_elem(&map, &key); if (value) ...`
    pub(super) fn map_lookup(&mut self, depth: u32) {
        let Some(map) = self.map_and_key(&LOOKUP) else { return self.stack_store() };
        let size = self.env.maps[map].value_size;
        self.code.helper(id::MAP_LOOKUP_ELEM);
        self.state.clobber(Kind::Mixed);
        // A copy made before the check is checked with it.
        let copy = self.source.chance(1, 2).then(|| self.target(false, &[Reg::R0]));
        if let Some(copy) = copy {
            self.code.copy(copy, Reg::R0);
            self.state.set(copy, Kind::Mixed);
        }
        let tested = copy.filter(|_| self.source.chance(1, 3)).unwrap_or(Reg::R0);
        let leave = self.source.chance(1, 3);
        let skip = self.code.label();
        let out = if leave { self.bail_out() } else { skip };
        let before = self.state.clone();
        self.null_check(tested, out);
        for reg in [Some(Reg::R0), copy].into_iter().flatten() {
            self.state.set(reg, Kind::Value { size });
        }
        let base = copy.unwrap_or(Reg::R0);
        if self.source.chance(1, 3) {
            self.variable_offset(base, size);
        } else {
            self.access(base);
        }
        if !leave {
            let count = self.source.below(4);
            self.block(count, depth + 1);
            self.state.join(&before);
        }
        self.code.bind(skip);
    }

    fn null_check(&mut self, tested: Reg, out: super::code::Label) {
        let null = Src::Imm(0);
        if self.slip() {
            return;
        }
        if self.source.chance(2, 3) {
            self.code.jump_if(Cond::Eq, Width::W64, tested, null, out);
        } else {
            let found = self.code.label();
            self.code.jump_if(Cond::Ne, Width::W64, tested, null, found);
            self.code.jump(out);
            self.code.bind(found);
        }
    }

    /// An access at a computed place inside a value: the sum of pointer and bounded number goes to another register.
    fn variable_offset(&mut self, base: Reg, size: u32) {
        let reach = match size {
            0..=4 => 0,
            5..=11 => 3,
            12..=23 => 7,
            _ => 15,
        };
        let index = self.bounded(reach, &[base]);
        let moved = self.target(false, &[base, index]);
        self.code.copy(moved, base);
        self.code.alu(AluOp::Add, moved, Src::Reg(index));
        // Not for atomic operations, whose alignment is not known: so it is spent here and forgotten.
        let left = size - reach;
        let access = if left >= 4 { Size::W } else { Size::B };
        let off = if self.slip() { left as i32 } else { self.source.below(left - access.bytes() + 1) as i32 };
        let src = self.scalar_or_imm(&[moved]);
        self.state.set(moved, Kind::Mixed);
        if self.source.chance(1, 2) {
            self.code.store(access, moved, off, src);
        } else {
            self.code.load(access, moved, moved, off);
            self.state.set(moved, NUMBER);
        }
    }

    /// An update or a deletion.
    pub(super) fn map_change(&mut self) {
        if self.source.chance(1, 4) {
            if self.map_and_key(&[MapType::HASH]).is_some() {
                self.code.helper(id::MAP_DELETE_ELEM);
                self.state.clobber(NUMBER);
            }
            return;
        }
        let maps = self.env.maps_of(&LOOKUP);
        if maps.is_empty() {
            return;
        }
        // The value first: the key's area is chosen after it and may be the same, which is allowed.
        let largest = maps.iter().map(|&map| self.env.maps[map].value_size).max().unwrap_or(0);
        let Some(value) = self.stack_area(largest, true) else { return };
        if self.map_and_key(&LOOKUP).is_none() {
            return;
        }
        let flags = self.source.pick(&[0, 0, 0, 1, 2]);
        self.code.copy(Reg::R3, Reg::FP);
        self.code.add(Reg::R3, value);
        self.code.set(Reg::R4, flags);
        self.code.helper(id::MAP_UPDATE_ELEM);
        self.state.clobber(NUMBER);
    }

    /// A pointer into global data, which needs no check.
    pub(super) fn global_data(&mut self) {
        let maps = self.env.data_maps();
        if maps.is_empty() {
            return self.context_access();
        }
        let map = self.source.pick(&maps);
        let size = self.env.maps[map].value_size;
        // Aligned to 8, so that what remains may be accessed atomically.
        let off = self.source.below(size.div_ceil(8)) * 8;
        let dst = self.target(false, &[]);
        self.code.push(Insn::LoadImm64 { dst, value: Imm64::MapIdxValue { idx: map as i32, off } });
        self.state.set(dst, Kind::Value { size: size - off });
        self.access(dst);
    }
}
