//! `livebpf-conformance`: the suite's protocol, and refusals of everything that is none.

mod common;

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use common::{ENGINES, Ran};

fn plugin(args: &[&str], input: &[u8]) -> Ran {
    let mut child = Command::new(env!("CARGO_BIN_EXE_livebpf-conformance"))
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    // A child that does not read its input may be gone already.
    let _ = child.stdin.take().expect("piped").write_all(input);
    let out = child.wait_with_output().expect("the binary ends");
    Ran {
        status: out.status.code().expect("no signal ended it"),
        stdout: String::from_utf8(out.stdout).expect("text"),
        stderr: String::from_utf8(out.stderr).expect("text"),
    }
}

#[track_caller]
fn check(args: &[&str], input: &str, wanted: (i32, &str, &str)) {
    let ran = plugin(args, input.as_bytes());
    assert_eq!((ran.status, ran.stdout.as_str(), ran.stderr.as_str()), wanted, "{args:?} < {input:?}");
}

/// `r0 = *(u64 *)(r1 + 0); r0 += r2; exit`
const SUM: &str = "79 10 00 00 00 00 00 00  0f 20 00 00 00 00 00 00  95 00 00 00 00 00 00 00";

#[test]
fn memory_and_its_length_are_the_arguments() {
    for engine in ENGINES {
        let engine = ["--engine", engine];
        // As the suite writes it: two spaces between two bytes, and one at the end.
        let memory = "f0  ff  ff  ff  ff  ff  ff  7f  ";
        check(&[&[memory], &engine[..]].concat(), &format!("{SUM} \n"), (0, "7ffffffffffffff8\n", ""));
        check(&[&engine[..], &["0100000000000000"]].concat(), &SUM.replace(' ', ""), (0, "9\n", ""));
        // No memory: both are 0. An argument may be empty.
        check(&[&[""], &engine[..]].concat(), "bf100000000000000f200000000000009500000000000000", (0, "0\n", ""));
        check(
            &[&engine[..], &["--program", "b7000000ffffffff 9500000000000000"]].concat(),
            "",
            (0, "ffffffffffffffff\n", ""),
        );
    }
}

#[test]
fn memory_is_written_and_subprograms_are_found() {
    // `*(u8 *)(r1 + 1) = 7; r0 = *(u16 *)(r1 + 0); call +1; exit; r0 <<= 4; exit`
    let program =
        "7201010007000000 6910000000000000 8510000001000000 9500000000000000 6700000004000000 9500000000000000";
    for engine in ENGINES {
        check(&["ff 00", "--engine", engine], program, (0, "7ff0\n", ""));
    }
}

#[test]
fn objects() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../livebpf/tests/data");
    let hex = |path: &str| -> String {
        let bytes = std::fs::read(folder.join(path)).expect("the object is there");
        bytes.iter().map(|byte| format!("{byte:02x} ")).collect()
    };
    for engine in ENGINES {
        check(&["--elf", "--engine", engine], &hex("scenarios/bpf2bpf_2.o"), (0, "1\n", ""));
    }
    let ran = plugin(&["--elf"], hex("objects/functions.o").replacen("7f 45", "7f 46", 1).as_bytes());
    assert!(ran.status == 1 && ran.stderr.starts_with("Error: elf header: "), "{ran:?}");
}

/// The ELF that the suite writes: one section, one symbol, nothing else.
#[test]
fn objects_without_a_section_that_says_a_type() {
    let code = [0xb7, 0, 0, 0, 42, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0];
    for section in [".text", "xdp"] {
        let object = elf(section, &code);
        let hex: String = object.iter().map(|byte| format!("{byte:02x}  ")).collect();
        for engine in ENGINES {
            check(&["--engine", engine, "--elf"], &hex, (0, "2a\n", ""));
        }
    }
}

fn elf(section: &str, code: &[u8]) -> Vec<u8> {
    let names = format!("\0{section}\0.symtab\0.strtab\0main\0");
    let at = |name: &str| names.find(&format!("\0{name}\0")).expect("the name is there") as u32 + 1;
    let symbols_at = 64 + code.len();
    let names_at = symbols_at + 48;
    let headers_at = (names_at + names.len()).next_multiple_of(8);
    let mut out = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    [1u16, 247].iter().for_each(|v| out.extend(v.to_le_bytes()));
    out.extend(1u32.to_le_bytes());
    [0, 0, headers_at as u64].iter().for_each(|v| out.extend(v.to_le_bytes()));
    out.extend(0u32.to_le_bytes());
    [64u16, 0, 0, 64, 4, 3].iter().for_each(|v| out.extend(v.to_le_bytes()));
    out.extend(code);
    out.extend([0; 24]);
    out.extend(at("main").to_le_bytes());
    out.extend([0x12, 0, 1, 0]);
    [0, code.len() as u64].iter().for_each(|v| out.extend(v.to_le_bytes()));
    out.extend(names.as_bytes());
    out.resize(headers_at, 0);
    let mut header =
        |name: u32, kind: u32, flags: u64, offset: usize, size: usize, link: u32, info: u32, entry: u64| {
            [name, kind].iter().for_each(|v| out.extend(v.to_le_bytes()));
            [flags, 0, offset as u64, size as u64].iter().for_each(|v| out.extend(v.to_le_bytes()));
            [link, info].iter().for_each(|v| out.extend(v.to_le_bytes()));
            [4, entry].iter().for_each(|v| out.extend(v.to_le_bytes()));
        };
    header(0, 0, 0, 0, 0, 0, 0, 0);
    header(at(section), 1, 6, 64, code.len(), 0, 0, 0);
    header(at(".symtab"), 2, 0, symbols_at, 48, 3, 1, 24);
    header(at(".strtab"), 3, 0, names_at, names.len(), 0, 0, 0);
    out
}

#[test]
fn input_that_is_none() {
    let program = |text: &str, error: &str| check(&[], text, (1, "", &format!("Error: {error}\n")));
    program("", "program: found no bytes, wanted instructions of 8 bytes each, in hex");
    program("b7 00 0", "program: found half a byte at the end of \"0\" (byte 2), wanted pairs of digits");
    program("b7 0x", "program: found 'x' behind 1 bytes, wanted hexadecimal digits");
    program("b700 0000", "program: slot 0: 4 bytes at the end, wanted slots of 8 bytes");
    let ran = plugin(&[], b"b7 \xff\xfe");
    assert_eq!((ran.status, ran.stdout.as_str()), (1, ""), "{ran:?}");
    assert!(ran.stderr.contains("byte 3 of standard input is no text"), "{ran:?}");
    check(&["zz"], "", (2, "", "Error: memory: found 'z' behind 0 bytes, wanted hexadecimal digits\n"));
    check(&["00", "11"], "", (2, "", "Error: found \"11\" behind the memory, wanted one block of bytes in hex\n"));
    for wrong in [&["--engine", "fast"][..], &["--frob"], &["--timeout", "0"], &["--timeout", "soon"]] {
        let ran = plugin(wrong, b"");
        assert_eq!((ran.status, ran.stdout.as_str()), (2, ""), "{ran:?}");
        assert!(ran.stderr.contains("--help"), "{ran:?}");
    }
    let help = plugin(&["--help"], b"");
    assert_eq!((help.status, help.stderr.as_str()), (0, ""));
    assert!(help.stdout.contains("bpf_conformance") && help.stdout.contains("--elf"), "{}", help.stdout);
}

#[test]
fn programs_that_fail() {
    // `r0 = *(u8 *)(r1 + 2); exit` on two bytes
    let ran = plugin(&["00 00", "--engine", "interp"], b"7110020000000000 9500000000000000");
    assert_eq!((ran.status, ran.stdout.as_str()), (1, ""), "{ran:?}");
    assert!(ran.stderr.contains("instruction 0: a read of 1 bytes at 0x"), "{ran:?}");
    for engine in ENGINES {
        let ran = plugin(&["--engine", engine, "--timeout", "0.05"], b"05 00 ff ff 00 00 00 00");
        assert_eq!((ran.status, ran.stdout.as_str()), (1, ""), "{ran:?}");
        assert!(ran.stderr.contains("stopped after 50ms"), "{ran:?}");
    }
}

/// The reserved encodings of the library's tests.
#[test]
fn encodings_that_mean_nothing() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../livebpf/tests/data/conformance/reserved.txt");
    let text = std::fs::read_to_string(path).expect("the cases are there");
    let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    assert!(lines.len() >= 90);
    for (i, pair) in lines.chunks(2).enumerate() {
        let (code, wanted) = (pair[0].split_once(": ").expect("a name and bytes").1, pair[1].trim());
        let ran = plugin(&["--engine", ENGINES[i % 3]], code.as_bytes());
        assert_eq!((ran.status, ran.stdout.as_str()), (1, ""), "{}", pair[0]);
        let said = ran.stderr.lines().map(str::trim).collect::<Vec<_>>().join("; ");
        assert!(said.contains(wanted), "{}: {said:?}, wanted {wanted:?}", pair[0]);
    }
}
