//! Helpers that call functions of the program: `bpf_loop`, `bpf_for_each_map_elem`.
//!
//! For generated code only: the interpreter has its own, because the functions it calls back are run by itself.
#![allow(unsafe_code)]

use super::{current, errno};
use crate::helper::MAX_LOOPS;
use crate::map::Map;
use crate::map::cell::Bytes;

/// `long bpf_loop(nr_loops, callback_fn, callback_ctx, flags)`: calls made. All of `nr_loops` counts, as where the kernel
/// compiles the loop in line.
///
/// # Safety
/// R2 is the address of a function of the program that called this, proved to be safe to call with any number and R3.
pub(super) unsafe fn bpf_loop([count, callback, context, flags, _]: [u64; 5]) -> u64 {
    if flags != 0 {
        return errno(libc::EINVAL);
    }
    if count > MAX_LOOPS {
        return errno(libc::E2BIG);
    }
    for i in 0..count {
        // SAFETY: as the caller promises.
        if unsafe { current::call_back(callback, [i, context, 0, 0, 0]) } != 0 {
            return i + 1;
        }
    }
    count
}

/// `long bpf_for_each_map_elem(map, callback_fn, callback_ctx, flags)`: elements visited.
///
/// # Safety
/// R1 is the address of a live `Map`, R2 that of a function of the program that called this, proved to be safe to call with
/// the map, the addresses of a key and a value of it, and R3.
pub(super) unsafe fn for_each_map_elem([address, callback, context, flags, _]: [u64; 5]) -> u64 {
    if flags != 0 {
        return errno(libc::EINVAL);
    }
    // SAFETY: the caller promises a live map; programs have no way to change a `Map` but by its methods.
    let map = unsafe { &*std::ptr::with_exposed_provenance::<Map>(address as usize) };
    let (Some(mut walk), Ok(key)) = (map.walk(current::cpu()), Bytes::zeroed(map.key_size().into())) else {
        return errno(libc::EINVAL);
    };
    let mut visited = 0;
    while let Some(value) = walk.step(key.slice()) {
        visited += 1;
        // SAFETY: as the caller promises; `key` lives until the end of this function.
        if unsafe { current::call_back(callback, [address, key.addr(), value.addr(), context, 0]) } != 0 {
            break;
        }
    }
    visited
}
