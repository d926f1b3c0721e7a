//! Run logs that a server moves from its database to its files: whoever reads them sees what was there before.

use std::{fs, path::PathBuf, time::Duration};

use astraforge_adapters::{
    postgres::{PostgresConfig, PostgresStore},
    secret_box::SecretKey,
    sqlite::SqliteStore,
};
use astraforge_core::{event::RunEvent, id::RequestId, ports::store::Store};
use astraforge_http::wire::repository_link::EnvironmentBody;
use chrono::{TimeDelta, Utc};
use futures::StreamExt;

use crate::world::{World, one_command, text};

#[tokio::test]
async fn a_log_that_moved_to_the_files_is_read_and_goes_on_as_before() {
    let mut world = World::with_files("seq 1 30; echo made > made", &["demo"]);
    let request = world.patch_ready("Make it").await.id;
    let before = world.log(request).await;
    let printed = world.logs_command(request);
    let shown = world.client().request(request).await.unwrap();
    world.stop();

    // Nothing may stay that can go.
    let usual = world.options.clone();
    world.options.push("--log-size=0".to_owned());
    world.start();
    world.said("run logs were moved from the database to the files").await;
    assert_eq!(world.log(request).await, before);
    assert_eq!(world.logs_command(request), printed);
    assert_eq!(format!("{:?}", world.client().request(request).await.unwrap()), format!("{shown:?}"));
    let rest: Vec<RunEvent> = world.client().logs(request, before.len() as u64 - 2).map(Result::unwrap).collect().await;
    assert_eq!(rest, before[before.len() - 2..]);

    // A server that archives nothing reads what another one archived, and goes on with it.
    world.stop();
    world.options = usual;
    world.start();
    world.client().chat(request, "Go on".parse().unwrap()).await.unwrap();
    let after = world.log(request).await;
    assert_eq!(after[..before.len()], before);
    assert!(after.iter().map(|event| event.seq).eq(1..=after.len() as u64));
    assert!(text(&after[before.len()..]).contains("Execution finished"), "{}", text(&after));

    // It is the archive that is read.
    let archive = world.archive_of(request);
    world.stop();
    fs::rename(&archive, world.path("aside")).unwrap();
    world.start();
    world.client().request(request).await.unwrap_err();
    fs::rename(world.path("aside"), &archive).unwrap();
    assert_eq!(world.log(request).await, after);
}

#[tokio::test]
async fn a_server_that_is_killed_while_it_moves_logs_loses_nothing() {
    const REPOSITORIES: [&str; 3] = ["one", "two", "three"];
    let mut world = World::with_files("seq 1 30", &REPOSITORIES);
    let mut requests = Vec::new();
    for repository in REPOSITORIES {
        let request = world.submit_for(repository, "Count", EnvironmentBody::default()).await;
        requests.push((request, world.log(request).await));
    }
    world.stop();
    let usual = world.options.clone();
    for wait in (60..400).step_by(20) {
        world.round_is_due().await;
        world.options.push("--log-size=0".to_owned());
        world.start_and_kill(Duration::from_millis(wait));
        world.options.clone_from(&usual);
        if wait % 100 == 0 {
            world.reads_as_before(&requests).await;
        }
    }
    world.round_is_due().await;
    world.options.push("--log-size=0".to_owned());
    world.start();
    for (request, _) in &requests {
        while !world.path(&format!("files/run-logs/{request}")).exists() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    world.stop();
    world.options.clone_from(&usual);
    world.reads_as_before(&requests).await;
}

impl World {
    /// A server whose agent runs one command for any of these repositories, with a folder for its files.
    fn with_files(command: &str, repositories: &[&str]) -> Self {
        let mut world = Self::without_server(one_command(command));
        world.options.extend(["--request-dir".to_owned(), world.path("files").display().to_string()]);
        for repository in repositories {
            world.make_repository(repository, |clone| fs::write(clone.join("README.md"), "# demo\n").unwrap());
        }
        world.start();
        world
    }

    /// Has a server that archives nothing read these logs.
    async fn reads_as_before(&mut self, logs: &[(RequestId, Vec<RunEvent>)]) {
        self.start();
        for (request, before) in logs {
            assert_eq!(self.log(*request).await, *before);
        }
        self.stop();
    }

    /// Has the next server archive at once, and not wait until it is clear that a killed one is dead.
    async fn round_is_due(&self) {
        let key = SecretKey::load_or_create(self.path("data/secret.key")).unwrap();
        let store: Box<dyn Store> = match self.options.iter().find_map(|word| word.strip_prefix("--database-url=")) {
            Some(url) => Box::new(PostgresStore::open(&PostgresConfig::new(url).unwrap(), key).await.unwrap()),
            None => Box::new(SqliteStore::open(self.path("data/astraforge.db"), key).await.unwrap()),
        };
        let (now, later) = (Utc::now(), Utc::now() + TimeDelta::days(1));
        if let Some(turn) = store.take_turn("archive-run-logs", later, later).await.unwrap() {
            assert!(store.end_turn(&turn, now).await.unwrap());
        }
    }

    /// What `astraforge logs` prints of a request.
    fn logs_command(&self, request: RequestId) -> String {
        let output = self.astraforge().args(["logs", "--json", &request.to_string()]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Waits until a server has said this.
    async fn said(&self, words: &str) {
        for _ in 0..400 {
            if self.server_log().contains(words) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("nobody said `{words}`:\n{}", self.server_log());
    }

    /// The one archive of a log.
    fn archive_of(&self, request: RequestId) -> PathBuf {
        let folder = self.path(&format!("files/run-logs/{request}"));
        let mut files = fs::read_dir(&folder).unwrap().map(|file| file.unwrap().path());
        let archive = files.next().unwrap();
        assert_eq!(files.next(), None, "{}", folder.display());
        archive
    }
}
