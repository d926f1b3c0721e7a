//! Where files are kept, those of requests and of sandboxes: a folder, another one, or S3.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::bail;
use astraforge_adapters::artifacts::FolderArtifacts;
use astraforge_core::{
    id::NodeId,
    ports::artifacts::{self, ArtifactError, ArtifactStore, ArtifactStream},
};
use async_trait::async_trait;
use bytes::Bytes;
use clap::Args;

use crate::config::given;

/// Where they are unless something else is asked for, in the data folder.
const FOLDER: &str = "sandbox-files";
/// Where the files of requests are unless something else is asked for, in the data folder.
const REQUESTS: &str = "artifacts";
/// How the keys of snapshots begin.
const SNAPSHOTS: &str = "snapshots/";

/// Settings of what is kept as files.
#[derive(Debug, Args)]
#[command(next_help_heading = "Files")]
pub(crate) struct FilesArgs {
    /// Folder for snapshots [default: in the data folder]
    #[arg(long, global = true, env = "SANDBOX_SNAPSHOT_DIR", value_name = "FOLDER")]
    snapshot_dir: Option<PathBuf>,
    /// Folder for what is kept of requests and sandboxes: attachments, changes, conversations of agents, archived run logs,
    /// snapshots, files that were taken out; the same for all nodes of a database [default: in the data folder]
    #[arg(long, global = true, env = "ASTRAFORGE_FILES", value_name = "FOLDER")]
    request_dir: Option<PathBuf>,
    /// How many snapshots are kept of a sandbox that were taken by itself, before it was stopped
    #[arg(long, global = true, env = "SANDBOX_KEPT_SNAPSHOTS", value_name = "N", default_value_t = 3,
          value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) kept_snapshots: u16,
    /// Bucket of S3 for all of these, instead of folders
    #[arg(long, global = true, env = "SANDBOX_S3_BUCKET", value_name = "NAME")]
    s3_bucket: Option<String>,
    /// Address of a server that speaks S3 [default: AWS_ENDPOINT_URL, or AWS]
    #[arg(long, global = true, env = "SANDBOX_S3_ENDPOINT_URL", value_name = "URL")]
    s3_endpoint: Option<String>,
    /// Address of that server, where SANDBOX_S3_ENDPOINT_URL is not set
    #[arg(long, global = true, env = "AWS_ENDPOINT_URL", value_name = "URL", hide = true)]
    aws_endpoint: Option<String>,
    /// Region of the bucket [default: AWS_DEFAULT_REGION, or us-east-1]
    #[arg(long, global = true, env = "SANDBOX_S3_REGION", value_name = "NAME")]
    s3_region: Option<String>,
    /// Region of the bucket, where SANDBOX_S3_REGION is not set
    #[arg(long, global = true, env = "AWS_DEFAULT_REGION", value_name = "NAME", hide = true)]
    aws_region: Option<String>,
    /// Whether an address without a scheme is one of HTTPS [default: yes]
    #[arg(long, global = true, env = "SANDBOX_S3_USE_SSL", value_name = "yes or no")]
    s3_use_ssl: Option<String>,
    /// Address of this server in links to exported files [default: where it listens]
    #[arg(long, global = true, env = "SANDBOX_ARTIFACT_BASE_URL", value_name = "URL")]
    artifact_base_url: Option<String>,
}

/// A bucket, as it is configured.
#[derive(Debug, PartialEq, Eq)]
struct Bucket {
    name: String,
    endpoint: Option<String>,
    region: String,
}

impl FilesArgs {
    /// What links to exported files begin with, if that is configured.
    pub(crate) fn link_base(&self) -> Option<&str> {
        given(self.artifact_base_url.as_deref()).map(|url| url.trim_end_matches('/'))
    }

    /// Fails if the settings contradict each other.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        self.bucket().map(drop)
    }

    /// Names where the files of sandboxes are: a bucket is the installation's, a folder is that of `node`.
    pub(crate) fn place_of_sandbox_files(&self, node: NodeId) -> anyhow::Result<String> {
        Ok(match self.bucket()? {
            Some(bucket) => format!("in bucket {}", bucket.name),
            None => match self.request_dir().filter(|_| self.snapshot_dir().is_none()) {
                Some(folder) => format!("in folder {}", std::path::absolute(folder)?.display()),
                None => format!("of node {node}"),
            },
        })
    }

    /// Whether the files of requests are where all nodes of a database may read them.
    pub(crate) fn is_shared(&self) -> anyhow::Result<bool> {
        Ok(self.bucket()?.is_some() || self.request_dir().is_some())
    }

    fn request_dir(&self) -> Option<&Path> {
        self.request_dir.as_deref().filter(|folder| !folder.as_os_str().is_empty())
    }

    fn snapshot_dir(&self) -> Option<&Path> {
        self.snapshot_dir.as_deref().filter(|folder| !folder.as_os_str().is_empty())
    }

    fn bucket(&self) -> anyhow::Result<Option<Bucket>> {
        let Some(name) = given(self.s3_bucket.as_deref()) else { return Ok(None) };
        let use_ssl = match given(self.s3_use_ssl.as_deref()).map(str::to_ascii_lowercase).as_deref() {
            None | Some("1" | "true" | "yes" | "on") => true,
            Some("0" | "false" | "no" | "off") => false,
            Some(other) => bail!("SANDBOX_S3_USE_SSL is yes or no, not `{other}`"),
        };
        let endpoint = match given(self.s3_endpoint.as_deref()).or_else(|| given(self.aws_endpoint.as_deref())) {
            Some(url) if url.contains("://") => Some(url.to_owned()),
            Some(host) => Some(format!("{}://{host}", if use_ssl { "https" } else { "http" })),
            None if use_ssl => None,
            None => bail!("SANDBOX_S3_USE_SSL is off, but AWS is used with HTTPS only; set SANDBOX_S3_ENDPOINT_URL"),
        };
        let region =
            given(self.s3_region.as_deref()).or_else(|| given(self.aws_region.as_deref())).unwrap_or("us-east-1");
        Ok(Some(Bucket { name: name.to_owned(), endpoint, region: region.to_owned() }))
    }
}

/// What is kept of sandboxes, or of requests. What an earlier configuration kept in the data folder can still be read.
#[derive(Debug)]
pub(crate) struct Files {
    snapshots: Place,
    exports: Place,
    before: FolderArtifacts,
}

/// One place of files.
#[derive(Debug, Clone)]
struct Place {
    store: Arc<dyn ArtifactStore>,
    /// What is cut off the beginning of keys.
    cut: &'static str,
}

impl Files {
    /// Opens what is configured.
    pub(crate) async fn for_sandboxes(args: &FilesArgs, root: &Path) -> anyhow::Result<Self> {
        let before = FolderArtifacts::new(root.join(FOLDER));
        if let Some(bucket) = args.bucket()? {
            let s3 = Place { store: s3(bucket).await?, cut: "" };
            return Ok(Self { snapshots: s3.clone(), exports: s3, before });
        }
        let store = match args.request_dir() {
            Some(folder) => FolderArtifacts::new(std::path::absolute(folder)?.join(FOLDER)),
            None => before.clone(),
        };
        let exports = Place { store: Arc::new(store), cut: "" };
        let snapshots = match args.snapshot_dir() {
            Some(folder) => {
                Place { store: Arc::new(FolderArtifacts::new(std::path::absolute(folder)?)), cut: SNAPSHOTS }
            }
            None => exports.clone(),
        };
        Ok(Self { snapshots, exports, before })
    }

    /// Opens what is configured for requests.
    pub(crate) async fn for_requests(args: &FilesArgs, root: &Path) -> anyhow::Result<Self> {
        let before = FolderArtifacts::new(root.join(REQUESTS));
        let store: Arc<dyn ArtifactStore> = match (args.bucket()?, args.request_dir()) {
            (Some(bucket), _) => s3(bucket).await?,
            (None, Some(folder)) => Arc::new(FolderArtifacts::new(std::path::absolute(folder)?)),
            (None, None) => Arc::new(before.clone()),
        };
        let place = Place { store, cut: "" };
        Ok(Self { snapshots: place.clone(), exports: place, before })
    }

    fn place(&self, key: &str) -> &Place {
        if key.starts_with(SNAPSHOTS) { &self.snapshots } else { &self.exports }
    }
}

/// The folders in which a server that was killed may have left something half written.
#[derive(Debug)]
pub(crate) struct Folders {
    /// Those of this node.
    pub(crate) own: Vec<FolderArtifacts>,
    /// The one that all nodes of a database may share.
    pub(crate) shared: Option<FolderArtifacts>,
}

impl Folders {
    /// Those that are configured, for the node whose data folder is `root`.
    pub(crate) fn of(args: &FilesArgs, root: &Path) -> anyhow::Result<Self> {
        let opened = |folder| std::path::absolute(folder).map(FolderArtifacts::new);
        let mut own = vec![FolderArtifacts::new(root.join(FOLDER)), FolderArtifacts::new(root.join(REQUESTS))];
        own.extend(args.snapshot_dir().map(opened).transpose()?);
        Ok(Self { own, shared: args.request_dir().map(opened).transpose()? })
    }

    /// All of them.
    pub(crate) fn all(&self) -> impl Iterator<Item = &FolderArtifacts> {
        self.own.iter().chain(&self.shared)
    }
}

#[cfg(feature = "s3")]
async fn s3(bucket: Bucket) -> anyhow::Result<Arc<dyn ArtifactStore>> {
    use astraforge_adapters::s3::{S3Artifacts, S3Config};
    let config = S3Config::new(bucket.name).with_region(bucket.region);
    let config = bucket.endpoint.into_iter().fold(config, S3Config::with_endpoint);
    Ok(Arc::new(S3Artifacts::new(config).await))
}

#[cfg(not(feature = "s3"))]
async fn s3(bucket: Bucket) -> anyhow::Result<Arc<dyn ArtifactStore>> {
    bail!("SANDBOX_S3_BUCKET is set to `{}`, but this program was built without S3 (feature `s3`)", bucket.name)
}

impl Place {
    fn key<'a>(&self, key: &'a str) -> &'a str {
        key.strip_prefix(self.cut).unwrap_or(key)
    }

    /// Keys with what is cut off here, which begin with `prefix` or are all there are.
    async fn list(&self, prefix: &str) -> Result<Vec<String>, ArtifactError> {
        let rest = prefix.strip_prefix(self.cut).unwrap_or_default();
        let rest = if self.cut.is_empty() { prefix } else { rest };
        let keys = self.store.list(rest).await?.into_iter();
        Ok(keys.map(|key| format!("{}{key}", self.cut)).collect())
    }
}

#[async_trait]
impl ArtifactStore for Files {
    async fn put(&self, key: &str, bytes: Bytes) -> Result<(), ArtifactError> {
        let place = self.place(key);
        place.store.put(place.key(key), bytes).await
    }

    async fn get(&self, key: &str) -> Result<Option<Bytes>, ArtifactError> {
        let place = self.place(key);
        match place.store.get(place.key(key)).await? {
            Some(bytes) => Ok(Some(bytes)),
            None => self.before.get(key).await,
        }
    }

    async fn put_stream(&self, key: &str, bytes: ArtifactStream) -> Result<u64, ArtifactError> {
        let place = self.place(key);
        place.store.put_stream(place.key(key), bytes).await
    }

    async fn get_stream(&self, key: &str) -> Result<Option<ArtifactStream>, ArtifactError> {
        let place = self.place(key);
        match place.store.get_stream(place.key(key)).await? {
            Some(bytes) => Ok(Some(bytes)),
            None => self.before.get_stream(key).await,
        }
    }

    async fn delete(&self, key: &str) -> Result<(), ArtifactError> {
        let place = self.place(key);
        place.store.delete(place.key(key)).await?;
        self.before.delete(key).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<String>, ArtifactError> {
        let mut keys = BTreeSet::from_iter(self.before.list(prefix).await?);
        if prefix.starts_with(SNAPSHOTS) || SNAPSHOTS.starts_with(prefix) {
            keys.extend(self.snapshots.list(prefix).await?);
        }
        if !prefix.starts_with(SNAPSHOTS) {
            keys.extend(self.exports.list(prefix).await?);
        }
        Ok(keys.into_iter().collect())
    }

    fn place(&self, key: &str) -> artifacts::Place {
        let place = self.place(key);
        let (now, before) = (place.store.place(place.key(key)), self.before.place(key));
        let is_there = |place: &artifacts::Place| matches!(place, artifacts::Place::File(path) if path.exists());
        // One that was taken before the folder was another.
        if !is_there(&now) && is_there(&before) { before } else { now }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        files: FilesArgs,
    }

    fn args(words: &[&str]) -> FilesArgs {
        Line::try_parse_from(["x"].iter().chain(words)).unwrap().files
    }

    #[track_caller]
    fn check_bucket(words: &[&str], endpoint: Option<&str>, region: &str) {
        let bucket = args(&[&["--s3-bucket", "b"], words].concat()).bucket().unwrap().unwrap();
        assert_eq!((bucket.endpoint.as_deref(), bucket.region.as_str()), (endpoint, region));
    }

    #[test]
    fn a_bucket_is_where_the_variables_say() {
        check_bucket(&[], None, "us-east-1");
        check_bucket(&["--aws-endpoint", "http://a", "--aws-region", "r"], Some("http://a"), "r");
        check_bucket(&["--s3-endpoint", "http://s", "--aws-endpoint", "http://a"], Some("http://s"), "us-east-1");
        check_bucket(&["--s3-endpoint", "", "--aws-endpoint", "http://a"], Some("http://a"), "us-east-1");
        check_bucket(&["--s3-endpoint", "minio:9000"], Some("https://minio:9000"), "us-east-1");
        check_bucket(&["--s3-endpoint", "minio:9000", "--s3-use-ssl", "no"], Some("http://minio:9000"), "us-east-1");
        assert_eq!(args(&["--s3-bucket", " "]).bucket().unwrap(), None);
        assert!(args(&["--s3-bucket", "b", "--s3-use-ssl", "0"]).bucket().is_err());
        assert!(args(&["--s3-bucket", "b", "--s3-use-ssl", "maybe"]).bucket().is_err());
    }

    #[tokio::test]
    async fn what_was_kept_before_can_be_read() {
        let (root, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let usual = Files::for_sandboxes(&args(&[]), root.path()).await.unwrap();
        usual.put("snapshots/s/old.tar.zst", "old".into()).await.unwrap();
        let args = args(&["--snapshot-dir", other.path().to_str().unwrap()]);
        let moved = Files::for_sandboxes(&args, root.path()).await.unwrap();
        moved.put("snapshots/s/new.tar.zst", "new".into()).await.unwrap();
        moved.put("artifacts/s/a", "a".into()).await.unwrap();
        assert_eq!(std::fs::read(other.path().join("s/new.tar.zst")).unwrap(), b"new");
        assert_eq!(moved.get("snapshots/s/old.tar.zst").await.unwrap().unwrap(), "old");
        let told = |name: &str| ArtifactStore::place(&moved, &format!("snapshots/s/{name}.tar.zst"));
        assert_eq!(told("new"), artifacts::Place::File(other.path().join("s/new.tar.zst")));
        let old = root.path().join("sandbox-files/snapshots/s/old.tar.zst");
        assert_eq!(told("old"), artifacts::Place::File(old));
        for prefix in ["", "s", "snap", "snapshots/", "snapshots/s/"] {
            let mut keys = vec!["snapshots/s/new.tar.zst", "snapshots/s/old.tar.zst"];
            keys.splice(..0, prefix.is_empty().then_some("artifacts/s/a"));
            assert_eq!(moved.list(prefix).await.unwrap(), keys, "{prefix}");
        }
        assert_eq!(moved.list("a").await.unwrap(), ["artifacts/s/a"]);
        moved.delete("snapshots/s/old.tar.zst").await.unwrap();
        assert_eq!(usual.get("snapshots/s/old.tar.zst").await.unwrap(), None);
    }
}
