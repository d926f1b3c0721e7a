//! Where files of sandboxes are kept: in the folder that was named, in S3, and behind links.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    path::Path,
    process::Command,
};

use hyper_util::rt::{TokioExecutor, TokioIo};
use s3s::{auth::SimpleAuth, service::S3ServiceBuilder};
use s3s_fs::FileSystem;
use tokio::{net::TcpListener, runtime::Runtime};

use crate::sandboxes::Desk;

const ACCESS_KEY: &str = "astraforge-test";
const SECRET: &str = "a secret that the server knows";

/// A server with one bucket that speaks S3 and checks signatures; it stops when it is dropped.
struct S3 {
    folder: tempfile::TempDir,
    url: String,
    _runtime: Runtime,
}

impl S3 {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("bucket")).unwrap();
        let mut builder = S3ServiceBuilder::new(FileSystem::new(folder.path()).unwrap());
        builder.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET));
        let service = builder.build();
        let runtime = Runtime::new().unwrap();
        let listener = runtime.block_on(TcpListener::bind(("127.0.0.1", 0))).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        runtime.spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let service = service.clone();
                tokio::spawn(async move {
                    let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                    drop(server.serve_connection(TokioIo::new(socket), service).await);
                });
            }
        });
        Self { folder, url, _runtime: runtime }
    }
}

#[test]
fn files_are_kept_in_s3() {
    let server = S3::start();
    let mut desk = Desk::new();
    desk.variables = [
        ("SANDBOX_S3_BUCKET", "bucket"),
        ("SANDBOX_S3_ENDPOINT_URL", &server.url),
        ("SANDBOX_S3_REGION", "eu-central-1"),
        ("AWS_ACCESS_KEY_ID", ACCESS_KEY),
        ("AWS_SECRET_ACCESS_KEY", SECRET),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    let id = desk.works(&["create"]);
    // More than one part of an upload in parts, and nothing that compresses.
    desk.shell(&id, "head -c 20000000 /dev/urandom > noise; sha256sum noise > sum");
    let snapshot = desk.json(&["snapshot", &id]);
    let key = snapshot["s3_key"].as_str().unwrap();
    assert_eq!(snapshot["archive_path"], "");
    let stored = fs::metadata(server.folder.path().join("bucket").join(key)).unwrap();
    assert_eq!(Some(stored.len()), snapshot["size_bytes"].as_u64());
    desk.works(&["stop", &id]);
    assert_eq!(desk.shell(&id, "sha256sum -c sum"), "noise: OK", "it comes back from there");
    desk.works(&["export", &id, "/workspace/sum"]);
    assert!(!desk.data().join("sandbox-files").exists(), "nothing is kept here");
    desk.variables.retain(|(name, _)| name != "AWS_SECRET_ACCESS_KEY");
    desk.variables.push(("AWS_SECRET_ACCESS_KEY".to_owned(), "wrong".to_owned()));
    desk.fails(&["snapshot", &id], "SignatureDoesNotMatch");
}

#[test]
fn snapshots_lie_where_they_are_said_to_lie() {
    let mut desk = Desk::new();
    let id = desk.works(&["create"]);
    desk.shell(&id, "echo one > file");
    let usual = desk.json(&["snapshot", &id]);
    let folder = desk.world.path("elsewhere");
    desk.variables = vec![("SANDBOX_SNAPSHOT_DIR".to_owned(), folder.to_str().unwrap().to_owned())];
    desk.shell(&id, "echo two > file");
    desk.works(&["snapshot", &id]);
    let listed = desk.json(&["snapshots", &id]);
    for (snapshot, root) in [(&listed[0], folder.clone()), (&listed[1], desk.data())] {
        let path = Path::new(snapshot["archive_path"].as_str().unwrap());
        assert!(path.starts_with(root), "{snapshot}");
        assert_eq!(Some(fs::metadata(path).unwrap().len()), snapshot["size_bytes"].as_u64());
    }
    desk.works(&["restore", &id, usual["id"].as_str().unwrap()]);
    assert_eq!(desk.shell(&id, "cat file"), "one", "what was kept before is still there");
}

#[test]
fn an_archive_of_the_earlier_system_is_taken() {
    let desk = Desk::new();
    let id = desk.works(&["create"]);
    desk.shell(&id, "echo new > file");
    let root = desk.world.path("old/workspace/src");
    fs::create_dir_all(&root).unwrap();
    fs::write(root.join("old"), "from before\n").unwrap();
    let archive = desk.world.path("archive.tar.gz");
    // As the contract makes them: `tar -czf ARCHIVE … /workspace`.
    let tar =
        Command::new("tar").arg("-czf").arg(&archive).arg("-C").arg(desk.world.path("old")).arg("workspace").status();
    assert!(tar.unwrap().success());
    desk.works(&["restore", &id, "--from", archive.to_str().unwrap()]);
    assert_eq!(desk.shell(&id, "find . -type f | xargs cat; ls"), "from before\nsrc", "it replaces what was there");
    fs::write(&archive, "no archive").unwrap();
    desk.fails(&["restore", &id, "--from", archive.to_str().unwrap()], "compressed with gzip or zstd");
    desk.fails(&["restore", &id], "--from");
    assert_eq!(desk.shell(&id, "ls"), "src");
}

#[test]
fn a_link_is_all_that_a_download_needs() {
    let mut desk = Desk::new();
    let id = desk.works(&["create"]);
    desk.shell(&id, "printf '<script>' > report");
    let artifact = desk.json(&[
        "export",
        &id,
        "/workspace/report",
        "--filename",
        "r\u{e9}port.html",
        "--content-type",
        "text/html",
    ]);
    let artifact = artifact["id"].as_str().unwrap();
    desk.fails(&["link", artifact], "SANDBOX_ARTIFACT_BASE_URL");
    desk.works(&["rm", &id]);
    desk.world.start();
    let url = desk.works(&["link", artifact]);
    let answer = get(&url);
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("\r\n\r\n<script>"), "{answer}");
    let lower = answer.to_lowercase();
    for header in [
        "content-disposition: attachment; filename=\"r_port.html\"; filename*=utf-8''r%c3%a9port.html\r\n",
        "content-type: text/html\r\n",
        "content-length: 8\r\n",
        "x-content-type-options: nosniff\r\n",
    ] {
        assert!(lower.contains(header), "{answer}");
    }
    for broken in [
        url.replace("expires=", "expires=1"),
        url.replace("proof=", "proof=0"),
        url.split('?').next().unwrap().to_owned(),
    ] {
        assert!(get(&broken).starts_with("HTTP/1.1 404"), "{broken}");
    }
    let short = desk.works(&["link", artifact, "--expires", "1"]);
    while get(&short).starts_with("HTTP/1.1 200") {}
    assert!(get(&short).starts_with("HTTP/1.1 404"));
    desk.fails(&["link", artifact, "--expires", "0"], "1 to 604800 seconds");
    desk.variables = vec![("SANDBOX_ARTIFACT_BASE_URL".to_owned(), "https://forge.example.com/".to_owned())];
    assert!(desk.works(&["link", artifact]).starts_with("https://forge.example.com/api/sandbox/artifacts/"));
}

/// What a server answers, whole.
fn get(url: &str) -> String {
    let (host, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let mut stream = TcpStream::connect(host).unwrap();
    write!(stream, "GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}
