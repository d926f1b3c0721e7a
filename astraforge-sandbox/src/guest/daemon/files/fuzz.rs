//! What fuzzing asks of edits and patterns.

use std::path::Path;

use astraforge_core::files::{FileErrorKind, Occurrences};

use super::{edit::replace, search::NamePattern};
use crate::guest::frame::Failure;

/// An edit: the text, what is replaced and by what, each ended by a NUL.
pub fn edit(data: &[u8]) {
    let Ok(all) = std::str::from_utf8(data) else { return };
    let mut parts = all.splitn(3, '\0');
    let (Some(text), Some(old), Some(new)) = (parts.next(), parts.next(), parts.next()) else { return };
    let kind = |failure: Failure| match failure {
        Failure::File { kind, .. } => kind,
        other => panic!("an edit fails with {other:?}"),
    };
    let every = replace(text, old, new, Occurrences::All).map_err(kind);
    let unique = replace(text, old, new, Occurrences::Unique).map_err(kind);
    match (&every, &unique) {
        (Ok((_, 1)), Ok(_)) | (Err(_), Err(_)) => assert_eq!(every, unique),
        (Ok((_, n)), Err(FileErrorKind::ManyMatches)) => assert!(*n > 1),
        other => panic!("all and one of them do not go together: {other:?}"),
    }
    if !text.contains('\r')
        && let Ok((edited, n)) = every
    {
        assert_eq!((&edited, n), (&text.replace(old, new), text.matches(old).count() as u64));
    }
}

/// A pattern for names, a line end, and a path.
pub fn glob(data: &[u8]) {
    let Some((pattern, path)) = std::str::from_utf8(data).ok().and_then(|text| text.split_once('\n')) else { return };
    let Ok(understood) = NamePattern::new(pattern) else { return };
    let is_met = understood.is_met(Path::new(path));
    let is_hidden = Path::new(path).iter().any(|part| part.as_encoded_bytes().starts_with(b"."));
    let asks_for_it = pattern.split('/').any(|part| part.starts_with('.'));
    assert!(!(is_met && is_hidden && !asks_for_it), "a hidden name is met by what does not ask for it");
}

/// Inputs that are right, to begin with.
pub(crate) fn seeds() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    vec![
        ("edit", "unique", b"one two three\0two\x002".to_vec()),
        ("edit", "many", b"a a\0a\0b".to_vec()),
        ("edit", "crlf", b"one\r\ntwo\r\n\0one\ntwo\0two\none".to_vec()),
        ("edit", "none", b"text\0other\0new".to_vec()),
        ("glob", "name", b"*.rs\nsrc/main.rs".to_vec()),
        ("glob", "path", b"src/**/[a-m]?{x,y}.rs\nsrc/deep/er/abx.rs".to_vec()),
        ("glob", "hidden", b".git*/**\n.github/workflows/ci.yml".to_vec()),
    ]
}
