//! Replaces text in a file, which is whole at every moment.

use std::{
    io::{Read, Write},
    os::{fd::OwnedFd, unix::fs::MetadataExt},
};

use astraforge_core::files::{Existing, FileErrorKind, Occurrences, Roots};

use super::{
    Draft, open_regular,
    place::{Place, fail, io_failure, real_path},
};
use crate::guest::frame::Failure;

/// The largest file that is edited, in bytes.
const MAX_FILE: u64 = 32 * 1024 * 1024;

pub(super) fn edit(
    roots: &Roots,
    place: &Place,
    old: &str,
    new: &str,
    occurrences: Occurrences,
) -> Result<u64, Failure> {
    let file = open_regular(place)?;
    let meta = file.metadata().map_err(io_failure)?;
    if meta.len() > MAX_FILE {
        return Err(fail(FileErrorKind::TooLarge, "files of more than 32 MiB are not edited: write it anew"));
    }
    let mut text = String::new();
    (&file).take(MAX_FILE + 1).read_to_string(&mut text).map_err(|error| match error.kind() {
        std::io::ErrorKind::InvalidData => fail(FileErrorKind::NotText, "it is not UTF-8 text"),
        _ => io_failure(error),
    })?;
    let (edited, n_replaced) = replace(&text, old, new, occurrences)?;
    // Through a link it is the file that changes, not the link.
    let real = Place::find(roots, &real_path(&OwnedFd::from(file))?)?;
    let mut draft = Draft::create(&real)?;
    draft.file.write_all(edited.as_bytes()).map_err(io_failure)?;
    draft.publish(meta.mode(), Existing::Replace)?;
    Ok(n_replaced)
}

/// Replaces `old` by `new`. Line ends are those of the text: where all of its are CRLF, those of `old` and `new` are too.
pub(crate) fn replace(text: &str, old: &str, new: &str, occurrences: Occurrences) -> Result<(String, u64), Failure> {
    if old.is_empty() {
        return Err(fail(FileErrorKind::InvalidArgument, "the text to replace is empty: give the exact text"));
    }
    let n_ends = text.matches('\n').count();
    let is_crlf = n_ends > 0 && text.matches("\r\n").count() == n_ends;
    let (old, new) = if is_crlf { (crlf(old), crlf(new)) } else { (old.to_owned(), new.to_owned()) };
    match (text.matches(&old).count() as u64, occurrences) {
        (0, _) => Err(fail(FileErrorKind::NoMatch, "the text to replace is not in the file")),
        (1, _) | (_, Occurrences::All) => {
            let n_replaced = text.matches(&old).count() as u64;
            Ok((text.replace(&old, &new), n_replaced))
        }
        (n, Occurrences::Unique) => {
            let reason = format!("the text is there {n} times: give more of what surrounds it, or replace all");
            Err(fail(FileErrorKind::ManyMatches, &reason))
        }
    }
}

fn crlf(text: &str) -> String {
    text.replace("\r\n", "\n").replace('\n', "\r\n")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(text: &str, old: &str, new: &str, occurrences: Occurrences, expected: Result<&str, FileErrorKind>) {
        let edited = replace(text, old, new, occurrences);
        match (edited, expected) {
            (Ok((edited, _)), Ok(expected)) => assert_eq!(edited, expected),
            (Err(Failure::File { kind, .. }), Err(expected)) => assert_eq!(kind, expected),
            (edited, expected) => panic!("{edited:?} is not {expected:?}"),
        }
    }

    #[test]
    fn edits_are_exact() {
        use FileErrorKind::{InvalidArgument, ManyMatches, NoMatch};
        use Occurrences::{All, Unique};
        check("a b c", "b", "x", Unique, Ok("a x c"));
        check("a b b", "b", "x", Unique, Err(ManyMatches));
        check("a b b", "b", "x", All, Ok("a x x"));
        check("a", "b", "x", All, Err(NoMatch));
        check("a", "", "x", All, Err(InvalidArgument));
        check("aaaa", "aa", "b", All, Ok("bb"));
        check("a\r\nb\r\n", "a\nb", "x\ny", Unique, Ok("x\r\ny\r\n"));
        check("a\r\nb\r\n", "a\r\nb", "x", Unique, Ok("x\r\n"));
        check("a\r\nb\n", "b\n", "x\n", Unique, Ok("a\r\nx\n"));
        check("$1.*\n", "$1.*", "\\0", Unique, Ok("\\0\n"));
    }

    proptest! {
        #[test]
        fn what_is_replaced_by_itself_stays(text in "[ab\r\n]{0,30}", old in "[ab\n]{1,4}") {
            if let Ok((edited, _)) = replace(&text, &old, &old, Occurrences::All) {
                prop_assert_eq!(edited, text);
            }
        }
    }
}
