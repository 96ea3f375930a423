//! The built-in helper functions: what runs when a program calls one.
//!
//! Each helper is two functions. The *inner* one is Rust: it takes R1 to R5 and answers R0; the interpreter calls it
//! after it has checked the arguments. The *shim* around it is what generated code calls: native convention, R1 to R5
//! in the first five argument registers, the helper's data word in the sixth. A shim never unwinds: a panic inside
//! ends the outermost run (`run::leave_after_panic`).
//!
//! Contracts (what each argument has been proved to be before the call) are in [`crate::helper`]. Behaviour and error
//! numbers are the kernel's; an error is the negative number as a 64-bit word.
//!
//! *Never.* No helper holds a lock while foreign code runs, blocks, or keeps an address beyond its call.
#![allow(unsafe_code)]

mod callback;
mod checksum;
mod classic;
mod dynptr;
mod iterator;
mod lock;
mod map;
mod output;
mod packet;
mod plain;
mod printk;
mod probe;
mod record;
mod ringbuf;
mod shape;
mod skb;
mod task;
mod text;

use std::sync::LazyLock;

use super::current;
use crate::helper::{id, kfunc};
use crate::primitive::caught;

/// What generated code calls: R1 to R5, and the helper's data word (unused by built-in helpers). Answers R0.
///
/// # Safety
/// As for [`Inner`].
pub type Shim = unsafe extern "C" fn(u64, u64, u64, u64, u64, u64) -> u64;

/// The helper itself: R1 to R5 in, R0 out.
///
/// # Safety
/// The arguments fulfil the helper's [`Proto`](crate::helper::Proto) as the verifier proves it, or as the interpreter
/// checks it: a map argument is the address of a live [`Map`](crate::map::Map), a context argument that of a live
/// context record, a memory argument is as long as the contract says and stays valid during the call.
pub type Inner = unsafe fn([u64; 5]) -> u64;

/// A built-in helper's two functions.
#[derive(Clone, Copy, Debug)]
pub struct NativeHelper {
    /// For generated code.
    pub shim: Shim,
    /// For the interpreter.
    pub inner: Inner,
}

/// Makes a [`NativeHelper`] from the path of an inner function.
macro_rules! native {
    ($inner:path) => {{
        unsafe extern "C" fn shim(r1: u64, r2: u64, r3: u64, r4: u64, r5: u64, _data: u64) -> u64 {
            // SAFETY: the caller of the shim promises what the inner function asks for.
            contain(|| unsafe { $inner([r1, r2, r3, r4, r5]) })
        }
        NativeHelper { shim, inner: $inner }
    }};
}

/// The functions of the built-in helper numbered `id`. `None` for unknown numbers, for the embedder's helpers, and for
/// `tail_call`, which is an instruction rather than a function.
pub fn native(id: u32) -> Option<NativeHelper> {
    Some(match id {
        id::MAP_LOOKUP_ELEM => native!(map::lookup_elem),
        id::MAP_UPDATE_ELEM => native!(map::update_elem),
        id::MAP_DELETE_ELEM => native!(map::delete_elem),
        id::MAP_LOOKUP_PERCPU_ELEM => native!(map::lookup_percpu_elem),
        id::MAP_PUSH_ELEM => native!(map::push_elem),
        id::MAP_POP_ELEM => native!(map::pop_elem),
        id::MAP_PEEK_ELEM => native!(map::peek_elem),
        id::KTIME_GET_NS => native!(plain::ktime_get_ns),
        id::KTIME_GET_BOOT_NS => native!(plain::ktime_get_boot_ns),
        id::KTIME_GET_COARSE_NS => native!(plain::ktime_get_coarse_ns),
        id::KTIME_GET_TAI_NS => native!(plain::ktime_get_tai_ns),
        id::JIFFIES64 => native!(plain::jiffies64),
        id::GET_PRANDOM_U32 => native!(plain::get_prandom_u32),
        id::GET_SMP_PROCESSOR_ID => native!(plain::get_smp_processor_id),
        id::GET_NUMA_NODE_ID => native!(plain::get_numa_node_id),
        id::GET_CURRENT_CGROUP_ID => native!(plain::get_current_cgroup_id),
        id::GET_CURRENT_PID_TGID => native!(task::get_current_pid_tgid),
        id::GET_CURRENT_UID_GID => native!(task::get_current_uid_gid),
        id::GET_CURRENT_COMM => native!(task::get_current_comm),
        id::GET_CURRENT_TASK => native!(task::get_current_task),
        id::GET_NS_CURRENT_PID_TGID => native!(task::get_ns_current_pid_tgid),
        id::GET_ATTACH_COOKIE => native!(task::get_attach_cookie),
        id::GET_RETVAL => native!(task::get_retval),
        id::SET_RETVAL => native!(task::set_retval),
        id::PROBE_READ => native!(probe::probe_read),
        id::PROBE_READ_USER => native!(probe::probe_read),
        id::PROBE_READ_KERNEL => native!(probe::probe_read_kernel),
        id::PROBE_READ_STR => native!(probe::probe_read_str),
        id::PROBE_READ_USER_STR => native!(probe::probe_read_str),
        id::PROBE_READ_KERNEL_STR => native!(probe::probe_read_kernel_str),
        id::TRACE_PRINTK => native!(printk::trace_printk),
        id::TRACE_VPRINTK => native!(text::trace_vprintk),
        id::SNPRINTF => native!(text::snprintf),
        id::STRTOL => native!(text::strtol),
        id::STRTOUL => native!(text::strtoul),
        id::STRNCMP => native!(text::strncmp),
        id::SKB_LOAD_BYTES => native!(packet::skb_load_bytes),
        id::SKB_LOAD_BYTES_RELATIVE => native!(skb::skb_load_bytes_relative),
        id::SKB_STORE_BYTES => native!(skb::skb_store_bytes),
        id::GET_HASH_RECALC => native!(skb::get_hash_recalc),
        id::SET_HASH => native!(skb::set_hash),
        id::SET_HASH_INVALID => native!(skb::set_hash_invalid),
        id::SKB_SET_TSTAMP => native!(skb::skb_set_tstamp),
        id::SKB_CHANGE_TYPE => native!(skb::skb_change_type),
        id::GET_CGROUP_CLASSID => native!(skb::nothing),
        id::GET_ROUTE_REALM => native!(skb::nothing),
        id::GET_SOCKET_UID => native!(skb::nothing),
        id::GET_SOCKET_COOKIE => native!(skb::get_socket_cookie),
        id::L3_CSUM_REPLACE => native!(checksum::l3_csum_replace),
        id::L4_CSUM_REPLACE => native!(checksum::l4_csum_replace),
        id::CSUM_DIFF => native!(checksum::csum_diff),
        id::CSUM_UPDATE => native!(checksum::csum_update),
        id::CSUM_LEVEL => native!(checksum::csum_level),
        id::SKB_PULL_DATA => native!(shape::skb_pull_data),
        id::SKB_CHANGE_PROTO => native!(shape::skb_change_proto),
        id::SKB_CHANGE_HEAD => native!(shape::skb_change_head),
        id::SKB_CHANGE_TAIL => native!(shape::skb_change_tail),
        id::SKB_ADJUST_ROOM => native!(shape::skb_adjust_room),
        id::SKB_VLAN_PUSH => native!(shape::skb_vlan_push),
        id::SKB_VLAN_POP => native!(shape::skb_vlan_pop),
        id::XDP_ADJUST_HEAD => native!(packet::xdp_adjust_head),
        id::XDP_ADJUST_TAIL => native!(packet::xdp_adjust_tail),
        id::XDP_ADJUST_META => native!(packet::xdp_adjust_meta),
        id::XDP_GET_BUFF_LEN => native!(packet::xdp_get_buff_len),
        id::XDP_LOAD_BYTES => native!(packet::xdp_load_bytes),
        id::XDP_STORE_BYTES => native!(packet::xdp_store_bytes),
        id::REDIRECT => native!(output::redirect),
        id::REDIRECT_PEER => native!(output::redirect_peer),
        id::REDIRECT_NEIGH => native!(output::redirect_neigh),
        id::REDIRECT_MAP => native!(output::redirect_map),
        id::CLONE_REDIRECT => native!(output::clone_redirect),
        id::SKB_SET_TUNNEL_KEY => native!(output::skb_set_tunnel_key),
        id::SKB_GET_TUNNEL_KEY => native!(output::skb_get_tunnel_key),
        id::FIB_LOOKUP => native!(output::fib_lookup),
        id::PERF_EVENT_OUTPUT => native!(output::perf_event_output),
        id::RINGBUF_OUTPUT => native!(ringbuf::output),
        id::RINGBUF_RESERVE => native!(ringbuf::reserve),
        id::RINGBUF_SUBMIT => native!(ringbuf::submit),
        id::RINGBUF_DISCARD => native!(ringbuf::discard),
        id::RINGBUF_QUERY => native!(ringbuf::query),
        id::LOOKUP_HASH_4 => native!(map::lookup_hash_4),
        id::LOOKUP_HASH_8 => native!(map::lookup_hash_8),
        id::LOOKUP_HASH_16 => native!(map::lookup_hash_16),
        id::CLASSIC_NLATTR => native!(classic::nlattr),
        id::CLASSIC_NLATTR_NEST => native!(classic::nlattr_nest),
        id::CLASSIC_PAY_OFFSET => native!(classic::pay_offset),
        id::CLASSIC_HATYPE => native!(classic::hatype),
        id::SPIN_LOCK => native!(lock::spin_lock),
        id::SPIN_UNLOCK => native!(lock::spin_unlock),
        id::FOR_EACH_MAP_ELEM => native!(callback::for_each_map_elem),
        id::LOOP => native!(callback::bpf_loop),
        id::DYNPTR_FROM_MEM => native!(dynptr::from_mem),
        id::DYNPTR_READ => native!(dynptr::read),
        id::DYNPTR_WRITE => native!(dynptr::write),
        id::DYNPTR_DATA => native!(dynptr::data),
        id::RINGBUF_RESERVE_DYNPTR => native!(dynptr::reserve),
        id::RINGBUF_SUBMIT_DYNPTR => native!(dynptr::submit),
        id::RINGBUF_DISCARD_DYNPTR => native!(dynptr::discard),
        kfunc::id::DYNPTR_ADJUST => native!(dynptr::adjust),
        kfunc::id::DYNPTR_IS_NULL => native!(dynptr::is_null),
        kfunc::id::DYNPTR_IS_RDONLY => native!(dynptr::is_rdonly),
        kfunc::id::DYNPTR_SIZE => native!(dynptr::size),
        kfunc::id::DYNPTR_CLONE => native!(dynptr::clone),
        kfunc::id::DYNPTR_SLICE => native!(dynptr::slice),
        kfunc::id::DYNPTR_SLICE_RDWR => native!(dynptr::slice_rdwr),
        kfunc::id::DYNPTR_FROM_SKB => native!(dynptr::from_skb),
        kfunc::id::DYNPTR_FROM_SKB_RDONLY => native!(dynptr::from_skb_rdonly),
        kfunc::id::DYNPTR_FROM_XDP => native!(dynptr::from_xdp),
        kfunc::id::ITER_NUM_NEW => native!(iterator::num_new),
        kfunc::id::ITER_NUM_NEXT => native!(iterator::num_next),
        kfunc::id::ITER_NUM_DESTROY => native!(iterator::num_destroy),
        _ => return None,
    })
}

/// Runs a helper on behalf of generated code, through which nothing may unwind.
#[inline(always)]
pub(crate) fn contain(helper: impl FnOnce() -> u64) -> u64 {
    match caught(helper) {
        Some(r0) => r0,
        None => current::leave_after_panic(),
    }
}

/// A helper's error result.
fn errno(number: i32) -> u64 {
    i64::from(-number) as u64
}

/// An address that all helpers are near to: code that reaches it by `call rel32` most likely reaches them all.
pub(crate) fn anchor() -> u64 {
    anchor as *const () as u64
}

/// Whether `region` reaches every built-in helper and those at `others` by `call rel32`.
pub(crate) fn all_near(region: &crate::text::Region, others: impl Iterator<Item = u64>) -> bool {
    /// The lowest and the highest address of a helper: what reaches both reaches all.
    static BOUNDS: LazyLock<[u64; 2]> = LazyLock::new(|| {
        let builtin = crate::helper::Table::builtin();
        let lookups = [id::LOOKUP_HASH_4, id::LOOKUP_HASH_8, id::LOOKUP_HASH_16];
        let ids = builtin.iter().map(|p| p.id).chain(lookups).chain(kfunc::functions());
        let shims = ids.filter_map(native).map(|h| h.shim as *const () as u64);
        shims.fold([u64::MAX, 0], |[low, high], at| [low.min(at), high.max(at)])
    });
    BOUNDS.into_iter().chain(others).all(|address| region.reaches(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_contract_has_a_function() {
        let elsewhere = [id::TAIL_CALL];
        for proto in crate::helper::Table::builtin().iter().filter(|p| !elsewhere.contains(&p.id)) {
            assert!(native(proto.id).is_some(), "bpf_{}", proto.name);
        }
        assert!(kfunc::functions().all(|id| native(id).is_some()));
    }
}
