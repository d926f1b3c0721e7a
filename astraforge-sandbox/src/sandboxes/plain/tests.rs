//! What works without a guest, tried with programs of this machine.

use std::{path::Path, process::Stdio, sync::Mutex, time::Duration};

use astraforge_core::{
    archive::Compression,
    egress::Egress,
    ports::{
        guest_service::GuestStream,
        machines::{Machines, WorkspaceOrigin},
    },
    session::{ExecEvent, Exit, SandboxSpec},
};
use tokio::io::AsyncReadExt;

use super::*;
use crate::{
    driver::{Access, Capabilities, DriverError, IsolationTier, SandboxDriver},
    plain::{PlainExec, PlainOutput, PlainProcess},
    sandboxes::Sandboxes,
};

/// Starts programs of this machine, as an engine would in a container.
#[derive(Debug, Default)]
struct Programs {
    live: Mutex<Vec<SandboxId>>,
    /// Whether each program begins and never ends, whatever it is, as in a container that hangs.
    hang: bool,
}

#[async_trait]
impl SandboxDriver for Programs {
    fn name(&self) -> &'static str {
        "programs"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { access: Access::PlainExec, ..Capabilities::new(IsolationTier::Container) }
    }

    async fn create(&self, id: SandboxId, _: &SandboxSpec, _: &[u16]) -> Result<WorkspaceOrigin, DriverError> {
        self.live.lock().unwrap().push(id);
        Ok(WorkspaceOrigin::Fresh)
    }

    async fn connect(&self, id: SandboxId) -> Result<GuestStream, DriverError> {
        Err(DriverError::NotFound { id })
    }

    fn plain_exec(&self) -> Option<&dyn PlainExec> {
        Some(self)
    }

    async fn usage(&self, _: SandboxId) -> Result<Usage, DriverError> {
        Ok(Usage::default())
    }

    async fn list(&self) -> Result<Vec<SandboxId>, DriverError> {
        Ok(self.live.lock().unwrap().clone())
    }

    async fn destroy(&self, id: SandboxId) -> Result<(), DriverError> {
        self.live.lock().unwrap().retain(|it| *it != id);
        Ok(())
    }
}

#[async_trait]
impl PlainExec for Programs {
    async fn start(&self, _: SandboxId, argv: Vec<String>) -> Result<PlainProcess, DriverError> {
        if self.hang {
            return Ok(PlainProcess { stdin: Box::pin(tokio::io::sink()), output: stream::pending().boxed() });
        }
        let mut child = tokio::process::Command::new(&argv[0])
            .args(&argv[1..])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = Box::pin(child.stdin.take().unwrap());
        let (mut stdout, mut stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let output = async_stream::stream! {
            let (mut out, mut err) = ([0; 4096], [0; 4096]);
            let (mut out_ended, mut err_ended) = (false, false);
            while !(out_ended && err_ended) {
                tokio::select! {
                    n = stdout.read(&mut out), if !out_ended => match n.unwrap() {
                        0 => out_ended = true,
                        n => yield Ok(PlainOutput::Stdout(Bytes::copy_from_slice(&out[..n]))),
                    },
                    n = stderr.read(&mut err), if !err_ended => match n.unwrap() {
                        0 => err_ended = true,
                        n => yield Ok(PlainOutput::Stderr(Bytes::copy_from_slice(&err[..n]))),
                    },
                }
            }
            use std::os::unix::process::ExitStatusExt;
            let status = child.wait().await.unwrap();
            yield Ok(PlainOutput::Exited(status.code().unwrap_or_else(|| 128 + status.signal().unwrap())));
        };
        Ok(PlainProcess { stdin, output: output.boxed() })
    }
}

fn session() -> PlainSession {
    PlainSession::new(SandboxId::random(), Arc::new(Programs::default()))
}

async fn run(command: Command) -> astraforge_core::session::ExecOutput {
    session().exec(command.with_cwd("/tmp")).await.unwrap().collect(1 << 20).await.unwrap()
}

fn path(folder: &tempfile::TempDir, name: &str) -> String {
    folder.path().join(name).display().to_string()
}

/// Tells whether a process runs; one that nobody has buried yet does not.
fn runs(pid: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

#[tokio::test]
async fn streams_environment_input_and_exit_code_are_kept() {
    let output = run(Command::shell("printf 'a\\000b'; echo \"$WORD\" >&2; cat; exit 7")
        .with_env("WORD", "it's $HOME")
        .with_stdin(&b"in\xff"[..]))
    .await;
    assert_eq!(output.stdout, b"a\0bin\xff");
    assert_eq!(output.stderr, b"it's $HOME\n");
    assert_eq!(output.exit, Exit::Exited { code: 7 });
}

#[tokio::test]
async fn arguments_are_never_taken_for_shell() {
    let word = "; touch /tmp/plain-broke-out; echo $(id) `id` '";
    let output = run(Command::new(["printf", "%s|%s", word, "-n"])).await;
    assert_eq!(output.stdout, format!("{word}|-n").as_bytes());
    assert!(!Path::new("/tmp/plain-broke-out").exists());
}

#[tokio::test]
async fn a_timeout_ends_the_whole_tree() {
    let folder = tempfile::tempdir().unwrap();
    let pid = path(&folder, "pid");
    let line = format!("(setsid sh -c 'echo $$ > {pid}; exec sleep 60' >/dev/null 2>&1 &); sleep 60");
    let output = run(Command::shell(line).with_timeout(Duration::from_secs(2))).await;
    assert_eq!(output.exit, Exit::TimedOut);
    let pid = std::fs::read_to_string(&pid).unwrap();
    assert!(!runs(pid.trim()), "the stray process lives on");
}

#[tokio::test]
async fn a_command_that_nobody_watches_is_killed() {
    let mut execution = session().exec(Command::shell("echo $$; exec sleep 60").with_cwd("/tmp")).await.unwrap();
    let first = execution.events.next().await.unwrap().unwrap();
    let ExecEvent::Stdout(bytes) = first else { panic!("{first:?}") };
    let pid = String::from_utf8_lossy(&bytes).trim().to_owned();
    assert!(runs(&pid));
    drop(execution);
    let gone = async {
        while runs(&pid) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), gone).await.expect("it is killed");
}

#[tokio::test]
async fn files_are_written_whole_and_confined() {
    let folder = tempfile::tempdir().unwrap();
    let session = session();
    let file = path(&folder, "new folder/ünï 'code");
    let contents = Bytes::from(vec![7; 5 << 20]);
    session.write_file(&file, contents.clone(), 0o640).await.unwrap();
    assert!(session.read_file(&file, 5 << 20).await.unwrap() == contents);
    assert!(matches!(session.read_file(&file, 4).await, Err(SessionError::TooLarge { .. })));
    let names: Vec<_> = std::fs::read_dir(folder.path().join("new folder")).unwrap().collect();
    assert_eq!(names.len(), 1, "nothing temporary is left");

    std::os::unix::fs::symlink("/etc", folder.path().join("out")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", folder.path().join("passwd")).unwrap();
    for (name, expected) in [("out/passwd", "outside"), ("passwd", "outside"), ("none", "no such file")] {
        let request = DownloadRequest {
            roots: Roots(vec![folder.path().display().to_string()]),
            path: path(&folder, name),
            offset: 0,
            limit: None,
        };
        let refused = session.download(request).await.err().expect(name).to_string();
        assert!(refused.contains(expected), "{name}: {refused}");
    }
    assert!(session.read_file("relative", 1).await.unwrap_err().to_string().contains("not absolute"));
}

#[tokio::test]
async fn a_stream_that_breaks_off_changes_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = path(&folder, "file");
    std::fs::write(&file, "old").unwrap();
    let request =
        UploadRequest { roots: Roots::everywhere(), path: file.clone(), mode: 0o644, existing: Existing::Replace };
    let broken = stream::iter([Ok(Bytes::from_static(b"new")), Err(SessionError::Lost)]).boxed();
    assert!(session().upload(request, broken).await.is_err());
    assert_eq!(std::fs::read(&file).unwrap(), b"old");
}

#[tokio::test]
async fn an_archive_replaces_what_is_there_and_a_broken_one_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().display().to_string();
    let session = session();
    std::fs::create_dir(folder.path().join("sub")).unwrap();
    std::fs::write(folder.path().join("sub/.kept"), "one").unwrap();
    std::fs::write(folder.path().join("left out.log"), "x").unwrap();
    let request = PackRequest::of([root.clone()]).without(["*.log"]);
    let pieces: Vec<_> = session.pack(request).await.unwrap().map(Result::unwrap).collect().await;
    let archive = pieces.concat();
    std::fs::write(folder.path().join("sub/.kept"), "two").unwrap();
    std::fs::write(folder.path().join(".later"), "x").unwrap();
    let unpack = async |bytes: Vec<Result<Bytes, SessionError>>| {
        let request = UnpackRequest {
            compression: Compression::Zstd,
            replace: vec![root.clone()],
            max_bytes: 1 << 30,
            max_entries: 1000,
        };
        session.unpack(request, stream::iter(bytes).boxed()).await
    };
    let cut = Bytes::copy_from_slice(&archive[..archive.len() / 2]);
    assert!(unpack(vec![Ok(cut)]).await.is_err());
    assert!(unpack(vec![Ok(archive.clone().into()), Err(SessionError::Lost)]).await.is_err());
    assert_eq!(std::fs::read(folder.path().join("sub/.kept")).unwrap(), b"two");
    assert!(folder.path().join(".later").exists());

    unpack(vec![Ok(archive.into())]).await.unwrap();
    assert_eq!(std::fs::read(folder.path().join("sub/.kept")).unwrap(), b"one");
    assert!(!folder.path().join(".later").exists() && !folder.path().join("left out.log").exists());
}

#[tokio::test]
async fn what_needs_a_guest_is_refused() {
    let refused = session().spawn(Command::new(["true"]), None).await.unwrap_err();
    assert!(refused.to_string().contains("guest"), "{refused}");
    let pty = Command::new(["true"]).with_pty(Default::default());
    assert!(matches!(session().exec(pty).await, Err(SessionError::Unsupported { .. })));
}

#[tokio::test]
async fn an_egress_is_refused_where_there_is_no_way_out() {
    let sandboxes = Sandboxes::new(Arc::new(Programs::default()));
    let id = SandboxId::random();
    sandboxes.make(id, SandboxSpec::default()).await.unwrap();
    for egress in [Egress::Public, "allow:example.com".parse().unwrap()] {
        let refused = sandboxes.find(id, egress.clone()).await;
        assert!(matches!(refused, Err(SessionError::Unsupported { .. })), "{egress}: {refused:?}");
        let spec = SandboxSpec::default().with_egress(egress);
        let refused = sandboxes.make(SandboxId::random(), spec).await;
        assert!(matches!(refused, Err(SessionError::Unsupported { .. })), "{refused:?}");
    }
    assert_eq!(sandboxes.find(id, Egress::Off).await.unwrap().id(), id);
}

#[tokio::test(start_paused = true)]
async fn a_sandbox_that_hangs_is_handed_out_and_removed_all_the_same() {
    let sandboxes = Sandboxes::new(Arc::new(Programs { hang: true, ..Programs::default() }));
    let id = SandboxId::random();
    let making = tokio::time::timeout(Duration::from_secs(15), sandboxes.make(id, SandboxSpec::default()));
    making.await.expect("it is not waited for").unwrap();
    sandboxes.remove(id).await.unwrap();
    assert_eq!(sandboxes.ids().await.unwrap(), []);
}
