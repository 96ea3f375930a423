//! Types made by hand, byte by byte.

use super::*;

/// Builds a `.BTF` section.
pub(crate) struct Builder {
    types: Vec<u8>,
    strings: Vec<u8>,
    count: u32,
}

impl Builder {
    pub(crate) fn new() -> Builder {
        Builder { types: Vec::new(), strings: vec![0], count: 0 }
    }
    pub(crate) fn string(&mut self, text: &str) -> u32 {
        let at = self.strings.len() as u32;
        self.strings.extend_from_slice(text.as_bytes());
        self.strings.push(0);
        at
    }
    /// Appends a type: name, kind, flag and length, size or type, and what follows; returns its number.
    fn add(&mut self, name: &str, kind: u32, flag: bool, vlen: u32, size: u32, rest: &[u32]) -> u32 {
        let name = if name.is_empty() { 0 } else { self.string(name) };
        let info = u32::from(flag) << 31 | kind << 24 | vlen;
        for word in [name, info, size].iter().chain(rest) {
            self.types.extend_from_slice(&word.to_le_bytes());
        }
        self.count += 1;
        self.count
    }
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut out = vec![0x9f, 0xeb, 1, 0];
        for word in [24, 0, self.types.len() as u32, self.types.len() as u32, self.strings.len() as u32] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        out.extend_from_slice(&self.types);
        out.extend_from_slice(&self.strings);
        out
    }
    fn parse(&self) -> Btf {
        Btf::parse(&self.bytes()).expect("well-formed")
    }
}

fn name(btf: &Btf, id: u32) -> String {
    btf.type_name(TypeId(id)).expect("a name").into_owned()
}

#[test]
fn every_kind_is_read() {
    let mut b = Builder::new();
    let int = b.add("int", 1, false, 0, 4, &[1 << 24 | 32]);
    let ptr = b.add("", 2, false, 0, int, &[]);
    let array = b.add("", 3, false, 0, 0, &[int, int, 10]);
    let field = b.string("field");
    let plain = b.add("plain", 4, false, 1, 8, &[field, int, 32]);
    let bits = b.add("bits", 4, true, 1, 4, &[field, int, 3 << 24 | 5]);
    let union = b.add("either", 5, false, 1, 8, &[field, ptr, 0]);
    let enum32 = b.add("small", 6, true, 1, 4, &[field, u32::MAX]);
    let fwd = b.add("later", 7, true, 0, 0, &[]);
    let typedef = b.add("alias", 8, false, 0, int, &[]);
    let volatile = b.add("", 9, false, 0, typedef, &[]);
    let constant = b.add("", 10, false, 0, volatile, &[]);
    let restrict = b.add("", 11, false, 0, constant, &[]);
    let proto = b.add("", 13, false, 1, int, &[field, ptr]);
    let func = b.add("f", 12, false, 1, proto, &[]);
    let var = b.add("v", 14, false, 0, int, &[1]);
    let sec = b.add(".data", 15, false, 1, 4, &[var, 0, 4]);
    let float = b.add("double", 16, false, 0, 8, &[]);
    let tag = b.add("arg:ctx", 17, false, 0, func, &[0]);
    let whole = b.add("all", 17, false, 0, func, &[u32::MAX]);
    let type_tag = b.add("user", 18, false, 0, restrict, &[]);
    let enum64 = b.add("large", 19, false, 1, 8, &[field, 1, 2]);
    let btf = b.parse();
    assert_eq!(btf.len(), 22);

    let get = |id: u32| btf.get(TypeId(id)).expect("a type").clone();
    assert!(matches!(get(0), Type::Void));
    assert!(matches!(get(int), Type::Int { size: 4, signed: true, .. }));
    assert!(matches!(get(ptr), Type::Ptr { target } if target.0 == int));
    assert!(matches!(get(array), Type::Array { len: 10, .. }));
    let members = |id| match get(id) {
        Type::Struct { members, .. } => (members[0].bit_offset, members[0].bit_size),
        other => panic!("{other:?}"),
    };
    assert_eq!((members(plain), members(bits), members(union)), ((32, 0), (5, 3), (0, 0)));
    assert!(matches!(get(union), Type::Struct { union: true, .. }));
    assert!(matches!(get(enum32), Type::Enum { signed: true, values, .. } if values[0].1 == u64::MAX));
    assert!(matches!(get(enum64), Type::Enum { size: 8, values, .. } if values[0].1 == 2 << 32 | 1));
    assert!(matches!(get(fwd), Type::Fwd { union: true, .. }));
    assert!(matches!(get(func), Type::Func { linkage: Linkage::Global, .. }));
    assert!(matches!(get(proto), Type::FuncProto { params, .. } if params.len() == 1));
    assert!(matches!(get(var), Type::Var { linkage: Linkage::Global, .. }));
    assert!(matches!(get(sec), Type::DataSec { vars, .. } if vars[0].size == 4));
    assert!(matches!(get(tag), Type::DeclTag { component: Some(0), .. }));
    assert!(matches!(get(whole), Type::DeclTag { component: None, .. }));

    assert_eq!(btf.resolve(TypeId(type_tag)).expect("resolves").0, TypeId(int));
    let size = |id| btf.size_of(TypeId(id)).ok();
    assert_eq!([size(int), size(ptr), size(array), size(type_tag)], [Some(4), Some(8), Some(40), Some(4)]);
    assert_eq!([size(var), size(sec), size(float), size(enum64)], [Some(4), Some(4), Some(8), Some(8)]);
    assert_eq!([size(0), size(fwd), size(func), size(proto)], [None; 4]);
    assert_eq!((name(&btf, float), name(&btf, ptr)), ("double".to_owned(), String::new()));
}

#[test]
fn cycles_are_errors() {
    let mut b = Builder::new();
    let a = b.add("a", 8, false, 0, 2, &[]);
    b.add("b", 8, false, 0, 1, &[]);
    let array = b.add("", 3, false, 0, 0, &[3, 3, 2]);
    let btf = b.parse();
    let wanted = "type 1: found a longer or endless chain of types, wanted at most 32 steps";
    assert_eq!(btf.resolve(TypeId(a)).map(|(id, _)| id).expect_err("a cycle").to_string(), wanted);
    assert_eq!(btf.size_of(TypeId(a)).expect_err("a cycle").to_string(), wanted);
    let error = btf.size_of(TypeId(array)).expect_err("an array of itself").to_string();
    assert_eq!(error, "type 3: found a longer or endless chain of types, wanted at most 32 steps");
}

#[test]
fn deep_and_huge_types_are_errors() {
    let mut b = Builder::new();
    let mut last = b.add("int", 1, false, 0, 4, &[32]);
    for _ in 0..31 {
        last = b.add("", 10, false, 0, last, &[]);
    }
    let deepest = b.add("", 10, false, 0, last, &[]);
    let wide = b.add("", 3, false, 0, 0, &[1, 1, 1 << 20]);
    let huge = b.add("", 3, false, 0, 0, &[wide, 1, 1 << 20]);
    let btf = b.parse();
    assert_eq!(btf.size_of(TypeId(last)), Ok(4));
    assert!(btf.size_of(TypeId(deepest)).is_err());
    assert_eq!(btf.size_of(TypeId(wide)), Ok(4 << 20));
    let error = btf.size_of(TypeId(huge)).expect_err("4 TiB").to_string();
    assert_eq!(error, "type 35: found 1099511627776 elements of 4 bytes, wanted less than 4 GiB");
}

#[test]
fn names_and_numbers_are_checked_when_they_are_used() {
    let mut b = Builder::new();
    let long = "x".repeat(MAX_NAME + 1);
    let long = b.add(&long, 8, false, 0, 99, &[]);
    let btf = b.parse();
    assert!(btf.type_name(TypeId(long)).is_err());
    let error = btf.resolve(TypeId(long)).map(|(id, _)| id).expect_err("no type 99").to_string();
    assert_eq!(error, "type 99: found no such type among 2, wanted a type of this object");
    assert!(btf.name(StrOff(u32::MAX)).is_err());
    assert_eq!(btf.text(StrOff(1), 3).as_deref(), Ok("xxx"));
}

#[test]
fn every_cut_is_an_error() {
    let mut b = Builder::new();
    let field = b.string("field");
    b.add("plain", 4, false, 2, 8, &[field, 0, 0, field, 0, 32]);
    let bytes = b.bytes();
    for len in 0..bytes.len() {
        assert!(Btf::parse(&bytes[..len]).is_err(), "{len}");
    }
    assert!(Btf::parse(&bytes).is_ok());
}
