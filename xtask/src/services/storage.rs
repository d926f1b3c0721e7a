//! A server that speaks S3, of our own.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
};

use anyhow::Context as _;

use crate::workspace::Workspace;

const BUCKET: &str = "astraforge";
const KEY: &str = "astraforge-services";
const SECRET: &str = "no secret: it listens on this machine only";

/// A server that runs as long as this value lives.
#[derive(Debug)]
pub(crate) struct Storage {
    child: Child,
    _folder: tempfile::TempDir,
    url: String,
}

impl Storage {
    /// Builds the server and starts it with one empty bucket.
    pub(crate) fn start(workspace: &Workspace) -> anyhow::Result<Self> {
        let mut build = workspace.cargo(["build", "--quiet", "--locked", "--package", "astraforge-adapters"]);
        crate::process::run(build.args(["--features", "s3", "--example", "s3_server"]))?;
        let folder = tempfile::Builder::new().prefix("astraforge-s3-").tempdir()?;
        fs::create_dir(folder.path().join(BUCKET))?;
        // It ends with this process, even when that is killed.
        let mut server = Command::new("setpriv");
        server.args(["--pdeathsig", "KILL"]).arg(workspace.target.join("debug/examples/s3_server")).arg(folder.path());
        server.envs([("AWS_ACCESS_KEY_ID", KEY), ("AWS_SECRET_ACCESS_KEY", SECRET)]);
        let mut child = server.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("cannot start setpriv")?;
        let mut url = String::new();
        if let Some(output) = child.stdout.take() {
            BufReader::new(output).read_line(&mut url)?;
        }
        let storage = Self { child, _folder: folder, url: url.trim().to_owned() };
        anyhow::ensure!(!storage.url.is_empty(), "the S3 server did not start");
        println!("an S3 server of our own answers at {}", storage.url);
        Ok(storage)
    }

    /// The variables that `astraforge` reads.
    pub(crate) fn for_programs(&self) -> [(&'static str, String); 5] {
        [
            ("SANDBOX_S3_BUCKET", BUCKET.to_owned()),
            ("SANDBOX_S3_ENDPOINT_URL", self.url.clone()),
            ("SANDBOX_S3_REGION", "us-east-1".to_owned()),
            ("AWS_ACCESS_KEY_ID", KEY.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", SECRET.to_owned()),
        ]
    }
}

impl Drop for Storage {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}
