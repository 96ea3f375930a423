//! The kinds of BTF types as values. Names are offsets into the string section.

/// A type's number; 0 is `void`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct TypeId(pub u32);

/// A string's offset in BTF's string section.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct StrOff(pub u32);

/// One type.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Type {
    Void,
    Int {
        name: StrOff,
        size: u32,
        signed: bool,
    },
    Ptr {
        target: TypeId,
    },
    Array {
        elem: TypeId,
        len: u32,
    },
    Struct {
        name: StrOff,
        size: u32,
        union: bool,
        members: Vec<Member>,
    },
    Enum {
        name: StrOff,
        size: u32,
        signed: bool,
        values: Vec<(StrOff, u64)>,
    },
    Fwd {
        name: StrOff,
        union: bool,
    },
    Typedef {
        name: StrOff,
        target: TypeId,
    },
    /// `volatile`, `const` and `restrict`.
    Modifier {
        kind: &'static str,
        target: TypeId,
    },
    Func {
        name: StrOff,
        proto: TypeId,
        linkage: Linkage,
    },
    FuncProto {
        ret: TypeId,
        params: Vec<(StrOff, TypeId)>,
    },
    Var {
        name: StrOff,
        target: TypeId,
        linkage: Linkage,
    },
    DataSec {
        name: StrOff,
        size: u32,
        vars: Vec<SecVar>,
    },
    Float {
        name: StrOff,
        size: u32,
    },
    /// An attribute of `target`, or of its parameter or member numbered `component`.
    DeclTag {
        name: StrOff,
        target: TypeId,
        component: Option<u32>,
    },
    TypeTag {
        name: StrOff,
        target: TypeId,
    },
}

/// A member of a struct or union.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// Name; empty for anonymous ones.
    pub name: StrOff,
    /// Its type.
    pub target: TypeId,
    /// Where it begins, in bits.
    pub bit_offset: u32,
    /// Width of a bit field, 0 for others.
    pub bit_size: u32,
}

/// A variable of a data section. clang leaves offsets to the ELF symbols, so only the type counts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SecVar {
    /// A `Var`, or a `Func` in `.ksyms`.
    pub target: TypeId,
    /// Bytes.
    pub size: u32,
}

/// Linkage of functions and variables.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[allow(missing_docs)]
pub enum Linkage {
    Static,
    Global,
    Extern,
}

impl Type {
    /// BTF's name of the kind, for messages.
    pub fn kind_name(&self) -> &'static str {
        match self {
            Type::Void => "void",
            Type::Int { .. } => "int",
            Type::Ptr { .. } => "ptr",
            Type::Array { .. } => "array",
            Type::Struct { union: false, .. } => "struct",
            Type::Struct { union: true, .. } => "union",
            Type::Enum { .. } => "enum",
            Type::Fwd { .. } => "fwd",
            Type::Typedef { .. } => "typedef",
            Type::Modifier { kind, .. } => kind,
            Type::Func { .. } => "func",
            Type::FuncProto { .. } => "func_proto",
            Type::Var { .. } => "var",
            Type::DataSec { .. } => "datasec",
            Type::Float { .. } => "float",
            Type::DeclTag { .. } => "decl_tag",
            Type::TypeTag { .. } => "type_tag",
        }
    }

    /// The name, where the kind has one.
    pub fn name(&self) -> Option<StrOff> {
        match self {
            Type::Int { name, .. }
            | Type::Struct { name, .. }
            | Type::Enum { name, .. }
            | Type::Fwd { name, .. }
            | Type::Typedef { name, .. }
            | Type::Func { name, .. }
            | Type::Var { name, .. }
            | Type::DataSec { name, .. }
            | Type::Float { name, .. }
            | Type::DeclTag { name, .. }
            | Type::TypeTag { name, .. } => Some(*name),
            Type::Void | Type::Ptr { .. } | Type::Array { .. } | Type::Modifier { .. } | Type::FuncProto { .. } => None,
        }
    }
}
