//! The kernel's helpers that livebpf provides: their contracts as Linux states them (`bpf_*_proto` in
//! kernel/bpf/helpers.c, kernel/trace/bpf_trace.c and net/core/filter.c). Never their code.

use super::{Arg, DynptrKind, Proto, Ret, id};

fn proto(id: u32, ret: Ret, args: &[Arg]) -> Proto {
    Proto {
        id,
        name: id::name(id).unwrap_or_default().to_owned(),
        args: args.to_vec(),
        ret,
        changes_packet: false,
        packet_memory: false,
        gpl_only: false,
    }
}

/// A helper that answers a number.
fn number(id: u32, args: &[Arg]) -> Proto {
    proto(id, Ret::Integer, args)
}

/// Memory arguments may lie in the packet.
fn packet(proto: Proto) -> Proto {
    Proto { packet_memory: true, ..proto }
}

/// Packet pointers are stale after it.
fn moves(proto: Proto) -> Proto {
    Proto { changes_packet: true, ..proto }
}

/// For GPL-compatible programs.
fn gpl(proto: Proto) -> Proto {
    Proto { gpl_only: true, ..proto }
}

pub(super) fn protos() -> Vec<Proto> {
    [maps(), plain(), memory(), text(), skb(), skb_shape(), xdp(), output(), callbacks(), dynptrs(), classic()].concat()
}

fn maps() -> Vec<Proto> {
    use Arg::*;
    vec![
        packet(proto(id::MAP_LOOKUP_ELEM, Ret::MapValueOrNull, &[Map, MapKey])),
        packet(number(id::MAP_UPDATE_ELEM, &[Map, MapKey, MapValue, Anything])),
        packet(number(id::MAP_DELETE_ELEM, &[Map, MapKey])),
        packet(proto(id::MAP_LOOKUP_PERCPU_ELEM, Ret::MapValueOrNull, &[Map, MapKey, Anything])),
        packet(number(id::MAP_PUSH_ELEM, &[Map, MapValue, Anything])),
        number(id::MAP_POP_ELEM, &[Map, MapValueUninit]),
        number(id::MAP_PEEK_ELEM, &[Map, MapValueUninit]),
        proto(id::TAIL_CALL, Ret::Void, &[Ctx, Map, Anything]),
        proto(id::SPIN_LOCK, Ret::Void, &[SpinLock]),
        proto(id::SPIN_UNLOCK, Ret::Void, &[SpinLock]),
    ]
}

/// Time, numbers, and who runs.
fn plain() -> Vec<Proto> {
    use Arg::*;
    vec![
        number(id::KTIME_GET_NS, &[]),
        number(id::KTIME_GET_BOOT_NS, &[]),
        number(id::KTIME_GET_COARSE_NS, &[]),
        number(id::KTIME_GET_TAI_NS, &[]),
        number(id::JIFFIES64, &[]),
        number(id::GET_PRANDOM_U32, &[]),
        proto(id::GET_SMP_PROCESSOR_ID, Ret::Cpu, &[]),
        number(id::GET_NUMA_NODE_ID, &[]),
        number(id::GET_CURRENT_PID_TGID, &[]),
        number(id::GET_CURRENT_UID_GID, &[]),
        number(id::GET_CURRENT_CGROUP_ID, &[]),
        number(id::GET_CURRENT_COMM, &[MemUninit, Size]),
        gpl(number(id::GET_CURRENT_TASK, &[])),
        number(id::GET_NS_CURRENT_PID_TGID, &[Anything, Anything, MemUninit, Size]),
        number(id::GET_ATTACH_COOKIE, &[Ctx]),
        number(id::GET_RETVAL, &[]),
        number(id::SET_RETVAL, &[Anything]),
    ]
}

/// Memory that the caller of the program declares.
fn memory() -> Vec<Proto> {
    use Arg::*;
    let bytes = |id| gpl(number(id, &[MemUninit, SizeOrZero, Anything]));
    let string = |id| gpl(proto(id, Ret::AtMost(1), &[MemUninit, SizeOrZero, Anything]));
    vec![
        bytes(id::PROBE_READ),
        bytes(id::PROBE_READ_USER),
        bytes(id::PROBE_READ_KERNEL),
        string(id::PROBE_READ_STR),
        string(id::PROBE_READ_USER_STR),
        string(id::PROBE_READ_KERNEL_STR),
    ]
}

fn text() -> Vec<Proto> {
    use Arg::*;
    vec![
        // The C prototype is variadic: up to three numbers follow, which the kernel's contract leaves out.
        gpl(number(id::TRACE_PRINTK, &[Mem, Size])),
        gpl(number(id::TRACE_VPRINTK, &[Mem, Size, MemOrNull, SizeOrZero])),
        gpl(number(id::SNPRINTF, &[MemUninitOrNull, SizeOrZero, ConstStr, MemOrNull, SizeOrZero])),
        number(id::STRTOL, &[Mem, Size, Anything, Out(8)]),
        number(id::STRTOUL, &[Mem, Size, Anything, Out(8)]),
        number(id::STRNCMP, &[Mem, Size, ConstStr]),
    ]
}

/// What classic filters read and no eBPF instruction does. The first number is the filter's A, the second its X.
fn classic() -> Vec<Proto> {
    use Arg::*;
    let all = [id::CLASSIC_NLATTR, id::CLASSIC_NLATTR_NEST, id::CLASSIC_PAY_OFFSET, id::CLASSIC_HATYPE];
    all.map(|id| number(id, &[Ctx, Anything, Anything])).to_vec()
}

/// Socket buffers: their bytes and fields.
fn skb() -> Vec<Proto> {
    use Arg::*;
    vec![
        number(id::SKB_LOAD_BYTES, &[Ctx, Anything, MemUninit, Size]),
        number(id::SKB_LOAD_BYTES_RELATIVE, &[Ctx, Anything, MemUninit, Size, Anything]),
        moves(number(id::SKB_STORE_BYTES, &[Ctx, Anything, Mem, Size, Anything])),
        moves(number(id::L3_CSUM_REPLACE, &[Ctx, Anything, Anything, Anything, Anything])),
        moves(number(id::L4_CSUM_REPLACE, &[Ctx, Anything, Anything, Anything, Anything])),
        packet(number(id::CSUM_DIFF, &[MemOrNull, SizeOrZero, MemOrNull, SizeOrZero, Anything])),
        number(id::CSUM_UPDATE, &[Ctx, Anything]),
        number(id::CSUM_LEVEL, &[Ctx, Anything]),
        number(id::GET_HASH_RECALC, &[Ctx]),
        number(id::SET_HASH, &[Ctx, Anything]),
        number(id::SET_HASH_INVALID, &[Ctx]),
        number(id::SKB_SET_TSTAMP, &[Ctx, Anything, Anything]),
        number(id::SKB_CHANGE_TYPE, &[Ctx, Anything]),
        number(id::GET_CGROUP_CLASSID, &[Ctx]),
        number(id::GET_ROUTE_REALM, &[Ctx]),
        number(id::GET_SOCKET_COOKIE, &[Ctx]),
        number(id::GET_SOCKET_UID, &[Ctx]),
        number(id::SKB_GET_TUNNEL_KEY, &[Ctx, MemUninit, Size, Anything]),
        number(id::SKB_SET_TUNNEL_KEY, &[Ctx, Mem, Size, Anything]),
    ]
}

/// Socket buffers: helpers that move, grow or shrink them.
fn skb_shape() -> Vec<Proto> {
    use Arg::*;
    vec![
        moves(number(id::SKB_PULL_DATA, &[Ctx, Anything])),
        moves(number(id::SKB_CHANGE_PROTO, &[Ctx, Anything, Anything])),
        moves(number(id::SKB_CHANGE_HEAD, &[Ctx, Anything, Anything])),
        moves(number(id::SKB_CHANGE_TAIL, &[Ctx, Anything, Anything])),
        moves(number(id::SKB_ADJUST_ROOM, &[Ctx, Anything, Anything, Anything])),
        moves(number(id::SKB_VLAN_PUSH, &[Ctx, Anything, Anything])),
        moves(number(id::SKB_VLAN_POP, &[Ctx])),
        moves(number(id::CLONE_REDIRECT, &[Ctx, Anything, Anything])),
    ]
}

fn xdp() -> Vec<Proto> {
    use Arg::*;
    vec![
        moves(number(id::XDP_ADJUST_HEAD, &[Ctx, Anything])),
        moves(number(id::XDP_ADJUST_TAIL, &[Ctx, Anything])),
        moves(number(id::XDP_ADJUST_META, &[Ctx, Anything])),
        number(id::XDP_GET_BUFF_LEN, &[Ctx]),
        number(id::XDP_LOAD_BYTES, &[Ctx, Anything, MemUninit, Size]),
        number(id::XDP_STORE_BYTES, &[Ctx, Anything, Mem, Size]),
    ]
}

/// Where packets and records go.
fn output() -> Vec<Proto> {
    use Arg::*;
    vec![
        number(id::REDIRECT, &[Anything, Anything]),
        number(id::REDIRECT_PEER, &[Anything, Anything]),
        number(id::REDIRECT_NEIGH, &[Anything, MemOrNull, SizeOrZero, Anything]),
        number(id::REDIRECT_MAP, &[Map, Anything, Anything]),
        gpl(number(id::FIB_LOOKUP, &[Ctx, MemInOut, Size, Anything])),
        gpl(number(id::PERF_EVENT_OUTPUT, &[Ctx, Map, Anything, Mem, SizeOrZero])),
        proto(id::RINGBUF_RESERVE, Ret::RecordOrNull, &[Map, AllocSize, Anything]),
        proto(id::RINGBUF_SUBMIT, Ret::Void, &[Record, Anything]),
        proto(id::RINGBUF_DISCARD, Ret::Void, &[Record, Anything]),
        number(id::RINGBUF_OUTPUT, &[Map, Mem, SizeOrZero, Anything]),
        number(id::RINGBUF_QUERY, &[Map, Anything]),
    ]
}

/// Helpers that call functions of the program.
fn callbacks() -> Vec<Proto> {
    use Arg::*;
    vec![
        number(id::FOR_EACH_MAP_ELEM, &[Map, Callback, StackOrNull, Anything]),
        number(id::LOOP, &[Anything, Callback, StackOrNull, Anything]),
    ]
}

/// Memory whose size is known when the program runs.
fn dynptrs() -> Vec<Proto> {
    use Arg::*;
    let slice = Ret::SliceOrNull { write: true };
    vec![
        number(id::DYNPTR_FROM_MEM, &[MemInOut, SizeOrZero, Anything, DynptrNew(DynptrKind::Local)]),
        // What it does not write stays as it is.
        number(id::DYNPTR_READ, &[MemInOut, SizeOrZero, Dynptr, Anything, Anything]),
        number(id::DYNPTR_WRITE, &[Dynptr, Anything, Mem, SizeOrZero, Anything]),
        proto(id::DYNPTR_DATA, slice, &[Dynptr, Anything, AllocSize]),
        number(id::RINGBUF_RESERVE_DYNPTR, &[Map, Anything, Anything, DynptrNew(DynptrKind::Ringbuf)]),
        proto(id::RINGBUF_SUBMIT_DYNPTR, Ret::Void, &[DynptrReleased, Anything]),
        proto(id::RINGBUF_DISCARD_DYNPTR, Ret::Void, &[DynptrReleased, Anything]),
    ]
}
