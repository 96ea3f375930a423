//! Contexts of programs that trace, and of syscall programs: memory that the caller supplies.

use super::field::Field;
use super::{ContextDesc, FieldKind, Region};

/// Bytes of a tracepoint's record that programs may read (`PERF_MAX_TRACE_SIZE`).
const MAX_TRACE_SIZE: u32 = 8192;

/// A tracepoint's record: its common header (8 bytes) is not readable.
pub(super) static TRACEPOINT: ContextDesc = ContextDesc {
    name: "tracepoint record",
    size: MAX_TRACE_SIZE,
    fields: &[Field::bytes("fields", 8, MAX_TRACE_SIZE - 8)],
};

/// Twelve words (`MAX_BPF_FUNC_ARGS`), read-only.
pub(super) static RAW_TRACEPOINT: ContextDesc =
    ContextDesc { name: "bpf_raw_tracepoint_args", size: 96, fields: &[Field::bytes("args", 0, 96)] };

/// The same, whose first word is the address of a buffer.
pub(super) static RAW_TRACEPOINT_WRITABLE: ContextDesc = ContextDesc {
    name: "bpf_raw_tracepoint_args",
    size: 96,
    fields: &[Field::pointer("buffer", 0, 8, FieldKind::Memory(Region::Tracepoint)), Field::bytes("args", 8, 88)],
};

/// Names of the words of x86-64's `struct pt_regs`.
const REGISTERS: [&str; 21] = [
    "r15", "r14", "r13", "r12", "bp", "bx", "r11", "r10", "r9", "r8", "ax", "cx", "dx", "si", "di", "orig_ax", "ip",
    "cs", "flags", "sp", "ss",
];

/// The 21 registers, each read whole, or also in parts.
const fn registers<const N: usize>(parts: bool) -> [Field; N] {
    let mut fields = [Field::exact("", 0, 8); N];
    let mut i = 0;
    while i < REGISTERS.len() {
        let offset = 8 * i as u32;
        fields[i] = if parts { Field::number(REGISTERS[i], offset, 8) } else { Field::exact(REGISTERS[i], offset, 8) };
        i += 1;
    }
    fields
}

/// Probes: the registers where the probe was hit.
pub(super) static PT_REGS: ContextDesc = ContextDesc { name: "pt_regs", size: 168, fields: &PT_REGS_FIELDS };
const PT_REGS_FIELDS: [Field; 21] = registers(true);

/// Perf events: the registers, the sample period, the address.
pub(super) static PERF_EVENT: ContextDesc =
    ContextDesc { name: "bpf_perf_event_data", size: 184, fields: &PERF_EVENT_FIELDS };
const PERF_EVENT_FIELDS: [Field; 23] = {
    let mut fields: [Field; 23] = registers(false);
    fields[21] = Field::number("sample_period", 168, 8);
    fields[22] = Field::number("addr", 176, 8);
    fields
};

/// Arguments of a syscall program: an instruction reaches no further (its offset has 15 bits).
pub(super) static SYSCALL: ContextDesc =
    ContextDesc { name: "syscall arguments", size: 0x8008, fields: &[Field::bytes("args", 0, 0x8008).writable()] };
