//! The decimal text of `tcpdump -ddd`.

use super::error::CbpfError;
use super::{ClassicInsn, MAX_INSNS};

/// Longest part of a wrong line that an error shows.
const SHOWN: usize = 60;

/// Reads a count and that many lines of four numbers.
pub(super) fn parse(text: &str) -> Result<Vec<ClassicInsn>, CbpfError> {
    let lines = text.split(['\n', ',']).enumerate().map(|(i, line)| (i + 1, line.trim()));
    let mut lines = lines.filter(|(_, line)| !line.is_empty());
    let (first, head) = lines.next().unwrap_or((1, ""));
    let wrong =
        |line: usize, found: &str, wanted| CbpfError::Line { line, found: found.chars().take(SHOWN).collect(), wanted };
    let count: usize = head.parse().map_err(|_| wrong(first, head, "the number of instructions"))?;
    if !(1..=MAX_INSNS).contains(&count) {
        return Err(CbpfError::Count { found: count });
    }
    let mut insns = Vec::with_capacity(count);
    for (line, text) in lines {
        if insns.len() == count {
            return Err(CbpfError::More { line, wanted: count });
        }
        insns.push(instruction(text).ok_or_else(|| wrong(line, text, "four numbers: code, jt, jf and k"))?);
    }
    if insns.len() < count {
        return Err(CbpfError::Cut { found: insns.len(), wanted: count });
    }
    Ok(insns)
}

fn instruction(line: &str) -> Option<ClassicInsn> {
    let mut words = line.split_whitespace();
    let insn = ClassicInsn {
        code: words.next()?.parse().ok()?,
        jt: words.next()?.parse().ok()?,
        jf: words.next()?.parse().ok()?,
        k: words.next()?.parse().ok()?,
    };
    words.next().is_none().then_some(insn)
}
