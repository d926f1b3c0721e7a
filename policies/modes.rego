# Links and submodules: contents that lie elsewhere.
package astraforge.change

import rego.v1

maintainer contains reason if {
	some file in input.files
	file.mode == "120000"
	file.kind != "deleted"
	file.link_leaves_tree
	reason := {
		"rule": "link-leaves-tree",
		"path": file.path,
		"message": "The symbolic link points out of the repository, or its target is not known. A maintainer must approve.",
	}
}

maintainer contains reason if {
	some file in input.files
	"160000" in {file.mode, file.old_mode}
	reason := {
		"rule": "submodule",
		"path": file.path,
		"message": "The change adds, moves or removes a submodule, whose contents nobody sees here. A maintainer must approve.",
	}
}
