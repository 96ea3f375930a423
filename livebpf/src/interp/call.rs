//! Calls of helpers, with their contracts checked before the call, and tail calls.

use std::sync::Arc;

use super::fault::FaultKind;
use super::machine::{Machine, Next};
use super::memory::Memory;
use super::{Executable, MAX_TAIL_CALLS};
use crate::context::{Packet, describe_kind};
use crate::helper::{Arg, DYNPTR_SIZE, Proto, calls_back, id, kfunc};
use crate::map::Map;
use crate::map::prog_array::missed::Miss;
use crate::object::MapType;

/// Most bytes that one helper argument may span (the kernel's `BPF_MAX_VAR_SIZ`).
const MAX_ARG_SIZE: u64 = 1 << 29;

impl Machine<'_> {
    pub(super) fn call_helper(&mut self, id: u32) -> Result<Next, FaultKind> {
        if id == id::TAIL_CALL {
            return self.tail_call();
        }
        let args = [self.regs[1], self.regs[2], self.regs[3], self.regs[4], self.regs[5]];
        let proto = self.host.proto(id).ok_or(FaultKind::NoHelper { id })?;
        check(&self.memory, &self.exe, proto, &args)?;
        self.memory.give_record_back(&self.exe, id, args[0]);
        self.regs[0] = if calls_back(id) {
            self.call_with_callback(id, args)?
        } else {
            match self.inner_map(id, args[0], args[1]) {
                Some(inner) => inner,
                None => self.host.call(id, args)?,
            }
        };
        self.memory.note_record(&self.exe, id, &args, self.regs[0]);
        self.regs[1..6].fill(0);
        Ok(Next::Follow)
    }

    /// The kernel function that the program knows by `number`.
    pub(super) fn call_kfunc(&mut self, number: i32) -> Result<Next, FaultKind> {
        let kfunc = self.exe.program().kfunc(number).and_then(kfunc::by_name);
        let kfunc = kfunc.ok_or(FaultKind::Unsupported("a call of a kernel function"))?;
        let proto = &kfunc.proto;
        let args = [self.regs[1], self.regs[2], self.regs[3], self.regs[4], self.regs[5]];
        check(&self.memory, &self.exe, proto, &args)?;
        let desc = describe_kind(&self.exe.program().kind);
        let writes_packet = desc.is_some_and(|d| d.packet == Packet::Write);
        self.regs[0] = self.host.call(kfunc.function(writes_packet), args)?;
        self.memory.note_packet(proto.id);
        self.regs[1..6].fill(0);
        Ok(Next::Follow)
    }

    /// Looks a key up in a map of maps, whose answer is kept until the run ends; `None` for other calls.
    fn inner_map(&mut self, id: u32, map: u64, key: u64) -> Option<u64> {
        let map = self.exe.map_at(map).filter(|_| id == id::MAP_LOOKUP_ELEM)?;
        if ![MapType::ARRAY_OF_MAPS, MapType::HASH_OF_MAPS].contains(&map.map_type()) {
            return None;
        }
        let key = self.memory.window(&self.exe, key, map.key_size() as usize, false)?.to_vec();
        let Some(inner) = map.inner(&key) else { return Some(0) };
        Some(self.memory.keep(inner))
    }

    /// R1 context, R2 program array, R3 index. A failed one changes nothing.
    fn tail_call(&mut self) -> Result<Next, FaultKind> {
        let (context, array, index) = (self.regs[1], self.regs[2], self.regs[3] as u32);
        let bad = |arg, reason: &str| argument("tail_call", arg, reason);
        if self.memory.context.is_some_and(|c| c.record_addr() != context) {
            return Err(bad(1, "not the context"));
        }
        let map = self.exe.map_at(array).filter(|map| map.map_type() == MapType::PROG_ARRAY);
        let map = map.ok_or_else(|| bad(2, "not a program array of this program"))?;
        let wide = self.exe.verified.facts().wide_index && self.regs[3] != u64::from(index);
        let target = match index {
            _ if wide || index >= map.max_entries() => Err(Miss::Outside),
            _ if self.tail_calls >= MAX_TAIL_CALLS => Err(Miss::Limit),
            _ => self.host.tail_target(map, index).ok_or(Miss::Empty),
        };
        match target {
            Ok(target) => {
                self.tail_calls += 1;
                self.replace(target)
            }
            Err(why) => {
                self.exe.missed(map, index, why);
                Ok(Next::Follow)
            }
        }
    }
}

fn argument(name: &str, arg: usize, reason: &str) -> FaultKind {
    FaultKind::Argument { name: name.to_owned(), arg, reason: reason.to_owned() }
}

/// Checks every argument against the contract.
fn check(memory: &Memory<'_>, exe: &Executable, proto: &Proto, args: &[u64; 5]) -> Result<(), FaultKind> {
    let mut map = None;
    for (i, (kind, value)) in proto.args.iter().zip(args).enumerate() {
        let size = args.get(i + 1).copied().unwrap_or(0);
        check_one(memory, exe, *kind, *value, size, &mut map)
            .map_err(|reason| argument(&proto.name, i + 1, &reason))?;
    }
    Ok(())
}

/// One argument; `next` is the argument behind it.
fn check_one<'e>(
    memory: &'e Memory<'_>,
    exe: &'e Executable,
    kind: Arg,
    value: u64,
    next: u64,
    map: &mut Option<&'e Arc<Map>>,
) -> Result<(), String> {
    let span = |size: u64, write: bool| {
        let found = (size <= MAX_ARG_SIZE).then(|| memory.window(exe, value, size as usize, write)).flatten();
        let verb = if write { "write" } else { "read" };
        // No bytes are nowhere: their address may be the end of what the program may use.
        found
            .map(|_| ())
            .or((size == 0).then_some(()))
            .ok_or_else(|| format!("{size} bytes at {value:#x} that this program may not {verb}"))
    };
    let sizes = |map: &Option<&Arc<Map>>| match map {
        Some(map) => Ok((u64::from(map.key_size()), u64::from(map.value_size()))),
        None => Err("no map in front of it".to_owned()),
    };
    match kind {
        Arg::Anything | Arg::Scalar | Arg::StackOrNull => Ok(()),
        Arg::Callback => match exe.callback_at(value) {
            Some(_) => Ok(()),
            None => Err("not a function of this program".to_owned()),
        },
        Arg::Ctx => match memory.context {
            Some(context) if context.record_addr() == value => Ok(()),
            _ => Err("not the context".to_owned()),
        },
        Arg::Map => {
            *map = exe.map_at(value).or_else(|| memory.inner_at(value));
            map.map(|_| ()).ok_or_else(|| "not a map of this program".to_owned())
        }
        Arg::MapKey => span(sizes(map)?.0, false),
        Arg::MapValue => span(sizes(map)?.1, false),
        Arg::MapValueUninit => span(sizes(map)?.1, true),
        Arg::Mem => span(next, false),
        Arg::MemOrNull if value == 0 && next == 0 => Ok(()),
        Arg::MemOrNull => span(next, false),
        Arg::MemUninit => span(next, true),
        Arg::MemUninitOrNull if value == 0 && next == 0 => Ok(()),
        Arg::MemUninitOrNull => span(next, true),
        Arg::MemInOut => span(next, false).and_then(|()| span(next, true)),
        Arg::Out(size) => span(size.into(), true),
        // How far the string goes was decided on the data that it lies in.
        Arg::ConstStr => span(1, false),
        Arg::SpinLock => span(4, true),
        Arg::Scratch if value == 0 => Ok(()),
        Arg::Scratch => span(next, false).and_then(|()| span(next, true)),
        Arg::DynptrNew(_) | Arg::DynptrClone => span(DYNPTR_SIZE.into(), true),
        Arg::Dynptr | Arg::DynptrReleased => {
            span(DYNPTR_SIZE.into(), true)?;
            match memory.dynptr(exe, value) {
                Some(dynptr) => memory.may_use(exe, &dynptr, kind == Arg::DynptrReleased),
                None => Ok(()),
            }
        }
        Arg::Size if value == 0 => Err("a size of 0".to_owned()),
        Arg::Size | Arg::SizeOrZero | Arg::ScratchSize | Arg::AllocSize => Ok(()),
        Arg::Record | Arg::Borrowed(_) | Arg::Released(_) if value == 0 => Err("null".to_owned()),
        Arg::Record if memory.is_record(value) => Ok(()),
        Arg::Record => Err("not a record of this run".to_owned()),
        Arg::Borrowed(_) | Arg::Released(_) => Ok(()),
    }
}
