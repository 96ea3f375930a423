//! Fields of map values that are more than bytes, by their BTF type: locks, timers, kernel pointers, list and tree nodes
//! (the kernel's `btf_parse_fields`).
//!
//! Locks can be used; the others exist only so that nothing reads or writes them.

use std::collections::HashMap;

use super::btf::{Btf, Type, TypeId};
use super::error::BtfError;
use super::map_def::{MapDef, MapType};

/// What a field is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[allow(missing_docs)]
pub enum SpecialKind {
    SpinLock,
    ResSpinLock,
    Timer,
    WorkQueue,
    /// A pointer to an object of the kernel (`__kptr` and its relatives).
    KernelPointer,
    ListHead,
    ListNode,
    TreeRoot,
    TreeNode,
    RefCount,
}

impl SpecialKind {
    /// The kernel's name of it.
    pub fn name(self) -> &'static str {
        match self {
            SpecialKind::SpinLock => "bpf_spin_lock",
            SpecialKind::ResSpinLock => "bpf_res_spin_lock",
            SpecialKind::Timer => "bpf_timer",
            SpecialKind::WorkQueue => "bpf_wq",
            SpecialKind::KernelPointer => "kptr",
            SpecialKind::ListHead => "bpf_list_head",
            SpecialKind::ListNode => "bpf_list_node",
            SpecialKind::TreeRoot => "bpf_rb_root",
            SpecialKind::TreeNode => "bpf_rb_node",
            SpecialKind::RefCount => "bpf_refcount",
        }
    }
    fn of_struct(name: &str) -> Option<SpecialKind> {
        use SpecialKind::*;
        [SpinLock, ResSpinLock, Timer, WorkQueue, ListHead, ListNode, TreeRoot, TreeNode, RefCount]
            .into_iter()
            .find(|kind| kind.name() == name)
    }
}

/// One such field of a map's value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SpecialField {
    /// What it is.
    pub kind: SpecialKind,
    /// Bytes from the start of the value.
    pub offset: u32,
    /// Bytes.
    pub size: u32,
}

/// Fields that one value has at most, and types that are looked at to find them.
const MAX_FIELDS: usize = 64;
const MAX_VISITS: usize = 4096;

/// The special fields of a value of type `id`, by offset.
pub(crate) fn fields(btf: &Btf, id: TypeId) -> Result<Vec<SpecialField>, BtfError> {
    let (mut out, mut visits) = (Vec::new(), 0);
    let mut open = vec![(id, 0u32)];
    while let Some((id, offset)) = open.pop() {
        visits += 1;
        if visits > MAX_VISITS || out.len() == MAX_FIELDS {
            break;
        }
        let (id, ty) = btf.resolve(id)?;
        match ty {
            Type::Struct { name, size, members, .. } => {
                if let Some(kind) = SpecialKind::of_struct(&btf.name(*name)?) {
                    out.push(SpecialField { kind, offset, size: *size });
                    continue;
                }
                let inside = members.iter().filter(|m| m.bit_size == 0);
                open.extend(inside.map(|m| (m.target, offset.saturating_add(m.bit_offset / 8))));
            }
            Type::Array { elem, len } if *len > 0 => {
                let size = btf.size_of(*elem)?;
                let left = (MAX_VISITS - visits) as u32;
                open.extend((0..(*len).min(left)).map(|i| (*elem, offset.saturating_add(i.saturating_mul(size)))));
            }
            Type::Ptr { target } if is_kernel_pointer(btf, *target)? => {
                out.push(SpecialField { kind: SpecialKind::KernelPointer, offset, size: btf.size_of(id)? });
            }
            _ => {}
        }
    }
    out.sort_by_key(|field| field.offset);
    Ok(out)
}

fn is_kernel_pointer(btf: &Btf, target: TypeId) -> Result<bool, BtfError> {
    let Type::TypeTag { name, .. } = btf.get(target)? else { return Ok(false) };
    Ok(["kptr", "kptr_untrusted", "percpu_kptr", "uptr"].contains(&btf.name(*name)?.as_ref()))
}

/// Finds the special fields among the variables of global data.
pub(crate) fn of_data(btf: &Btf, def: &mut MapDef) -> Result<(), BtfError> {
    let mut types = HashMap::new();
    for (_, ty) in btf.iter() {
        if let Type::Var { name, target, .. } = ty {
            types.insert(btf.name(*name)?, *target);
        }
    }
    let mut found = Vec::new();
    for symbol in &def.symbols {
        let Some(id) = types.get(symbol.name.as_str()) else { continue };
        let moved = |field: SpecialField| SpecialField { offset: symbol.offset + field.offset, ..field };
        found.extend(fields(btf, *id)?.into_iter().map(moved));
    }
    def.special = found;
    Ok(())
}

impl MapDef {
    /// Where the lock of each value is, in maps that can have one.
    pub fn lock(&self) -> Option<u32> {
        let mut locks = self.special.iter().filter(|field| field.kind == SpecialKind::SpinLock);
        let (lock, further) = (locks.next()?, locks.next());
        let fits = lock.offset.checked_add(4).is_some_and(|end| end <= self.value_size);
        let usable = further.is_none() && fits && lock.offset.is_multiple_of(4);
        (usable && [MapType::HASH, MapType::ARRAY].contains(&self.map_type)).then_some(lock.offset)
    }
    /// The first field of this kind.
    pub fn special(&self, kind: SpecialKind) -> Option<&SpecialField> {
        self.special.iter().find(|field| field.kind == kind)
    }
}
