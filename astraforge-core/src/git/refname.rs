//! Which names of branches and commits may reach a git command line.

/// The longest branch name that is taken.
const MAX_BYTES: usize = 200;

/// Checks a branch name by the rules of `git check-ref-format --branch`, and says what is wrong with it.
///
/// # Errors
/// What is wrong, in words.
pub fn check_branch(name: &str) -> Result<(), String> {
    let wrong = |why: &str| Err(format!("`{}` is not a branch name: it {why}", name.escape_debug()));
    let forbidden = |c: char| c.is_ascii_control() || " ~^:?*[\\".contains(c);
    if name.is_empty() {
        return wrong("is empty");
    }
    if name.len() > MAX_BYTES {
        return wrong("is longer than 200 bytes");
    }
    if name.starts_with('-') {
        return wrong("begins with `-`");
    }
    if name.contains(forbidden) {
        return wrong("has a space, a control character or one of ~^:?*[\\");
    }
    if name.contains("..") || name.contains("@{") || name == "@" || name == "HEAD" || name.ends_with('.') {
        return wrong("means something else to git");
    }
    if name.split('/').any(|part| part.is_empty() || part.starts_with('.') || part.ends_with(".lock")) {
        return wrong("has a part that is empty, begins with `.` or ends with `.lock`");
    }
    Ok(())
}

/// Checks that a text is a whole commit id.
///
/// # Errors
/// What is wrong, in words.
pub fn check_commit(id: &str) -> Result<(), String> {
    let hex = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
    if id.len() == 40 && id.bytes().all(hex) {
        Ok(())
    } else {
        Err(format!("`{}` is not a whole commit id", id.chars().take(80).collect::<String>().escape_debug()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_people_give_branches_are_taken() {
        for name in ["main", "astraforge/0199-ab", "feature/ünï", "v1.2", "a@b", "release-1"] {
            assert_eq!(check_branch(name), Ok(()), "{name}");
        }
    }

    #[test]
    fn names_that_git_would_read_as_something_else_are_refused() {
        for name in [
            "",
            "-rf",
            "--upload-pack=x",
            "HEAD",
            "@",
            "a..b",
            "a b",
            "a\nb",
            "a\0b",
            "a:b",
            "a~1",
            "a^",
            "a?",
            "a*",
            "[a",
            "a\\b",
            "/a",
            "a/",
            "a//b",
            ".a",
            "a/.b",
            "a.lock",
            "a.lock/b",
            "a.",
            "a@{1}",
            "+a:b",
            "a\u{7f}",
        ] {
            assert!(check_branch(name).is_err(), "{name:?}");
        }
        assert!(check_branch(&"a".repeat(201)).is_err());
    }

    #[test]
    fn only_whole_commit_ids_are_taken() {
        assert_eq!(check_commit("0123456789abcdef0123456789abcdef01234567"), Ok(()));
        for id in ["", "HEAD", "abc", "--all", &"A".repeat(40), &"g".repeat(40), &"a".repeat(41)] {
            assert!(check_commit(id).is_err(), "{id}");
        }
    }
}
