//! A PostgreSQL server of our own.

use std::{
    fs::{self, File},
    net::TcpListener,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::Context as _;

use super::wait_until_it_answers;
use crate::{process, tools};

/// Tells tests where the server answers.
pub(crate) const VARIABLE: &str = "ASTRAFORGE_TEST_POSTGRES";

/// The login that owns everything.
const USER: &str = "postgres";

/// Settings for a server whose data nobody needs afterwards.
const SETTINGS: [&str; 5] = [
    "fsync=off",
    "synchronous_commit=off",
    "full_page_writes=off",
    "max_connections=300",
    "listen_addresses=127.0.0.1",
];

/// A server that runs as long as this value lives.
#[derive(Debug)]
pub(crate) struct Postgres {
    child: Child,
    folder: tempfile::TempDir,
    programs: PathBuf,
    port: u16,
}

/// Why this machine can't run a server, unless it can. With `install` it is installed, aloud.
pub(crate) fn obstacle(install: bool) -> anyhow::Result<Option<String>> {
    if programs().is_none() && install && rustix::process::geteuid().is_root() && process::is_installed("apt-get") {
        tools::install_packages(&["postgresql"])?;
    }
    Ok(match programs() {
        Some(_) => None,
        None => Some("no PostgreSQL server is installed: `apt-get install postgresql`".into()),
    })
}

/// The folder of `initdb` and `postgres`: where Debian has them, which is not on `PATH`, else where `PATH` finds them.
fn programs() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = versions.map(|version| version.path().join("bin")).filter(|bin| bin.join("initdb").is_file()).max();
    newest.or_else(|| Some(process::find("initdb")?.parent()?.to_owned()))
}

impl Postgres {
    /// Makes a cluster, starts its server and waits until it answers.
    pub(crate) fn start() -> anyhow::Result<Self> {
        let programs = programs().context("no PostgreSQL server is installed")?;
        let folder = tempfile::Builder::new().prefix("astraforge-postgres-").tempdir()?;
        // The server refuses to run as root; another user has to get in.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
        let data = folder.path().join("data");
        fs::create_dir(&data)?;
        if rustix::process::geteuid().is_root() {
            process::read(Command::new("chown").arg(USER).arg(&data))?;
        }
        let mut initdb = unprivileged(&programs.join("initdb"));
        initdb.args(["--auth-local=trust", "--auth-host=trust", "--no-sync", "--encoding=UTF8", "--locale=C"]);
        process::read(initdb.arg("--username").arg(USER).arg("--pgdata").arg(&data))?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let log = File::create(folder.path().join("log"))?;
        let mut server = unprivileged(&programs.join("postgres"));
        server.arg("-D").arg(&data).arg("-p").arg(port.to_string()).arg("-k").arg(&data);
        server.args(SETTINGS.iter().flat_map(|setting| ["-c", setting]));
        let child = server.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
        let mut postgres = Self { child, folder, programs, port };
        postgres.wait_until_it_answers()?;
        println!("a PostgreSQL server of our own answers at {}", postgres.url());
        Ok(postgres)
    }

    /// Its address, of a database that is always there.
    pub(crate) fn url(&self) -> String {
        format!("postgres://{USER}@127.0.0.1:{}/postgres", self.port)
    }

    fn wait_until_it_answers(&mut self) -> anyhow::Result<()> {
        let (port, is_ready) = (self.port.to_string(), self.programs.join("pg_isready"));
        let answers = || {
            let asked = Command::new(&is_ready).args(["-q", "-h", "127.0.0.1", "-p", &port]).status();
            Ok(asked?.success())
        };
        wait_until_it_answers("PostgreSQL", &mut self.child, &self.folder.path().join("log"), answers)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // At once, without waiting for clients; its data goes with it.
        let stopped = process::read(Command::new("kill").args(["-QUIT", &self.child.id().to_string()]));
        if let Err(error) = stopped {
            println!("the PostgreSQL server did not stop as it should: {error:#}");
            _ = self.child.kill();
        }
        _ = self.child.wait();
    }
}

/// A command that does not run as root, and ends with this process.
fn unprivileged(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    if rustix::process::geteuid().is_root() {
        command.args([format!("--reuid={USER}"), format!("--regid={USER}"), "--clear-groups".into()]);
    }
    command.args(["--pdeathsig", "QUIT"]).arg(program).current_dir("/");
    command
}
