//! The context record as helpers see it: where the packet lies, and the numbers beside it.
//!
//! Every window that it gives lies in the packet's buffer, whatever a helper asks for.
#![allow(unsafe_code)]

use crate::context::record;
use crate::insn::Size;
use crate::map::cell::Slice;

/// Offsets in `struct __sk_buff`.
pub(super) mod sk_buff {
    pub const LEN: u32 = 0;
    pub const PKT_TYPE: u32 = 4;
    pub const PROTOCOL: u32 = 16;
    pub const VLAN_PRESENT: u32 = 20;
    pub const VLAN_TCI: u32 = 24;
    pub const VLAN_PROTO: u32 = 28;
    pub const HASH: u32 = 68;
    pub const TSTAMP: u32 = 152;
    pub const TSTAMP_TYPE: u32 = 180;
}

/// Ethernet types, in host byte order.
pub(super) const ETH_P_IP: u16 = 0x0800;
pub(super) const ETH_P_IPV6: u16 = 0x86dd;

/// The context record of the running program.
pub(super) struct Record(Slice<'static>);

impl Record {
    /// # Safety
    /// `addr` is the address of a context record that lives and is used by this thread only during the call, and whose
    /// packet fields describe memory that is readable and writable, or are all zero.
    pub(super) unsafe fn at(addr: u64) -> Record {
        // SAFETY: as the caller promises.
        Record(unsafe { Slice::from_raw(addr, record::SIZE as usize) })
    }

    /// An address of the record. User addresses have 47 bits, so arithmetic with 32-bit offsets never overflows.
    pub(super) fn get(&self, field: u32) -> i64 {
        self.0.load(field as usize, Size::DW).unwrap_or_default() as i64
    }

    pub(super) fn set(&self, field: u32, addr: i64) {
        self.0.store(field as usize, Size::DW, addr as u64);
    }

    /// A number of the UAPI struct.
    pub(super) fn number(&self, offset: u32, size: Size) -> u64 {
        self.0.load((record::UAPI + offset) as usize, size).unwrap_or_default()
    }

    pub(super) fn put(&self, offset: u32, size: Size, value: u64) {
        self.0.store((record::UAPI + offset) as usize, size, value);
    }

    /// Bytes from `data` to `data_end`.
    pub(super) fn len(&self) -> i64 {
        self.get(record::DATA_END) - self.get(record::DATA)
    }

    /// `len` bytes of the packet from `offset` on; `None` where they do not lie inside.
    pub(super) fn packet(&self, offset: i64, len: i64) -> Option<Slice<'_>> {
        let (data, end) = (self.get(record::DATA), self.get(record::DATA_END));
        let fits = offset >= 0 && len >= 0 && data.checked_add(offset)?.checked_add(len)? <= end;
        if fits { self.buffer(data + offset, len) } else { None }
    }

    /// `len` bytes from the address `from` on; `None` where they do not lie in the buffer.
    pub(super) fn buffer(&self, from: i64, len: i64) -> Option<Slice<'_>> {
        let (start, end) = (self.get(record::BUF_START), self.get(record::BUF_END));
        if start == 0 || len < 0 || from < start || from.checked_add(len)? > end {
            return None;
        }
        // SAFETY: inside the buffer, which `at` was promised to be accessible.
        Some(unsafe { Slice::from_raw(from as u64, len as usize) })
    }

    /// A socket buffer's Ethernet type, in host byte order.
    pub(super) fn protocol(&self) -> u16 {
        (self.number(sk_buff::PROTOCOL, Size::W) as u16).swap_bytes()
    }

    pub(super) fn set_protocol(&self, protocol: u16) {
        self.put(sk_buff::PROTOCOL, Size::W, u64::from(protocol.swap_bytes()));
    }

    /// Bytes from `data` to the network header.
    pub(super) fn network_offset(&self) -> i64 {
        self.get(record::NETWORK) - self.get(record::DATA)
    }

    /// Moves the start of a socket buffer's packet to the address `data`, and writes its length.
    pub(super) fn set_data(&self, data: i64) {
        self.set(record::DATA, data);
        self.set(record::DATA_META, data);
        self.set(record::LOW, self.get(record::LOW).min(data));
        self.put(sk_buff::LEN, Size::W, self.len() as u64);
    }

    /// Moves the end of a socket buffer's packet to the address `end`, and writes its length.
    pub(super) fn set_end(&self, end: i64) {
        self.set(record::DATA_END, end);
        self.put(sk_buff::LEN, Size::W, self.len() as u64);
    }
}
