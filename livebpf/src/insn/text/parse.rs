//! One instruction from text, possibly with a label that is not resolved yet.

use super::super::{AtomicOp, EndianOp, Imm64, Insn, Reg, Size, Src, Width};
use super::TextError;
use super::cursor::{Cursor, Number};
use super::names;

/// An instruction; where `label` is given, its offset is 0 and the label decides.
pub(super) struct Parsed<'a> {
    pub insn: Insn,
    pub label: Option<Label<'a>>,
}

/// A label and where it stands.
pub(super) struct Label<'a> {
    pub name: &'a str,
    pub place: Cursor<'a>,
}

/// Where a jump or call goes.
enum Target<'a> {
    Offset(i32),
    Label(Label<'a>),
}

const REGISTER: &str = "a register, `r0` to `r10`";
const IMM32: &str = "a number of 32 bits with sign";

/// Reads one instruction. `opcode` is the one that the line gave, if it did: it tells the one-slot `r1 = 5` from the
/// two-slot one that the kernel writes in the same way.
pub(super) fn instruction<'a>(c: &mut Cursor<'a>, opcode: Option<u8>) -> Result<Parsed<'a>, TextError> {
    let start = *c;
    let done = |insn| Ok(Parsed { insn, label: None });
    if c.eat("*") {
        return store(c).and_then(done);
    }
    if let Some((width, dst)) = c.register() {
        return assignment(c, start, width, dst, opcode);
    }
    match c.ident() {
        Some("if") => conditional(c),
        Some("goto") => jump(c, |off| i16::try_from(off).ok().map(|off| Insn::Ja { off })),
        Some("gotol") => jump(c, |off| Some(Insn::JaL { off })),
        Some("may_goto") => jump(c, |off| i16::try_from(off).ok().map(|off| Insn::MayGoto { off })),
        Some("call") => call(c),
        Some("callx") => done(Insn::CallX { reg: register64(c)? }),
        Some("exit") => done(Insn::Exit),
        Some("lock") => locked(c).and_then(done),
        Some("store_release") => store_release(c).and_then(done),
        _ => Err(start.wanted("an instruction: a register, `*(`, `if`, `goto`, `gotol`, `may_goto`, `call`, `callx`, `exit`, `lock` or `store_release`")),
    }
}

fn register64(c: &mut Cursor<'_>) -> Result<Reg, TextError> {
    let start = *c;
    match c.register() {
        Some((Width::W64, reg)) => Ok(reg),
        _ => Err(start.wanted(REGISTER)),
    }
}

/// A register of the given width.
fn register_of(c: &mut Cursor<'_>, width: Width) -> Result<Reg, TextError> {
    let start = *c;
    match c.register() {
        Some((found, reg)) if found == width => Ok(reg),
        _ => Err(start.wanted(match width {
            Width::W64 => REGISTER,
            Width::W32 => "a register, `w0` to `w10`",
        })),
    }
}

/// A register that holds a value of `size`: the `w` name is allowed up to 32 bits.
fn register_for(c: &mut Cursor<'_>, size: Size) -> Result<Reg, TextError> {
    let start = *c;
    match c.register() {
        Some((Width::W32, _)) if size == Size::DW => Err(start.wanted(REGISTER)),
        Some((_, reg)) => Ok(reg),
        None => Err(start.wanted("a register")),
    }
}

/// An immediate of 32 bits; `bits` allows hexadecimal from 0x80000000 for a negative one.
fn imm32(c: &mut Cursor<'_>, bits: bool) -> Result<i32, TextError> {
    let start = *c;
    let number = c.number().ok_or_else(|| start.wanted("a register or a number"))?;
    fit_imm32(number, bits).ok_or_else(|| c.wanted_since(start, IMM32))
}

fn fit_imm32(number: Number, bits: bool) -> Option<i32> {
    let as_bits = || u32::try_from(number.value).ok().filter(|_| bits && number.hex).map(|v| v as i32);
    i32::try_from(number.value).ok().or_else(as_bits)
}

/// A register of `width`, or an immediate.
fn operand(c: &mut Cursor<'_>, width: Width, bits: bool) -> Result<Src, TextError> {
    match c.peek_ident() {
        Some(_) => register_of(c, width).map(Src::Reg),
        None => imm32(c, bits).map(Src::Imm),
    }
}

/// `(u32 *)` or, where `signed` is allowed, `(s32 *)`: whether signed, and the size.
fn pointer_type(c: &mut Cursor<'_>, signed: bool) -> Result<(bool, Size), TextError> {
    c.expect("(")?;
    let start = *c;
    let name = c.ident().unwrap_or("");
    let size = |letter| {
        let bits = name.strip_prefix(letter)?;
        names::SIZES.into_iter().find(|size| size.bits().to_string() == bits)
    };
    let found = match (size('u'), size('s')) {
        (Some(size), _) => (false, size),
        (None, Some(size)) if signed && size != Size::DW => (true, size),
        _ if signed => return Err(start.wanted("`u8`, `u16`, `u32`, `u64`, `s8`, `s16` or `s32`")),
        _ => return Err(start.wanted("`u8`, `u16`, `u32` or `u64`")),
    };
    c.expect("*")?;
    c.expect(")")?;
    Ok(found)
}

/// `(r6 +16)`: base and offset.
fn place(c: &mut Cursor<'_>) -> Result<(Reg, i16), TextError> {
    c.expect("(")?;
    let base = register64(c)?;
    let off = if c.rest().starts_with(['+', '-']) { c.fits("an offset of 16 bits with sign")? } else { 0 };
    c.expect(")")?;
    Ok((base, off))
}

/// `(u32 *)(r6 +16)`: size, base and offset.
fn memory(c: &mut Cursor<'_>) -> Result<(Size, Reg, i16), TextError> {
    let (_, size) = pointer_type(c, false)?;
    let (base, off) = place(c)?;
    Ok((size, base, off))
}

/// After `*`: `(u64 *)(r10 -8) = r1`.
fn store(c: &mut Cursor<'_>) -> Result<Insn, TextError> {
    let (size, base, off) = memory(c)?;
    c.expect("=")?;
    let src = match c.peek_ident() {
        Some(_) => Src::Reg(register_for(c, size)?),
        None => Src::Imm(imm32(c, size != Size::DW)?),
    };
    Ok(Insn::Store { size, base, off, src })
}

/// After `lock`: `*(u64 *)(r1 +0) += r2`.
fn locked(c: &mut Cursor<'_>) -> Result<Insn, TextError> {
    c.expect("*")?;
    let (width, size, base, off) = atomic_memory(c)?;
    let op = c.one_of(&names::ATOMIC_ASSIGN).ok_or_else(|| c.wanted("`+=`, `|=`, `&=` or `^=`"))?;
    let src = register_for(c, size)?;
    Ok(Insn::Atomic { op, width, base, off, src })
}

fn atomic_memory(c: &mut Cursor<'_>) -> Result<(Width, Size, Reg, i16), TextError> {
    let start = *c;
    let (size, base, off) = memory(c)?;
    match size {
        Size::W => Ok((Width::W32, size, base, off)),
        Size::DW => Ok((Width::W64, size, base, off)),
        Size::B | Size::H => Err(start.wanted("`(u32 *)` or `(u64 *)`")),
    }
}

/// After the name: `((u32 *)(r1 +0), r2)`.
fn store_release(c: &mut Cursor<'_>) -> Result<Insn, TextError> {
    c.expect("(")?;
    let (size, base, off) = memory(c)?;
    c.expect(",")?;
    let src = register_for(c, size)?;
    c.expect(")")?;
    Ok(Insn::StoreRelease { size, base, off, src })
}

/// After the name `atomic_*`: `((u64 *)(r1 +0), r2)`, `((u64 *)(r1 +0), r0, r2)`. The result goes to `dst`.
fn fetching(
    c: &mut Cursor<'_>,
    start: Cursor<'_>,
    dst: Reg,
    op: AtomicOp,
    want: Option<Width>,
) -> Result<Insn, TextError> {
    c.expect("(")?;
    let kind = *c;
    let (width, size, base, off) = atomic_memory(c)?;
    if want.is_some_and(|want| want != width) {
        return Err(kind.wanted("`(u64 *)`"));
    }
    c.expect(",")?;
    if op == AtomicOp::Cmpxchg {
        let compared = *c;
        if register_for(c, size)? != Reg::R0 {
            return Err(compared.wanted("`r0`, which a compare and exchange compares with"));
        }
        c.expect(",")?;
    }
    let src = register_for(c, size)?;
    c.expect(")")?;
    let result = if op == AtomicOp::Cmpxchg { Reg::R0 } else { src };
    if dst != result {
        return Err(start.wanted(format!("`{result}`, where this operation leaves its result")));
    }
    Ok(Insn::Atomic { op, width, base, off, src })
}

/// After a register: an operator and the rest.
fn assignment<'a>(
    c: &mut Cursor<'a>,
    start: Cursor<'a>,
    width: Width,
    dst: Reg,
    opcode: Option<u8>,
) -> Result<Parsed<'a>, TextError> {
    let done = |insn| Ok(Parsed { insn, label: None });
    if let Some(op) = c.one_of(&names::ALU) {
        let src = operand(c, width, width == Width::W32)?;
        return done(Insn::Alu { op, width, dst, src });
    }
    if !c.eat("=") {
        return Err(c.wanted("`=` or an operator such as `+=`"));
    }
    let value = *c;
    if c.eat("*") {
        return load(c, start, width, dst).and_then(done);
    }
    if c.eat("(") {
        return move_sign_extended(c, width, dst).and_then(done);
    }
    if let Some((found, src)) = c.register() {
        if found != width {
            return Err(value.wanted("a register of the same width"));
        }
        return done(Insn::Mov { width, dst, src: Src::Reg(src) });
    }
    if c.peek_ident().is_some() {
        return named_value(c, start, width, dst);
    }
    let mut negated = *c;
    if negated.eat("-") && negated.register() == Some((width, dst)) {
        *c = negated;
        return done(Insn::Neg { width, dst });
    }
    number_value(c, width, dst, opcode).and_then(done)
}

/// `5`, `0x5 ll`.
fn number_value(c: &mut Cursor<'_>, width: Width, dst: Reg, opcode: Option<u8>) -> Result<Insn, TextError> {
    let start = *c;
    let number = c.number().ok_or_else(|| start.wanted("a value"))?;
    let two_slots = c.word("ll") || opcode == Some(0x18);
    if !two_slots {
        let imm = fit_imm32(number, width == Width::W32)
            .ok_or_else(|| c.wanted_since(start, format!("{IMM32}, or `ll` after it for one of 64 bits")))?;
        return Ok(Insn::Mov { width, dst, src: Src::Imm(imm) });
    }
    let value = u64::try_from(number.value).ok().or(i64::try_from(number.value).ok().map(|v| v as u64));
    match (value, width) {
        (Some(value), Width::W64) => Ok(Insn::LoadImm64 { dst, value: Imm64::Const(value) }),
        (_, Width::W32) => Err(c.wanted_since(start, "a 64-bit immediate only in an `r` register")),
        (None, Width::W64) => Err(c.wanted_since(start, "a number of 64 bits")),
    }
}

/// After `=` and `(`: `s8)r2`.
fn move_sign_extended(c: &mut Cursor<'_>, width: Width, dst: Reg) -> Result<Insn, TextError> {
    let start = *c;
    let from = match (c.ident(), width) {
        (Some("s8"), _) => Size::B,
        (Some("s16"), _) => Size::H,
        (Some("s32"), Width::W64) => Size::W,
        (_, Width::W64) => return Err(start.wanted("`s8`, `s16` or `s32`")),
        (_, Width::W32) => return Err(start.wanted("`s8` or `s16`")),
    };
    c.expect(")")?;
    let src = register_of(c, width)?;
    Ok(Insn::MovSx { width, from, dst, src })
}

/// After `=` and `*`: `(u32 *)(r6 +16)`, `(s8 *)(r2 +0)`, `(u8 *)skb[14]`.
fn load(c: &mut Cursor<'_>, start: Cursor<'_>, width: Width, dst: Reg) -> Result<Insn, TextError> {
    let kind = *c;
    let (signed, size) = pointer_type(c, true)?;
    if width == Width::W32 && (signed || size == Size::DW) {
        return Err(start.wanted("an `r` register for this load"));
    }
    if c.word("skb") {
        if signed || size == Size::DW {
            return Err(kind.wanted("`(u8 *)`, `(u16 *)` or `(u32 *)` for a packet load"));
        }
        if dst != Reg::R0 {
            return Err(start.wanted("`r0`, where a packet load leaves its result"));
        }
        return packet_load(c, size);
    }
    let (base, off) = place(c)?;
    Ok(if signed { Insn::LoadSx { size, dst, base, off } } else { Insn::Load { size, dst, base, off } })
}

/// After `skb`: `[14]`, `[r7 + 14]`.
fn packet_load(c: &mut Cursor<'_>, size: Size) -> Result<Insn, TextError> {
    c.expect("[")?;
    let insn = match c.peek_ident() {
        None => Insn::LoadAbs { size, off: c.fits(IMM32)? },
        Some(_) => {
            let src = register64(c)?;
            let mut off = 0;
            if !c.rest().starts_with(']') {
                if !c.rest().starts_with('-') {
                    c.expect("+")?;
                }
                off = c.fits(IMM32)?;
            }
            Insn::LoadInd { size, src, off }
        }
    };
    c.expect("]")?;
    Ok(insn)
}

/// After `=`: a word that is no register.
fn named_value<'a>(c: &mut Cursor<'a>, start: Cursor<'a>, width: Width, dst: Reg) -> Result<Parsed<'a>, TextError> {
    let place = *c;
    let word = c.ident().unwrap_or("");
    let done = |insn| Ok(Parsed { insn, label: None });
    if word == "load_acquire" {
        c.expect("(")?;
        let (size, base, off) = memory(c)?;
        c.expect(")")?;
        if width == Width::W32 && size == Size::DW {
            return Err(start.wanted("an `r` register for this load"));
        }
        return done(Insn::LoadAcquire { size, dst, base, off });
    }
    let atomic = word.strip_prefix("atomic64_").map(|name| (name, Some(Width::W64)));
    let atomic = atomic.or_else(|| word.strip_prefix("atomic_").map(|name| (name, None)));
    if let Some((name, want)) = atomic {
        let (_, op) = names::ATOMIC_FETCH.into_iter().find(|(known, _)| *known == name).ok_or_else(|| {
            place.wanted("an atomic operation: fetch_add, fetch_or, fetch_and, fetch_xor, xchg, cmpxchg")
        })?;
        return fetching(c, start, dst, op, want).and_then(done);
    }
    if width == Width::W32 {
        return Err(place.wanted("a `w` register, a number, a load or an atomic operation"));
    }
    match word {
        "map" => map_value(c).and_then(|value| done(Insn::LoadImm64 { dst, value })),
        "btf" => btf_value(c).and_then(|value| done(Insn::LoadImm64 { dst, value })),
        "subprog" => {
            c.expect("[")?;
            let (off, label) = match target(c)? {
                Target::Offset(off) => (off, None),
                Target::Label(label) => (0, Some(label)),
            };
            c.expect("]")?;
            Ok(Parsed { insn: Insn::LoadImm64 { dst, value: Imm64::Func { off } }, label })
        }
        _ => byte_swap(c, place, word, dst).and_then(done),
    }
}

fn byte_swap(c: &mut Cursor<'_>, place: Cursor<'_>, word: &str, dst: Reg) -> Result<Insn, TextError> {
    let digits = word.trim_start_matches(|ch: char| ch.is_ascii_alphabetic());
    let op = match &word[..word.len() - digits.len()] {
        "le" => Some(EndianOp::ToLe),
        "be" => Some(EndianOp::ToBe),
        "bswap" => Some(EndianOp::Swap),
        _ => None,
    };
    let size = match digits {
        "16" => Some(Size::H),
        "32" => Some(Size::W),
        "64" => Some(Size::DW),
        _ => None,
    };
    let (Some(op), Some(size)) = (op, size) else {
        return Err(place.wanted("a register, a number, a load, `be16`, `le16`, `bswap16` (or 32, 64), an atomic operation, `map[`, `btf[` or `subprog[`"));
    };
    let operand = *c;
    if register64(c)? != dst {
        return Err(operand.wanted(format!("`{dst}`, the register that the result goes to")));
    }
    Ok(Insn::Endian { op, size, dst })
}

/// After `map`: `[fd:3]`, `[idx:0][0]+16`.
fn map_value(c: &mut Cursor<'_>) -> Result<Imm64, TextError> {
    c.expect("[")?;
    let start = *c;
    let by_fd = match c.ident() {
        Some("fd") => true,
        Some("idx") => false,
        _ => return Err(start.wanted("`fd:` or `idx:`")),
    };
    c.expect(":")?;
    let number = c.fits(IMM32)?;
    c.expect("]")?;
    if !c.eat("[0]") {
        return Ok(if by_fd { Imm64::MapFd(number) } else { Imm64::MapIdx(number) });
    }
    c.expect("+")?;
    let off = c.fits("a number of 32 bits without sign")?;
    Ok(if by_fd { Imm64::MapFdValue { fd: number, off } } else { Imm64::MapIdxValue { idx: number, off } })
}

/// After `btf`: `[id:5]`, `[id:5,fd:3]`.
fn btf_value(c: &mut Cursor<'_>) -> Result<Imm64, TextError> {
    c.expect("[")?;
    c.expect("id")?;
    c.expect(":")?;
    let id = c.fits(IMM32)?;
    let mut fd = 0;
    if c.eat(",") {
        c.expect("fd")?;
        c.expect(":")?;
        fd = c.fits(IMM32)?;
    }
    c.expect("]")?;
    Ok(Imm64::BtfId { id, fd })
}

/// `pc+3`, `+3` or a label. What llvm-objdump appends in angle brackets is skipped.
fn target<'a>(c: &mut Cursor<'a>) -> Result<Target<'a>, TextError> {
    let place = *c;
    c.word("pc");
    if c.rest().starts_with(['+', '-']) {
        let off = c.fits("an offset of 32 bits with sign")?;
        if c.eat("<") {
            while !c.eat(">") {
                let rest = c.rest();
                let Some(next) = rest.chars().next() else { return Err(c.wanted("`>`")) };
                c.eat(&rest[..next.len_utf8()]);
            }
        }
        return Ok(Target::Offset(off));
    }
    *c = place;
    match c.ident() {
        Some(name) if name != "pc" => Ok(Target::Label(Label { name, place })),
        _ => Err(place.wanted("a target: `pc+3` or a label")),
    }
}

/// After `goto` and its kin.
fn jump<'a>(c: &mut Cursor<'a>, insn: impl Fn(i32) -> Option<Insn>) -> Result<Parsed<'a>, TextError> {
    let start = *c;
    let (off, label) = match target(c)? {
        Target::Offset(off) => (off, None),
        Target::Label(label) => (0, Some(label)),
    };
    let insn = insn(off).ok_or_else(|| c.wanted_since(start, "an offset of 16 bits with sign"))?;
    Ok(Parsed { insn, label })
}

/// After `if`: `r1 s> 0x5 goto pc+3`.
fn conditional<'a>(c: &mut Cursor<'a>) -> Result<Parsed<'a>, TextError> {
    let (width, dst) = c.register().ok_or_else(|| c.wanted("a register"))?;
    let cond = c
        .one_of(&names::COND)
        .ok_or_else(|| c.wanted("a comparison: `==`, `!=`, `>`, `>=`, `<`, `<=`, `s>`, `s>=`, `s<`, `s<=` or `&`"))?;
    let src = operand(c, width, true)?;
    if !c.word("goto") {
        return Err(c.wanted("`goto`"));
    }
    jump(c, |off| i16::try_from(off).ok().map(|off| Insn::Jmp { cond, width, dst, src, off }))
}

/// After `call`: `12`, `pc+4`, `kfunc:7`, `kfunc:7@2`, `bpf_ktime_get_ns#5` or a label.
fn call<'a>(c: &mut Cursor<'a>) -> Result<Parsed<'a>, TextError> {
    let done = |insn| Ok(Parsed { insn, label: None });
    const HELPER: &str = "the number of a helper";
    if c.rest().starts_with(|first: char| first.is_ascii_digit()) {
        return done(Insn::Call { helper: c.fits(HELPER)? });
    }
    let mut ahead = *c;
    if let Some(name) = ahead.ident() {
        if name == "kfunc" && ahead.eat(":") {
            *c = ahead;
            let btf_id = c.fits(IMM32)?;
            let off = if c.eat("@") { c.fits("a number of 16 bits with sign")? } else { 0 };
            return done(Insn::CallKfunc { btf_id, off });
        }
        let number = c.rest()[name.len()..].strip_prefix('#');
        if number.is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_digit())) {
            ahead.eat("#");
            *c = ahead;
            return done(Insn::Call { helper: c.fits(HELPER)? });
        }
    }
    match target(c).map_err(|error| TextError {
        wanted: "a helper's number, `name#number`, `kfunc:id`, `pc+3` or a label".into(),
        ..error
    })? {
        Target::Offset(off) => done(Insn::CallSubprog { off }),
        Target::Label(label) => Ok(Parsed { insn: Insn::CallSubprog { off: 0 }, label: Some(label) }),
    }
}
