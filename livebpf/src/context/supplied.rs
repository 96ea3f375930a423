//! Contexts that the caller supplies: the bytes of the UAPI struct, and what its addresses point to.
//!
//! Addresses are never the caller's: packet pointers point to a copy of what [`Context::set_data`] was given, other
//! addresses into the context's own memory, which is zero at the start; sockets that may be missing are missing. A flow
//! dissector's packet and keys are those of `BPF_PROG_TEST_RUN`.

use super::buffer::{Context, ContextError, ETH_HLEN, HEADROOM, Kind, SKB_MAX_PACKET, check_length, split_index};
use super::describe::variants;
use super::{ContextDesc, Field, FieldKind, Region, record, sockets};
use crate::insn::Size;
use crate::map::cell::{Bytes, Slice};

/// Bytes that `field` points to, other than the packet's.
fn pointee(field: &Field) -> u32 {
    match field.kind {
        FieldKind::Memory(region) => region.size(),
        FieldKind::Socket { nullable: false, .. } => sockets::SOCK_SIZE,
        FieldKind::Socket { nullable: true, .. }
        | FieldKind::Scalar
        | FieldKind::PacketData
        | FieldKind::PacketEnd
        | FieldKind::PacketMeta => 0,
    }
}

/// Bytes that the addresses of a context point to, other than the packet's.
pub(super) fn memory_size(desc: &ContextDesc) -> u32 {
    desc.fields.iter().map(pointee).sum()
}

/// Offsets in `struct bpf_flow_keys`.
mod flow_keys {
    pub(super) const NHOFF: usize = 0;
    pub(super) const THOFF: usize = 2;
    pub(super) const N_PROTO: usize = 10;
    pub(super) const FLAGS: usize = 48;
}

impl Context {
    pub(super) fn reset_raw(&mut self, bytes: &[u8]) -> Result<(), ContextError> {
        let wanted = self.desc().size as usize;
        if bytes.len() > wanted {
            return Err(ContextError::ArgsTooLong { found: bytes.len(), wanted });
        }
        self.record.slice().clear();
        if let Some(args) = self.record.slice().sub(record::UAPI as usize, bytes.len()) {
            args.write(bytes);
        }
        self.raw_len = bytes.len();
        self.put_addresses();
        self.put_data(&[])
    }

    pub(super) fn reset_flow(&mut self, packet: &[u8]) -> Result<(), ContextError> {
        check_length(packet, SKB_MAX_PACKET, "a socket buffer")?;
        self.make_room(packet)?;
        self.put_packet(packet);
        let start = self.buffer.addr() + HEADROOM as u64;
        self.put(record::BUF_START, start);
        self.put(record::BUF_END, start + packet.len() as u64);
        self.put(record::MAC, start);
        self.put(record::NETWORK, start + ETH_HLEN as u64);
        self.put_addresses();
        let keys = self.memory.slice();
        for at in [flow_keys::NHOFF, flow_keys::THOFF] {
            let _ = keys.store(at, Size::H, ETH_HLEN as u64);
        }
        // The kernel gives the EtherType as it stands there, whatever it is.
        let proto = u16::from_ne_bytes([packet[12], packet[13]]);
        let _ = keys.store(flow_keys::N_PROTO, Size::H, proto.into());
        Ok(())
    }

    /// Makes what the addresses point to zero, and writes them.
    fn put_addresses(&mut self) {
        self.memory.slice().clear();
        let mut at = self.memory.addr();
        for field in self.desc().fields {
            let address = match pointee(field) {
                0 if !matches!(field.kind, FieldKind::Socket { .. }) => continue,
                0 => 0,
                _ => at,
            };
            self.put_uapi(field.offset, Size::DW, address);
            at += u64::from(pointee(field));
        }
    }

    /// Gives the bytes that the context's packet pointers point to (`data`, `optval`, `skb_data`), and their length as the
    /// field that states it.
    ///
    /// # Errors
    /// [`ContextError::NoPacket`] where the type has none, or takes its packet at the start.
    pub fn set_data(&mut self, data: &[u8]) -> Result<(), ContextError> {
        if !self.points_to_data() {
            return Err(ContextError::NoPacket(self.prog_type()));
        }
        if data.len() > SKB_MAX_PACKET {
            return Err(ContextError::TooLong { found: data.len(), wanted: SKB_MAX_PACKET, what: "a socket buffer" });
        }
        self.put_data(data)?;
        for name in ["len", "size", "optlen", "skb_len"] {
            if let Some(field) = self.desc().field(name) {
                self.put_uapi(field.offset, Size::W, data.len() as u64);
            }
        }
        Ok(())
    }

    /// Points the packet pointers to a copy of `data`, where the type has some.
    fn put_data(&mut self, data: &[u8]) -> Result<(), ContextError> {
        if !self.points_to_data() {
            return Ok(());
        }
        self.buffer = Bytes::zeroed(data.len().max(1) as u64)?;
        if let Some(body) = self.buffer.slice().sub(0, data.len()) {
            body.write(data);
        }
        let (start, end) = (self.buffer.addr(), self.buffer.addr() + data.len() as u64);
        for (at, address) in [
            (record::DATA, start),
            (record::DATA_META, start),
            (record::LOW, start),
            (record::BUF_START, start),
            (record::MAC, start),
            (record::NETWORK, start),
            (record::DATA_END, end),
            (record::BUF_END, end),
        ] {
            self.put(at, address);
        }
        Ok(())
    }

    /// Whether the context is supplied, and has packet pointers.
    fn points_to_data(&self) -> bool {
        self.kind == Kind::Raw && self.desc().fields.iter().any(|field| field.kind == FieldKind::PacketData)
    }

    /// The bytes that packet pointers reach now: what a program left of those of [`Context::set_data`].
    pub fn data(&self) -> Vec<u8> {
        self.packet_slice().map_or_else(Vec::new, |data| data.to_vec())
    }

    /// What the context points to besides a packet: flow keys, a tracepoint's buffer, a socket (`struct bpf_sock`).
    /// Empty where it points to nothing.
    pub fn memory(&self) -> Slice<'_> {
        self.memory.slice()
    }

    /// Whether programs may change [`Context::memory`].
    pub fn memory_is_writable(&self) -> bool {
        self.desc().fields.iter().any(|field| matches!(field.kind, FieldKind::Memory(_)))
    }

    /// Where field `name` lies, from the start of the record or of the flow keys, and its size.
    fn place(&self, name: &str) -> Option<(usize, Size)> {
        if self.kind == Kind::Flow {
            return (name == "flags").then_some((flow_keys::FLAGS, Size::W));
        }
        let (array, index) = split_index(name);
        let found = |name: &str| {
            let fields = variants(self.prog_type()).into_iter().flat_map(|desc| desc.context.fields);
            fields.into_iter().find(|field| field.name == name && field.kind == FieldKind::Scalar).copied()
        };
        if let Some(field) = found(name).filter(|field| field.unit == field.size) {
            return Some(((record::UAPI + field.offset) as usize, Size::from_bytes(field.size)?));
        }
        let field = found(array).filter(|field| field.unit < field.size)?;
        // Bytes without structure are 64-bit words as far as they go (`args`), else 32-bit ones (`cb`).
        let size = match field.any_size() {
            true if field.size.is_multiple_of(8) => Size::DW,
            true => Size::W,
            false => Size::from_bytes(field.unit)?,
        };
        let at = index?.checked_mul(size.bytes())?;
        let inside = at.checked_add(size.bytes())? <= field.size;
        inside.then_some(((record::UAPI + field.offset + at) as usize, size))
    }

    pub(super) fn set_supplied(&mut self, name: &str, value: u64) -> Result<(), ContextError> {
        let Some((at, size)) = self.place(name) else {
            let mut settable: Vec<&str> = match self.kind {
                Kind::Flow => vec!["flags"],
                _ => variants(self.prog_type()).iter().flat_map(|desc| desc.context.fields).map(scalar_name).collect(),
            };
            settable.retain(|name| !name.is_empty());
            settable.sort_unstable();
            settable.dedup();
            let settable = settable.join(", ");
            return Err(ContextError::NoSuchField { context: self.desc().name, field: name.to_owned(), settable });
        };
        if size != Size::DW && value >> size.bits() != 0 {
            return Err(ContextError::BadValue { field: name.to_owned(), value, wanted: "no more bits than it has" });
        }
        let block = if self.kind == Kind::Flow { &self.memory } else { &self.record };
        let _ = block.slice().store(at, size, value);
        self.raw_len = self.raw_len.max((at + size.bytes() as usize).saturating_sub(record::UAPI as usize));
        Ok(())
    }

    pub(super) fn get_supplied(&self, name: &str) -> Option<u64> {
        let (at, size) = self.place(name)?;
        let block = if self.kind == Kind::Flow { &self.memory } else { &self.record };
        block.slice().load(at, size)
    }

    /// The supplied bytes as they are now.
    pub(super) fn supplied_into(&self, out: &mut Vec<u8>) {
        out.resize(self.raw_len, 0);
        if let Some(body) = self.record.slice().sub(record::UAPI as usize, self.raw_len) {
            body.read(out);
        }
        for field in self.desc().fields.iter().filter(|field| field.kind != FieldKind::Scalar) {
            let (from, to) = (field.offset as usize, (field.offset + field.size) as usize);
            if let Some(address) = out.get_mut(from..to) {
                address.fill(0);
            }
        }
    }

    /// A flow dissector's keys as a test run gives them: the offsets lie in the packet, in order.
    pub(super) fn keys_into(&self, out: &mut Vec<u8>) {
        out.resize(Region::FlowKeys.size() as usize, 0);
        self.memory.slice().read(out);
        let len = u16::try_from(self.packet_len()).unwrap_or(u16::MAX);
        let mut low = ETH_HLEN as u16;
        for at in [flow_keys::NHOFF, flow_keys::THOFF] {
            let found = u16::from_ne_bytes([out[at], out[at + 1]]);
            low = found.max(low).min(len);
            out[at..at + 2].copy_from_slice(&low.to_ne_bytes());
        }
    }
}

fn scalar_name(field: &Field) -> &'static str {
    if field.kind == FieldKind::Scalar { field.name } else { "" }
}
