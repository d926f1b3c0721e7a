//! Sandboxes that are made ahead of time: handed out once each, like any other from then on, and never left over.

use std::{collections::HashSet, fs, path::Path, sync::Arc, time::Duration};

use astraforge_core::{
    id::SandboxId,
    ports::{machines::WorkspaceOrigin, sessions::Sessions},
    session::{ByteSize, Command, Limit, SandboxSpec, Workspace},
};
use astraforge_sandbox::{
    driver::{DriverError, DynSandboxDriver, SandboxDriver},
    native::NativeDriver,
    sandboxes::Sandboxes,
};

use super::{
    Footprint, Native, PATIENCE, config,
    kept::{check_kept, kill, on_disk, run},
};

/// A driver with `size` sandboxes in stock, like `spec`.
async fn stocked(size: usize, spec: &SandboxSpec) -> Arc<Native> {
    let native = Arc::new(Native::with(|config| config.with_pool(size)));
    native.driver().prepare(spec).await.unwrap();
    native
}

/// What is in stock.
fn spares(native: &Native) -> Vec<Footprint> {
    let entries = fs::read_dir(native.state.path()).unwrap().map(|it| it.unwrap());
    let spare = entries.filter(|it| it.file_name().to_str().unwrap().starts_with("spare-"));
    // One in the making has no first process yet.
    let is_made = |folder: &Path| {
        let record = fs::read(folder.join("record.json")).unwrap_or_default();
        serde_json::from_slice(&record).is_ok_and(|it: serde_json::Value| it["init"].is_object())
    };
    spare.filter(|it| is_made(&it.path())).map(|it| Footprint::of(&it.path())).collect()
}

fn first_process(native: &Native, id: SandboxId) -> i32 {
    Footprint::of(&native.state.path().join(id.to_string())).init
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.expect(what);
}

#[tokio::test]
async fn a_sandbox_in_stock_becomes_the_one_that_is_asked_for() {
    let spec = SandboxSpec::default();
    let native = stocked(2, &spec).await;
    let stock: HashSet<_> = spares(&native).iter().map(|it| it.init).collect();
    assert_eq!(stock.len(), 2);
    assert_eq!(native.list().await.unwrap(), [], "what is in stock is nobody's");
    let sandboxes = Sandboxes::new(Arc::clone(&native) as DynSandboxDriver);
    let id = SandboxId::random();
    let session = sandboxes.create(id, spec.with_env("WHO", "me"), Vec::new()).await.unwrap();
    assert!(stock.contains(&first_process(&native, id)), "it was in stock");
    let output = session.exec(Command::shell("echo $WHO $HOME $(pwd)")).await.unwrap().collect(1000).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "me /home/agent /workspace\n");
    assert_eq!(native.list().await.unwrap(), [id]);
    assert!(native.usage(id).await.unwrap().processes.is_some());
    until("the stock is filled again", || spares(&native).len() == 2).await;
    let footprint = Footprint::of(&native.state.path().join(id.to_string()));
    assert!(matches!(native.create(id, &SandboxSpec::default(), &[]).await, Err(DriverError::AlreadyExists { .. })));
    sandboxes.destroy(id).await.unwrap();
    footprint.assert_gone();
}

#[tokio::test]
async fn each_is_handed_out_once_however_many_ask_at_the_same_time() {
    let spec = SandboxSpec::default();
    let native = stocked(3, &spec).await;
    let ids: Vec<_> = (0..10).map(|_| SandboxId::random()).collect();
    let made = futures::future::join_all(ids.iter().map(|id| native.create(*id, &spec, &[]))).await;
    assert!(made.iter().all(|it| matches!(it, Ok(WorkspaceOrigin::Fresh))), "{made:?}");
    let processes: HashSet<_> = ids.iter().map(|id| first_process(&native, *id)).collect();
    assert_eq!(processes.len(), ids.len());
    for (i, id) in ids.iter().enumerate() {
        assert_eq!(run(&native, *id, &format!("ls; echo {i} > /workspace/file; ls | wc -l")).await, "1\n");
    }
    for id in ids {
        native.destroy(id).await.unwrap();
    }
}

#[tokio::test]
async fn one_id_is_one_sandbox_with_a_stock_too() {
    let spec = SandboxSpec::default();
    let native = stocked(3, &spec).await;
    let id = SandboxId::random();
    let made = futures::future::join_all((0..6).map(|_| native.create(id, &spec, &[]))).await;
    assert_eq!(made.iter().filter(|it| it.is_ok()).count(), 1, "{made:?}");
    assert!(made.iter().all(|it| matches!(it, Ok(_) | Err(DriverError::AlreadyExists { .. }))), "{made:?}");
    assert_eq!(run(&native, id, "echo alive").await, "alive\n");
    native.destroy(id).await.unwrap();
}

#[tokio::test]
async fn what_asks_for_another_shape_gets_it_and_the_stock_follows() {
    let native = stocked(1, &SandboxSpec::default()).await;
    let spec = SandboxSpec::default().with_workspace(Workspace::Tmpfs { size: ByteSize::mib(7) });
    let size = "df -k /workspace | tail -n 1 | tr -s ' ' | cut -d' ' -f2";
    let was_in_stock = async || {
        let before: Vec<_> = spares(&native).iter().map(|it| it.init).collect();
        let id = SandboxId::random();
        native.create(id, &spec, &[]).await.unwrap();
        assert_eq!(run(&native, id, size).await, "7168\n");
        let in_stock = before.contains(&first_process(&native, id));
        native.destroy(id).await.unwrap();
        in_stock
    };
    assert!(!was_in_stock().await, "the stock is of the usual shape");
    assert!(!was_in_stock().await, "it follows what was asked for twice");
    // While one of the new shape is in the making, others are made for whoever asks.
    let follows = async { while !was_in_stock().await {} };
    tokio::time::timeout(PATIENCE, follows).await.expect("the stock follows");
}

#[tokio::test]
async fn one_that_dies_in_stock_is_replaced() {
    let spec = SandboxSpec::default();
    let native = stocked(1, &spec).await;
    let dead = spares(&native).remove(0);
    kill(dead.init);
    until("it is replaced", || spares(&native).iter().any(|it| it.init != dead.init)).await;
    let id = SandboxId::random();
    native.create(id, &spec, &[]).await.unwrap();
    assert_eq!(run(&native, id, "echo alive").await, "alive\n");
    native.destroy(id).await.unwrap();
    until("the dead one is gone", || dead.is_gone()).await;
}

#[tokio::test]
async fn what_a_dead_server_kept_ready_is_removed_by_the_next_and_by_no_other() {
    let native = stocked(1, &SandboxSpec::default()).await;
    let spare = spares(&native).remove(0);
    drop(NativeDriver::new(config(native.state.path())).unwrap());
    assert!(!spare.is_gone(), "its server lives");
    // As if a process that is long gone had made it.
    fs::write(spare.folder.join("server.json"), r#"{"pid":1,"start_time":1}"#).unwrap();
    drop(NativeDriver::new(config(native.state.path())).unwrap());
    spare.assert_gone();
}

#[tokio::test]
async fn what_is_in_stock_goes_with_its_driver() {
    let native = stocked(2, &SandboxSpec::default()).await;
    let stock = spares(&native);
    drop(native);
    stock.iter().for_each(Footprint::assert_gone);
}

#[tokio::test]
async fn a_workspace_from_the_stock_outlives_its_sandbox_as_any_other() {
    let native = stocked(1, &on_disk()).await;
    let stock = spares(&native).remove(0);
    let id = SandboxId::random();
    native.create(id, &on_disk(), &[]).await.unwrap();
    assert_eq!(first_process(&native, id), stock.init);
    run(&native, id, "echo mine > note").await;
    let footprint = Footprint::of(&native.state.path().join(id.to_string()));
    kill(footprint.init);
    check_kept(&native, id, &footprint, &on_disk()).await;
}

#[tokio::test]
async fn a_workspace_that_was_left_is_taken_over_and_not_replaced_from_the_stock() {
    let size = Limit::best_effort(ByteSize::mib(64));
    let spec = SandboxSpec::default().with_workspace(Workspace::Disk { size });
    let native = stocked(1, &spec).await;
    let id = SandboxId::random();
    native.create(id, &spec, &[]).await.unwrap();
    run(&native, id, "echo mine > note").await;
    let footprint = Footprint::of(&native.state.path().join(id.to_string()));
    until("the stock is filled", || spares(&native).len() == 1).await;
    kill(footprint.keeper);
    check_kept(&native, id, &footprint, &spec).await;
}
