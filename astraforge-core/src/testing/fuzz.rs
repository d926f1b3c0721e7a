//! The bodies of the core's fuzz targets: each takes any bytes, and panics when a promise is broken.

#![expect(clippy::expect_used, reason = "these functions are tests")]

use crate::{diff::Diff, egress::HostRule};

/// A target: its name, and what it does with an input.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: [Target; 2] = [("diff", diff), ("host_rule", host_rule)];

/// A diff, as git or anybody else wrote it.
///
/// # Panics
/// When what was read is not what stands there.
pub fn diff(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let read = Diff::parse(text);
    let mut rest = text;
    for file in &read.files {
        let at = rest.find(file.text).expect("each file's section stands in the diff, after the one before");
        rest = &rest[at + file.text.len()..];
        let _ = file.path();
        for line in file.lines() {
            assert!(file.text.contains(line.text), "{:?} is no line of the file's section", line.text);
            assert!(line.old.is_some() || line.new.is_some(), "a line is before, after, or both");
        }
        assert!(file.added_lines().chain(file.removed_lines()).count() <= file.lines().count());
    }
}

/// A rule for hosts, a line end, and a host that is asked for.
///
/// # Panics
/// When the rule does not mean what it says.
pub fn host_rule(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (rule, host) = text.split_once('\n').unwrap_or((text, ""));
    let Ok(read) = rule.parse::<HostRule>() else { return };
    let again: HostRule = read.to_string().parse().expect("what a rule says of itself is a rule");
    assert_eq!(again, read);
    for port in [80, 443, 8443] {
        assert_eq!(read.allows(host, port), again.allows(host, port));
        if read.allows(host, port) {
            let named = rule.split(':').next().unwrap_or_default().trim_start_matches('*').trim_end_matches('.');
            let host = host.to_ascii_lowercase();
            assert!(host.trim_end_matches('.').ends_with(&named.to_ascii_lowercase()), "{rule} lets {host} pass");
        }
    }
}

/// Inputs to begin with: target, name, bytes.
#[must_use]
pub fn seeds() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let change = "diff --git a/x b/y\nsimilarity index 90%\nrename from x\nrename to y\n--- a/x\n+++ b/y\n\
                  @@ -1,2 +1,2 @@ fn main\n one\n-two\n+zwei\n\\ No newline at end of file\n";
    let new = "diff --git a/n b/n\nnew file mode 100755\nindex 0000000..1\n--- /dev/null\n+++ \"b/\\303\\244\"\n@@ -0,0 +1 @@\n+a\n";
    let binary = "diff --git a/p.png b/p.png\nindex 1..2 100644\nBinary files a/p.png and b/p.png differ\n";
    vec![
        ("diff", "renamed", change.into()),
        ("diff", "new", new.into()),
        ("diff", "binary", binary.into()),
        ("diff", "all", [change, new, binary].concat().into()),
        ("host_rule", "exact", "example.com\nexample.com".into()),
        ("host_rule", "below", "*.Example.com:443,8443\napi.example.com.".into()),
        ("host_rule", "beside", "*.example.com\nevil-example.com".into()),
        ("host_rule", "no-rule", "https://example.com/\nexample.com".into()),
    ]
}
