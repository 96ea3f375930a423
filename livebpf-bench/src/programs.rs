//! The programs that are measured: linked once, loaded by every contestant. Classifiers (SCHED_CLS): the kernel's test runs of XDP
//! programs switch a dispatcher in every batch.

use std::fmt::Write as _;
use std::sync::Arc;

use livebpf::insn::text;
use livebpf::link::Program;
use livebpf::object::{MapDef, MapType, ProgType, ProgramKind};

/// What the packet holds: nothing that anybody reads.
pub const PACKET: [u8; 64] = [0; 64];
/// What the programs in slots answer, by version.
pub const VERSIONS: [u32; 2] = [1, 2];
/// What a caller answers whose tail calls all fell through.
pub const MISSED: u32 = 7;

/// A program array of `slots` slots.
pub fn array(slots: u32) -> MapDef {
    MapDef::new("bench_slots", MapType::PROG_ARRAY, 4, 4, slots)
}

/// `return value;`
pub fn answers(name: &str, value: u32) -> Program {
    program(name, &format!("r0 = {value}\nexit"))
}

/// `sites` direct tail calls, one after the other, through the slots of `array` in turn; then [`MISSED`].
pub fn caller(sites: u32, array: &MapDef) -> Program {
    let mut source = "r6 = r1\n".to_owned();
    for site in 0..sites {
        let slot = site % array.max_entries;
        source += &format!("r1 = r6\nr2 = map[idx:0]\nr3 = {slot}\ncall bpf_tail_call#12\n");
    }
    source += &format!("r0 = {MISSED}\nexit");
    let mut program = program("bench_caller", &source);
    program.maps = vec![Arc::new(array.clone())];
    program
}

/// A program of the text `source`.
pub fn program(name: &str, source: &str) -> Program {
    let insns = text::assemble(source).expect("the text is made here");
    Program::bare(name, ProgramKind::new(ProgType::SCHED_CLS), insns)
}

/// `insns` instructions of every kind that needs no branch: arithmetic of both widths, and the stack. What each of them computes is
/// used (but for a few before the end), so that none can be left out.
pub fn straight(insns: u32) -> Program {
    let mut source = "r0 = 1\nr1 = 2\nr3 = 5\nr6 = 3\n".to_owned();
    for n in 0..insns.saturating_sub(5) {
        let (to, from) = ([0, 1, 6][n as usize % 3], [1, 6, 0][(n / 5) as usize % 3]);
        let slot = 8 * (1 + (n / 8) % 16);
        let _ = match n % 8 {
            0 => writeln!(source, "r{to} += r3"),
            1 => writeln!(source, "w{to} ^= {n}"),
            2 => writeln!(source, "r2 = r{from}"),
            3 => writeln!(source, "*(u64 *)(r10 - {slot}) = r{to}"),
            4 => writeln!(source, "r{to} *= {}", n % 1000 + 3),
            5 => writeln!(source, "r3 = *(u64 *)(r10 - {slot})"),
            6 => writeln!(source, "w2 >>= {}", n % 31),
            _ => writeln!(source, "r{to} -= r2"),
        };
    }
    program("bench_straight", &(source + "exit"))
}
