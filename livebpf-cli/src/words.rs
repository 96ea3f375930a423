//! Reading a command's words from left to right, with errors that say what was wanted.

use crate::error::CliError;

/// The words still to be read.
pub struct Words<'a> {
    words: &'a [String],
    next: usize,
}

impl<'a> Words<'a> {
    /// All words of a command.
    pub fn new(words: &'a [String]) -> Words<'a> {
        Words { words, next: 0 }
    }

    /// The next word, without taking it.
    pub fn peek(&self) -> Option<&'a str> {
        self.words.get(self.next).map(String::as_str)
    }

    /// Takes the next word; `wanted` says what it should be.
    pub fn take(&mut self, wanted: &str) -> Result<&'a str, CliError> {
        let word = self.peek().ok_or_else(|| CliError::usage(format!("the command ends where {wanted} is wanted")))?;
        self.next += 1;
        Ok(word)
    }

    /// Takes the next word if it is `word`.
    pub fn accept(&mut self, word: &str) -> bool {
        let there = self.peek() == Some(word);
        self.next += usize::from(there);
        there
    }

    /// Takes the next word, which has to be `word`.
    pub fn expect(&mut self, word: &str) -> Result<(), CliError> {
        match self.take(&format!("`{word}`"))? {
            found if found == word => Ok(()),
            found => Err(CliError::usage(format!("found {found:?} where `{word}` is wanted"))),
        }
    }

    /// Takes a number, decimal or `0x` hexadecimal.
    pub fn number(&mut self, wanted: &str) -> Result<u64, CliError> {
        let word = self.take(wanted)?;
        let parsed = match word.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16),
            None => word.parse(),
        };
        parsed.map_err(|_| CliError::usage(format!("found {word:?} where {wanted} is wanted")))
    }

    /// There must be no more words.
    pub fn end(&self) -> Result<(), CliError> {
        match self.peek() {
            None => Ok(()),
            Some(word) => Err(CliError::usage(format!("found {word:?} behind the end of the command"))),
        }
    }
}
