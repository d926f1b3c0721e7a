//! Two servers on one engine.

use std::sync::Arc;

use astraforge_core::{
    id::SandboxId,
    ports::sessions::Sessions,
    session::{Command, SandboxSpec},
};
use astraforge_sandbox::{
    docker::DockerDriver,
    driver::{DriverError, SandboxDriver},
    sandboxes::Sandboxes,
};
use bollard::{models::ContainerCreateBody, query_parameters::CreateContainerOptionsBuilder};

use super::{Fixture, IMAGE, Tidy, config, engine, on_disk, run, text};

#[tokio::test(flavor = "multi_thread")]
async fn one_owner_never_touches_anothers_sandboxes() {
    let (Some(ours), Some(theirs)) = (config(), config()) else { return };
    let sandbox = Fixture::new(ours, on_disk()).await;
    let id = sandbox.session.id();
    let others = Tidy::new(theirs).await;
    assert_eq!(others.list().await.unwrap(), []);
    assert!(matches!(others.connect(id).await, Err(DriverError::NotFound { .. })));
    assert!(matches!(others.usage(id).await, Err(DriverError::NotFound { .. })));
    let taken = others.create(id, &on_disk(), &[]).await.unwrap_err();
    assert!(format!("{:?}", taken).contains("belongs to somebody else"), "{taken:?}");
    others.destroy(id).await.unwrap();
    assert_eq!(sandbox.shell("echo on").await, "on");
    sandbox.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strangers_container_of_that_name_is_left_alone() {
    let Some(config) = config() else { return };
    let driver = Tidy::new(config).await;
    let id = SandboxId::random();
    let name = format!("sandbox-{id}");
    let options = CreateContainerOptionsBuilder::new().name(&name).build();
    let body =
        ContainerCreateBody { image: Some(IMAGE.to_owned()), cmd: Some(vec!["true".to_owned()]), ..Default::default() };
    engine().create_container(Some(options), body).await.unwrap();
    let taken = driver.create(id, &SandboxSpec::default(), &[]).await.unwrap_err();
    assert!(format!("{taken:?}").contains("belongs to somebody else"), "{taken:?}");
    driver.destroy(id).await.unwrap();
    engine().inspect_container(&name, None).await.expect("it is still there");
    engine().remove_container(&name, None).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_server_adopts_what_lives_and_two_may_create_at_once() {
    let Some(config) = config() else { return };
    let sandbox = Fixture::new(config.clone(), SandboxSpec::default()).await;
    let id = sandbox.session.id();
    sandbox.shell("echo kept > /tmp/file").await;
    let next = Sandboxes::new(Arc::new(DockerDriver::connect(config.clone()).await.unwrap()));
    assert_eq!(next.list().await.unwrap(), [id]);
    let adopted = next.attach(id, Vec::new()).await.unwrap();
    assert_eq!(text(&run(&*adopted, Command::shell("cat /tmp/file")).await), "kept");

    let second = SandboxId::random();
    let (one, other) = (Tidy::new(config.clone()).await, DockerDriver::connect(config).await.unwrap());
    let spec = on_disk();
    let (one_made, other_made) = futures::join!(one.create(second, &spec, &[]), other.create(second, &spec, &[]));
    let n_made = [&one_made, &other_made].iter().filter(|it| it.is_ok()).count();
    assert_eq!(n_made, 1, "{one_made:?} {other_made:?}");
    for refused in [one_made, other_made].into_iter().filter_map(Result::err) {
        assert!(matches!(refused, DriverError::AlreadyExists { .. }), "{refused:?}");
    }
    next.destroy(second).await.unwrap();
    sandbox.end().await;
}
