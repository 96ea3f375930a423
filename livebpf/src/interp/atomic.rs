//! Atomic instructions. On naturally aligned memory they are atomic with respect to other threads; x86 would also do
//! unaligned ones in one piece, which plain memory operations here imitate for a single thread only.

use std::sync::atomic::Ordering::{Acquire, Release, SeqCst};

use super::alu;
use super::fault::FaultKind;
use super::machine::{Machine, Next};
use crate::insn::{AluOp, AtomicOp, Reg, Size, Width};
use crate::map::cell::Slice;

/// Does `op` on the first bytes of `at`; the old value, zero-extended.
fn rmw(at: Slice<'_>, op: AtomicOp, width: Width, expected: u64, value: u64) -> Option<u64> {
    match width {
        Width::W64 => match at.atomic_u64(0) {
            Some(cell) => Some(match op {
                AtomicOp::Add { .. } => cell.fetch_add(value, SeqCst),
                AtomicOp::Or { .. } => cell.fetch_or(value, SeqCst),
                AtomicOp::And { .. } => cell.fetch_and(value, SeqCst),
                AtomicOp::Xor { .. } => cell.fetch_xor(value, SeqCst),
                AtomicOp::Xchg => cell.swap(value, SeqCst),
                AtomicOp::Cmpxchg => {
                    cell.compare_exchange(expected, value, SeqCst, SeqCst).unwrap_or_else(|found| found)
                }
            }),
            None => rmw_unaligned(at, op, width, expected, value),
        },
        Width::W32 => match at.atomic_u32(0) {
            Some(cell) => Some(u64::from(match op {
                AtomicOp::Add { .. } => cell.fetch_add(value as u32, SeqCst),
                AtomicOp::Or { .. } => cell.fetch_or(value as u32, SeqCst),
                AtomicOp::And { .. } => cell.fetch_and(value as u32, SeqCst),
                AtomicOp::Xor { .. } => cell.fetch_xor(value as u32, SeqCst),
                AtomicOp::Xchg => cell.swap(value as u32, SeqCst),
                AtomicOp::Cmpxchg => {
                    cell.compare_exchange(expected as u32, value as u32, SeqCst, SeqCst).unwrap_or_else(|found| found)
                }
            })),
            None => rmw_unaligned(at, op, width, expected, value),
        },
    }
}

fn rmw_unaligned(at: Slice<'_>, op: AtomicOp, width: Width, expected: u64, value: u64) -> Option<u64> {
    let size = size_of(width);
    let old = at.load(0, size)?;
    let new = match op {
        AtomicOp::Add { .. } => alu::alu(AluOp::Add, width, old, value),
        AtomicOp::Or { .. } => old | value,
        AtomicOp::And { .. } => old & value,
        AtomicOp::Xor { .. } => old ^ value,
        AtomicOp::Xchg => value,
        AtomicOp::Cmpxchg if old == alu::mov(width, expected) => value,
        AtomicOp::Cmpxchg => old,
    };
    at.store(0, size, new)?;
    Some(old)
}

const fn size_of(width: Width) -> Size {
    match width {
        Width::W32 => Size::W,
        Width::W64 => Size::DW,
    }
}

impl Machine<'_> {
    pub(super) fn atomic(
        &mut self,
        op: AtomicOp,
        width: Width,
        base: Reg,
        off: i16,
        src: Reg,
    ) -> Result<Next, FaultKind> {
        let (addr, size) = (self.address(base, off), size_of(width).bytes());
        let at = self.memory.checked(&self.exe, addr, size, true)?;
        let fault = FaultKind::Access { addr, size: size.into(), write: true };
        let old = rmw(at, op, width, self.regs[0], self.reg(src)).ok_or(fault)?;
        let result = match op {
            AtomicOp::Add { fetch } | AtomicOp::Or { fetch } | AtomicOp::And { fetch } | AtomicOp::Xor { fetch } => {
                fetch.then_some(src)
            }
            AtomicOp::Xchg => Some(src),
            AtomicOp::Cmpxchg => Some(Reg::R0),
        };
        result.map_or(Ok(Next::Follow), |reg| self.set(reg, old))
    }

    pub(super) fn load_acquire(&mut self, size: Size, dst: Reg, base: Reg, off: i16) -> Result<Next, FaultKind> {
        let addr = self.address(base, off);
        let at = self.memory.checked(&self.exe, addr, size.bytes(), false)?;
        let value = match size {
            Size::B => at.atomic_u8(0).map(|c| c.load(Acquire).into()),
            Size::H => at.atomic_u16(0).map(|c| c.load(Acquire).into()),
            Size::W => at.atomic_u32(0).map(|c| c.load(Acquire).into()),
            Size::DW => at.atomic_u64(0).map(|c| c.load(Acquire)),
        };
        let fault = FaultKind::Access { addr, size: size.bytes().into(), write: false };
        let value = value.or_else(|| at.load(0, size)).ok_or(fault)?;
        self.set(dst, value)
    }

    pub(super) fn store_release(&mut self, size: Size, base: Reg, off: i16, src: Reg) -> Result<Next, FaultKind> {
        let (addr, value) = (self.address(base, off), self.reg(src));
        let at = self.memory.checked(&self.exe, addr, size.bytes(), true)?;
        let done = match size {
            Size::B => at.atomic_u8(0).map(|c| c.store(value as u8, Release)),
            Size::H => at.atomic_u16(0).map(|c| c.store(value as u16, Release)),
            Size::W => at.atomic_u32(0).map(|c| c.store(value as u32, Release)),
            Size::DW => at.atomic_u64(0).map(|c| c.store(value, Release)),
        };
        let fault = FaultKind::Access { addr, size: size.bytes().into(), write: true };
        done.or_else(|| at.store(0, size, value)).ok_or(fault)?;
        Ok(Next::Follow)
    }
}
