//! One linked program: everything that verification and compilation need, and nothing of ELF.

use std::sync::Arc;

use crate::insn::{Imm64, Insn, Insns, Pc};
use crate::object::{MapDef, ProgramKind};

/// A map of one program: an index into [`Program::maps`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct MapId(pub u32);

impl MapId {
    /// Set in the number of a map that is known by its template only: what a map of maps holds.
    const TEMPLATE: u32 = 1 << 31;

    const fn index(self) -> usize {
        (self.0 & !Self::TEMPLATE) as usize
    }
    /// Any map inside this map of maps.
    pub const fn template(self) -> MapId {
        MapId(self.0 | Self::TEMPLATE)
    }
    /// Whether it is a map of maps' inner map.
    pub const fn is_template(self) -> bool {
        self.0 & Self::TEMPLATE != 0
    }
}

/// A function of one program: an index into [`Program::subprogs`]; 0 is the main function.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct SubprogId(pub u32);

/// A linked program: the main function first, then every subprogram it can reach.
///
/// In `insns` a map is `Imm64::MapIdx(i)` or `Imm64::MapIdxValue { idx: i, off }` with `i` an index into `maps`;
/// calls of subprograms are relative within `insns`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// Function name of the entry, for instance `classifier_0`.
    pub name: String,
    /// ELF section it came from.
    pub section: String,
    /// Program type and attach type.
    pub kind: ProgramKind,
    /// Licence string of the object; empty where it has none.
    pub license: String,
    /// All instructions.
    pub insns: Insns,
    /// The functions, in order of `start`, without gaps; the first is the entry.
    pub subprogs: Vec<Subprogram>,
    /// The maps it refers to, each once.
    pub maps: Vec<Arc<MapDef>>,
    /// Names of the kernel functions it calls: `Insn::CallKfunc` has the number, from 1, in `btf_id`.
    pub kfuncs: Vec<String>,
    /// Source lines by position, ascending; empty without BTF.ext.
    pub lines: Vec<LineInfo>,
}

/// One function of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subprogram {
    /// Symbol name.
    pub name: String,
    /// First slot.
    pub start: Pc,
    /// One past the last slot.
    pub end: Pc,
    /// Global linkage in BTF: verified on its own.
    pub global: bool,
    /// Signature from BTF's func_info; `None` without BTF.
    pub signature: Option<FuncSig>,
}

/// A function's signature, as far as verification needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FuncSig {
    /// Return type.
    pub ret: TypeKind,
    /// Parameters: name and type, in order.
    pub params: Vec<(String, TypeKind)>,
    /// Declaration tags (`arg:ctx`, `arg:nonnull`): (parameter index, tag).
    pub tags: Vec<(u32, String)>,
}

/// A BTF type with modifiers and typedefs removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TypeKind {
    /// `void`
    Void,
    /// An integer or `bool`: bytes, signed.
    Int {
        /// Bytes.
        size: u32,
        /// Signed.
        signed: bool,
    },
    /// An enum: bytes.
    Enum {
        /// Bytes.
        size: u32,
    },
    /// A pointer to the given type.
    Ptr(Box<TypeKind>),
    /// A struct or union: name (may be empty) and bytes.
    Struct {
        /// Tag.
        name: String,
        /// Bytes.
        size: u32,
    },
    /// Anything else (arrays, floats, functions, forward declarations): BTF kind name, for a forward declaration with the
    /// tag behind it, and bytes where it has a size.
    Other {
        /// For instance `array`.
        kind: String,
        /// Bytes, 0 where unknown.
        size: u32,
    },
}

/// One line record: it holds from `pc` to the next record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineInfo {
    /// First slot it covers.
    pub pc: Pc,
    /// Source file.
    pub file: Arc<str>,
    /// Line, from 1.
    pub line: u32,
    /// Column, from 1; 0 unknown.
    pub column: u32,
    /// The source line's text.
    pub text: Arc<str>,
}

impl Program {
    /// Whether the kernel takes its licence for one that is compatible with the GPL (`license_is_gpl_compatible`).
    pub fn gpl_compatible(&self) -> bool {
        let known = ["GPL", "GPL v2", "GPL and additional rights", "Dual BSD/GPL", "Dual MIT/GPL", "Dual MPL/GPL"];
        known.contains(&self.license.as_str())
    }
    /// The line record that covers `pc`.
    pub fn line_at(&self, pc: Pc) -> Option<&LineInfo> {
        let n = self.lines.partition_point(|l| l.pc <= pc);
        n.checked_sub(1).map(|i| &self.lines[i])
    }
    /// The function that contains `pc`.
    pub fn subprog_at(&self, pc: Pc) -> Option<SubprogId> {
        let n = self.subprogs.partition_point(|s| s.start <= pc);
        n.checked_sub(1).filter(|&i| pc < self.subprogs[i].end).map(|i| SubprogId(i as u32))
    }
    /// The function that begins at `pc`.
    pub fn subprog_starting_at(&self, pc: Pc) -> Option<SubprogId> {
        self.subprogs.binary_search_by_key(&pc, |s| s.start).ok().map(|i| SubprogId(i as u32))
    }
    /// A map's definition; for an inner map its template.
    ///
    /// # Panics
    /// When `id` is not of this program.
    pub fn map(&self, id: MapId) -> &MapDef {
        let def = &self.maps[id.index()];
        if id.is_template() { def.inner.as_deref().unwrap_or(def) } else { def }
    }
    /// [`map`](Self::map); `None` when `id` is not of this program, or an inner map that has no template.
    pub fn find_map(&self, id: MapId) -> Option<&MapDef> {
        let def = self.maps.get(id.index())?;
        if id.is_template() { def.inner.as_deref() } else { Some(def) }
    }
    /// The name of the kernel function that calls know by `number`.
    pub fn kfunc(&self, number: i32) -> Option<&str> {
        let index = usize::try_from(number).ok()?.checked_sub(1)?;
        self.kfuncs.get(index).map(String::as_str)
    }
    /// A program of a single function, without maps, names or lines: for tests and tools.
    pub fn bare(name: &str, kind: ProgramKind, insns: Insns) -> Program {
        let end = Pc(insns.len());
        let main = Subprogram { name: name.to_owned(), start: Pc(0), end, global: true, signature: None };
        Program {
            name: name.to_owned(),
            section: String::new(),
            kind,
            license: "Dual MIT/GPL".to_owned(),
            insns,
            subprogs: vec![main],
            maps: Vec::new(),
            kfuncs: Vec::new(),
            lines: Vec::new(),
        }
    }
    /// A program from instructions alone: like [`bare`](Self::bare), but a function begins wherever a call or the address of a
    /// function leads, named `NAME_1` and so on. A target outside of the program begins none, and is refused later.
    pub fn from_insns(name: &str, kind: ProgramKind, insns: Insns) -> Program {
        let mut starts = vec![Pc(0)];
        for (pc, insn) in insns.iter() {
            if let Insn::CallSubprog { off } | Insn::LoadImm64 { value: Imm64::Func { off }, .. } = insn {
                starts.extend(pc.jump(off).filter(|to| insns.get(*to).is_some()));
            }
        }
        starts.sort();
        starts.dedup();
        let mut program = Program::bare(name, kind, insns);
        let main = program.subprogs.swap_remove(0);
        for (i, start) in starts.iter().enumerate() {
            let name = if i == 0 { name.to_owned() } else { format!("{name}_{i}") };
            let end = starts.get(i + 1).copied().unwrap_or(main.end);
            program.subprogs.push(Subprogram { name, start: *start, end, global: i == 0, signature: None });
        }
        program
    }
}
