//! Contexts, helper sets and return ranges beside what the kernel answered (tests/data/contexts/kernel.txt): every access
//! of the first bytes of every context, every helper, every small return value.

use std::collections::{BTreeMap, BTreeSet};

use livebpf::context::{FieldKind, Region, SocketView, TypeDesc, describe_kind};
use livebpf::helper::id;
use livebpf::insn::Size;
use livebpf::object::{AttachType, ProgType, ProgramKind};

/// Bytes of each context that were tried.
const SPAN: u32 = 264;
const SIZES: [Size; 4] = [Size::B, Size::H, Size::W, Size::DW];

/// One program type with one attach type.
#[derive(Default)]
struct Section {
    name: String,
    kind: Option<ProgramKind>,
    returns: Option<(i32, i32)>,
    /// (write, bytes, offset) → what it gives.
    accesses: BTreeMap<(bool, u32, u32), String>,
    helpers: BTreeSet<u32>,
}

fn numbers<'a>(words: impl Iterator<Item = &'a str>, step: u32) -> Vec<u32> {
    let number = |text: &str| text.parse().unwrap_or_else(|_| panic!("{text:?} is a number"));
    words
        .flat_map(|word| {
            let (from, to) = word.split_once('-').unwrap_or((word, word));
            (number(from)..=number(to)).step_by(step as usize)
        })
        .collect()
}

fn sections() -> Vec<Section> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/contexts/kernel.txt");
    let mut sections: Vec<Section> = Vec::new();
    for line in std::fs::read_to_string(path).expect("the file is there").lines().filter(|l| !l.starts_with('#')) {
        let mut words = line.split_whitespace();
        let first = words.next().expect("no line is empty");
        if first == "==" {
            let ids: Vec<u32> = line.rsplit(' ').filter_map(|word| word.parse().ok()).collect();
            let kind = ProgramKind { attach_type: AttachType(ids[0]), ..ProgramKind::new(ProgType(ids[1])) };
            sections.push(Section { name: line.to_owned(), kind: Some(kind), ..Section::default() });
            continue;
        }
        let section = sections.last_mut().expect("a section begins first");
        match first {
            "returns" => {
                let ends: Vec<i32> = words.filter_map(|word| word.parse().ok()).collect();
                section.returns = (!ends.is_empty()).then(|| (ends[0], ends[1]));
            }
            "read" | "write" => {
                let bytes = words.next().and_then(|w| w.parse().ok()).expect("a size");
                let what = words.next().expect("what it gives").to_owned();
                for off in numbers(words, bytes) {
                    section.accesses.insert((first == "write", bytes, off), what.clone());
                }
            }
            "helpers" => section.helpers.extend(numbers(words, 1)),
            other => panic!("unknown line {other}"),
        }
    }
    sections
}

fn what(kind: FieldKind) -> &'static str {
    match kind {
        FieldKind::Scalar => "scalar",
        FieldKind::PacketData => "pkt",
        FieldKind::PacketEnd => "pkt_end",
        FieldKind::PacketMeta => "pkt_meta",
        FieldKind::Memory(Region::FlowKeys) => "flow_keys",
        FieldKind::Memory(Region::Tracepoint) => "tp_buffer",
        FieldKind::Socket { view: SocketView::Full, nullable: false } => "sock",
        FieldKind::Socket { view: SocketView::Full, nullable: true } => "sock_or_null",
        FieldKind::Socket { view: SocketView::Common, nullable: false } => "sock_common",
        FieldKind::Socket { view: SocketView::Common, nullable: true } => "sock_common_or_null",
    }
}

fn described(section: &Section) -> &'static TypeDesc {
    let kind = section.kind.expect("a section has one");
    describe_kind(&kind).unwrap_or_else(|| panic!("{}: not described", section.name))
}

#[test]
fn every_access_is_allowed_where_the_kernel_allows_it() {
    for section in sections() {
        let context = described(&section).context;
        for write in [false, true] {
            for (size, off) in SIZES.into_iter().flat_map(|size| (0..SPAN).map(move |off| (size, off))) {
                let ours =
                    context.access(off, size, write).map(|(field, _)| if write { "yes" } else { what(field.kind) });
                let mut kernel = section.accesses.get(&(write, size.bytes(), off)).map(String::as_str);
                if context.field_at(off).is_some_and(|field| field.kind == FieldKind::Memory(Region::Tracepoint)) {
                    // The kernel hands out parts of this address as numbers, which tell the address.
                    kernel = kernel.filter(|_| size == Size::DW);
                }
                assert_eq!(ours, kernel, "{}: {} bytes at {off}, write {write}", section.name, size.bytes());
            }
        }
    }
}

#[test]
fn every_type_has_the_helpers_that_the_kernel_gives_it() {
    for section in sections() {
        let mut ours: BTreeSet<u32> = described(&section).helpers.ids().collect();
        // Ours alone: translated classic filters call them.
        ours.retain(|id| *id < id::CLASSIC_NLATTR);
        if section.kind.is_some_and(|kind| kind.prog_type == ProgType::SYSCALL) {
            // There they take a pointer of the kernel, elsewhere the context.
            ours.extend([id::GET_SOCKET_COOKIE, id::XDP_GET_BUFF_LEN]);
        }
        assert_eq!(ours, section.helpers, "{}", section.name);
    }
}

#[test]
fn return_values_are_limited_where_the_kernel_limits_them() {
    let sections = sections();
    assert!(sections.len() > 50);
    for section in sections {
        assert_eq!(described(&section).returns, section.returns, "{}", section.name);
    }
}
