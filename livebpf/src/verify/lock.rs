//! Locks in map values: `bpf_spin_lock` and `bpf_spin_unlock`, and which programs may use maps with special fields.
//!
//! One lock is held at a time. It is named by its map and by the value it is in: the look-up that found the value, or 0
//! where the map has one value only. While it is held nothing is called but functions of the program itself.

use super::explore::Verifier;
use super::reject::{Fail, Rule, Step};
use super::resource::Resource;
use super::state::{Kind, State, Value};
use crate::insn::{Pc, Reg};
use crate::link::MapId;
use crate::object::{MapType, ProgType, SpecialKind};

impl Verifier<'_> {
    /// Whether it matters which value of a map `value` points to, because there is a lock in it.
    pub(super) fn has_lock(&self, value: &Value) -> bool {
        matches!(value.kind, Kind::MapValue(map) if self.program.map(map).lock().is_some())
    }

    /// Whether programs of this type may refer to the map, as far as special fields in its values go.
    pub(super) fn usable(&self, map: MapId) -> Step<()> {
        let def = self.program.map(map);
        let has = |kind| def.special(kind).is_some();
        let refuse = |who: &str, what: &str| {
            let text = format!("{who} progs cannot use {what} yet");
            Err(Fail::new(Rule::Resource, text).help("use a map without it in programs of this type"))
        };
        let lock = has(SpecialKind::SpinLock) || has(SpecialKind::ResSpinLock);
        if self.desc.is_tracing() && (has(SpecialKind::ListHead) || has(SpecialKind::TreeRoot)) {
            return refuse("tracing", "bpf_{list_head,rb_root}");
        }
        if lock && self.desc.prog_type == ProgType::SOCKET_FILTER {
            return refuse("socket filter", "bpf_spin_lock");
        }
        if lock && self.desc.is_tracing() {
            return refuse("tracing", "bpf_spin_lock");
        }
        if has(SpecialKind::Timer) && self.desc.is_tracing() {
            return refuse("tracing", "bpf_timer");
        }
        if has(SpecialKind::WorkQueue) && self.desc.is_tracing() {
            return refuse("tracing", "bpf_wq");
        }
        Ok(())
    }

    /// `bpf_spin_lock` (`take`) or `bpf_spin_unlock` of what `reg` points to.
    pub(super) fn spin_lock(&mut self, state: &mut State, pc: Pc, reg: Reg, take: bool) -> Step<()> {
        let value = *state.reg(reg);
        let n = reg.number();
        let bad = |text: String| Err(Fail::new(Rule::Resource, text).with(reg));
        if self.desc.is_tracing() {
            return bad("tracing progs cannot use bpf_spin_lock yet".to_owned());
        }
        let Kind::MapValue(map) = value.kind else {
            return bad(format!("R{n} type={} expected=map_value", value.name()));
        };
        if value.nullable {
            return bad(format!("R{n} type={} expected=map_value", value.name()));
        }
        let Some(off) = value.fixed_offset() else {
            let text = "doesn't have constant offset. bpf_spin_lock has to be at the constant offset";
            return bad(format!("R{n} {text}"));
        };
        let def = self.program.map(map);
        let Some(lock) = def.lock() else {
            return bad(format!("map '{}' has no valid bpf_spin_lock", def.name));
        };
        if off != i64::from(lock) {
            return bad(format!("off {off} doesn't point to 'struct bpf_spin_lock' that is at {lock}"));
        }
        let single = def.map_type == MapType::ARRAY && def.max_entries == 1;
        if map.is_template() || value.id == 0 && !single {
            let text = format!("unsupported: R{n} points to a lock that cannot be told from others of its map");
            return Err(Fail::new(Rule::Unsupported, text).with(reg));
        }
        let what = Resource::Lock { map, value: value.id };
        if take {
            if state.lock().is_some() {
                return bad("Locking two bpf_spin_locks are not allowed".to_owned());
            }
            let id = self.ids.next();
            return state.acquire(id, pc, what);
        }
        let Some(held) = state.lock().copied() else {
            return bad("bpf_spin_unlock without taking a lock".to_owned());
        };
        if held.what != what {
            return bad("bpf_spin_unlock of different lock".to_owned());
        }
        state.drop_held(held.id);
        Ok(())
    }
}
