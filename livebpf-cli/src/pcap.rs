//! Captures: pcap and pcapng files, read whole, their Ethernet packets kept.
//!
//! A file that is cut short, or damaged on the way, is read up to there, and [`Capture::notes`] says so. Lengths in the file
//! are believed only as far as the file goes: nothing is reserved for them. Packets that an XDP program cannot be given
//! are left out and counted.

use std::io::Read;
use std::path::Path;

use livebpf::context::{ETH_HLEN, XDP_MAX_PACKET};
use pcap_parser::nom::{Err as NomError, IResult};
use pcap_parser::traits::PcapNGPacketBlock;
use pcap_parser::{Block, PcapError as Parser};
use pcap_parser::{parse_block_be, parse_block_le, parse_pcap_frame, parse_pcap_frame_be, parse_pcap_frame_modified};

/// Most bytes of a file that are read.
const MAX_FILE: u64 = 256 << 20;
/// Bytes of a pcap file's header.
const HEADER: u64 = 24;
/// The link type of Ethernet.
const ETHERNET: i32 = 1;

/// Why a file gives no packets.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum CaptureError {
    /// It cannot be read.
    #[error("{0}")]
    Io(String),
    /// There is nothing in it.
    #[error("the file is empty, wanted a capture (pcap or pcapng)")]
    Empty,
    /// It is something else.
    #[error("not a capture: it begins with {0}, wanted a pcap (d4 c3 b2 a1) or pcapng (0a 0d 0d 0a) file")]
    Magic(String),
    /// Not even the header is there.
    #[error("the capture ends inside its header: found {found} bytes, wanted {wanted}")]
    Header {
        /// Bytes there are.
        found: usize,
        /// Bytes of a header.
        wanted: u64,
    },
    /// The packets are no Ethernet packets.
    #[error("the packets are of link type {0}, wanted 1 (Ethernet)")]
    Link(i32),
    /// No packet is left to run.
    #[error("the capture has no packet that an XDP program can be given{0}")]
    NoPackets(String),
}

/// The packets of a capture.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Capture {
    /// Those that can be run, in their order.
    pub packets: Vec<Vec<u8>>,
    /// Packets there were, those left out included.
    pub found: usize,
    /// Left out: shorter than an Ethernet header.
    pub too_short: usize,
    /// Left out: longer than fits an XDP frame.
    pub too_long: usize,
    /// Left out: from interfaces that are not Ethernet.
    pub not_ethernet: usize,
    /// Where and why reading stopped before the end of the file.
    pub cut: Option<String>,
}

/// Reads a capture file.
pub fn read_file(path: &Path) -> Result<Capture, CaptureError> {
    let io = |e: std::io::Error| CaptureError::Io(e.to_string());
    let mut bytes = Vec::new();
    let mut file = std::fs::File::open(path).map_err(io)?;
    file.by_ref().take(MAX_FILE).read_to_end(&mut bytes).map_err(io)?;
    let mut capture = read(&bytes)?;
    if bytes.len() as u64 == MAX_FILE && capture.cut.is_some() {
        capture.cut = Some(format!("only the first {} MiB of the file are read", MAX_FILE >> 20));
    }
    Ok(capture)
}

/// Reads a capture.
pub fn read(bytes: &[u8]) -> Result<Capture, CaptureError> {
    let mut capture = Capture::default();
    match bytes {
        [] => return Err(CaptureError::Empty),
        [0x0a, 0x0d, 0x0d, 0x0a, ..] => capture.pcapng(bytes)?,
        [0xd4, 0xc3, 0xb2, 0xa1, ..] | [0x4d, 0x3c, 0xb2, 0xa1, ..] => capture.pcap(bytes, parse_pcap_frame)?,
        [0xa1, 0xb2, 0xc3, 0xd4, ..] | [0xa1, 0xb2, 0x3c, 0x4d, ..] => capture.pcap(bytes, parse_pcap_frame_be)?,
        [0x34, 0xcd, 0xb2, 0xa1, ..] => capture.pcap(bytes, parse_pcap_frame_modified)?,
        _ => return Err(CaptureError::Magic(crate::bytes::to_text(&bytes[..bytes.len().min(4)]))),
    }
    if capture.packets.is_empty() {
        let notes: String = capture.notes().iter().map(|note| format!("; {note}")).collect();
        return Err(CaptureError::NoPackets(notes));
    }
    Ok(capture)
}

type Parsed<'a, T> = IResult<&'a [u8], T, Parser<&'a [u8]>>;
type Frame<'a> = pcap_parser::LegacyPcapBlock<'a>;

impl Capture {
    /// What a user should know: what was left out, and why reading stopped.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        let mut left_out = |count: usize, why: &str| {
            if count > 0 {
                notes.push(format!("left out {count} of {} packets: {why}", self.found));
            }
        };
        left_out(self.too_short, &format!("shorter than an Ethernet header ({ETH_HLEN} bytes)"));
        left_out(self.too_long, &format!("longer than XDP takes without fragments ({XDP_MAX_PACKET} bytes)"));
        left_out(self.not_ethernet, "not from an Ethernet interface");
        notes.extend(self.cut.clone());
        notes
    }

    fn keep(&mut self, packet: &[u8]) {
        self.found += 1;
        match packet.len() {
            length if length < ETH_HLEN => self.too_short += 1,
            length if length > XDP_MAX_PACKET => self.too_long += 1,
            _ => self.packets.push(packet.to_vec()),
        }
    }

    fn pcap(&mut self, bytes: &[u8], frame: for<'a> fn(&'a [u8]) -> Parsed<'a, Frame<'a>>) -> Result<(), CaptureError> {
        let short = CaptureError::Header { found: bytes.len(), wanted: HEADER };
        let Ok((mut rest, header)) = pcap_parser::parse_pcap_header(bytes) else { return Err(short) };
        // The upper bits say whether, and how long, a checksum follows each packet.
        let link = header.network.0 & 0x0fff_ffff;
        if link != ETHERNET {
            return Err(CaptureError::Link(link));
        }
        while !rest.is_empty() {
            match frame(rest) {
                Ok((behind, packet)) => {
                    self.keep(packet.data);
                    rest = behind;
                }
                Err(_) => {
                    self.stop("cut short", bytes.len() - rest.len(), rest.len());
                    break;
                }
            }
        }
        Ok(())
    }

    /// Notes that the rest of the file is not read.
    fn stop(&mut self, what: &str, at: usize, left: usize) {
        let next = self.found + 1;
        self.cut =
            Some(format!("the capture is {what}: packet {next}, at byte {at}, does not fit the {left} bytes left"));
    }

    fn pcapng(&mut self, bytes: &[u8]) -> Result<(), CaptureError> {
        let (mut rest, mut big_endian, mut links) = (bytes, false, Vec::new());
        while !rest.is_empty() {
            let at = bytes.len() - rest.len();
            let parse = if big_endian { parse_block_be } else { parse_block_le };
            let (behind, block) = match parse(rest) {
                Ok(parsed) => parsed,
                Err(NomError::Incomplete(_)) if block_length(rest, big_endian) > rest.len() as u64 => {
                    if at == 0 {
                        return Err(CaptureError::Header { found: rest.len(), wanted: block_length(rest, big_endian) });
                    }
                    self.stop("cut short", at, rest.len());
                    break;
                }
                Err(_) => {
                    self.cut = Some(format!("the capture is damaged: the block at byte {at} makes no sense"));
                    break;
                }
            };
            match block {
                Block::SectionHeader(section) => {
                    big_endian = section.big_endian();
                    links.clear();
                }
                Block::InterfaceDescription(interface) => links.push(interface.linktype.0),
                Block::EnhancedPacket(packet) => self.keep_from(&links, packet.if_id, packet.packet_data()),
                Block::SimplePacket(packet) => self.keep_from(&links, 0, packet.packet_data()),
                _ => {}
            }
            rest = behind;
        }
        Ok(())
    }

    fn keep_from(&mut self, links: &[i32], interface: u32, packet: &[u8]) {
        if links.get(interface as usize) == Some(&ETHERNET) {
            self.keep(packet);
        } else {
            self.found += 1;
            self.not_ethernet += 1;
        }
    }
}

/// How many bytes the block at the start of `bytes` says it has. At least 12: less is no block. The first block of a
/// file says itself whether its numbers are big endian.
fn block_length(bytes: &[u8], big_endian: bool) -> u64 {
    let word = |at: usize| bytes.get(at..at + 4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    let section = word(0) == Some(0x0a0d_0d0a);
    let big_endian = if section { word(8) == Some(0x1a2b_3c4d_u32.swap_bytes()) } else { big_endian };
    let length = word(4).map(|length| if big_endian { length.swap_bytes() } else { length });
    length.map_or(12, |length| u64::from(length.max(12)))
}
