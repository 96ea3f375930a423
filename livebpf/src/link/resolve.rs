//! What one instruction refers to: calls, address loads, maps, global data and externs.

use super::LinkError;
use super::core;
use super::layout::Linker;
use crate::insn::{Imm64, Insn, Pc};
use crate::object::{ExternKind, Function, Target};

/// `R_BPF_64_64`, `R_BPF_64_ABS64` and `R_BPF_64_ABS32`, `R_BPF_64_32`.
const R_64_64: u32 = 1;
const R_64_32: u32 = 10;
/// Calls of absent weak kernel functions become calls of helpers that do not exist, from this number (libbpf).
const ABSENT_KFUNC: u32 = 2_002_000_000;

/// How an instruction is to be changed.
pub(super) enum Resolved {
    /// Not at all.
    Keep,
    /// Into this one.
    Insn(Insn),
    /// To refer to a map of the object, or to bytes into its value.
    Map(usize, Option<u32>),
    /// To refer to a function of the object.
    Function(usize),
    /// To call this kernel function.
    Kfunc(String),
}

/// One instruction in its place, for messages and lookups.
struct Site<'l, 'a> {
    linker: &'l Linker<'a>,
    function: &'a Function,
    /// Slot within the function.
    at: Pc,
    insn: Insn,
}

/// Resolves the instruction at slot `at` of function `index`.
pub(super) fn resolve(linker: &Linker<'_>, index: usize, at: Pc, insn: Insn) -> Result<Resolved, LinkError> {
    let function = &linker.object.functions().all[index];
    let site = Site { linker, function, at, insn };
    let slot = function.start + at.0;
    core::check(linker.object, &linker.entry.name, function, at)?;
    match linker.object.relocs().at(function.section, slot) {
        Some((kind, target)) => site.relocated(kind, target),
        None => site.unrelocated(slot),
    }
}

impl Site<'_, '_> {
    fn error(&self, found: impl Into<String>, wanted: impl Into<String>) -> LinkError {
        LinkError::Insn {
            program: self.linker.entry.name.clone(),
            function: self.function.name.clone(),
            pc: self.at,
            found: found.into(),
            wanted: wanted.into(),
        }
    }

    /// Without a relocation: a call counts from its own place in the section, and a load is of a constant.
    fn unrelocated(&self, slot: u32) -> Result<Resolved, LinkError> {
        match self.insn {
            Insn::CallSubprog { off } => {
                let target = i64::from(slot) + 1 + i64::from(off);
                self.function_at(self.function.section, target)
            }
            Insn::LoadImm64 { value: Imm64::Const(_), .. } => Ok(Resolved::Keep),
            Insn::LoadImm64 { .. } => {
                Err(self.error(format!("{} without relocation", self.insn), "a constant, or a relocation of it"))
            }
            _ => Ok(Resolved::Keep),
        }
    }

    fn relocated(&self, kind: u32, target: &Target) -> Result<Resolved, LinkError> {
        let wanted_kind = match self.insn {
            Insn::LoadImm64 { .. } => R_64_64,
            Insn::CallSubprog { .. } | Insn::CallKfunc { .. } | Insn::Call { .. } => R_64_32,
            other => {
                let found = format!("a relocation of {other}");
                return Err(self.error(found, "one of a call or a 64-bit immediate load"));
            }
        };
        if kind != wanted_kind {
            let found = format!("relocation type {kind}");
            return Err(self.error(found, format!("{wanted_kind} for this instruction")));
        }
        if let Target::Extern(index) = target {
            return self.extern_(*index);
        }
        match self.insn {
            Insn::CallSubprog { off } => match target {
                Target::Code { section, offset } => {
                    let slot = self.slot_of(*offset)?;
                    self.function_at(*section, slot.saturating_add(i64::from(off)).saturating_add(1))
                }
                _ => Err(self.error(format!("a call of {}", self.describe(target)), "a function of this object")),
            },
            Insn::LoadImm64 { value: Imm64::Const(addend), .. } => self.load(target, addend),
            other => Err(self.error(format!("a relocation of {other}"), "a call or load that clang writes")),
        }
    }

    /// A relocated 64-bit load. clang keeps the addend in the low half.
    fn load(&self, target: &Target, addend: u64) -> Result<Resolved, LinkError> {
        let addend = i64::from(addend as u32 as i32);
        let with = |offset: u64| {
            let sum = i64::try_from(offset).ok().and_then(|o| o.checked_add(addend));
            sum.ok_or_else(|| self.error(format!("offset {offset} and addend {addend}"), "a position in a section"))
        };
        match target {
            Target::Code { section, offset } => {
                let at = with(*offset)?;
                if at % 8 != 0 {
                    return Err(self.error(format!("the address of byte {at} of code"), "a multiple of 8"));
                }
                self.function_at(*section, at / 8)
            }
            Target::Maps { offset } => {
                let at = with(*offset)?;
                let map = u64::try_from(at).ok().and_then(|at| self.linker.object.map_at(at));
                let map = map.ok_or_else(|| self.error(format!("byte {at} of section .maps"), "the first of a map"))?;
                Ok(Resolved::Map(map, None))
            }
            Target::Data { map, offset } => {
                let at = with(*offset)?;
                let def = &self.linker.object.maps()[*map];
                let off = u32::try_from(at).ok().filter(|off| *off < def.value_size).ok_or_else(|| {
                    let wanted = format!("one of its {} bytes", def.value_size);
                    self.error(format!("byte {at} of section {}", def.name), wanted)
                })?;
                Ok(Resolved::Map(*map, Some(off)))
            }
            Target::Extern(_) | Target::Unusable(_) => {
                Err(self.error(format!("the address of {}", self.describe(target)), "a map, global data or a function"))
            }
        }
    }

    fn slot_of(&self, offset: u64) -> Result<i64, LinkError> {
        let slot = i64::try_from(offset / 8).ok().filter(|_| offset.is_multiple_of(8));
        slot.ok_or_else(|| self.error(format!("a call of byte {offset} of code"), "a multiple of 8"))
    }

    fn function_at(&self, section: usize, slot: i64) -> Result<Resolved, LinkError> {
        let functions = self.linker.object.functions();
        let found = u32::try_from(slot).ok().and_then(|slot| functions.at(section, slot));
        let error = || {
            let found = format!("slot {slot} of section {}", functions.sections[section].name);
            self.error(found, "the first slot of a function")
        };
        found.map(Resolved::Function).ok_or_else(error)
    }

    /// A reference to something outside of the object.
    fn extern_(&self, index: usize) -> Result<Resolved, LinkError> {
        let object = self.linker.object;
        let ext = &object.externs()[index];
        let absent = LinkError::Extern {
            program: self.linker.entry.name.clone(),
            function: self.function.name.clone(),
            pc: self.at,
            kind: ext.kind.describe(),
            name: ext.name.clone(),
        };
        if ext.is_provided() {
            return match self.insn {
                // Programs only ask whether it is null.
                Insn::LoadImm64 { dst, .. } => Ok(Resolved::Insn(Insn::LoadImm64 { dst, value: Imm64::Const(1) })),
                Insn::CallSubprog { .. } | Insn::CallKfunc { .. } => Ok(Resolved::Kfunc(ext.name.clone())),
                _ => Err(absent),
            };
        }
        if !ext.weak && ext.option().is_none() {
            return Err(absent);
        }
        match (self.insn, ext.kind) {
            (Insn::LoadImm64 { .. }, ExternKind::Kconfig { .. }) => {
                let map = object.kconfig().ok_or(absent.clone())?;
                let off = object.maps()[map].symbol(&ext.name).map(|s| s.offset).ok_or(absent)?;
                Ok(Resolved::Map(map, Some(off)))
            }
            (Insn::LoadImm64 { dst, .. }, ExternKind::KsymVar | ExternKind::KsymFunc) => {
                Ok(Resolved::Insn(Insn::LoadImm64 { dst, value: Imm64::Const(0) }))
            }
            (Insn::CallSubprog { .. } | Insn::CallKfunc { .. }, ExternKind::KsymFunc) => {
                let helper = ABSENT_KFUNC.saturating_add(u32::try_from(index).unwrap_or(u32::MAX));
                Ok(Resolved::Insn(Insn::Call { helper }))
            }
            _ => Err(absent),
        }
    }

    fn describe(&self, target: &Target) -> String {
        let object = self.linker.object;
        match target {
            Target::Code { section, offset } => {
                format!("{}+{offset:#x}", object.functions().sections[*section].name)
            }
            Target::Maps { offset } => format!(".maps+{offset:#x}"),
            Target::Data { map, offset } => format!("{}+{offset:#x}", object.maps()[*map].name),
            Target::Extern(index) => object.externs()[*index].name.clone(),
            Target::Unusable(what) => what.clone(),
        }
    }
}
