//! Object → [`Program`]: one instruction array, calls resolved by (section, offset), maps bound.
//!
//! [`link`] collects the entry function and every subprogram it can reach, through calls and through addresses that
//! are taken, in the order in which libbpf appends them; so positions are those that the kernel sees. A linked
//! program refers to its own maps and functions only.

mod core;
mod error;
mod info;
mod layout;
pub mod program;
mod resolve;

use crate::object::{Object, ProgType};
pub use error::LinkError;
pub use program::{FuncSig, LineInfo, MapId, Program, SubprogId, Subprogram, TypeKind};

/// Slots of one program (the kernel's limit for privileged users).
pub const MAX_SLOTS: u32 = 1_000_000;
/// Slots after which [`Object::link_all`] links no further program: copies of shared subprograms may not grow without
/// bound.
pub const MAX_SLOTS_ALL: u64 = 4_000_000;

/// Links the entry program called `program`.
pub fn link(object: &Object, program: &str) -> Result<Program, LinkError> {
    let found = object.program_functions().find(|f| object.functions().all[*f].name == program);
    let Some(entry) = found else {
        let have: Vec<String> = object.programs().map(|p| p.name).take(32).collect();
        let have = if have.is_empty() { "(none)".to_owned() } else { have.join(", ") };
        return Err(LinkError::NoProgram { program: program.to_owned(), have });
    };
    link_function(object, entry)
}

impl Object {
    /// Links every entry program; name and result of each, in the order of [`Object::programs`].
    pub fn link_all(&self) -> Vec<(String, Result<Program, LinkError>)> {
        let mut total = 0u64;
        let mut out = Vec::new();
        for entry in self.program_functions() {
            let name = self.functions().all[entry].name.clone();
            // Checked before the work is done: a small file can describe much more code than this.
            let result = if total < MAX_SLOTS_ALL {
                link_function(self, entry)
            } else {
                Err(LinkError::TooLong { program: name.clone(), found: total, wanted: MAX_SLOTS_ALL })
            };
            total += result.as_ref().map_or(0, |p| u64::from(p.insns.len()));
            out.push((name, result));
        }
        out
    }
}

fn link_function(object: &Object, entry: usize) -> Result<Program, LinkError> {
    let function = &object.functions().all[entry];
    let section = &object.functions().sections[function.section];
    let refuse =
        |wanted: String| LinkError::Kind { program: function.name.clone(), section: section.name.clone(), wanted };
    let Some(kind) = section.meaning.kind else {
        return Err(refuse("a section name that libbpf knows, such as xdp or tc".to_owned()));
    };
    if let Some(why) = needs_kernel(kind.prog_type) {
        return Err(refuse(format!("a program type that runs without a kernel: {} {why}", kind.prog_type)));
    }
    let linked = layout::lay_out(object, entry)?;
    Ok(Program {
        name: function.name.clone(),
        section: section.name.clone(),
        kind,
        license: object.license().to_owned(),
        insns: linked.insns,
        subprogs: linked.subprogs,
        maps: linked.maps,
        kfuncs: linked.kfuncs,
        lines: linked.lines,
    })
}

/// Why programs of a type can never run here; `None` for the others.
fn needs_kernel(prog_type: ProgType) -> Option<&'static str> {
    match prog_type {
        ProgType::TRACING => Some("programs attach to kernel functions"),
        ProgType::EXT => Some("programs replace functions of programs that are loaded, which is not possible yet"),
        ProgType::LSM => Some("programs attach to kernel security hooks"),
        ProgType::STRUCT_OPS => Some("programs implement kernel interfaces"),
        _ => None,
    }
}
