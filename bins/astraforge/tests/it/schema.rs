//! Calls that Schemathesis makes up from the OpenAPI document, good ones and bad ones, against a real server.

use std::{fs, path::Path, process::Command};

use crate::world::{World, one_command};

/// What is left out, and why, is in its configuration.
const CONFIGURATION: &str = "tests/schema/schemathesis.toml";

#[tokio::test]
#[ignore = "needs Schemathesis: cargo xtask test --only schema"]
async fn what_schemathesis_sends_is_answered_as_the_document_says() {
    let packages = std::env::var("ASTRAFORGE_TEST_SCHEMATHESIS").expect("cargo xtask test --only schema");
    let mut world = World::without_server(one_command("true"));
    // Of what it sends much has wrong credentials, or none, and all of it comes from one address.
    world.options.push("--strangers-per-minute=0".to_owned());
    world.make_repository("demo", |clone| fs::write(clone.join("README.md"), "# demo\n").unwrap());
    world.start();
    let request = world.submit("Say something").await;
    world.log(request).await;
    let client = world.client();

    let mut python = Command::new("python3");
    python.env("PYTHONPATH", packages).current_dir(world.path(""));
    python.args(["-m", "schemathesis.cli", "--config-file"]);
    python.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join(CONFIGURATION)).arg("run");
    python.arg(format!("{}/api/schema/", world.url()));
    python.arg("--header").arg(format!("X-Api-Key: {}", world.api_key()));
    let output = tokio::task::spawn_blocking(move || python.output().unwrap()).await.unwrap();
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(output.status.success(), "{said}\n{}", world.server_log());
    println!("{said}");
    for sandbox in client.sandboxes().await.unwrap() {
        client.delete_sandbox(sandbox.id).await.unwrap();
    }
}
