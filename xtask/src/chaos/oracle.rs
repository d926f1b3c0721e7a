//! What the files of a sandbox may be, known from outside: from what was asked, and from what was acknowledged.

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};

/// Every file of a workspace: its path, and the hash of what is in it.
pub(crate) type Files = BTreeMap<String, String>;

/// What a change does to files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    /// They stay: a snapshot, a stop, a look.
    Nothing,
    /// A shell writes a file: it opens it, which empties it, and then writes.
    Written { path: String, hash: String },
    /// A file is put in place whole.
    Placed { path: String, hash: String },
    /// A file is removed.
    Removed { path: String },
    /// All files become others at once; one of these, where it is not known which.
    Replaced { by: Vec<Files> },
}

/// What a workspace may hold by now. More than one thing only while something was cut off in the middle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Oracle {
    possible: Vec<Files>,
}

impl Oracle {
    /// A workspace that is empty.
    pub(crate) fn empty() -> Self {
        Self::of(vec![Files::new()])
    }

    /// A workspace that is one of these.
    pub(crate) fn of(possible: Vec<Files>) -> Self {
        Self { possible }
    }

    /// What it may be.
    pub(crate) fn possible(&self) -> &[Files] {
        &self.possible
    }

    /// A change was acknowledged: it is there whole.
    pub(crate) fn acknowledge(&mut self, change: &Change) {
        self.follow(|files| last(change, files));
    }

    /// A change was begun, and nobody knows how far it came.
    pub(crate) fn cut_off(&mut self, change: &Change) {
        self.follow(|files| {
            let mut states = vec![files.clone()];
            if let Change::Written { path, .. } = change {
                states.extend(last(&Change::Placed { path: path.clone(), hash: hash(b"") }, files));
            }
            states.extend(last(change, files));
            states
        });
    }

    fn follow(&mut self, step: impl Fn(&Files) -> Vec<Files>) {
        let mut next: Vec<Files> = Vec::new();
        for state in self.possible.iter().flat_map(step) {
            if !next.contains(&state) {
                next.push(state);
            }
        }
        self.possible = next;
    }

    /// Looks at what is really there: from now on it is known.
    ///
    /// # Errors
    /// What differs, when it is nothing that it may be.
    pub(crate) fn see(&mut self, found: Files) -> Result<(), String> {
        if self.possible.contains(&found) {
            self.possible = vec![found];
            return Ok(());
        }
        let nearest = self.possible.iter().map(|state| difference(state, &found)).min_by_key(Vec::len);
        Err(nearest.unwrap_or_default().join(", "))
    }
}

/// The states that a change may lead to once it is whole.
fn last(change: &Change, files: &Files) -> Vec<Files> {
    let mut files = files.clone();
    match change {
        Change::Nothing => {}
        Change::Written { path, hash } | Change::Placed { path, hash } => {
            files.insert(path.clone(), hash.clone());
        }
        Change::Removed { path } => {
            files.remove(path);
        }
        Change::Replaced { by } => return by.clone(),
    }
    vec![files]
}

fn difference(expected: &Files, found: &Files) -> Vec<String> {
    let mut lines = Vec::new();
    for (path, hash) in expected {
        match found.get(path) {
            None => lines.push(format!("{path} is lost")),
            Some(other) if other != hash => lines.push(format!("{path} has other bytes")),
            Some(_) => {}
        }
    }
    lines.extend(found.keys().filter(|path| !expected.contains_key(*path)).map(|path| format!("{path} is too many")));
    lines
}

/// The hash of a file's bytes, in hex, as `sha256sum` prints it.
pub(crate) fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads what `sha256sum` printed.
pub(crate) fn read_sums(text: &str) -> Option<Files> {
    text.lines().map(|line| line.split_once("  ").map(|(hash, path)| (path.to_owned(), hash.to_owned()))).collect()
}

#[cfg(test)]
mod tests {
    use super::{Change, Files, Oracle, hash, read_sums};

    fn files(of: &[(&str, &str)]) -> Files {
        of.iter().map(|(path, text)| ((*path).to_owned(), hash(text.as_bytes()))).collect()
    }

    fn written(path: &str, text: &str) -> Change {
        Change::Written { path: path.to_owned(), hash: hash(text.as_bytes()) }
    }

    #[test]
    fn what_was_acknowledged_must_be_there() {
        let mut oracle = Oracle::empty();
        oracle.acknowledge(&written("a", "1"));
        assert_eq!(oracle.clone().see(files(&[])).unwrap_err(), "a is lost");
        assert_eq!(oracle.clone().see(files(&[("a", "2")])).unwrap_err(), "a has other bytes");
        assert_eq!(oracle.clone().see(files(&[("a", "1"), (".draft", "")])).unwrap_err(), ".draft is too many");
        oracle.see(files(&[("a", "1")])).unwrap();
    }

    #[test]
    fn what_was_cut_off_is_there_or_not_and_then_stays_so() {
        let mut oracle = Oracle::of(vec![files(&[("a", "1")])]);
        oracle.cut_off(&written("a", "2"));
        for text in ["1", "", "2"] {
            let mut oracle = oracle.clone();
            oracle.see(files(&[("a", text)])).unwrap();
            assert_eq!(oracle.possible().len(), 1);
        }
        oracle.clone().see(files(&[])).unwrap_err();
        oracle.see(files(&[("a", "1")])).unwrap();
        oracle.see(files(&[("a", "2")])).unwrap_err();
    }

    #[test]
    fn a_restore_is_whole_or_has_not_happened() {
        let mut oracle = Oracle::of(vec![files(&[("a", "1"), ("b", "1")])]);
        oracle.cut_off(&Change::Replaced { by: vec![files(&[("a", "0"), ("c", "0")])] });
        oracle.clone().see(files(&[("a", "0"), ("c", "0")])).unwrap();
        oracle.clone().see(files(&[("a", "0"), ("b", "1")])).unwrap_err();
        oracle.see(files(&[])).unwrap_err();
    }

    #[test]
    fn sums_are_read_as_they_are_printed() {
        let text = format!("{}  ./a b\n", hash(b"1"));
        assert_eq!(read_sums(&text).unwrap(), files(&[("./a b", "1")]));
        assert_eq!(read_sums(""), Some(Files::new()));
        assert_eq!(read_sums("sha256sum: a: No such file"), None);
    }
}
