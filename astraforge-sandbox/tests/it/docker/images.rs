//! Images that are there, that are not, and that are none.

use std::{os::unix::fs::PermissionsExt, sync::Arc};

use astraforge_core::{
    error::chain,
    id::SandboxId,
    ports::{machines::Machines, sessions::Sessions},
    session::{Command, SandboxSpec},
};
use astraforge_sandbox::{
    driver::{DriverError, SandboxDriver},
    sandboxes::Sandboxes,
};

use bollard::query_parameters::RemoveImageOptions;

use super::{Fixture, IMAGE, Tidy, config, engine, run, text};

/// Names an image that a registry has.
const PULLED: &str = "ASTRAFORGE_TEST_DOCKER_PULL";

/// An image that no registry has: there is none at this address.
const NOWHERE: &str = "127.0.0.1:1/astraforge/none:1";

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_cannot_be_had_says_what_to_do() {
    let Some(config) = config() else { return };
    let driver = Tidy::new(config).await;
    let spec = SandboxSpec::default().with_image(NOWHERE.parse().unwrap());
    let refused = driver.create(SandboxId::random(), &spec, &[]).await.unwrap_err();
    assert!(matches!(refused, DriverError::Unsupported { .. }), "{refused:?}");
    assert!(refused.to_string().contains("docker pull"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_of_a_registry_is_pulled_once_for_all_who_want_it() {
    let (Some(config), Some(image)) = (config(), pulled_image()) else { return };
    let engine = engine();
    engine.inspect_image(&image).await.expect_err("the engine has it already, so nothing would be pulled");
    let sandboxes = Sandboxes::new(Arc::new(Tidy::new(config).await));
    let spec = SandboxSpec::default().with_image(image.parse().unwrap());
    let ids = [SandboxId::random(), SandboxId::random()];
    let made = ids.map(|id| sandboxes.make(id, spec.clone()));
    for made in futures::future::join_all(made).await {
        let machine = made.unwrap().machine;
        assert_eq!(text(&run(&*machine, Command::shell("echo here")).await), "here");
    }
    for id in ids {
        sandboxes.destroy(id).await.unwrap();
    }
    engine.inspect_image(&image).await.unwrap();

    let other = format!("{}none", image.strip_suffix('1').unwrap());
    let spec = SandboxSpec::default().with_image(other.parse().unwrap());
    let refused = sandboxes.make(SandboxId::random(), spec).await.unwrap_err();
    assert!(chain(&refused).contains("no registry that the engine asks has it"), "{}", chain(&refused));
    engine.remove_image(&image, None::<RemoveImageOptions>, None).await.unwrap();
}

/// An image that the engine can pull from a registry, and has not.
fn pulled_image() -> Option<String> {
    let image = std::env::var(PULLED).ok();
    if image.is_none() {
        eprintln!("skipped: {PULLED} names no image that the engine can pull");
    }
    image
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_reference_never_reaches_the_engine() {
    let Some(config) = config() else { return };
    let driver = Tidy::new(config).await;
    for name in ["a/../../containers/create", "UPPER", "/srv/root", "a..b", "a@sha256:short", "a:b:c"] {
        let spec = SandboxSpec::default().with_image(name.parse().unwrap());
        let refused = driver.create(SandboxId::random(), &spec, &[]).await;
        assert!(matches!(refused, Err(DriverError::Unsupported { .. })), "{name}: {refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_default_image_is_built_where_no_registry_has_it() {
    let Some(mut config) = config() else { return };
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("Dockerfile"), format!("FROM {IMAGE}\nENV BUILT=here\nCOPY file /file\n"))
        .unwrap();
    std::fs::write(folder.path().join("file"), "in it").unwrap();
    let image = format!("127.0.0.1:1/astraforge/built:{}", SandboxId::random());
    config.image = image.parse().unwrap();
    config.build_context = Some(folder.path().to_owned());
    let sandbox = Fixture::new(config, SandboxSpec::default()).await;
    assert_eq!(sandbox.shell("echo $BUILT; cat /file").await, "here\nin it");
    sandbox.end().await;
    engine().remove_image(&image, None::<RemoveImageOptions>, None).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_holds_no_program_of_this_machine_is_no_obstacle() {
    let Some(config) = config() else { return };
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("Dockerfile"), "FROM scratch\nCOPY file /file\nENTRYPOINT [\"/nothing\"]\n")
        .unwrap();
    std::fs::write(folder.path().join("file"), "alone").unwrap();
    let image = format!("127.0.0.1:1/astraforge/empty:{}", SandboxId::random());
    let mut config = config;
    config.image = image.parse().unwrap();
    config.build_context = Some(folder.path().to_owned());
    let sandbox = Fixture::new(config, SandboxSpec::default()).await;
    assert_eq!(sandbox.session.read_file("/file", 100).await.unwrap(), "alone");
    sandbox.session.write_file("/workspace/new", "x".into(), 0o600).await.unwrap();
    sandbox.end().await;
    engine().remove_image(&image, None::<RemoveImageOptions>, None).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_durable_sandbox_starts_what_its_image_has_to_have_running() {
    let Some(mut config) = config() else { return };
    let folder = tempfile::tempdir().unwrap();
    let dockerfile = format!("FROM {IMAGE}\nCOPY start /etc/astraforge/start\n");
    std::fs::write(folder.path().join("Dockerfile"), dockerfile).unwrap();
    let start = folder.path().join("start");
    std::fs::write(&start, "#!/bin/sh\nid -u > /tmp/started; exec sleep 1000\n").unwrap();
    std::fs::set_permissions(&start, std::fs::Permissions::from_mode(0o755)).unwrap();
    let image = format!("127.0.0.1:1/astraforge/start:{}", SandboxId::random());
    config.image = image.parse().unwrap();
    config.build_context = Some(folder.path().to_owned());
    let sandboxes = Sandboxes::new(Arc::new(Tidy::new(config).await));
    let id = SandboxId::random();
    let made = sandboxes.make(id, SandboxSpec::default()).await.unwrap();
    let processes = made.machine.processes().await.unwrap();
    assert_eq!(processes.len(), 1, "it is started before anybody has the machine, who may be gone soon");
    let wait = "until [ -s /tmp/started ]; do sleep 0.05; done; cat /tmp/started";
    assert_eq!(text(&run(&*made.machine, Command::shell(wait)).await), "1000");
    sandboxes.destroy(id).await.unwrap();
    engine().remove_image(&image, None::<RemoveImageOptions>, None).await.unwrap();
}
