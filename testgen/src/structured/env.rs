//! What is fixed before the functions are written: the maps, the context, the subprograms' signatures.

use std::sync::Arc;

use livebpf::context::{ContextDesc, Field, FieldKind, TypeDesc, describe_kind};
use livebpf::link::{FuncSig, TypeKind};
use livebpf::object::{DataSymbol, MapDef, MapInit, MapType};

use super::Shape;
use crate::Source;

/// What a subprogram takes after the context.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Param {
    /// Any number.
    Scalar,
    /// A pointer to so many initialised bytes of the caller's stack.
    Buffer(u32),
}

/// A subprogram's parameters after R1, which is the context.
#[derive(Clone, Debug)]
pub(super) struct Signature {
    pub params: Vec<Param>,
    /// Packet pointers are stale after a call.
    pub changes_packet: bool,
}

impl Signature {
    pub(super) fn choose(source: &mut Source<'_>) -> Signature {
        let count = source.below(4);
        let param = |source: &mut Source<'_>| match source.below(4) {
            3 => Param::Buffer(8),
            _ => Param::Scalar,
        };
        Signature { params: (0..count).map(|_| param(source)).collect(), changes_packet: false }
    }
}

/// What all functions of a program share.
pub(super) struct Env {
    pub maps: Vec<Arc<MapDef>>,
    pub desc: Option<&'static TypeDesc>,
    pub subprograms: Vec<Signature>,
}

impl Env {
    pub(super) fn new(shape: &Shape, maps: &[Arc<MapDef>]) -> Env {
        Env { maps: maps.to_vec(), desc: describe_kind(&shape.kind), subprograms: Vec::new() }
    }
    pub(super) fn context(&self) -> Option<&'static ContextDesc> {
        self.desc.map(|desc| desc.context)
    }
    /// Offset of the context field that holds a packet pointer.
    pub(super) fn pointer_field(&self, kind: FieldKind) -> Option<i32> {
        let field = self.context()?.fields.iter().find(|field| field.kind == kind)?;
        Some(field.offset as i32)
    }
    /// Context fields that hold numbers.
    pub(super) fn scalar_fields(&self) -> Vec<&'static Field> {
        let fields = self.context().map_or(&[][..], |context| context.fields);
        fields.iter().filter(|field| field.kind == FieldKind::Scalar).collect()
    }
    pub(super) fn has_helper(&self, id: u32) -> bool {
        self.desc.is_some_and(|desc| desc.helpers.contains(id))
    }
    /// The signature that BTF would give function `index`; verifiers want one where a subprogram tail-calls.
    pub(super) fn btf_signature(&self, index: usize) -> FuncSig {
        let context = self.context().map_or((String::new(), 0), |context| (context.name.to_owned(), context.size));
        let pointer = TypeKind::Ptr(Box::new(TypeKind::Struct { name: context.0, size: context.1 }));
        let mut params = vec![("ctx".to_owned(), pointer)];
        if let Some(signature) = index.checked_sub(1).and_then(|i| self.subprograms.get(i)) {
            for (i, param) in signature.params.iter().enumerate() {
                let number = |size| TypeKind::Int { size, signed: false };
                let kind = match *param {
                    Param::Scalar => number(8),
                    Param::Buffer(size) => TypeKind::Ptr(Box::new(number(size))),
                };
                params.push((format!("arg{i}"), kind));
            }
        }
        FuncSig { ret: TypeKind::Int { size: 4, signed: true }, params, tags: Vec::new() }
    }
    /// Maps of the given types.
    pub(super) fn maps_of(&self, types: &[MapType]) -> Vec<usize> {
        (0..self.maps.len()).filter(|&i| types.contains(&self.maps[i].map_type)).collect()
    }
    /// Global data.
    pub(super) fn data_maps(&self) -> Vec<usize> {
        (0..self.maps.len()).filter(|&i| self.maps[i].section.is_some()).collect()
    }
}

/// The maps of a suite.
pub(super) fn maps(source: &mut Source<'_>, shape: &Shape) -> Vec<Arc<MapDef>> {
    let mut maps = Vec::new();
    if shape.maps {
        let size = source.pick(&[8, 4, 16, 24, 64, 12]);
        maps.push(MapDef::new("array", MapType::ARRAY, 4, size, source.pick(&[4, 1, 2, 7])));
        let size = source.pick(&[8, 4, 16, 32]);
        maps.push(MapDef::new("percpu", MapType::PERCPU_ARRAY, 4, size, source.pick(&[2, 1, 8])));
        let size = source.pick(&[8, 4, 16, 20]);
        maps.push(MapDef::new("hash", MapType::HASH, source.pick(&[4, 8]), size, source.pick(&[8, 2, 64])));
        maps.push(data_section(source));
    }
    if shape.tail_calls {
        let entries = source.pick(&[4, 1, 8]);
        let mut array = MapDef::new("jmp_table", MapType::PROG_ARRAY, 4, 4, entries);
        let filled = (0..entries).filter(|_| source.chance(2, 3)).collect::<Vec<_>>();
        let held = |index| (index, format!("prog_{}", source.below(shape.programs.max(1))));
        array.init = MapInit::Programs(filled.into_iter().map(held).collect());
        maps.push(array);
    }
    maps.into_iter().map(Arc::new).collect()
}

fn data_section(source: &mut Source<'_>) -> MapDef {
    let size = source.pick(&[16, 4, 40]);
    let mut map = MapDef::new(".data", MapType::ARRAY, 4, size, 1);
    map.section = Some(".data".to_owned());
    map.init = MapInit::Data((0..size).map(|_| source.below(256) as u8).collect());
    map.symbols = vec![DataSymbol { name: "data".to_owned(), offset: 0, size }];
    map
}
