//! Broken and hostile objects: never a panic, never a hang, and messages that say where, what and what instead.

use std::ops::Range;
use std::time::{Duration, Instant};

use livebpf::link::link;
use livebpf::object::Object;

const OBJECTS: [&str; 7] =
    ["functions.o", "functions.v1.o", "functions.v2.o", "functions.v4.o", "maps.o", "kernel_only.o", "no_btf.o"];

fn bytes(name: &str) -> Vec<u8> {
    let path = format!("{}/tests/data/objects/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(&path).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// An object that a case breaks.
struct File {
    bytes: Vec<u8>,
}

impl File {
    fn open(name: &str) -> File {
        File { bytes: bytes(name) }
    }
    fn word(&self, at: usize, len: usize) -> usize {
        let mut word = [0; 8];
        word[..len].copy_from_slice(&self.bytes[at..at + len]);
        u64::from_le_bytes(word) as usize
    }
    fn set(&mut self, at: usize, len: usize, value: u64) {
        self.bytes[at..at + len].copy_from_slice(&value.to_le_bytes()[..len]);
    }
    /// Number of sections, and where the header of section `index` is.
    fn count(&self) -> usize {
        self.word(60, 2)
    }
    fn header_at(&self, index: usize) -> usize {
        self.word(40, 8) + index * 64
    }
    fn range(&self, index: usize) -> Range<usize> {
        let at = self.header_at(index);
        let start = self.word(at + 24, 8);
        start..start + self.word(at + 32, 8)
    }
    fn text(&self, at: usize) -> &str {
        let len = self.bytes[at..].iter().position(|b| *b == 0).expect("a NUL");
        std::str::from_utf8(&self.bytes[at..at + len]).expect("UTF-8")
    }
    fn name(&self, index: usize) -> &str {
        let names = self.range(self.word(62, 2)).start;
        self.text(names + self.word(self.header_at(index), 4))
    }
    fn index(&self, section: &str) -> usize {
        (0..self.count()).find(|i| self.name(*i) == section).unwrap_or_else(|| panic!("section {section}"))
    }
    fn header(&self, section: &str) -> usize {
        self.header_at(self.index(section))
    }
    fn data(&self, section: &str) -> usize {
        self.range(self.index(section)).start
    }
    /// Where the symbol called `name` is.
    fn symbol(&self, name: &str) -> usize {
        let names = self.data(".strtab");
        let table = self.range(self.index(".symtab"));
        let is = |at: &usize| self.text(names + self.word(*at, 4)) == name;
        table.step_by(24).find(is).unwrap_or_else(|| panic!("symbol {name}"))
    }
    /// Replaces the first occurrence of `from` in a section by as many bytes.
    fn replace(&mut self, section: &str, from: &str, to: &str) {
        let range = self.range(self.index(section));
        let at = self.bytes[range.clone()].windows(from.len()).position(|w| w == from.as_bytes());
        let at = range.start + at.unwrap_or_else(|| panic!("{from} in {section}"));
        self.bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
    }
    /// Takes the first character off a section's name.
    fn rename(&mut self, section: &str) {
        let at = self.header(section);
        let name = self.word(at, 4) as u64;
        self.set(at, 4, name + 1);
    }
}

/// Stands as `ELF_WANTED` in the messages below.
const ELF_WANTED: &str = "a 64-bit little-endian ELF relocatable for EM_BPF, as clang -target bpf -c writes";

type Case = (&'static str, fn(&mut File), &'static str);

fn check_parse(cases: &[Case]) {
    for (name, breakage, wanted) in cases {
        let mut file = File::open(name);
        breakage(&mut file);
        match Object::parse(&file.bytes) {
            Ok(_) => panic!("{name}: accepted, wanted: {wanted}"),
            Err(error) => assert_eq!(error.to_string(), wanted.replace("ELF_WANTED", ELF_WANTED), "{name}"),
        }
    }
}

/// As [`Case`], with the program to link second.
type LinkCase = (&'static str, &'static str, fn(&mut File), &'static str);

fn check_link(cases: &[LinkCase]) {
    for (name, program, breakage, wanted) in cases {
        let mut file = File::open(name);
        breakage(&mut file);
        let object = Object::parse(&file.bytes).unwrap_or_else(|e| panic!("{name}: {e}"));
        match link(&object, program) {
            Ok(_) => panic!("{name}: {program} accepted, wanted: {wanted}"),
            Err(error) => assert_eq!(error.to_string(), *wanted, "{name}"),
        }
    }
}

const BSS_300_MIB: u64 = 300 << 20;

#[test]
fn broken_containers() {
    check_parse(&[
        ("no_btf.o", |f| f.bytes.clear(), "elf header: found 0 bytes, wanted ELF_WANTED"),
        ("no_btf.o", |f| f.bytes[1] = b'F', "elf header: found the bytes [7f, 46, 4c, 46], wanted ELF_WANTED"),
        ("no_btf.o", |f| f.bytes[4] = 1, "elf header: found class 1 and data encoding 1, wanted ELF_WANTED"),
        ("no_btf.o", |f| f.bytes[5] = 2, "elf header: found class 2 and data encoding 2, wanted ELF_WANTED"),
        ("no_btf.o", |f| f.set(16, 2, 2), "elf header: found file type 2 for machine 247, wanted ELF_WANTED"),
        ("no_btf.o", |f| f.set(18, 2, 62), "elf header: found file type 1 for machine 62, wanted ELF_WANTED"),
        (
            "no_btf.o",
            |f| f.set(40, 8, 1 << 40),
            "elf header: found 9 section headers at 1099511627776 of 1000 bytes, wanted ELF_WANTED",
        ),
        (
            "no_btf.o",
            |f| f.set(f.header("socket"), 4, 1 << 20),
            "section #4: found no valid name, wanted a name of at most 1024 bytes in the string table",
        ),
        (
            "no_btf.o",
            |f| f.set(f.header("socket") + 24, 8, 1 << 20),
            "section socket: found 24 bytes at offset 1048576 of a file of 1000 bytes, wanted bytes inside the file",
        ),
        (
            "no_btf.o",
            |f| f.set(f.header("socket") + 32, 8, 12),
            "section socket: found 12 bytes of code, wanted slots of 8 bytes",
        ),
        (
            "no_btf.o",
            |f| f.set(f.header(".bss") + 32, 8, BSS_300_MIB),
            "section .bss: found 314572800 bytes of global data so far, wanted at most 256 MiB",
        ),
    ]);
}

#[test]
fn broken_symbols() {
    check_parse(&[
        (
            "no_btf.o",
            |f| f.set(f.header(".symtab") + 4, 4, 1),
            "section .symtab: found no symbols, wanted the symbols of programs and maps",
        ),
        (
            "no_btf.o",
            |f| f.set(f.symbol("entry"), 4, 1 << 20),
            "symbol #4 in section .symtab: found no valid name, wanted a name of at most 1024 bytes in the string table",
        ),
        (
            "no_btf.o",
            |f| f.set(f.symbol("entry") + 6, 2, 99),
            "symbol entry in section #99: found section index 99, wanted one of the 9 sections",
        ),
        (
            "no_btf.o",
            |f| f.set(f.symbol("entry") + 8, 8, 4),
            "symbol entry in section socket: found a function of 24 bytes at 4, wanted whole slots of 8 bytes inside the 24 bytes of code",
        ),
        (
            "no_btf.o",
            |f| f.set(f.symbol("entry") + 16, 8, 0),
            "symbol entry in section socket: found a function of 0 bytes at 0, wanted whole slots of 8 bytes inside the 24 bytes of code",
        ),
        (
            "no_btf.o",
            |f| f.set(f.symbol("entry") + 16, 8, 1 << 40),
            "symbol entry in section socket: found a function of 1099511627776 bytes at 0, wanted whole slots of 8 bytes inside the 24 bytes of code",
        ),
        (
            "no_btf.o",
            |f| f.set(f.symbol("total") + 8, 8, 4),
            "symbol total in section .bss: found a variable of 8 bytes at 4, wanted one inside the 8 bytes of the section",
        ),
        (
            "functions.o",
            |f| f.set(f.symbol("second") + 8, 8, 8),
            "symbol second in section tc: found a function at slot 1 inside first, 0+8, wanted functions side by side, at most 16 names for one",
        ),
    ]);
}

#[test]
fn broken_relocations() {
    check_parse(&[
        (
            "no_btf.o",
            |f| f.set(f.data(".relsocket"), 8, 1 << 20),
            "relocation of socket+0x100000: found that offset in a section of 24 bytes, wanted an offset inside",
        ),
        (
            "no_btf.o",
            |f| f.set(f.data(".relsocket"), 8, 9),
            "relocation of socket+0x9: found that offset, wanted the offset of an instruction",
        ),
        (
            "no_btf.o",
            |f| f.set(f.data(".relsocket") + 12, 4, 1 << 20),
            "relocation of socket+0x8: found symbol index 1048576, wanted 1 to 5",
        ),
        (
            "no_btf.o",
            |f| f.set(f.header(".relsocket") + 4, 4, 4),
            "section .relsocket: found relocations with addends (SHT_RELA), wanted SHT_REL",
        ),
        (
            "no_btf.o",
            |f| f.set(f.header(".relsocket") + 44, 4, 99),
            "section .relsocket: found target section 99, wanted a section of this file",
        ),
        (
            "no_btf.o",
            |f| f.set(f.header(".relsocket") + 32, 8, 15),
            "section .relsocket: found no whole relocation records, wanted records of 16 bytes",
        ),
    ]);
}

#[test]
fn broken_types() {
    check_parse(&[
        (
            "maps.o",
            |f| f.set(f.header(".BTF") + 32, 8, 20),
            "section .BTF: header: found 20 bytes, wanted a header of 24 bytes",
        ),
        (
            "maps.o",
            |f| f.set(f.data(".BTF"), 2, 0x9feb),
            "section .BTF: header: found magic 0x9feb, wanted 0xeb9f, little endian",
        ),
        ("maps.o", |f| f.set(f.data(".BTF") + 2, 1, 2), "section .BTF: header: found version 2, wanted 1"),
        (
            "maps.o",
            |f| f.set(f.data(".BTF") + 4, 4, 20),
            "section .BTF: header: found header length 20, wanted 24 or more",
        ),
        (
            "maps.o",
            |f| f.set(f.data(".BTF") + 12, 4, 1 << 20),
            "section .BTF: header: found types at 0+1048576 of 2658 bytes, wanted parts inside the section",
        ),
        (
            "maps.o",
            |f| f.set(f.data(".BTF") + 12, 4, 40),
            "section .BTF: type 3: found the end of the types inside its record, wanted a whole record",
        ),
        (
            "maps.o",
            |f| f.set(f.data(".BTF") + 20, 4, 1),
            "section .BTF: string at 0x184: found the end of the 1 bytes of strings, wanted a string",
        ),
        (
            "maps.o",
            |f| f.set(f.data(".BTF") + 24 + 4, 4, 31 << 24),
            "section .BTF: type 1: found kind 31, wanted kind 1 (int) to 19 (enum64)",
        ),
        (
            "maps.o",
            |f| f.set(f.data(".BTF.ext"), 2, 0),
            "section .BTF.ext: header: found magic 0x0000, wanted 0xeb9f, little endian",
        ),
        (
            "maps.o",
            |f| f.set(f.data(".BTF.ext") + 4, 4, 8),
            "section .BTF.ext: header: found header length 8 in 360 bytes, wanted 24 or more",
        ),
        (
            "maps.o",
            |f| f.set(f.data(".BTF.ext") + 12, 4, 1 << 20),
            "section .BTF.ext: header: found func_info at 0+1048576 of 360 bytes, wanted tables inside the section",
        ),
        (
            "maps.o",
            |f| f.set(f.data(".BTF.ext") + f.word(f.data(".BTF.ext") + 4, 4), 4, 4),
            "section .BTF.ext: func_info: found record size 4, wanted a multiple of 4, not below the known size",
        ),
        (
            "maps.o",
            |f| f.set(f.data(".BTF.ext") + f.word(f.data(".BTF.ext") + 4, 4) + 8, 4, 0),
            "section .BTF.ext: func_info of section xdp: found no records, wanted at least one",
        ),
        (
            "maps.o",
            |f| f.set(f.data(".BTF.ext") + f.word(f.data(".BTF.ext") + 4, 4) + 12, 4, 3),
            "section .BTF.ext: func_info of section xdp: found instruction offset 3, wanted a multiple of 8",
        ),
    ]);
}

#[test]
fn broken_maps() {
    check_parse(&[
        (
            "maps.o",
            |f| f.rename(".maps"),
            "section maps: found legacy struct bpf_map_def definitions, wanted BTF-defined maps in section .maps",
        ),
        ("maps.o", |f| f.rename(".BTF"), "section .maps: found no section .BTF, wanted type information (clang -g)"),
        (
            "maps.o",
            |f| f.replace(".BTF", "numa_node", "numa_nodf"),
            "map by_type: field numa_nodf: found an unknown field, wanted one that libbpf knows",
        ),
        (
            "maps.o",
            |f| f.replace(".BTF", "\0type\0", "\0typo\0"),
            "map programs: field typo: found an unknown field, wanted one that libbpf knows",
        ),
        (
            "maps.o",
            |f| f.replace(".BTF", "by_type", "by_typo"),
            "map by_typo: symbol: found none in section .maps, wanted one",
        ),
        (
            "maps.o",
            |f| f.replace(".BTF", "max_entries", "values\0\0\0\0\0"),
            "map programs: field values: found fields after it, wanted it to be the last",
        ),
        (
            "maps.o",
            |f| f.replace(".BTF", "key_size", "pinning\0"),
            "map programs: field pinning: found 4, wanted 0 (none) or 1 (by name)",
        ),
        (
            "maps.o",
            |f| f.replace(".BTF", "value_size", "key\0\0\0\0\0\0\0"),
            "map by_size: field key: found 52 bytes, wanted 4 as said before",
        ),
        (
            "maps.o",
            |f| f.set(f.symbol("by_type") + 8, 8, 1 << 20),
            "map by_type: variable: found bytes 1048576 to 1048576+56 of 360, wanted one inside section .maps",
        ),
        (
            "maps.o",
            |f| f.set(f.symbol("by_type") + 8, 8, f.word(f.symbol("by_size") + 8, 8) as u64),
            "map by_type: variable: found bytes 320 to 320+56 of 360, wanted one inside section .maps",
        ),
        (
            "maps.o",
            |f| f.set(f.data(".rel.maps"), 8, 0),
            "relocation of .maps+0x0: found first in map programs, wanted a slot of the map's values",
        ),
        (
            "maps.o",
            |f| f.set(f.data(".rel.maps"), 8, f.word(f.data(".rel.maps"), 8) as u64 + 1),
            "relocation of .maps+0x21: found first in map programs, wanted a slot of the map's values",
        ),
        (
            "maps.o",
            |f| f.set(f.data(".rel.maps") + 12, 4, 1),
            "relocation of .maps+0x20: found maps.bpf.c in special section 0xfff1 for map programs, wanted an entry program",
        ),
    ]);
}

#[test]
fn broken_programs() {
    check_link(&[
        ("no_btf.o", "add", |_| {}, "program add: found no entry program of that name, wanted one of: entry"),
        (
            "no_btf.o",
            "entry",
            |f| f.set(f.data("socket"), 1, 0xff),
            "program entry: function entry in section socket: slot 0: opcode is 0xff, wanted in classes ALU and ALU64: an operation up to 0xd0 in the high four bits (unknown opcode ff)",
        ),
        (
            "no_btf.o",
            "entry",
            |f| f.set(f.data(".relsocket") + 8, 4, 1),
            "program entry: function entry, slot 1: found relocation type 1, wanted 10 for this instruction",
        ),
        (
            "no_btf.o",
            "entry",
            |f| f.set(f.data(".relsocket"), 8, 0),
            "program entry: function entry, slot 0: found a relocation of r1 = *(u32 *)(r1 +0), wanted one of a call or a 64-bit immediate load",
        ),
        (
            "no_btf.o",
            "entry",
            |f| f.set(f.data(".relsocket") + 12, 4, f.number("total")),
            "program entry: function entry, slot 1: found a call of .bss+0x0, wanted a function of this object",
        ),
        (
            "no_btf.o",
            "entry",
            |f| f.set(f.data("socket") + 8 + 4, 4, 5),
            "program entry: function entry, slot 1: found slot 6 of section .text, wanted the first slot of a function",
        ),
        (
            "no_btf.o",
            "entry",
            |f| f.set(f.data(".rel.text") + 12, 4, f.number("no_btf.bpf.c")),
            "program entry: function add, slot 3: found the address of no_btf.bpf.c in special section 0xfff1, wanted a map, global data or a function",
        ),
        (
            "no_btf.o",
            "entry",
            |f| f.set(f.data(".text") + 4, 4, 8),
            "program entry: function add in section .text: slot 0: imm of a move (opcode 0xbc) is 8, wanted 0 (BPF_MOV uses reserved fields)",
        ),
        (
            "no_btf.o",
            "entry",
            |f| f.set(f.data(".text") + 1, 1, 0xf1),
            "program entry: function add in section .text: slot 0: src_reg of a move (opcode 0xbc) is 15, wanted a register, 0 to 10 (R15 is invalid)",
        ),
        (
            "maps.o",
            "first",
            |f| f.set(f.data(".BTF.ext") + f.word(f.data(".BTF.ext") + 4, 4) + 16, 4, 1),
            "program first: function first: type 1: found a ptr, wanted a func, as func_info says",
        ),
    ]);
}

impl File {
    /// The index of the symbol called `name`.
    fn number(&self, name: &str) -> u64 {
        ((self.symbol(name) - self.data(".symtab")) / 24) as u64
    }
}

/// xorshift64*.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    fn below(&mut self, n: usize) -> usize {
        (self.next() >> 11) as usize % n
    }
}

/// Parses, and links what can be linked. Counts what was accepted.
fn exercise(bytes: &[u8], what: &str) -> bool {
    let start = Instant::now();
    let parsed = Object::parse(bytes);
    if let Ok(object) = &parsed {
        for (_, result) in object.link_all() {
            if let Err(error) = result {
                assert!(!error.to_string().is_empty());
            }
        }
    }
    assert!(start.elapsed() < Duration::from_secs(5), "{what} took {:?}", start.elapsed());
    parsed.is_ok()
}

/// Runs `work` for every number below `n`, on all cores.
fn in_parallel(n: usize, work: impl Fn(usize) + Sync) {
    let threads = std::thread::available_parallelism().map_or(2, |n| n.get());
    let next = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let i = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    if i >= n {
                        return;
                    }
                    work(i);
                }
            });
        }
    });
}

#[test]
fn truncated_objects_are_refused_without_panic() {
    let files: Vec<Vec<u8>> = OBJECTS.iter().map(|n| bytes(n)).collect();
    let lengths: Vec<(usize, usize)> =
        files.iter().enumerate().flat_map(|(i, f)| (0..f.len()).step_by(7).map(move |len| (i, len))).collect();
    in_parallel(lengths.len(), |i| {
        let (file, len) = lengths[i];
        let accepted = exercise(&files[file][..len], OBJECTS[file]);
        // The section headers stand at the end of the file.
        assert!(!accepted, "{} cut to {len} bytes is accepted", OBJECTS[file]);
    });
}

/// The positions that a loader looks at: all but the debugger's sections.
fn interesting(name: &str) -> Vec<usize> {
    let file = File::open(name);
    let mut out: Vec<usize> = (0..64).collect();
    out.extend(file.header_at(0)..file.header_at(file.count()));
    for index in 1..file.count() {
        let debug = file.name(index).starts_with(".debug") || file.name(index).starts_with(".rel.debug");
        if !debug && file.word(file.header_at(index) + 4, 4) != 8 {
            out.extend(file.range(index));
        }
    }
    out
}

#[test]
fn a_hundred_thousand_mutations_neither_panic_nor_hang() {
    const CASES: usize = 110_000;
    let files: Vec<(Vec<u8>, Vec<usize>)> = OBJECTS.iter().map(|n| (bytes(n), interesting(n))).collect();
    let accepted = std::sync::atomic::AtomicUsize::new(0);
    in_parallel(CASES, |case| {
        let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ (case as u64 + 1).wrapping_mul(0xbf58_476d_1ce4_e5b9));
        random.next();
        let (file, places) = &files[case % files.len()];
        let mut bytes = file.clone();
        for _ in 0..1 + random.below(3) {
            let at = places[random.below(places.len())];
            match random.below(4) {
                0 | 1 => bytes[at] ^= 1 << random.below(8),
                2 => bytes[at] = random.next() as u8,
                _ => {
                    let word = [0u32, 1, 0xffff, 0x7fff_ffff, 0x8000_0000, u32::MAX][random.below(6)].to_le_bytes();
                    let len = 4.min(bytes.len() - at);
                    bytes[at..at + len].copy_from_slice(&word[..len]);
                }
            }
        }
        if exercise(&bytes, &format!("case {case} of {}", OBJECTS[case % files.len()])) {
            accepted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    });
    let accepted = accepted.into_inner();
    // Both kinds must be there, or the mutations test nothing behind the first check.
    assert!(accepted > CASES / 10 && accepted < CASES * 9 / 10, "{accepted} of {CASES} accepted");
}
