//! Artifacts in S3, against a server that speaks its protocol and checks signatures.

#![expect(clippy::unwrap_used, reason = "a failing test is what these are for")]

use std::sync::Arc;

use astraforge_adapters::s3::{S3Artifacts, S3Config};
use astraforge_core::{ports::artifacts::ArtifactStore, repository::Secret};
use tempfile::TempDir;
use tokio::{net::TcpListener, task::JoinHandle};

#[path = "../../examples/s3_server.rs"]
#[expect(dead_code, reason = "the program's own `main`")]
mod s3_server;

const ACCESS_KEY: &str = "astraforge-test";
const SECRET: &str = "a secret that the server knows";

/// A server with one bucket; it stops when it is dropped.
struct Server {
    folder: TempDir,
    url: String,
    serving: JoinHandle<()>,
}

impl Server {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("bucket")).unwrap();
        let service = s3_server::service(folder.path(), ACCESS_KEY, SECRET).unwrap();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let serving = tokio::spawn(s3_server::serve(listener, service));
        Self { folder, url, serving }
    }

    async fn artifacts(&self, bucket: &str, secret: &str) -> S3Artifacts {
        let config = S3Config::new(bucket).with_endpoint(&self.url).with_prefix("team-a/");
        S3Artifacts::new(config.with_credentials(ACCESS_KEY, Secret::new(secret))).await
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn fresh() -> (Server, S3Artifacts) {
    let server = Server::start().await;
    let artifacts = server.artifacts("bucket", SECRET).await;
    (server, artifacts)
}

astraforge_core::artifacts_conformance!(fresh());

#[tokio::test]
async fn a_bucket_that_cannot_be_used_says_so() {
    let (server, artifacts) = fresh().await;
    artifacts.check().await.unwrap();
    assert!(server.artifacts("no-bucket", SECRET).await.check().await.is_err());
    let stranger = server.artifacts("bucket", "another secret").await;
    assert!(stranger.check().await.is_err());
    let error = stranger.put("a", "x".into()).await.unwrap_err();
    let text = std::error::Error::source(&error).unwrap().to_string();
    assert!(text.contains("SignatureDoesNotMatch"), "{text}");
    let nobody = S3Config::new("bucket").with_endpoint("http://127.0.0.1:1");
    let nobody = S3Artifacts::new(nobody.with_credentials(ACCESS_KEY, Secret::new(SECRET))).await;
    assert!(nobody.get("a").await.is_err(), "a server that is not there is no empty bucket");
}

#[tokio::test]
async fn many_writers_of_one_key_leave_one_of_their_texts() {
    let (_server, artifacts) = fresh().await;
    let artifacts = Arc::new(artifacts);
    let writes = (0..8).map(|n| {
        let artifacts = Arc::clone(&artifacts);
        async move { artifacts.put("k", vec![n; 100_000].into()).await.unwrap() }
    });
    futures::future::join_all(writes).await;
    let bytes = artifacts.get("k").await.unwrap().unwrap();
    assert!(bytes.len() == 100_000 && bytes.iter().all(|byte| *byte == bytes[0]));
}

#[tokio::test]
async fn keys_are_listed_whatever_the_number_of_pages() {
    let (server, artifacts) = fresh().await;
    let theirs = S3Config::new("bucket").with_endpoint(&server.url).with_prefix("team-b/");
    let theirs = S3Artifacts::new(theirs.with_credentials(ACCESS_KEY, Secret::new(SECRET))).await;
    theirs.put("snapshots/s/8", "x".into()).await.unwrap();
    let folder = server.folder.path().join("bucket/team-a/snapshots/s");
    std::fs::create_dir_all(&folder).unwrap();
    let mut keys = Vec::new();
    // A page of this server holds 1000 keys.
    for n_keys in [1, 999, 1000, 1001, 2000, 2001] {
        for n in keys.len()..n_keys {
            std::fs::write(folder.join(format!("{n:04}")), "x").unwrap();
            keys.push(format!("snapshots/s/{n:04}"));
        }
        assert_eq!(artifacts.list("snapshots/").await.unwrap(), keys, "{n_keys} keys");
    }
    assert_eq!(theirs.list("").await.unwrap(), ["snapshots/s/8"]);
}
