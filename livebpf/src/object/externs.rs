//! Externs: what an object wants from the kernel's configuration (`.kconfig`) and symbols (`.ksyms`).
//!
//! There is no kernel here, but for some of its functions ([`KFUNCS`]). Other weak ones are absent, as libbpf says it of a
//! kernel without them; a program that uses another is refused when it is linked, by name.

use std::collections::HashMap;

use super::btf::{Btf, Type, TypeId};
use super::elf::{Elf, Place};
use super::error::ObjectError;

/// One undefined symbol.
#[derive(Clone, Debug)]
pub(crate) struct Extern {
    pub(crate) name: String,
    pub(crate) weak: bool,
    pub(crate) kind: ExternKind,
}

/// What BTF says about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ExternKind {
    /// A configuration option: bytes.
    Kconfig {
        /// Bytes of the variable.
        size: u32,
    },
    /// A kernel variable.
    KsymVar,
    /// A kernel function.
    KsymFunc,
    /// Nothing: a function or variable of another object.
    Unknown,
}

/// The kernel functions there are here, by name.
pub const KFUNCS: [&str; 12] = [
    "bpf_iter_num_new",
    "bpf_iter_num_next",
    "bpf_iter_num_destroy",
    "bpf_dynptr_adjust",
    "bpf_dynptr_is_null",
    "bpf_dynptr_is_rdonly",
    "bpf_dynptr_size",
    "bpf_dynptr_clone",
    "bpf_dynptr_slice",
    "bpf_dynptr_slice_rdwr",
    "bpf_dynptr_from_skb",
    "bpf_dynptr_from_xdp",
];

/// What `LINUX_KERNEL_VERSION` says: 6.12, the kernel whose behaviour is imitated here.
pub const KERNEL_VERSION: u32 = 6 << 16 | 12 << 8;

impl Extern {
    /// Whether it is a kernel function that there is here.
    pub(crate) fn is_provided(&self) -> bool {
        self.kind == ExternKind::KsymFunc && KFUNCS.contains(&self.name.as_str())
    }
    /// The value of a configuration option that can be read here; `None` for everything else.
    pub(crate) fn option(&self) -> Option<u64> {
        match self.kind {
            ExternKind::Kconfig { .. } if self.name == "LINUX_KERNEL_VERSION" => Some(KERNEL_VERSION.into()),
            ExternKind::Kconfig { .. } if self.weak => Some(0),
            ExternKind::Kconfig { .. } | ExternKind::KsymVar | ExternKind::KsymFunc | ExternKind::Unknown => None,
        }
    }
}

impl ExternKind {
    /// For messages.
    pub(crate) fn describe(self) -> &'static str {
        match self {
            ExternKind::Kconfig { .. } => "kernel configuration option",
            ExternKind::KsymVar => "kernel variable",
            ExternKind::KsymFunc => "kernel function",
            ExternKind::Unknown => "undefined symbol",
        }
    }
}

/// All externs, and the index of each by symbol number.
#[derive(Default)]
pub(crate) struct Externs {
    pub(crate) all: Vec<Extern>,
    pub(crate) by_symbol: HashMap<usize, usize>,
}

/// Reads the undefined symbols.
pub(crate) fn read(elf: &Elf<'_>, btf: Option<&Btf>) -> Result<Externs, ObjectError> {
    let kinds = match btf {
        Some(btf) => kinds(btf)?,
        None => HashMap::new(),
    };
    let mut out = Externs::default();
    for (index, symbol) in elf.symbols.iter().enumerate() {
        if symbol.place != Place::Undefined || symbol.name.is_empty() {
            continue;
        }
        let kind = kinds.get(&symbol.name).copied().unwrap_or(ExternKind::Unknown);
        out.by_symbol.insert(index, out.all.len());
        out.all.push(Extern { name: symbol.name.clone(), weak: symbol.is_weak(), kind });
    }
    Ok(out)
}

/// The variables and functions that BTF lists in `.kconfig` and `.ksyms`.
fn kinds(btf: &Btf) -> Result<HashMap<String, ExternKind>, ObjectError> {
    let mut out = HashMap::new();
    for (_, ty) in btf.iter() {
        let Type::DataSec { name, vars, .. } = ty else { continue };
        let kconfig = match btf.name(*name)?.as_ref() {
            ".kconfig" => true,
            ".ksyms" => false,
            _ => continue,
        };
        for var in vars {
            let kind = kind(btf, var.target, kconfig)?;
            out.insert(btf.type_name(var.target)?.into_owned(), kind);
        }
    }
    Ok(out)
}

fn kind(btf: &Btf, var: TypeId, kconfig: bool) -> Result<ExternKind, ObjectError> {
    match btf.get(var)? {
        Type::Func { .. } => Ok(ExternKind::KsymFunc),
        Type::Var { target, .. } if kconfig => Ok(ExternKind::Kconfig { size: btf.size_of(*target)? }),
        Type::Var { .. } => Ok(ExternKind::KsymVar),
        other => {
            let section = if kconfig { ".kconfig" } else { ".ksyms" };
            let found = format!("a {} in BTF (type {})", other.kind_name(), var.0);
            Err(ObjectError::section(section, found, "variables and functions"))
        }
    }
}
