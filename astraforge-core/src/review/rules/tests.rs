//! One case a line: what was added where, and what is found.

use super::*;
use crate::request::change_set::{ChangeKind, FileChange};

fn change(diff: String) -> Change {
    Change {
        target_branch: "main".into(),
        branch: "b".into(),
        base_commit: "a".repeat(40),
        head_commit: "b".repeat(40),
        head_tree: "c".repeat(40),
        diff,
        files: vec![],
    }
}

fn adding(path: &str, at: usize, lines: &[&str]) -> String {
    let added: String = lines.iter().map(|line| format!("+{line}\n")).collect();
    let n = lines.len();
    format!("diff --git a/{path} b/{path}\n--- a/{path}\n+++ b/{path}\n@@ -{at},0 +{at},{n} @@\n{added}")
}

/// What is found besides the missing test.
fn found(diff: String) -> Vec<Finding> {
    let mut findings = RuleReviewer::default().findings(&change(diff));
    findings.retain(|finding| finding.rule != "no-test");
    findings
}

#[track_caller]
fn check(path: &str, line: &str, expected: Option<(&str, Severity)>) {
    let findings = found(adding(path, 7, &["", line]));
    let got: Vec<_> = findings.iter().map(|f| (f.rule.as_str(), f.severity)).collect();
    assert_eq!(got, expected.into_iter().collect::<Vec<_>>(), "{path}: {line}");
    for finding in findings {
        assert_eq!((finding.file.as_str(), finding.line), (path, Some(8)));
    }
}

#[test]
fn secrets_are_found() {
    use Severity::{Error, Warning};
    check("a.py", concat!("key = 'sk-", "proj-abcdefghijklmnopqrstuvwx'"), Some(("secret", Error)));
    check("tests/a.py", concat!("AKIA", "ABCDEFGHIJKLMNOP"), Some(("secret", Error)));
    check("id", concat!("-----BEGIN RSA ", "PRIVATE KEY-----"), Some(("secret", Error)));
    check("a.yml", "db_password: 'corr3ct-h0rse'", Some(("secret", Warning)));
    check("a.go", r#"apiKey := "0123456789abcdef""#, Some(("secret", Warning)));
    check("a.env", "URL=postgres://me:s3cr3t-w0rd@db/x", Some(("secret", Warning)));
    for harmless in [
        "password = os.environ['PASSWORD']",
        "password: '${DB_PASSWORD}'",
        "secret = '<your secret>'",
        "api_key = 'example-api-key'",
        "password = 'short'",
        "if (password === otherPassword) {",
        "https://user@host/x:y@z",
        "postgres://me:${PW}@db",
    ] {
        check("a.py", harmless, None);
    }
    check("tests/a.py", "password = 'corr3ct-h0rse'", None);
}

#[test]
fn no_finding_repeats_a_secret() {
    let secret = concat!("ghp_", "abcdefghijklmnopqrstuvwxyz0123456789");
    let findings = found(adding("a.py", 1, &[&format!("t = '{secret}'"), "password = 'corr3ct-h0rse'"]));
    assert_eq!(findings.len(), 2);
    let text = format!("{findings:?}");
    assert!(!text.contains(secret) && !text.contains("corr3ct"), "{text}");
    // A fingerprint of another secret in the same place is the same: it tells nothing of the secret.
    let other = found(adding("a.py", 1, &["password = 'another-0ne'"]));
    assert_eq!(findings[1].fingerprint, other[0].fingerprint);
}

#[test]
fn conflict_markers_are_found_but_headings_are_none() {
    use Severity::{Error, Warning};
    check("a.js", "<<<<<<< HEAD", Some(("conflict-marker", Error)));
    check("a.js", ">>>>>>> feature/x", Some(("conflict-marker", Error)));
    check("a.md", "<<<<<<< HEAD", Some(("conflict-marker", Warning)));
    for harmless in ["=======", "<<<<<<<", ">>>>>>>> quoted", "  <<<<<<< HEAD", "a <<<<<<< b"] {
        check("a.rst", harmless, None);
    }
    check("a.patch", "<<<<<<< HEAD", None);
    let whole = adding("a.js", 1, &["<<<<<<< HEAD", "a", "=======", "b", ">>>>>>> x"]);
    assert_eq!(found(whole).len(), 1, "one conflict is one finding");
}

#[test]
fn debug_leftovers_are_found_by_language() {
    use Severity::{Info, Warning};
    let leftover = |severity| Some(("debug-leftover", severity));
    check("a.ts", "  debugger;", leftover(Warning));
    check("a.ts", "const debugger_name = 1;", None);
    check("src/a.js", "console.log(x)", leftover(Info));
    check("test/a.js", "console.log(x)", None);
    check("scripts/a.js", "console.log(x)", None);
    check("a.js", "// console.log(x)", None);
    check("a.js", "console.error(x)", None);
    check("test/a.js", "it.only('x', () => {", leftover(Warning));
    check("src/a.js", "cart.only('x')", None);
    check("src/a.rs", "let x = dbg!(y);", leftover(Warning));
    check("src/a.rs", "println!(\"{x}\");", None);
    check("a.py", "    breakpoint()", leftover(Warning));
    check("a.py", "import pdb; pdb.set_trace()", leftover(Warning));
    check("a.py", "print('here', x)", leftover(Info));
    check("a.py", "print(report)", None);
    check("a.rb", "binding.pry", leftover(Warning));
    check("dist/a.js", "debugger", None);
}

#[test]
fn open_ends_are_found() {
    check("a.rs", "// TODO: finish", Some(("open-end", Severity::Info)));
    check("a.py", "x = 1  # FIXME", Some(("open-end", Severity::Info)));
    check("a.rs", "let todo = TODO_LIST;", None);
    check("a.rs", "enum State { TODO }", None);
}

#[test]
fn moved_lines_are_passed_over() {
    let gone = "diff --git a/x.js b/x.js\n--- a/x.js\n+++ b/x.js\n@@ -1,2 +0,0 @@\n-// TODO: later\n-  debugger;\n";
    let moved = adding("y.js", 1, &["  // TODO: later", "debugger;"]);
    assert_eq!(found(format!("{gone}{moved}")), []);
}

#[test]
fn a_fingerprint_stays_when_lines_move() {
    let at = |line| found(adding("a.js", line, &["debugger;", "debugger;"]));
    let (before, after) = (at(1), at(90));
    assert_ne!(before[0].line, after[0].line);
    assert_eq!(before[0].fingerprint, after[0].fingerprint);
    assert_ne!(before[0].fingerprint, before[1].fingerprint, "two like lines are two findings");
}

#[track_caller]
fn check_file(diff: &str, expected: &[(&str, Severity)]) {
    let findings = found(diff.to_owned());
    assert_eq!(findings.iter().map(|f| (f.rule.as_str(), f.severity)).collect::<Vec<_>>(), expected, "{diff}");
}

#[test]
fn files_that_stand_out_are_found() {
    use Severity::{Info, Warning};
    let binary = "diff --git a/x.bin b/x.bin\nnew file mode 100644\nBinary files /dev/null and b/x.bin differ\n";
    check_file(binary, &[("binary-added", Warning)]);
    check_file(&binary.replace("x.bin", "x.png"), &[("binary-added", Info)]);
    let executable = "diff --git a/x b/x\nnew file mode 100755\n--- /dev/null\n+++ b/x\n@@ -0,0 +1 @@\n+data\n";
    check_file(executable, &[("executable-bit", Info)]);
    check_file(&executable.replace("data", "#!/bin/sh"), &[]);
    check_file("diff --git a/x.md b/x.md\nold mode 100644\nnew mode 100755\n", &[("executable-bit", Info)]);
    check_file("diff --git a/x.sh b/x.sh\nold mode 100644\nnew mode 100755\n", &[]);
    let many = vec!["x = 1"; 1600];
    check_file(&adding("a.py", 1, &many), &[("large-file", Info), ("large-change", Warning)]);
    check_file(&adding("package-lock.json", 1, &many), &[]);
}

#[test]
fn a_large_file_is_found_by_its_size() {
    let mut change = change(String::new());
    let mut file = FileChange {
        path: "big".into(),
        old_path: None,
        kind: ChangeKind::Added,
        added: None,
        removed: None,
        mode: "100644".into(),
        size: 3 << 20,
    };
    change.files = vec![file.clone()];
    assert_eq!(RuleReviewer::default().findings(&change)[0].rule, "large-file");
    file.kind = ChangeKind::Deleted;
    change.files = vec![file];
    assert_eq!(RuleReviewer::default().findings(&change), []);
}

#[track_caller]
fn check_tests_missing(paths: &[&str], line: &str, expected: bool) {
    let diff = paths.iter().map(|path| adding(path, 1, &[line])).collect();
    let findings = RuleReviewer::default().findings(&change(diff));
    assert_eq!(findings.iter().any(|f| f.rule == "no-test"), expected, "{paths:?}");
}

#[test]
fn code_without_a_test_is_found() {
    check_tests_missing(&["src/a.js"], "x", true);
    check_tests_missing(&["src/a.js", "README.md"], "x", true);
    for test in ["test/a.js", "a.test.ts", "a_test.go", "test_a.py", "src/ATest.java", "a/tests.rs"] {
        check_tests_missing(&["src/a.js", test], "x", false);
    }
    check_tests_missing(&["src/a.rs"], "#[tokio::test]", false);
    check_tests_missing(&["README.md", "a.yml"], "x", false);
    check_tests_missing(&["src/latest.js"], "x", true);
}

#[test]
fn many_findings_of_a_rule_are_counted() {
    let findings = found(adding("a.js", 1, &["debugger;"; 50]));
    assert_eq!(findings.len(), 21);
    assert!(findings[20].message.starts_with("30 more"), "{}", findings[20].message);
}
