//! What an agent may try, and must not achieve.

use std::{
    net::TcpListener,
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener},
    },
};

use astraforge_core::session::{Command, Exit, SandboxSpec};

use super::Fixture;

/// Where the test program lies in the sandbox.
pub(super) const PROGRAM: &str = "/opt/attack";

/// Runs one of the tests in [`inside`](super::inside) where the test program is shown.
pub(super) fn command(test: &str) -> Command {
    let name = format!("native::inside::{test}");
    Command::new([PROGRAM, "--ignored", "--exact", &name, "--nocapture", "--test-threads=1"])
}

/// Runs one of the tests in [`inside`](super::inside), inside.
async fn run(test: &str, env: &[(&str, &str)]) -> (Exit, String) {
    let program = std::env::current_exe().unwrap();
    let fixture = Fixture::with(SandboxSpec::default().with_folder(program, PROGRAM)).await;
    let mut command = command(test);
    for (name, value) in env {
        command = command.with_env(*name, *value);
    }
    let output = fixture.run(command).await;
    fixture.end().await;
    let text = [output.stdout, output.stderr].concat();
    (output.exit, String::from_utf8_lossy(&text).into_owned())
}

async fn holds(test: &str, env: &[(&str, &str)]) {
    let (exit, text) = run(test, env).await;
    assert!(exit.success() && text.contains("1 passed"), "{exit}\n{text}");
}

macro_rules! hold_inside {
    ($($test:ident)*) => { $(
        #[tokio::test]
        async fn $test() {
            holds(stringify!($test), &[]).await;
        }
    )* };
}

hold_inside! {
    calls_that_reach_beyond_the_sandbox_are_refused
    only_local_tcp_and_udp_sockets_can_be_made
    there_is_no_privilege_to_use
    proc_tells_and_steers_nothing_of_the_host
    only_the_agents_own_folders_can_be_written
    no_device_but_the_harmless_ones_is_there
    no_descriptor_of_the_host_is_inherited
    system_calls_of_ordinary_programs_work
}

#[tokio::test]
async fn nothing_of_the_host_can_be_reached() {
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = tcp.local_addr().unwrap().port().to_string();
    let name = format!("astraforge-test-{}", std::process::id());
    let _socket = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    let file = file.path().to_str().unwrap();
    holds("nothing_of_the_host_can_be_reached", &[("HOST_PORT", &port), ("HOST_SOCKET", &name), ("HOST_FILE", file)])
        .await;
}

#[cfg(target_arch = "x86_64")]
#[tokio::test]
async fn a_call_of_another_architecture_is_the_callers_end() {
    let (exit, text) = run("a_call_of_another_architecture", &[]).await;
    // Where the kernel has no 32-bit calls at all, the attempt is a fault.
    let ends = [libc::SIGSYS, libc::SIGSEGV].map(|signal| Exit::Signaled { signal });
    assert!(ends.contains(&exit), "{exit}\n{text}");
}

#[tokio::test]
async fn two_sandboxes_have_nothing_in_common() {
    let (one, two) = (Fixture::new().await, Fixture::new().await);
    one.shell("echo secret > /tmp/it; echo secret > /dev/shm/it; echo secret > /workspace/it").await;
    assert_eq!(two.shell("cat /tmp/it /dev/shm/it /workspace/it 2>/dev/null; true").await, "");
    for kind in ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup"] {
        let line = format!("readlink /proc/self/ns/{kind}");
        let (a, b) = (one.shell(&line).await, two.shell(&line).await);
        let host = std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap().display().to_string();
        assert!(a != b && a != host && b != host, "{kind}: {a} {b} {host}");
    }
    one.end().await;
    two.end().await;
}

#[tokio::test]
async fn the_init_cannot_be_killed_or_stopped_from_inside() {
    let fixture = Fixture::new().await;
    fixture.shell("kill -9 1; kill -STOP 1; kill -SEGV 1; kill -TERM 1; true").await;
    assert_eq!(fixture.shell("echo alive").await, "alive");
    fixture.end().await;
}

#[tokio::test]
async fn root_owns_nothing_that_an_agent_makes() {
    use astraforge_core::session::{ByteSize, Limit, Workspace};
    use std::os::unix::fs::MetadataExt;
    let disk = Workspace::Disk { size: Limit::best_effort(ByteSize::mib(64)) };
    let fixture = Fixture::with(SandboxSpec::default().with_workspace(disk)).await;
    fixture.shell("cp /bin/sh shell; chmod 6755 shell; ln -s /etc/shadow link; mkdir -p a/b; mkfifo pipe").await;
    let folder = fixture.footprint().folder.join("workspace");
    let shell = std::fs::metadata(folder.join("shell")).unwrap();
    assert_ne!(shell.uid(), 0);
    if super::is_root() {
        assert!(shell.uid() >= 0x7000_0000 && shell.gid() >= 0x7000_0000, "{} {}", shell.uid(), shell.gid());
    }
    fixture.end().await;
}
