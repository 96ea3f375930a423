//! Objects that clang builds from tests/data/objects: what is read from them, and how their programs are linked.

use std::collections::BTreeMap;
use std::sync::Arc;

use livebpf::insn::{Imm64, Insn, Pc};
use livebpf::link::{LinkError, Program, TypeKind, link};
use livebpf::object::{AttachType, MapDef, MapInit, MapType, Object, ProgType};

fn bytes(name: &str) -> Vec<u8> {
    let path = format!("{}/tests/data/objects/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(&path).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn object(name: &str) -> Object {
    Object::parse(&bytes(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn linked(object: &Object, name: &str) -> Program {
    let program = link(object, name).unwrap_or_else(|e| panic!("{e}"));
    check(&program);
    program
}

/// What holds for every linked program.
fn check(program: &Program) {
    let mut at = Pc(0);
    for subprog in &program.subprogs {
        assert_eq!(subprog.start, at, "{}: no gaps before {}", program.name, subprog.name);
        assert!(subprog.end > subprog.start);
        at = subprog.end;
    }
    assert_eq!(at, Pc(program.insns.len()));
    assert_eq!(program.subprogs[0].name, program.name);
    for (pc, insn) in program.insns.iter() {
        match insn {
            Insn::CallSubprog { off } | Insn::LoadImm64 { value: Imm64::Func { off }, .. } => {
                let target = pc.jump(off).expect("a position");
                assert!(program.subprog_starting_at(target).is_some(), "{}: {pc} leads to {target}", program.name);
            }
            Insn::LoadImm64 { value: Imm64::MapIdx(idx), .. } => assert!((idx as usize) < program.maps.len()),
            Insn::LoadImm64 { value: Imm64::MapIdxValue { idx, off }, .. } => {
                assert!(off < program.maps[idx as usize].value_size);
            }
            _ => {}
        }
    }
    assert!(program.lines.windows(2).all(|l| l[0].pc <= l[1].pc), "{}: lines ascend", program.name);
    assert!(program.lines.iter().all(|l| l.pc < at));
}

fn subprogs(program: &Program) -> Vec<&str> {
    program.subprogs.iter().map(|s| s.name.as_str()).collect()
}

/// The names of the functions that a function calls or takes the address of, in order.
fn called<'p>(program: &'p Program, function: &str) -> Vec<&'p str> {
    let subprog = program.subprogs.iter().find(|s| s.name == function).expect("the function");
    let inside = program.insns.iter().filter(|(pc, _)| *pc >= subprog.start && *pc < subprog.end);
    inside
        .filter_map(|(pc, insn)| match insn {
            Insn::CallSubprog { off } | Insn::LoadImm64 { value: Imm64::Func { off }, .. } => pc.jump(off),
            _ => None,
        })
        .map(|target| {
            program.subprogs[program.subprog_starting_at(target).expect("a function").0 as usize].name.as_str()
        })
        .collect()
}

const FUNCTIONS: [&str; 4] = ["functions.o", "functions.v1.o", "functions.v2.o", "functions.v4.o"];

#[test]
fn programs_are_listed_as_libbpf_reads_section_names() {
    for name in FUNCTIONS {
        let object = object(name);
        let found: Vec<_> = object
            .programs()
            .map(|p| {
                let kind = p.kind.expect("a known section");
                (p.name, p.section, kind.prog_type, kind.attach_type, kind.xdp_frags, p.autoload)
            })
            .collect();
        let row = |name: &str, section: &str, prog_type, attach, frags, autoload| {
            (name.to_owned(), section.to_owned(), prog_type, AttachType(attach), frags, autoload)
        };
        let wanted = [
            row("first", "tc", ProgType::SCHED_CLS, 0, false, true),
            row("second", "tc", ProgType::SCHED_CLS, 0, false, true),
            row("optional", "?xdp.frags", ProgType::XDP, 37, true, false),
            row("looping", "xdp", ProgType::XDP, 37, false, true),
            row("alone", "tc/ingress", ProgType::SCHED_CLS, 46, false, true),
            row("with_tags", "classifier", ProgType::SCHED_CLS, 0, false, true),
        ];
        assert_eq!(found, wanted, "{name}");
        assert_eq!(object.license(), "Dual MIT/GPL");
    }
}

#[test]
fn calls_lead_to_functions_of_any_section_at_every_cpu_level() {
    for name in FUNCTIONS {
        let object = object(name);
        let first = linked(&object, "first");
        assert_eq!(subprogs(&first), ["first", "global_helper", "local_helper", "beside"], "{name}");
        assert_eq!(called(&first, "first"), ["global_helper", "beside"], "{name}");
        assert_eq!(called(&first, "global_helper"), ["local_helper"], "{name}");
        let second = linked(&object, "second");
        let all = ["second", "beside", "elsewhere", "weak_helper", "hidden_helper", "local_helper"];
        assert_eq!(subprogs(&second), all, "{name}");
        assert_eq!(called(&second, "hidden_helper"), ["local_helper"], "{name}");
        let looping = linked(&object, "looping");
        assert_eq!(subprogs(&looping), ["looping", "callback"], "{name}");
        let address = looping.insns.iter().any(|(_, i)| matches!(i, Insn::LoadImm64 { value: Imm64::Func { .. }, .. }));
        assert!(address, "{name}: the callback's address is loaded");
    }
}

#[test]
fn global_functions_are_told_from_static_and_hidden_ones() {
    let object = object("functions.o");
    let global: BTreeMap<_, _> =
        ["first", "second"].iter().flat_map(|p| linked(&object, p).subprogs).map(|s| (s.name, s.global)).collect();
    for (name, wanted) in [
        ("first", true),
        ("global_helper", true),
        ("weak_helper", true),
        ("elsewhere", true),
        ("hidden_helper", false),
        ("local_helper", false),
        ("beside", false),
    ] {
        assert_eq!(global.get(name), Some(&wanted), "{name}");
    }
}

#[test]
fn signatures_come_with_declaration_tags() {
    let program = linked(&object("functions.o"), "with_tags");
    let tagged = program.subprogs[1].signature.as_ref().expect("a signature");
    let int = TypeKind::Int { size: 4, signed: true };
    let skb = TypeKind::Struct { name: "__sk_buff".to_owned(), size: 144 };
    assert_eq!(tagged.ret, int);
    let params = [("skb".to_owned(), TypeKind::Ptr(Box::new(skb))), ("value".to_owned(), TypeKind::Ptr(Box::new(int)))];
    assert_eq!(tagged.params, params);
    assert_eq!(tagged.tags, [(0, "arg:ctx".to_owned()), (1, "arg:nonnull".to_owned())]);
}

#[test]
fn lines_follow_their_functions() {
    let source = String::from_utf8(bytes("functions.bpf.c")).expect("UTF-8");
    let source: Vec<&str> = source.lines().collect();
    for name in FUNCTIONS {
        let program = linked(&object(name), "second");
        for subprog in &program.subprogs {
            let line = program.line_at(subprog.start).expect("a line");
            assert_eq!(line.pc, subprog.start, "{name}: {} has a line of its own", subprog.name);
        }
        for line in &program.lines {
            assert_eq!(&*line.file, "./functions.bpf.c");
            assert_eq!(&*line.text, source[line.line as usize - 1]);
        }
        let beside = program.subprogs.iter().find(|s| s.name == "beside").expect("beside");
        let text = |pc: Pc| program.line_at(pc).map(|l| l.text.to_string()).unwrap_or_default();
        let body = (beside.start.0..beside.end.0).map(|pc| text(Pc(pc))).collect::<Vec<_>>();
        assert!(body.iter().any(|t| t.contains("scratch[n % 1000] = n")), "{name}: {body:?}");
    }
}

fn data_map<'o>(object: &'o Object, name: &str) -> &'o Arc<MapDef> {
    let def = object.map(name).unwrap_or_else(|| panic!("map {name}"));
    assert_eq!((def.map_type, def.key_size, def.max_entries), (MapType::ARRAY, 4, 1), "{name}");
    assert_eq!(def.section.as_deref(), Some(name));
    def
}

#[test]
fn global_data_of_every_kind() {
    let object = object("functions.o");
    let symbol = |map: &str, name: &str| {
        let symbol = data_map(&object, map).symbol(name).unwrap_or_else(|| panic!("{name} in {map}")).clone();
        (symbol.offset, symbol.size)
    };
    let bss = data_map(&object, ".bss");
    assert_eq!(bss.init, MapInit::Empty);
    assert!(!bss.frozen);
    assert_eq!(symbol(".bss", "runs").1, 4);
    assert_eq!(symbol(".bss", "hidden_runs").1, 8);
    assert_eq!(data_map(&object, ".bss.scratch").value_size, 8000);
    assert_eq!(symbol(".bss.scratch", "scratch"), (0, 8000));
    assert_eq!(data_map(&object, ".data").init, MapInit::Data(vec![42, 0, 0, 0]));
    assert_eq!(data_map(&object, ".data.custom").init, MapInit::Data(vec![1, 0, 0, 0, 2, 0, 0, 0]));
    assert_eq!(symbol(".rodata", "limit").1, 4);
    for name in [".rodata", ".rodata.table", ".rodata.str1.1"] {
        let map = data_map(&object, name);
        assert!(map.frozen, "{name}");
        assert_eq!(map.map_flags & 0x80, 0x80, "{name}: programs may not write");
    }
    let table = data_map(&object, ".rodata.table");
    let MapInit::Data(bytes) = &table.init else { panic!("{:?}", table.init) };
    assert_eq!((bytes[0], bytes[8], bytes[16], bytes[24]), (10, 20, 30, 40));
    let MapInit::Data(text) = &data_map(&object, ".rodata.str1.1").init else { panic!("text") };
    assert!(text.starts_with(b"sixteen letters"));
}

#[test]
fn loads_of_globals_point_at_the_variable() {
    let object = object("functions.o");
    let program = linked(&object, "optional");
    let loads: Vec<(String, u32)> = program
        .insns
        .iter()
        .filter_map(|(_, insn)| match insn {
            Insn::LoadImm64 { value: Imm64::MapIdxValue { idx, off }, .. } => {
                Some((program.maps[idx as usize].name.clone(), off))
            }
            _ => None,
        })
        .collect();
    let limit = object.map(".rodata").and_then(|m| m.symbol("limit")).expect("limit").offset;
    assert!(loads.contains(&(".rodata".to_owned(), limit)), "{loads:?}");
    assert!(loads.iter().any(|(map, _)| map == ".data.custom"), "{loads:?}");
}

#[test]
fn map_definitions_of_every_shape() {
    let object = object("maps.o");
    let shape = |name: &str| {
        let m = object.map(name).unwrap_or_else(|| panic!("map {name}"));
        (m.map_type.name().expect("a name"), m.key_size, m.value_size, m.max_entries, m.map_flags, m.map_extra)
    };
    assert_eq!(shape("by_type"), ("hash", 12, 40, 100, 1, 0));
    assert_eq!(shape("by_size"), ("array", 4, 13, 3, 0, 0x1234_5678_9abc));
    assert_eq!(shape("programs"), ("prog_array", 4, 4, 4, 0, 0));
    assert_eq!(shape("array_of_maps"), ("array_of_maps", 4, 4, 5, 0, 0));
    assert_eq!(shape("hash_of_maps"), ("hash_of_maps", 4, 4, 5, 0, 0));
    assert_eq!(shape("local_map"), ("array", 4, 4, 1, 0, 0));
    let pinned: Vec<_> = object.maps().iter().filter(|m| m.pin_by_name).map(|m| m.name.as_str()).collect();
    assert_eq!(pinned, ["by_type"]);

    let init = |name: &str| object.map(name).expect("the map").init.clone();
    let slot = |n: u32, name: &str| (n, name.to_owned());
    assert_eq!(init("programs"), MapInit::Programs(vec![slot(1, "first"), slot(3, "second")]));
    assert_eq!(init("array_of_maps"), MapInit::Maps(vec![slot(0, "inner_a"), slot(4, "inner_b")]));
    assert_eq!(init("hash_of_maps"), MapInit::Maps(vec![slot(2, "inner_a")]));
    assert_eq!(init("by_type"), MapInit::Empty);
    let inner = object.map("array_of_maps").and_then(|m| m.inner.clone()).expect("a template");
    assert_eq!((inner.map_type, inner.key_size, inner.value_size, inner.max_entries), (MapType::ARRAY, 4, 8, 2));

    let first = linked(&object, "first");
    let maps: Vec<_> = first.maps.iter().map(|m| m.name.as_str()).collect();
    assert_eq!(maps, ["by_type", "local_map", "by_size", "array_of_maps"]);
    assert!(first.maps.iter().all(|m| object.maps().iter().any(|o| Arc::ptr_eq(o, m))), "maps are shared, not copied");
}

#[test]
fn an_object_without_type_information() {
    let object = object("no_btf.o");
    assert_eq!(object.license(), "");
    assert!(object.btf().is_none());
    let program = linked(&object, "entry");
    assert_eq!(subprogs(&program), ["entry", "add"]);
    assert!(program.lines.is_empty());
    assert!(program.subprogs.iter().all(|s| s.signature.is_none()));
    assert_eq!(program.subprogs.iter().map(|s| s.global).collect::<Vec<_>>(), [true, false]);
    assert_eq!(data_map(&object, ".bss").symbol("total").map(|s| (s.offset, s.size)), Some((0, 8)));
}

#[test]
fn weak_externs_are_absent() {
    let object = object("kernel_only.o");
    let kconfig = data_map(&object, ".kconfig");
    let names: Vec<_> = kconfig.symbols.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(names.len(), 3, "{names:?}");
    let MapInit::Data(values) = &kconfig.init else { panic!("{:?}", kconfig.init) };
    let value = |name: &str| {
        let symbol = kconfig.symbol(name).unwrap_or_else(|| panic!("{name}"));
        values[symbol.offset as usize..][..symbol.size as usize].to_vec()
    };
    assert_eq!(value("CONFIG_ABSENT"), [0; 8]);
    assert_eq!(value("CONFIG_FLAG"), [0]);
    assert_eq!(value("LINUX_KERNEL_VERSION"), livebpf::object::KERNEL_VERSION.to_le_bytes());

    linked(&object, "weak_option");
    linked(&object, "version");
    let address = linked(&object, "weak_variable_address");
    let zero = |insn| matches!(insn, Insn::LoadImm64 { value: Imm64::Const(0), .. });
    assert!(address.insns.iter().any(|(_, insn)| zero(insn)));
    let call = linked(&object, "weak_call");
    assert!(call.insns.iter().any(|(_, insn)| zero(insn)), "the test of its address");
    let helper = call.insns.iter().find_map(|(_, insn)| match insn {
        Insn::Call { helper } => Some(helper),
        _ => None,
    });
    assert!(helper.is_some_and(|h| h >= 2_002_000_000), "a helper that does not exist: {helper:?}");
    linked(&object, "stable_type");
}

#[test]
fn what_needs_a_kernel_is_refused_by_name_and_the_rest_still_links() {
    let object = object("kernel_only.o");
    let refused: Vec<(String, LinkError)> =
        object.link_all().into_iter().filter_map(|(name, result)| Some((name, result.err()?))).collect();
    let wanted = [
        "program option: function option, slot 0: found kernel configuration option CONFIG_HZ, wanted a weak extern: there \
         is no kernel here",
        "program variable: function variable, slot 0: found kernel variable some_variable, wanted a weak extern: there is no \
         kernel here",
        "program function: function function, slot 1: found kernel function some_function, wanted a weak extern: there is no \
         kernel here",
        "program kernel_type: function kernel_type, slot 1: found a CO-RE relocation (byte offset of a field of struct \
         task_struct, access 0:0), wanted types that are the same everywhere: there are no kernel types here",
        "program replacement: found section freplace/f, wanted a program type that runs without a kernel: ext programs \
         replace functions of programs that are loaded, which is not possible yet",
        "program tracing: found section fentry/f, wanted a program type that runs without a kernel: tracing programs attach \
         to kernel functions",
        "program hook: found section lsm/file_open, wanted a program type that runs without a kernel: lsm programs attach to \
         kernel security hooks",
        "program ops: found section struct_ops/init, wanted a program type that runs without a kernel: struct_ops programs \
         implement kernel interfaces",
        "program misspelt: found section xpd, wanted a section name that libbpf knows, such as xdp or tc",
    ];
    let found: Vec<String> = refused.iter().map(|(_, error)| error.to_string()).collect();
    assert_eq!(found, wanted);
    assert_eq!(object.programs().count() - wanted.len(), 5, "the others link");
    let missing = link(&object, "nothing").expect_err("no such program").to_string();
    assert!(
        missing.starts_with("program nothing: found no entry program of that name, wanted one of: option, "),
        "{missing}"
    );
}
