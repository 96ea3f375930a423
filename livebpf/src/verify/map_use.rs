//! Which maps go with which helpers, and what a look-up gives: the kernel's `check_map_func_compatibility`, and the maps in
//! maps.
//!
//! A map that a program looks up in a map of maps is known by its template only. It is named by the [`MapId`] of the outer
//! map with [`MapId::TEMPLATE`] set; [`Program::map`](crate::link::Program::map) then answers the template.

use super::explore::Verifier;
use super::memory::read_only;
use super::reject::{Fail, MEMORY, Rule, Step};
use super::state::{Kind, State};
use crate::helper::{Proto, id};
use crate::insn::Reg;
use crate::link::MapId;
use crate::object::{MapInit, MapType};

/// Map types that livebpf has.
const PROVIDED: [MapType; 18] = [
    MapType::HASH,
    MapType::ARRAY,
    MapType::PROG_ARRAY,
    MapType::PERF_EVENT_ARRAY,
    MapType::PERCPU_HASH,
    MapType::PERCPU_ARRAY,
    MapType::LRU_HASH,
    MapType::LRU_PERCPU_HASH,
    MapType::LPM_TRIE,
    MapType::ARRAY_OF_MAPS,
    MapType::HASH_OF_MAPS,
    MapType::DEVMAP,
    MapType::DEVMAP_HASH,
    MapType::CPUMAP,
    MapType::XSKMAP,
    MapType::QUEUE,
    MapType::STACK,
    MapType::RINGBUF,
];

/// The helpers that a map of this type may be passed to; `None`: any that does not ask for another type.
fn helpers_of(map_type: MapType) -> Option<&'static [u32]> {
    use id::*;
    Some(match map_type {
        MapType::PROG_ARRAY => &[TAIL_CALL],
        MapType::PERF_EVENT_ARRAY => {
            &[PERF_EVENT_READ, PERF_EVENT_OUTPUT, SKB_OUTPUT, PERF_EVENT_READ_VALUE, XDP_OUTPUT]
        }
        MapType::RINGBUF => &[
            RINGBUF_OUTPUT,
            RINGBUF_RESERVE,
            RINGBUF_QUERY,
            RINGBUF_RESERVE_DYNPTR,
            RINGBUF_SUBMIT_DYNPTR,
            RINGBUF_DISCARD_DYNPTR,
        ],
        MapType::USER_RINGBUF => &[USER_RINGBUF_DRAIN],
        MapType::STACK_TRACE => &[GET_STACKID],
        MapType::CGROUP_ARRAY => &[SKB_UNDER_CGROUP, CURRENT_TASK_UNDER_CGROUP],
        MapType::CGROUP_STORAGE | MapType::PERCPU_CGROUP_STORAGE => &[GET_LOCAL_STORAGE],
        MapType::DEVMAP | MapType::DEVMAP_HASH | MapType::XSKMAP => &[REDIRECT_MAP, MAP_LOOKUP_ELEM],
        MapType::CPUMAP => &[REDIRECT_MAP],
        MapType::ARRAY_OF_MAPS | MapType::HASH_OF_MAPS => &[MAP_LOOKUP_ELEM],
        MapType::SOCKMAP => &[
            SK_REDIRECT_MAP,
            SOCK_MAP_UPDATE,
            MAP_DELETE_ELEM,
            MSG_REDIRECT_MAP,
            SK_SELECT_REUSEPORT,
            MAP_LOOKUP_ELEM,
            MAP_UPDATE_ELEM,
        ],
        MapType::SOCKHASH => &[
            SK_REDIRECT_HASH,
            SOCK_HASH_UPDATE,
            MAP_DELETE_ELEM,
            MSG_REDIRECT_HASH,
            SK_SELECT_REUSEPORT,
            MAP_LOOKUP_ELEM,
            MAP_UPDATE_ELEM,
        ],
        MapType::REUSEPORT_SOCKARRAY => &[SK_SELECT_REUSEPORT],
        MapType::QUEUE | MapType::STACK => &[MAP_PEEK_ELEM, MAP_POP_ELEM, MAP_PUSH_ELEM],
        MapType::BLOOM_FILTER => &[MAP_PEEK_ELEM, MAP_PUSH_ELEM],
        MapType::SK_STORAGE => &[SK_STORAGE_GET, SK_STORAGE_DELETE, KPTR_XCHG],
        MapType::INODE_STORAGE => &[INODE_STORAGE_GET, INODE_STORAGE_DELETE, KPTR_XCHG],
        MapType::TASK_STORAGE => &[TASK_STORAGE_GET, TASK_STORAGE_DELETE, KPTR_XCHG],
        MapType::CGRP_STORAGE => &[CGRP_STORAGE_GET, CGRP_STORAGE_DELETE, KPTR_XCHG],
        _ => return None,
    })
}

/// The map types that this helper takes; `None`: any that does not ask for other helpers.
fn maps_of(helper: u32) -> Option<&'static [MapType]> {
    Some(match helper {
        id::TAIL_CALL => &[MapType::PROG_ARRAY],
        id::PERF_EVENT_READ | id::PERF_EVENT_OUTPUT | id::PERF_EVENT_READ_VALUE | id::SKB_OUTPUT | id::XDP_OUTPUT => {
            &[MapType::PERF_EVENT_ARRAY]
        }
        id::RINGBUF_OUTPUT
        | id::RINGBUF_RESERVE
        | id::RINGBUF_QUERY
        | id::RINGBUF_RESERVE_DYNPTR
        | id::RINGBUF_SUBMIT_DYNPTR
        | id::RINGBUF_DISCARD_DYNPTR => &[MapType::RINGBUF],
        id::USER_RINGBUF_DRAIN => &[MapType::USER_RINGBUF],
        id::GET_STACKID => &[MapType::STACK_TRACE],
        id::CURRENT_TASK_UNDER_CGROUP | id::SKB_UNDER_CGROUP => &[MapType::CGROUP_ARRAY],
        id::REDIRECT_MAP => &[MapType::DEVMAP, MapType::DEVMAP_HASH, MapType::CPUMAP, MapType::XSKMAP],
        id::SK_REDIRECT_MAP | id::MSG_REDIRECT_MAP | id::SOCK_MAP_UPDATE => &[MapType::SOCKMAP],
        id::SK_REDIRECT_HASH | id::MSG_REDIRECT_HASH | id::SOCK_HASH_UPDATE => &[MapType::SOCKHASH],
        id::GET_LOCAL_STORAGE => &[MapType::CGROUP_STORAGE, MapType::PERCPU_CGROUP_STORAGE],
        id::SK_SELECT_REUSEPORT => &[MapType::REUSEPORT_SOCKARRAY, MapType::SOCKMAP, MapType::SOCKHASH],
        id::MAP_POP_ELEM => &[MapType::QUEUE, MapType::STACK],
        id::MAP_PEEK_ELEM | id::MAP_PUSH_ELEM => &[MapType::QUEUE, MapType::STACK, MapType::BLOOM_FILTER],
        id::MAP_LOOKUP_PERCPU_ELEM => &[MapType::PERCPU_ARRAY, MapType::PERCPU_HASH, MapType::LRU_PERCPU_HASH],
        id::SK_STORAGE_GET | id::SK_STORAGE_DELETE => &[MapType::SK_STORAGE],
        id::INODE_STORAGE_GET | id::INODE_STORAGE_DELETE => &[MapType::INODE_STORAGE],
        id::TASK_STORAGE_GET | id::TASK_STORAGE_DELETE => &[MapType::TASK_STORAGE],
        id::CGRP_STORAGE_GET | id::CGRP_STORAGE_DELETE => &[MapType::CGRP_STORAGE],
        _ => return None,
    })
}

impl Verifier<'_> {
    /// Checks that `proto` takes maps such as `map`.
    pub(super) fn map_allowed(&self, proto: &Proto, map: MapId) -> Step<()> {
        let def = self.program.map(map);
        // No map of maps holds such maps: it cannot be made.
        let outer = [MapType::PROG_ARRAY, MapType::ARRAY_OF_MAPS, MapType::HASH_OF_MAPS].contains(&def.map_type);
        if map.is_template() && outer {
            return Err(Fail::new(Rule::Unsupported, format!("unsupported: inner maps of type {}", def.map_type)));
        }
        let fits = helpers_of(def.map_type).is_none_or(|helpers| helpers.contains(&proto.id))
            && maps_of(proto.id).is_none_or(|types| types.contains(&def.map_type));
        if !fits {
            let text = format!("cannot pass map_type {} into func bpf_{}#{}", def.map_type.0, proto.name, proto.id);
            return Err(Fail::new(Rule::Helper, text));
        }
        if !PROVIDED.contains(&def.map_type) {
            return Err(Fail::new(Rule::Unsupported, format!("unsupported: maps of type {}", def.map_type)));
        }
        let changes = [id::MAP_UPDATE_ELEM, id::MAP_DELETE_ELEM, id::MAP_PUSH_ELEM, id::MAP_POP_ELEM];
        if changes.contains(&proto.id) && read_only(def) {
            return Err(Fail::new(Rule::Helper, "write into map forbidden"));
        }
        Ok(())
    }

    /// What `map_lookup_elem` answers: an inner map, or a place in a value.
    pub(super) fn looked_up(&self, map: MapId) -> Kind {
        match self.program.map(map).map_type {
            MapType::ARRAY_OF_MAPS | MapType::HASH_OF_MAPS => Kind::Map(map.template()),
            _ => Kind::MapValue(map),
        }
    }

    /// Checks that `reg` points to a string in data that nobody can change, and that it ends there.
    pub(super) fn constant_text(&mut self, state: &State, reg: Reg) -> Step<()> {
        let value = self.readable(state, reg)?;
        let n = reg.number();
        let bad = |text: String| Err(Fail::new(Rule::Helper, text).with(reg));
        let Kind::MapValue(map) = value.kind else {
            return bad(format!("R{n} type={} expected=map_value", value.name()));
        };
        let def = self.program.map(map);
        let MapInit::Data(data) = &def.init else {
            return bad(format!("R{n} does not point to a readonly map'"));
        };
        if !def.frozen {
            return bad(format!("R{n} does not point to a readonly map'"));
        }
        let Some(offset) = value.fixed_offset() else {
            return bad(format!("R{n} is not a constant address'"));
        };
        let text = usize::try_from(offset).ok().and_then(|at| data.get(at..));
        match text.is_some_and(|text| text.contains(&0)) {
            true => Ok(()),
            false => bad("string is not zero-terminated".to_owned()),
        }
    }

    /// Checks `size` bytes behind `reg`, which are written, and their alignment.
    pub(super) fn out(&mut self, state: &mut State, reg: Reg, size: u32) -> Step<()> {
        let value = self.readable(state, reg)?;
        if !value.is_pointer() {
            let text = format!("R{} type={} expected={MEMORY}", reg.number(), value.name());
            return Err(Fail::new(Rule::Helper, text).with(reg));
        }
        self.aligned_out(reg, &value, size)?;
        self.buffer(state, reg, size.into(), false, true)
    }
}
