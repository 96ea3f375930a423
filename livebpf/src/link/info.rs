//! Signatures and source lines of linked functions, from BTF and BTF.ext.

use std::collections::HashMap;
use std::sync::Arc;

use super::{FuncSig, LineInfo, LinkError, TypeKind};
use crate::insn::Pc;
use crate::object::btf::{Btf, Linkage, StrOff, Type, TypeId};
use crate::object::{BtfError, Function, Object};

/// Functions with more parameters get no signature (the kernel's limit is 12; five fit in registers).
const MAX_PARAMS: usize = 12;
/// Longest source line and file name that is kept, in bytes.
const MAX_TEXT: usize = 256;
/// Pointers to pointers are followed this deep.
const MAX_POINTERS: usize = 8;

/// Reads what the compiler noted about functions.
pub(super) struct Info<'a> {
    object: &'a Object,
    program: &'a str,
    /// Strings are shared between records.
    texts: HashMap<StrOff, Arc<str>>,
    /// Declaration tags by function type.
    tags: Option<HashMap<TypeId, Vec<(u32, StrOff)>>>,
}

impl<'a> Info<'a> {
    pub(super) fn new(object: &'a Object, program: &'a str) -> Info<'a> {
        Info { object, program, texts: HashMap::new(), tags: None }
    }

    fn broken(&self, function: &Function, source: BtfError) -> LinkError {
        LinkError::Btf { program: self.program.to_owned(), function: function.name.clone(), source }
    }

    /// Whether the function is verified on its own, and its signature where BTF has one.
    pub(super) fn signature(&mut self, function: &Function) -> Result<(bool, Option<FuncSig>), LinkError> {
        let by_symbol = !function.local && !function.hidden;
        let section = &self.object.functions().sections[function.section].name;
        let (Some(btf), Some(id)) = (self.object.btf(), self.object.ext().func_at(section, function.start)) else {
            return Ok((by_symbol, None));
        };
        let error =
            |source| LinkError::Btf { program: self.program.to_owned(), function: function.name.clone(), source };
        let ty = btf.get(id).map_err(error)?;
        let Type::Func { proto, linkage, .. } = ty else {
            return Err(error(BtfError::Type {
                id: id.0,
                found: format!("a {}", ty.kind_name()),
                wanted: "a func, as func_info says",
            }));
        };
        let global = *linkage == Linkage::Global && !function.hidden;
        let signature = self.func_sig(btf, id, *proto).map_err(|e| self.broken(function, e))?;
        Ok((global, signature))
    }

    fn func_sig(&mut self, btf: &Btf, func: TypeId, proto: TypeId) -> Result<Option<FuncSig>, BtfError> {
        let ty = btf.get(proto)?;
        let Type::FuncProto { ret, params } = ty else {
            return Err(BtfError::Type {
                id: proto.0,
                found: format!("a {}", ty.kind_name()),
                wanted: "a func_proto, as its func says",
            });
        };
        if params.len() > MAX_PARAMS {
            return Ok(None);
        }
        let named = params.iter().map(|(name, ty)| Ok((btf.name(*name)?.into_owned(), type_kind(btf, *ty)?)));
        let params = named.collect::<Result<_, BtfError>>()?;
        let tags = self.tags.get_or_insert_with(|| all_tags(btf));
        let tags = tags.get(&func).map_or(&[][..], |t| t);
        let tags = tags.iter().map(|(param, name)| Ok((*param, btf.name(*name)?.into_owned())));
        Ok(Some(FuncSig { ret: type_kind(btf, *ret)?, params, tags: tags.collect::<Result<_, BtfError>>()? }))
    }

    /// Appends the function's line records; its first slot is now at `start`.
    pub(super) fn lines(&mut self, function: &Function, start: Pc, out: &mut Vec<LineInfo>) -> Result<(), LinkError> {
        let Some(btf) = self.object.btf() else { return Ok(()) };
        let section = &self.object.functions().sections[function.section].name;
        let records = self.object.ext().lines_in(section, function.start, function.start + function.len);
        for record in records {
            let file = self.text(btf, record.file).map_err(|e| self.broken(function, e))?;
            let text = self.text(btf, record.text).map_err(|e| self.broken(function, e))?;
            let pc = Pc(start.0 + (record.slot - function.start));
            out.push(LineInfo { pc, file, line: record.line, column: record.column, text });
        }
        Ok(())
    }

    fn text(&mut self, btf: &Btf, offset: StrOff) -> Result<Arc<str>, BtfError> {
        if let Some(text) = self.texts.get(&offset) {
            return Ok(text.clone());
        }
        let text: Arc<str> = btf.text(offset, MAX_TEXT)?.into();
        self.texts.insert(offset, text.clone());
        Ok(text)
    }
}

/// The declaration tags of parameters, by function.
fn all_tags(btf: &Btf) -> HashMap<TypeId, Vec<(u32, StrOff)>> {
    let mut out: HashMap<TypeId, Vec<(u32, StrOff)>> = HashMap::new();
    for (_, ty) in btf.iter() {
        if let Type::DeclTag { name, target, component: Some(param) } = ty {
            out.entry(*target).or_default().push((*param, *name));
        }
    }
    out
}

/// A type with modifiers and typedefs removed, as verification sees it.
fn type_kind(btf: &Btf, id: TypeId) -> Result<TypeKind, BtfError> {
    let mut at = id;
    let mut pointers = 0;
    let innermost = loop {
        let (_, ty) = btf.resolve(at)?;
        let Type::Ptr { target } = ty else { break plain_kind(btf, at, ty)? };
        if pointers == MAX_POINTERS {
            break TypeKind::Other { kind: "ptr".to_owned(), size: 8 };
        }
        at = *target;
        pointers += 1;
    };
    Ok((0..pointers).fold(innermost, |kind, _| TypeKind::Ptr(Box::new(kind))))
}

fn plain_kind(btf: &Btf, id: TypeId, ty: &Type) -> Result<TypeKind, BtfError> {
    Ok(match ty {
        Type::Void => TypeKind::Void,
        Type::Int { size, signed, .. } => TypeKind::Int { size: *size, signed: *signed },
        Type::Enum { size, .. } => TypeKind::Enum { size: *size },
        Type::Struct { name, size, .. } => TypeKind::Struct { name: btf.name(*name)?.into_owned(), size: *size },
        Type::Array { .. } => TypeKind::Other { kind: "array".to_owned(), size: btf.size_of(id)? },
        Type::Fwd { name, .. } => TypeKind::Other { kind: format!("{} {}", ty.kind_name(), btf.name(*name)?), size: 0 },
        Type::Float { size, .. } => TypeKind::Other { kind: "float".to_owned(), size: *size },
        other => TypeKind::Other { kind: other.kind_name().to_owned(), size: 0 },
    })
}
