//! Containers without a guest, as on an engine of another architecture.

use astraforge_core::{
    files::Roots,
    ports::machines::{Machine, Machines},
    session::Exit,
};
use astraforge_sandbox::driver::Access;
use futures::TryStreamExt;

use super::*;

#[tokio::test]
async fn commands_files_and_archives_work_without_a_guest_and_the_rest_is_refused() {
    let Some(mut config) = config() else { return };
    config.access = Some(Access::PlainExec);
    let owner = config.owner.clone();
    let driver = DockerDriver::connect(config).await.unwrap();
    assert_eq!(driver.capabilities().access, Access::PlainExec);
    let sandboxes = Sandboxes::new(Arc::new(driver));
    let id = SandboxId::random();
    let spec = SandboxSpec::default().with_env("WORD", "of the sandbox");
    let machine = sandboxes.make(id, spec.clone()).await.unwrap().machine;

    let command = Command::shell("id -u; echo \"$WORD\"; cat >&2; exit 3").with_stdin("input");
    let output = machine.exec(command).await.unwrap().collect(1 << 20).await.unwrap();
    assert_eq!(output.stdout, b"1000\nof the sandbox\n", "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!((output.stderr.as_slice(), output.exit), (b"input".as_slice(), Exit::Exited { code: 3 }));

    let sleeper = Command::shell("(setsid sleep 60 &); sleep 60").with_timeout(Duration::from_secs(1));
    assert_eq!(machine.exec(sleeper).await.unwrap().collect(1024).await.unwrap().exit, Exit::TimedOut);
    let left = machine.exec(Command::shell("ps | grep -c '[s]leep 60'")).await.unwrap().collect(1024).await.unwrap();
    assert_eq!(left.stdout, b"0\n", "the whole tree is gone");

    let contents = bytes::Bytes::from(vec![9; 5 << 20]);
    machine.write_file("/workspace/some/file", contents.clone(), 0o644).await.unwrap();
    assert!(machine.read_file("/workspace/some/file", 5 << 20).await.unwrap() == contents);
    let outside = astraforge_core::files::DownloadRequest {
        roots: Roots::default(),
        path: "/etc/passwd".to_owned(),
        offset: 0,
        limit: None,
    };
    assert!(machine.download(outside).await.is_err());

    let pack = astraforge_core::archive::PackRequest::of(["/workspace"]);
    let archive: Vec<_> = machine.pack(pack).await.unwrap().try_collect().await.unwrap();
    machine.write_file("/workspace/later", contents, 0o644).await.unwrap();
    restore(machine.as_ref(), archive).await;
    assert!(machine.read_file("/workspace/later", 1).await.is_err(), "what came later is gone");
    assert!(machine.read_file("/workspace/some/file", 5 << 20).await.is_ok());

    assert!(machine.spawn(Command::new(["true"]), None).await.is_err());
    sandboxes.remove(id).await.unwrap();
    assert!(matches!(sandboxes.find(id, spec.egress).await, Err(astraforge_core::ports::sessions::SessionError::Lost)));
    assert!(belongings(&owner).await.is_empty());
}

async fn restore(machine: &dyn Machine, archive: Vec<bytes::Bytes>) {
    use futures::StreamExt;
    let request = astraforge_core::archive::UnpackRequest {
        compression: astraforge_core::archive::Compression::Zstd,
        replace: vec!["/workspace".to_owned()],
        max_bytes: 1 << 30,
        max_entries: 1000,
    };
    let pieces = futures::stream::iter(archive.into_iter().map(Ok)).boxed();
    machine.unpack(request, pieces).await.unwrap();
}
