//! Texts that are no filters, and what filters become.

use super::{Ancillary, CbpfError, ClassicInsn, Filter};

/// `ip and udp port 53` on Ethernet, as tcpdump writes it.
const UDP_53: &str = "\
13
40 0 0 12
21 0 10 2048
48 0 0 23
21 0 8 17
40 0 0 20
69 6 0 8191
177 0 0 14
72 0 0 14
21 2 0 53
72 0 0 16
21 0 1 53
6 0 0 262144
6 0 0 0
";

fn insn(code: u16, jt: u8, jf: u8, k: u32) -> ClassicInsn {
    ClassicInsn { code, jt, jf, k }
}

const RET: ClassicInsn = ClassicInsn { code: 0x06, jt: 0, jf: 0, k: 1 };

#[track_caller]
fn refused(insns: &[ClassicInsn], message: &str) {
    assert_eq!(Filter::new(insns).unwrap_err().to_string(), message);
}

#[test]
fn text() {
    let good = "2\n48 0 0 9\n22 0 0 0\n";
    let filter = Filter::parse(good).unwrap();
    assert_eq!(filter.insns(), [insn(0x30, 0, 0, 9), insn(0x16, 0, 0, 0)]);
    // As iptables has it, and with empty lines and blanks.
    assert_eq!(Filter::parse("2,48 0 0 9,22 0 0 0").unwrap(), filter);
    assert_eq!(Filter::parse("\n 2 \n\n  48  0 0 9\r\n22 0 0 0").unwrap(), filter);
    let wrong = |text: &str, message: &str| assert_eq!(Filter::parse(text).unwrap_err().to_string(), message);
    wrong("", "line 1: found \"\", wanted the number of instructions");
    wrong("ip\n", "line 1: found \"ip\", wanted the number of instructions");
    wrong("(000) ldh [12]", "line 1: found \"(000) ldh [12]\", wanted the number of instructions");
    wrong("0\n", "0 instructions, wanted 1 to 4096");
    wrong("4097\n", "4097 instructions, wanted 1 to 4096");
    wrong("2\n48 0 0 9\n", "the text ends after 1 of 2 instructions");
    wrong("1\n22 0 0 0\n22 0 0 0\n", "line 3: found a line behind the last of 1 instructions, wanted the end");
    for line in ["48 0 0", "48 0 0 9 1", "48 0 0 x", "48 256 0 9", "65536 0 0 9", "48 0 0 4294967296", "48 -1 0 0"] {
        wrong(&format!("1\n{line}\n"), &format!("line 2: found {line:?}, wanted four numbers: code, jt, jf and k"));
    }
}

#[test]
fn bytes() {
    let bytes = [0x30, 0, 0, 0, 9, 0, 0, 0, 0x16, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(Filter::decode(&bytes).unwrap(), Filter::parse("2\n48 0 0 9\n22 0 0 0").unwrap());
    assert_eq!(Filter::decode(&bytes[..9]), Err(CbpfError::Length { len: 9 }));
    assert_eq!(Filter::decode(&[]), Err(CbpfError::Count { found: 0 }));
}

#[test]
fn instructions_that_the_kernel_refuses() {
    refused(&[], "0 instructions, wanted 1 to 4096");
    refused(&vec![RET; 4097], "4097 instructions, wanted 1 to 4096");
    refused(&[insn(0x00, 0, 0, 0)], "instruction 0, the last one, has code 0x0000, wanted a return (0x06 or 0x16)");
    refused(
        &[insn(0x05, 0, 0, 0), insn(0x05, 0, 0, 0)],
        "instruction 1: a jump to 2, wanted at most 1, the last instruction",
    );
    for code in [0x18, 0x38, 0x58, 0x0e, 0xff, 0x106, 0x08, 0x10, 0x62, 0xa1, 0xb0, 0x11, 0x8c, 0xb4, 0xc7, 0x85, 0x95]
    {
        refused(
            &[insn(code, 0, 0, 0), RET],
            &format!("instruction 0: code {code:#06x} is no operation of classic BPF"),
        );
    }
    refused(&[insn(0x34, 0, 0, 0), RET], "instruction 0: division by the constant 0, wanted another");
    refused(&[insn(0x94, 0, 0, 0), RET], "instruction 0: division by the constant 0, wanted another");
    refused(&[insn(0x64, 0, 0, 32), RET], "instruction 0: a shift by 32 bits, wanted at most 31");
    refused(&[insn(0x02, 0, 0, 16), RET], "instruction 0: scratch word M[16], wanted M[0] to M[15]");
    refused(&[insn(0x15, 0, 1, 0), RET], "instruction 0: a jump to 2, wanted at most 1, the last instruction");
    refused(&[insn(0x15, 1, 0, 0), RET], "instruction 0: a jump to 2, wanted at most 1, the last instruction");
    refused(
        &[insn(0x05, 0, 0, u32::MAX), RET],
        "instruction 0: a jump to 4294967296, wanted at most 1, the last instruction",
    );
    refused(&[insn(0x20, 0, 0, 0xffff_f040), RET], "instruction 0: ancillary data at SKF_AD_OFF + 64 does not exist");
    refused(&[insn(0x28, 0, 0, u32::MAX), RET], "instruction 0: ancillary data at SKF_AD_OFF + 4095 does not exist");
}

#[test]
fn scratch_memory_is_stored_before_it_is_read() {
    let (load, store) = (insn(0x60, 0, 0, 3), insn(0x02, 0, 0, 3));
    refused(&[load, RET], "instruction 0: M[3] is read, but on a way to here nothing was stored into it");
    refused(
        &[insn(0x02, 0, 0, 2), load, RET],
        "instruction 1: M[3] is read, but on a way to here nothing was stored into it",
    );
    Filter::new(&[store, load, RET]).unwrap();
    // One way stores it, the other does not.
    let branch = insn(0x15, 1, 0, 0);
    refused(
        &[branch, store, load, RET],
        "instruction 2: M[3] is read, but on a way to here nothing was stored into it",
    );
    Filter::new(&[insn(0x15, 0, 2, 0), store, insn(0x05, 0, 0, 1), insn(0x03, 0, 0, 3), load, RET]).unwrap();
}

#[test]
fn a_filter_becomes_a_socket_filter() {
    let program = Filter::parse(UDP_53).unwrap().translate("udp_53");
    let listing: Vec<String> = program.insns.iter().map(|(pc, insn)| format!("{pc}: {insn}")).collect();
    let wanted = "\
0: r6 = r1
1: w0 = 0
2: w7 = 0
3: r0 = *(u16 *)skb[12]
4: if w0 != 0x800 goto pc+16
5: r0 = *(u8 *)skb[23]
6: if w0 != 0x11 goto pc+14
7: r0 = *(u16 *)skb[20]
8: if w0 & 0x1fff goto pc+12";
    assert_eq!(listing[..9], wanted.lines().collect::<Vec<_>>()[..], "{}", listing.join("\n"));
    assert_eq!((program.name.as_str(), program.section.as_str()), ("udp_53", "cbpf"));
}

#[test]
fn what_nothing_reaches_is_left_out() {
    let skipped = Filter::new(&[insn(0x05, 0, 0, 1), insn(0x34, 0, 0, 5), RET]).unwrap();
    let direct = Filter::new(&[RET]).unwrap();
    let len = |filter: &Filter| filter.translate("f").insns.len();
    assert_eq!(len(&skipped), len(&direct) + 1, "only the jump is more");
    let none = Filter::new(&[insn(0x15, 0, 0, 7), RET]).unwrap();
    assert_eq!(len(&none), len(&direct), "a condition that decides nothing");
}

#[test]
fn ancillary_data_has_fields() {
    use crate::context::describe;
    use crate::object::ProgType;
    let fields = describe(ProgType::SOCKET_FILTER).unwrap().context;
    for offset in (0..64).step_by(4) {
        let what = Ancillary::at(offset).unwrap();
        if let super::ancillary::Origin::Field(name) | super::ancillary::Origin::Swapped(name) = what.origin() {
            assert!(fields.field(name).is_some_and(|field| field.size == 4), "{what:?}");
        }
    }
    assert!(fields.field("len").is_some());
}
