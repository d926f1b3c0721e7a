//! A server that dies: after a restart its run has failed with a cause, and its sandbox is gone.

use std::time::Duration;

use astraforge_core::{request::RequestState, run::RunStatus};

use crate::world::{World, last_run, one_command, text};

#[tokio::test]
async fn a_server_killed_in_the_middle_of_a_run_settles_it_when_it_is_back() {
    let mut world = World::new(one_command("echo made > made; sleep 1000"));
    let request = world.submit("Take your time").await;
    while !text(&world.events_so_far(request).await).contains("sleep 1000") {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    world.kill();
    world.start();
    let found = world.finished(request).await;
    assert_eq!((found.state, last_run(&found).status), (RequestState::Failed, RunStatus::Failed));
    let error = last_run(&found).error.clone().unwrap();
    assert!(error.contains("The server stopped"), "{error}");
    world.assert_no_sandbox();
}

#[tokio::test]
async fn what_waited_for_approval_can_be_approved_after_a_crash() {
    let mut world = World::new(one_command("echo made > made"));
    let request = world.patch_ready("Make it").await.id;
    world.kill();
    world.start();
    let digest = world.client().diff(request).await.unwrap().digest;
    world.client().approve(request, Some(digest)).await.unwrap();
    for _ in 0..400 {
        if world.client().request(request).await.unwrap().state == RequestState::Reviewed {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the merge request was not opened and reviewed");
}
