//! What a crash leaves: of a sandbox its workspace, of its making nothing.

use std::{collections::HashMap, sync::Arc};

use astraforge_core::{
    id::SandboxId,
    ports::{
        machines::{Machines, WorkspaceOrigin},
        sessions::Sessions,
    },
    session::Command,
};
use astraforge_sandbox::{
    docker::{DockerConfig, DockerDriver},
    driver::SandboxDriver,
    sandboxes::Sandboxes,
};
use bollard::{
    models::{ContainerCreateBody, HostConfig, Mount, MountType, MountVolumeOptions},
    query_parameters::CreateContainerOptionsBuilder,
};

use super::{IMAGE, Tidy, belongings, config, engine, on_disk, run, text};

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_that_died_leaves_its_workspace_to_the_next_one() {
    let Some(config) = config() else { return };
    let id = SandboxId::random();
    let first = Sandboxes::new(Arc::new(DockerDriver::connect(config.clone()).await.unwrap()));
    let session = first.create(id, on_disk(), Vec::new()).await.unwrap();
    run(&*session, Command::shell("echo precious > file")).await;
    engine().kill_container(&format!("sandbox-{id}"), None).await.unwrap();
    let wait = engine();
    while wait.inspect_container(&format!("sandbox-{id}"), None).await.unwrap().state.unwrap().running == Some(true) {
        tokio::task::yield_now().await;
    }
    assert_eq!(first.list().await.unwrap(), [], "it does not live");
    assert_eq!(Machines::left(&first).await.unwrap(), [id]);

    // A server that starts clears the container away, and leaves the workspace.
    let second = Tidy::new(config.clone()).await;
    assert_eq!(second.left().await.unwrap(), [id]);
    assert_eq!(belongings(&config.owner).await.len(), 1);
    assert_eq!(second.create(id, &on_disk(), &[]).await.unwrap(), WorkspaceOrigin::Kept);
    assert_eq!(second.left().await.unwrap(), []);
    let sandboxes = Sandboxes::new(Arc::new(second));
    let session = sandboxes.attach(id, Vec::new()).await.unwrap();
    assert_eq!(text(&run(&*session, Command::shell("cat file")).await), "precious");
    sandboxes.destroy(id).await.unwrap();
    assert_eq!(belongings(&config.owner).await, [""; 0]);
}

/// Leaves what a server leaves that is killed in the middle of making a sandbox.
async fn break_off(config: &DockerConfig, id: SandboxId, name: &str, role: &str) {
    let label = |name: &str, value: String| (format!("astraforge.sandbox.{name}"), value);
    let labels = HashMap::from([label("session", id.to_string()), label("owner", config.owner.clone())]);
    let volume = Mount {
        typ: Some(MountType::VOLUME),
        source: Some(format!("astraforge-sandbox-session-{id}")),
        target: Some("/workspace".to_owned()),
        volume_options: Some(MountVolumeOptions { labels: Some(labels.clone()), ..Default::default() }),
        ..Default::default()
    };
    let mut labels = labels;
    labels.extend([label("role", role.to_owned()), label("maker", "another-boot 1 1 x".to_owned())]);
    let body = ContainerCreateBody {
        image: Some(IMAGE.to_owned()),
        cmd: Some(vec!["true".to_owned()]),
        labels: Some(labels),
        host_config: Some(HostConfig { mounts: Some(vec![volume]), ..Default::default() }),
        ..Default::default()
    };
    let options = CreateContainerOptionsBuilder::new().name(name).build();
    engine().create_container(Some(options), body).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_making_that_was_broken_off_leaves_no_empty_workspace_to_be_taken_for_a_kept_one() {
    let Some(config) = config() else { return };
    let (id, other) = (SandboxId::random(), SandboxId::random());
    let break_both = async || {
        break_off(&config, id, &format!("sandbox-{id}-workspace"), "preparation").await;
        break_off(&config, other, &format!("sandbox-{other}"), "fresh").await;
    };
    break_both().await;
    let driver = Tidy::new(config.clone()).await;
    assert_eq!(belongings(&config.owner).await, [""; 0], "a server that starts removes both");
    break_both().await;
    for id in [id, other] {
        assert_eq!(driver.create(id, &on_disk(), &[]).await.unwrap(), WorkspaceOrigin::Fresh);
        driver.destroy(id).await.unwrap();
    }
    break_both().await;
    for id in [id, other] {
        driver.destroy(id).await.unwrap();
    }
}
