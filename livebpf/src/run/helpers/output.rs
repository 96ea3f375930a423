//! Where packets go: `bpf_redirect` and its kin, `bpf_clone_redirect`, tunnels, routes.
//!
//! Nothing is sent from here: what a program asks for is written down in the run's [`Effects`](crate::run::Effects).
#![allow(unsafe_code)]

use super::map::live;
use super::record::Record;
use super::{current, errno};
use crate::context::record;
use crate::helper::redirect::{ACTION, INGRESS, Redirects, TC_ACT_REDIRECT, TC_ACT_SHOT, XDP_ABORTED, XDP_REDIRECT};
use crate::insn::Size;
use crate::map::Map;
use crate::map::cell::Slice;
use crate::object::MapType;
use crate::run::effects::{CLONES_MAX, Cloned, Redirect, Target};

/// `BPF_F_BROADCAST`
const BROADCAST: u64 = 8;
/// `BPF_F_EXCLUDE_INGRESS`
const EXCLUDE_INGRESS: u64 = 16;
/// Bytes of `struct bpf_redir_neigh`.
const NEIGHBOUR: usize = 20;
/// Bytes of `struct bpf_tunnel_key`.
const TUNNEL_KEY: usize = 44;
/// Lengths of it in older programs: up to `remote_ipv6[1]`, `tunnel_ext`, `tunnel_label`, `local_ipv4`.
const OLDER_KEYS: [usize; 4] = [8, 22, 24, 28];
/// Flags of `bpf_skb_set_tunnel_key`: IPv6, no checksum, no fragments, sequence numbers, no key.
const TUNNEL_FLAGS: u64 = 0x1f;
/// Bytes of `struct bpf_fib_lookup`.
const FIB_LOOKUP: usize = 64;
/// Flags of `bpf_fib_lookup`.
const FIB_FLAGS: u64 = 0x3f;
/// `BPF_FIB_LKUP_RET_NOT_FWDED`
const NOT_FORWARDED: u64 = 4;

#[inline(always)]
fn ask(to: Target, flags: u64) {
    current::redirect(Some(Redirect { to, flags }));
}

/// `long bpf_redirect(ifindex, flags)`: the verdict: `XDP_REDIRECT` or `TC_ACT_REDIRECT`, or for unknown flags `XDP_ABORTED` or
/// `TC_ACT_SHOT`.
///
/// # Safety
/// None needed.
#[inline(always)]
pub(super) unsafe fn redirect([interface, flags, ..]: [u64; 5]) -> u64 {
    let Redirects { known, done, refused } = Redirects::of(current::prog_type());
    if flags & !known != 0 {
        return refused;
    }
    ask(Target::Interface(interface as u32), flags);
    done
}

/// `long bpf_redirect_peer(ifindex, flags)`: `TC_ACT_REDIRECT`, or `TC_ACT_SHOT` for any flag.
///
/// # Safety
/// None needed.
pub(super) unsafe fn redirect_peer([interface, flags, ..]: [u64; 5]) -> u64 {
    if flags != 0 {
        return TC_ACT_SHOT;
    }
    ask(Target::Peer(interface as u32), flags);
    TC_ACT_REDIRECT
}

/// `long bpf_redirect_neigh(ifindex, params, len, flags)`: `TC_ACT_REDIRECT`, or `TC_ACT_SHOT` for any flag or a length that is
/// too short.
///
/// # Safety
/// R2 points to R3 (32 bits) readable bytes.
pub(super) unsafe fn redirect_neigh([interface, params, len, flags, _]: [u64; 5]) -> u64 {
    // SAFETY: as the caller promises.
    let params = unsafe { Slice::from_raw(params, len as u32 as usize) };
    if flags != 0 || (!params.is_empty() && params.len() < NEIGHBOUR) {
        return TC_ACT_SHOT;
    }
    let mut next_hop = [0; NEIGHBOUR];
    let given = params.read(&mut next_hop) == NEIGHBOUR;
    ask(Target::Neighbour { interface: interface as u32, next_hop: given.then_some(next_hop) }, flags);
    TC_ACT_REDIRECT
}

/// `long bpf_redirect_map(map, key, flags)`: `XDP_REDIRECT`; for a key without entry the verdict in the flags; `XDP_ABORTED` for
/// unknown flags.
///
/// # Safety
/// R1 is the address of a live `Map`.
#[inline(always)]
pub(super) unsafe fn redirect_map([map, key, flags, ..]: [u64; 5]) -> u64 {
    // SAFETY: as the caller promises.
    let map = unsafe { live(map) };
    if flags & !ACTION != 0 && !is_to_devices(map, flags) {
        return XDP_ABORTED;
    }
    let key = key as u32;
    let value = map.target(key);
    let broadcast = flags & BROADCAST != 0;
    if value.is_none() && !broadcast {
        current::redirect(None);
        return flags & ACTION;
    }
    ask(Target::Map { map: map.id(), key, value: value.filter(|_| !broadcast) }, flags);
    XDP_REDIRECT
}

/// Whether the flags, beside the verdict in them, are those of maps of devices, and the map is one.
fn is_to_devices(map: &Map, flags: u64) -> bool {
    flags & !(ACTION | BROADCAST | EXCLUDE_INGRESS) == 0
        && matches!(map.map_type(), MapType::DEVMAP | MapType::DEVMAP_HASH)
}

/// `long bpf_clone_redirect(skb, ifindex, flags)`: 0, -EINVAL for flags or interface 0, -ENOMEM for too many copies.
///
/// # Safety
/// R1 is a context record as [`Record::at`] wants it.
pub(super) unsafe fn clone_redirect([skb, interface, flags, ..]: [u64; 5]) -> u64 {
    // SAFETY: as the caller promises.
    let record = unsafe { Record::at(skb) };
    let interface = interface as u32;
    if flags & !INGRESS != 0 || interface == 0 {
        return errno(libc::EINVAL);
    }
    let packet = record.packet(0, record.len()).map(Slice::to_vec).unwrap_or_default();
    let cloned = Cloned { interface, ingress: flags & INGRESS != 0, packet };
    let room = current::effects(|effects| {
        let room = effects.clones.len() < CLONES_MAX;
        if room {
            effects.clones.push(cloned);
        }
        room
    });
    if room == Some(true) { 0 } else { errno(libc::ENOMEM) }
}

/// `long bpf_skb_set_tunnel_key(skb, key, size, flags)`: 0 or -EINVAL.
///
/// # Safety
/// R2 points to R3 (32 bits) readable bytes.
pub(super) unsafe fn skb_set_tunnel_key([_, key, size, flags, _]: [u64; 5]) -> u64 {
    // SAFETY: as the caller promises.
    let mut key = unsafe { Slice::from_raw(key, size as u32 as usize) }.to_vec();
    if flags & !TUNNEL_FLAGS != 0 || !(key.len() == TUNNEL_KEY || OLDER_KEYS.contains(&key.len())) {
        return errno(libc::EINVAL);
    }
    key.resize(TUNNEL_KEY, 0);
    let label = key[24..28].iter().any(|b| *b != 0);
    let extension = key[22..24].iter().any(|b| *b != 0);
    if extension || (flags & 1 == 0 && label) {
        return errno(libc::EINVAL);
    }
    current::effects(|effects| effects.tunnel = Some((key, flags)));
    0
}

/// `long bpf_skb_get_tunnel_key(skb, key, size, flags)`: no packet of ours has come out of a tunnel: -EINVAL, and zeros.
///
/// # Safety
/// R2 points to R3 (32 bits) writable bytes.
pub(super) unsafe fn skb_get_tunnel_key([_, key, size, ..]: [u64; 5]) -> u64 {
    // SAFETY: as the caller promises.
    unsafe { Slice::from_raw(key, size as u32 as usize) }.clear();
    errno(libc::EINVAL)
}

/// `long bpf_fib_lookup(ctx, params, len, flags)`: there are no routes: `BPF_FIB_LKUP_RET_NOT_FWDED`, or -EINVAL, or
/// -EAFNOSUPPORT for families other than IPv4 and IPv6.
///
/// # Safety
/// R2 points to R3 (32 bits) readable and writable bytes.
pub(super) unsafe fn fib_lookup([_, params, len, flags, _]: [u64; 5]) -> u64 {
    // SAFETY: as the caller promises.
    let params = unsafe { Slice::from_raw(params, len as u32 as usize) };
    if params.len() < FIB_LOOKUP || flags & !FIB_FLAGS != 0 {
        return errno(libc::EINVAL);
    }
    match params.load(0, Size::B).map(|family| family as i32) {
        Some(libc::AF_INET | libc::AF_INET6) => NOT_FORWARDED,
        _ => errno(libc::EAFNOSUPPORT),
    }
}

/// Packet bytes that `bpf_perf_event_output` appends, in the flags (`BPF_F_CTXLEN_MASK`).
const CTXLEN: u64 = 0xf_ffff << 32;
/// The entry, in the flags (`BPF_F_INDEX_MASK`); all ones: the CPU's own.
const INDEX: u64 = 0xffff_ffff;

/// `long bpf_perf_event_output(ctx, map, flags, data, size)`: 0, -EINVAL, -EFAULT for more of the packet than there is, -E2BIG
/// past the map's end, -ENOENT where nobody listens, -ENOSPC.
///
/// # Safety
/// R1 is a context record as [`Record::at`] wants it, R2 the address of a live `Map`, R4 points to R5 readable bytes.
pub(super) unsafe fn perf_event_output([ctx, map, flags, data, size]: [u64; 5]) -> u64 {
    // SAFETY: as the caller promises.
    let map = unsafe { live(map) };
    // SAFETY: as the caller promises.
    let (record, data) = unsafe { (Record::at(ctx), Slice::from_raw(data, size as u32 as usize)) };
    let has_packet = record.get(record::BUF_START) != 0;
    if flags & !(INDEX | if has_packet { CTXLEN } else { 0 }) != 0 {
        return errno(libc::EINVAL);
    }
    let appended = ((flags & CTXLEN) >> 32) as i64;
    let nothing = Slice::from_mut(&mut []);
    let packet = if appended == 0 { Some(nothing) } else { record.packet(0, appended) };
    let Some(packet) = packet else { return errno(libc::EFAULT) };
    let index = match flags & INDEX {
        INDEX => current::cpu(),
        index => index as u32,
    };
    match map.perf_output(index, data, packet) {
        Ok(()) => 0,
        Err(error) => errno(error.errno()),
    }
}
