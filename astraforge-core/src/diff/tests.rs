//! Diffs as git writes them, and anything else.

use proptest::prelude::*;

use super::*;

#[track_caller]
fn one(text: &str) -> FileDiff<'_> {
    let mut diff = Diff::parse(text);
    assert_eq!(diff.files.len(), 1, "{diff:?}");
    diff.files.remove(0)
}

#[track_caller]
fn check_paths(text: &str, kind: ChangeKind, old: Option<&str>, new: Option<&str>) {
    let file = one(text);
    assert_eq!((file.kind, file.old_path.as_deref(), file.new_path.as_deref()), (kind, old, new), "{text}");
}

#[test]
fn the_kind_and_the_paths_of_a_file_are_read() {
    use ChangeKind::{Added, Deleted, Modified, Renamed, TypeChanged};
    let at = |old, new| (Some(old), Some(new));
    for (text, kind, (old, new)) in [
        ("diff --git a/x b/x\nindex 1..2 100644\n--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+b\n", Modified, at("x", "x")),
        (
            "diff --git a/x b/x\nnew file mode 100644\n--- /dev/null\n+++ b/x\n@@ -0,0 +1 @@\n+a\n",
            Added,
            (None, Some("x")),
        ),
        ("diff --git a/x b/x\nnew file mode 100644\nindex 000..e69\n", Added, (None, Some("x"))),
        (
            "diff --git a/x b/x\ndeleted file mode 100644\n--- a/x\n+++ /dev/null\n@@ -1 +0,0 @@\n-a\n",
            Deleted,
            (Some("x"), None),
        ),
        (
            "diff --git a/x y b/z b/w\nsimilarity index 100%\nrename from x y\nrename to z b/w\n",
            Renamed,
            at("x y", "z b/w"),
        ),
        ("diff --git a/x b/y\ncopy from x\ncopy to y\n", Added, at("x", "y")),
        ("diff --git a/x b/x\nold mode 100644\nnew mode 100755\n", TypeChanged, at("x", "x")),
        ("diff --git a/a b b/a b\nold mode 100644\nnew mode 100755\n", TypeChanged, at("a b", "a b")),
        ("diff --git a/a b b/a b\n--- a/a b\t\n+++ b/a b\t\n@@ -1 +1 @@\n-a\n+b\n", Modified, at("a b", "a b")),
        (
            "diff --git \"a/\\303\\274\\t\\\"q\\\"\" \"b/\\303\\274\\t\\\"q\\\"\"\nold mode 100644\nnew mode 100755\n",
            TypeChanged,
            at("ü\t\"q\"", "ü\t\"q\""),
        ),
        ("diff --git a/x \"b/\\303\\274\"\nrename from x\nrename to \"\\303\\274\"\n", Renamed, at("x", "ü")),
        (
            "diff --git a/i.png b/i.png\nindex 1..2 100644\nBinary files a/i.png and b/i.png differ\n",
            Modified,
            at("i.png", "i.png"),
        ),
    ] {
        check_paths(text, kind, old, new);
    }
}

#[test]
fn lines_are_numbered_on_both_sides() {
    let file =
        one("diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -10,3 +20,3 @@ fn f() {\n a\n-b\n+c\n d\n@@ -50 +60,0 @@\n-e\n");
    let lines: Vec<_> = file.lines().map(|line| (line.text, line.old, line.new)).collect();
    assert_eq!(
        lines,
        [
            ("a", Some(10), Some(20)),
            ("b", Some(11), None),
            ("c", None, Some(21)),
            ("d", Some(12), Some(22)),
            ("e", Some(50), None),
        ]
    );
    assert_eq!(file.hunks[0].section, "fn f() {");
}

#[test]
fn lines_that_look_like_headers_stay_lines() {
    let text = "diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -1,3 +1,3 @@\n--- a/y\n+++ b/y\n-@@ -1 +1 @@\n+diff --git a/q b/q\n \n";
    let file = one(text);
    let texts: Vec<_> = file.lines().map(|line| line.text).collect();
    assert_eq!(texts, ["-- a/y", "++ b/y", "@@ -1 +1 @@", "diff --git a/q b/q", ""]);
    assert_eq!((file.path(), file.text), ("x", text));
}

#[test]
fn a_missing_newline_and_carriage_returns_are_kept_apart() {
    let file =
        one("diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -1,2 +1,2 @@\n a\r\n-b\r\n\\ No newline at end of file\n+c\r\n");
    let lines: Vec<_> = file.lines().map(|line| (line.text, line.no_newline)).collect();
    assert_eq!(lines, [("a\r", false), ("b\r", true), ("c\r", false)]);
}

#[test]
fn modes_and_binaries_are_read() {
    let file = one(
        "diff --git a/l b/l\nnew file mode 120000\nindex 000..111\n--- /dev/null\n+++ b/l\n@@ -0,0 +1 @@\n+../x\n\\ No newline at end of file\n",
    );
    assert_eq!((file.old_mode, file.new_mode), (None, Some("120000")));
    let file =
        one("diff --git a/b b/b\nindex 1..2 100644\nGIT binary patch\nliteral 4\nLcmZ>%\n\nliteral 0\nHcmV?d00001\n\n");
    assert!(file.is_binary && file.hunks.is_empty());
}

#[test]
fn files_follow_each_other() {
    let text = "noise\ndiff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+b\ndiff --git a/y b/y\nold mode 100644\nnew mode 100755";
    let diff = Diff::parse(text);
    let paths: Vec<_> = diff.files.iter().map(FileDiff::path).collect();
    assert_eq!(paths, ["x", "y"]);
    assert_eq!(diff.files.iter().map(|file| file.text).collect::<String>(), text["noise\n".len()..]);
}

/// A file before and after, with git's own diff between them as the one way to write it.
fn written(path: &str, old: &[String], new: &[String]) -> String {
    let range = |lines: &[String]| format!("{},{}", u8::from(!lines.is_empty()), lines.len());
    let mut text =
        format!("diff --git a/{path} b/{path}\n--- a/{path}\n+++ b/{path}\n@@ -{} +{} @@\n", range(old), range(new));
    old.iter().for_each(|line| text.push_str(&format!("-{line}\n")));
    new.iter().for_each(|line| text.push_str(&format!("+{line}\n")));
    text
}

proptest! {
    #[test]
    fn reading_never_panics(text in "(?s).{0,400}") {
        let _ = Diff::parse(&text);
    }

    #[test]
    fn reading_what_looks_like_a_diff_never_panics(
        lines in prop::collection::vec(prop_oneof![
            Just("diff --git a/x b/x".to_owned()), Just("diff --git \"a/\\3".to_owned()), "diff --git .{0,12}",
            "@@ -[0-9]{1,20},[0-9]{1,20} \\+[0-9]{1,20},[0-9]{1,2} @@.{0,4}", "[-+ \\\\].{0,6}", "(rename|copy) (from|to) .{0,6}",
            "(---|\\+\\+\\+) .{0,8}", "(old|new|new file|deleted file) mode .{0,6}", "index .{0,8}", Just(String::new()),
        ], 0..30)
    ) {
        let text = lines.join("\n");
        for file in Diff::parse(&text).files {
            file.lines().count();
        }
    }

    #[test]
    fn what_is_written_is_read_back(
        old in prop::collection::vec("[^\n]{0,12}", 0..6), new in prop::collection::vec("[^\n]{0,12}", 0..6)
    ) {
        let text = written("some file", &old, &new);
        let file = Diff::parse(&text).files.remove(0);
        prop_assert_eq!(file.removed_lines().map(|l| l.text.to_owned()).collect::<Vec<_>>(), old);
        prop_assert_eq!(file.added_lines().map(|l| l.text.to_owned()).collect::<Vec<_>>(), new);
        prop_assert_eq!(file.path(), "some file");
    }
}
