//! Reads a unified diff as git writes it: files, hunks and numbered lines.

mod path;

use crate::request::change_set::ChangeKind;

/// A diff that was read; line texts are borrowed from it.
///
/// Reading never fails: what is not understood is passed over, so a diff cut short gives what is there.
///
/// ```
/// use astraforge_core::diff::{Diff, LineKind};
///
/// let diff = Diff::parse("diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -1,2 +1,2 @@ fn main\n one\n-two\n+zwei\n");
/// let file = &diff.files[0];
/// assert_eq!(file.path(), "x");
/// let added: Vec<_> = file.added_lines().map(|line| (line.new, line.text)).collect();
/// assert_eq!(added, [(Some(2), "zwei")]);
/// assert_eq!(file.hunks[0].lines[0].kind, LineKind::Context);
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Diff<'a> {
    /// The files, in the order of the diff.
    pub files: Vec<FileDiff<'a>>,
}

/// What a diff says of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileDiff<'a> {
    /// Its whole section of the diff.
    pub text: &'a str,
    /// The path before; `None` for a new file.
    pub old_path: Option<String>,
    /// The path after; `None` for a deleted file.
    pub new_path: Option<String>,
    /// What happens to the file.
    pub kind: ChangeKind,
    /// The mode before, in octal, where the diff names it.
    pub old_mode: Option<&'a str>,
    /// The mode after, in octal, where the diff names it.
    pub new_mode: Option<&'a str>,
    /// The contents are not shown, because they are not text.
    pub is_binary: bool,
    /// The places that change.
    pub hunks: Vec<Hunk<'a>>,
}

/// A place that changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hunk<'a> {
    /// The first line before, from 1; 0 if there is none.
    pub old_start: u64,
    /// How many lines of it are shown of the file before.
    pub old_lines: u64,
    /// The first line after, from 1; 0 if there is none.
    pub new_start: u64,
    /// How many lines of it are shown of the file after.
    pub new_lines: u64,
    /// What stands behind the second `@@`: the function, as git guesses it.
    pub section: &'a str,
    /// The lines.
    pub lines: Vec<Line<'a>>,
}

/// A line of a hunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line<'a> {
    /// What happens to it.
    pub kind: LineKind,
    /// Its text without the sign and the line feed. A carriage return stays.
    pub text: &'a str,
    /// Its number before, if it was there.
    pub old: Option<u64>,
    /// Its number after, if it is there.
    pub new: Option<u64>,
    /// It is the last line of a file and has no line feed.
    pub no_newline: bool,
}

/// What happens to a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineKind {
    /// It stays.
    Context,
    /// It is new.
    Added,
    /// It goes away.
    Removed,
}

impl<'a> Diff<'a> {
    /// Reads a diff.
    #[must_use]
    pub fn parse(text: &'a str) -> Self {
        let mut files = Vec::new();
        let mut reader = Reader { text, at: 0 };
        while let Some(line) = reader.next() {
            if let Some(names) = line.strip_prefix("diff --git ") {
                files.push(reader.file(names, reader.at - line.len() - 1));
            }
        }
        Self { files }
    }
}

impl<'a> FileDiff<'a> {
    /// The path after the change, or before it for a deleted file.
    #[must_use]
    pub fn path(&self) -> &str {
        self.new_path.as_deref().or(self.old_path.as_deref()).unwrap_or_default()
    }

    /// Every line of every hunk.
    pub fn lines(&self) -> impl Iterator<Item = &Line<'a>> {
        self.hunks.iter().flat_map(|hunk| &hunk.lines)
    }

    /// The lines that are new.
    pub fn added_lines(&self) -> impl Iterator<Item = &Line<'a>> {
        self.lines().filter(|line| line.kind == LineKind::Added)
    }

    /// The lines that go away.
    pub fn removed_lines(&self) -> impl Iterator<Item = &Line<'a>> {
        self.lines().filter(|line| line.kind == LineKind::Removed)
    }
}

/// Goes through a diff line by line.
struct Reader<'a> {
    text: &'a str,
    /// Where the next line begins. Past the end by one after a last line without line feed.
    at: usize,
}

impl<'a> Reader<'a> {
    fn peek(&self) -> Option<&'a str> {
        let rest = self.text.get(self.at..).filter(|rest| !rest.is_empty())?;
        Some(rest.find('\n').map_or(rest, |end| &rest[..end]))
    }

    fn next(&mut self) -> Option<&'a str> {
        let line = self.peek()?;
        self.at += line.len() + 1;
        Some(line)
    }

    fn file(&mut self, names: &'a str, start: usize) -> FileDiff<'a> {
        let mut header = Header::default();
        let mut hunks = Vec::new();
        while let Some(line) = self.peek().filter(|line| !line.starts_with("diff --git ")) {
            self.at += line.len() + 1;
            match parse_hunk_head(line) {
                Some(head) => hunks.push(self.hunk(head)),
                None if hunks.is_empty() => header.read(line),
                None => {}
            }
        }
        let text = &self.text[start..self.at.min(self.text.len())];
        header.into_file(names, text, hunks)
    }

    /// Takes as many lines as the head names: a line in a hunk may look like anything.
    fn hunk(&mut self, mut hunk: Hunk<'a>) -> Hunk<'a> {
        let (mut old_left, mut new_left) = (hunk.old_lines, hunk.new_lines);
        let (mut old, mut new) = (hunk.old_start, hunk.new_start);
        while let Some(line) = self.peek() {
            let (kind, text) = match line.as_bytes().first() {
                Some(b'\\') => {
                    self.at += line.len() + 1;
                    if let Some(last) = hunk.lines.last_mut() {
                        last.no_newline = true;
                    }
                    continue;
                }
                Some(b'+') if new_left > 0 => (LineKind::Added, &line[1..]),
                Some(b'-') if old_left > 0 => (LineKind::Removed, &line[1..]),
                Some(b' ') if old_left > 0 && new_left > 0 => (LineKind::Context, &line[1..]),
                // Some programs strip the space of an empty line.
                None if old_left > 0 && new_left > 0 => (LineKind::Context, line),
                _ => break,
            };
            self.at += line.len() + 1;
            let was = (kind != LineKind::Added).then_some(old);
            let is = (kind != LineKind::Removed).then_some(new);
            old = old.saturating_add(u64::from(was.is_some()));
            new = new.saturating_add(u64::from(is.is_some()));
            old_left -= u64::from(was.is_some());
            new_left -= u64::from(is.is_some());
            hunk.lines.push(Line { kind, text, old: was, new: is, no_newline: false });
        }
        hunk
    }
}

/// Reads `@@ -1,2 +3,4 @@ section`.
fn parse_hunk_head(line: &str) -> Option<Hunk<'_>> {
    let (ranges, section) = line.strip_prefix("@@ -")?.split_once(" @@")?;
    let (old, new) = ranges.split_once(" +")?;
    let (old_start, old_lines) = parse_range(old)?;
    let (new_start, new_lines) = parse_range(new)?;
    Some(Hunk { old_start, old_lines, new_start, new_lines, section: section.trim(), lines: Vec::new() })
}

fn parse_range(text: &str) -> Option<(u64, u64)> {
    match text.split_once(',') {
        Some((start, count)) => Some((start.parse().ok()?, count.parse().ok()?)),
        None => Some((text.parse().ok()?, 1)),
    }
}

/// What stands before the first hunk of a file.
#[derive(Default)]
struct Header<'a> {
    is_new: bool,
    is_deleted: bool,
    is_renamed: bool,
    is_copied: bool,
    is_binary: bool,
    old_mode: Option<&'a str>,
    new_mode: Option<&'a str>,
    old_path: Option<String>,
    new_path: Option<String>,
}

impl<'a> Header<'a> {
    fn read(&mut self, line: &'a str) {
        let is = |prefix: &str| line.strip_prefix(prefix);
        if let Some(mode) = is("new file mode ") {
            (self.is_new, self.new_mode) = (true, Some(mode));
        } else if let Some(mode) = is("deleted file mode ") {
            (self.is_deleted, self.old_mode) = (true, Some(mode));
        } else if let Some(mode) = is("old mode ") {
            self.old_mode = Some(mode);
        } else if let Some(mode) = is("new mode ") {
            self.new_mode = Some(mode);
        } else if let Some(mode) = is("index ").and_then(|rest| rest.split_once(' ')).map(|(_, mode)| mode) {
            (self.old_mode, self.new_mode) = (Some(mode), Some(mode));
        } else if let Some(path) = is("rename from ") {
            (self.is_renamed, self.old_path) = (true, Some(path::unquoted(path)));
        } else if let Some(path) = is("rename to ") {
            (self.is_renamed, self.new_path) = (true, Some(path::unquoted(path)));
        } else if let Some(path) = is("copy from ") {
            (self.is_copied, self.old_path) = (true, Some(path::unquoted(path)));
        } else if let Some(path) = is("copy to ") {
            (self.is_copied, self.new_path) = (true, Some(path::unquoted(path)));
        } else if line.starts_with("GIT binary patch")
            || (line.starts_with("Binary files ") && line.ends_with(" differ"))
        {
            self.is_binary = true;
        } else if let Some(path) = is("--- ").and_then(path::of_side) {
            self.old_path = Some(path);
        } else if let Some(path) = is("+++ ").and_then(path::of_side) {
            self.new_path = Some(path);
        }
    }

    fn into_file(self, names: &str, text: &'a str, hunks: Vec<Hunk<'a>>) -> FileDiff<'a> {
        let kind = self.kind(&hunks);
        let (mut old_path, mut new_path) = (self.old_path, self.new_path);
        if old_path.is_none() || new_path.is_none() {
            let (old, new) = path::of_both(names);
            old_path = old_path.or(Some(old));
            new_path = new_path.or(Some(new));
        }
        FileDiff {
            text,
            old_path: old_path.filter(|_| !self.is_new),
            new_path: new_path.filter(|_| !self.is_deleted),
            kind,
            old_mode: self.old_mode.filter(|_| !self.is_new),
            new_mode: self.new_mode.filter(|_| !self.is_deleted),
            is_binary: self.is_binary,
            hunks,
        }
    }

    fn kind(&self, hunks: &[Hunk<'_>]) -> ChangeKind {
        match (self.is_new || self.is_copied, self.is_deleted, self.is_renamed) {
            (true, ..) => ChangeKind::Added,
            (_, true, _) => ChangeKind::Deleted,
            (.., true) => ChangeKind::Renamed,
            _ if hunks.is_empty() && !self.is_binary && self.old_mode != self.new_mode => ChangeKind::TypeChanged,
            _ => ChangeKind::Modified,
        }
    }
}

#[cfg(test)]
mod tests;
