//! The type information that the kernel wants beside a program of several functions: made from the signatures of a linked program.
//!
//! Without it the kernel verifies global functions like static ones, and refuses tail calls in functions other than the main one.
//! Pure: bytes in the format of the kernel's `btf.h`, little-endian as everything here.

use std::collections::HashMap;

use livebpf::link::{self, FuncSig, Subprogram, TypeKind};

const MAGIC: u16 = 0xeb9f;
const HEADER: u32 = 24;

const INT: u32 = 1;
const PTR: u32 = 2;
const ARRAY: u32 = 3;
const STRUCT: u32 = 4;
const ENUM: u32 = 6;
const FUNC: u32 = 12;
const FUNC_PROTO: u32 = 13;
const DECL_TAG: u32 = 17;
/// Bit of an integer's encoding.
const SIGNED: u32 = 1 << 24;

/// A program's type information.
#[derive(Debug, PartialEq, Eq)]
pub struct ProgramBtf {
    /// For BPF_BTF_LOAD.
    pub btf: Vec<u8>,
    /// `struct bpf_func_info` of each function: its first instruction slot and the number of its type.
    pub funcs: Vec<[u32; 2]>,
}

impl ProgramBtf {
    /// That of `program`; `None` where it has a single function, which needs none.
    ///
    /// A function without a signature gets `int f()`, which is enough for one that is verified with its callers.
    pub fn of(program: &link::Program) -> Option<ProgramBtf> {
        if program.subprogs.len() < 2 {
            return None;
        }
        let mut types = Types::default();
        let funcs = program.subprogs.iter().map(|f| [f.start.0, types.function(f)]).collect();
        Some(ProgramBtf { btf: types.bytes(), funcs })
    }
}

/// Types so far, numbered from 1, and their names.
#[derive(Default)]
struct Types {
    records: Vec<u8>,
    last: u32,
    strings: Vec<u8>,
    offsets: HashMap<String, u32>,
}

impl Types {
    fn bytes(self) -> Vec<u8> {
        let (types, strings) = (self.records.len() as u32, self.strings.len() as u32 + 1);
        let mut bytes = MAGIC.to_le_bytes().to_vec();
        bytes.extend([1, 0]);
        for word in [HEADER, 0, types, types, strings] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(self.records);
        bytes.push(0);
        bytes.extend(self.strings);
        bytes
    }

    /// The offset of an identifier made of `text`; 0 stands for no name.
    fn name(&mut self, text: &str) -> u32 {
        let mut name: String = text.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        if name.starts_with(|c: char| c.is_ascii_digit()) {
            name.insert(0, '_');
        }
        self.string(&name)
    }

    fn string(&mut self, text: &str) -> u32 {
        if text.is_empty() {
            return 0;
        }
        if let Some(&offset) = self.offsets.get(text) {
            return offset;
        }
        let offset = self.strings.len() as u32 + 1;
        self.strings.extend(text.bytes().chain([0]));
        self.offsets.insert(text.to_owned(), offset);
        offset
    }

    /// `struct btf_type` and what follows it; answers its number.
    fn push(&mut self, name: u32, kind: u32, vlen: u32, size_or_type: u32, rest: &[u32]) -> u32 {
        for word in [name, (kind << 24) | vlen, size_or_type].iter().chain(rest) {
            self.records.extend(word.to_le_bytes());
        }
        self.last += 1;
        self.last
    }

    fn int(&mut self, size: u32, signed: bool) -> u32 {
        let name = self.name(&format!("{}{}", if signed { "s" } else { "u" }, size * 8));
        self.push(name, INT, 0, size, &[(if signed { SIGNED } else { 0 }) | (size * 8)])
    }

    fn kind(&mut self, kind: &TypeKind) -> u32 {
        match kind {
            TypeKind::Void => 0,
            TypeKind::Int { size, signed } => self.int(*size, *signed),
            TypeKind::Enum { size } => {
                let value = self.name("LIVEBPF_ZERO");
                self.push(0, ENUM, 1, *size, &[value, 0])
            }
            TypeKind::Ptr(to) => {
                let to = self.kind(to);
                self.push(0, PTR, 0, to, &[])
            }
            TypeKind::Struct { name, size } => {
                let name = self.name(name);
                self.push(name, STRUCT, 0, *size, &[])
            }
            TypeKind::Other { size, .. } => {
                let (byte, index) = (self.int(1, false), self.int(4, false));
                self.push(0, ARRAY, 0, 0, &[byte, index, *size])
            }
        }
    }

    fn function(&mut self, function: &Subprogram) -> u32 {
        let plain = FuncSig { ret: TypeKind::Int { size: 4, signed: true }, params: Vec::new(), tags: Vec::new() };
        let signature = function.signature.as_ref().unwrap_or(&plain);
        let ret = self.kind(&signature.ret);
        let mut params = Vec::new();
        for (n, (name, kind)) in signature.params.iter().enumerate() {
            let name = self.name(if name.is_empty() { format!("arg{n}") } else { name.clone() }.as_str());
            params.extend([name, self.kind(kind)]);
        }
        let proto = self.push(0, FUNC_PROTO, signature.params.len() as u32, ret, &params);
        let name = self.name(&function.name);
        let number = self.push(name, FUNC, u32::from(function.global), proto, &[]);
        for (param, tag) in &signature.tags {
            let tag = self.string(tag);
            self.push(tag, DECL_TAG, 0, number, &[*param]);
        }
        number
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use livebpf::insn::{Pc, text};
    use livebpf::object::btf::{Btf, Type};
    use livebpf::object::{ProgType, ProgramKind};

    fn program() -> link::Program {
        let insns = text::assemble("call +1\nexit\nr0 = 0\nexit").expect("a program");
        let mut program = link::Program::bare("main", ProgramKind::new(ProgType::SCHED_CLS), insns);
        let int = TypeKind::Int { size: 4, signed: true };
        let context = TypeKind::Ptr(Box::new(TypeKind::Struct { name: "__sk_buff".into(), size: 192 }));
        let signature = FuncSig { ret: int, params: vec![("skb".into(), context)], tags: vec![(0, "arg:ctx".into())] };
        program.subprogs[0].end = Pc(2);
        program.subprogs.push(Subprogram {
            name: "sub".into(),
            start: Pc(2),
            end: Pc(4),
            global: true,
            signature: Some(signature),
        });
        program
    }

    #[test]
    fn a_program_of_one_function_needs_none() {
        let mut program = program();
        program.subprogs.truncate(1);
        assert_eq!(ProgramBtf::of(&program), None);
    }

    #[test]
    fn functions_have_the_types_of_their_signatures() {
        let made = ProgramBtf::of(&program()).expect("two functions");
        let btf = Btf::parse(&made.btf).expect("what the parser reads");
        let starts: Vec<u32> = made.funcs.iter().map(|func| func[0]).collect();
        assert_eq!(starts, [0, 2]);
        let names: Vec<String> = made
            .funcs
            .iter()
            .map(|f| btf.type_name(livebpf::object::btf::TypeId(f[1])).expect("a name").into_owned())
            .collect();
        assert_eq!(names, ["main", "sub"]);
        let tags: Vec<_> = btf.iter().filter(|(_, t)| matches!(t, Type::DeclTag { .. })).collect();
        assert_eq!(tags.len(), 1);
    }
}
