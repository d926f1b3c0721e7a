# Which paths a change may touch, and which of them want a maintainer.
package astraforge.change

import rego.v1

# A renamed file touches two paths.
paths(file) := {path | some path in [file.path, file.old_path]; is_string(path)}

matches(pattern, path) if glob.match(lower(pattern), ["/"], lower(path))

deny contains reason if {
	some file in input.files
	some path in paths(file)
	problem := unsafe(path)
	reason := {
		"rule": "path-unsafe",
		"path": path,
		"message": sprintf("The path %s. No change may write there.", [problem]),
	}
}

unsafe(path) := "is empty" if path == ""

else := "is absolute" if regex.match(`^(/|[A-Za-z]:)`, path)

else := "has a part that is '.' or '..'" if regex.match(`(^|/)\.{1,2}(/|$)`, path)

else := "has an empty part" if contains(path, "//")

# The same folder by other names on Windows and macOS.
else := "lies in '.git'" if regex.match(`(?i)(^|/)(\.git|git~[0-9]+)[. ]*(/|$)`, path)

else := "holds a backslash or a control character" if regex.match(`[\\\x00-\x1f\x7f]`, path)

deny contains reason if {
	some file in input.files
	some path in paths(file)
	not allowed(path)
	reason := {
		"rule": "path-not-allowed",
		"path": path,
		"message": "The path is not among the allowed ones. Narrow the change, or have an admin allow the path.",
	}
}

allowed(path) if {
	some pattern in data.config.allowed
	matches(pattern, path)
}

deny contains reason if {
	some file in input.files
	some path in paths(file)
	some pattern in data.config.forbidden
	matches(pattern, path)
	reason := {
		"rule": "path-forbidden",
		"path": path,
		"message": sprintf("The path matches '%s', which no change may touch.", [pattern]),
	}
}

maintainer contains reason if {
	some file in input.files
	some path in paths(file)
	some pattern in data.config.maintainer
	matches(pattern, path)
	reason := {
		"rule": "path-protected",
		"path": path,
		"message": sprintf("The path matches '%s': it can make machines or agents run code. A maintainer must approve.", [pattern]),
	}
}
