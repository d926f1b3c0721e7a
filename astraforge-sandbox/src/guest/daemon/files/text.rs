//! Reads lines of text, however large the file and however long its lines.

use std::io::{BufRead, BufReader, Read};

use astraforge_core::files::{FileErrorKind, TextWindow};

use super::place::{fail, io_failure};
use crate::guest::frame::Failure;

/// The most text of one answer, in bytes.
const MAX_TEXT: usize = 8 * 1024 * 1024;

/// Reads at most `limit` lines after the first `offset`, and counts all.
pub(super) fn read(file: impl Read, offset: u64, limit: u64, max_bytes: usize) -> Result<TextWindow, Failure> {
    let max_bytes = max_bytes.min(MAX_TEXT);
    let mut reader = BufReader::with_capacity(64 * 1024, file);
    let mut window = Window { text: Vec::new(), n_lines: 0, truncated: false };
    let (mut line, mut in_line) = (0_u64, false);
    loop {
        let chunk = reader.fill_buf().map_err(io_failure)?;
        if chunk.is_empty() {
            break;
        }
        if chunk.contains(&0) {
            return Err(fail(FileErrorKind::NotText, "it holds NUL bytes: download it instead"));
        }
        for piece in chunk.split_inclusive(|byte| *byte == b'\n') {
            if line >= offset && line - offset < limit {
                window.take(piece, !in_line, max_bytes);
            }
            in_line = !piece.ends_with(b"\n");
            line += u64::from(!in_line);
        }
        let n_bytes = chunk.len();
        reader.consume(n_bytes);
    }
    let total_lines = line + u64::from(in_line);
    let text = window.text()?;
    let first_line = if window.n_lines == 0 { 0 } else { offset + 1 };
    Ok(TextWindow { text, first_line, n_lines: window.n_lines, total_lines, truncated: window.truncated })
}

struct Window {
    text: Vec<u8>,
    n_lines: u64,
    truncated: bool,
}

impl Window {
    fn take(&mut self, piece: &[u8], begins: bool, max_bytes: usize) {
        if self.truncated {
            return;
        }
        let room = max_bytes - self.text.len();
        self.n_lines += u64::from(begins && room > 0);
        self.text.extend_from_slice(&piece[..piece.len().min(room)]);
        self.truncated = piece.len() > room;
    }

    /// The text; one that was cut is cut between characters.
    fn text(&mut self) -> Result<String, Failure> {
        let not_text = || fail(FileErrorKind::NotText, "it is not UTF-8: download it instead");
        match String::from_utf8(std::mem::take(&mut self.text)) {
            Ok(text) => Ok(text),
            Err(error) if self.truncated && error.utf8_error().error_len().is_none() => {
                let whole = error.utf8_error().valid_up_to();
                let mut bytes = error.into_bytes();
                bytes.truncate(whole);
                String::from_utf8(bytes).map_err(|_| not_text())
            }
            Err(_) => Err(not_text()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(contents: &str, offset: u64, limit: u64, max: usize, expected: (&str, u64, u64, u64, bool)) {
        let it = read(contents.as_bytes(), offset, limit, max).unwrap();
        assert_eq!((it.text.as_str(), it.first_line, it.n_lines, it.total_lines, it.truncated), expected);
    }

    #[test]
    fn windows_are_exact() {
        check("a\nb\nc\n", 0, 10, 100, ("a\nb\nc\n", 1, 3, 3, false));
        check("a\nb\nc", 1, 1, 100, ("b\n", 2, 1, 3, false));
        check("a\r\nb\r\n", 1, 5, 100, ("b\r\n", 2, 1, 2, false));
        check("a\nb\nc", 2, 5, 100, ("c", 3, 1, 3, false));
        check("a\nb\n", 2, 5, 100, ("", 0, 0, 2, false));
        check("a\nb\n", 0, 0, 100, ("", 0, 0, 2, false));
        check("", 0, 10, 100, ("", 0, 0, 0, false));
        check("\n\n", 0, 10, 100, ("\n\n", 1, 2, 2, false));
        check("aé\nb\n", 0, 10, 2, ("a", 1, 1, 2, true));
        check("ab\ncd\n", 0, 10, 3, ("ab\n", 1, 1, 2, true));
    }

    #[test]
    fn lines_longer_than_any_buffer_are_one_line() {
        let long = "x".repeat(1_000_000) + "\nnext\n";
        let window = read(long.as_bytes(), 0, 1, 10).unwrap();
        assert_eq!((window.n_lines, window.total_lines, window.text.len(), window.truncated), (1, 2, 10, true));
        assert_eq!(read(long.as_bytes(), 1, 1, 10).unwrap().text, "next\n");
    }

    #[test]
    fn what_is_not_text_is_refused() {
        for bytes in [&b"a\0b"[..], b"\xff\xfe", b"ok\n\xc3"] {
            assert!(matches!(read(bytes, 0, 10, 100), Err(Failure::File { kind: FileErrorKind::NotText, .. })));
        }
    }
}
