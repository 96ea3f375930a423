//! `bpf_trace_printk`: the kernel's format rules, into the runtime's log.
//!
//! Formats are what `bpf_bprintf_prepare` in kernel/bpf/helpers.c accepts: printable ASCII, white space and bytes from
//! 0x80; `%%`; flags from `0+- ` and a width, then one of `d i u x X` with `l` or `ll` before it, `c`, `s`, and `p` with
//! `K x s S B ks us I4 i4 I6 i6` or nothing behind it. At most three arguments. Everything else is -EINVAL.
//!
//! Three things differ. A string or an IP address is read only from memory of the running program (the kernel tries
//! any address); from elsewhere a string is `(fault)` and an address is zero, which is what the kernel makes of one
//! that it cannot read. `%p` prints a number that stands for the pointer, as in the kernel, but another one. And there
//! are no symbols: `%ps` and the like print the number.
#![allow(unsafe_code)]

use std::hash::{BuildHasher, RandomState};
use std::sync::OnceLock;

use super::{current, errno};
use crate::map::cell::Slice;

/// Longest text, its terminating NUL included (`MAX_BPRINTF_BUF`).
const TEXT_MAX: usize = 1024;
/// Widest field; wider ones are cut to this (Linux 6.18; older kernels went further).
const WIDTH_MAX: usize = 32767;
/// Longest string argument (what the kernel's buffer for converted arguments holds).
const STRING_MAX: usize = 511;

/// `long bpf_trace_printk(fmt, fmt_size, ...)`: length of the text, or -EINVAL.
///
/// # Safety
/// R1 points to R2 (32 bits) readable bytes.
pub(super) unsafe fn trace_printk([format, size, arg1, arg2, arg3]: [u64; 5]) -> u64 {
    // SAFETY: as the caller promises.
    let format = unsafe { Slice::from_raw(format, size as u32 as usize) };
    print(format, &[arg1, arg2, arg3])
}

/// Writes a line to the log; its length, or -EINVAL.
pub(super) fn print(format: Slice<'_>, args: &[u64]) -> u64 {
    let Some(format) = until_nul(format) else { return errno(libc::EINVAL) };
    match text(&format, args, current::readable) {
        Some(text) => {
            current::trace(&String::from_utf8_lossy(&text.kept));
            text.len as u64
        }
        None => errno(libc::EINVAL),
    }
}

/// The bytes before the first NUL; `None` where there is none.
fn until_nul(memory: Slice<'_>) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 128];
    while let Some(rest) = memory.sub(bytes.len(), memory.len() - bytes.len()).filter(|rest| !rest.is_empty()) {
        let len = rest.read(&mut chunk);
        let part = &chunk[..len];
        if let Some(end) = part.iter().position(|&b| b == 0) {
            bytes.extend_from_slice(&part[..end]);
            return Some(bytes);
        }
        bytes.extend_from_slice(part);
    }
    None
}

/// A text as `snprintf` makes it: what fits is kept, the length is that of all of it.
#[derive(Default)]
pub(super) struct Text {
    pub(super) kept: Vec<u8>,
    pub(super) len: usize,
}

impl Text {
    fn push(&mut self, bytes: &[u8]) {
        let room = (TEXT_MAX - 1).saturating_sub(self.kept.len());
        self.kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
        self.len += bytes.len();
    }

    fn fill(&mut self, byte: u8, count: usize) {
        let room = (TEXT_MAX - 1).saturating_sub(self.kept.len());
        self.kept.resize(self.kept.len() + count.min(room), byte);
        self.len += count;
    }

    /// `sign` and `body` in a field. Zeros go between the two.
    fn field(&mut self, spec: &Spec, sign: &[u8], body: &[u8], may_zero: bool) {
        let fill = spec.width.saturating_sub(sign.len() + body.len());
        let zeros = may_zero && spec.zero && !spec.left;
        if !spec.left && !zeros {
            self.fill(b' ', fill);
        }
        self.push(sign);
        if zeros {
            self.fill(b'0', fill);
        }
        self.push(body);
        if spec.left {
            self.fill(b' ', fill);
        }
    }
}

/// Flags and width of one conversion.
#[derive(Default)]
struct Spec {
    zero: bool,
    plus: bool,
    space: bool,
    left: bool,
    width: usize,
}

/// What a conversion makes of its argument.
enum Conversion {
    /// 32 or 64 bits, signed.
    Signed {
        bits: u32,
    },
    /// 32 or 64 bits, unsigned.
    Unsigned {
        bits: u32,
        radix: Radix,
    },
    Char,
    Str,
    /// A number that stands for the pointer.
    Hashed,
    /// The pointer itself.
    Raw,
    /// `0x` and the pointer itself: an address without a symbol.
    Symbol,
    /// The same, ignoring the width.
    BareSymbol,
    /// An IP address in memory, ignoring the width.
    Ip {
        v6: bool,
        padded: bool,
    },
}

#[derive(Clone, Copy)]
enum Radix {
    Decimal,
    Lower,
    Upper,
}

/// Formats; `None` where the format is not accepted.
pub(super) fn text(format: &[u8], args: &[u64], readable: impl Fn(u64) -> Option<Slice<'static>>) -> Option<Text> {
    let control = |b: &u8| b.is_ascii() && !is_print(*b) && !is_space(*b);
    if format.iter().any(control) {
        return None;
    }
    let mut text = Text::default();
    let (mut rest, mut args) = (format, args.iter().copied());
    while let Some(at) = rest.iter().position(|&b| b == b'%') {
        text.push(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix(b"%") {
            text.push(b"%");
            rest = after;
            continue;
        }
        let arg = args.next()?;
        let (spec, after) = spec(rest);
        let (conversion, after) = conversion(after)?;
        rest = after;
        convert(&mut text, &spec, conversion, arg, &readable);
    }
    text.push(rest);
    Some(text)
}

/// Reads flags and width.
fn spec(mut rest: &[u8]) -> (Spec, &[u8]) {
    let mut spec = Spec::default();
    while let [flag @ (b'0' | b'+' | b'-' | b' '), after @ ..] = rest {
        match flag {
            b'0' => spec.zero = true,
            b'+' => spec.plus = true,
            b'-' => spec.left = true,
            _ => spec.space = true,
        }
        rest = after;
    }
    while let [digit @ b'0'..=b'9', after @ ..] = rest {
        spec.width = spec.width.saturating_mul(10).saturating_add(usize::from(digit - b'0')).min(WIDTH_MAX);
        rest = after;
    }
    (spec, rest)
}

/// Reads what stands behind flags and width.
fn conversion(rest: &[u8]) -> Option<(Conversion, &[u8])> {
    let (&letter, after) = rest.split_first()?;
    match letter {
        b'p' => return pointer(after),
        b's' => return ends(after).then_some((Conversion::Str, after)),
        b'c' => return Some((Conversion::Char, after)),
        _ => {}
    }
    let (bits, rest) = match rest {
        [b'l', b'l', after @ ..] | [b'l', after @ ..] => (64, after),
        _ => (32, rest),
    };
    let (&letter, after) = rest.split_first()?;
    let conversion = match letter {
        b'd' | b'i' => Conversion::Signed { bits },
        b'u' => Conversion::Unsigned { bits, radix: Radix::Decimal },
        b'x' => Conversion::Unsigned { bits, radix: Radix::Lower },
        b'X' => Conversion::Unsigned { bits, radix: Radix::Upper },
        _ => return None,
    };
    Some((conversion, after))
}

/// Reads what stands behind `%p`.
fn pointer(rest: &[u8]) -> Option<(Conversion, &[u8])> {
    if ends(rest) {
        return Some((Conversion::Hashed, rest));
    }
    match rest {
        [b'k' | b'u', b's', after @ ..] => ends(after).then_some((Conversion::Str, after)),
        [b'K', after @ ..] => Some((Conversion::Hashed, after)),
        [b'x', after @ ..] => Some((Conversion::Raw, after)),
        [b'B', after @ ..] => Some((Conversion::BareSymbol, after)),
        [b's' | b'S', after @ ..] => Some((Conversion::Symbol, after)),
        [letter @ (b'i' | b'I'), version @ (b'4' | b'6'), after @ ..] => {
            Some((Conversion::Ip { v6: *version == b'6', padded: *letter == b'i' }, after))
        }
        _ => None,
    }
}

/// Whether a conversion may end here.
fn ends(rest: &[u8]) -> bool {
    rest.first().is_none_or(|&b| is_space(b) || b.is_ascii_punctuation())
}

fn is_print(byte: u8) -> bool {
    (b' '..=b'~').contains(&byte)
}

/// As in C: `u8::is_ascii_whitespace` leaves the vertical tab out.
fn is_space(byte: u8) -> bool {
    byte == b' ' || (b'\t'..=b'\r').contains(&byte)
}

fn convert(
    text: &mut Text,
    spec: &Spec,
    conversion: Conversion,
    arg: u64,
    readable: impl Fn(u64) -> Option<Slice<'static>>,
) {
    match conversion {
        Conversion::Signed { bits } => {
            let number = if bits == 32 { i64::from(arg as i32) } else { arg as i64 };
            let sign: &[u8] = match number {
                ..0 => b"-",
                _ if spec.plus => b"+",
                _ if spec.space => b" ",
                _ => b"",
            };
            text.field(spec, sign, number.unsigned_abs().to_string().as_bytes(), true);
        }
        Conversion::Unsigned { bits, radix } => {
            let number = if bits == 32 { u64::from(arg as u32) } else { arg };
            let digits = match radix {
                Radix::Decimal => number.to_string(),
                Radix::Lower => format!("{number:x}"),
                Radix::Upper => format!("{number:X}"),
            };
            text.field(spec, b"", digits.as_bytes(), true);
        }
        Conversion::Char => text.field(spec, b"", &[arg as u8], false),
        Conversion::Str => {
            let string = readable(arg).and_then(|memory| {
                let len = memory.len().min(STRING_MAX);
                let mut bytes = memory.sub(0, len)?.to_vec();
                bytes.truncate(bytes.iter().position(|&b| b == 0).unwrap_or(len));
                Some(bytes)
            });
            text.field(spec, b"", string.as_deref().unwrap_or(b"(fault)"), false);
        }
        Conversion::Hashed => text.field(spec, b"", format!("{:016x}", stand_in(arg)).as_bytes(), false),
        Conversion::Raw => text.field(spec, b"", format!("{arg:016x}").as_bytes(), false),
        Conversion::Symbol => text.field(spec, b"", format!("{arg:#x}").as_bytes(), false),
        Conversion::BareSymbol => text.push(format!("{arg:#x}").as_bytes()),
        Conversion::Ip { v6, padded } => {
            let mut address = [0; 16];
            let len = if v6 { 16 } else { 4 };
            if let Some(memory) = readable(arg).and_then(|memory| memory.sub(0, len)) {
                memory.read(&mut address);
            }
            text.push(ip(&address[..len], padded).as_bytes());
        }
    }
}

/// A number that stands for a pointer without telling it; 0 for 0.
fn stand_in(pointer: u64) -> u32 {
    static SECRET: OnceLock<RandomState> = OnceLock::new();
    if pointer == 0 { 0 } else { SECRET.get_or_init(RandomState::new).hash_one(pointer) as u32 }
}

fn ip(address: &[u8], padded: bool) -> String {
    let join = |parts: Vec<String>, by: &str| parts.join(by);
    match (address.len(), padded) {
        (4, false) => join(address.iter().map(|b| b.to_string()).collect(), "."),
        (4, true) => join(address.iter().map(|b| format!("{b:03}")).collect(), "."),
        (_, padded) => {
            let groups = address.chunks(2).map(|g| g.iter().map(|b| format!("{b:02x}")).collect()).collect();
            join(groups, if padded { "" } else { ":" })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nothing(_: u64) -> Option<Slice<'static>> {
        None
    }

    fn show(format: &str, args: [u64; 3]) -> Option<String> {
        let text = text(format.as_bytes(), &args, nothing)?;
        assert_eq!(text.len, text.kept.len());
        Some(String::from_utf8(text.kept).unwrap())
    }

    /// Linux 6.18 answered the same lengths, and refused the same formats as in `other_formats_are_refused`.
    #[test]
    fn accepted_formats_print_as_in_c() {
        let minus = -5i64 as u64;
        for (format, args, want) in [
            ("plain\n", [0; 3], "plain\n"),
            ("100%% of\t%d", [7, 0, 0], "100% of\t7"),
            ("%d %i %u", [minus, minus, minus], "-5 -5 4294967291"),
            ("%ld %lu %llx", [minus, minus, minus], "-5 18446744073709551611 fffffffffffffffb"),
            ("%lli|%x|%X", [minus, minus, minus], "-5|fffffffb|FFFFFFFB"),
            ("[%5d][%-5d][%05d]", [42, 42, 42], "[   42][42   ][00042]"),
            ("[%05d][%+d][% d]", [minus, 5, 5], "[-0005][+5][ 5]"),
            ("[%-05d][%5d][%+05d]", [42, minus, 42], "[42   ][   -5][+0042]"),
            ("[%08lx][%3c][%-3c]", [0xbeef, 65, 66], "[0000beef][  A][B  ]"),
            ("%c%c%c", [104, 105, 0x1_0021], "hi!"),
            ("%px.%ps", [0xdead, 0xbeef, 0], "000000000000dead.0xbeef"),
            ("%p", [0; 3], "0000000000000000"),
            ("%pI4 %pi4 %pI6", [0; 3], "0.0.0.0 000.000.000.000 0000:0000:0000:0000:0000:0000:0000:0000"),
            ("[%+x][% u][%02c]", [5, 5, 65], "[5][5][ A]"),
            ("[%-20pI4][%20pi4][%9pB]", [0; 3], "[0.0.0.0][000.000.000.000][0x0]"),
            ("%s,%pks", [0, 1, 0], "(fault),(fault)"),
            ("\u{e4}\u{f6}%d", [1, 0, 0], "\u{e4}\u{f6}1"),
        ] {
            assert_eq!(show(format, args).as_deref(), Some(want), "{format:?}");
        }
    }

    #[test]
    fn a_pointer_is_not_told_but_recognised() {
        let one = show("%p", [0xdead_beef_1234, 0, 0]).unwrap();
        assert_eq!(Some(&one), show("%pK", [0xdead_beef_1234, 0, 0]).as_ref());
        assert!(one.starts_with("00000000") && one.len() == 16 && !one.contains("1234"));
    }

    #[test]
    fn strings_are_read_from_the_programs_memory() {
        let memory: &'static crate::map::cell::Bytes = Box::leak(Box::new(crate::map::cell::Bytes::zeroed(8).unwrap()));
        memory.slice().write(b"abc\0xyzw");
        let readable = |addr| memory.slice().sub(memory.slice().find(addr, 0)?, 8 - memory.slice().find(addr, 0)?);
        let at = memory.addr();
        let shown = text(b"<%5s|%s|%-4s>", &[at, at + 4, at + 3], readable).unwrap().kept;
        assert_eq!(shown, b"<  abc|xyzw|    >", "the end of the memory ends a string, too");
        assert_eq!(text(b"%pI4", &[at, 0, 0], readable).unwrap().kept, b"97.98.99.0");
        assert_eq!(text(b"%pI4", &[at + 5, 0, 0], readable).unwrap().kept, b"0.0.0.0");
    }

    #[test]
    fn other_formats_are_refused() {
        for format in [
            "%",
            "%l",
            "%5",
            "%-",
            "%q",
            "%hd",
            "%lld%d%d%d",
            "%.3d",
            "%*d",
            "%#x",
            "%f",
            "%n",
            "%lc",
            "%ls",
            "%llp",
            "%sx",
            "%p5",
            "%pQ",
            "%pI5",
            "%pks1",
            "%L",
            "%z",
            "bell\x07",
            "esc\x1b[0m",
            "\x7f",
        ] {
            assert_eq!(show(format, [1, 2, 3]), None, "{format:?}");
        }
    }

    #[test]
    fn long_texts_are_cut_but_counted() {
        let cut = text(b"%99999999999999999999d!", &[1, 0, 0], nothing).unwrap();
        assert_eq!((cut.kept.len(), cut.len), (1023, WIDTH_MAX + 1));
        let cut = text(&[b'x'; 5000], &[0; 3], nothing).unwrap();
        assert_eq!((cut.kept.len(), cut.len), (1023, 5000));
    }

    #[test]
    fn the_helper_wants_a_terminated_format_and_answers_the_length() {
        let call = |bytes: &[u8]| {
            let mut bytes = bytes.to_vec();
            let format = Slice::from_mut(&mut bytes);
            // SAFETY: the format is that long.
            unsafe { trace_printk([format.addr(), format.len() as u64, 12, 0, 0]) as i64 }
        };
        assert_eq!(call(b"n=%d\n\0"), 5);
        assert_eq!(call(b"n=%d\n\0junk %q"), 5);
        assert_eq!(call(b"\0"), 0);
        assert_eq!(call(b"n=%d\n"), -i64::from(libc::EINVAL));
        assert_eq!(call(&[b'a'; 300]), -i64::from(libc::EINVAL));
        assert_eq!(call(&[&[b'a'; 300][..], b"\0"].concat()), 300);
    }
}
