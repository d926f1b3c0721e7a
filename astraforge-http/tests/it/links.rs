//! Repository links.

use astraforge_core::{ports::store::Store, testing::samples};
use serde_json::{Value, json};

use crate::house::{House, Who};

const PATH: &str = "/api/repository-links/";

#[tokio::test]
async fn a_link_never_shows_its_token() {
    let house = House::new().await;
    let body = json!({"provider": "local", "repository": " team/tools ", "access_token": " s3cret-9f3c"});
    let answer = house.post(Who::Maintainer, PATH, body).await;
    let none =
        json!({"base_branch": null, "setup": null, "test": null, "env": {}, "timeout_seconds": null, "egress": []});
    let expected = json!({
        "id": answer.body["id"], "provider": "local", "repository": "team/tools", "base_url": "",
        "token_preview": "***9f3c", "environment": none,
        "created_at": "2026-03-01T12:00:00.000000Z", "updated_at": "2026-03-01T12:00:00.000000Z",
    });
    answer.is(201, expected.clone());
    let stored = house.spine.store.links(&samples::tenant()).await.unwrap();
    assert_eq!(stored[1].access_token.as_ref().unwrap().reveal(), " s3cret-9f3c");
    let list = house.get(Who::Observer, PATH).await;
    assert_eq!(list.has_status(200)[1], expected);
    assert!(!list.text.contains("s3cret"));
    let path = format!("{PATH}{}/", answer.body["id"].as_str().unwrap());
    house.get(Who::Observer, &path).await.is(200, expected);
}

#[tokio::test]
async fn a_link_without_a_token_shows_none() {
    let house = House::new().await;
    let body = json!({"provider": "local", "repository": "team/tools"});
    assert_eq!(house.post(Who::Maintainer, PATH, body).await.has_status(201)["token_preview"], "");
}

#[tokio::test]
async fn each_field_of_a_link_is_judged() {
    let house = House::new().await;
    let check = async |body: Value, mistakes: Value| house.post(Who::Maintainer, PATH, body).await.is(400, mistakes);
    let required = "This field is required.";
    check(json!({}), json!({"provider": [required], "repository": [required], "access_token": [required]})).await;
    let works = "\"bitbucket\" is not a valid choice. What works today: local.";
    check(json!({"provider": "bitbucket"}), json!({"provider": [works]})).await;
    check(json!({"provider": 7, "repository": 7}), json!({"access_token": [required]})).await;
    let url = json!({"provider": "local", "repository": "a/b", "base_url": "gitlab"});
    check(url, json!({"base_url": ["Enter a valid URL."]})).await;
    let base = json!({"provider": "local", "repository": "a/b", "base_url": "https://x.org"});
    check(base, json!({"base_url": ["Only GitLab links support custom base URLs."]})).await;
    let long = json!({"provider": "local", "repository": "x".repeat(256)});
    check(long, json!({"repository": ["Ensure this field has no more than 255 characters."]})).await;
    let again = json!({"provider": "local", "repository": house.spine.link.repository});
    check(again, json!({"repository": ["local repository \"acme/loader\" is linked already."]})).await;
    let environment = json!({"base_branch": "--upload-pack=x", "env": {"1A": "x", "B": 1}, "timeout_seconds": 0,
        "egress": ["example.com", "http://example.com"]});
    let mistakes = json!({"environment": {
        "base_branch": ["Enter a valid branch name."],
        "env": {
            "1A": ["A name has letters, digits and underscores, and does not begin with a digit."],
            "B": ["Not a valid string."],
        },
        "timeout_seconds": ["Ensure this value is between 1 and 86400."],
        "egress": {"1": ["`http://example.com` is not a rule for hosts: a port is a number from 1 to 65535; write example.com, *.example.com or example.com:8443"]},
    }});
    check(json!({"provider": "local", "repository": "a/b", "environment": environment}), mistakes).await;
}

#[tokio::test]
async fn environment_and_token_can_be_changed_and_the_rest_cannot() {
    let house = House::new().await;
    let path = format!("{PATH}{}/", house.spine.link.id);
    let patch = async |body: Value| house.call(Who::Maintainer, "PATCH", &path, Some(body)).await;
    let environment = json!({"test": "pytest -q", "env": {"CI": "1"}});
    let changed = patch(json!({"environment": environment, "repository": "other"})).await;
    changed.has_status(200);
    assert_eq!(changed.body["environment"]["test"], "pytest -q");
    assert_eq!(
        (&changed.body["repository"], &changed.body["token_preview"]),
        (&json!("acme/loader"), &json!("***link"))
    );
    assert_eq!(patch(json!({"access_token": "new-token-1234"})).await.body["token_preview"], "***1234");
    assert_eq!(patch(json!({"access_token": null})).await.body["token_preview"], "");
    assert_eq!(patch(json!({})).await.body["environment"]["test"], "pytest -q");
    patch(json!({"access_token": ""})).await.is(400, json!({"access_token": ["This field may not be blank."]}));
    house.call(Who::Reviewer, "PATCH", &path, Some(json!({}))).await.has_status(403);
}

#[tokio::test]
async fn a_link_is_removed_once() {
    let house = House::new().await;
    let path = format!("{PATH}{}/", house.spine.link.id);
    house.call(Who::Reviewer, "DELETE", &path, None).await.has_status(403);
    let answer = house.call(Who::Maintainer, "DELETE", &path, None).await;
    answer.has_status(204);
    assert_eq!(answer.text, "");
    let gone = json!({"detail": "No RepositoryLink matches the given query."});
    house.call(Who::Maintainer, "DELETE", &path, None).await.is(404, gone);
    house.call(Who::Maintainer, "DELETE", &format!("{PATH}x/"), None).await.is(404, json!({"detail": "Not found."}));
}
