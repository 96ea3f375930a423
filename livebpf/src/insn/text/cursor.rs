//! A place in one line of text, and the tokens that can be taken from there.

use super::super::{Reg, Width};
use super::TextError;

/// A number as it was written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Number {
    pub value: i128,
    /// Hexadecimal: may be meant as bits, so that `0xffffffff` is -1 in 32 bits.
    pub hex: bool,
}

/// A place in one line.
#[derive(Clone, Copy)]
pub(super) struct Cursor<'a> {
    text: &'a str,
    pos: usize,
    line: u32,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(text: &'a str, line: u32) -> Cursor<'a> {
        Cursor { text, pos: 0, line }
    }

    /// What has not been read, beginning with the next token.
    pub(super) fn rest(&self) -> &'a str {
        self.text.get(self.pos..).unwrap_or("").trim_start()
    }

    /// Nothing but a comment follows.
    pub(super) fn at_end(&self) -> bool {
        let rest = self.rest();
        rest.is_empty() || rest.starts_with([';', '#']) || rest.starts_with("//")
    }

    /// An error about what stands here.
    #[cold]
    pub(super) fn wanted(&self, wanted: impl Into<String>) -> TextError {
        let rest = self.rest();
        let start = self.text.len() - rest.len();
        let word_end = rest.find(char::is_whitespace).unwrap_or(rest.len());
        let found = if self.at_end() {
            "the end of the instruction".to_owned()
        } else {
            format!("`{}`", rest[..word_end].chars().take(40).collect::<String>())
        };
        self.error_at(start, found, wanted)
    }

    /// An error about what was read since `start`.
    #[cold]
    pub(super) fn wanted_since(&self, start: Cursor<'a>, wanted: impl Into<String>) -> TextError {
        let from = start.text.len() - start.rest().len();
        let read = self.text.get(from..self.pos.max(from)).unwrap_or("").trim_end();
        self.error_at(from, format!("`{}`", read.chars().take(60).collect::<String>()), wanted)
    }

    fn error_at(&self, byte: usize, found: String, wanted: impl Into<String>) -> TextError {
        let before = self.text.get(..byte).unwrap_or(self.text);
        let column = u32::try_from(before.chars().count()).unwrap_or(u32::MAX).saturating_add(1);
        TextError { line: self.line, column, found, wanted: wanted.into() }
    }

    fn advance_to(&mut self, rest: &'a str) {
        self.pos = self.text.len() - rest.len();
    }

    /// Takes `token` if it comes next.
    pub(super) fn eat(&mut self, token: &str) -> bool {
        match self.rest().strip_prefix(token) {
            Some(rest) => {
                self.advance_to(rest);
                true
            }
            None => false,
        }
    }

    /// Takes `token`, which must come next.
    pub(super) fn expect(&mut self, token: &str) -> Result<(), TextError> {
        if self.eat(token) { Ok(()) } else { Err(self.wanted(format!("`{token}`"))) }
    }

    /// Takes the first of the table's keys that comes next.
    pub(super) fn one_of<T: Copy>(&mut self, table: &[(&str, T)]) -> Option<T> {
        table.iter().find(|(token, _)| self.eat(token)).map(|(_, value)| *value)
    }

    /// The identifier that comes next, without taking it. Identifiers may hold dots and dollars, as symbols do.
    pub(super) fn peek_ident(&self) -> Option<&'a str> {
        let rest = self.rest();
        let is_first = |c: char| c.is_ascii_alphabetic() || matches!(c, '_' | '.' | '$');
        if !rest.starts_with(is_first) {
            return None;
        }
        let end = rest.find(|c: char| !is_first(c) && !c.is_ascii_digit()).unwrap_or(rest.len());
        Some(&rest[..end])
    }

    /// Takes an identifier.
    pub(super) fn ident(&mut self) -> Option<&'a str> {
        let ident = self.peek_ident()?;
        let rest = &self.rest()[ident.len()..];
        self.advance_to(rest);
        Some(ident)
    }

    /// Takes the identifier `word` if it comes next.
    pub(super) fn word(&mut self, word: &str) -> bool {
        self.peek_ident() == Some(word) && self.ident().is_some()
    }

    /// Takes a register, `r0` to `r10` or `w0` to `w10`, if one comes next.
    pub(super) fn register(&mut self) -> Option<(Width, Reg)> {
        let found = register_name(self.peek_ident()?)?;
        self.ident();
        Some(found)
    }

    /// Takes a number with an optional sign, `-` and `+` possibly apart from the digits.
    pub(super) fn number(&mut self) -> Option<Number> {
        let rest = self.rest();
        let (negative, digits) = match rest.strip_prefix(['-', '+']) {
            Some(digits) => (rest.starts_with('-'), digits.trim_start()),
            None => (false, rest),
        };
        let (hex, digits) = match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
            Some(digits) => (true, digits),
            None => (false, digits),
        };
        let radix = if hex { 16 } else { 10 };
        let end = digits.find(|c: char| !c.is_digit(radix)).unwrap_or(digits.len());
        let value = i128::from(u64::from_str_radix(&digits[..end], radix).ok()?);
        self.advance_to(&digits[end..]);
        Some(Number { value: if negative { -value } else { value }, hex })
    }

    /// Takes a number that fits `T`.
    pub(super) fn fits<T: TryFrom<i128>>(&mut self, wanted: &str) -> Result<T, TextError> {
        let start = *self;
        let number = self.number().ok_or_else(|| start.wanted(wanted))?;
        T::try_from(number.value).map_err(|_| self.wanted_since(start, wanted))
    }
}

/// The register that `name` names.
fn register_name(name: &str) -> Option<(Width, Reg)> {
    let (width, digits) = match name.as_bytes().first()? {
        b'r' => (Width::W64, name.get(1..)?),
        b'w' => (Width::W32, name.get(1..)?),
        _ => return None,
    };
    let canonical = matches!(digits.len(), 1 | 2) && (digits.len() == 1 || !digits.starts_with('0'));
    let number = digits.parse().ok().filter(|_| canonical)?;
    Some((width, Reg::new(number)?))
}
