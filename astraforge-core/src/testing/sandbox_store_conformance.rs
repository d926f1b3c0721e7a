//! The rules that all stores of sandboxes keep, one function a rule.

#![expect(missing_docs, reason = "the name of a rule says what it is")]

use std::collections::BTreeMap;

use chrono::TimeDelta;
use futures::future::join_all;

use super::{pages::in_pages, samples};
use crate::{
    id::{ArtifactId, NodeId, SandboxId, SnapshotId, TenantId},
    node::Node,
    page::{Listed as _, Page},
    ports::sandbox_store::SandboxStore,
    sandbox::{Artifact, Kept, Sandbox, SandboxStatus, Snapshot, Termination},
};

/// Makes one test of each rule that a [`SandboxStore`] keeps. The argument is a future that makes a fresh store, with
/// what must live as long as it: `(guard, store)`. The tests run on Tokio.
#[macro_export]
macro_rules! sandbox_store_conformance {
    ($fresh:expr) => {
        $crate::sandbox_store_conformance!(@ $fresh;
            a_sandbox_comes_back_as_it_was_added
            an_id_is_taken_once_whoever_asks
            one_of_many_writers_of_a_version_wins
            times_of_use_only_grow
            lists_are_a_tenants_own_and_newest_first
            live_ones_are_those_that_start_or_are_ready
            snapshots_and_artifacts_are_a_tenants_own
            sandboxes_snapshots_and_artifacts_come_in_pages
            pages_of_snapshots_go_on_where_one_was_removed
            a_snapshot_that_a_sandbox_comes_back_from_stays
            a_node_is_known_once_and_as_it_last_was
        );
    };
    (@ $fresh:expr; $($rule:ident)*) => { $(
        #[tokio::test]
        async fn $rule() {
            let (_guard, store) = $fresh.await;
            $crate::testing::sandbox_store_conformance::$rule(&store).await;
        }
    )* };
}

pub async fn a_sandbox_comes_back_as_it_was_added(store: &impl SandboxStore) {
    let mut sandbox = samples::sandbox();
    sandbox.termination = Some(Termination::Lost);
    sandbox.error_message = "it said \"no\"".to_owned();
    sandbox.latest_snapshot = Some(SnapshotId::random());
    assert!(store.add_sandbox(&sandbox).await.unwrap());
    assert_eq!(store.sandbox(sandbox.id).await.unwrap(), Some(sandbox));
    assert_eq!(store.sandbox(SandboxId::random()).await.unwrap(), None);
}

pub async fn an_id_is_taken_once_whoever_asks(store: &impl SandboxStore) {
    let sandbox = samples::sandbox();
    let other = Sandbox { tenant: TenantId::new("other"), ..sandbox.clone() };
    let added = join_all([&sandbox, &other, &sandbox].map(|it| store.add_sandbox(it))).await;
    assert_eq!(added.into_iter().filter(|it| *it.as_ref().unwrap()).count(), 1);
}

pub async fn one_of_many_writers_of_a_version_wins(store: &impl SandboxStore) {
    let sandbox = samples::sandbox();
    store.add_sandbox(&sandbox).await.unwrap();
    let writers: Vec<_> = (0..10).map(|n| Sandbox { error_message: n.to_string(), ..sandbox.clone() }).collect();
    let won = join_all(writers.iter().map(|it| store.update_sandbox(it))).await;
    assert_eq!(won.iter().filter(|it| *it.as_ref().unwrap()).count(), 1);
    let now = store.sandbox(sandbox.id).await.unwrap().unwrap();
    assert_eq!(now.version, sandbox.version + 1);
    assert!(store.update_sandbox(&now).await.unwrap());
    assert!(!store.update_sandbox(&Sandbox { id: SandboxId::random(), ..now }).await.unwrap());
}

pub async fn times_of_use_only_grow(store: &impl SandboxStore) {
    let sandbox = samples::sandbox();
    store.add_sandbox(&sandbox).await.unwrap();
    let at = |secs| samples::now() + TimeDelta::seconds(secs);
    store.note_activity(sandbox.id, at(10)).await.unwrap();
    store.note_activity(sandbox.id, at(5)).await.unwrap();
    store.note_heartbeat(sandbox.id, at(20)).await.unwrap();
    assert!(store.update_sandbox(&sandbox).await.unwrap(), "noting is no new version");
    let now = store.sandbox(sandbox.id).await.unwrap().unwrap();
    assert_eq!((now.last_activity_at, now.last_heartbeat_at), (at(10), at(20)));
    store.note_activity(SandboxId::random(), at(1)).await.unwrap();
}

pub async fn lists_are_a_tenants_own_and_newest_first(store: &impl SandboxStore) {
    let mut expected = Vec::new();
    for n in 0..3 {
        let created_at = samples::now() + TimeDelta::seconds(n);
        let sandbox = Sandbox { id: SandboxId::random(), created_at, ..samples::sandbox() };
        store.add_sandbox(&sandbox).await.unwrap();
        expected.insert(0, sandbox.id);
    }
    let tenant = samples::sandbox().tenant;
    let listed: Vec<_> = store.sandboxes(&tenant).await.unwrap().into_iter().map(|it| it.id).collect();
    assert_eq!(listed, expected);
    assert!(store.sandboxes(&TenantId::new("other")).await.unwrap().is_empty());
}

pub async fn live_ones_are_those_that_start_or_are_ready(store: &impl SandboxStore) {
    for status in SandboxStatus::ALL {
        let sandbox = Sandbox { id: SandboxId::random(), status, ..samples::sandbox() };
        store.add_sandbox(&sandbox).await.unwrap();
    }
    let mut live: Vec<_> = store.live_sandboxes().await.unwrap().into_iter().map(|it| it.status.as_str()).collect();
    live.sort_unstable();
    assert_eq!(live, ["ready", "starting"]);
}

pub async fn snapshots_and_artifacts_are_a_tenants_own(store: &impl SandboxStore) {
    let sandbox = samples::sandbox();
    store.add_sandbox(&sandbox).await.unwrap();
    let snapshot = |n: i64| Snapshot {
        id: SnapshotId::random(),
        sandbox: sandbox.id,
        tenant: sandbox.tenant.clone(),
        label: format!("snapshot {n}"),
        key: "snapshots/a/b.tar.zst".to_owned(),
        size: 1 << 40,
        sha256: "ab".repeat(32),
        include: vec!["/workspace".to_owned()],
        exclude: vec!["*.log".to_owned()],
        created_at: samples::now() + TimeDelta::seconds(n),
    };
    let (first, second) = (snapshot(1), snapshot(2));
    store.add_snapshot(&first).await.unwrap();
    store.add_snapshot(&second).await.unwrap();
    assert_eq!(store.snapshots(sandbox.id).await.unwrap(), [second.clone(), first.clone()]);
    assert_eq!(store.snapshot(&sandbox.tenant, first.id).await.unwrap(), Some(first.clone()));
    assert_eq!(store.snapshot(&TenantId::new("other"), first.id).await.unwrap(), None);
    let artifact = Artifact {
        id: ArtifactId::random(),
        sandbox: sandbox.id,
        tenant: sandbox.tenant.clone(),
        filename: "report.pdf".to_owned(),
        content_type: "application/pdf".to_owned(),
        path: "/workspace/report.pdf".to_owned(),
        key: "artifacts/a/b".to_owned(),
        size: 3,
        sha256: "cd".repeat(32),
        created_at: samples::now(),
    };
    store.add_artifact(&artifact).await.unwrap();
    assert_eq!(store.artifacts(sandbox.id).await.unwrap().first(), Some(&artifact));
    store.add_artifact(&Artifact { id: ArtifactId::random(), ..artifact.clone() }).await.unwrap();
    let other = Sandbox { id: SandboxId::random(), ..samples::sandbox() };
    store.add_sandbox(&other).await.unwrap();
    let kept = store.kept(&[other.id, sandbox.id, SandboxId::random()]).await.unwrap();
    let expected = Kept { snapshots: vec![second.id, first.id], n_artifacts: 2 };
    assert_eq!(kept, BTreeMap::from([(sandbox.id, expected)]));
    assert!(store.kept(&[other.id]).await.unwrap().is_empty() && store.kept(&[]).await.unwrap().is_empty());
    assert_eq!(store.artifact(&sandbox.tenant, artifact.id).await.unwrap(), Some(artifact.clone()));
    assert_eq!(store.artifact(&TenantId::new("other"), artifact.id).await.unwrap(), None);
}

pub async fn sandboxes_snapshots_and_artifacts_come_in_pages(store: &impl SandboxStore) {
    let tenant = samples::sandbox().tenant;
    // Two are of the same time.
    for seconds in [3, 1, 2, 2, 5] {
        let created_at = samples::now() + TimeDelta::seconds(seconds);
        store.add_sandbox(&Sandbox { created_at, ..samples::sandbox() }).await.unwrap();
        let sandbox = Sandbox { tenant: TenantId::new("other"), created_at, ..samples::sandbox() };
        store.add_sandbox(&sandbox).await.unwrap();
    }
    let sandboxes = store.sandboxes(&tenant).await.unwrap();
    assert_eq!(in_pages!(page => store.sandboxes_page(&tenant, page)), sandboxes);
    assert_eq!(store.sandboxes_page(&tenant, Page::ALL).await.unwrap().items, sandboxes);
    let [first, second] = [sandboxes[0].id, sandboxes[1].id];
    for n in 0..5 {
        let sandbox = if n == 2 { second } else { first };
        store.add_snapshot(&Snapshot { sandbox, ..samples::snapshot() }).await.unwrap();
        let artifact = Artifact {
            id: ArtifactId::random(),
            sandbox,
            tenant: tenant.clone(),
            filename: n.to_string(),
            content_type: String::new(),
            path: "/workspace/a".to_owned(),
            key: "artifacts/a/b".to_owned(),
            size: 3,
            sha256: "cd".repeat(32),
            created_at: samples::now(),
        };
        store.add_artifact(&artifact).await.unwrap();
    }
    let snapshots = store.snapshots(first).await.unwrap();
    assert_eq!((snapshots.len(), in_pages!(page => store.snapshots_page(first, page))), (4, snapshots));
    let artifacts = store.artifacts(first).await.unwrap();
    assert_eq!((artifacts.len(), in_pages!(page => store.artifacts_page(first, page))), (4, artifacts));
    assert_eq!(store.artifacts_page(second, Page::first(1)).await.unwrap().next, None);
}

pub async fn pages_of_snapshots_go_on_where_one_was_removed(store: &impl SandboxStore) {
    let sandbox = samples::sandbox();
    assert!(store.add_sandbox(&sandbox).await.unwrap());
    for _ in 0..4 {
        store.add_snapshot(&Snapshot { sandbox: sandbox.id, ..samples::snapshot() }).await.unwrap();
    }
    let all = store.snapshots(sandbox.id).await.unwrap();
    let after = Some(all[1].mark());
    assert!(store.remove_snapshot(all[1].id).await.unwrap());
    let rest = store.snapshots_page(sandbox.id, Page { after, limit: 9 }).await.unwrap();
    assert_eq!(rest.items, all[2..]);
}

pub async fn a_snapshot_that_a_sandbox_comes_back_from_stays(store: &impl SandboxStore) {
    let mut sandbox = samples::sandbox();
    assert!(store.add_sandbox(&sandbox).await.unwrap());
    let snapshots = [SnapshotId::random(), SnapshotId::random()].map(|id| Snapshot {
        id,
        sandbox: sandbox.id,
        tenant: sandbox.tenant.clone(),
        ..samples::snapshot()
    });
    for snapshot in &snapshots {
        store.add_snapshot(snapshot).await.unwrap();
    }
    // Another one that was made from it.
    let copy = Sandbox { id: SandboxId::random(), latest_snapshot: Some(snapshots[0].id), ..samples::sandbox() };
    assert!(store.add_sandbox(&copy).await.unwrap());
    sandbox.latest_snapshot = Some(snapshots[1].id);
    assert!(store.update_sandbox(&sandbox).await.unwrap());
    for snapshot in &snapshots {
        assert!(!store.remove_snapshot(snapshot.id).await.unwrap());
    }
    let mut copy = store.sandbox(copy.id).await.unwrap().unwrap();
    (copy.status, copy.termination) = (SandboxStatus::Terminated, Some(Termination::Deleted));
    assert!(store.update_sandbox(&copy).await.unwrap());
    assert!(store.remove_snapshot(snapshots[0].id).await.unwrap());
    assert!(!store.remove_snapshot(snapshots[0].id).await.unwrap(), "it is gone");
    assert_eq!(store.snapshots(sandbox.id).await.unwrap().len(), 1);
}

pub async fn a_node_is_known_once_and_as_it_last_was(store: &impl SandboxStore) {
    let url = Some("http://10.0.0.1:8001".to_owned());
    let node = Node { id: NodeId::random(), url, seen_at: samples::now(), has_stopped: false };
    let other = Node { id: NodeId::random(), url: None, ..node.clone() };
    let seen_at = samples::now() + TimeDelta::seconds(9);
    let again = Node { url: Some("http://10.0.0.2:8001".to_owned()), seen_at, has_stopped: true, ..node.clone() };
    for noted in [&node, &other, &again] {
        store.note_node(noted).await.unwrap();
    }
    let mut nodes = store.nodes().await.unwrap();
    nodes.sort_by_key(|node| node.id);
    assert_eq!(nodes, [again.clone(), other]);
    store.forget_nodes(seen_at).await.unwrap();
    assert_eq!(store.nodes().await.unwrap(), [again]);
}
