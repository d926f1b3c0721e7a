//! Finds files by name and lines by content. Links are not followed.

use std::{
    ffi::{CString, OsStr},
    fs::File,
    io::{BufRead, BufReader},
    os::{fd::AsFd, unix::ffi::OsStrExt},
    path::Path,
};

use astraforge_core::files::{FileErrorKind, FileReply, GrepOutput, LineMatch, MatchCount, Pattern};
use globset::{Glob, GlobBuilder, GlobMatcher};
use regex::bytes::{Regex, RegexBuilder};
use rustix::fs::{FileType, OFlags, statat};

use super::{
    place::{Place, fail, failure, io_failure, shown},
    tree::file_name,
};
use crate::{
    guest::frame::Failure,
    tree::{self, Found, Next},
};

/// The most paths or lines of one answer.
const MAX_RESULTS: usize = 10_000;
/// The most text of one answer, in bytes.
const MAX_TEXT: usize = 8 * 1024 * 1024;
/// What is shown of a line, in bytes.
const MAX_SHOWN: usize = 2000;
/// What is searched of a line, in bytes.
const MAX_LINE: usize = 1024 * 1024;

/// A pattern for names of files. Without `/` it is met by a file's name at any depth, else by its path below the folder.
/// A leading dot of a name is met by a dot of the pattern alone.
pub(crate) struct NamePattern {
    whole: GlobMatcher,
    by_name: bool,
    /// Parts of the pattern that begin with a dot.
    hidden: Vec<GlobMatcher>,
}

impl NamePattern {
    pub(crate) fn new(pattern: &str) -> Result<Self, String> {
        let trimmed = pattern.strip_prefix('/').unwrap_or(pattern);
        if trimmed.is_empty() || pattern.len() > 4096 || trimmed.split('/').any(|part| part == "..") {
            return Err("a pattern names files below the folder, and is not empty".to_owned());
        }
        let build = |pattern: &str| {
            let glob: Result<Glob, _> =
                GlobBuilder::new(pattern).literal_separator(true).backslash_escape(true).build();
            glob.map(|glob| glob.compile_matcher()).map_err(|error| error.to_string())
        };
        let hidden = trimmed.split('/').filter(|part| part.starts_with('.')).filter_map(|part| build(part).ok());
        Ok(Self { whole: build(trimmed)?, by_name: !pattern.contains('/'), hidden: hidden.collect() })
    }

    /// Tells whether names that begin with a dot may be on the way.
    fn may_pass(&self, name: &[u8]) -> bool {
        !name.starts_with(b".") || self.hidden.iter().any(|hidden| hidden.is_match(Path::new(OsStr::from_bytes(name))))
    }

    /// Tells whether a file's path below the folder meets the pattern.
    pub(crate) fn is_met(&self, below: &Path) -> bool {
        let parts = || below.iter().map(|part| part.as_bytes());
        let seen = if self.by_name { Path::new(OsStr::from_bytes(file_name(below))) } else { below };
        parts().all(|part| self.may_pass(part)) && self.whole.is_match(seen)
    }
}

fn wrong(what: &str, reason: &str) -> Failure {
    fail(FileErrorKind::InvalidArgument, &format!("{what}: {reason}"))
}

pub(super) fn glob(place: &Place, pattern: &str, limit: usize) -> Result<FileReply, Failure> {
    let matcher = NamePattern::new(pattern).map_err(|reason| wrong("the pattern", &reason))?;
    let (limit, root) = (limit.min(MAX_RESULTS), place.path());
    let (mut paths, mut truncated) = (Vec::new(), false);
    let folder = place.open(OFlags::RDONLY | OFlags::DIRECTORY)?;
    tree::walk(folder.as_fd(), &CString::from(c"."), &root, &mut |found: &Found<'_>| -> Result<_, Failure> {
        let below = found.path.strip_prefix(&root).unwrap_or(found.path);
        if found.kind() == FileType::Directory {
            return Ok(if matcher.may_pass(file_name(below)) { Next::Into } else { Next::Over });
        }
        if found.kind() == FileType::RegularFile && matcher.is_met(below) {
            if paths.len() == limit {
                truncated = true;
                return Ok(Next::Stop);
            }
            paths.push(shown(found.path));
        }
        Ok(Next::Over)
    })?;
    Ok(FileReply::Paths { paths, truncated })
}

pub(super) fn grep(
    place: &Place,
    pattern: &Pattern,
    glob: Option<&str>,
    output: GrepOutput,
    limit: usize,
) -> Result<FileReply, Failure> {
    let names = glob.map(NamePattern::new).transpose().map_err(|reason| wrong("the pattern for names", &reason))?;
    let mut search = Search {
        regex: compile(pattern)?,
        output,
        limit: limit.min(MAX_RESULTS),
        matches: Vec::new(),
        counts: Vec::new(),
        n_bytes: 0,
        truncated: false,
    };
    let root = place.path();
    let mut visit = |found: &Found<'_>| -> Result<Next, Failure> {
        let below = found.path.strip_prefix(&root).unwrap_or(found.path);
        match found.kind() {
            FileType::Directory if found.name.as_c_str() == c".git" => Ok(Next::Over),
            FileType::Directory => Ok(Next::Into),
            FileType::RegularFile if names.as_ref().is_none_or(|names| names.is_met(below)) => {
                // A file that cannot be opened has no lines to show.
                let Ok(file) = found.open() else { return Ok(Next::Over) };
                search.file(found.path, File::from(file))?;
                Ok(if search.truncated { Next::Stop } else { Next::Over })
            }
            _ => Ok(Next::Over),
        }
    };
    match place.open(OFlags::RDONLY | OFlags::DIRECTORY) {
        Ok(folder) => tree::walk(folder.as_fd(), &CString::from(c"."), &root, &mut visit)?,
        Err(Failure::File { kind: FileErrorKind::NotADirectory, .. }) => {
            let (folder, name) = place.parent()?;
            let stat = statat(&folder, &name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).map_err(failure)?;
            if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
                return Err(fail(FileErrorKind::NotAFile, "it is neither a regular file nor a folder"));
            }
            search.file(&root, super::open_regular(place)?)?;
        }
        Err(failure) => return Err(failure),
    }
    Ok(search.reply())
}

fn compile(pattern: &Pattern) -> Result<Regex, Failure> {
    let source = match pattern {
        Pattern::Literal(text) => regex::escape(text),
        Pattern::Regex(source) => source.clone(),
    };
    if source.is_empty() {
        return Err(wrong("the pattern", "it is empty"));
    }
    RegexBuilder::new(&source)
        .size_limit(10 * 1024 * 1024)
        .build()
        .map_err(|error| wrong("the regular expression", &error.to_string()))
}

struct Search {
    regex: Regex,
    output: GrepOutput,
    limit: usize,
    matches: Vec<LineMatch>,
    counts: Vec<MatchCount>,
    n_bytes: usize,
    truncated: bool,
}

impl Search {
    fn file(&mut self, path: &Path, file: File) -> Result<(), Failure> {
        let mut reader = BufReader::with_capacity(64 * 1024, file);
        if reader.fill_buf().map_err(io_failure)?.contains(&0) {
            return Ok(()); // not text
        }
        let (mut line, mut number, mut n_lines) = (Vec::new(), 0, 0);
        while read_line(&mut reader, &mut line).map_err(io_failure)? {
            number += 1;
            if !self.regex.is_match(&line) {
                continue;
            }
            n_lines += 1;
            if self.output == GrepOutput::Lines && !self.take(path, number, &line) {
                return Ok(());
            }
        }
        if self.output == GrepOutput::Counts && n_lines > 0 {
            if self.counts.len() == self.limit {
                self.truncated = true;
            } else {
                self.counts.push(MatchCount { path: shown(path), n_lines });
            }
        }
        Ok(())
    }

    /// Keeps a line; tells whether there is room for more.
    fn take(&mut self, path: &Path, line: u64, text: &[u8]) -> bool {
        let text = String::from_utf8_lossy(&text[..text.len().min(MAX_SHOWN)]).into_owned();
        self.n_bytes += text.len() + path.as_os_str().len() + 64;
        if self.matches.len() == self.limit || self.n_bytes > MAX_TEXT {
            self.truncated = true;
            return false;
        }
        self.matches.push(LineMatch { path: shown(path), line, text });
        true
    }

    fn reply(self) -> FileReply {
        match self.output {
            GrepOutput::Lines => FileReply::Matches { matches: self.matches, truncated: self.truncated },
            GrepOutput::Counts => FileReply::Counts { counts: self.counts, truncated: self.truncated },
        }
    }
}

/// Reads a line without its end; of a very long one the first part. False at the end of the file.
fn read_line(reader: &mut impl BufRead, line: &mut Vec<u8>) -> std::io::Result<bool> {
    line.clear();
    let mut any = false;
    loop {
        let chunk = reader.fill_buf()?;
        if chunk.is_empty() {
            return Ok(any);
        }
        any = true;
        let end = chunk.iter().position(|byte| *byte == b'\n');
        let piece = &chunk[..end.unwrap_or(chunk.len())];
        line.extend_from_slice(&piece[..piece.len().min(MAX_LINE - line.len())]);
        let n_bytes = end.map_or(chunk.len(), |end| end + 1);
        reader.consume(n_bytes);
        if end.is_some() {
            if line.last() == Some(&b'\r') {
                line.pop();
            }
            return Ok(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(pattern: &str, met: &[&str], not: &[&str]) {
        let pattern = NamePattern::new(pattern).unwrap();
        for path in met {
            assert!(pattern.is_met(Path::new(path)), "{path} is met");
        }
        for path in not {
            assert!(!pattern.is_met(Path::new(path)), "{path} is not met");
        }
    }

    #[test]
    fn names_are_met_as_agents_expect() {
        check("*.rs", &["a.rs", "src/deep/b.rs"], &["a.rst", ".hidden.rs", ".git/a.rs"]);
        check("src/*.rs", &["src/a.rs"], &["src/deep/a.rs", "a.rs", "other/src/a.rs"]);
        check("src/**/*.rs", &["src/a.rs", "src/x/y/a.rs"], &["a.rs", "src/.x/a.rs"]);
        check("**/*.rs", &["a.rs", "x/a.rs"], &[".x/a.rs"]);
        check("/*.rs", &["a.rs"], &["src/a.rs"]);
        check(".*", &[".env", "x/.env"], &["env"]);
        check(".git/*", &[".git/config"], &["git/config"]);
        check("*.{py,toml}", &["a.py", "x/b.toml"], &["a.rs"]);
        check("file?.[ab]", &["file1.a"], &["file1.c", "file12.a"]);
        check("file[!0-9].txt", &["filex.txt"], &["file1.txt"]);
    }

    #[test]
    fn what_leads_out_or_is_no_pattern_is_refused() {
        for pattern in ["", "/", "..", "../*", "a/../b", "[", "{a"] {
            assert!(NamePattern::new(pattern).is_err(), "{pattern:?}");
        }
    }

    #[test]
    fn lines_are_read_whole_and_long_ones_cut() {
        let mut reader = BufReader::with_capacity(4, &b"one\r\n\nthree"[..]);
        let (mut line, mut lines) = (Vec::new(), Vec::new());
        while read_line(&mut reader, &mut line).unwrap() {
            lines.push(String::from_utf8(line.clone()).unwrap());
        }
        assert_eq!(lines, ["one", "", "three"]);
        let long = vec![b'x'; MAX_LINE + 100];
        assert!(read_line(&mut &long[..], &mut line).unwrap());
        assert_eq!(line.len(), MAX_LINE);
    }

    proptest! {
        #[test]
        fn any_pattern_is_understood_or_refused(pattern in ".{0,40}", path in "[a-z./]{1,20}") {
            if let Ok(pattern) = NamePattern::new(&pattern) {
                pattern.is_met(Path::new(&path));
            }
        }
    }
}
