//! How closed a container is, seen from inside.

use astraforge_core::session::{Command, SandboxSpec, Workspace};

use super::{Fixture, config, on_disk, text};

#[tokio::test(flavor = "multi_thread")]
async fn the_agent_is_nobody_special_and_nothing_of_the_image_can_be_changed() {
    let Some(config) = config() else { return };
    let sandbox = Fixture::new(config, on_disk()).await;
    assert_eq!(sandbox.shell("id -u; id -g").await, "1000\n1000");
    let status = sandbox.shell("grep -E '^(Cap...|NoNewPrivs|Seccomp):' /proc/self/status | awk '{print $2}'").await;
    assert_eq!(
        status.replace('\n', " "),
        "0000000000000000 0000000000000000 0000000000000000 0000000000000000 0000000000000000 1 2"
    );
    assert!(sandbox.shell("touch /bin/new").await.contains("Read-only file system"));
    assert!(sandbox.shell("touch /.astraforge/new").await.contains("Read-only file system"));
    for folder in ["/workspace", "/tmp", "/run", "/home/agent", "/dev/shm"] {
        assert_eq!(sandbox.shell(&format!("touch {folder}/new && stat -c %u {folder}/new")).await, "1000", "{folder}");
    }
    assert_eq!(sandbox.shell("ls /sys/class/net").await, "lo");
    assert!(sandbox.shell("hostname").await.starts_with("sandbox-"));
    sandbox.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_guest_and_its_relays_are_out_of_the_agents_reach() {
    let Some(config) = config() else { return };
    let sandbox = Fixture::new(config, SandboxSpec::default()).await;
    for path in ["/proc/1/environ", "/proc/1/mem", "/.astraforge/astraforge-guest"] {
        assert!(sandbox.shell(&format!("head -c 1 {path}")).await.contains("Permission denied"), "{path}");
    }
    assert_eq!(sandbox.shell("tr '\\0' '\\n' < /proc/self/environ | grep -c ASTRAFORGE").await, "0");
    // All that has no parent in here came from outside.
    let relays = "for it in /proc/[0-9]*; do read pid name state parent rest < $it/stat; \
                  [ $parent = 0 ] && [ $pid != 1 ] && echo $pid; done";
    let relay = sandbox.shell(relays).await;
    assert!(relay.parse::<u32>().is_ok(), "one relay runs: {relay}");
    for line in [format!("kill -STOP {relay}"), format!("kill -9 {relay}"), format!("ls /proc/{relay}/fd/")] {
        let refused = sandbox.shell(&line).await;
        assert!(refused.contains("not permitted") || refused.contains("denied"), "{line}: {refused}");
    }
    // A process in here that finds the socket is no host.
    let posing = sandbox.run(Command::shell("/.astraforge/astraforge-guest connect < /dev/null | head -c 8")).await;
    assert!(!text(&posing).contains("AFguest"), "{}", text(&posing));
    assert_eq!(sandbox.shell("echo on").await, "on");
    sandbox.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_of_the_host_is_seen_and_not_written() {
    let Some(config) = config() else { return };
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("file"), "seen").unwrap();
    let spec = SandboxSpec::default().with_folder(folder.path(), "/opt/shown");
    let sandbox = Fixture::new(config, spec).await;
    assert_eq!(sandbox.shell("cat /opt/shown/file").await, "seen");
    assert!(sandbox.shell("echo x > /opt/shown/file").await.contains("Read-only"));
    sandbox.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workspace_is_the_agents_wherever_it_lies() {
    let Some(config) = config() else { return };
    let memory =
        SandboxSpec::default().with_workspace(Workspace::Tmpfs { size: astraforge_core::session::ByteSize::mib(1) });
    for spec in [on_disk(), memory] {
        let sandbox = Fixture::new(config.clone(), spec).await;
        assert_eq!(
            sandbox.shell("stat -c '%u %g %a' /workspace; pwd; mkdir a; ls").await,
            "1000 1000 755\n/workspace\na"
        );
        sandbox.end().await;
    }
}
