package astraforge.change_test

import rego.v1

import data.astraforge.change

small := object.union(data.config, {"max_files": 2, "max_changed_lines": 10, "max_file_size": 100, "max_total_size": 150})

over(files) := {reason.rule | some reason in change.deny with input as {"files": files} with data.config as small}

sized(size) := object.union(file("x"), {"size": size})

test_a_change_at_its_limits_passes if {
	over([object.union(sized(100), {"added": 5, "removed": 3}), sized(50)]) == set()
}

test_each_limit_denies if {
	over([file("a"), file("b"), file("c")]) == {"too-many-files"}
	over([object.union(file("a"), {"added": 11, "removed": 0})]) == {"too-many-lines"}
	over([sized(101)]) == {"file-too-large"}
	over([sized(76), sized(75)]) == {"change-too-large"}
}

test_a_binary_file_has_no_lines if {
	over([object.union(file("a"), {"added": null, "removed": null})]) == set()
}

test_a_deleted_file_has_no_size if {
	over([object.union(sized(1000), {"kind": "deleted"})]) == set()
}

test_a_limit_that_is_not_set_denies if {
	rules := {reason.rule | some reason in change.deny with input as {"files": []} with data.config as {"allowed": ["**"]}}
	rules == {"limits-not-set"}
}
