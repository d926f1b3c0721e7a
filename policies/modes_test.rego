package astraforge.change_test

import rego.v1

import data.astraforge.change

rules_of(changes) := {reason.rule | some reason in change.maintainer with input as {"files": [object.union(file("x"), changes)]}}

test_a_link_within_the_tree_is_free if rules_of({"mode": "120000"}) == set()

test_a_link_out_of_the_tree_wants_a_maintainer if {
	rules_of({"mode": "120000", "link_leaves_tree": true}) == {"link-leaves-tree"}
}

test_a_removed_link_is_free if rules_of({"mode": "120000", "kind": "deleted", "link_leaves_tree": true}) == set()

test_a_submodule_wants_a_maintainer_even_when_it_goes if {
	rules_of({"mode": "160000"}) == {"submodule"}
	rules_of({"old_mode": "160000", "kind": "deleted"}) == {"submodule"}
}
