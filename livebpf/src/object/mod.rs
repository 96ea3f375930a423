//! ELF + BTF + BTF.ext → [`Object`]: programs, subprograms, maps, globals, relocations, line info.
//!
//! [`Object::parse`] takes what `clang -O2 -g -target bpf` writes, with libbpf's conventions. It never reads outside
//! its bytes, and its time and memory grow with them only (plus the zeros of `.bss`, which are not stored). An
//! object may contain programs that cannot be linked here; that shows when they are linked, not before.
//!
//! Pointers *inside* global data (`.rel.data`) stay zero, as with libbpf.

pub mod btf;
mod btf_ext;
mod bytes;
mod elf;
mod error;
mod externs;
mod function;
mod map_btf;
mod map_data;
pub mod map_def;
pub mod prog_type;
mod reloc;
mod section;
pub mod special;

use std::collections::HashMap;
use std::sync::Arc;

use btf::Btf;
pub(crate) use btf_ext::{BtfExt, CoreRecord};
use elf::Elf;
pub use error::{BtfError, ObjectError};
pub(crate) use externs::{Extern, ExternKind};
pub use externs::{KERNEL_VERSION, KFUNCS};
pub(crate) use function::{Function, Functions};
pub use map_def::{DataSymbol, MapDef, MapInit, MapType};
pub use prog_type::{AttachType, ProgType, ProgramKind};
pub(crate) use reloc::{Relocs, Target};
pub use special::{SpecialField, SpecialKind};

/// A parsed object: everything that its programs can be linked from.
#[derive(Clone, Debug)]
pub struct Object {
    license: String,
    functions: Functions,
    relocs: Relocs,
    maps: Vec<Arc<MapDef>>,
    /// Where the maps of `.maps` begin.
    map_offsets: HashMap<u64, usize>,
    /// Index of the map of configuration options.
    kconfig: Option<usize>,
    externs: Vec<Extern>,
    btf: Option<Btf>,
    ext: BtfExt,
}

/// What can be said of a program before it is linked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProgramInfo {
    /// Function name.
    pub name: String,
    /// ELF section, for instance `xdp` or `?tc`.
    pub section: String,
    /// What the section name says; `None` where it says nothing, and linking will refuse it.
    pub kind: Option<ProgramKind>,
    /// `false` for sections whose name begins with `?`: loaded only when asked for by name.
    pub autoload: bool,
    /// Length in slots, without subprograms.
    pub insns: u32,
}

/// Longest licence string that is kept (libbpf: 128).
const MAX_LICENSE: usize = 128;

impl Object {
    /// Parses a relocatable BPF object.
    pub fn parse(bytes: &[u8]) -> Result<Object, ObjectError> {
        let elf = Elf::parse(bytes)?;
        let btf = elf.section(".BTF").map(|(_, s)| Btf::parse(s.data)).transpose()?;
        let ext = match (elf.section(".BTF.ext"), &btf) {
            (Some((_, section)), Some(btf)) => BtfExt::parse(section.data, btf)?,
            _ => BtfExt::default(),
        };
        let functions = Functions::read(&elf)?;
        let mut btf_maps = map_btf::read(&elf, btf.as_ref())?;
        map_btf::read_values(&elf, &mut btf_maps, &functions)?;
        let externs = externs::read(&elf, btf.as_ref())?;

        let map_offsets = btf_maps.offsets().collect();
        let mut maps: Vec<Arc<MapDef>> = btf_maps.defs.into_iter().map(Arc::new).collect();
        let mut data_maps = HashMap::new();
        for mut data in map_data::read(&elf)? {
            if let Some(btf) = &btf {
                special::of_data(btf, &mut data.def)?;
            }
            data_maps.insert(data.section, maps.len());
            maps.push(Arc::new(data.def));
        }
        let kconfig = map_data::kconfig(&externs.all).map(|def| {
            maps.push(Arc::new(def));
            maps.len() - 1
        });
        let relocs = Relocs::read(&elf, &functions, &data_maps, &externs)?;
        Ok(Object {
            license: license(&elf),
            functions,
            relocs,
            maps,
            map_offsets,
            kconfig,
            externs: externs.all,
            btf,
            ext,
        })
    }

    /// The licence string; empty where the object has none.
    pub fn license(&self) -> &str {
        &self.license
    }

    /// The entry programs, in file order.
    pub fn programs(&self) -> impl Iterator<Item = ProgramInfo> + '_ {
        self.program_functions().map(|f| {
            let function = &self.functions.all[f];
            let section = &self.functions.sections[function.section];
            ProgramInfo {
                name: function.name.clone(),
                section: section.name.clone(),
                kind: section.meaning.kind,
                autoload: section.meaning.autoload,
                insns: function.len,
            }
        })
    }

    /// All maps: those of `.maps` first, then global data by section, then `.kconfig`.
    pub fn maps(&self) -> &[Arc<MapDef>] {
        &self.maps
    }

    /// The map called `name`; global data goes by its section's name.
    pub fn map(&self, name: &str) -> Option<&Arc<MapDef>> {
        self.maps.iter().find(|m| m.name == name)
    }

    /// The bytes of the code section called `section`, where they are complete as they stand: nothing in it is to be relocated.
    pub fn plain_code(&self, section: &str) -> Option<&[u8]> {
        let index = self.functions.sections.iter().position(|s| s.name == section)?;
        let code = &self.functions.sections[index].code;
        (!self.relocs.any_in(index)).then_some(code)
    }

    /// The type information, where the object has any.
    pub fn btf(&self) -> Option<&Btf> {
        self.btf.as_ref()
    }

    /// Indices of the functions that are entry programs, in order.
    pub(crate) fn program_functions(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.functions.all.len()).filter(|f| self.functions.is_program(*f))
    }
    pub(crate) fn functions(&self) -> &Functions {
        &self.functions
    }
    pub(crate) fn relocs(&self) -> &Relocs {
        &self.relocs
    }
    pub(crate) fn ext(&self) -> &BtfExt {
        &self.ext
    }
    pub(crate) fn externs(&self) -> &[Extern] {
        &self.externs
    }
    /// The map of `.maps` whose variable begins at `offset`.
    pub(crate) fn map_at(&self, offset: u64) -> Option<usize> {
        self.map_offsets.get(&offset).copied()
    }
    /// The map of configuration options.
    pub(crate) fn kconfig(&self) -> Option<usize> {
        self.kconfig
    }
}

fn license(elf: &Elf<'_>) -> String {
    let Some((_, section)) = elf.section("license") else { return String::new() };
    let end = section.data.iter().position(|b| *b == 0).unwrap_or(section.data.len()).min(MAX_LICENSE);
    String::from_utf8_lossy(&section.data[..end]).into_owned()
}
