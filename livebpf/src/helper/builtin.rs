//! The kernel's helpers that livebpf provides: their contracts as Linux states them (`bpf_*_proto` in
//! kernel/bpf/helpers.c, kernel/trace/bpf_trace.c and net/core/filter.c). Never their code.

use super::{Arg, Proto, Ret, id};

fn proto(id: u32, name: &str, ret: Ret, args: &[Arg]) -> Proto {
    Proto {
        id,
        name: name.to_owned(),
        args: args.to_vec(),
        ret,
        changes_packet: false,
        packet_memory: false,
        gpl_only: false,
    }
}

pub(super) fn protos() -> Vec<Proto> {
    use Arg::*;
    let map = |p: Proto| Proto { packet_memory: true, ..p };
    let adjust = |p: Proto| Proto { changes_packet: true, ..p };
    vec![
        map(proto(id::MAP_LOOKUP_ELEM, "map_lookup_elem", Ret::MapValueOrNull, &[Map, MapKey])),
        map(proto(id::MAP_UPDATE_ELEM, "map_update_elem", Ret::Integer, &[Map, MapKey, MapValue, Anything])),
        map(proto(id::MAP_DELETE_ELEM, "map_delete_elem", Ret::Integer, &[Map, MapKey])),
        proto(id::KTIME_GET_NS, "ktime_get_ns", Ret::Integer, &[]),
        Proto {
            gpl_only: true,
            // The C prototype is variadic: up to three numbers follow, which the kernel's contract leaves out.
            ..proto(id::TRACE_PRINTK, "trace_printk", Ret::Integer, &[Mem, Size])
        },
        proto(id::GET_PRANDOM_U32, "get_prandom_u32", Ret::Integer, &[]),
        proto(id::GET_SMP_PROCESSOR_ID, "get_smp_processor_id", Ret::Integer, &[]),
        proto(id::TAIL_CALL, "tail_call", Ret::Void, &[Ctx, Map, Anything]),
        proto(id::RINGBUF_OUTPUT, "ringbuf_output", Ret::Integer, &[Map, Mem, SizeOrZero, Anything]),
        proto(id::RINGBUF_RESERVE, "ringbuf_reserve", Ret::RecordOrNull, &[Map, AllocSize, Anything]),
        proto(id::RINGBUF_SUBMIT, "ringbuf_submit", Ret::Void, &[Record, Anything]),
        proto(id::RINGBUF_DISCARD, "ringbuf_discard", Ret::Void, &[Record, Anything]),
        proto(id::RINGBUF_QUERY, "ringbuf_query", Ret::Integer, &[Map, Anything]),
        proto(id::SKB_LOAD_BYTES, "skb_load_bytes", Ret::Integer, &[Ctx, Anything, MemUninit, Size]),
        adjust(proto(id::XDP_ADJUST_HEAD, "xdp_adjust_head", Ret::Integer, &[Ctx, Anything])),
        adjust(proto(id::XDP_ADJUST_TAIL, "xdp_adjust_tail", Ret::Integer, &[Ctx, Anything])),
    ]
}
