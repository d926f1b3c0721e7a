//! Several nodes on one store.

use super::*;
use crate::id::NodeId;

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
