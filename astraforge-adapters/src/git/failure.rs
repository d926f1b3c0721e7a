//! Turns what git says when it fails into an error that a caller can act on.

use astraforge_core::ports::git::GitError;

use super::run::{RunError, backend};

/// The longest text of git that is passed on.
const MAX_CHARS: usize = 2000;

/// What a failed read of a real repository means.
pub(crate) fn of_source(repository: &str, operation: &'static str, said: &str) -> GitError {
    let has = |needles: &[&str]| needles.iter().any(|needle| said.contains(needle));
    let reason = if has(&["dubious ownership"]) {
        "it belongs to another user than the one that AstraForge runs as; change its owner (`chown -R`) or run \
         AstraForge as that user"
    } else if has(&["shallow"]) {
        "it is a shallow clone; run `git fetch --unshallow` there first"
    } else if has(&["mismatched algorithms", "object format", "object-format"]) {
        "it uses SHA-256 object names, which are not supported yet"
    } else if has(&["Permission denied", "unable to access '/", "cannot change to"]) {
        "AstraForge may not read it; check the permissions of its folder"
    } else if has(&[
        "Authentication failed",
        "could not read Username",
        "could not read Password",
        "error: 401",
        "error: 403",
    ]) {
        "the host refused the credential; check the token of the repository link and its permissions"
    } else if has(&["not appear to be a git repository", "not a git repository", "Repository not found", " not found"])
    {
        "there is no git repository; check its name, or make one with `git init`"
    } else if has(&["Could not resolve host", "Failed to connect", "Connection refused", "timed out"]) {
        return GitError::Unreachable { repository: repository.to_owned() };
    } else if has(&[
        "fsck",
        "corrupt",
        "bad object",
        "missing",
        "inflate",
        "invalid sha1",
        "unpack",
        "index-pack",
        "not our ref",
        "did not send all",
        "early EOF",
        "hung up",
        "unable to read",
        "loose object",
        "pack",
    ]) {
        return refused(said);
    } else {
        return backend(operation, RunError::Failed { said: shortened(said) });
    };
    GitError::NoRepository { repository: repository.to_owned(), reason: reason.to_owned() }
}

/// An error for what git itself turned down.
pub(crate) fn refused(reason: impl AsRef<str>) -> GitError {
    GitError::Refused { reason: shortened(reason.as_ref()) }
}

fn shortened(text: &str) -> String {
    text.chars().take(MAX_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(said: &str, told: &str) {
        let error = of_source("/r", "fetch", said);
        assert!(error.to_string().contains(told), "{error}");
    }

    #[test]
    fn each_failure_says_what_to_do() {
        check("fatal: detected dubious ownership in repository at '/r'", "chown -R");
        check("fatal: '/r' does not appear to be a git repository", "git init");
        check("error: unable to open /r/HEAD: Permission denied", "permissions");
        check("fatal: Authentication failed for 'https://h/x'", "token");
        check("fatal: attempt to fetch/clone from a shallow repository", "unshallow");
        check("fatal: mismatched algorithms: client sha1; server sha256", "SHA-256");
        check("fatal: unable to access 'https://h/': Could not resolve host: h", "cannot be reached");
        check("error: object 12: missingEmail: fsck error", "git refused: error: object 12");
        check("something new", "failed to fetch");
    }
}
