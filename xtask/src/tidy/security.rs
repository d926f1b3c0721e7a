//! Rules of `docs/security.md`: what it says is protected is shown by cases of the attack suite, and every case is there.

use std::collections::BTreeSet;
use std::path::Path;

use super::{Finding, TextFile};

/// The text whose lines that say `Cases:` name what shows them.
const TEXT: &str = "docs/security.md";

/// Checks that text against the suite.
pub(crate) fn check(files: &[TextFile]) -> Vec<Finding> {
    let ids: BTreeSet<&str> = astraforge_sandbox::attack::all().map(|case| case.id).collect();
    files.iter().filter(|file| file.path == Path::new(TEXT)).flat_map(|file| compare(file, &ids)).collect()
}

fn compare(file: &TextFile, ids: &BTreeSet<&str>) -> Vec<Finding> {
    let proofs = file.text.lines().filter_map(|line| Some(line.split_once("Cases:")?.1));
    let named: BTreeSet<&str> = proofs.flat_map(|proof| proof.split('`').skip(1).step_by(2)).collect();
    let unknown =
        named.difference(ids).map(|id| format!("names the case `{id}`, which the attack suite does not have"));
    let missing =
        ids.difference(&named).map(|id| format!("does not say what the case `{id}` of the attack suite shows"));
    unknown.chain(missing).map(|message| Finding::new(&file.path, message)).collect()
}

#[cfg(test)]
mod tests {
    use super::{TextFile, compare};

    #[track_caller]
    fn broken(text: &str, expected: &[&str]) {
        let file = TextFile { path: super::TEXT.into(), text: text.to_owned() };
        let found = compare(&file, &["one", "two"].into());
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for (finding, part) in found.iter().zip(expected) {
            assert!(finding.message.contains(part), "{finding}");
        }
    }

    #[test]
    fn cases_and_what_they_show_are_told_together() {
        broken("- `pids.max` holds. Cases: `one`, `two`.", &[]);
        broken("- it holds. Cases: `one`, `three`.", &["`three`, which", "does not say what the case `two`"]);
        broken("- `one` and `two` hold.", &["`one`", "`two`"]);
    }
}
