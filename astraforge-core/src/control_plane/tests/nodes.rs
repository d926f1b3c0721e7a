//! Several nodes on one store.

use super::*;
use crate::{
    access::Caller,
    id::{NodeId, TenantId},
    session::SandboxSpec,
    testing::TestClock,
};

/// Two nodes with machines of their own, on one store and one place for snapshots.
fn two_nodes() -> (World, World) {
    let (mut one, mut other) = (World::new(), World::new());
    (other.store, other.artifacts, other.clock) = (one.store.clone(), one.artifacts.clone(), one.clock.clone());
    for world in [&mut one, &mut other] {
        let settings = ControlSettings::default().with_node(NodeId::random());
        let clock = Arc::new(world.clock.clone());
        let machines: Vec<Arc<dyn Machines>> = vec![world.machines.clone()];
        world.plane =
            ControlPlane::builder(world.store.clone(), world.artifacts.clone(), clock, machines, settings).build();
    }
    (one, other)
}

#[tokio::test]
async fn a_node_leaves_the_sandboxes_of_others_alone_and_says_where_they_are() {
    let (one, other) = two_nodes();
    let id = one.plane.create(&one.caller, NewSandbox::default()).await.unwrap().sandbox.id;
    let node = one.row(id).await.node.unwrap();
    other.plane.adopt(&|_| false).await.unwrap();
    one.clock.advance(std::time::Duration::from_secs(1_000_000));
    assert_eq!(other.plane.reap().await.unwrap().n_checked, 0);
    assert_eq!(one.row(id).await.status, SandboxStatus::Ready);
    for refused in [other.plane.machine(&other.caller, id).await.err(), other.plane.stop(&other.caller, id).await.err()]
    {
        assert!(matches!(refused, Some(ForgeError::Elsewhere { sandbox, node: n }) if (sandbox, n) == (id, node)));
    }
    assert_eq!(other.plane.list(&other.caller).await.unwrap().len(), 1, "what only looks at rows is answered anywhere");
    let before = one.row(id).await;
    let refused = other.plane.set_egress(&other.caller, id, Egress::Public).await;
    assert!(matches!(refused, Err(ForgeError::Elsewhere { .. })));
    assert_eq!(one.row(id).await, before, "what is refused is not done later");
}

#[tokio::test]
async fn a_sandbox_from_before_there_were_nodes_is_its_machines_nodes() {
    let (one, other) = two_nodes();
    let id = one.plane.create(&one.caller, NewSandbox::default()).await.unwrap().sandbox.id;
    let node = one.row(id).await.node;
    assert!(one.store.update_sandbox(&Sandbox { node: None, ..one.row(id).await }).await.unwrap());
    one.plane.adopt(&|_| false).await.unwrap();
    assert_eq!(one.row(id).await.node, node);
    other.plane.adopt(&|_| false).await.unwrap();
    assert_eq!((one.row(id).await.status, one.machines.live()), (SandboxStatus::Ready, vec![id]));
}

#[tokio::test]
async fn a_stopped_sandbox_comes_back_on_whichever_node_is_asked() {
    let (one, other) = two_nodes();
    let id = one.plane.create(&one.caller, NewSandbox::default()).await.unwrap().sandbox.id;
    one.plane.stop(&one.caller, id).await.unwrap();
    assert_eq!(other.plane.machine(&other.caller, id).await.unwrap().id(), id);
    assert_ne!(other.row(id).await.node, None);
    assert!(matches!(one.plane.machine(&one.caller, id).await, Err(ForgeError::Elsewhere { .. })));
    // Lost with its workspace kept there: its files are on that node and nowhere else.
    other.machines.kill(id, true);
    other.plane.adopt(&|_| false).await.unwrap();
    assert_eq!(one.row(id).await.status, SandboxStatus::Terminated);
    assert!(matches!(one.plane.machine(&one.caller, id).await, Err(ForgeError::Elsewhere { .. })));
    other.plane.machine(&other.caller, id).await.unwrap();
}

#[tokio::test]
async fn a_sandbox_that_is_deleted_elsewhere_leaves_no_machine() {
    let (one, other) = two_nodes();
    let id = one.plane.create(&one.caller, NewSandbox::default()).await.unwrap().sandbox.id;
    other.plane.delete(&other.caller, id).await.unwrap();
    one.plane.adopt(&|_| false).await.unwrap();
    assert_eq!(one.machines.ids().await.unwrap(), []);
}

/// Two nodes that reach the same machines.
fn two_nodes_of_one_cluster() -> (World, World) {
    let (mut one, mut other) = two_nodes();
    other.machines = one.machines.clone();
    for world in [&mut one, &mut other] {
        let settings = ControlSettings::default().with_node(NodeId::random()).with_shared_mode("played");
        let machines: Vec<Arc<dyn Machines>> = vec![world.machines.clone()];
        let clock = Arc::new(world.clock.clone());
        world.plane =
            ControlPlane::builder(world.store.clone(), world.artifacts.clone(), clock, machines, settings).build();
    }
    (one, other)
}

/// Lets time pass in which nodes say that they are there.
async fn stay(clock: &TestClock, seconds: u64, there: &[&World]) {
    for _ in 0..seconds / 10 {
        clock.advance(std::time::Duration::from_secs(10));
        for world in there {
            world.plane.announce(Some("http://10.0.0.1:8001")).await.unwrap();
        }
    }
}

#[tokio::test]
async fn nodes_find_each_other() {
    let (one, other) = two_nodes();
    one.plane.announce(None).await.unwrap();
    other.plane.announce(Some("http://10.0.0.2:8001")).await.unwrap();
    let found = one.plane.other_nodes().await.unwrap();
    assert_eq!((found.len(), found[0].url.as_deref()), (1, Some("http://10.0.0.2:8001")));
    let id = other.plane.create(&other.caller, NewSandbox::default()).await.unwrap().sandbox.id;
    assert_eq!(one.plane.elsewhere(&one.caller, id).await.unwrap(), Some(found[0].id));
    assert_eq!(other.plane.elsewhere(&one.caller, id).await.unwrap(), None);
    let stranger = Caller { tenant: TenantId::new("other"), ..one.caller.clone() };
    assert!(matches!(one.plane.elsewhere(&stranger, id).await, Err(ForgeError::NoSandbox { .. })));
    other.plane.withdraw().await.unwrap();
    let stopped = one.plane.other_nodes().await.unwrap();
    assert!(stopped[0].has_stopped && stopped[0].url.is_none() && stopped[0].seen_at >= found[0].seen_at);
}

#[tokio::test]
async fn what_a_node_had_that_is_gone_is_taken_over_where_it_is_reached() {
    let (one, other) = two_nodes_of_one_cluster();
    let used = one.plane.create(&one.caller, NewSandbox::default()).await.unwrap().sandbox.id;
    let idle = one.plane.create(&one.caller, NewSandbox::default()).await.unwrap().sandbox.id;
    one.machines.write(used, "/workspace/a", "precious");
    stay(&one.clock, 60, &[&one, &other]).await;
    other.plane.adopt(&|_| false).await.unwrap();
    assert_eq!(one.machines.live().len(), 2, "a node that is there keeps its machines");
    assert!(matches!(other.plane.machine(&other.caller, used).await, Err(ForgeError::Elsewhere { .. })));

    stay(&one.clock, 60, &[&other]).await;
    assert_eq!(other.plane.elsewhere(&other.caller, used).await.unwrap(), None, "it is about to be here");
    other.plane.machine(&other.caller, used).await.unwrap();
    assert_eq!(one.machines.read(used, "/workspace/a").as_deref(), Some("precious"), "it is the same machine");
    assert!(matches!(one.plane.machine(&one.caller, used).await, Err(ForgeError::Elsewhere { .. })));
    // Nobody asks for the other one; its time comes all the same.
    other.plane.adopt(&|_| false).await.unwrap();
    stay(&one.clock, 300, &[&other]).await;
    assert_eq!(other.plane.reap().await.unwrap().ended.len(), 2);
    assert_eq!(other.row(idle).await.termination, Some(Termination::IdleTimeout));
}

#[tokio::test]
async fn whoever_was_cut_off_takes_nothing_from_those_who_were_too() {
    let (one, other) = two_nodes_of_one_cluster();
    let id = one.plane.create(&one.caller, NewSandbox::default()).await.unwrap().sandbox.id;
    stay(&one.clock, 60, &[&one, &other]).await;
    // The store was away for both; this one is the first to reach it again.
    one.clock.advance(std::time::Duration::from_secs(600));
    other.plane.announce(None).await.unwrap();
    other.plane.adopt(&|_| false).await.unwrap();
    assert!(matches!(other.plane.machine(&other.caller, id).await, Err(ForgeError::Elsewhere { .. })));
    stay(&one.clock, 60, &[&one, &other]).await;
    assert!(matches!(other.plane.machine(&other.caller, id).await, Err(ForgeError::Elsewhere { .. })));
    one.plane.machine(&one.caller, id).await.unwrap();
}

#[tokio::test]
async fn a_machine_that_another_node_may_be_making_is_left_alone() {
    let (one, other) = two_nodes_of_one_cluster();
    let id = one.plane.create(&one.caller, NewSandbox::default()).await.unwrap().sandbox.id;
    one.plane.stop(&one.caller, id).await.unwrap();
    stay(&one.clock, 60, &[&one, &other]).await;
    // It is made, and its row does not say so yet.
    one.machines.make(id, SandboxSpec::default()).await.unwrap();
    other.plane.adopt(&|_| false).await.unwrap();
    assert_eq!(one.machines.live(), [id]);
    one.plane.adopt(&|_| false).await.unwrap();
    assert!(one.machines.live().is_empty(), "its own node knows that it is left over");
}

#[tokio::test]
async fn the_files_of_a_node_that_is_gone_are_not_made_up() {
    let (one, other) = two_nodes();
    let id = one.plane.create(&one.caller, NewSandbox::default()).await.unwrap().sandbox.id;
    one.plane.announce(None).await.unwrap();
    stay(&one.clock, 1000, &[&other]).await;
    other.plane.adopt(&|_| false).await.unwrap();
    assert!(matches!(other.plane.machine(&other.caller, id).await, Err(ForgeError::Elsewhere { .. })));
    other.plane.delete(&other.caller, id).await.unwrap();
}
