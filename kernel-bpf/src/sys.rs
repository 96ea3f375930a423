//! The bpf(2) system call: one structure for each command, laid out as `union bpf_attr` has it, and one function for each.
//!
//! All functions are safe: they take slices, and the pointers and lengths that the kernel gets are those of the slices. How much the
//! kernel reads and writes of a key or a value is up to the map, so [`MapFd`] keeps its sizes and compares.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use livebpf::object::{MapDef, MapType, ProgramKind};

const MAP_CREATE: libc::c_int = 0;
const MAP_LOOKUP_ELEM: libc::c_int = 1;
const MAP_UPDATE_ELEM: libc::c_int = 2;
const MAP_DELETE_ELEM: libc::c_int = 3;
const MAP_GET_NEXT_KEY: libc::c_int = 4;
const PROG_LOAD: libc::c_int = 5;
const PROG_TEST_RUN: libc::c_int = 10;
const OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const BTF_LOAD: libc::c_int = 18;
const MAP_FREEZE: libc::c_int = 22;

/// Programs may not write.
const F_RDONLY_PROG: u32 = 1 << 7;

const F_SLEEPABLE: u32 = 1 << 4;
const F_XDP_HAS_FRAGS: u32 = 1 << 5;

/// Bytes of a page.
const PAGE: usize = 4096;

/// BPF_OBJ_NAME_LEN.
const NAME: usize = 16;

#[repr(C)]
#[derive(Default)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    inner_map_fd: u32,
    numa_node: u32,
    map_name: [u8; NAME],
    map_ifindex: u32,
}

#[repr(C)]
#[derive(Default)]
struct MapElem {
    map_fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
#[derive(Default)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; NAME],
    prog_ifindex: u32,
    expected_attach_type: u32,
    prog_btf_fd: u32,
    func_info_rec_size: u32,
    func_info: u64,
    func_info_cnt: u32,
    pad: u32,
}

#[repr(C)]
#[derive(Default)]
struct BtfLoad {
    btf: u64,
    btf_log_buf: u64,
    btf_size: u32,
    btf_log_size: u32,
    btf_log_level: u32,
    pad: u32,
}

#[repr(C)]
#[derive(Default)]
struct InfoByFd {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// Bytes of the kernel's `struct bpf_prog_info` up to and with `verified_insns`.
const PROG_INFO: usize = 224;
const PROG_INFO_JITED_LEN: usize = 16;
const PROG_INFO_VERIFIED_INSNS: usize = 216;

#[repr(C)]
#[derive(Default)]
struct ProgTestRun {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
}

/// The system call.
///
/// # Safety
/// `attr` is the structure of `command`, and its addresses lead to as many bytes as its sizes, or the map's, say: readable ones, and
/// writable where the command writes.
unsafe fn bpf<T>(command: libc::c_int, attr: &mut T) -> io::Result<libc::c_int> {
    // SAFETY: the kernel reads and writes `size_of::<T>()` bytes at `attr`, which are there; the caller answers for the rest.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as libc::c_int) }
}

/// The same, for commands that answer a file descriptor.
///
/// # Safety
/// As [`bpf`]; and `command` is one of those.
unsafe fn bpf_fd<T>(command: libc::c_int, attr: &mut T) -> io::Result<OwnedFd> {
    // SAFETY: as the caller says.
    let fd = unsafe { bpf(command, attr) }?;
    // SAFETY: the kernel has just made it for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn number(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd() as u32
}

fn address(bytes: &[u8]) -> u64 {
    bytes.as_ptr() as u64
}

/// A name as the kernel allows it: letters, digits, `_` and `.`, at most 15.
fn name(text: &str) -> [u8; NAME] {
    let mut name = [0; NAME];
    let allowed = |b: u8| if b.is_ascii_alphanumeric() || b == b'.' { b } else { b'_' };
    name.iter_mut().take(NAME - 1).zip(text.bytes()).for_each(|(to, from)| *to = allowed(from));
    name
}

/// Map types whose keys and values have exactly the sizes that they are created with.
pub const PLAIN_MAPS: [MapType; 7] = [
    MapType::HASH,
    MapType::ARRAY,
    MapType::PROG_ARRAY,
    MapType::LRU_HASH,
    MapType::ARRAY_OF_MAPS,
    MapType::HASH_OF_MAPS,
    MapType::DEVMAP,
];

/// Map types with a value for each CPU.
pub const PER_CPU_MAPS: [MapType; 3] = [MapType::PERCPU_HASH, MapType::PERCPU_ARRAY, MapType::LRU_PERCPU_HASH];

/// Other types that programs can be given, but whose elements are not read or written from here: values of other sizes, or none.
pub const PROGRAMS_MAPS: [MapType; 8] = [
    MapType::LPM_TRIE,
    MapType::QUEUE,
    MapType::STACK,
    MapType::RINGBUF,
    MapType::PERF_EVENT_ARRAY,
    MapType::DEVMAP_HASH,
    MapType::CPUMAP,
    MapType::XSKMAP,
];

/// How many CPUs there can be: what follows the last number of a list like `0-3,8-11`, plus one.
fn possible_cpus() -> io::Result<usize> {
    let list = std::fs::read_to_string("/sys/devices/system/cpu/possible")?;
    let last = list.trim().rsplit(['-', ',']).next().and_then(|last| last.parse::<usize>().ok());
    last.map(|last| last + 1).ok_or_else(|| io::Error::other(format!("not a list of CPUs: {list:?}")))
}

/// A map with what the kernel will read and write for a key and a value.
#[derive(Debug)]
pub struct MapFd {
    fd: OwnedFd,
    /// Values that a lookup gives and an update takes, one after the other; 0 where elements are not read or written from here.
    values: usize,
    key_size: usize,
    value_size: usize,
}

impl MapFd {
    /// BPF_MAP_CREATE; `inner` is the template of a map of maps.
    ///
    /// # Panics
    /// For a type that is not in [`PLAIN_MAPS`], [`PER_CPU_MAPS`] or [`PROGRAMS_MAPS`].
    pub fn create(def: &MapDef, inner: Option<&MapFd>) -> io::Result<MapFd> {
        let plain = PLAIN_MAPS.contains(&def.map_type);
        assert!(
            plain || PER_CPU_MAPS.contains(&def.map_type) || PROGRAMS_MAPS.contains(&def.map_type),
            "maps of type {} are not known",
            def.map_type
        );
        let mut attr = MapCreate {
            map_type: def.map_type.0,
            key_size: def.key_size,
            value_size: def.value_size,
            max_entries: def.max_entries,
            map_flags: def.map_flags | if def.frozen { F_RDONLY_PROG } else { 0 },
            inner_map_fd: inner.map_or(0, |inner| number(inner.fd.as_fd())),
            map_name: name(&def.name),
            ..MapCreate::default()
        };
        // SAFETY: the command's structure, without addresses.
        let fd = unsafe { bpf_fd(MAP_CREATE, &mut attr) }?;
        let (key_size, size) = (def.key_size as usize, def.value_size as usize);
        if PER_CPU_MAPS.contains(&def.map_type) {
            // As many values as there can be CPUs, each in whole words.
            let cpus = possible_cpus()?;
            return Ok(MapFd { fd, values: cpus, key_size, value_size: cpus * size.next_multiple_of(8) });
        }
        Ok(MapFd { fd, values: usize::from(plain), key_size, value_size: size })
    }

    pub fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
    /// Where a ring buffer's reader and writers are.
    pub fn ring_positions(&self) -> io::Result<RingPositions> {
        RingPositions::new(self.fd.as_fd())
    }
    /// Whether elements can be read and written.
    pub fn is_known(&self) -> bool {
        self.values > 0
    }
    pub fn key_size(&self) -> usize {
        self.key_size
    }
    /// Bytes of what a lookup gives.
    pub fn value_size(&self) -> usize {
        self.value_size
    }

    fn elem(&self, key: &[u8]) -> MapElem {
        assert!(self.values > 0, "the kernel reads and writes other sizes");
        assert_eq!(key.len(), self.key_size, "the kernel reads a whole key");
        MapElem { map_fd: number(self.fd.as_fd()), key: address(key), ..MapElem::default() }
    }

    /// BPF_MAP_FREEZE: user space cannot write any more either.
    pub fn freeze(&self) -> io::Result<()> {
        let mut attr = MapElem { map_fd: number(self.fd.as_fd()), ..MapElem::default() };
        // The command knows the descriptor only, and the kernel refuses anything behind it that is not zero.
        // SAFETY: the command's structure, without addresses.
        unsafe { bpf(MAP_FREEZE, &mut attr) }.map(|_| ())
    }

    /// BPF_MAP_LOOKUP_ELEM into `value`.
    ///
    /// # Panics
    /// Here and below: for slices of other sizes than the map's.
    pub fn lookup(&self, key: &[u8], value: &mut [u8]) -> io::Result<()> {
        assert_eq!(value.len(), self.value_size, "the kernel writes a whole value");
        let mut attr = MapElem { value: value.as_mut_ptr() as u64, ..self.elem(key) };
        // SAFETY: the kernel reads a key and writes a value, which have the map's sizes: checked above.
        unsafe { bpf(MAP_LOOKUP_ELEM, &mut attr) }.map(|_| ())
    }

    /// BPF_MAP_GET_NEXT_KEY: the key behind `key`, or the first, into `next`.
    pub fn next_key(&self, key: Option<&[u8]>, next: &mut [u8]) -> io::Result<()> {
        assert_eq!(next.len(), self.key_size, "the kernel writes a whole key");
        let mut attr = self.elem(key.unwrap_or(next));
        if key.is_none() {
            attr.key = 0;
        }
        attr.value = next.as_mut_ptr() as u64;
        // SAFETY: the kernel reads a key where there is one and writes a key: both have the map's size.
        unsafe { bpf(MAP_GET_NEXT_KEY, &mut attr) }.map(|_| ())
    }

    /// BPF_MAP_UPDATE_ELEM.
    pub fn update(&self, key: &[u8], value: &[u8], flags: u64) -> io::Result<()> {
        assert_eq!(value.len(), self.value_size, "the kernel reads a whole value");
        let mut attr = MapElem { value: address(value), flags, ..self.elem(key) };
        // SAFETY: the kernel reads a key and a value, which have the map's sizes: checked above.
        unsafe { bpf(MAP_UPDATE_ELEM, &mut attr) }.map(|_| ())
    }

    /// BPF_MAP_DELETE_ELEM.
    pub fn delete(&self, key: &[u8]) -> io::Result<()> {
        let mut attr = self.elem(key);
        // SAFETY: the kernel reads a key, which has the map's size: checked above.
        unsafe { bpf(MAP_DELETE_ELEM, &mut attr) }.map(|_| ())
    }
}

/// How far a ring buffer's reader and its writers are: two pages that the kernel shares.
#[derive(Debug)]
pub struct RingPositions {
    reader: NonNull<AtomicU64>,
    writers: NonNull<AtomicU64>,
}

impl RingPositions {
    fn new(fd: BorrowedFd<'_>) -> io::Result<RingPositions> {
        let reader = share_page(fd, 0, libc::PROT_READ | libc::PROT_WRITE)?;
        match share_page(fd, PAGE as libc::off_t, libc::PROT_READ) {
            Ok(writers) => Ok(RingPositions { reader, writers }),
            Err(error) => {
                unshare_page(reader);
                Err(error)
            }
        }
    }

    /// The reader is as far as the writers.
    pub fn skip(&mut self) {
        // SAFETY: both are pages of this value's own, whose first word is a counter.
        let (reader, writers) = unsafe { (self.reader.as_ref(), self.writers.as_ref()) };
        reader.store(writers.load(Ordering::Acquire), Ordering::Release);
    }
}

impl Drop for RingPositions {
    fn drop(&mut self) {
        unshare_page(self.reader);
        unshare_page(self.writers);
    }
}

fn share_page(fd: BorrowedFd<'_>, offset: libc::off_t, protection: libc::c_int) -> io::Result<NonNull<AtomicU64>> {
    // SAFETY: a new mapping, where there is room for it.
    let page = unsafe { libc::mmap(std::ptr::null_mut(), PAGE, protection, libc::MAP_SHARED, fd.as_raw_fd(), offset) };
    if page == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(page.cast()).ok_or_else(|| io::Error::other("mapped at address 0"))
}

fn unshare_page(page: NonNull<AtomicU64>) {
    // SAFETY: a mapping of this size that nobody uses any more.
    unsafe { libc::munmap(page.as_ptr().cast(), PAGE) };
}

/// A program to load.
pub struct Load<'a> {
    pub name: &'a str,
    pub kind: ProgramKind,
    /// Eight bytes each.
    pub insns: &'a [u8],
    pub license: &'a str,
    /// Type information, and each function's first instruction with the number of its type.
    pub funcs: Option<(BorrowedFd<'a>, &'a [[u32; 2]])>,
}

/// BPF_PROG_LOAD. With a `log`, the verifier writes text into it, ended by a zero.
pub fn prog_load(load: &Load<'_>, log: Option<&mut [u8]>) -> io::Result<OwnedFd> {
    let license: Vec<u8> = load.license.bytes().filter(|b| *b != 0).chain([0]).collect();
    let (log_level, log_size, log_buf) = log.map_or((0, 0, 0), |log| (1, log.len() as u32, log.as_mut_ptr() as u64));
    let kind = load.kind;
    let (prog_btf_fd, funcs) = load.funcs.map_or((0, &[] as &[_]), |(fd, funcs)| (number(fd), funcs));
    let mut attr = ProgLoad {
        prog_type: kind.prog_type.0,
        insn_cnt: u32::try_from(load.insns.len() / 8).unwrap_or(u32::MAX),
        insns: address(load.insns),
        license: address(&license),
        log_level,
        log_size,
        log_buf,
        prog_flags: if kind.xdp_frags { F_XDP_HAS_FRAGS } else { 0 } | if kind.sleepable { F_SLEEPABLE } else { 0 },
        prog_name: name(load.name),
        expected_attach_type: kind.attach_type.0,
        prog_btf_fd,
        func_info_rec_size: if funcs.is_empty() { 0 } else { size_of::<[u32; 2]>() as u32 },
        func_info: if funcs.is_empty() { 0 } else { funcs.as_ptr() as u64 },
        func_info_cnt: funcs.len() as u32,
        ..ProgLoad::default()
    };
    // SAFETY: there are at least `insn_cnt` instructions (a count that was too large to hold is refused as too large), and
    // `func_info_cnt` records; the licence ends in a zero; the log has `log_size` bytes and is ours to write.
    unsafe { bpf_fd(PROG_LOAD, &mut attr) }
}

/// BPF_BTF_LOAD.
pub fn btf_load(btf: &[u8]) -> io::Result<OwnedFd> {
    let mut attr = BtfLoad { btf: address(btf), btf_size: btf.len() as u32, ..BtfLoad::default() };
    // SAFETY: the kernel reads `btf_size` bytes, the slice's.
    unsafe { bpf_fd(BTF_LOAD, &mut attr) }
}

/// What the kernel says of a program.
pub struct ProgInfo {
    /// Bytes of machine code.
    pub jited_len: u32,
    /// Instructions that the verifier processed.
    pub verified_insns: u32,
}

/// BPF_OBJ_GET_INFO_BY_FD of a program.
pub fn prog_info(program: BorrowedFd<'_>) -> io::Result<ProgInfo> {
    let mut info = [0u8; PROG_INFO];
    let mut attr = InfoByFd { bpf_fd: number(program), info_len: PROG_INFO as u32, info: info.as_mut_ptr() as u64 };
    // SAFETY: the kernel reads and writes at most `info_len` bytes at `info`; all zero, they ask for no array.
    unsafe { bpf(OBJ_GET_INFO_BY_FD, &mut attr) }?;
    let word = |at: usize| u32::from_ne_bytes([info[at], info[at + 1], info[at + 2], info[at + 3]]);
    Ok(ProgInfo { jited_len: word(PROG_INFO_JITED_LEN), verified_insns: word(PROG_INFO_VERIFIED_INSNS) })
}

/// What a test run answered.
pub struct Ran {
    pub retval: u32,
    /// Nanoseconds a run, on average, rounded down.
    pub duration: u32,
    /// Bytes written to `data_out`.
    pub data_out: u32,
    /// Bytes written to `ctx_out`.
    pub ctx_out: u32,
}

/// What BPF_PROG_TEST_RUN is given, and where it writes.
#[derive(Default)]
pub struct Test<'a> {
    pub data: &'a [u8],
    pub data_out: &'a mut [u8],
    /// The context structure; empty for the kernel's own.
    pub ctx: &'a [u8],
    pub ctx_out: &'a mut [u8],
    pub repeat: u32,
}

/// BPF_PROG_TEST_RUN of a program that works on a packet.
pub fn prog_test_run(program: BorrowedFd<'_>, test: Test<'_>) -> io::Result<Ran> {
    let Test { data, data_out, ctx, ctx_out, repeat } = test;
    let size = |bytes: &[u8]| u32::try_from(bytes.len()).map_err(|_| io::Error::from_raw_os_error(libc::E2BIG));
    let mut attr = ProgTestRun {
        prog_fd: number(program),
        data_size_in: size(data)?,
        data_size_out: size(data_out)?,
        data_in: address(data),
        data_out: if data_out.is_empty() { 0 } else { data_out.as_mut_ptr() as u64 },
        ctx_size_in: size(ctx)?,
        ctx_size_out: size(ctx_out)?,
        ctx_in: if ctx.is_empty() { 0 } else { address(ctx) },
        ctx_out: if ctx_out.is_empty() { 0 } else { ctx_out.as_mut_ptr() as u64 },
        repeat,
        ..ProgTestRun::default()
    };
    // SAFETY: the kernel reads `data_size_in` and `ctx_size_in` bytes and writes at most `data_size_out` and `ctx_size_out`, the
    // slices' lengths.
    unsafe { bpf(PROG_TEST_RUN, &mut attr) }?;
    Ok(Ran { retval: attr.retval, duration: attr.duration, data_out: attr.data_size_out, ctx_out: attr.ctx_size_out })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_are_laid_out_as_in_union_bpf_attr() {
        assert_eq!(std::mem::offset_of!(MapCreate, map_name), 28);
        assert_eq!(std::mem::offset_of!(MapElem, flags), 24);
        assert_eq!(std::mem::offset_of!(ProgLoad, log_buf), 32);
        assert_eq!(std::mem::offset_of!(ProgLoad, prog_name), 48);
        assert_eq!(std::mem::offset_of!(ProgLoad, expected_attach_type), 68);
        assert_eq!(std::mem::offset_of!(ProgLoad, func_info), 80);
        assert_eq!(std::mem::offset_of!(ProgTestRun, data_out), 24);
        assert_eq!(std::mem::offset_of!(ProgTestRun, ctx_out), 56);
        // No padding at the end: the kernel refuses bytes that are not zero behind what it knows.
        assert_eq!([size_of::<MapCreate>(), size_of::<MapElem>(), size_of::<ProgLoad>()], [48, 32, 96]);
        assert_eq!([size_of::<ProgTestRun>(), size_of::<BtfLoad>(), size_of::<InfoByFd>()], [64, 32, 16]);
    }

    #[test]
    fn names_are_cut_and_cleaned() {
        assert_eq!(&name("jt"), b"jt\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
        assert_eq!(&name("a-name.that is too long"), b"a_name.that_is_\0");
    }
}
