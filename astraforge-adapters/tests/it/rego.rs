//! The policy engine, and the shipped policies with their tests.

#![expect(clippy::unwrap_used, reason = "a failing test is what these are for")]

use std::{fs, path::Path, time::Duration};

use astraforge_adapters::rego::RegoPolicy;
use astraforge_core::{
    policy::{Decision, Verdict},
    ports::policy::PolicyEngine as _,
    request::change_set::{Change, ChangeKind, FileChange},
};
use regorus::{Engine, Value};

fn change(files: Vec<FileChange>, diff: &str) -> Change {
    Change {
        target_branch: "main".into(),
        branch: "b".into(),
        base_commit: "a".repeat(40),
        head_commit: "b".repeat(40),
        head_tree: "c".repeat(40),
        diff: diff.into(),
        files,
    }
}

fn file(path: &str, mode: &str) -> FileChange {
    let (path, mode) = (path.into(), mode.into());
    FileChange { path, old_path: None, kind: ChangeKind::Added, added: Some(1), removed: Some(0), mode, size: 9 }
}

async fn judge(change: &Change) -> Verdict {
    RegoPolicy::shipped().unwrap().evaluate(change).await.unwrap()
}

fn rules(verdict: &Verdict) -> Vec<(&str, Option<&str>)> {
    verdict.reasons.iter().map(|reason| (reason.rule.as_str(), reason.path.as_deref())).collect()
}

#[test]
fn the_shipped_policies_pass_their_tests() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("policies");
    let mut engine = Engine::new();
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let (name, text) = (path.file_name().unwrap().to_str().unwrap(), fs::read_to_string(&path).unwrap());
        if name.ends_with(".json") {
            engine.add_data_json(&text).unwrap();
            continue;
        }
        let package = engine.add_policy(name.to_owned(), text.clone()).unwrap();
        let tests = text.lines().filter_map(|line| line.strip_prefix("test_")?.split(' ').next());
        names.extend(tests.map(|test| format!("{package}.test_{test}")));
    }
    assert!(names.len() >= 15, "{names:?}");
    for name in names {
        let result = engine.eval_rule(name.clone()).unwrap();
        assert_eq!(result, Value::from(true), "{name}");
    }
}

#[tokio::test]
async fn an_ordinary_change_is_allowed() {
    let verdict = judge(&change(vec![file("src/a.rs", "100644")], "")).await;
    assert_eq!((verdict.decision, rules(&verdict)), (Decision::Allow, vec![]));
    assert_eq!(verdict.policy_version, RegoPolicy::shipped().unwrap().version());
}

#[tokio::test]
async fn the_gravest_reason_decides_and_all_are_named_in_order() {
    let files = vec![file("x/../y", "100644"), file(".gitlab-ci.yml", "100644"), file(".env", "100644")];
    let verdict = judge(&change(files, "")).await;
    assert_eq!(verdict.decision, Decision::Deny);
    let expected =
        [("path-forbidden", Some(".env")), ("path-protected", Some(".gitlab-ci.yml")), ("path-unsafe", Some("x/../y"))];
    assert_eq!(rules(&verdict), expected);
}

#[tokio::test]
async fn the_target_of_a_link_is_read_from_the_diff() {
    let diff = |target: &str| {
        format!(
            "diff --git a/l b/l\nnew file mode 120000\nindex 0..1\n--- /dev/null\n+++ b/l\n@@ -0,0 +1 @@\n+{target}\n\\ No newline at end of file\n"
        )
    };
    let link = || vec![file("l", "120000")];
    for (diff, decision) in [
        (diff("docs/x"), Decision::Allow),
        (diff("../../etc/passwd"), Decision::NeedsMaintainer),
        (diff("/etc/passwd"), Decision::NeedsMaintainer),
        (String::new(), Decision::NeedsMaintainer),
    ] {
        assert_eq!(judge(&change(link(), &diff)).await.decision, decision, "{diff}");
    }
}

#[tokio::test]
async fn a_file_that_only_the_diff_names_is_judged_too() {
    let diff = "diff --git a/.github/workflows/x.yml b/y.yml\nrename from .github/workflows/x.yml\nrename to y.yml\n";
    let verdict = judge(&change(vec![file("z", "100644")], diff)).await;
    assert_eq!(rules(&verdict), [("path-protected", Some(".github/workflows/x.yml"))]);
    let diff = "diff --git a/sub b/sub\ndeleted file mode 160000\nindex 1..0\n--- a/sub\n+++ /dev/null\n@@ -1 +0,0 @@\n-Subproject commit 1\n";
    assert_eq!(rules(&judge(&change(vec![], diff)).await), [("submodule", Some("sub"))]);
}

#[tokio::test]
async fn a_large_change_is_judged_in_time() {
    let files = (0..500).map(|n| file(&format!("src/folder/number/{n}/file.rs"), "100644")).collect();
    assert_eq!(judge(&change(files, "")).await.decision, Decision::Allow);
}

fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

#[track_caller]
fn check_refused(files: &[(&str, &str)], said: &[&str]) {
    let error = RegoPolicy::from_dir(folder(files).path()).unwrap_err();
    let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
    for said in said {
        assert!(format!("{error}: {source}").contains(said), "`{said}` is not in: {error}: {source}");
    }
}

const EMPTY: &str = "package astraforge.change\nimport rego.v1\ndeny contains x if { some x in [] }\nmaintainer contains x if { some x in [] }\n";

#[test]
fn a_broken_policy_is_refused_with_file_and_line() {
    check_refused(&[("a.rego", "package astraforge.change\nimport rego.v1\n\ndeny contains {\n")], &["a.rego", ":5"]);
    check_refused(&[("a.rego", EMPTY), ("d.json", "{\n \"a\": }")], &["d.json", "line 2"]);
    check_refused(&[("b.rego", &format!("{EMPTY}deny contains 1 if {{ nonsense(3) }}\n"))], &["b.rego:5", "nonsense"]);
    check_refused(&[], &["holds no policy"]);
    check_refused(&[("a.txt", "")], &["holds no policy"]);
}

#[test]
fn a_policy_that_would_allow_everything_by_mistake_is_refused() {
    check_refused(&[("a.rego", &EMPTY.replace("forge.change", "forge.chnage"))], &["data.astraforge.change.deny"]);
    check_refused(&[("a.rego", &EMPTY.replace("maintainer", "maintaner"))], &["data.astraforge.change.maintainer"]);
    check_refused(&[("a.rego", &format!("{EMPTY}deny contains \"text\" if true\n"))], &["not an object"]);
    check_refused(
        &[("a.rego", "package astraforge.change\nimport rego.v1\ndeny := false\nmaintainer := false\n")],
        &["not a set"],
    );
}

#[tokio::test]
async fn an_evaluation_that_fails_lets_nothing_through() {
    let bad_answer = format!("{EMPTY}deny contains 1 if input.branch == \"b\"\n");
    let bad_pattern = format!(
        "{EMPTY}deny contains {{\"rule\": \"r\", \"message\": \"m\"}} if {{ input.branch == \"b\"; regex.match(\"(\", \"x\") }}\n"
    );
    let endless = format!(
        "{EMPTY}deny contains 1 if {{ input.branch == \"b\"; ns := numbers.range(1, 3000); some a in ns; some b in ns; some c in ns; a + b + c < 0 }}\n"
    );
    for (text, said) in [(bad_answer, "not an object"), (bad_pattern, "regex"), (endless, "time")] {
        let folder = folder(&[("a.rego", &text)]);
        let policy = RegoPolicy::from_dir(folder.path()).unwrap().with_time_limit(Duration::from_millis(200));
        let started = std::time::Instant::now();
        let error = policy.evaluate(&change(vec![], "")).await.unwrap_err();
        assert!(error.0.to_string().contains(said), "{said}: {}", error.0);
        assert!(started.elapsed() < Duration::from_secs(5));
    }
}

#[tokio::test]
async fn data_alone_changes_the_limits_of_the_shipped_rules() {
    let shipped = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("policies/default.json")).unwrap();
    let folder = folder(&[("limits.json", &shipped.replace("\"max_files\": 500", "\"max_files\": 1"))]);
    let policy = RegoPolicy::from_dir(folder.path()).unwrap();
    let verdict = policy.evaluate(&change(vec![file("a", "100644"), file("b", "100644")], "")).await.unwrap();
    assert_eq!((verdict.decision, rules(&verdict)), (Decision::Deny, vec![("too-many-files", None)]));
    assert_ne!(policy.version(), RegoPolicy::shipped().unwrap().version());
}

#[test]
fn the_version_follows_every_text() {
    let version = |files: &[(&str, &str)]| RegoPolicy::from_dir(folder(files).path()).unwrap().version().to_owned();
    let before = version(&[("a.rego", EMPTY)]);
    assert_eq!(before, version(&[("a.rego", EMPTY), ("a_test.rego", "not even rego")]));
    assert_ne!(before, version(&[("a.rego", &format!("{EMPTY}# a remark\n"))]));
    assert_ne!(before, version(&[("a.rego", EMPTY), ("d.json", "{}")]));
}
