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

mod map;
mod packet;
mod plain;
mod printk;

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::current;
use crate::helper::id;

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
        id::KTIME_GET_NS => native!(plain::ktime_get_ns),
        id::TRACE_PRINTK => native!(printk::trace_printk),
        id::GET_PRANDOM_U32 => native!(plain::get_prandom_u32),
        id::GET_SMP_PROCESSOR_ID => native!(plain::get_smp_processor_id),
        id::SKB_LOAD_BYTES => native!(packet::skb_load_bytes),
        id::XDP_ADJUST_HEAD => native!(packet::xdp_adjust_head),
        id::XDP_ADJUST_TAIL => native!(packet::xdp_adjust_tail),
        _ => return None,
    })
}

/// Runs a helper on behalf of generated code, through which nothing may unwind.
#[inline(always)]
pub(crate) fn contain(helper: impl FnOnce() -> u64) -> u64 {
    match catch_unwind(AssertUnwindSafe(helper)) {
        Ok(r0) => r0,
        Err(payload) => leave(payload),
    }
}

#[cold]
fn leave(payload: Box<dyn std::any::Any + Send>) -> u64 {
    // Dropping what somebody panicked with could panic again.
    std::mem::forget(payload);
    current::leave_after_panic()
}

/// A helper's error result.
fn errno(number: i32) -> u64 {
    i64::from(-number) as u64
}

/// An address that all helpers are near to: code that reaches it by `call rel32` most likely reaches them all.
pub(crate) fn anchor() -> u64 {
    anchor as *const () as u64
}

/// Whether `region` reaches every built-in helper and `extra` by `call rel32`.
pub(crate) fn all_near(region: &crate::text::Region, extra: u64) -> bool {
    let builtin = crate::helper::Table::builtin();
    let shims = builtin.iter().filter_map(|p| native(p.id)).map(|h| h.shim as *const () as u64);
    shims.chain([extra]).all(|address| region.reaches(address))
}
