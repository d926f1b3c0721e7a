package astraforge.change_test

import rego.v1

import data.astraforge.change

file(path) := {"path": path, "old_path": null, "kind": "modified", "added": 1, "removed": 1, "mode": "100644", "old_mode": "100644", "size": 10, "link_leaves_tree": false}

denied(path) := {reason.rule | some reason in change.deny with input as {"files": [file(path)]}}

wants_maintainer(path) := {reason.rule | some reason in change.maintainer with input as {"files": [file(path)]}}

test_ordinary_paths_are_free if {
	ordinary := ["README.md", "src/main.rs", "docs/github/workflows.md", "a b/ü.txt", ".gitignore", ".github/ISSUE_TEMPLATE/bug.md", "src/.gitkeep", "...", "a..b/c", "environment/.envrc"]
	{path | some path in ordinary; count(denied(path)) + count(wants_maintainer(path)) > 0} == set()
}

test_unsafe_paths_are_denied if {
	unsafe := ["", "/etc/passwd", "../x", "a/../b", "a/..", "./a", "a//b", ".git/config", "sub/.git/hooks/x", ".GIT/x", ".git", ".git./x", ".git /x", "GIT~1/x", "a\\b", "a\nb", "C:/x"]
	{path | some path in unsafe; not "path-unsafe" in denied(path)} == set()
}

test_forbidden_paths_are_denied_at_any_depth if {
	forbidden := [".env", "deploy/.env", "home/.ssh/id_rsa", "id_ed25519", ".NETRC"]
	{path | some path in forbidden; not "path-forbidden" in denied(path)} == set()
}

narrow := object.union(data.config, {"allowed": ["src/**", "*.md"]})

denied_when_narrow(path) := {reason.rule | some reason in change.deny with input as {"files": [file(path)]} with data.config as narrow}

test_only_allowed_paths_pass if {
	denied_when_narrow("src/a/b.rs") == set()
	denied_when_narrow("README.md") == set()
	denied_when_narrow("docs/README.md") == {"path-not-allowed"}
	denied_when_narrow("lib/a.rs") == {"path-not-allowed"}
}

test_files_that_run_code_want_a_maintainer if {
	protected := [".github/workflows/ci.yml", ".github/workflows/a/b.yaml", ".gitlab-ci.yml", "Jenkinsfile", "ci/Jenkinsfile.release", ".circleci/config.yml", "azure-pipelines.yml", "build/azure-pipelines-nightly.yaml", "CODEOWNERS", ".github/CODEOWNERS", "docs/CODEOWNERS", ".githooks/pre-commit", ".husky/pre-push", ".codex/config.toml", "sub/.codex/config.toml", "AGENTS.md", ".gitmodules", ".pre-commit-config.yaml", "action.yml"]
	{path | some path in protected; not "path-protected" in wants_maintainer(path)} == set()
}

test_a_rename_touches_both_paths if {
	moved := object.union(file("docs/ci.yml"), {"old_path": ".github/workflows/ci.yml", "kind": "renamed"})
	rules := {[reason.rule, reason.path] | some reason in change.maintainer with input as {"files": [moved]}}
	rules == {["path-protected", ".github/workflows/ci.yml"]}
}
