//! Reads what git prints: refs, raw differences, line counts, versions, bundle headers.

use std::fmt::Write as _;

use crate::request::change_set::ChangeKind;

/// Output that does not have the form that git documents.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("git printed something unexpected where {expected} belongs: `{found}`")]
pub struct ParseError {
    expected: &'static str,
    found: String,
}

fn unexpected(expected: &'static str, found: &[u8]) -> ParseError {
    ParseError { expected, found: String::from_utf8_lossy(&found[..found.len().min(80)]).escape_debug().to_string() }
}

/// What a repository offers: its branches, and where its HEAD points.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Offered {
    /// The branch that HEAD names, if it names one.
    pub default_branch: Option<String>,
    /// Branches and their commits. Names that are not UTF-8 are left out: nobody can ask for them.
    pub branches: Vec<(String, String)>,
}

/// Reads `git ls-remote --symref`.
///
/// # Errors
/// [`ParseError`] when that is not what git printed.
pub fn ls_remote(output: &[u8]) -> Result<Offered, ParseError> {
    let mut offered = Offered::default();
    for line in output.split(|&b| b == b'\n').filter(|line| !line.is_empty()) {
        let Ok(text) = std::str::from_utf8(line) else { continue };
        let (value, name) = text.split_once('\t').ok_or_else(|| unexpected("a ref", line))?;
        if let Some(target) = value.strip_prefix("ref: ") {
            if name == "HEAD" {
                offered.default_branch = target.strip_prefix("refs/heads/").map(str::to_owned);
            }
        } else if let Some(branch) = name.strip_prefix("refs/heads/") {
            offered.branches.push((branch.to_owned(), value.to_owned()));
        }
    }
    Ok(offered)
}

/// Reads `git for-each-ref --format=%(objectname) %(refname)`.
///
/// # Errors
/// [`ParseError`] when that is not what git printed.
pub fn for_each_ref(output: &[u8]) -> Result<Vec<(String, String)>, ParseError> {
    let text = String::from_utf8_lossy(output);
    let pair = |line: &str| line.split_once(' ').map(|(id, name)| (name.to_owned(), id.to_owned()));
    text.lines().map(|line| pair(line).ok_or_else(|| unexpected("a ref", line.as_bytes()))).collect()
}

/// One file of a difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileDifference {
    /// Its path after the change (before it, for a deleted file), readable and unambiguous.
    pub path: String,
    /// Its path before the change, where that differs.
    pub old_path: Option<String>,
    /// What happens to it.
    pub kind: ChangeKind,
    /// Its mode after the change, in octal.
    pub mode: String,
    /// Its object after the change, in full; zeros for a deleted file.
    pub blob: String,
    /// Lines added and removed; `None` for a binary file.
    pub lines: Option<(u64, u64)>,
}

/// Reads `git diff-tree -r --raw --numstat -z`: all raw records, then all line counts, in the same order.
///
/// # Errors
/// [`ParseError`] when that is not what git printed.
pub fn raw_and_numstat(output: &[u8]) -> Result<Vec<FileDifference>, ParseError> {
    let mut fields = Fields(output);
    let mut files = Vec::new();
    while fields.0.first() == Some(&b':') {
        files.push(raw_record(&mut fields)?);
    }
    for file in &mut files {
        file.lines = numstat_record(&mut fields)?;
    }
    match fields.0 {
        [] => Ok(files),
        rest => Err(unexpected("the end", rest)),
    }
}

fn raw_record(fields: &mut Fields<'_>) -> Result<FileDifference, ParseError> {
    let head = fields.next("a raw record")?;
    let text = std::str::from_utf8(head).map_err(|_| unexpected("a raw record", head))?;
    let parts: Vec<&str> = text.trim_start_matches(':').split(' ').collect();
    let [old_mode, mode, old_blob, blob, status] = parts[..] else { return Err(unexpected("a raw record", head)) };
    let kind = match status.as_bytes().first() {
        Some(b'A') => ChangeKind::Added,
        Some(b'D') => ChangeKind::Deleted,
        Some(b'R') => ChangeKind::Renamed,
        Some(b'T') => ChangeKind::TypeChanged,
        Some(b'M') if old_blob == blob && old_mode != mode => ChangeKind::TypeChanged,
        Some(b'M') => ChangeKind::Modified,
        _ => return Err(unexpected("a status", head)),
    };
    let first = shown_path(fields.next("a path")?);
    let (path, old_path) = match kind {
        ChangeKind::Renamed => (shown_path(fields.next("a path")?), Some(first)),
        _ => (first, None),
    };
    Ok(FileDifference { path, old_path, kind, mode: mode.to_owned(), blob: blob.to_owned(), lines: None })
}

fn numstat_record(fields: &mut Fields<'_>) -> Result<Option<(u64, u64)>, ParseError> {
    let record = fields.next("a line count")?;
    let mut parts = record.splitn(3, |&b| b == b'\t');
    let (Some(added), Some(removed), Some(path)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(unexpected("a line count", record));
    };
    if path.is_empty() {
        // A rename: its two paths follow.
        fields.next("a path")?;
        fields.next("a path")?;
    }
    let number = |bytes: &[u8]| std::str::from_utf8(bytes).ok().and_then(|text| text.parse::<u64>().ok());
    match (added, removed) {
        (b"-", b"-") => Ok(None),
        _ => number(added).zip(number(removed)).map(Some).ok_or_else(|| unexpected("a line count", record)),
    }
}

/// What is left of a text whose fields end in NUL.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn next(&mut self, expected: &'static str) -> Result<&'a [u8], ParseError> {
        let end = self.0.iter().position(|&b| b == 0).ok_or_else(|| unexpected(expected, self.0))?;
        let field = &self.0[..end];
        self.0 = &self.0[end + 1..];
        Ok(field)
    }
}

/// Shows a path as it is, where that is UTF-8; else, and where it would look like this form, in quotes with octal
/// escapes, as git itself does. So no two paths are shown alike.
pub fn shown_path(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.starts_with('"') => text.to_owned(),
        _ => {
            let mut quoted = String::from("\"");
            for chunk in bytes.utf8_chunks() {
                for c in chunk.valid().chars() {
                    match c {
                        '"' | '\\' => quoted.extend(['\\', c]),
                        _ => quoted.push(c),
                    }
                }
                for byte in chunk.invalid() {
                    // Writing to a string cannot fail.
                    let _ = write!(quoted, "\\{byte:03o}");
                }
            }
            quoted.push('"');
            quoted
        }
    }
}

/// Reads `git cat-file --batch-check=%(objectsize)`: one size a line, 0 for what is not here (a submodule's commit).
pub fn sizes(output: &[u8]) -> Vec<u64> {
    String::from_utf8_lossy(output).lines().map(|line| line.parse().unwrap_or(0)).collect()
}

/// Reads `git version` as major and minor number.
pub fn version(output: &[u8]) -> Option<(u32, u32)> {
    let text = std::str::from_utf8(output).ok()?.trim().strip_prefix("git version ")?;
    let mut numbers = text.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// What a bundle needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundleHeader {
    /// Commits that must be there before it is read.
    pub needs: Vec<String>,
}

/// Reads the head of a bundle, version 2.
pub fn bundle_header(bundle: &[u8]) -> Result<BundleHeader, ParseError> {
    let wrong = || unexpected("a bundle", bundle);
    let rest = bundle.strip_prefix(b"# v2 git bundle\n").ok_or_else(wrong)?;
    let end = rest.windows(2).position(|pair| pair == b"\n\n").ok_or_else(wrong)?;
    let mut header = BundleHeader { needs: Vec::new() };
    // The commit's subject follows a needed id, and may be in any encoding.
    for line in String::from_utf8_lossy(&rest[..end]).lines() {
        match line.strip_prefix('-') {
            Some(needed) => header.needs.push(needed.split(' ').next().unwrap_or_default().to_owned()),
            // A ref in it: an id and a name.
            None if line.contains(' ') => {}
            None => return Err(wrong()),
        }
    }
    Ok(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    const B: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";
    const ZERO: &str = "0000000000000000000000000000000000000000";

    #[track_caller]
    fn one(output: &[u8]) -> FileDifference {
        let mut files = raw_and_numstat(output).unwrap();
        assert_eq!(files.len(), 1);
        files.remove(0)
    }

    /// Reads one record of one path and checks what is made of it.
    #[track_caller]
    fn check(head: &str, path: &[u8], counts: &str, kind: ChangeKind, shown: &str, lines: Option<(u64, u64)>) {
        let output = [head.as_bytes(), b"\0", path, b"\0", counts.as_bytes(), b"\t", path, b"\0"].concat();
        let file = one(&output);
        assert_eq!((file.kind, file.path.as_str(), file.lines, file.old_path), (kind, shown, lines, None));
    }

    #[test]
    fn each_kind_of_change_is_told_apart() {
        use ChangeKind::{Added, Deleted, Modified, TypeChanged};
        check(&format!(":000000 100644 {ZERO} {A} A"), b"x", "1\t0", Added, "x", Some((1, 0)));
        check(&format!(":100644 000000 {A} {ZERO} D"), b"x", "0\t3", Deleted, "x", Some((0, 3)));
        check(&format!(":100644 100644 {A} {B} M"), b"x", "2\t1", Modified, "x", Some((2, 1)));
        check(&format!(":100644 100755 {A} {A} M"), b"x", "0\t0", TypeChanged, "x", Some((0, 0)));
        check(&format!(":100644 100755 {A} {B} M"), b"x", "1\t0", Modified, "x", Some((1, 0)));
        check(&format!(":100644 120000 {A} {B} T"), b"x", "1\t1", TypeChanged, "x", Some((1, 1)));
        check(&format!(":000000 160000 {ZERO} {A} A"), b"sub", "1\t0", Added, "sub", Some((1, 0)));
        check(&format!(":000000 120000 {ZERO} {A} A"), b"link", "1\t0", Added, "link", Some((1, 0)));
        check(&format!(":100644 100644 {A} {B} M"), b"x.png", "-\t-", Modified, "x.png", None);
    }

    #[test]
    fn any_path_is_shown_and_no_two_are_shown_alike() {
        let head = format!(":000000 100644 {ZERO} {A} A");
        check(&head, b"-rf", "1\t0", ChangeKind::Added, "-rf", Some((1, 0)));
        check(&head, b"a\nb\tc", "1\t0", ChangeKind::Added, "a\nb\tc", Some((1, 0)));
        check(&head, b":100644 x", "1\t0", ChangeKind::Added, ":100644 x", Some((1, 0)));
        check(&head, "gr\u{fc}n".as_bytes(), "1\t0", ChangeKind::Added, "gr\u{fc}n", Some((1, 0)));
        check(&head, b"caf\xe9", "1\t0", ChangeKind::Added, r#""caf\351""#, Some((1, 0)));
        check(&head, br#""caf\351""#, "1\t0", ChangeKind::Added, r#""\"caf\\351\"""#, Some((1, 0)));
        check(&head, br"a\b", "1\t0", ChangeKind::Added, r"a\b", Some((1, 0)));
    }

    #[test]
    fn a_rename_has_both_paths() {
        let output = format!(":100644 100755 {A} {B} R090\0old\nname\0new\01\t2\t\0old\nname\0new\0");
        let file = one(output.as_bytes());
        assert_eq!((file.kind, file.path.as_str(), file.mode.as_str()), (ChangeKind::Renamed, "new", "100755"));
        assert_eq!((file.old_path.as_deref(), file.lines), (Some("old\nname"), Some((1, 2))));
    }

    #[test]
    fn several_files_keep_their_own_counts() {
        let output = format!(":100644 100644 {A} {B} M\0a\0:000000 100644 {ZERO} {A} A\0b\01\t2\ta\0-\t-\tb\0");
        let files = raw_and_numstat(output.as_bytes()).unwrap();
        assert_eq!(
            files.iter().map(|f| (f.path.as_str(), f.lines)).collect::<Vec<_>>(),
            [("a", Some((1, 2))), ("b", None)]
        );
        assert_eq!(raw_and_numstat(b""), Ok(vec![]));
    }

    #[test]
    fn output_of_another_form_is_an_error_and_never_a_panic() {
        let good = format!(":100644 100644 {A} {B} R100\0a\0b\01\t2\t\0a\0b\0").into_bytes();
        for end in 0..good.len() {
            assert!(end == 0 || raw_and_numstat(&good[..end]).is_err(), "{end}");
        }
        for bad in [&b":\0"[..], b":1 2 3 4 X\0a\0", b"1\t2\ta\0", b":1 2 3 4 M\0a\0x\ty\ta\0", b"\xff\xff"] {
            assert!(raw_and_numstat(bad).is_err());
        }
    }

    #[test]
    fn the_default_branch_and_the_branches_are_read() {
        let output = format!("ref: refs/heads/dev/x\tHEAD\n{A}\tHEAD\n{A}\trefs/heads/dev/x\n{B}\trefs/heads/main\n");
        let offered = ls_remote(output.as_bytes()).unwrap();
        assert_eq!(offered.default_branch.as_deref(), Some("dev/x"));
        assert_eq!(offered.branches, [("dev/x".to_owned(), A.to_owned()), ("main".to_owned(), B.to_owned())]);
        assert_eq!(ls_remote(b""), Ok(Offered::default()));
        assert!(ls_remote(b"garbage\n").is_err());
    }

    #[test]
    fn versions_are_read() {
        assert_eq!(version(b"git version 2.39.5\n"), Some((2, 39)));
        assert_eq!(version(b"git version 2.50.1 (Apple Git-155)\n"), Some((2, 50)));
        assert_eq!(version(b"hg 1.2"), None);
    }

    #[test]
    fn the_head_of_a_bundle_is_read() {
        let bundle = format!("# v2 git bundle\n-{A} a subject\n{B} refs/heads/w/1\n\nPACK\0\n\n");
        let header = bundle_header(bundle.as_bytes()).unwrap();
        assert_eq!(header, BundleHeader { needs: vec![A.into()] });
        for bad in [&b""[..], b"# v2 git bundle\n", b"# v3 git bundle\n\n\n", b"# v2 git bundle\nx\n\n"] {
            assert!(bundle_header(bad).is_err());
        }
    }
}
