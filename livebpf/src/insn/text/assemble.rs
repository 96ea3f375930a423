//! Lines: slot prefixes, opcodes, labels and comments around the instructions, and the resolution of labels.

use std::collections::HashMap;

use super::super::{Imm64, Insn, Insns, Pc};
use super::TextError;
use super::cursor::Cursor;
use super::parse::{self, Label};

/// Reads one instruction without labels.
pub(super) fn single(text: &str) -> Result<Insn, TextError> {
    let mut c = Cursor::new(text, 1);
    let parsed = parse::instruction(&mut c, None)?;
    if let Some(label) = parsed.label {
        return Err(label.place.wanted("a relative target such as `pc+3`"));
    }
    if c.at_end() { Ok(parsed.insn) } else { Err(c.wanted("the end of the instruction")) }
}

/// Reads a listing.
pub(super) fn listing(text: &str) -> Result<Insns, TextError> {
    let mut assembler = Assembler::default();
    for (number, line) in text.lines().enumerate() {
        let number = u32::try_from(number).unwrap_or(u32::MAX).saturating_add(1);
        assembler.line(Cursor::new(line, number))?;
    }
    assembler.finish()
}

#[derive(Default)]
struct Assembler<'a> {
    insns: Insns,
    /// Slot of the first instruction, as the listing's slot prefixes have it.
    origin: Option<u64>,
    labels: HashMap<&'a str, Pc>,
    open: Vec<(Pc, Label<'a>)>,
}

impl<'a> Assembler<'a> {
    fn line(&mut self, mut c: Cursor<'a>) -> Result<(), TextError> {
        self.labels(&mut c)?;
        if c.at_end() {
            return Ok(());
        }
        if c.rest().starts_with(|first: char| first.is_ascii_digit()) {
            self.slot_prefix(&mut c)?;
        }
        let opcode_place = c;
        let opcode = opcode(&mut c)?;
        let start = c;
        let parsed = parse::instruction(&mut c, opcode)?;
        if !c.at_end() {
            return Err(c.wanted("the end of the line"));
        }
        if opcode.is_some_and(|opcode| opcode != parsed.insn.opcode()) {
            let wanted = format!("`({:02x})`, the opcode of `{}`", parsed.insn.opcode(), parsed.insn);
            return Err(start.wanted_since(opcode_place, wanted));
        }
        let pc = self.insns.push(parsed.insn);
        self.open.extend(parsed.label.map(|label| (pc, label)));
        Ok(())
    }

    /// Takes the labels that begin the line.
    fn labels(&mut self, c: &mut Cursor<'a>) -> Result<(), TextError> {
        loop {
            let start = *c;
            let mut ahead = *c;
            let Some(name) = ahead.ident() else { return Ok(()) };
            if !ahead.eat(":") {
                return Ok(());
            }
            *c = ahead;
            if name == "pc" {
                return Err(start.wanted("a label's name (`pc` means the position)"));
            }
            if self.labels.insert(name, Pc(self.insns.len())).is_some() {
                return Err(start.wanted("a label that is not defined before"));
            }
        }
    }

    fn slot_prefix(&mut self, c: &mut Cursor<'a>) -> Result<(), TextError> {
        let start = *c;
        let slot: u64 = c.fits("the number of a slot")?;
        let here = u64::from(self.insns.len());
        match self.origin {
            None => {
                self.origin = Some(slot.checked_sub(here).ok_or_else(|| {
                    c.wanted_since(start, format!("slot {here} or a later one: so many slots stand before"))
                })?);
            }
            Some(origin) if origin.checked_add(here) != Some(slot) => {
                let wanted = format!("slot {}, which follows what stands before", origin.saturating_add(here));
                return Err(c.wanted_since(start, wanted));
            }
            Some(_) => {}
        }
        c.expect(":")
    }

    fn finish(mut self) -> Result<Insns, TextError> {
        for (pc, label) in std::mem::take(&mut self.open) {
            let target = self.labels.get(label.name).ok_or_else(|| label.place.wanted("a label that is defined"))?;
            let off = i64::from(target.0) - i64::from(pc.0) - 1;
            let insn = self.insns.get(pc).and_then(|insn| with_offset(insn, off));
            let insn =
                insn.ok_or_else(|| label.place.wanted(format!("a label within reach: this is {off} slots away")))?;
            self.insns.replace(pc, insn);
        }
        Ok(self.insns)
    }
}

/// `(b7)`.
fn opcode(c: &mut Cursor<'_>) -> Result<Option<u8>, TextError> {
    let start = *c;
    if !c.eat("(") {
        return Ok(None);
    }
    let digits = c.rest().get(..2).filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
    let value = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
    let value = value.ok_or_else(|| start.wanted("an opcode of two hexadecimal digits, such as `(b7)`"))?;
    c.eat(digits.unwrap_or_default());
    c.expect(")")?;
    Ok(Some(value))
}

/// The instruction with its relative target replaced; `None` where it has none or it does not fit.
fn with_offset(insn: Insn, off: i64) -> Option<Insn> {
    let long = i32::try_from(off).ok();
    let short = i16::try_from(off).ok();
    match insn {
        Insn::Ja { .. } => Some(Insn::Ja { off: short? }),
        Insn::MayGoto { .. } => Some(Insn::MayGoto { off: short? }),
        Insn::Jmp { cond, width, dst, src, .. } => Some(Insn::Jmp { cond, width, dst, src, off: short? }),
        Insn::JaL { .. } => Some(Insn::JaL { off: long? }),
        Insn::CallSubprog { .. } => Some(Insn::CallSubprog { off: long? }),
        Insn::LoadImm64 { dst, value: Imm64::Func { .. } } => {
            Some(Insn::LoadImm64 { dst, value: Imm64::Func { off: long? } })
        }
        Insn::LoadImm64 { .. }
        | Insn::Alu { .. }
        | Insn::Neg { .. }
        | Insn::Mov { .. }
        | Insn::MovSx { .. }
        | Insn::Endian { .. }
        | Insn::Load { .. }
        | Insn::LoadSx { .. }
        | Insn::Store { .. }
        | Insn::Atomic { .. }
        | Insn::LoadAcquire { .. }
        | Insn::StoreRelease { .. }
        | Insn::LoadAbs { .. }
        | Insn::LoadInd { .. }
        | Insn::Call { .. }
        | Insn::CallKfunc { .. }
        | Insn::CallX { .. }
        | Insn::Exit => None,
    }
}
