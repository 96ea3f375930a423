//! The functions of one program in one instruction array: entry first, subprograms as they are reached.

use std::collections::HashMap;
use std::sync::Arc;

use super::info::Info;
use super::resolve::{self, Resolved};
use super::{LineInfo, LinkError, MAX_SLOTS, Subprogram};
use crate::insn::{Imm64, Insn, Insns, Pc};
use crate::object::{Function, MapDef, Object};

/// What the layout yields.
pub(super) struct Layout {
    pub(super) insns: Insns,
    pub(super) subprogs: Vec<Subprogram>,
    pub(super) maps: Vec<Arc<MapDef>>,
    pub(super) kfuncs: Vec<String>,
    pub(super) lines: Vec<LineInfo>,
}

/// What is known while a program is put together.
pub(super) struct Linker<'a> {
    pub(super) object: &'a Object,
    pub(super) entry: &'a Function,
    insns: Insns,
    /// Functions in order, and where each begins.
    placed: Vec<(usize, Pc)>,
    starts: HashMap<usize, Pc>,
    maps: Vec<Arc<MapDef>>,
    map_index: HashMap<usize, i32>,
    kfuncs: Vec<String>,
}

/// A function whose instructions are being resolved: everything before `next` is done.
struct Frame {
    function: usize,
    start: Pc,
    next: u32,
}

/// Lays out the program whose entry is function `entry` of the object.
pub(super) fn lay_out(object: &Object, entry: usize) -> Result<Layout, LinkError> {
    let mut linker = Linker {
        object,
        entry: &object.functions().all[entry],
        insns: Insns::default(),
        placed: Vec::new(),
        starts: HashMap::new(),
        maps: Vec::new(),
        map_index: HashMap::new(),
        kfuncs: Vec::new(),
    };
    linker.resolve_all(entry)?;
    linker.finish()
}

impl<'a> Linker<'a> {
    /// libbpf appends a subprogram when it meets the first call of it, and then resolves that subprogram before it
    /// goes on. An explicit stack, since call chains of hostile objects are as long as the object.
    fn resolve_all(&mut self, entry: usize) -> Result<(), LinkError> {
        let mut stack = vec![self.place(entry)?];
        while let Some(frame) = stack.last_mut() {
            let function = &self.object.functions().all[frame.function];
            if frame.next >= function.len {
                stack.pop();
                continue;
            }
            let (at, index) = (Pc(frame.next), frame.function);
            let pc = Pc(frame.start.0 + at.0);
            let Some(insn) = self.insns.get(pc) else {
                frame.next += 1;
                continue;
            };
            match resolve::resolve(self, index, at, insn)? {
                Resolved::Keep => {}
                Resolved::Insn(new) => self.insns.replace(pc, new),
                Resolved::Map(map, off) => self.bind_map(pc, insn, map, off),
                Resolved::Kfunc(name) => self.bind_kfunc(pc, name),
                Resolved::Function(target) => {
                    let Some(&start) = self.starts.get(&target) else {
                        // This instruction comes again when the subprogram has its place and is done.
                        let frame = self.place(target)?;
                        stack.push(frame);
                        continue;
                    };
                    // Both are below MAX_SLOTS.
                    let off = start.0 as i32 - pc.next().0 as i32;
                    let new = match insn {
                        Insn::LoadImm64 { dst, .. } => Insn::LoadImm64 { dst, value: Imm64::Func { off } },
                        _ => Insn::CallSubprog { off },
                    };
                    self.insns.replace(pc, new);
                }
            }
            if let Some(frame) = stack.last_mut() {
                frame.next += insn.slots();
            }
        }
        Ok(())
    }

    /// Appends function `index`.
    fn place(&mut self, index: usize) -> Result<Frame, LinkError> {
        let function = &self.object.functions().all[index];
        let section = &self.object.functions().sections[function.section];
        let total = u64::from(self.insns.len()) + u64::from(function.len);
        if total > MAX_SLOTS.into() {
            let program = self.entry.name.clone();
            return Err(LinkError::TooLong { program, found: total, wanted: MAX_SLOTS.into() });
        }
        let from = function.start as usize * 8;
        let code = section.code.get(from..from + function.len as usize * 8).unwrap_or(&[]);
        let insns = Insns::decode(code).map_err(|source| LinkError::Decode {
            program: self.entry.name.clone(),
            function: function.name.clone(),
            section: section.name.clone(),
            source,
        })?;
        let start = self.insns.append(&insns);
        self.placed.push((index, start));
        self.starts.insert(index, start);
        Ok(Frame { function: index, start, next: 0 })
    }

    /// Makes the load at `pc` refer to map `map` of the object: to the map itself, or to `off` bytes into its value.
    fn bind_map(&mut self, pc: Pc, insn: Insn, map: usize, off: Option<u32>) {
        let maps = &mut self.maps;
        let object = self.object;
        let idx = *self.map_index.entry(map).or_insert_with(|| {
            maps.push(object.maps()[map].clone());
            maps.len() as i32 - 1
        });
        let Insn::LoadImm64 { dst, .. } = insn else { return };
        let value = match off {
            None => Imm64::MapIdx(idx),
            Some(off) => Imm64::MapIdxValue { idx, off },
        };
        self.insns.replace(pc, Insn::LoadImm64 { dst, value });
    }

    /// Makes the call at `pc` one of this kernel function.
    fn bind_kfunc(&mut self, pc: Pc, name: String) {
        let known = self.kfuncs.iter().position(|k| *k == name);
        let index = known.unwrap_or_else(|| {
            self.kfuncs.push(name);
            self.kfuncs.len() - 1
        });
        self.insns.replace(pc, Insn::CallKfunc { btf_id: index as i32 + 1, off: 0 });
    }

    fn finish(self) -> Result<Layout, LinkError> {
        let mut info = Info::new(self.object, &self.entry.name);
        let mut subprogs = Vec::with_capacity(self.placed.len());
        let mut lines = Vec::new();
        for &(index, start) in &self.placed {
            let function = &self.object.functions().all[index];
            let end = Pc(start.0 + function.len);
            let (global, signature) = info.signature(function)?;
            info.lines(function, start, &mut lines)?;
            subprogs.push(Subprogram { name: function.name.clone(), start, end, global, signature });
        }
        Ok(Layout { insns: self.insns, subprogs, maps: self.maps, kfuncs: self.kfuncs, lines })
    }
}
