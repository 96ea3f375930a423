//! bpftool's byte lists: `key 0 0 0 0`, `value hex 0a 00`, and their printed forms.

use serde_json::{Value, json};

use crate::error::CliError;
use crate::words::Words;

/// Takes `count` bytes: decimal or `0x` numbers, or hexadecimal ones after the word `hex`.
pub fn take(words: &mut Words<'_>, what: &str, count: usize) -> Result<Vec<u8>, CliError> {
    let hex = words.accept("hex");
    let mut bytes = Vec::with_capacity(count.min(4096));
    while bytes.len() < count {
        let wanted = format!("byte {} of {count} of the {what}", bytes.len() + 1);
        let word = words.take(&wanted)?;
        let digits = word.strip_prefix("0x");
        let parsed = match (hex, digits) {
            (_, Some(digits)) => u8::from_str_radix(digits, 16),
            (true, None) => u8::from_str_radix(word, 16),
            (false, None) => word.parse(),
        };
        bytes.push(parsed.map_err(|_| CliError::usage(format!("found {word:?} where {wanted} is wanted")))?);
    }
    Ok(bytes)
}

/// `["0x0a","0x00"]`
pub fn to_json(bytes: &[u8]) -> Value {
    bytes.iter().map(|b| json!(format!("0x{b:02x}"))).collect()
}

/// `0a 00`
pub fn to_text(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(" ")
}

/// A hex dump, 16 bytes a line with offsets.
pub fn dump(bytes: &[u8]) -> String {
    bytes.chunks(16).enumerate().map(|(n, line)| format!("{:04x}: {}\n", n * 16, to_text(line))).collect()
}
