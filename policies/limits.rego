# How large a change may be.
package astraforge.change

import rego.v1

deny contains reason if {
	n := count(input.files)
	n > data.config.max_files
	reason := {
		"rule": "too-many-files",
		"path": null,
		"message": sprintf("%d files change, more than the %d allowed. Split the change.", [n, data.config.max_files]),
	}
}

deny contains reason if {
	n := sum([lines | some file in input.files; lines := changed_lines(file)])
	n > data.config.max_changed_lines
	reason := {
		"rule": "too-many-lines",
		"path": null,
		"message": sprintf("%d lines change, more than the %d allowed. Split the change.", [n, data.config.max_changed_lines]),
	}
}

# A binary file has no lines.
changed_lines(file) := file.added + file.removed if {
	is_number(file.added)
	is_number(file.removed)
} else := 0

deny contains reason if {
	some file in input.files
	file.size > data.config.max_file_size
	file.kind != "deleted"
	reason := {
		"rule": "file-too-large",
		"path": file.path,
		"message": sprintf("The file has %d bytes, more than the %d allowed.", [file.size, data.config.max_file_size]),
	}
}

deny contains reason if {
	n := sum([size | some file in input.files; file.kind != "deleted"; size := file.size])
	n > data.config.max_total_size
	reason := {
		"rule": "change-too-large",
		"path": null,
		"message": sprintf("The files have %d bytes together, more than the %d allowed.", [n, data.config.max_total_size]),
	}
}

# A limit that is not set would limit nothing.
deny contains reason if {
	some name in ["max_files", "max_changed_lines", "max_file_size", "max_total_size"]
	not is_number(data.config[name])
	reason := {
		"rule": "limits-not-set",
		"path": null,
		"message": sprintf("The policy's data has no number 'config.%s'. An admin must set it.", [name]),
	}
}

deny contains reason if {
	some name in ["allowed", "forbidden", "maintainer"]
	not is_array(data.config[name])
	reason := {
		"rule": "limits-not-set",
		"path": null,
		"message": sprintf("The policy's data has no list 'config.%s'. An admin must set it.", [name]),
	}
}
