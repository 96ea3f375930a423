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

#[cfg(test)]
mod tests {
    use super::*;

    static TRAFFIC: &[u8] = include_bytes!("../assets/demo/traffic.pcap");

    /// Numbers in the byte order of a file.
    #[derive(Clone, Copy)]
    struct Order(bool);

    impl Order {
        fn word(self, word: u32) -> [u8; 4] {
            if self.0 { word.to_be_bytes() } else { word.to_le_bytes() }
        }

        fn block(self, kind: u32, content: &[u8]) -> Vec<u8> {
            let padding = vec![0; content.len().next_multiple_of(4) - content.len()];
            let length = self.word((12 + content.len() + padding.len()) as u32);
            [&self.word(kind)[..], &length, content, &padding, &length].concat()
        }

        fn interface(self, link: u16) -> Vec<u8> {
            let link = if self.0 { link.to_be_bytes() } else { link.to_le_bytes() };
            self.block(1, &[&link[..], &[0; 6]].concat())
        }

        fn packet(self, interface: u32, packet: &[u8]) -> Vec<u8> {
            let length = self.word(packet.len() as u32);
            self.block(6, &[&self.word(interface)[..], &[0; 8], &length, &length, packet].concat())
        }

        /// A section with an Ethernet interface, another one, a packet of each, and a simple packet.
        fn section(self) -> Vec<u8> {
            let version = if self.0 { [0, 1, 0, 0] } else { [1, 0, 0, 0] };
            let header = self.block(0x0a0d_0d0a, &[&self.word(0x1a2b_3c4d)[..], &version, &[0xff; 8]].concat());
            let simple = self.block(3, &[&self.word(15)[..], &[3; 15]].concat());
            let blocks = [
                header,
                self.interface(1),
                self.interface(101),
                self.packet(0, &[1; 21]),
                self.packet(1, &[2; 30]),
                simple,
            ];
            blocks.concat()
        }
    }

    #[test]
    fn the_built_in_capture_is_read_whole_in_either_byte_order() {
        let capture = read(TRAFFIC).unwrap();
        assert_eq!((capture.found, capture.packets.len() + capture.too_short), (capture.found, capture.found));
        assert_eq!((capture.cut.clone(), capture.too_long, capture.not_ethernet), (None, 0, 0));
        // The same file as a big-endian machine would have written it.
        let (mut swapped, mut at) = (TRAFFIC.to_vec(), 24);
        [0..4, 8..12, 12..16, 16..20, 20..24, 4..6, 6..8].into_iter().for_each(|field| swapped[field].reverse());
        while at < TRAFFIC.len() {
            (0..4).for_each(|n| swapped[at + 4 * n..at + 4 * n + 4].reverse());
            at += 16 + u32::from_le_bytes(TRAFFIC[at + 8..at + 12].try_into().unwrap()) as usize;
        }
        assert_eq!(read(&swapped).unwrap(), capture);
    }

    #[test]
    fn pcapng_in_either_byte_order_and_sections_of_both() {
        for orders in [vec![false], vec![true], vec![false, true], vec![true, false]] {
            let file: Vec<u8> = orders.iter().flat_map(|big| Order(*big).section()).collect();
            let capture = read(&file).unwrap();
            let n = orders.len();
            let wanted: Vec<Vec<u8>> = (0..n).flat_map(|_| [vec![1; 21], vec![3; 15]]).collect();
            assert_eq!(capture.packets, wanted);
            assert_eq!((capture.found, capture.not_ethernet, &capture.cut), (3 * n, n, &None));
        }
    }

    #[test]
    fn pcapng_that_is_cut_short_or_damaged_is_read_to_there() {
        let order = Order(false);
        let whole = [order.section(), order.packet(0, &[4; 40])].concat();
        let cut = read(&whole[..whole.len() - 1]).unwrap();
        assert_eq!(cut.packets.len(), 2);
        let at = order.section().len();
        let left = whole.len() - 1 - at;
        assert_eq!(
            cut.cut.unwrap(),
            format!("the capture is cut short: packet 4, at byte {at}, does not fit the {left} bytes left")
        );
        let mut damaged = whole.clone();
        damaged[at + 4..at + 8].copy_from_slice(&8u32.to_le_bytes());
        let damaged = read(&damaged).unwrap();
        assert_eq!(damaged.cut.unwrap(), format!("the capture is damaged: the block at byte {at} makes no sense"));
    }

    #[test]
    fn no_prefix_and_no_flipped_bit_does_harm() {
        let ng = [Order(false).section(), Order(true).section()].concat();
        for file in [&TRAFFIC[..2000], &ng] {
            for length in 0..file.len() {
                if let Ok(capture) = read(&file[..length]) {
                    assert!(capture.packets.iter().map(Vec::len).sum::<usize>() < length);
                }
            }
            let mut damaged = file.to_vec();
            for bit in 0..8 * file.len() {
                damaged[bit / 8] ^= 1 << (bit % 8);
                if let Ok(capture) = read(&damaged) {
                    assert!(capture.packets.iter().map(Vec::len).sum::<usize>() < file.len());
                }
                damaged[bit / 8] ^= 1 << (bit % 8);
            }
        }
    }
}
