//! Texts with a NUL, which PostgreSQL has no place for, and an agent's output may have.
//!
//! A NUL becomes two characters, of which the first is one that Unicode keeps for inner use; so does that one itself.

use std::borrow::Cow;

const MARK: char = '\u{10fffe}';

/// What is written for a text.
pub(super) fn write(text: String) -> String {
    if !text.contains(['\0', MARK]) {
        return text;
    }
    let mut written = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        match character {
            '\0' => written.extend([MARK, '0']),
            MARK => written.extend([MARK, '1']),
            other => written.push(other),
        }
    }
    written
}

/// The text that something was written for.
pub(super) fn read(written: &str) -> Cow<'_, str> {
    if !written.contains(MARK) {
        return written.into();
    }
    let mut text = String::with_capacity(written.len());
    let mut characters = written.chars();
    while let Some(character) = characters.next() {
        match character {
            MARK if characters.next() == Some('0') => text.push('\0'),
            other => text.push(other),
        }
    }
    text.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str) {
        let written = write(text.to_owned());
        assert!(!written.contains('\0'), "{written:?}");
        assert_eq!(read(&written), text);
    }

    #[test]
    fn every_text_comes_back() {
        let parts = ["", "a", "\0", "\u{10fffe}", "\u{10fffe}0", "0", "1", "ä"];
        for text in parts.iter().flat_map(|a| parts.iter().flat_map(move |b| parts.map(|c| format!("{a}{b}{c}")))) {
            check(&text);
        }
    }

    #[test]
    fn ordinary_texts_are_written_as_they_are() {
        assert_eq!(write("plain".to_owned()), "plain");
        assert!(matches!(read("plain"), Cow::Borrowed("plain")));
    }
}
