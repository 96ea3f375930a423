//! Helpers that call functions of the program, which the machine runs itself: `bpf_loop`, `bpf_for_each_map_elem`.
//!
//! A function's address is a number that is no address of memory: the function's first slot behind a fixed base.

use std::sync::Arc;

use super::Executable;
use super::fault::FaultKind;
use super::machine::Machine;
use crate::helper::{MAX_LOOPS, id};
use crate::insn::Pc;
use crate::map::cell::Bytes;

/// Addresses of functions begin here: not canonical, so nothing can be mapped there.
const BASE: u64 = 0xbf_0000_0000_0000;
/// `-EINVAL`, `-E2BIG`
const EINVAL: u64 = -22i64 as u64;
const E2BIG: u64 = -7i64 as u64;

/// The address of the function at `start`.
pub(super) fn address(start: Pc) -> u64 {
    BASE + u64::from(start.0)
}

impl Executable {
    /// The first slot of the function with this address.
    pub(super) fn callback_at(&self, address: u64) -> Option<Pc> {
        let start = Pc(u32::try_from(address.checked_sub(BASE)?).ok()?);
        self.program().subprog_starting_at(start).map(|_| start)
    }
}

impl Machine<'_> {
    /// Helper `id`, whose arguments were checked.
    pub(super) fn call_with_callback(&mut self, id: u32, args: [u64; 5]) -> Result<u64, FaultKind> {
        let [first, callback, context, flags, _] = args;
        let target = self.exe.callback_at(callback).ok_or(FaultKind::BadTarget { target: callback as i64 })?;
        match id {
            _ if flags != 0 => Ok(EINVAL),
            id::LOOP => self.bpf_loop(first, target, context),
            id::FOR_EACH_MAP_ELEM => self.for_each_map_elem(first, target, context),
            _ => Err(FaultKind::NoHelper { id }),
        }
    }

    fn bpf_loop(&mut self, count: u64, target: Pc, context: u64) -> Result<u64, FaultKind> {
        if count > MAX_LOOPS {
            return Ok(E2BIG);
        }
        for i in 0..count {
            if self.call_back(target, [i, context, 0, 0, 0])? != 0 {
                return Ok(i + 1);
            }
        }
        Ok(count)
    }

    fn for_each_map_elem(&mut self, address: u64, target: Pc, context: u64) -> Result<u64, FaultKind> {
        let map = self.exe.map_at(address).or_else(|| self.memory.inner_at(address));
        let map = map.map(Arc::clone).ok_or(FaultKind::Map { index: -1 })?;
        let Some(mut walk) = map.walk(self.host.cpu()) else { return Ok(EINVAL) };
        let key = Bytes::zeroed(map.key_size().into()).map_err(|_| FaultKind::OutOfMemory)?;
        let place = key.addr();
        self.memory.keys.push(key);
        let mut visited = 0;
        while let Some(value) = self.memory.keys.last().and_then(|key| walk.step(key.slice())) {
            visited += 1;
            if self.call_back(target, [address, place, value.addr(), context, 0])? != 0 {
                break;
            }
        }
        self.memory.keys.pop();
        Ok(visited)
    }
}
