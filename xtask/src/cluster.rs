//! `cargo xtask cluster`: a real Kubernetes of one node on this machine, for tests.
//!
//! It lives in pid, mount and network namespaces of its own (`xtask/cluster/node.sh`), so it ends with this process
//! however that ends, and several can run beside each other. From outside, the API server is reached over one pair of
//! interfaces; pods reach nothing but each other and the node.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use clap::Args;

use self::{image::Image, place::Place, programs::Programs};
use crate::{demo::Interruption, guest, process, workspace::Workspace};

pub(crate) mod image;
mod place;
mod programs;

/// Tells tests, beside `KUBECONFIG`, that there is a cluster and a failure to reach it is one.
pub(crate) const VARIABLE: &str = "ASTRAFORGE_TEST_K8S";
/// The image that tests run sandboxes from, on the node from the start.
pub(crate) const TEST_IMAGE: &str = "astraforge/test-sandbox:1";
/// How long the node may take to come up on a busy machine.
const PATIENCE: Duration = Duration::from_secs(240);

/// What is to be done with the cluster.
#[derive(Debug, Args)]
pub(crate) struct ClusterArguments {
    /// A command to run while it is up, with KUBECONFIG set; without one, it stays up until Ctrl-C
    #[arg(last = true)]
    command: Vec<String>,
}

/// Starts a cluster for a command, or for a person.
pub(crate) fn run(workspace: &Workspace, arguments: &ClusterArguments) -> anyhow::Result<ExitCode> {
    if let Some(obstacle) = obstacle() {
        bail!("no cluster can be started here: {obstacle}");
    }
    let guest = guest::build(workspace)?;
    let interruption = Interruption::listen()?;
    let cluster = Cluster::start(workspace, &guest)?;
    println!("export KUBECONFIG={} {VARIABLE}=1", cluster.kubeconfig().display());
    let status = interruption.run_or_wait(&arguments.command, |command| {
        cluster.tell(command);
    })?;
    drop(cluster);
    Ok(process::exit_code(status))
}

/// Why no cluster can be started on this machine, if that is so.
pub(crate) fn obstacle() -> Option<String> {
    let missing = |program: &&str| !process::is_installed(program);
    if !crate::checks::is_root() {
        Some("it needs root".to_owned())
    } else if !Path::new("/sys/fs/cgroup/memory").is_dir() {
        Some("its kubelet needs control groups of version 1".to_owned())
    } else {
        let needed = ["apt-get", "unshare", "nsenter", "setpriv"];
        needed.iter().find(|it| missing(it)).map(|program| format!("it needs {program}"))
    }
}

/// Whether a cluster starts without installing or building anything.
pub(crate) fn is_installed() -> bool {
    Programs::are_installed()
}

/// A running cluster; dropped, it is gone, with all that was on it.
#[derive(Debug)]
pub(crate) struct Cluster {
    place: Place,
    node: Child,
    /// The node's first process, seen from here.
    init: u32,
}

impl Cluster {
    /// Starts a cluster and puts the images of the tests on it. The first time on a machine takes some minutes more:
    /// the Kubernetes programs are built from Debian's sources and kept in the user's cache folder.
    pub(crate) fn start(workspace: &Workspace, guest: &Path) -> anyhow::Result<Self> {
        let programs = Programs::install(workspace)?;
        let began = Instant::now();
        let place = Place::take(&workspace.target.join("cluster"))?;
        // Whatever ends this process ends `unshare`, that ends the first process, and that ends all the others.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "unshare", "--pid", "--fork", "--kill-child=KILL", "--mount", "--net"]);
        command.arg("bash").arg(workspace.root.join("xtask/cluster/node.sh"));
        command.arg(place.folder()).arg(programs.folder()).arg(place.cgroup()).arg(place.node_address());
        command.stdin(Stdio::null()).stdout(fs::File::create(place.folder().join("node.log"))?);
        command.stderr(fs::File::options().append(true).open(place.folder().join("node.log"))?);
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let node = command.spawn().context("cannot start the node")?;
        let mut cluster = Self { place, node, init: 0 };
        cluster.init = cluster.first_process()?;
        cluster.place.connect(cluster.init)?;
        cluster.wait_for("containerd", |cluster| {
            cluster.containerd(["version"]).output().is_ok_and(|it| it.status.success())
        })?;
        let images = cluster.place.folder().join("images");
        fs::create_dir_all(&images)?;
        for image in [Image::pause()?, Image::busybox(TEST_IMAGE)?.with_python()?, Image::guest(guest)?] {
            cluster.load(&image)?;
        }
        cluster.wait_for("the node", |cluster| cluster.place.folder().join("ready").exists())?;
        println!("a cluster is up after {:.1} s", began.elapsed().as_secs_f64());
        Ok(cluster)
    }

    /// Where the settings of its administrator are.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.place.folder().join("admin.kubeconfig")
    }

    /// Tells a command of the cluster.
    pub(crate) fn tell<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.env("KUBECONFIG", self.kubeconfig()).env(VARIABLE, "1")
    }

    /// Puts an image on the node, where pods find it without a registry.
    pub(crate) fn load(&self, image: &Image) -> anyhow::Result<()> {
        let archive = self.place.folder().join("images").join("archive.tar");
        image.write(&archive).with_context(|| format!("cannot make the image {}", image.name()))?;
        let mut import = self.containerd(["-n", "k8s.io", "images", "import"]);
        process::read(import.arg(&archive))?;
        fs::remove_file(&archive)?;
        Ok(())
    }

    /// The client of the node's own containerd, run where its socket is.
    fn containerd<const N: usize>(&self, arguments: [&str; N]) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.init.to_string(), "--mount", "ctr"]).args(arguments);
        command
    }

    /// The first process of the node's namespaces: the only child of `unshare`.
    fn first_process(&mut self) -> anyhow::Result<u32> {
        let children = format!("/proc/{0}/task/{0}/children", self.node.id());
        self.wait_for("the first process", |_| fs::read_to_string(&children).is_ok_and(|it| !it.trim().is_empty()))?;
        let child = fs::read_to_string(&children)?;
        child.trim().parse().with_context(|| format!("{children} names no process"))
    }

    fn wait_for(&mut self, what: &str, is_there: impl Fn(&Self) -> bool) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if is_there(self) {
                return Ok(());
            }
            let ended = self.node.try_wait()?;
            let log = || fs::read_to_string(self.place.folder().join("node.log")).unwrap_or_default();
            ensure!(ended.is_none(), "the cluster ended before {what} was there:\n{}", log());
            ensure!(Instant::now() < deadline, "{what} was not there in {} s:\n{}", PATIENCE.as_secs(), log());
            thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Its child, the first process, is killed with it, and the kernel ends the rest.
        _ = self.node.kill();
        _ = self.node.wait();
        self.place.wait_until_empty();
    }
}
