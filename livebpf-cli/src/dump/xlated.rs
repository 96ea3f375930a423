//! The linked instructions, as bpftool shows translated ones: with source lines and the names of helpers, functions and maps.

use std::fmt::Write as _;

use livebpf::helper::Table;
use livebpf::insn::wire::encode_one;
use livebpf::insn::{Imm64, Insn, Pc};
use livebpf::link::{FuncSig, MapId, Program as Linked, Subprogram, TypeKind};
use livebpf::observe;
use livebpf::runtime::Program;
use serde_json::{Value, json};

use super::{Options, add_source, source_text};
use crate::output::Answer;

/// The listing in both forms.
pub fn dump(program: &Program, options: Options) -> Answer {
    let linked = program.linked();
    let (helpers, maps) = (Table::builtin(), observe::map_ids(program));
    let (mut json, mut text) = (Vec::new(), String::new());
    for (pc, insn) in linked.insns.iter() {
        let mut object = json!({});
        if let Some(id) = linked.subprog_starting_at(pc) {
            let proto = prototype(&linked.subprogs[id.0 as usize]);
            let _ = writeln!(text, "{proto}:");
            object["proto"] = json!(proto);
        }
        if let Some(line) = linked.line_at(pc).filter(|l| l.pc == pc) {
            text += &source_text(line, options);
            add_source(&mut object, line, options);
        }
        let disasm = format!("({:02x}) {}", insn.opcode(), named(linked, &helpers, &maps, pc, &insn));
        let _ = writeln!(text, "{:>4}: {disasm}", pc.0);
        object["disasm"] = json!(disasm);
        if options.opcodes {
            let bytes = wire(&insn);
            let _ = writeln!(text, "       {}", crate::bytes::to_text(&bytes));
            object["opcodes"] = opcodes(&bytes);
        }
        json.push(object);
    }
    Answer::new(Value::Array(json), text)
}

/// The instruction's text with what its numbers mean.
fn named(linked: &Linked, helpers: &Table, maps: &[u32], pc: Pc, insn: &Insn) -> String {
    let map = |idx: i32| {
        let at = usize::try_from(idx).ok()?;
        Some((*maps.get(at)?, linked.map(MapId(at as u32)).name.as_str()))
    };
    let function = |off| Some(&linked.subprogs[linked.subprog_starting_at(pc.jump(off)?)?.0 as usize].name);
    let text = match insn {
        Insn::Call { helper } => helpers.get(*helper).map(|p| format!("call bpf_{}#{helper}", p.name)),
        Insn::CallSubprog { off } => function(*off).map(|name| format!("{insn}#{name}")),
        Insn::LoadImm64 { dst, value } => match value {
            Imm64::MapIdx(idx) => map(*idx).map(|(id, name)| format!("{dst} = map[id:{id}]  ; {name}")),
            Imm64::MapIdxValue { idx, off } => map(*idx)
                .map(|(id, name)| format!("{dst} = map[id:{id}][0]+{off}  ; {}", variable(linked, *idx, *off, name))),
            Imm64::Func { off } => function(*off).map(|name| format!("{insn}  ; {name}")),
            Imm64::Const(_) | Imm64::MapFd(_) | Imm64::MapFdValue { .. } | Imm64::BtfId { .. } => None,
        },
        Insn::Alu { .. }
        | Insn::Neg { .. }
        | Insn::Mov { .. }
        | Insn::MovSx { .. }
        | Insn::Endian { .. }
        | Insn::Load { .. }
        | Insn::LoadSx { .. }
        | Insn::Store { .. }
        | Insn::Atomic { .. }
        | Insn::LoadAcquire { .. }
        | Insn::StoreRelease { .. }
        | Insn::LoadAbs { .. }
        | Insn::LoadInd { .. }
        | Insn::Ja { .. }
        | Insn::JaL { .. }
        | Insn::MayGoto { .. }
        | Insn::Jmp { .. }
        | Insn::CallKfunc { .. }
        | Insn::CallX { .. }
        | Insn::Exit => None,
    };
    text.unwrap_or_else(|| insn.to_string())
}

/// `.bss: count`, or the section alone where no variable lies there.
fn variable(linked: &Linked, idx: i32, off: u32, section: &str) -> String {
    let def = linked.map(MapId(idx as u32));
    let found = def.symbols.iter().find(|s| (s.offset..s.offset.saturating_add(s.size)).contains(&off));
    found.map_or_else(|| section.to_owned(), |s| format!("{section}: {}", s.name))
}

/// The C declaration, as far as BTF's types are kept; the name alone without BTF.
fn prototype(function: &Subprogram) -> String {
    let Some(FuncSig { ret, params, .. }) = &function.signature else { return function.name.clone() };
    let params: Vec<String> = params.iter().map(|(name, kind)| declare(kind, name)).collect();
    let params = if params.is_empty() { "void".to_owned() } else { params.join(", ") };
    declare(ret, &format!("{}({params})", function.name))
}

fn declare(kind: &TypeKind, name: &str) -> String {
    let with = |kind: String| if name.is_empty() { kind } else { format!("{kind} {name}") };
    match kind {
        TypeKind::Void => with("void".to_owned()),
        TypeKind::Int { size: 4, signed: true } => with("int".to_owned()),
        TypeKind::Int { size, signed } => with(format!("{}{}", if *signed { 's' } else { 'u' }, size * 8)),
        TypeKind::Enum { size } => with(format!("enum /* {size} bytes */")),
        TypeKind::Ptr(to) => declare(to, &format!("*{name}")),
        TypeKind::Struct { name: tag, .. } => with(format!("struct {tag}").trim_end().to_owned()),
        TypeKind::Other { kind, .. } => with(kind.clone()),
    }
}

fn wire(insn: &Insn) -> Vec<u8> {
    let (first, second) = encode_one(insn);
    first.into_iter().chain(second.into_iter().flatten()).collect()
}

/// bpftool's form of an instruction's fields.
fn opcodes(bytes: &[u8]) -> Value {
    let hex = |b: u8| json!(format!("{b:#04x}"));
    let list =
        |from: usize, to: usize| bytes.get(from..to).unwrap_or_default().iter().map(|b| hex(*b)).collect::<Value>();
    let imm: Value = match bytes.len() {
        16 => bytes[4..8].iter().chain(&bytes[12..16]).map(|b| hex(*b)).collect(),
        _ => list(4, 8),
    };
    json!({
        "code": hex(bytes[0]),
        "src_reg": format!("{:#x}", bytes[1] >> 4),
        "dst_reg": format!("{:#x}", bytes[1] & 15),
        "off": list(2, 4),
        "imm": imm,
    })
}
