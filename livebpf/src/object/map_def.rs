//! What an object says about a map.

use super::special::SpecialField;

/// Map types, numbered as in `enum bpf_map_type`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct MapType(pub u32);

#[allow(missing_docs)]
impl MapType {
    pub const HASH: MapType = MapType(1);
    pub const ARRAY: MapType = MapType(2);
    pub const PROG_ARRAY: MapType = MapType(3);
    pub const PERF_EVENT_ARRAY: MapType = MapType(4);
    pub const PERCPU_HASH: MapType = MapType(5);
    pub const PERCPU_ARRAY: MapType = MapType(6);
    pub const STACK_TRACE: MapType = MapType(7);
    pub const CGROUP_ARRAY: MapType = MapType(8);
    pub const LRU_HASH: MapType = MapType(9);
    pub const LRU_PERCPU_HASH: MapType = MapType(10);
    pub const LPM_TRIE: MapType = MapType(11);
    pub const ARRAY_OF_MAPS: MapType = MapType(12);
    pub const HASH_OF_MAPS: MapType = MapType(13);
    pub const DEVMAP: MapType = MapType(14);
    pub const SOCKMAP: MapType = MapType(15);
    pub const CPUMAP: MapType = MapType(16);
    pub const XSKMAP: MapType = MapType(17);
    pub const SOCKHASH: MapType = MapType(18);
    pub const CGROUP_STORAGE: MapType = MapType(19);
    pub const REUSEPORT_SOCKARRAY: MapType = MapType(20);
    pub const PERCPU_CGROUP_STORAGE: MapType = MapType(21);
    pub const QUEUE: MapType = MapType(22);
    pub const STACK: MapType = MapType(23);
    pub const SK_STORAGE: MapType = MapType(24);
    pub const DEVMAP_HASH: MapType = MapType(25);
    pub const RINGBUF: MapType = MapType(27);
    pub const INODE_STORAGE: MapType = MapType(28);
    pub const TASK_STORAGE: MapType = MapType(29);
    pub const BLOOM_FILTER: MapType = MapType(30);
    pub const USER_RINGBUF: MapType = MapType(31);
    pub const CGRP_STORAGE: MapType = MapType(32);
}

impl MapType {
    const NAMES: [&'static str; 34] = [
        "unspec",
        "hash",
        "array",
        "prog_array",
        "perf_event_array",
        "percpu_hash",
        "percpu_array",
        "stack_trace",
        "cgroup_array",
        "lru_hash",
        "lru_percpu_hash",
        "lpm_trie",
        "array_of_maps",
        "hash_of_maps",
        "devmap",
        "sockmap",
        "cpumap",
        "xskmap",
        "sockhash",
        "cgroup_storage",
        "reuseport_sockarray",
        "percpu_cgroup_storage",
        "queue",
        "stack",
        "sk_storage",
        "devmap_hash",
        "struct_ops",
        "ringbuf",
        "inode_storage",
        "task_storage",
        "bloom_filter",
        "user_ringbuf",
        "cgrp_storage",
        "arena",
    ];
    /// bpftool's name, for instance `percpu_array`; `None` for a number the kernel does not know.
    pub fn name(self) -> Option<&'static str> {
        Self::NAMES.get(self.0 as usize).copied()
    }
    /// The type with bpftool's name `name`.
    pub fn from_name(name: &str) -> Option<MapType> {
        Self::NAMES.iter().position(|n| *n == name).map(|i| MapType(i as u32))
    }
}

impl std::fmt::Display for MapType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "map type {}", self.0),
        }
    }
}

/// One map as the object defines it. Sizes in bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MapDef {
    /// Name of the map's variable; for global data libbpf's `<object prefix>.bss` is not used: the section name is.
    pub name: String,
    /// Its type.
    pub map_type: MapType,
    /// Bytes of a key.
    pub key_size: u32,
    /// Bytes of a value.
    pub value_size: u32,
    /// Number of entries.
    pub max_entries: u32,
    /// `BPF_F_*` creation flags.
    pub map_flags: u32,
    /// Type-specific extra value.
    pub map_extra: u64,
    /// `pinning` is `LIBBPF_PIN_BY_NAME`: the map is meant to be shared between objects under its name.
    pub pin_by_name: bool,
    /// The template of inner maps, for maps of maps.
    pub inner: Option<Box<MapDef>>,
    /// What it holds when it is created.
    pub init: MapInit,
    /// For global data: the ELF section (`.bss`, `.rodata.str1.1`, `.data.foo`).
    pub section: Option<String>,
    /// For `.rodata*`: programs may not write, and the user may not after load.
    pub frozen: bool,
    /// For global data: the variables in it, by offset.
    pub symbols: Vec<DataSymbol>,
    /// Fields of a value that are more than bytes, by offset.
    pub special: Vec<SpecialField>,
}

/// What a map holds when it is created.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum MapInit {
    /// Nothing; for array maps, and so for `.bss`, zeros.
    #[default]
    Empty,
    /// The bytes of its single value (global data).
    Data(Vec<u8>),
    /// A program array's slots: (index, program's function name).
    Programs(Vec<(u32, String)>),
    /// A map-in-map's slots: (index, map name).
    Maps(Vec<(u32, String)>),
}

/// One variable of a global data section.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DataSymbol {
    /// Name of the variable.
    pub name: String,
    /// Bytes from the start of the section.
    pub offset: u32,
    /// Bytes.
    pub size: u32,
}

impl MapDef {
    /// A map with the given shape and nothing else.
    pub fn new(name: &str, map_type: MapType, key_size: u32, value_size: u32, max_entries: u32) -> MapDef {
        MapDef {
            name: name.to_owned(),
            map_type,
            key_size,
            value_size,
            max_entries,
            map_flags: 0,
            map_extra: 0,
            pin_by_name: false,
            inner: None,
            init: MapInit::Empty,
            section: None,
            frozen: false,
            symbols: Vec::new(),
            special: Vec::new(),
        }
    }
    /// The variable `name` of a global data map.
    pub fn symbol(&self, name: &str) -> Option<&DataSymbol> {
        self.symbols.iter().find(|s| s.name == name)
    }
}
