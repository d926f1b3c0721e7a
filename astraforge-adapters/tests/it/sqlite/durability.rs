//! What was committed stays, what was not is not there, and several may write.

use std::{
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use astraforge_core::{
    job::Limits,
    ports::store::{Changes, Store},
    testing::samples::{self, at},
};
use futures::future::join_all;
use sqlx::Connection as _;

use super::{fresh, open, raw};

#[tokio::test]
async fn everything_is_there_after_the_store_was_closed_and_opened() {
    let (folder, store) = fresh().await;
    let request = samples::request();
    let run = samples::run(&request);
    let job = samples::execute(&run);
    let changes = Changes {
        runs: vec![run.clone()],
        new_jobs: vec![job.clone()],
        events: vec![samples::log(request.id, "one")],
        ..samples::submitted(&request)
    };
    store.commit(changes).await.unwrap();
    let link = samples::link();
    store.add_link(link.clone()).await.unwrap();
    store.claim_job(at(2), at(2 + 60), Limits::NONE).await.unwrap().unwrap();
    store.close().await;

    let store = open(folder.path()).await;
    assert_eq!(store.run(&run.tenant, run.id).await.unwrap(), Some(run));
    assert_eq!(store.link(&link.tenant, link.id).await.unwrap(), Some(link));
    assert_eq!(store.running_jobs().await.unwrap()[0].id, job.id, "the job that the earlier process left");
    assert_eq!(store.append(vec![samples::log(request.id, "two")]).await.unwrap(), 2);
}

#[tokio::test]
async fn a_transaction_under_way_is_seen_by_nobody_and_leaves_nothing() {
    let (folder, store) = fresh().await;
    let request = samples::request();
    store.commit(samples::submitted(&request)).await.unwrap();
    let mut other = raw(folder.path()).await;
    let mut transaction = other.begin_with("BEGIN IMMEDIATE").await.unwrap();
    sqlx::query("UPDATE requests SET title = 'half done'").execute(&mut *transaction).await.unwrap();
    assert_eq!(store.request(&request.tenant, request.id).await.unwrap().unwrap().title, request.title);
    drop(transaction);
    other.close().await.unwrap();
    assert_eq!(store.request(&request.tenant, request.id).await.unwrap().unwrap().title, request.title);
    store.append(vec![samples::log(request.id, "one")]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_round_that_is_due_is_done_by_one_of_several_processes() {
    let (folder, first) = fresh().await;
    let stores = [first, open(folder.path()).await, open(folder.path()).await];
    for n in 1..=10 {
        let (now, lease) = (at(10 * n), at(10 * n + 5));
        let asked = join_all((0..9).map(|i| stores[i % stores.len()].take_turn("sweep", now, lease))).await;
        let taken: Vec<_> = asked.into_iter().filter_map(|turn| turn.unwrap()).collect();
        assert_eq!(taken.len(), 1, "{taken:?}");
        // Every other time the one that has it dies, and its lease ends.
        if n % 2 == 0 {
            assert!(stores[1].end_turn(&taken[0], at(10 * n + 10)).await.unwrap());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_that_several_processes_archive_and_use_at_once_lose_and_double_nothing() {
    let (folder, first) = fresh().await;
    crate::archiving::story(vec![Arc::new(first), Arc::new(open(folder.path()).await)]).await;
}

/// The writer's side of the test below: it runs in a process of its own, which is killed.
#[tokio::test]
#[ignore = "started by `a_killed_process_leaves_whole_commits`"]
async fn write_until_killed() {
    let folder = std::env::current_dir().unwrap();
    let store = open(&folder).await;
    let request = samples::request();
    store.commit(samples::submitted(&request)).await.unwrap();
    for n in 0.. {
        let events = (0..50).map(|_| samples::log(request.id, format!("commit {n}"))).collect();
        let messages = vec![samples::message(request.id)];
        store.commit(Changes { events, messages, ..Changes::default() }).await.unwrap();
        // The file says what was acknowledged, in one write.
        std::fs::write(folder.join("acknowledged"), format!("{:>8}", n + 1)).unwrap();
    }
}

#[tokio::test]
async fn a_killed_process_leaves_whole_commits() {
    for round in 0..3u64 {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "sqlite::durability::write_until_killed"])
            .current_dir(folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let acknowledged = folder.path().join("acknowledged");
        wait_for(&acknowledged).await;
        tokio::time::sleep(Duration::from_millis(30 + 17 * round)).await;
        writer.kill().unwrap();
        writer.wait().unwrap();

        let promised: usize = std::fs::read_to_string(acknowledged).unwrap().trim().parse().unwrap_or(0);
        let store = open(folder.path()).await;
        let request = store.requests(&samples::tenant()).await.unwrap().remove(0);
        let n_events = store.events(request.id, 0, u32::MAX).await.unwrap().len();
        let n_commits = store.messages(request.id).await.unwrap().len();
        assert_eq!(n_events, 50 * n_commits, "no commit is there in part");
        assert!(n_commits >= promised, "{promised} commits were acknowledged, {n_commits} are there");
    }
}

async fn wait_for(path: &Path) {
    for _ in 0..1000 {
        if path.exists() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the writer wrote nothing in 10 seconds");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_stores_on_one_file_share_the_log_and_the_queue() {
    let (folder, one) = fresh().await;
    let two = open(folder.path()).await;
    let request = samples::request();
    one.commit(samples::submitted(&request)).await.unwrap();
    let mut jobs = Vec::new();
    for _ in 0..20 {
        let request = samples::request();
        let job = samples::execute(&samples::run(&request));
        one.commit(Changes { new_jobs: vec![job.clone()], ..samples::submitted(&request) }).await.unwrap();
        jobs.push(job.id);
    }
    let workers: Vec<_> = [Arc::new(one), Arc::new(two)]
        .into_iter()
        .map(|store| {
            tokio::spawn(async move {
                let mut claimed = Vec::new();
                while let Some(job) = store.claim_job(at(2), at(2 + 60), Limits::NONE).await.unwrap() {
                    claimed.push(job.id);
                    store.append(vec![samples::log(request.id, "x"), samples::log(request.id, "y")]).await.unwrap();
                }
                claimed
            })
        })
        .collect();
    let mut claimed = Vec::new();
    for worker in workers {
        claimed.extend(worker.await.unwrap());
    }
    claimed.sort();
    jobs.sort();
    assert_eq!(claimed, jobs, "each job was claimed once");
    let events = open(folder.path()).await.events(request.id, 0, 100).await.unwrap();
    assert!(events.iter().map(|event| event.seq).eq(1..=40));
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_do_not_wait_for_a_writer() {
    let (folder, store) = fresh().await;
    let mut other = raw(folder.path()).await;
    let _transaction = other.begin_with("BEGIN IMMEDIATE").await.unwrap();
    let tenant = samples::tenant();
    let read = tokio::time::timeout(Duration::from_secs(5), store.requests(&tenant));
    assert_eq!(read.await.expect("the reader waited").unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_waits_for_another_process_to_finish() {
    let (folder, store) = fresh().await;
    let mut other = raw(folder.path()).await;
    let transaction = other.begin_with("BEGIN IMMEDIATE").await.unwrap();
    let commit = tokio::spawn(async move { store.commit(samples::submitted(&samples::request())).await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!commit.is_finished());
    transaction.commit().await.unwrap();
    commit.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn many_may_open_a_new_file_at_the_same_time() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_owned();
    let stores = (0..6).map(|_| {
        let path = path.clone();
        tokio::spawn(async move { open(&path).await })
    });
    for store in futures::future::join_all(stores).await {
        store.unwrap().commit(samples::submitted(&samples::request())).await.unwrap();
    }
}
