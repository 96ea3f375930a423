//! BTF-defined maps: the `.maps` section (libbpf: parse_btf_map_def), static initialisers included.

use std::collections::{BTreeMap, HashMap};

use super::btf::{Btf, Linkage, Type, TypeId};
use super::elf::{Elf, Place};
use super::error::ObjectError;
use super::function::Functions;
use super::map_def::{MapDef, MapInit, MapType};
use super::special;

/// The maps of `.maps` and where they are in that section.
#[derive(Default)]
pub(crate) struct BtfMaps {
    pub(crate) defs: Vec<MapDef>,
    /// By first byte of the variable.
    places: BTreeMap<u64, MapPlace>,
}

#[derive(Clone, Copy)]
struct MapPlace {
    map: usize,
    /// One past the last byte.
    end: u64,
    /// Where its `values` begin.
    values: Option<u64>,
}

impl BtfMaps {
    /// The map whose variable begins at `offset`.
    pub(crate) fn at(&self, offset: u64) -> Option<usize> {
        self.places.get(&offset).map(|p| p.map)
    }
    /// First byte and index of every map.
    pub(crate) fn offsets(&self) -> impl Iterator<Item = (u64, usize)> {
        self.places.iter().map(|(offset, place)| (*offset, place.map))
    }
    fn containing(&self, offset: u64) -> Option<MapPlace> {
        let (_, place) = self.places.range(..=offset).next_back()?;
        offset.checked_add(8).filter(|end| *end <= place.end).map(|_| *place)
    }
}

/// A map definition has no more fields than libbpf knows names, 11.
const MAX_FIELDS: usize = 32;

/// Reads all map definitions of the object.
pub(crate) fn read(elf: &Elf<'_>, btf: Option<&Btf>) -> Result<BtfMaps, ObjectError> {
    if elf.section("maps").is_some() {
        let wanted = "BTF-defined maps in section .maps";
        return Err(ObjectError::section("maps", "legacy struct bpf_map_def definitions", wanted));
    }
    let Some((index, section)) = elf.section(".maps") else { return Ok(BtfMaps::default()) };
    let Some(btf) = btf else {
        return Err(ObjectError::section(".maps", "no section .BTF", "type information (clang -g)"));
    };
    let in_section = elf.symbols.iter().filter(|s| s.place == Place::Section(index));
    let symbols: HashMap<&str, (u64, u64)> = in_section.map(|s| (s.name.as_str(), (s.value, s.size))).collect();
    let mut out = BtfMaps::default();
    for (name, var) in variables(btf)? {
        let Type::Var { target, linkage, .. } = btf.get(var)? else {
            return Err(ObjectError::section(".maps", format!("a {} in BTF", btf.get(var)?.kind_name()), "variables"));
        };
        if *linkage == Linkage::Extern {
            return Err(ObjectError::map(&name, "linkage", "extern", "a definition in this object"));
        }
        let Some(&(start, size)) = symbols.get(name.as_str()) else {
            return Err(ObjectError::map(&name, "symbol", "none in section .maps", "one"));
        };
        // The type does not count the elements of `values`; the symbol does.
        let size = size.max(btf.size_of(*target)?.into());
        let Some(end) = start.checked_add(size).filter(|end| *end <= section.size) else {
            let found = format!("bytes {start} to {start}+{size} of {}", section.size);
            return Err(ObjectError::map(&name, "variable", found, "one inside section .maps"));
        };
        let (def, values) = Definition { btf, map: &name, inner: false }.read(*target)?;
        let place = MapPlace { map: out.defs.len(), end, values: values.map(|v| start.saturating_add(v)) };
        if out.places.insert(start, place).is_some() {
            return Err(ObjectError::map(&name, "variable", "a second map at its place", "one"));
        }
        out.defs.push(def);
    }
    Ok(out)
}

/// The variables that BTF lists in `.maps`, with their names.
fn variables(btf: &Btf) -> Result<Vec<(String, TypeId)>, ObjectError> {
    let mut out = Vec::new();
    for (_, ty) in btf.iter() {
        let Type::DataSec { name, vars, .. } = ty else { continue };
        if btf.name(*name)? != ".maps" {
            continue;
        }
        for var in vars {
            out.push((btf.type_name(var.target)?.into_owned(), var.target));
        }
    }
    Ok(out)
}

struct Definition<'a> {
    btf: &'a Btf,
    map: &'a str,
    inner: bool,
}

impl Definition<'_> {
    fn error(&self, field: &str, found: impl Into<String>, wanted: impl Into<String>) -> ObjectError {
        ObjectError::map(self.map, &format!("field {field}"), found, wanted)
    }

    /// Reads the struct `id`; also says where in it `values` begins, in bytes.
    fn read(&self, id: TypeId) -> Result<(MapDef, Option<u64>), ObjectError> {
        let (_, ty) = self.btf.resolve(id)?;
        let Type::Struct { members, union: false, .. } = ty else {
            return Err(ObjectError::map(self.map, "type", format!("a {}", ty.kind_name()), "a struct"));
        };
        if members.len() > MAX_FIELDS {
            return Err(ObjectError::map(self.map, "type", format!("{} fields", members.len()), "at most 32"));
        }
        let mut def = MapDef::new(self.map, MapType(0), 0, 0, 0);
        let mut values = None;
        for (i, member) in members.iter().enumerate() {
            let field = self.btf.name(member.name)?;
            let target = member.target;
            match field.as_ref() {
                "type" => def.map_type = MapType(self.number(&field, target)?),
                "max_entries" => def.max_entries = self.number(&field, target)?,
                "map_flags" => def.map_flags = self.number(&field, target)?,
                // Memory is where the allocator puts it: a hint for machines with several nodes.
                "numa_node" => _ = self.number(&field, target)?,
                "map_extra" => def.map_extra = self.long(&field, target)?,
                "key_size" => self.set_size(&field, &mut def.key_size, self.number(&field, target)?)?,
                "value_size" => self.set_size(&field, &mut def.value_size, self.number(&field, target)?)?,
                "key" => self.set_size(&field, &mut def.key_size, self.pointed_size(&field, target)?)?,
                "value" => {
                    self.set_size(&field, &mut def.value_size, self.pointed_size(&field, target)?)?;
                    if let Type::Ptr { target } = self.btf.resolve(target)?.1 {
                        def.special = special::fields(self.btf, *target)?;
                    }
                }
                "pinning" => def.pin_by_name = self.pinning(target)?,
                "values" => {
                    if i + 1 != members.len() {
                        return Err(self.error("values", "fields after it", "it to be the last"));
                    }
                    self.values(target, &mut def)?;
                    values = Some(u64::from(member.bit_offset / 8));
                }
                other => return Err(self.error(other, "an unknown field", "one that libbpf knows")),
            }
        }
        if def.map_type == MapType(0) {
            return Err(self.error("type", "no value", "a map type"));
        }
        Ok((def, values))
    }

    fn set_size(&self, field: &str, size: &mut u32, new: u32) -> Result<(), ObjectError> {
        if *size != 0 && *size != new {
            return Err(self.error(field, format!("{new} bytes"), format!("{size} as said before")));
        }
        *size = new;
        Ok(())
    }

    /// `__uint(field, n)`: a pointer to an array of `n` elements.
    fn number(&self, field: &str, id: TypeId) -> Result<u32, ObjectError> {
        let (_, ty) = self.btf.resolve(id)?;
        let Type::Ptr { target } = ty else {
            return Err(self.error(field, format!("a {}", ty.kind_name()), "a number written with __uint"));
        };
        match self.btf.resolve(*target)?.1 {
            Type::Array { len, .. } => Ok(*len),
            other => {
                Err(self.error(field, format!("a pointer to {}", other.kind_name()), "a number written with __uint"))
            }
        }
    }

    /// `__ulong(field, n)`: an enumeration whose only value is `n`; or as [`Self::number`].
    fn long(&self, field: &str, id: TypeId) -> Result<u64, ObjectError> {
        match self.btf.resolve(id)?.1 {
            Type::Enum { values, .. } if values.len() == 1 => Ok(values[0].1),
            Type::Enum { values, .. } => Err(self.error(field, format!("{} enumerators", values.len()), "one")),
            _ => self.number(field, id).map(u64::from),
        }
    }

    /// `__type(field, T)`: a pointer to `T`.
    fn pointed_size(&self, field: &str, id: TypeId) -> Result<u32, ObjectError> {
        let (_, ty) = self.btf.resolve(id)?;
        let Type::Ptr { target } = ty else {
            return Err(self.error(field, format!("a {}", ty.kind_name()), "a type written with __type"));
        };
        Ok(self.btf.size_of(*target)?)
    }

    fn pinning(&self, id: TypeId) -> Result<bool, ObjectError> {
        if self.inner {
            return Err(self.error("pinning", "it in an inner map", "it in the outer map only"));
        }
        match self.number("pinning", id)? {
            0 => Ok(false),
            1 => Ok(true),
            n => Err(self.error("pinning", n.to_string(), "0 (none) or 1 (by name)")),
        }
    }

    /// `__array(values, T)`: programs, or inner maps of type `T`.
    fn values(&self, id: TypeId, def: &mut MapDef) -> Result<(), ObjectError> {
        let of_maps = matches!(def.map_type, MapType::ARRAY_OF_MAPS | MapType::HASH_OF_MAPS);
        if self.inner {
            return Err(self.error("values", "maps inside inner maps", "one level"));
        }
        if !of_maps && def.map_type != MapType::PROG_ARRAY {
            let found = format!("it in a map of type {}", def.map_type);
            return Err(self.error("values", found, "a program array or a map of maps"));
        }
        self.set_size("values", &mut def.value_size, 4)?;
        let Type::Array { elem, len: 0 } = self.btf.resolve(id)?.1 else {
            return Err(self.error("values", "no array of length 0", "one written with __array"));
        };
        let (_, elem) = self.btf.resolve(*elem)?;
        let Type::Ptr { target } = elem else {
            return Err(self.error("values", format!("elements that are {}", elem.kind_name()), "pointers"));
        };
        let (target, ty) = self.btf.resolve(*target)?;
        match ty {
            Type::FuncProto { .. } if !of_maps => Ok(()),
            Type::Struct { .. } if of_maps => {
                let name = format!("{}.inner", self.map);
                let (inner, _) = Definition { btf: self.btf, map: &name, inner: true }.read(target)?;
                def.inner = Some(Box::new(inner));
                Ok(())
            }
            other => {
                let wanted = if of_maps { "map definitions" } else { "functions" };
                Err(self.error("values", format!("pointers to {}", other.kind_name()), wanted))
            }
        }
    }
}

/// Reads the static initialisers: relocations of `.maps` inside a map's `values`.
pub(crate) fn read_values(elf: &Elf<'_>, maps: &mut BtfMaps, functions: &Functions) -> Result<(), ObjectError> {
    let Some((index, section)) = elf.section(".maps") else { return Ok(()) };
    for rel in &section.relocs {
        let error = |found: String, wanted: &str| ObjectError::Reloc {
            section: ".maps".to_owned(),
            offset: rel.offset,
            found,
            wanted: wanted.to_owned(),
        };
        let symbol = &elf.symbols[rel.symbol];
        let Some(place) = maps.containing(rel.offset) else {
            return Err(error(format!("{} outside of all maps", symbol.name), "a slot of a map's values"));
        };
        let def = &maps.defs[place.map];
        let slot = place.values.and_then(|v| rel.offset.checked_sub(v)).filter(|o| o % 8 == 0);
        let Some(slot) = slot.and_then(|o| u32::try_from(o / 8).ok()) else {
            return Err(error(format!("{} in map {}", symbol.name, def.name), "a slot of the map's values"));
        };
        let max = def.max_entries;
        if max != 0 && slot >= max && def.map_type != MapType::HASH_OF_MAPS {
            let found = format!("slot {slot} of map {}", def.name);
            return Err(error(found, &format!("a slot below its max_entries, {max}")));
        }
        let of_programs = def.map_type == MapType::PROG_ARRAY;
        let target = if of_programs {
            let program = functions.at_symbol(symbol).filter(|f| functions.is_program(*f));
            program.map(|f| functions.all[f].name.clone()).ok_or("an entry program")
        } else {
            let target = maps.at(symbol.value).filter(|_| symbol.place == Place::Section(index));
            target.map(|m| maps.defs[m].name.clone()).ok_or("a map of section .maps")
        };
        let target = target.map_err(|wanted| {
            error(format!("{} in {} for map {}", symbol.name, elf.place_name(symbol.place), def.name), wanted)
        })?;
        match &mut maps.defs[place.map].init {
            MapInit::Programs(list) | MapInit::Maps(list) => list.push((slot, target)),
            init if of_programs => *init = MapInit::Programs(vec![(slot, target)]),
            init => *init = MapInit::Maps(vec![(slot, target)]),
        }
    }
    for def in &mut maps.defs {
        if let MapInit::Programs(list) | MapInit::Maps(list) = &mut def.init {
            list.sort_by_key(|(slot, _)| *slot);
        }
    }
    Ok(())
}
