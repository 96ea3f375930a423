//! Every encoding, one by one: opcode × destination × source × offset class × immediate class.
//!
//! The table below says, independently of the decoder, which values RFC 9669 and the kernel allow in which field.
//! What it allows makes the round trip wire → enum → text → enum → wire; what it does not is refused with an error
//! that names the slot and a field that is indeed wrong.

use std::collections::HashMap;

use livebpf::insn::wire::{self, Field, Raw};
use livebpf::insn::{DecodeError, Insn, Insns, Pc, text};

/// What a field may hold.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Rule {
    Any,
    Zero,
    Reg,
    In(&'static [i64]),
}
use Rule::{Any, In, Reg, Zero};

impl Rule {
    fn allows(self, value: i64) -> bool {
        match self {
            Any => true,
            Zero => value == 0,
            Reg => (0..=10).contains(&value),
            In(values) => values.contains(&value),
        }
    }
}

/// Opcodes that share their rules: destination, source, offset, immediate.
struct Form(&'static [u8], Rule, Rule, Rule, Rule);

const RMW: Rule = In(&[0x00, 0x01, 0x40, 0x41, 0x50, 0x51, 0xa0, 0xa1, 0xe1, 0xf1, 0x100, 0x110]);

#[rustfmt::skip]
const FORMS: &[Form] = &[
    // Arithmetic with an immediate: add sub mul or and lsh rsh xor arsh mov, 32 and 64 bits.
    Form(&[0x04, 0x14, 0x24, 0x44, 0x54, 0x64, 0x74, 0xa4, 0xc4, 0xb4], Reg, Zero, Zero, Any),
    Form(&[0x07, 0x17, 0x27, 0x47, 0x57, 0x67, 0x77, 0xa7, 0xc7, 0xb7], Reg, Zero, Zero, Any),
    // The same with a register, without mov.
    Form(&[0x0c, 0x1c, 0x2c, 0x4c, 0x5c, 0x6c, 0x7c, 0xac, 0xcc], Reg, Reg, Zero, Zero),
    Form(&[0x0f, 0x1f, 0x2f, 0x4f, 0x5f, 0x6f, 0x7f, 0xaf, 0xcf], Reg, Reg, Zero, Zero),
    // Division and modulo, signed with offset 1.
    Form(&[0x34, 0x94, 0x37, 0x97], Reg, Zero, In(&[0, 1]), Any),
    Form(&[0x3c, 0x9c, 0x3f, 0x9f], Reg, Reg, In(&[0, 1]), Zero),
    // Moves of registers, with sign extension.
    Form(&[0xbc], Reg, Reg, In(&[0, 8, 16]), Zero),
    Form(&[0xbf], Reg, Reg, In(&[0, 8, 16, 32]), Zero),
    // Negation, byte order.
    Form(&[0x84, 0x87], Reg, Zero, Zero, Zero),
    Form(&[0xd4, 0xdc, 0xd7], Reg, Zero, Zero, In(&[16, 32, 64])),
    // Conditional jumps: jeq jgt jge jset jne jsgt jsge jlt jle jslt jsle.
    Form(&[0x15, 0x25, 0x35, 0x45, 0x55, 0x65, 0x75, 0xa5, 0xb5, 0xc5, 0xd5], Reg, Zero, Any, Any),
    Form(&[0x16, 0x26, 0x36, 0x46, 0x56, 0x66, 0x76, 0xa6, 0xb6, 0xc6, 0xd6], Reg, Zero, Any, Any),
    Form(&[0x1d, 0x2d, 0x3d, 0x4d, 0x5d, 0x6d, 0x7d, 0xad, 0xbd, 0xcd, 0xdd], Reg, Reg, Any, Zero),
    Form(&[0x1e, 0x2e, 0x3e, 0x4e, 0x5e, 0x6e, 0x7e, 0xae, 0xbe, 0xce, 0xde], Reg, Reg, Any, Zero),
    // goto, gotol, may_goto.
    Form(&[0x05], Zero, Zero, Any, Zero),
    Form(&[0x06], Zero, Zero, Zero, Any),
    Form(&[0xe5], Zero, Zero, Any, Zero),
    // call of a helper or a subprogram, of a kernel function, through a register; exit.
    Form(&[0x85], Zero, In(&[0, 1]), Zero, Any),
    Form(&[0x85], Zero, In(&[2]), Any, Any),
    Form(&[0x8d], Reg, Zero, Zero, Zero),
    Form(&[0x95], Zero, Zero, Zero, Zero),
    // Loads, loads with sign extension, stores, stores of an immediate.
    Form(&[0x61, 0x69, 0x71, 0x79], Reg, Reg, Any, Zero),
    Form(&[0x81, 0x89, 0x91], Reg, Reg, Any, Zero),
    Form(&[0x63, 0x6b, 0x73, 0x7b], Reg, Reg, Any, Zero),
    Form(&[0x62, 0x6a, 0x72, 0x7a], Reg, Zero, Any, Any),
    // Atomic operations; only load-acquire and store-release on 8 and 16 bits.
    Form(&[0xc3, 0xdb], Reg, Reg, Any, RMW),
    Form(&[0xcb, 0xd3], Reg, Reg, Any, In(&[0x100, 0x110])),
    // Packet loads: absolute, indirect.
    Form(&[0x20, 0x28, 0x30], Zero, Zero, Zero, Any),
    Form(&[0x40, 0x48, 0x50], Zero, Reg, Zero, Any),
    // 64-bit immediates; the second slot has its own test.
    Form(&[0x18], Reg, In(&[0, 1, 2, 3, 4, 5, 6]), Zero, Any),
];

const OFFSETS: [i16; 13] = [i16::MIN, -32, -8, -1, 0, 1, 2, 7, 8, 16, 32, 64, i16::MAX];
const IMMEDIATES: [i32; 26] = [
    i32::MIN,
    i32::MIN + 1,
    -70000,
    -129,
    -64,
    -16,
    -1,
    0,
    1,
    2,
    8,
    15,
    16,
    32,
    33,
    64,
    0x40,
    0x41,
    0xe1,
    0xf1,
    0x100,
    0x110,
    128,
    70000,
    i32::MAX - 1,
    i32::MAX,
];

fn forms(opcode: u8) -> impl Iterator<Item = &'static Form> {
    FORMS.iter().filter(move |form| form.0.contains(&opcode))
}

fn is_valid(raw: Raw) -> bool {
    forms(raw.opcode).any(|form| violated(form, raw).is_empty())
}

fn violated(form: &Form, raw: Raw) -> Vec<Field> {
    let mut fields = Vec::new();
    let checks = [
        (Field::Dst, form.1, i64::from(raw.dst)),
        (Field::Src, form.2, i64::from(raw.src)),
        (Field::Off, form.3, i64::from(raw.off)),
        (Field::Imm, form.4, i64::from(raw.imm)),
    ];
    for (field, rule, value) in checks {
        if !rule.allows(value) {
            fields.push(field);
        }
    }
    fields
}

fn decode(raw: Raw) -> Result<Insn, DecodeError> {
    let second = (raw.opcode == 0x18).then_some([0; 8]);
    wire::decode_one(Pc(7), raw.to_bytes(), second)
}

fn each_slot(mut visit: impl FnMut(Raw)) {
    for opcode in 0..=255 {
        for registers in 0..=255u8 {
            for off in OFFSETS {
                for imm in IMMEDIATES {
                    visit(Raw { opcode, dst: registers & 15, src: registers >> 4, off, imm });
                }
            }
        }
    }
}

#[test]
fn what_is_allowed_is_decoded_and_nothing_else() {
    let mut accepted = 0;
    each_slot(|raw| match decode(raw) {
        Ok(insn) => {
            assert!(is_valid(raw), "{raw:?} is reserved but decodes as {insn:?}");
            accepted += 1;
        }
        Err(error) => {
            assert!(!is_valid(raw), "{raw:?} is allowed but refused: {error}");
            check_blame(raw, error);
        }
    });
    assert!(accepted > 100_000, "only {accepted} encodings were accepted");
}

/// An error names the slot, and a field that the table finds wrong too.
fn check_blame(raw: Raw, error: DecodeError) {
    match error {
        DecodeError::Opcode { pc, opcode, .. } => {
            assert_eq!((pc, opcode), (Pc(7), raw.opcode));
            assert_eq!(forms(raw.opcode).count(), 0, "{raw:?}: the opcode is known, but blamed");
        }
        DecodeError::Field { pc, opcode, field, found, .. } => {
            assert_eq!((pc, opcode), (Pc(7), raw.opcode));
            let value = match field {
                Field::Opcode => i64::from(raw.opcode),
                Field::Dst => raw.dst.into(),
                Field::Src => raw.src.into(),
                Field::Off => raw.off.into(),
                Field::Imm => raw.imm.into(),
            };
            assert_eq!(found, value);
            assert!(
                forms(raw.opcode).any(|form| violated(form, raw).contains(&field)),
                "{raw:?}: {field} is blamed, but nothing is wrong with it"
            );
        }
        DecodeError::Length { .. } | DecodeError::TooLong { .. } | DecodeError::Cut { .. } => {
            panic!("{raw:?}: {error}")
        }
    }
}

#[test]
fn every_instruction_survives_wire_enum_text_enum_wire() {
    let mut texts: HashMap<String, Insn> = HashMap::new();
    each_slot(|raw| {
        if let Ok(insn) = decode(raw) {
            round_trip(insn, raw, None, &mut texts);
        }
    });
    assert!(texts.len() > 100_000, "only {} instructions were seen", texts.len());
}

fn round_trip(insn: Insn, first: Raw, second: Option<Raw>, texts: &mut HashMap<String, Insn>) {
    let (bytes, next) = wire::encode_one(&insn);
    assert_eq!(Raw::from_bytes(bytes), first, "{insn:?}");
    if let Some(second) = second {
        assert_eq!(next, Some(second.to_bytes()), "{insn:?}");
    }
    let line = insn.to_string();
    assert_eq!(text::parse(&line).as_ref(), Ok(&insn), "`{line}`");
    if let Some(other) = texts.insert(line, insn) {
        assert_eq!(other, insn, "two instructions with the same text");
    }
}

#[test]
fn every_atomic_operation_number() {
    for opcode in [0xc3, 0xcb, 0xd3, 0xdb] {
        for imm in (0..=0x1ff).chain([-1, i32::MIN, 0x1_0000, 0x100_0000, 0x1_0100, i32::MIN | 0x100]) {
            let raw = Raw { opcode, dst: 1, src: 2, off: 8, imm };
            assert_eq!(decode(raw).is_ok(), is_valid(raw), "{raw:?}");
        }
    }
}

#[test]
fn every_second_half_of_a_64_bit_immediate() {
    let mut texts = HashMap::new();
    for src in 0..=6 {
        for dst in 0..=10 {
            for imm in IMMEDIATES {
                let first = Raw { opcode: 0x18, dst, src, off: 0, imm };
                for next in IMMEDIATES {
                    let second = Raw { imm: next, ..Raw::default() };
                    let found = wire::decode_one(Pc(7), first.to_bytes(), Some(second.to_bytes()));
                    let has_second = matches!(src, 0 | 2 | 3 | 6);
                    match found {
                        Ok(insn) => {
                            assert!(has_second || next == 0, "{first:?} {second:?}");
                            round_trip(insn, first, Some(second), &mut texts);
                        }
                        Err(error) => {
                            assert!(!has_second && next != 0, "{first:?} {second:?}: {error}");
                            assert_eq!(error.pc(), Some(Pc(8)));
                            assert!(matches!(error, DecodeError::Field { field: Field::Imm, .. }));
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn a_second_half_with_a_reserved_field_is_refused() {
    for src in 0..=6 {
        let first = Raw { opcode: 0x18, dst: 3, src, off: 0, imm: 5 };
        let refused = |second: Raw, field: Field| {
            let error = wire::decode_one(Pc(7), first.to_bytes(), Some(second.to_bytes())).unwrap_err();
            assert_eq!(error.pc(), Some(Pc(8)), "{error}");
            assert!(matches!(error, DecodeError::Field { field: found, .. } if found == field), "{error}");
        };
        for opcode in 1..=255 {
            refused(Raw { opcode, ..Raw::default() }, Field::Opcode);
        }
        for n in 1..=15 {
            refused(Raw { dst: n, ..Raw::default() }, Field::Dst);
            refused(Raw { src: n, ..Raw::default() }, Field::Src);
        }
        for off in OFFSETS.into_iter().filter(|&off| off != 0) {
            refused(Raw { off, ..Raw::default() }, Field::Off);
        }
        let error = wire::decode_one(Pc(7), first.to_bytes(), None).unwrap_err();
        assert_eq!(error, DecodeError::Cut { pc: Pc(7) });
    }
}

#[test]
fn whole_programs_make_the_round_trip_as_bytes_and_as_listings() {
    let mut insns = Insns::default();
    let mut bytes = Vec::new();
    each_slot(|raw| {
        // A thinned-out choice, and no first halves, whose second half would have to follow.
        let chosen = raw.dst == raw.opcode % 11 && raw.imm % 3 == 0;
        if chosen
            && raw.opcode != 0x18
            && let Ok(insn) = decode(raw)
        {
            insns.push(insn);
            bytes.extend_from_slice(&raw.to_bytes());
        }
    });
    assert!(insns.len() > 5_000, "only {} instructions", insns.len());
    assert_eq!(insns.encode(), bytes);
    assert_eq!(Insns::decode(&bytes), Ok(insns.clone()));
    assert_eq!(text::assemble(&insns.to_string()), Ok(insns));
}

#[test]
fn a_cut_program_is_an_error_at_its_end() {
    let program = text::assemble("r0 = 0\nr1 = 0x1122334455667788 ll\nexit").unwrap();
    let bytes = program.encode();
    assert_eq!(bytes.len(), 32);
    for len in 0..bytes.len() {
        let found = Insns::decode(&bytes[..len]);
        match len {
            0 | 8 | 24 => assert_eq!(found.unwrap().encode(), bytes[..len]),
            16 => assert_eq!(found, Err(DecodeError::Cut { pc: Pc(1) })),
            _ => assert_eq!(found, Err(DecodeError::Length { len })),
        }
    }
}
