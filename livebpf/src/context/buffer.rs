//! [`Context`]: what one run works on. A record that R1 points to, and a packet buffer with head and tail room.
//!
//! The starting values are those of `BPF_PROG_TEST_RUN` (net/bpf/test_run.c, observed on Linux 6.18):
//!
//! * XDP packets lie in one 4096-byte frame, 256 bytes from its start, with 320 bytes kept free at its end; `data` may
//!   move down to 40 bytes (`struct xdp_frame`) and metadata from the frame's start. `ingress_ifindex` is 1.
//! * A socket buffer's `protocol` and `pkt_type` come from the Ethernet header, as if loopback (address all zero,
//!   interface 1) had received it. Traffic control programs see the packet from the Ethernet header on, all others
//!   from the network header on; for those [`Context::packet`] answers 14 zero bytes in its place, as the kernel does.
//! * IPv4 and IPv6 packets must hold their fixed header; all packets must hold an Ethernet header.
//!
//! Where the caller supplies the context itself, the rest is in `supplied`. Never interprets a packet beyond that, and
//! never reads or writes outside its own blocks.

use thiserror::Error;

use super::{ContextDesc, FieldKind, describe, record, supplied};
use crate::insn::Size;
use crate::map::cell::{Bytes, OutOfMemory, Slice};
use crate::object::ProgType;

/// Bytes of an Ethernet header, and the least a packet may have.
pub const ETH_HLEN: usize = 14;
/// Bytes in front of the packet (`XDP_PACKET_HEADROOM`).
pub const HEADROOM: usize = 256;
/// Bytes of an XDP frame: headroom, packet, tailroom.
pub const XDP_FRAME: usize = 4096;
/// Bytes at the end of an XDP frame that the packet may not take (`struct skb_shared_info`).
pub const XDP_TAIL_RESERVE: usize = 320;
/// Bytes at the start of an XDP frame that packet and metadata may not take (`struct xdp_frame`).
pub const XDP_HEAD_RESERVE: usize = 40;
/// Most bytes of an XDP packet (without metadata): there are no fragments.
pub const XDP_MAX_PACKET: usize = XDP_FRAME - HEADROOM - XDP_TAIL_RESERVE;
/// Most bytes of a socket buffer's packet (the kernel's test run stops at 3712).
pub const SKB_MAX_PACKET: usize = 65_535;
/// Most bytes of XDP metadata in front of a packet.
pub const XDP_MAX_META: usize = HEADROOM - XDP_HEAD_RESERVE;
/// Index of the interface that packets seem to come from: loopback.
const IFINDEX: u64 = 1;
/// Hardware types of interfaces.
const ARPHRD_ETHER: u64 = 1;
const ARPHRD_LOOPBACK: u64 = 772;

/// Why a context cannot be made or changed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[allow(missing_docs)]
pub enum ContextError {
    #[error("packet: found {found} bytes, wanted at least {wanted} ({what})")]
    TooShort { found: usize, wanted: usize, what: &'static str },
    #[error("packet: found {found} bytes, wanted at most {wanted} for {what}")]
    TooLong { found: usize, wanted: usize, what: &'static str },
    #[error("context arguments: found {found} bytes, wanted at most {wanted}")]
    ArgsTooLong { found: usize, wanted: usize },
    #[error("program type {0}: it takes no packet")]
    NoPacket(ProgType),
    #[error("program type {0}: it is not supported")]
    NoSuchType(ProgType),
    #[error("context: {context} has no field {field} that can be set; fields that can: {settable}")]
    NoSuchField { context: &'static str, field: String, settable: String },
    #[error("context: found {value} for {field}, wanted {wanted}")]
    BadValue { field: String, value: u64, wanted: &'static str },
    #[error(transparent)]
    OutOfMemory(#[from] OutOfMemory),
}

/// How the record and the buffer are laid out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Xdp,
    /// `data` is at the Ethernet header.
    SkbL2,
    /// `data` is at the network header.
    SkbL3,
    /// The same as `SkbL2` for a socket filter; the caller is the driver, and says everything about the packet.
    Frame,
    /// A packet from its Ethernet header on, and flow keys.
    Flow,
    /// The record's UAPI part is the caller's memory; perhaps there are bytes that it points to.
    Raw,
}

impl Kind {
    fn of(prog_type: ProgType) -> Result<Kind, ContextError> {
        Ok(match prog_type {
            ProgType::XDP => Kind::Xdp,
            ProgType::SCHED_CLS | ProgType::SCHED_ACT => Kind::SkbL2,
            ProgType::SOCKET_FILTER
            | ProgType::CGROUP_SKB
            | ProgType::LWT_IN
            | ProgType::LWT_OUT
            | ProgType::LWT_XMIT
            | ProgType::LWT_SEG6LOCAL => Kind::SkbL3,
            ProgType::FLOW_DISSECTOR => Kind::Flow,
            _ if describe(prog_type).is_some() => Kind::Raw,
            _ => return Err(ContextError::NoSuchType(prog_type)),
        })
    }
}

/// What one run works on. Programs change it through its address; it is not locked, so give each worker its own.
#[derive(Debug)]
pub struct Context {
    pub(super) kind: Kind,
    prog_type: ProgType,
    pub(super) record: Bytes,
    pub(super) buffer: Bytes,
    /// What the record's addresses other than the packet's point to.
    pub(super) memory: Bytes,
    /// Bytes of raw memory given.
    pub(super) raw_len: usize,
}

/// Fields of `struct __sk_buff` that the caller of a test run may give.
const SKB_SETTABLE: [&str; 10] =
    ["mark", "priority", "ingress_ifindex", "ifindex", "cb", "tstamp", "wire_len", "gso_segs", "gso_size", "hwtstamp"];
/// The same where the caller is the driver: the number of `struct __sk_buff` that socket filters read, and `hatype`.
const FRAME_SETTABLE: [&str; 17] = [
    "pkt_type",
    "mark",
    "queue_mapping",
    "protocol",
    "vlan_present",
    "vlan_tci",
    "vlan_proto",
    "priority",
    "ingress_ifindex",
    "ifindex",
    "tc_index",
    "cb",
    "hash",
    "napi_id",
    "gso_segs",
    "gso_size",
    "hatype",
];
/// The same for `struct xdp_md`; `data` is the number of metadata bytes that the packet begins with.
const XDP_SETTABLE: [&str; 3] = ["data", "ingress_ifindex", "rx_queue_index"];

impl Context {
    /// For XDP programs.
    pub fn xdp(packet: &[u8]) -> Result<Context, ContextError> {
        Context::new(Kind::Xdp, ProgType::XDP, packet)
    }

    /// For programs of type `prog_type` on a socket buffer.
    pub fn skb(prog_type: ProgType, packet: &[u8]) -> Result<Context, ContextError> {
        match Kind::of(prog_type) {
            Ok(kind @ (Kind::SkbL2 | Kind::SkbL3)) => Context::new(kind, prog_type, packet),
            _ => Err(ContextError::NoPacket(prog_type)),
        }
    }

    /// For socket filters on a packet socket: `data` is at the Ethernet header, as filters that tcpdump compiles want it, and the
    /// packet may be shorter than one. Every number of the context that says something about the packet can be
    /// [set](Context::set), and `hatype`, the interface's hardware type (`ARPHRD_ETHER`, 1, at first).
    pub fn packet_socket(packet: &[u8]) -> Result<Context, ContextError> {
        Context::new(Kind::Frame, ProgType::SOCKET_FILTER, packet)
    }

    /// For syscall programs, whose context is memory that the caller supplies.
    pub fn raw(memory: &[u8]) -> Result<Context, ContextError> {
        Context::new(Kind::Raw, ProgType::SYSCALL, memory)
    }

    /// For programs of any supported type: `input` is the packet, or the bytes of the context's UAPI struct where the type
    /// takes no packet (see [`Context::takes_packet`]); what is missing at its end is zero.
    pub fn for_type(prog_type: ProgType, input: &[u8]) -> Result<Context, ContextError> {
        Context::new(Kind::of(prog_type)?, prog_type, input)
    }

    /// Whether programs of this type run on a packet that [`Context::for_type`] wants; else the caller supplies the
    /// context.
    pub fn takes_packet(prog_type: ProgType) -> bool {
        Kind::of(prog_type).is_ok_and(|kind| kind != Kind::Raw)
    }

    fn new(kind: Kind, prog_type: ProgType, input: &[u8]) -> Result<Context, ContextError> {
        let size = match kind {
            Kind::Raw => 0,
            Kind::Xdp | Kind::SkbL2 | Kind::SkbL3 | Kind::Frame | Kind::Flow => XDP_FRAME as u64,
        };
        let desc = describe(prog_type).map_or(&NO_CONTEXT, |d| d.context);
        let record = Bytes::zeroed(record::SIZE.max(record::UAPI + desc.size).into())?;
        let memory = Bytes::zeroed(supplied::memory_size(desc).into())?;
        let mut context = Context { kind, prog_type, record, buffer: Bytes::zeroed(size)?, memory, raw_len: 0 };
        context.reset(input)?;
        Ok(context)
    }

    /// Starts over with another packet (or other arguments): every field as [`Context::xdp`] and [`Context::skb`] leave
    /// it, the memory reused. An error leaves the context as it was.
    pub fn reset(&mut self, packet: &[u8]) -> Result<(), ContextError> {
        match self.kind {
            Kind::Xdp => self.reset_xdp(packet),
            Kind::SkbL2 | Kind::SkbL3 | Kind::Frame => self.reset_skb(packet),
            Kind::Flow => self.reset_flow(packet),
            Kind::Raw => self.reset_raw(packet),
        }
    }

    fn reset_xdp(&mut self, packet: &[u8]) -> Result<(), ContextError> {
        check_length(packet, XDP_MAX_PACKET, "XDP without fragments")?;
        let start = self.buffer.addr();
        self.put_packet(packet);
        self.put(record::BUF_START, start + XDP_HEAD_RESERVE as u64);
        self.put(record::BUF_END, start + (XDP_FRAME - XDP_TAIL_RESERVE) as u64);
        self.put(record::MAC, start + HEADROOM as u64);
        self.put(record::NETWORK, start + (HEADROOM + ETH_HLEN) as u64);
        self.put_uapi(xdp_md::INGRESS_IFINDEX, Size::W, IFINDEX);
        self.put_uapi(xdp_md::RX_QUEUE_INDEX, Size::W, 0);
        Ok(())
    }

    fn reset_skb(&mut self, packet: &[u8]) -> Result<(), ContextError> {
        let framed = self.kind == Kind::Frame;
        match packet.len() {
            found if framed && found > SKB_MAX_PACKET => {
                return Err(ContextError::TooLong { found, wanted: SKB_MAX_PACKET, what: "a socket buffer" });
            }
            _ if framed => {}
            _ => check_length(packet, SKB_MAX_PACKET, "a socket buffer")?,
        }
        let protocol = protocol(packet);
        let header = match protocol {
            _ if framed => None,
            0x0800 => Some((20, "an IPv4 header")),
            0x86dd => Some((40, "an IPv6 header")),
            _ => None,
        };
        if let Some((wanted, what)) = header.filter(|(n, _)| packet.len() - ETH_HLEN < *n) {
            return Err(ContextError::TooShort { found: packet.len(), wanted: ETH_HLEN + wanted, what });
        }
        self.make_room(packet)?;
        self.put_packet(packet);
        if let Some(fields) = self.record.slice().sub(record::UAPI as usize, sk_buff::SIZE) {
            fields.clear();
        }
        let mac = self.buffer.addr() + HEADROOM as u64;
        let network = mac + ETH_HLEN.min(packet.len()) as u64;
        let pulled = match self.kind {
            Kind::SkbL3 => ETH_HLEN as u64,
            Kind::SkbL2 | Kind::Frame | Kind::Xdp | Kind::Flow | Kind::Raw => 0,
        };
        self.put(record::DATA, mac + pulled);
        self.put(record::DATA_META, mac + pulled);
        self.put(record::BUF_START, self.buffer.addr());
        self.put(record::BUF_END, self.buffer.addr() + self.buffer.len() as u64);
        self.put(record::MAC, mac);
        self.put(record::NETWORK, network);
        self.put_uapi(sk_buff::LEN, Size::W, packet.len() as u64 - pulled);
        self.put_uapi(sk_buff::PKT_TYPE, Size::W, pkt_type(packet));
        self.put_uapi(sk_buff::PROTOCOL, Size::W, u64::from(protocol.swap_bytes()));
        self.put_uapi(sk_buff::IFINDEX, Size::W, IFINDEX);
        self.put_hatype(if framed { ARPHRD_ETHER } else { ARPHRD_LOOPBACK });
        self.put_socket(protocol, packet.get(ETH_HLEN..).unwrap_or_default());
        Ok(())
    }

    fn put_hatype(&mut self, value: u64) {
        let _ = self.record.slice().store(record::HATYPE as usize, Size::W, value);
    }

    /// The socket that a test run invents: its family and addresses are the packet's.
    fn put_socket(&mut self, protocol: u16, header: &[u8]) {
        let word =
            |at: usize| header.get(at..at + 4).map_or(0, |b| u64::from(u32::from_ne_bytes([b[0], b[1], b[2], b[3]])));
        match protocol {
            0x0800 => {
                self.put_uapi(sk_buff::FAMILY, Size::W, libc::AF_INET as u64);
                self.put_uapi(sk_buff::LOCAL_IP4, Size::W, word(12));
                self.put_uapi(sk_buff::REMOTE_IP4, Size::W, word(16));
            }
            0x86dd => {
                self.put_uapi(sk_buff::FAMILY, Size::W, libc::AF_INET6 as u64);
                for i in 0..4 {
                    self.put_uapi(sk_buff::LOCAL_IP6 + 4 * i, Size::W, word(8 + 4 * i as usize));
                    self.put_uapi(sk_buff::REMOTE_IP6 + 4 * i, Size::W, word(24 + 4 * i as usize));
                }
            }
            _ => {}
        }
    }

    /// Makes the buffer large enough for a packet behind the headroom.
    pub(super) fn make_room(&mut self, packet: &[u8]) -> Result<(), ContextError> {
        if HEADROOM + packet.len() > self.buffer.len() {
            self.buffer = Bytes::zeroed((HEADROOM + packet.len()).next_multiple_of(4096) as u64)?;
        }
        Ok(())
    }

    /// Writes the packet behind the headroom, which is zero again, and points the record at it.
    pub(super) fn put_packet(&mut self, packet: &[u8]) {
        let buffer = self.buffer.slice();
        let low = self.word(record::LOW).min(self.word(record::DATA_META));
        let low = usize::try_from(low.saturating_sub(self.buffer.addr())).unwrap_or(0);
        if let Some(dirty) = buffer.sub(low, HEADROOM.saturating_sub(low)) {
            dirty.clear();
        }
        if let Some(body) = buffer.sub(HEADROOM, packet.len()) {
            body.write(packet);
        }
        let data = self.buffer.addr() + HEADROOM as u64;
        self.put(record::DATA, data);
        self.put(record::DATA_META, data);
        self.put(record::LOW, data);
        self.put(record::DATA_END, data + packet.len() as u64);
    }

    /// Gives a field a value before the run, as the caller of `BPF_PROG_TEST_RUN` does in `ctx_in`.
    ///
    /// For XDP, `data` is how many bytes at the packet's start are metadata (a multiple of 4, at most
    /// [`XDP_MAX_META`]). `cb` is an array: `cb[0]` to `cb[4]`. As in the kernel, `wire_len` becomes the packet's length
    /// when any field is given and it is not. Where the type takes no packet, every number can be given; bytes without
    /// structure are an array of 64-bit words (`args[2]`). [`Context::packet_socket`] says what it takes.
    pub fn set(&mut self, field: &str, value: u64) -> Result<(), ContextError> {
        if matches!(self.kind, Kind::Raw | Kind::Flow) {
            return self.set_supplied(field, value);
        }
        let (name, index) = split_index(field);
        let settable: &[&str] = match self.kind {
            Kind::Xdp => &XDP_SETTABLE,
            Kind::SkbL2 | Kind::SkbL3 => &SKB_SETTABLE,
            Kind::Frame => &FRAME_SETTABLE,
            Kind::Flow | Kind::Raw => &[],
        };
        if !settable.contains(&name) || (name == "cb") != index.is_some() || index.is_some_and(|i| i > 4) {
            let settable = settable.iter().map(|n| if *n == "cb" { "cb[0..4]" } else { n });
            return Err(ContextError::NoSuchField {
                context: self.desc().name,
                field: field.to_owned(),
                settable: settable.collect::<Vec<_>>().join(", "),
            });
        }
        if (self.kind, name) == (Kind::Xdp, "data") {
            return self.set_meta(value);
        }
        let bad = |wanted| Err(ContextError::BadValue { field: field.to_owned(), value, wanted });
        match name {
            "wire_len" if value < self.packet_len() as u64 || value > 65_536 => {
                return bad("the packet's length to 65536");
            }
            "gso_segs" | "gso_size" if value > 65_535 => return bad("at most 65535"),
            _ if value > u64::from(u32::MAX) && !matches!(name, "tstamp" | "hwtstamp") => return bad("32 bits"),
            _ => {}
        }
        if matches!(self.kind, Kind::SkbL2 | Kind::SkbL3) && self.get("wire_len") == Some(0) {
            let len = self.get("len").unwrap_or_default();
            self.put_field("wire_len", len);
        }
        match index {
            Some(i) => self.put_uapi(sk_buff::CB + 4 * i, Size::W, value),
            None if name == "hatype" => self.put_hatype(value),
            None if name == "ifindex" && self.kind != Kind::Frame => self.put_field(name, value.max(IFINDEX)),
            None => self.put_field(name, value),
        }
        Ok(())
    }

    /// Turns the first `len` bytes of the packet into metadata: `data` keeps its place in the frame.
    fn set_meta(&mut self, len: u64) -> Result<(), ContextError> {
        let packet = self.packet();
        let meta = len as usize;
        let whole = len <= XDP_MAX_META as u64 && len.is_multiple_of(4) && meta + ETH_HLEN <= packet.len();
        if !whole {
            let wanted = "a multiple of 4, at most 216, that leaves an Ethernet header";
            return Err(ContextError::BadValue { field: "data".to_owned(), value: len, wanted });
        }
        let data = self.buffer.addr() + HEADROOM as u64;
        self.put(record::DATA, data);
        self.put(record::DATA_META, data - len);
        self.put(record::LOW, self.word(record::LOW).min(data - len));
        self.put(record::DATA_END, data + (packet.len() - meta) as u64);
        if let Some(body) = self.buffer.slice().sub(HEADROOM - meta, packet.len()) {
            body.write(&packet);
        }
        Ok(())
    }

    /// A field's value now, by UAPI name (`cb[2]` for an element), as `ctx_out` gives it: packet pointers count from
    /// the start of the metadata. `None` where the struct has no such field.
    pub fn get(&self, field: &str) -> Option<u64> {
        let (name, index) = split_index(field);
        if matches!(self.kind, Kind::Raw | Kind::Flow) {
            return self.get_supplied(field);
        }
        if let (Kind::SkbL2 | Kind::SkbL3 | Kind::Frame, "cb", Some(i @ 0..=4)) = (self.kind, name, index) {
            return self.record.slice().load((record::UAPI + sk_buff::CB + 4 * i) as usize, Size::W);
        }
        let found = every_field(self.kind, field)?;
        let meta = self.word(record::DATA_META);
        match found.kind {
            FieldKind::PacketData => Some(self.word(record::DATA).wrapping_sub(meta)),
            FieldKind::PacketEnd => Some(self.word(record::DATA_END).wrapping_sub(meta)),
            FieldKind::PacketMeta => Some(0),
            FieldKind::Memory(_) | FieldKind::Socket { .. } => None,
            FieldKind::Scalar => {
                self.record.slice().load((record::UAPI + found.offset) as usize, Size::from_bytes(found.size)?)
            }
        }
    }

    /// The packet after the run, as `data_out` gives it: with metadata in front for XDP, with 14 zero bytes in place of
    /// the Ethernet header for programs that see the packet from the network header on. A flow dissector's keys. Where the
    /// caller supplied the context: as many of its bytes as were given, addresses as zero.
    pub fn packet(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.packet_into(&mut out);
        out
    }

    /// The same into a buffer that is cleared first.
    pub fn packet_into(&self, out: &mut Vec<u8>) {
        out.clear();
        if self.kind == Kind::SkbL3 {
            out.resize(ETH_HLEN, 0);
        }
        let body = match self.kind {
            Kind::Raw => return self.supplied_into(out),
            Kind::Flow => return self.keys_into(out),
            Kind::Xdp | Kind::SkbL2 | Kind::SkbL3 | Kind::Frame => self.packet_slice(),
        };
        if let Some(body) = body {
            let at = out.len();
            out.resize(at + body.len(), 0);
            body.read(&mut out[at..]);
        }
    }

    /// Bytes from `data` to `data_end`.
    pub fn packet_len(&self) -> usize {
        usize::try_from(self.word(record::DATA_END).saturating_sub(self.word(record::DATA))).unwrap_or(0)
    }

    /// What R1 points to.
    pub fn record_addr(&self) -> u64 {
        self.record.addr()
    }

    /// Bytes into a context at which [`record_addr`](Self::record_addr) lies, for the entry stub.
    pub(crate) const RECORD_ADDR_AT: usize = std::mem::offset_of!(Context, record) + Bytes::ADDR_AT;
    /// The same of [`prog_type`](Self::prog_type), four bytes.
    pub(crate) const PROG_TYPE_AT: usize = std::mem::offset_of!(Context, prog_type);

    /// All of the record.
    pub fn record(&self) -> Slice<'_> {
        self.record.slice()
    }

    /// All of the packet buffer, head and tail room included.
    pub fn buffer(&self) -> Slice<'_> {
        self.buffer.slice()
    }

    /// What packet pointers may reach now: from `data_meta` to `data_end`. `None` without a packet.
    #[inline]
    pub fn packet_slice(&self) -> Option<Slice<'_>> {
        let (meta, end) = (self.word(record::DATA_META), self.word(record::DATA_END));
        let len = usize::try_from(end.checked_sub(meta)?).ok()?;
        let buffer = self.buffer.slice();
        buffer.sub(buffer.find(meta, len)?, len).filter(|_| meta != 0)
    }

    /// Where metadata, packet, and what lies behind the packet begin now; `None` without a packet.
    #[cfg(feature = "fault-injection")]
    #[doc(hidden)]
    pub fn packet_bounds(&self) -> Option<[u64; 3]> {
        let words = [record::DATA_META, record::DATA, record::DATA_END].map(|at| self.word(at));
        (words[2] != 0).then_some(words)
    }

    /// The program type it was made for (`SYSCALL` for [`Context::raw`]).
    pub fn prog_type(&self) -> ProgType {
        self.prog_type
    }

    /// What `LD_ABS` and `LD_IND` read at `off`, in host byte order; see [`super::legacy_load`].
    pub fn legacy_load(&self, off: i32, size: Size) -> Option<u64> {
        super::legacy_load(self.record.slice(), self.buffer.slice(), off, size)
    }

    pub(super) fn desc(&self) -> &'static ContextDesc {
        describe(self.prog_type).map_or(&NO_CONTEXT, |d| d.context)
    }
    #[inline]
    pub(super) fn word(&self, at: u32) -> u64 {
        self.record.slice().load(at as usize, Size::DW).unwrap_or(0)
    }
    #[inline]
    pub(super) fn put(&mut self, at: u32, value: u64) {
        // `at` is one of the record's constants, all inside it.
        let _ = self.record.slice().store(at as usize, Size::DW, value);
    }
    pub(super) fn put_uapi(&mut self, offset: u32, size: Size, value: u64) {
        let _ = self.record.slice().store((record::UAPI + offset) as usize, size, value);
    }
    fn put_field(&mut self, name: &str, value: u64) {
        let Some(field) = every_field(self.kind, name) else { return };
        if let Some(size) = Size::from_bytes(field.size) {
            self.put_uapi(field.offset, size, value);
        }
    }
}

/// Offsets in `struct xdp_md` that every run sets.
mod xdp_md {
    pub(super) const INGRESS_IFINDEX: u32 = 12;
    pub(super) const RX_QUEUE_INDEX: u32 = 16;
}

/// The same for `struct __sk_buff`.
mod sk_buff {
    pub(super) const SIZE: usize = 192;
    pub(super) const LEN: u32 = 0;
    pub(super) const PKT_TYPE: u32 = 4;
    pub(super) const PROTOCOL: u32 = 16;
    pub(super) const IFINDEX: u32 = 40;
    pub(super) const CB: u32 = 48;
    pub(super) const FAMILY: u32 = 88;
    pub(super) const REMOTE_IP4: u32 = 92;
    pub(super) const LOCAL_IP4: u32 = 96;
    pub(super) const REMOTE_IP6: u32 = 100;
    pub(super) const LOCAL_IP6: u32 = 116;
}

static NO_CONTEXT: ContextDesc = ContextDesc { name: "no context", size: 0, fields: &[] };

/// A field of the struct behind `kind`, whichever program types may see it.
fn every_field(kind: Kind, name: &str) -> Option<&'static super::Field> {
    let types: &[ProgType] = match kind {
        Kind::Xdp => &[ProgType::XDP],
        Kind::SkbL2 | Kind::SkbL3 | Kind::Frame => &[ProgType::SCHED_CLS, ProgType::CGROUP_SKB],
        Kind::Flow | Kind::Raw => &[],
    };
    // These look the same to all attach types.
    types.iter().filter_map(|t| describe(*t)).find_map(|desc| desc.context.field(name))
}

/// `cb[3]` → (`cb`, 3).
pub(super) fn split_index(field: &str) -> (&str, Option<u32>) {
    let split = field.strip_suffix(']').and_then(|f| f.split_once('['));
    match split.and_then(|(name, index)| Some((name, index.parse().ok()?))) {
        Some((name, index)) => (name, Some(index)),
        None => (field, None),
    }
}

pub(super) fn check_length(packet: &[u8], most: usize, what: &'static str) -> Result<(), ContextError> {
    let found = packet.len();
    if found < ETH_HLEN {
        return Err(ContextError::TooShort { found, wanted: ETH_HLEN, what: "an Ethernet header" });
    }
    if found > most {
        return Err(ContextError::TooLong { found, wanted: most, what });
    }
    Ok(())
}

/// The EtherType in host byte order, or the kernel's stand-ins for IEEE 802.3 lengths (`eth_type_trans`).
pub(super) fn protocol(packet: &[u8]) -> u16 {
    const ETH_P_802_3_MIN: u16 = 0x0600;
    const ETH_P_802_3: u16 = 1;
    const ETH_P_802_2: u16 = 4;
    let pair = |at: usize| packet.get(at..at + 2).map(|b| u16::from_be_bytes([b[0], b[1]]));
    match pair(12) {
        Some(proto) if proto >= ETH_P_802_3_MIN => proto,
        _ if pair(ETH_HLEN) == Some(0xffff) => ETH_P_802_3,
        _ => ETH_P_802_2,
    }
}

/// `PACKET_HOST`, `_BROADCAST`, `_MULTICAST` or `_OTHERHOST`, for a receiver with the address zero.
fn pkt_type(packet: &[u8]) -> u64 {
    match packet.first_chunk::<6>() {
        Some([0, 0, 0, 0, 0, 0]) => 0,
        Some([255, 255, 255, 255, 255, 255]) => 1,
        Some([first, ..]) if first & 1 == 1 => 2,
        _ => 3,
    }
}
