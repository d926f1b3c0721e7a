//! What a sandbox is shown of its host, and where its own state may lie.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, sync::Arc};

use astraforge_core::{
    id::SandboxId,
    ports::sessions::{SessionError, Sessions},
    session::{Command, SandboxSpec},
};
use astraforge_sandbox::{driver::DynSandboxDriver, native::NativeDriver, sandboxes::Sandboxes};

use super::{Fixture, config};

/// A folder that anyone may look into, with a program in `bin`.
fn toolchain() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let open = |path: &Path| fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir(folder.path().join("bin")).unwrap();
    let tool = folder.path().join("bin/tool-of-this-test");
    fs::write(&tool, "#!/bin/sh\necho the tool ran\n").unwrap();
    [folder.path(), &folder.path().join("bin"), &tool].into_iter().for_each(open);
    folder
}

#[tokio::test]
async fn a_toolchain_is_on_the_path_and_read_only() {
    let (state, toolchain) = (tempfile::tempdir().unwrap(), toolchain());
    let driver = NativeDriver::new(config(state.path()).with_toolchain(toolchain.path())).unwrap();
    let sandboxes = Sandboxes::new(Arc::new(driver) as DynSandboxDriver);
    let session = sandboxes.create(SandboxId::random(), SandboxSpec::default(), Vec::new()).await.unwrap();
    let line = format!("tool-of-this-test; touch {}/x || echo refused", toolchain.path().display());
    let output = session.exec(Command::shell(line)).await.unwrap().collect(1 << 16).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "the tool ran\nrefused\n");
    sandboxes.destroy(session.id()).await.unwrap();
    assert!(!toolchain.path().join("x").exists());
}

#[tokio::test]
async fn folders_and_files_are_shown_where_they_are_wanted() {
    let toolchain = toolchain();
    let spec = SandboxSpec::default()
        .with_folder(toolchain.path(), "/home/agent/.tools/deep")
        .with_folder(toolchain.path().join("bin/tool-of-this-test"), "/workspace/tool")
        .with_folder(toolchain.path(), "/opt/a");
    let fixture = Fixture::with(spec).await;
    assert_eq!(fixture.shell("/home/agent/.tools/deep/bin/tool-of-this-test").await, "the tool ran");
    assert_eq!(fixture.shell("./tool; ls /opt").await, "the tool ran\na");
    for path in ["/home/agent/.tools/deep/x", "tool", "/opt/a/x", "/opt/x"] {
        let output = fixture.run(Command::shell(format!("echo > {path}"))).await;
        assert!(!output.exit.success(), "{path} can be written");
    }
    fixture.shell("touch /home/agent/.tools/mine").await;
    fixture.end().await;
}

#[tokio::test]
async fn a_folder_that_cannot_be_shown_is_an_error_that_names_it() {
    let native = Arc::new(super::Native::new());
    let sandboxes = Sandboxes::new(native as DynSandboxDriver);
    for (source, target, named) in [
        ("/nowhere/at/all", "/opt/x", "/nowhere/at/all"),
        ("/usr", "/usr/share/none/x", "/usr/share/none/x"),
        ("/usr", "/opt/../x", "/opt/../x"),
        ("usr", "/opt/x", "usr"),
    ] {
        let spec = SandboxSpec::default().with_folder(source, target);
        let error = sandboxes.create(SandboxId::random(), spec, Vec::new()).await.unwrap_err();
        let text = match &error {
            SessionError::Backend { source, .. } => chain(source.as_ref()),
            other => other.to_string(),
        };
        assert!(text.contains(named), "{source} at {target}: {text}");
    }
}

/// Prints an error with all that caused it.
fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |it| it.source()).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[tokio::test]
async fn the_state_folder_may_have_a_path_longer_than_a_sockets() {
    let home = tempfile::tempdir().unwrap();
    let state = home.path().join("long".repeat(40)).join("longer".repeat(30));
    let driver = NativeDriver::new(config(&state)).unwrap();
    assert_eq!(fs::metadata(&state).unwrap().permissions().mode() & 0o777, 0o700);
    let sandboxes = Sandboxes::new(Arc::new(driver) as DynSandboxDriver);
    let session = sandboxes.create(SandboxId::random(), SandboxSpec::default(), Vec::new()).await.unwrap();
    let output = session.exec(Command::new(["true"])).await.unwrap().collect(1).await.unwrap();
    assert!(output.exit.success());
    sandboxes.destroy(session.id()).await.unwrap();
    assert_eq!(fs::read_dir(&state).unwrap().count(), 0);
}
