//! Kernel-syntax text: the spelling of every form, what is read beyond it, and the exact errors.

use livebpf::insn::{Insns, text};

const FORMS: &str = include_str!("data/insn/forms.txt");

#[test]
fn the_forms_in_the_table_have_these_bytes_and_this_text() {
    let mut count = 0;
    for line in FORMS.lines().filter(|line| !line.starts_with('#')) {
        let (hex, spelled) = line.split_once(" | ").unwrap();
        let bytes: Vec<u8> = hex.split(' ').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
        let decoded = Insns::decode(&bytes).unwrap_or_else(|error| panic!("{line}: {error}"));
        let (_, insn) = decoded.iter().next().unwrap();
        assert_eq!(insn.to_string(), spelled);
        assert_eq!(text::parse(spelled), Ok(insn));
        assert_eq!(decoded.encode(), bytes, "{line}");
        count += 1;
    }
    assert!(count > 80, "only {count} forms");
}

/// Both spellings mean the same.
fn same(read: &str, written: &str) {
    let insn = text::parse(read).unwrap_or_else(|error| panic!("`{read}`: {error}"));
    assert_eq!(insn.to_string(), written);
}

#[test]
fn reading_is_wider_than_writing() {
    same("r1=0x10", "r1 = 16");
    same("  r1   =  - 5  ; comment", "r1 = -5");
    same("w1 = 0xffffffff", "w1 = -1");
    same("w1 = *(u32 *)(r2 + 0x8)", "r1 = *(u32 *)(r2 +8)");
    same("*(u8 *)(r2 + 0x0) = w1", "*(u8 *)(r2 +0) = r1");
    same("*(u32*)(r10-4)=0xffffffff // bits", "*(u32 *)(r10 -4) = -1");
    same("r1 = *(u32 *)(r2)", "r1 = *(u32 *)(r2 +0)");
    same("r1 = 5 ll", "r1 = 0x5 ll");
    same("r1 = -1 ll", "r1 = 0xffffffffffffffff ll");
    same("if r1 == -1 goto +0x5 <f+0x30>", "if r1 == 0xffffffff goto pc+5");
    same("goto -1", "goto pc-1");
    same("call 0x5", "call 5");
    same("call bpf_map_lookup_elem#1", "call 1");
    same("call unknown#4294967295", "call 4294967295");
    same("call -0x3", "call pc-3");
    same("r0 = *(u8 *)skb[r7]", "r0 = *(u8 *)skb[r7 + 0]");
    same("r0 = *(u8 *)skb[r7 - 4]", "r0 = *(u8 *)skb[r7 + -4]");
    same("w2 = atomic_fetch_add((u32 *)(r1 + 0x0), w2)", "r2 = atomic_fetch_add((u32 *)(r1 +0), r2)");
    same("r2 = atomic_fetch_add((u64 *)(r1 + 0x0), r2)", "r2 = atomic64_fetch_add((u64 *)(r1 +0), r2)");
}

#[test]
fn a_listing_may_have_labels_comments_slots_and_opcodes() {
    let labelled = text::assemble(
        "
        ; a comment line
        main:   r2 = map[idx:0]      # two slots
        again:  call func            // not a helper
                if r0 != 0 goto again
                r1 = subprog[func]
                exit
        func: f2:
                r0 = 0
                exit
        ",
    );
    // Targets count from the next slot, also those of the two-slot load.
    assert_eq!(
        labelled.unwrap().to_string(),
        "0: (18) r2 = map[idx:0]\n2: (85) call pc+4\n3: (55) if r0 != 0x0 goto pc-2\n\
         4: (18) r1 = subprog[+2]\n6: (95) exit\n7: (b7) r0 = 0\n8: (95) exit\n"
    );
    let dump = "
        ; int classifier_0(struct __sk_buff *skb)
        10: (18) r2 = 0xffff888103
        12: (b7) r3 = 0
        13: (85) call bpf_tail_call#12
        ; return 0;
        14: (95) exit";
    let read = text::assemble(dump).unwrap();
    assert_eq!(read.to_string(), "0: (18) r2 = 0xffff888103 ll\n2: (b7) r3 = 0\n3: (85) call 12\n4: (95) exit\n");
    assert_eq!(text::assemble("").unwrap().len(), 0);
}

#[test]
fn long_jumps_reach_and_short_ones_say_that_they_do_not() {
    let far = format!("gotol end\n{}end: exit", "r0 = 0\n".repeat(40_000));
    let read = text::assemble(&far).unwrap();
    assert_eq!(read.iter().next().unwrap().1.to_string(), "gotol pc+40000");
    let error = text::assemble(&far.replace("gotol", "goto")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "line 1, column 6: found `end`, wanted a label within reach: this is 40000 slots away"
    );
}

#[test]
fn errors_say_where_what_was_found_and_what_was_wanted() {
    let table = [
        (
            "",
            "line 1, column 1: found the end of the instruction, wanted an instruction: a register, `*(`, `if`, `goto`, `gotol`, `may_goto`, `call`, `callx`, `exit`, `lock` or `store_release`",
        ),
        (
            "r11 = 0",
            "line 1, column 1: found `r11`, wanted an instruction: a register, `*(`, `if`, `goto`, `gotol`, `may_goto`, `call`, `callx`, `exit`, `lock` or `store_release`",
        ),
        ("r1 5", "line 1, column 4: found `5`, wanted `=` or an operator such as `+=`"),
        ("r1 = w2", "line 1, column 6: found `w2`, wanted a register of the same width"),
        ("r1 += w2", "line 1, column 7: found `w2`, wanted a register, `r0` to `r10`"),
        (
            "r1 = 0x80000000",
            "line 1, column 6: found `0x80000000`, wanted a number of 32 bits with sign, or `ll` after it for one of 64 bits",
        ),
        ("r1 = 0x10000000000000000 ll", "line 1, column 6: found `0x10000000000000000`, wanted a value"),
        ("w1 = 5 ll", "line 1, column 6: found `5 ll`, wanted a 64-bit immediate only in an `r` register"),
        ("r1 = be16 r2", "line 1, column 11: found `r2`, wanted `r1`, the register that the result goes to"),
        (
            "r1 = be8 r1",
            "line 1, column 6: found `be8`, wanted a register, a number, a load, `be16`, `le16`, `bswap16` (or 32, 64), an atomic operation, `map[`, `btf[` or `subprog[`",
        ),
        ("r1 = -r2", "line 1, column 6: found `-r2`, wanted a value"),
        ("w1 = (s32)w2", "line 1, column 7: found `s32)w2`, wanted `s8` or `s16`"),
        (
            "r1 = *(u24 *)(r2 +0)",
            "line 1, column 8: found `u24`, wanted `u8`, `u16`, `u32`, `u64`, `s8`, `s16` or `s32`",
        ),
        (
            "r1 = *(s64 *)(r2 +0)",
            "line 1, column 8: found `s64`, wanted `u8`, `u16`, `u32`, `u64`, `s8`, `s16` or `s32`",
        ),
        ("r1 = *(u32 *)(r2 +32768)", "line 1, column 18: found `+32768`, wanted an offset of 16 bits with sign"),
        ("r1 = *(u8 *)skb[14]", "line 1, column 1: found `r1`, wanted `r0`, where a packet load leaves its result"),
        ("*(u64 *)(r10 -8) = w1", "line 1, column 20: found `w1`, wanted a register, `r0` to `r10`"),
        ("lock *(u8 *)(r1 +0) += r2", "line 1, column 7: found `(u8`, wanted `(u32 *)` or `(u64 *)`"),
        ("lock *(u64 *)(r1 +0) -= r2", "line 1, column 22: found `-=`, wanted `+=`, `|=`, `&=` or `^=`"),
        (
            "r3 = atomic64_xchg((u64 *)(r1 +0), r2)",
            "line 1, column 1: found `r3`, wanted `r2`, where this operation leaves its result",
        ),
        (
            "r0 = atomic64_cmpxchg((u64 *)(r1 +0), r3, r2)",
            "line 1, column 39: found `r3,`, wanted `r0`, which a compare and exchange compares with",
        ),
        ("r1 = atomic64_xchg((u32 *)(r1 +0), r1)", "line 1, column 20: found `(u32`, wanted `(u64 *)`"),
        ("r1 = map[id:3]", "line 1, column 10: found `id:3]`, wanted `fd:` or `idx:`"),
        (
            "if r1 = 5 goto pc+1",
            "line 1, column 7: found `=`, wanted a comparison: `==`, `!=`, `>`, `>=`, `<`, `<=`, `s>`, `s>=`, `s<`, `s<=` or `&`",
        ),
        ("if r1 == 5 goto pc+32768", "line 1, column 17: found `pc+32768`, wanted an offset of 16 bits with sign"),
        ("goto loop", "line 1, column 6: found `loop`, wanted a relative target such as `pc+3`"),
        (
            "call",
            "line 1, column 5: found the end of the instruction, wanted a helper's number, `name#number`, `kfunc:id`, `pc+3` or a label",
        ),
        ("exit now", "line 1, column 6: found `now`, wanted the end of the instruction"),
    ];
    for (input, message) in table {
        match text::parse(input) {
            Ok(insn) => panic!("`{input}` was read as `{insn}`"),
            Err(error) => assert_eq!(error.to_string(), message, "`{input}`"),
        }
    }
}

#[test]
fn errors_in_listings_name_their_line() {
    let table = [
        ("r0 = 0\ngoto out\nexit", "line 2, column 6: found `out`, wanted a label that is defined"),
        ("a: exit\na: exit", "line 2, column 1: found `a:`, wanted a label that is not defined before"),
        ("0: r0 = 0\n2: exit", "line 2, column 1: found `2`, wanted slot 1, which follows what stands before"),
        ("r0 = 0\n0: exit", "line 2, column 1: found `0`, wanted slot 1 or a later one: so many slots stand before"),
        ("0: (b7) w0 = 0", "line 1, column 4: found `(b7)`, wanted `(b4)`, the opcode of `w0 = 0`"),
        (
            "0: (zz) w0 = 0",
            "line 1, column 4: found `(zz)`, wanted an opcode of two hexadecimal digits, such as `(b7)`",
        ),
        ("0: (99) exit\n", "line 1, column 4: found `(99)`, wanted `(95)`, the opcode of `exit`"),
        ("exit exit", "line 1, column 6: found `exit`, wanted the end of the line"),
        ("pc: exit", "line 1, column 1: found `pc:`, wanted a label's name (`pc` means the position)"),
    ];
    for (input, message) in table {
        match text::assemble(input) {
            Ok(insns) => panic!("`{input}` was read as `{insns}`"),
            Err(error) => assert_eq!(error.to_string(), message, "`{input}`"),
        }
    }
}

#[test]
fn damaged_text_is_an_error_and_never_a_panic() {
    let source: Vec<&str> = FORMS.lines().filter_map(|line| line.split_once(" | ").map(|(_, text)| text)).collect();
    let mut refused = 0;
    for line in &source {
        for (at, _) in line.char_indices() {
            for put in ["", " ", "\u{e9}", "9", "r", "-", "(", "0x", ":", "<", "ll", "\u{7fff}"] {
                let mut damaged = format!("{}{put}{}", &line[..at], &line[at..]);
                refused += u32::from(text::assemble(&damaged).is_err());
                damaged.truncate(at + put.len());
                refused += u32::from(text::assemble(&damaged).is_err());
            }
        }
    }
    assert!(refused > 10_000, "only {refused} were refused");
}
