//! CO-RE relocations: values that libbpf takes from the running kernel's types.
//!
//! clang leaves the values of the object's own types in the instructions. They are right as they stand for types whose
//! layout never changes (contexts and packet headers); for others the program is refused.

use super::LinkError;
use crate::insn::Pc;
use crate::object::btf::{Btf, Type};
use crate::object::{BtfError, CoreRecord, Function, Object};

/// Types with one layout everywhere: name and bytes. The size tells a full definition from a partial one.
const STABLE: &[(&str, u32)] = &[
    ("__sk_buff", 192),
    ("bpf_sock", 80),
    ("bpf_sock_tuple", 36),
    ("xdp_md", 24),
    ("arphdr", 8),
    ("ethhdr", 14),
    ("icmp6hdr", 8),
    ("icmphdr", 8),
    ("in6_addr", 16),
    ("in_addr", 4),
    ("iphdr", 20),
    ("ipv6hdr", 40),
    ("tcphdr", 20),
    ("udphdr", 8),
    ("vlan_hdr", 4),
];

/// `enum bpf_core_relo_kind`, in words.
const KINDS: [&str; 13] = [
    "byte offset of a field",
    "size of a field",
    "existence of a field",
    "sign of a field",
    "left shift of a bit field",
    "right shift of a bit field",
    "local type id",
    "target type id",
    "existence",
    "size",
    "existence of an enumerator",
    "value of an enumerator",
    "match",
];
const TYPE_ID_LOCAL: u32 = 6;
const TYPE_ID_TARGET: u32 = 7;

/// Refuses the instruction at slot `at` of `function` when it needs a kernel's types.
pub(super) fn check(object: &Object, program: &str, function: &Function, at: Pc) -> Result<(), LinkError> {
    let section = &object.functions().sections[function.section].name;
    let slot = function.start + at.0;
    let records = object.ext().core_in(section, slot, slot + 1);
    let (Some(btf), false) = (object.btf(), records.is_empty()) else { return Ok(()) };
    for record in records {
        let broken = |source| LinkError::Btf { program: program.to_owned(), function: function.name.clone(), source };
        if is_stable(btf, record).map_err(broken)? {
            continue;
        }
        return Err(LinkError::Core {
            program: program.to_owned(),
            function: function.name.clone(),
            pc: at,
            relocation: KINDS.get(record.kind as usize).copied().unwrap_or("an unknown kind"),
            root: root_name(btf, record).map_err(broken)?,
            access: btf.name(record.access).map_err(broken)?.into_owned(),
        });
    }
    Ok(())
}

/// Whether the value that clang left is right everywhere.
fn is_stable(btf: &Btf, record: &CoreRecord) -> Result<bool, BtfError> {
    if record.kind == TYPE_ID_LOCAL {
        return Ok(true);
    }
    if record.kind == TYPE_ID_TARGET || record.kind as usize >= KINDS.len() {
        return Ok(false);
    }
    let Type::Struct { name, size, union: false, .. } = btf.resolve(record.root)?.1 else { return Ok(false) };
    let name = btf.name(*name)?;
    Ok(STABLE.iter().any(|(n, s)| *n == name && s == size))
}

fn root_name(btf: &Btf, record: &CoreRecord) -> Result<String, BtfError> {
    let (id, ty) = btf.resolve(record.root)?;
    Ok(format!("{} {}", ty.kind_name(), btf.type_name(id)?))
}
