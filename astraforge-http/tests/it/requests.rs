//! Requests from prompt to merge request, and what is refused on the way.

use astraforge_core::{
    id::RequestId,
    policy::{Decision, Verdict},
    ports::store::Store,
    testing::samples,
};
use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use crate::house::{House, Who};

#[tokio::test]
async fn a_submitted_request_has_the_contracts_form() {
    let house = House::new().await;
    let prompt = "  Cache the loader results\n\nKeep tests green. ";
    let body = json!({"prompt": prompt, "project_id": house.spine.link.id, "sender": "mira@example.org"});
    let answer = house.post(Who::Maintainer, "/api/requests/", body).await;
    answer.has_status(201);
    let project =
        json!({"id": house.spine.link.id, "provider": "local", "repository": "acme/loader", "base_url": null});
    let run = &answer.body["metadata"]["runs"][0];
    let queued = json!({
        "id": run["id"], "request_id": answer.body["id"], "status": "queued", "started_at": null, "finished_at": null,
        "events": run["events"], "diff": null, "reports": {}, "artifacts": {},
    });
    assert_eq!(*run, queued);
    let expected = json!({
        "id": answer.body["id"], "tenant_id": "acme", "source": "direct_user", "sender": "mira@example.org",
        "project": project, "state": "RECEIVED",
        "payload": {"title": "Cache the loader results", "description": prompt, "context": {}, "attachments": []},
        "artifacts": {},
        "metadata": {
            "project": project, "prompt": prompt,
            "chat_messages": [{"role": "user", "message": prompt, "created_at": "2026-03-01T12:00:00.000000+00:00"}],
            "spec": answer.body["metadata"]["spec"], "runs": [queued],
        },
        "created_at": "2026-03-01T12:00:00.000000Z", "updated_at": "2026-03-01T12:00:00.000000Z",
    });
    assert_eq!(answer.body, expected);
}

#[tokio::test]
async fn checks_are_made_in_the_contracts_order() {
    let house = House::new().await;
    let unlinked = json!({"detail": "Link a project before submitting requests."});
    house.post(Who::Stranger, "/api/requests/", json!([])).await.is(403, unlinked);
    let missing = json!({"prompt": ["This field is required."], "project_id": ["This field is required."]});
    house.post(Who::Maintainer, "/api/requests/", json!({})).await.is(400, missing);
    let foreign = json!({"prompt": "x", "project_id": RequestId::random()});
    let no_project = json!({"project_id": ["Select a project linked to your account."]});
    house.post(Who::Maintainer, "/api/requests/", foreign).await.is(400, no_project);
}

#[tokio::test]
async fn each_field_of_a_request_is_judged() {
    let house = House::new().await;
    let project = json!(house.spine.link.id);
    let mut bad = Vec::new();
    let mut check = |field: &str, value: Value, message: &str| {
        bad.push((json!({"prompt": "x", "project_id": project, field: value}), json!({field: [message]})));
    };
    check("prompt", json!(""), "This field may not be blank.");
    check("prompt", json!("  \n"), "This field may not be blank.");
    check("prompt", json!(null), "This field may not be null.");
    check("prompt", json!(true), "Not a valid string.");
    check("prompt", json!("a\u{0}b"), "Null characters are not allowed.");
    check("project_id", json!("x"), "Must be a valid UUID.");
    check("id", json!(7), "Must be a valid UUID.");
    check("id", json!(null), "This field may not be null.");
    check("sender", json!("nobody"), "Enter a valid email address.");
    check("source", json!(" "), "This field may not be blank.");
    check("source", json!("x".repeat(101)), "Ensure this field has no more than 100 characters.");
    check("start", json!("later"), "\"later\" is not a valid choice.");
    check("attachments", json!("x"), "Expected a list of items but got type \"str\".");
    let tenant = "Your key belongs to tenant \"acme\", not \"other\"; leave this field out.";
    check("tenant_id", json!("other"), tenant);
    for (body, mistakes) in bad {
        house.post(Who::Maintainer, "/api/requests/", body).await.is(400, mistakes);
    }
    let nested = json!({"prompt": "x", "project_id": project, "attachments": [{"name": "../x", "content": "?"}]});
    let mistakes = json!({"attachments": {"0": {
        "name": ["Enter a file name without folders."], "content": ["Enter the file's bytes in base64."],
    }}});
    house.post(Who::Maintainer, "/api/requests/", nested).await.is(400, mistakes);
    house.post(Who::Maintainer, "/api/requests/", json!({"prompt": 7, "project_id": project})).await.has_status(201);
}

#[tokio::test]
async fn the_same_id_with_the_same_content_is_the_same_request() {
    let house = House::new().await;
    let id = RequestId::random();
    let body = json!({"prompt": "Fix it", "project_id": house.spine.link.id, "id": id, "tenant_id": "acme"});
    house.post(Who::Maintainer, "/api/requests/", body.clone()).await.has_status(201);
    let again = house.post(Who::Maintainer, "/api/requests/", body.clone()).await;
    again.has_status(201);
    assert_eq!(again.body["metadata"]["runs"].as_array().unwrap().len(), 1);
    let mut other = body;
    other["prompt"] = json!("Something else");
    house.post(Who::Maintainer, "/api/requests/", other).await.has_status(409);
}

#[tokio::test]
async fn attachments_are_kept() {
    let house = House::new().await;
    let file = json!({"name": "trace.txt", "content_type": "text/plain", "content": BASE64_STANDARD.encode("boom")});
    let id = house.submit(json!({"attachments": [file]})).await;
    let shown = house.get(Who::Observer, &format!("/api/requests/{id}/")).await;
    let attachment = &shown.body["payload"]["attachments"][0];
    assert_eq!(
        (&attachment["name"], &attachment["content_type"], &attachment["size"]),
        (&json!("trace.txt"), &json!("text/plain"), &json!(4))
    );
    house.work().await;
    let given = house.spine.agent.assignments().remove(0).attachments;
    assert_eq!(given[0].1, "boom");
}

#[tokio::test]
async fn a_request_goes_from_prompt_to_reviewed_merge_request() {
    let house = House::new().await;
    let id = house.submit(json!({})).await;
    let path = format!("/api/requests/{id}/");
    house
        .get(Who::Observer, &format!("{path}diff/"))
        .await
        .is(404, json!({"detail": format!("Request {id} has no change yet")}));
    house.work().await;

    let shown = house.get(Who::Observer, &path).await.body;
    assert_eq!(shown["state"], "PATCH_READY");
    let run = &shown["metadata"]["runs"][0];
    assert_eq!((&run["status"], &run["artifacts"]["final_message"]), (&json!("completed"), &json!("Fixed it.")));
    assert_eq!(run["reports"]["codex_exit_code"], 0);
    assert_eq!(run["events"].as_array().unwrap().last().unwrap()["type"], "completed");
    assert_eq!(shown["metadata"]["execution"]["diff"], run["diff"]);
    assert_eq!(shown["metadata"]["last_commit"], "b".repeat(40));
    assert_eq!(shown["metadata"]["chat_messages"][1]["role"], "assistant");
    assert_eq!(shown["metadata"]["chat_messages"][1]["run_id"], run["id"]);

    let change = house.get(Who::Observer, &format!("{path}diff/")).await.body;
    assert_eq!((&change["verdict"]["decision"], &change["approvals"]), (&json!("allow"), &json!([])));
    let stale = json!({"digest": format!("sha256:{}", "0".repeat(64))});
    house.post(Who::Reviewer, &format!("{path}approve/"), stale).await.has_status(409);
    let odd = house.post(Who::Reviewer, &format!("{path}approve/"), json!({"digest": "sha256:x"})).await;
    assert!(odd.has_status(400)["digest"][0].as_str().unwrap().contains("not a digest"));
    let approved = house.post(Who::Reviewer, &format!("{path}approve/"), json!({"digest": change["digest"]})).await;
    approved.has_status(202);
    assert_eq!(approved.body["status"], "queued");
    assert_eq!(approved.body["approval"]["binding"], "explicit");
    assert_eq!(approved.body["approval"]["approver"], "Reviewer");
    house.work().await;

    let shown = house.get(Who::Observer, &path).await.body;
    assert_eq!(shown["state"], "REVIEWED");
    let listed = house.get(Who::Observer, "/api/merge-requests/").await.body;
    let mr = &listed[0];
    assert_eq!(shown["metadata"]["mr"]["id"], mr["id"]);
    assert_eq!((&mr["status"], &mr["request_id"], &mr["ref"]), (&json!("OPEN"), &json!(id), &mr["url"]));
    assert_eq!((&mr["commit"], &mr["diff"]), (&json!("b".repeat(40)), &change["diff"]));
    assert!(mr["review"]["summary"].as_str().unwrap().contains("nothing found"));
    let one = house.get(Who::Observer, &format!("/api/merge-requests/{}/", mr["id"].as_str().unwrap())).await;
    one.is(200, mr.clone());
}

#[tokio::test]
async fn an_approval_without_a_body_takes_what_is_current() {
    let house = House::new().await;
    let id = house.submit(json!({})).await;
    house.work().await;
    let approved = house.call(Who::Reviewer, "POST", &format!("/api/chat/{id}/approve"), None).await;
    assert_eq!(approved.has_status(202)["approval"]["binding"], "implicit");
}

#[tokio::test]
async fn what_the_policy_forbids_cannot_be_approved() {
    let house = House::new().await;
    let verdict = |decision| Verdict { policy_version: "v2".into(), decision, reasons: vec![] };
    house.spine.policy.decides(verdict(Decision::NeedsMaintainer));
    let id = house.submit(json!({})).await;
    house.work().await;
    let path = format!("/api/requests/{id}/approve/");
    house.post(Who::Reviewer, &path, json!({})).await.has_status(403);
    house.spine.policy.decides(verdict(Decision::Deny));
    house.post(Who::Maintainer, &path, json!({})).await.has_status(409);
    house.post(Who::Admin, &path, json!({})).await.has_status(409);
}

#[tokio::test]
async fn a_plan_is_made_and_executed() {
    let house = House::new().await;
    let id = house.submit(json!({"start": "after_plan"})).await;
    let body = json!({"request_id": id});
    house.post(Who::Maintainer, "/api/requests/execute/", body.clone()).await.has_status(409);
    let plan = house.post(Who::Maintainer, "/api/requests/plan/", body.clone()).await;
    let expected = json!({
        "steps": [{"description": "Do: Cache the loader results\n", "completed": false, "risk": null}],
        "summary": "A played plan",
    });
    plan.is(200, expected.clone());
    assert_eq!(house.get(Who::Observer, &format!("/api/requests/{id}/")).await.body["metadata"]["plan"], expected);
    let queued = house.post(Who::Maintainer, "/api/requests/execute/", body.clone()).await;
    assert_eq!(queued.has_status(202)["status"], "queued");
    house.work().await;
    let run = house.get(Who::Observer, &format!("/api/runs/{}/", queued.body["run_id"].as_str().unwrap())).await;
    assert_eq!(run.has_status(200)["status"], "completed");
    house.post(Who::Maintainer, "/api/requests/plan/", body).await.has_status(409);
    let bad = json!({"request_id": ["Must be a valid UUID."]});
    house.post(Who::Maintainer, "/api/requests/plan/", json!({"request_id": "x"})).await.is(400, bad);
}

#[tokio::test]
async fn a_message_and_a_specification_become_runs() {
    let house = House::new().await;
    let id = house.submit(json!({})).await;
    house.work().await;
    let said = house.post(Who::Reviewer, "/api/chat/", json!({"request_id": id, "message": " also docs "})).await;
    assert_eq!(said.has_status(202)["status"], "received");
    let spec = json!({"title": "Docs", "summary": "Write docs", "risks": ["too long"]});
    house.post(Who::Maintainer, &format!("/api/requests/{id}/execute/"), json!({"spec": spec})).await.has_status(202);
    let nested =
        json!({"spec": {"summary": ["This field is required."], "risks": {"0": ["This field may not be blank."]}}});
    let bad = json!({"spec": {"title": "Docs", "risks": [""]}});
    house.post(Who::Maintainer, &format!("/api/requests/{id}/execute/"), bad).await.is(400, nested);
    house.work().await;
    let prompts: Vec<_> = house.spine.agent.assignments().into_iter().map(|a| a.prompt).collect();
    assert!(prompts[1].contains(" also docs "), "{prompts:?}");
    assert!(prompts[2].contains("Write docs") && prompts[2].contains("- too long"), "{prompts:?}");
    let shown = house.get(Who::Observer, &format!("/api/requests/{id}/")).await.body;
    assert_eq!(shown["metadata"]["runs"].as_array().unwrap().len(), 3);
    assert_eq!(shown["metadata"]["spec"]["raw_prompt"], prompts[2]);
    let unknown = RequestId::random();
    let answer = house.post(Who::Reviewer, "/api/chat/", json!({"request_id": unknown, "message": "hi"})).await;
    answer.is(404, json!({"detail": format!("Request {unknown} not found")}));
}

#[tokio::test]
async fn what_is_queued_can_be_cancelled() {
    let house = House::new().await;
    let id = house.submit(json!({})).await;
    let run = house.get(Who::Observer, "/api/runs/").await.body[0]["id"].as_str().unwrap().to_owned();
    let cancel = format!("/api/runs/{run}/cancel/");
    house.post(Who::Maintainer, &cancel, json!({})).await.is(202, json!({"status": "cancelled", "state": "CANCELLED"}));
    house.post(Who::Maintainer, &cancel, json!({})).await.has_status(409);
    let shown = house.get(Who::Observer, &format!("/api/runs/{run}/")).await.body;
    assert_eq!((&shown["status"], &shown["error_cause"]), (&json!("cancelled"), &json!("cancelled")));
    house.call(Who::Maintainer, "POST", &format!("/api/requests/{id}/execute/"), None).await.has_status(202);
    let answer = house.call(Who::Maintainer, "POST", &format!("/api/requests/{id}/cancel/"), None).await;
    answer.is(202, json!({"status": "cancelled", "state": "CANCELLED"}));
}

#[tokio::test]
async fn lists_leave_out_what_is_large() {
    let house = House::new().await;
    let first = house.submit(json!({})).await;
    house.spine.clock.advance(std::time::Duration::from_secs(5));
    let second = house.submit(json!({})).await;
    house.work().await;
    let requests = house.get(Who::Observer, "/api/requests/").await.body;
    assert_eq!((&requests[0]["id"], &requests[1]["id"]), (&json!(second), &json!(first)));
    for absent in ["runs", "execution", "spec"] {
        assert!(requests[0]["metadata"].get(absent).is_none(), "{absent}");
    }
    assert_eq!(requests[0]["metadata"]["chat_messages"].as_array().unwrap().len(), 2);
    let runs = house.get(Who::Observer, "/api/runs/").await.body;
    let keys: Vec<_> = runs[0].as_object().unwrap().keys().map(String::as_str).collect();
    let mut expected = ["id", "request_id", "request_title", "status", "started_at", "finished_at", "diff_size"];
    expected.sort_unstable();
    let mut keys = keys;
    keys.sort_unstable();
    assert_eq!(keys, expected);
    let change = samples::change_set(&samples::run(&samples::request())).change;
    assert_eq!(runs[0]["diff_size"], change.diff.chars().count());
}

#[tokio::test]
async fn a_failed_run_says_why() {
    let house = House::new().await;
    let failure = astraforge_core::ports::git::GitError::NoBranch {
        repository: "acme/loader".into(),
        branch: "release".into(),
        known: vec!["main".into()],
    };
    let text = failure.to_string();
    house.spine.broker.fails_to_mirror(failure);
    let id = house.submit(json!({})).await;
    house.work().await;
    let shown = house.get(Who::Observer, &format!("/api/requests/{id}/")).await.body;
    assert_eq!(shown["state"], "FAILED");
    assert!(shown["metadata"]["runs"][0]["error"].as_str().unwrap().contains(&text), "{shown}");
    let run = shown["metadata"]["runs"][0]["id"].as_str().unwrap();
    let run = house.get(Who::Observer, &format!("/api/runs/{run}/")).await.body;
    assert_eq!(
        (&run["status"], &run["diff"], &run["error_cause"]),
        (&json!("failed"), &json!(""), &json!("repository"))
    );
    let last = run["events"].as_array().unwrap().last().unwrap();
    assert_eq!((&last["type"], &last["stage"]), (&json!("error"), &json!("failed")));
}

#[tokio::test]
async fn a_request_outlives_its_link() {
    let house = House::new().await;
    let id = house.submit(json!({})).await;
    assert!(house.spine.store.remove_link(&samples::tenant(), house.spine.link.id).await.unwrap());
    let shown = house.get(Who::Observer, &format!("/api/requests/{id}/")).await.body;
    let project = json!({"id": house.spine.link.id, "provider": null, "repository": null, "base_url": null});
    assert_eq!(shown["project"], project);
}
