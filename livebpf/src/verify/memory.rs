//! Loads, stores and atomics: what a pointer allows, and what is read.

use super::depth;
use super::explore::Verifier;
use super::reject::{Fail, MEMORY, Rejection, Rule, Step};
use super::scalar::Scalar;
use super::stack::{self, Span};
use super::state::{Kind, State, Value};
use super::{Trust, alu};
use crate::context::{FieldKind, Packet, Region, SocketView};
use crate::insn::{AluOp, AtomicOp, Imm64, Insn, Pc, Reg, Size, Src, Width};
use crate::link::{MapId, Program};
use crate::object::{MapDef, MapInit, MapType, SpecialField, SpecialKind};

/// `BPF_F_RDONLY_PROG`
const RDONLY_PROG: u32 = 1 << 7;
/// `BPF_F_WRONLY_PROG`
const WRONLY_PROG: u32 = 1 << 8;

/// Whether programs may not change the map, by whatever means: what is read from frozen data is taken as known.
pub(super) fn read_only(def: &MapDef) -> bool {
    def.frozen || def.map_flags & RDONLY_PROG != 0
}
/// Sizes and offsets of helper memory stay below this.
const MAX_SIZE: u64 = 1 << 29;

/// Where an allowed access goes.
pub(super) enum Place {
    /// A context field.
    Context(FieldKind),
    /// The stack.
    Stack(Span),
    /// Packet, map value, or a memory argument.
    Memory,
}

/// What a memory instruction names: `size` bytes at `off` from a register.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Cell {
    size: Size,
    base: Reg,
    off: i16,
    /// Must be aligned wherever it goes.
    strict: bool,
}

impl Cell {
    pub fn new(size: Size, base: Reg, off: i16) -> Cell {
        Cell { size, base, off, strict: false }
    }
    /// Of an atomic instruction.
    pub fn strict(self) -> Cell {
        Cell { strict: true, ..self }
    }
}

fn invalid(reg: Reg, text: String) -> Box<Fail> {
    Fail::new(Rule::Memory, text).with(reg)
}

impl Verifier<'_> {
    /// Checks an access.
    fn place(&mut self, state: &State, pc: Pc, cell: Cell, write: bool) -> Step<Place> {
        let reg = cell.base;
        let base = self.readable(state, reg)?;
        let (n, off, bytes) = (reg.number(), i64::from(cell.off), cell.size.bytes());
        if let (Kind::Map(map), false) = (base.kind, base.nullable) {
            return Err(self.map_object(reg, map, &base, off, write));
        }
        if base.nullable
            || base.is_scalar()
            || matches!(base.kind, Kind::PacketEnd | Kind::Map(_) | Kind::Handle(_) | Kind::Func(_) | Kind::Dynptr)
        {
            let help = if base.nullable { Some("compare the pointer with NULL before using it") } else { None };
            let mut fail = invalid(reg, format!("R{n} invalid mem access '{}'", base.name()));
            fail.help = help;
            return Err(fail);
        }
        if cell.strict || matches!(base.kind, Kind::Stack(_)) {
            aligned(reg, &base, off, bytes)?;
        }
        match base.kind {
            Kind::Ctx => self.context_field(pc, &base, cell, write),
            Kind::Stack(_) => {
                self.notes.access(pc, None)?;
                Ok(Place::Stack(self.stack_span(state, reg, &base, off, bytes, write)?))
            }
            Kind::Packet
            | Kind::PacketMeta
            | Kind::MapValue(_)
            | Kind::MapKey(_)
            | Kind::Item(_)
            | Kind::PacketSlice { .. }
            | Kind::Mem(_)
            | Kind::Record(_) => {
                self.notes.access(pc, None)?;
                self.region(reg, &base, off, bytes, write)?;
                Ok(Place::Memory)
            }
            Kind::Region(region) => {
                self.notes.access(pc, None)?;
                pointed(reg, region, &base, off, bytes)?;
                Ok(Place::Memory)
            }
            Kind::Socket(view) => {
                self.notes.socket(pc, view)?;
                socket(reg, view, off, cell.size, write)?;
                Ok(Place::Memory)
            }
            Kind::Uninit
            | Kind::Scalar
            | Kind::PacketEnd
            | Kind::Map(_)
            | Kind::Handle(_)
            | Kind::Func(_)
            | Kind::Dynptr => {
                unreachable!("refused above")
            }
        }
    }

    /// The refusal of an access to a map itself.
    fn map_object(&self, reg: Reg, map: MapId, base: &Value, off: i64, write: bool) -> Box<Fail> {
        let name = match self.program.map(map).map_type {
            MapType::HASH
            | MapType::PERCPU_HASH
            | MapType::LRU_HASH
            | MapType::LRU_PERCPU_HASH
            | MapType::HASH_OF_MAPS => "bpf_htab",
            _ => "bpf_array",
        };
        let (n, first) = (reg.number(), i64::from(base.off) + off);
        let text = match write {
            _ if first < 0 => format!("R{n} is {name} invalid negative access: off={first}"),
            true => format!("only read from {name} is supported"),
            false => format!("R{n} invalid mem access 'map_ptr'"),
        };
        invalid(reg, text).help("maps are read and written by helpers only")
    }

    /// The stack bytes that an access reaches; notes that stack down to there is used.
    pub(super) fn stack_span(
        &mut self,
        state: &State,
        reg: Reg,
        base: &Value,
        off: i64,
        size: u32,
        write: bool,
    ) -> Step<Span> {
        let span = stack::span(reg, base, off, size, write)?;
        let written = -8 * state.frame(span.frame).stack.len() as i64;
        if !write && span.min < written && self.options.trust == Trust::Untrusted {
            return Err(stack::outside(reg, base, off, size, write));
        }
        self.deepen(state, &span)?;
        Ok(span)
    }

    /// What a trusted program may read of the stack: bytes that it has not written, too, which are zero then.
    fn stack_rules(&self) -> stack::Rules {
        let trusted = self.options.trust == Trust::Trusted;
        stack::Rules { pointers: trusted, unwritten: trusted, argument: None }
    }

    /// Notes what the bytes that were read give away.
    fn note_content(&mut self, state: &State, span: &Span, content: stack::Content) {
        if content.unwritten {
            let func = state.frame(span.frame).func.0 as usize;
            self.notes.reads_unwritten[func] = true;
            self.notes.shows_addresses = true;
        }
    }

    /// Notes that the span is read, whoever reads it.
    fn stack_read(&mut self, state: &State, span: &Span) {
        self.notes.read[state.frame(span.frame).func.0 as usize] |= span.slots();
    }

    /// Notes that stack down to the span's start is used.
    fn deepen(&mut self, state: &State, span: &Span) -> Step<()> {
        let func = state.frame(span.frame).func.0 as usize;
        if self.notes.stack(func, span.min.min(0)) {
            // What all frames hold together stays small while paths are explored.
            let frames = (0..=state.depth()).map(|i| self.notes.depth[state.frame(i).func.0 as usize]);
            depth::check_chain(frames)?;
        }
        Ok(())
    }

    fn context_field(&mut self, pc: Pc, base: &Value, cell: Cell, write: bool) -> Step<Place> {
        let Cell { size, base: reg, off, .. } = cell;
        let bytes = size.bytes();
        unmodified(reg, base)?;
        let found = u32::try_from(off).ok().and_then(|off| self.desc.context.access(off, size, write));
        let Some((field, record)) = found else {
            let mut text = format!("invalid bpf_context access off={off} size={bytes}");
            if i64::from(off) % i64::from(bytes) != 0 {
                // Fields allow aligned accesses only; the kernel says so where it is asked to be strict.
                text += &format!("\nmisaligned context access off (0x0; 0x0)+0+{off} size {bytes}");
            }
            return Err(Fail::new(Rule::Context, text).with(reg));
        };
        self.notes.access(pc, Some(record))?;
        Ok(Place::Context(field.kind))
    }

    /// Checks `size` bytes at `off` from a pointer into packet, map value or memory argument.
    pub(super) fn region(&mut self, reg: Reg, base: &Value, off: i64, size: u32, write: bool) -> Step<()> {
        match base.kind {
            Kind::Packet | Kind::PacketMeta => self.packet(reg, base, off, size, write),
            Kind::MapValue(map) => self.map_value(reg, map, base, off, size, write),
            Kind::Mem(limit) | Kind::Record(limit) => bounded(reg, base, off, size, limit, "memory, mem_size"),
            Kind::MapKey(_) if write => Err(invalid(reg, format!("write to change key R{} not allowed", reg.number()))),
            Kind::Item(_) if write => Err(invalid(reg, format!("R{} cannot write into {}", reg.number(), base.name()))),
            Kind::PacketSlice { write: false, .. } if write => {
                Err(invalid(reg, format!("R{} cannot write into {}", reg.number(), base.name())))
            }
            Kind::PacketSlice { size: limit, .. } => {
                self.notes.changes_packet |= write;
                bounded(reg, base, off, size, limit, "memory, mem_size")
            }
            Kind::Item(limit) => bounded(reg, base, off, size, limit, "memory, mem_size"),
            Kind::MapKey(map) => {
                let limit = self.program.map(map).key_size;
                bounded(reg, base, off, size, limit, "map key, key_size")
            }
            _ => Err(invalid(reg, format!("R{} invalid mem access '{}'", reg.number(), base.name()))),
        }
    }

    fn packet(&mut self, reg: Reg, base: &Value, off: i64, size: u32, write: bool) -> Step<()> {
        if write && self.desc.packet != Packet::Write {
            let text = format!("cannot write into packet: R{} points into it", reg.number());
            return Err(invalid(reg, text));
        }
        self.notes.changes_packet |= write;
        if base.num.r.smin < 0 {
            return Err(negative(reg));
        }
        let first = i64::from(base.off) + off;
        if first < 0 || first + i64::from(size) > i64::from(base.reach()) {
            let text = format!(
                "invalid access to packet, off={first} size={size}, R{n}(id={},off={},r={})\nR{n} offset is outside of the packet",
                base.id,
                base.off,
                base.reach(),
                n = reg.number()
            );
            return Err(invalid(reg, text).help("compare the end of what is accessed with data_end first"));
        }
        Ok(())
    }

    fn map_value(&mut self, reg: Reg, map: MapId, base: &Value, off: i64, size: u32, write: bool) -> Step<()> {
        let def = self.program.map(map);
        let targets = [MapType::DEVMAP, MapType::DEVMAP_HASH, MapType::XSKMAP].contains(&def.map_type);
        let refused = if write { read_only(def) || targets } else { def.map_flags & WRONLY_PROG != 0 };
        if refused {
            let what = if write { "write into" } else { "read from" };
            let text = format!("{what} map forbidden, value_size={} off={off} size={size}", def.value_size);
            return Err(invalid(reg, text));
        }
        bounded(reg, base, off, size, def.value_size, "map value, value_size")?;
        plain_bytes(reg, def, base, off, size)
    }

    /// `dst = *cell`, sign-extended or zero-extended.
    pub(super) fn load(&mut self, state: &mut State, pc: Pc, dst: Reg, cell: Cell, signed: bool) -> Step<()> {
        let Cell { size, base, off, .. } = cell;
        let place = self.place(state, pc, cell, false)?;
        let value = match place {
            Place::Context(FieldKind::Scalar) => Value::scalar(Scalar::unsigned_bits(size.bits())),
            Place::Context(kind) => {
                if signed {
                    let text = format!("invalid bpf_context access off={off} size={}", size.bytes());
                    return Err(Fail::new(Rule::Context, text).with(base));
                }
                self.loaded_address(kind)
            }
            Place::Stack(span) => {
                self.stack_read(state, &span);
                self.history.read(&mut state.at, pc, span.frame, span.slots());
                let read = stack::read(state, span, size, self.stack_rules());
                let (value, content) = read.map_err(|f| f.with(base))?;
                self.note_content(state, &span, content);
                self.notes.shows_addresses |= content.pointer && value.is_scalar();
                value
            }
            Place::Memory => match self.constant_data(state.reg(base), off, size) {
                Some(x) => Value::constant(x),
                None => Value::scalar(Scalar::unsigned_bits(size.bits())),
            },
        };
        let value = match signed {
            true if value.is_scalar() => Value::scalar(value.num.sign_extend(size.bits())),
            true => Value::UNKNOWN,
            false => value,
        };
        state.set(dst, value);
        Ok(())
    }

    /// The address that a context field of this kind holds.
    fn loaded_address(&mut self, kind: FieldKind) -> Value {
        match kind {
            FieldKind::PacketEnd => Value::pointer(Kind::PacketEnd),
            FieldKind::PacketMeta => Value::pointer(Kind::PacketMeta),
            FieldKind::PacketData => Value::pointer(Kind::Packet),
            FieldKind::Memory(region) => Value::pointer(Kind::Region(region)),
            FieldKind::Socket { view, nullable: false } => Value::pointer(Kind::Socket(view)),
            FieldKind::Socket { view, nullable: true } => {
                Value { nullable: true, id: self.ids.next(), ..Value::pointer(Kind::Socket(view)) }
            }
            FieldKind::Scalar => Value::UNKNOWN,
        }
    }

    /// The bytes of frozen global data, which are known.
    fn constant_data(&self, base: &Value, off: i16, size: Size) -> Option<u64> {
        let Kind::MapValue(map) = base.kind else { return None };
        let def = self.program.map(map);
        let (true, MapInit::Data(data), 1) = (def.frozen, &def.init, def.max_entries) else { return None };
        let start = usize::try_from(base.fixed_offset()? + i64::from(off)).ok()?;
        let bytes = data.get(start..start + size.bytes() as usize)?;
        let mut word = [0; 8];
        word[..bytes.len()].copy_from_slice(bytes);
        Some(u64::from_le_bytes(word))
    }

    /// What authors who are not trusted may not do to spilled addresses by writing to the stack. Where others do, what is left
    /// of an address can be read as a number.
    fn keep_spilled(&mut self, state: &State, span: Span) -> Step<()> {
        let kept = stack::keep_whole(state.frame(span.frame), span);
        self.notes.shows_addresses |= kept.is_err();
        match self.options.trust {
            Trust::Trusted => Ok(()),
            Trust::Untrusted => kept,
        }
    }

    /// `*cell = src`.
    pub(super) fn store(&mut self, state: &mut State, pc: Pc, cell: Cell, src: Src) -> Step<()> {
        let base = cell.base;
        let mut value = self.operand(state, src)?;
        let place = self.place(state, pc, cell, true)?;
        match place {
            Place::Context(_) | Place::Memory if value.is_pointer() => {
                let Src::Reg(reg) = src else { unreachable!("an immediate is a number") };
                let into = match state.reg(base).kind {
                    Kind::MapValue(_) => "map",
                    Kind::Packet | Kind::PacketMeta => "packet",
                    _ => state.reg(base).name(),
                };
                self.keep_address(reg, &value, &format!("leaks addr into {into}"))?;
            }
            Place::Context(_) | Place::Memory => {}
            Place::Stack(span) => {
                self.history.write(&mut state.at, pc, span.frame, span.slots(), span.whole_slot());
                let before = value.id;
                state.overwrite_dynptrs(span, self.options.trust).map_err(|f| f.with(base))?;
                self.keep_spilled(state, span).map_err(|f| f.with(base))?;
                stack::write(state, span, &mut value, || self.ids.next()).map_err(|f| f.with(base))?;
                if let (Src::Reg(reg), true) = (src, value.id != before) {
                    state.cur.regs[reg.index()].id = value.id;
                }
            }
        }
        Ok(())
    }

    /// Atomics reach only some kinds of memory.
    pub(super) fn atomic_base(&self, state: &State, base: Reg, what: &str) -> Step<()> {
        let value = self.readable(state, base)?;
        match value.kind {
            Kind::Ctx
            | Kind::Packet
            | Kind::PacketMeta
            | Kind::PacketEnd
            | Kind::Region(Region::FlowKeys)
            | Kind::Socket(_) => {
                let text = format!("BPF_ATOMIC {what} R{} {} is not allowed", base.number(), value.name());
                Err(invalid(base, text))
            }
            Kind::Uninit
            | Kind::Scalar
            | Kind::Stack(_)
            | Kind::MapValue(_)
            | Kind::MapKey(_)
            | Kind::Item(_)
            | Kind::PacketSlice { .. }
            | Kind::Dynptr
            | Kind::Func(_)
            | Kind::Map(_)
            | Kind::Mem(_)
            | Kind::Record(_)
            | Kind::Region(Region::Tracepoint)
            | Kind::Handle(_) => Ok(()),
        }
    }

    /// A read-modify-write.
    pub(super) fn atomic(&mut self, state: &mut State, pc: Pc, insn: &Insn) -> Step<()> {
        let Insn::Atomic { op, width, base, off, src } = *insn else { unreachable!("callers pass atomics") };
        let value = self.readable(state, src)?;
        self.keep_address(src, &value, "leaks addr into mem")?;
        if op == AtomicOp::Cmpxchg {
            let expected = self.readable(state, Reg::R0)?;
            self.keep_address(Reg::R0, &expected, "leaks addr into mem")?;
        }
        self.atomic_base(state, base, "stores into")?;
        let size = if width == Width::W64 { Size::DW } else { Size::W };
        let cell = Cell::new(size, base, off).strict();
        self.place(state, pc, cell, false)?;
        let place = self.place(state, pc, cell, true)?;
        let mut old = Value::scalar(Scalar::unsigned_bits(size.bits()));
        if let Place::Stack(span) = place {
            if span.min != span.max {
                let text = "variable offset stack pointer cannot be passed into helper function";
                return Err(invalid(base, text.to_owned()).help("an atomic operation on the stack needs a fixed place"));
            }
            self.stack_read(state, &span);
            self.history.read(&mut state.at, pc, span.frame, span.slots());
            let (found, content) = stack::read(state, span, size, self.stack_rules()).map_err(|f| f.with(base))?;
            self.note_content(state, &span, content);
            if found.is_pointer() {
                self.notes.shows_addresses = true;
                if self.options.trust == Trust::Untrusted {
                    let text = format!("leaking pointer from stack off {}", span.min);
                    return Err(Fail::new(Rule::Pointer, text).with(base));
                }
            }
            self.keep_spilled(state, span).map_err(|f| f.with(base))?;
            stack::overwrite(state, span);
            old = found;
        }
        if let Some(dst) = super::cfg::written(insn) {
            state.set(dst, old);
        }
        Ok(())
    }

    /// Memory that a helper or global function reads (`read`) and writes (`write`), `size` bytes of it at most.
    pub(super) fn buffer(&mut self, state: &mut State, reg: Reg, size: u64, read: bool, write: bool) -> Step<()> {
        let base = self.readable(state, reg)?;
        let n = reg.number();
        if size >= MAX_SIZE {
            let text = format!("R{n} unbounded memory access, use 'var &= const' or 'if (var < const)'");
            return Err(invalid(reg, text));
        }
        let size = size as u32;
        if base.nullable {
            let text = format!("R{n} type={} expected={MEMORY}", base.name());
            return Err(invalid(reg, text).help("compare the pointer with NULL before using it"));
        }
        match base.kind {
            Kind::Stack(_) => {
                let span = self.stack_span(state, reg, &base, 0, size, write)?;
                if write {
                    self.keep_dynptrs(state, reg, span)?;
                }
                if read {
                    self.stack_read(state, &span);
                    self.history.use_slots(&state.at, span.frame, span.slots());
                    let rules = stack::Rules { argument: Some(reg), ..self.stack_rules() };
                    let content = stack::readable(state.frame(span.frame), span, rules).map_err(|f| f.with(reg))?;
                    self.note_content(state, &span, content);
                    self.notes.shows_addresses |= content.pointer;
                }
                if write {
                    self.keep_spilled(state, span).map_err(|f| f.with(reg))?;
                    stack::overwrite(state, span);
                }
                Ok(())
            }
            Kind::Packet
            | Kind::PacketMeta
            | Kind::MapValue(_)
            | Kind::MapKey(_)
            | Kind::Item(_)
            | Kind::PacketSlice { .. }
            | Kind::Mem(_)
            | Kind::Record(_) => {
                if read {
                    self.region(reg, &base, 0, size, false)?;
                }
                if write {
                    self.region(reg, &base, 0, size, true)?;
                }
                Ok(())
            }
            Kind::Uninit
            | Kind::Scalar
            | Kind::Ctx
            | Kind::PacketEnd
            | Kind::Map(_)
            | Kind::Handle(_)
            | Kind::Func(_)
            | Kind::Dynptr
            | Kind::Region(_)
            | Kind::Socket(_) => Err(invalid(reg, format!("R{n} type={} expected={MEMORY}", base.name()))),
        }
    }

    /// A pointer to a map's value that the program names by an immediate.
    pub(super) fn direct_value(&self, map: MapId, off: u32) -> Step<Value> {
        direct_value(self.program, map, off)
    }
}

/// Every address of a map's value that the program names by an immediate is one, reached or not.
pub(super) fn check_direct_values(program: &Program) -> Result<(), Box<Rejection>> {
    for (pc, insn) in program.insns.iter() {
        if let Insn::LoadImm64 { value: Imm64::MapIdxValue { idx, off }, .. } = insn
            && let Err(fail) = direct_value(program, MapId(idx as u32), off)
        {
            return Err(Rejection::new(program, pc, fail.rule, fail.message));
        }
    }
    Ok(())
}

fn direct_value(program: &Program, map: MapId, off: u32) -> Step<Value> {
    let def = program.map(map);
    if def.map_type != MapType::ARRAY || def.max_entries != 1 {
        let text = format!("map {} of type {} has no direct value access", def.name, def.map_type);
        return Err(Fail::new(Rule::Memory, text));
    }
    if off >= 1 << 29 {
        return Err(Fail::new(Rule::Memory, format!("direct value offset of {off} is not allowed")));
    }
    if off >= def.value_size {
        let text = format!("invalid access to map value pointer, value_size={} off={off}", def.value_size);
        return Err(Fail::new(Rule::Memory, text));
    }
    Ok(Value { off: off as i32, ..Value::pointer(Kind::MapValue(map)) })
}

/// Checks that an access within the value's bounds touches no lock, timer or the like.
fn plain_bytes(reg: Reg, def: &MapDef, base: &Value, off: i64, size: u32) -> Step<()> {
    let fixed = i64::from(base.off) + off;
    let first = fixed.saturating_add(base.num.r.smin);
    let end = fixed.saturating_add(base.num.r.umax as i64).saturating_add(size.into());
    let touched = |field: &&SpecialField| {
        let (start, field_end) = (i64::from(field.offset), i64::from(field.offset) + i64::from(field.size));
        first < field_end && start < end
    };
    let Some(field) = def.special.iter().find(touched) else { return Ok(()) };
    let name = field.kind.name();
    match field.kind {
        SpecialKind::KernelPointer => {
            let text = "unsupported: access of a pointer to an object of the kernel (kptr)";
            Err(Fail::new(Rule::Unsupported, text).with(reg))
        }
        _ => Err(invalid(reg, format!("{name} cannot be accessed directly by load/store"))),
    }
}

impl Verifier<'_> {
    /// Checks that memory which a helper writes as one number is aligned to its size.
    pub(super) fn aligned_out(&mut self, reg: Reg, base: &Value, size: u32) -> Step<()> {
        aligned(reg, base, 0, size)
    }
}

/// Checks that a pointer is as it was handed out: nothing was added to it.
pub(super) fn unmodified(reg: Reg, base: &Value) -> Step<()> {
    let (n, name) = (reg.number(), base.name());
    let text = match (base.off, base.num.known()) {
        (0, Some(0)) => return Ok(()),
        (0, _) => format!("variable {name} access var_off={} disallowed", base.num.bits),
        (off @ ..0, _) => format!("negative offset {name} ptr R{n} off={off} disallowed"),
        (off, _) => format!("dereference of modified {name} ptr R{n} off={off} disallowed"),
    };
    Err(Fail::new(if base.kind == Kind::Ctx { Rule::Context } else { Rule::Pointer }, text).with(reg))
}

/// Checks that `base + off` is a multiple of `bytes`.
fn aligned(reg: Reg, base: &Value, off: i64, bytes: u32) -> Step<()> {
    let fixed = Scalar::constant((i64::from(base.off) + off) as u64);
    let total = alu::binary(AluOp::Add, Width::W64, &base.num, &fixed);
    if total.bits.umax() & u64::from(bytes - 1) == 0 {
        return Ok(());
    }
    let kind = if matches!(base.kind, Kind::Stack(_)) { "stack" } else { "value" };
    Err(invalid(reg, format!("misaligned {kind} access off {}+{}+{off} size {bytes}", base.num.bits, base.off)))
}

/// Checks `size` bytes at `base + off` in memory that the context points to: the offset must be constant.
fn pointed(reg: Reg, region: Region, base: &Value, off: i64, size: u32) -> Step<()> {
    let (n, off) = (reg.number(), i64::from(base.off) + off);
    let inside = base.num.known() == Some(0) && off >= 0 && off + i64::from(size) <= i64::from(region.size());
    if inside {
        return Ok(());
    }
    Err(invalid(
        reg,
        match region {
            Region::FlowKeys => format!("invalid access to flow keys off={off} size={size}"),
            Region::Tracepoint if base.num.known() != Some(0) => {
                let bits = base.num.bits;
                let var = format!("({:#x}; {:#x})", bits.value, bits.mask);
                format!("R{n} invalid variable buffer offset: off={off}, var_off={var}")
            }
            Region::Tracepoint => format!("R{n} invalid tracepoint buffer access: off={off}, size={size}"),
        },
    ))
}

/// Checks a read through a pointer to a socket.
fn socket(reg: Reg, view: SocketView, off: i64, size: Size, write: bool) -> Step<()> {
    let n = reg.number();
    if write {
        return Err(invalid(reg, format!("R{n} cannot write into {}", view.name())));
    }
    let found = u32::try_from(off).ok().and_then(|off| view.desc().access(off, size, false));
    match found {
        Some(_) => Ok(()),
        None => Err(invalid(reg, format!("R{n} invalid {} access off={off} size={}", view.name(), size.bytes()))),
    }
}

fn negative(reg: Reg) -> Box<Fail> {
    let text =
        format!("R{} min value is negative, either use unsigned index or do a if (index >=0) check.", reg.number());
    invalid(reg, text).help("compare the index with 0, or make it unsigned")
}

/// Checks `size` bytes at `base + off` against a region of `limit` bytes.
fn bounded(reg: Reg, base: &Value, off: i64, size: u32, limit: u32, what: &str) -> Step<()> {
    let n = reg.number();
    let fixed = i64::from(base.off) + off;
    let outside = |first: i64, note: &str| {
        let text = format!("invalid access to {what}={limit} off={first} size={size}{note}");
        Err(invalid(reg, text).help("bound the index by the size of what is accessed"))
    };
    let (limit, size) = (i64::from(limit), i64::from(size));
    if base.num.known().is_none() && base.num.r.smin < 0 && fixed.saturating_add(base.num.r.smin) < 0 {
        return Err(negative(reg));
    }
    let first = fixed.saturating_add(base.num.r.smin);
    if first < 0 || first + size > limit {
        return outside(first, &format!("\nR{n} min value is outside of the allowed memory range"));
    }
    if base.num.r.umax >= MAX_SIZE {
        let text = format!("R{n} unbounded memory access, make sure to bounds check any such access");
        return Err(invalid(reg, text).help("bound the index by the size of what is accessed"));
    }
    let last = fixed + base.num.r.umax as i64;
    if last + size > limit {
        return outside(last, &format!("\nR{n} max value is outside of the allowed memory range"));
    }
    Ok(())
}
