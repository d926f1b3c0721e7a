//! What ordinary programs do in a sandbox, and servers that are killed: both are this very program, started by tests.

use std::{
    fs, io,
    net::{TcpListener, TcpStream},
};

use astraforge_core::session::{Command, SandboxSpec};

use super::Fixture;

/// Where the test program lies in the sandbox.
const PROGRAM: &str = "/opt/test";

#[tokio::test]
async fn ordinary_programs_work() {
    let program = std::env::current_exe().unwrap();
    let fixture = Fixture::with(SandboxSpec::default().with_folder(program, PROGRAM)).await;
    let name = "native::inside::what_ordinary_programs_do";
    let output = fixture.run(Command::new([PROGRAM, "--ignored", "--exact", name, "--nocapture"])).await;
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.exit.success() && text.contains("1 passed"), "{}\n{text}", output.exit);
    fixture.end().await;
}

#[test]
#[ignore = "runs inside a sandbox"]
fn what_ordinary_programs_do() {
    std::thread::spawn(|| {}).join().unwrap();
    assert!(std::process::Command::new("true").status().unwrap().success());
    rustix::fs::memfd_create("x", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    assert_eq!(listener.accept().unwrap().1, client.local_addr().unwrap());
    fs::write("/tmp/a", "a").unwrap();
    fs::hard_link("/tmp/a", "/tmp/b").unwrap();
    fs::rename("/tmp/b", "/tmp/c").unwrap();
    fs::create_dir("/tmp/d").unwrap();
    fs::rename("/tmp/c", "/tmp/d/c").unwrap();
    assert_eq!(fs::read("/tmp/d/c").unwrap(), b"a");
    for path in ["/workspace", "/tmp", "/run", "/home/agent", "/dev/shm", "/var/tmp"] {
        fs::write(format!("{path}/mine"), "").unwrap_or_else(|error| panic!("{path}: {error}"));
    }
    assert!(fs::read("/dev/null").unwrap().is_empty());
    fs::write("/dev/null", "x").unwrap();
    let mut random = [0; 8];
    io::Read::read_exact(&mut fs::File::open("/dev/urandom").unwrap(), &mut random).unwrap();
    assert_ne!(random, [0; 8]);
    rustix::pty::openpt(rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY).unwrap();
    // Programs switch off dumps when they hold secrets, and take a refusal for a reason to stop.
    let none = rustix::process::Rlimit { current: Some(0), maximum: Some(0) };
    rustix::process::setrlimit(rustix::process::Resource::Core, none).unwrap();
}

/// A server that makes a sandbox, says its id, and is then killed. The working directory is its state folder.
#[tokio::test]
#[ignore = "is started by a test, as a server of its own"]
async fn a_server_that_will_be_killed() {
    let state = std::env::current_dir().unwrap();
    let driver = super::NativeDriver::new(super::config(&state)).unwrap();
    let id = astraforge_core::id::SandboxId::random();
    super::SandboxDriver::create(&driver, id, &super::SandboxSpec::default(), &[]).await.unwrap();
    println!("id={id}");
    tokio::time::sleep(super::PATIENCE * 2).await;
}

/// A server that makes, uses and removes sandboxes until it is killed. The working directory is its state folder.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "is started by a test, as a server of its own"]
async fn a_busy_server() {
    use astraforge_core::{id::SandboxId, ports::sessions::Sessions, session::Command};
    let state = std::env::current_dir().unwrap();
    let driver: super::DynSandboxDriver = std::sync::Arc::new(super::NativeDriver::new(super::config(&state)).unwrap());
    println!("busy");
    let sandboxes = super::Sandboxes::new(driver);
    let lives = (0..3).map(|_| async {
        let end = std::time::Instant::now() + super::PATIENCE;
        while std::time::Instant::now() < end {
            let session =
                sandboxes.create(SandboxId::random(), super::SandboxSpec::default(), Vec::new()).await.unwrap();
            let line = Command::shell("(sleep 60 &); echo x > it");
            session.exec(line).await.unwrap().collect(100).await.unwrap();
            sandboxes.destroy(session.id()).await.unwrap();
        }
    });
    futures::future::join_all(lives).await;
}
