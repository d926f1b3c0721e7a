//! Images: what they hold is seen, and nothing else; they are unpacked once, and what is wrong with one is said.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use astraforge_core::{
    id::SandboxId,
    ports::sessions::{Session, SessionError, Sessions},
    session::{Command, SandboxSpec},
};
use astraforge_sandbox::{driver::DynSandboxDriver, native::NativeDriver, sandboxes::Sandboxes};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::{Native, attacker, config};
use crate::guest_program::path as guest;

/// An image in the making: what `docker save` and OCI tools write, by our own hand.
struct Made {
    home: TempDir,
    layers: Vec<Vec<u8>>,
}

impl Made {
    /// Two layers: a program in a folder that only the image's own `PATH` names, and a file that the second replaces.
    fn new() -> Self {
        let program = fs::read(guest()).unwrap();
        let lower =
            tar(&[("odd/bin/tool", &program, 0o755), ("etc/os-release", b"lower", 0o644), ("gone", b"x", 0o600)]);
        let upper =
            tar(&[("etc/os-release", b"upper", 0o600), (".wh.gone", b"", 0o644), ("etc/passwd", b"theirs", 0o644)]);
        Self { home: tempfile::tempdir().unwrap(), layers: vec![lower, upper] }
    }

    fn config(&self) -> String {
        let ids: Vec<_> = self.layers.iter().map(|it| format!("\"sha256:{}\"", hex(it))).collect();
        format!(
            r#"{{"os":"linux","config":{{"Env":["PATH=/odd/bin:/bin","FROM=image"],"WorkingDir":"/odd","User":"0:0",
            "Entrypoint":["/odd/bin/none"],"Cmd":["none"]}},
            "rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
            ids.join(",")
        )
    }

    /// Writes an OCI layout, with the first layer compressed in one way and the others in another.
    fn layout(&self) -> PathBuf {
        let folder = self.home.path().join("layout");
        if folder.exists() {
            return folder;
        }
        fs::create_dir_all(folder.join("blobs/sha256")).unwrap();
        let blob = |bytes: &[u8]| {
            fs::write(folder.join("blobs/sha256").join(hex(bytes)), bytes).unwrap();
            format!(r#"{{"digest":"sha256:{}","size":{}}}"#, hex(bytes), bytes.len())
        };
        let layers: Vec<_> = self.layers.iter().enumerate().map(|(i, it)| blob(&[gzip, zstd][i % 2](it))).collect();
        let config = blob(self.config().as_bytes());
        let manifest = blob(format!(r#"{{"config":{config},"layers":[{}]}}"#, layers.join(",")).as_bytes());
        fs::write(folder.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        fs::write(folder.join("index.json"), format!(r#"{{"manifests":[{manifest}]}}"#)).unwrap();
        folder
    }

    /// Writes what `docker save` wrote for years.
    fn docker_archive(&self) -> PathBuf {
        let config = self.config();
        let name = format!("{}.json", hex(config.as_bytes()));
        let manifest = format!(r#"[{{"Config":"{name}","RepoTags":["x:1"],"Layers":["a/layer.tar","b/layer.tar"]}}]"#);
        let path = self.home.path().join("docker.tar");
        let members = [
            ("a/layer.tar", &self.layers[0][..], 0o644),
            ("b/layer.tar", &self.layers[1][..], 0o644),
            (name.as_str(), config.as_bytes(), 0o644),
            ("manifest.json", manifest.as_bytes(), 0o644),
        ];
        fs::write(&path, tar(&members)).unwrap();
        path
    }

    /// Packs a layout.
    fn archive(&self, name: &str, compress: fn(&[u8]) -> Vec<u8>) -> PathBuf {
        let mut builder = tar::Builder::new(Vec::new());
        builder.append_dir_all(".", self.layout()).unwrap();
        let path = self.home.path().join(name);
        fs::write(&path, compress(&builder.into_inner().unwrap())).unwrap();
        path
    }

    fn native(&self) -> Arc<Native> {
        Arc::new(Native::with(|config| config.with_image_cache(self.cache())))
    }

    fn cache(&self) -> PathBuf {
        self.home.path().join("cache")
    }

    /// Unpacked images, and what is not whole.
    fn unpacked(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.cache()).unwrap().map(|it| it.unwrap().path());
        entries.filter(|it| it.is_dir()).collect()
    }
}

fn tar(members: &[(&str, &[u8], u32)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, contents, mode) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(contents.len() as u64);
        header.set_mode(*mode);
        builder.append_data(&mut header, name, *contents).unwrap();
    }
    builder.into_inner().unwrap()
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

fn plain(bytes: &[u8]) -> Vec<u8> {
    bytes.to_vec()
}

fn of(image: &Path) -> SandboxSpec {
    SandboxSpec::default().with_image(image.to_str().unwrap().parse().unwrap())
}

async fn created(native: &Arc<Native>, spec: SandboxSpec) -> Result<(Sandboxes, Arc<dyn Session>), SessionError> {
    let sandboxes = Sandboxes::new(Arc::clone(native) as DynSandboxDriver);
    let session = sandboxes.create(SandboxId::random(), spec, Vec::new()).await?;
    Ok((sandboxes, session))
}

async fn check_inside(session: &dyn Session) {
    let output = session.exec(Command::new(["tool", "--version"])).await.unwrap().collect(1000).await.unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).starts_with("astraforge-guest "), "{output:?}");
    assert_eq!(session.read_file("/etc/os-release", 100).await.unwrap(), "upper");
    let passwd = session.read_file("/etc/passwd", 1000).await.unwrap();
    assert!(String::from_utf8_lossy(&passwd).contains("agent:x:1000"), "{passwd:?}");
    session.read_file("/gone", 100).await.unwrap_err();
    session.read_file("/usr/bin/env", 1 << 20).await.expect_err("the host's own system is not shown");
    session.write_file("/workspace/mine", "1".into(), 0o644).await.unwrap();
    session.write_file("/odd/theirs", "1".into(), 0o644).await.unwrap_err();
    session.write_file("/etc/os-release", "1".into(), 0o644).await.unwrap_err();
}

async fn check(made: &Made, image: &Path) {
    let native = made.native();
    let (sandboxes, session) = created(&native, of(image)).await.unwrap();
    check_inside(&*session).await;
    sandboxes.destroy(session.id()).await.unwrap();
    assert_eq!(made.unpacked().len(), 1, "{:?}", made.unpacked());
}

#[tokio::test]
async fn an_image_is_read_from_each_form_that_tools_write() {
    let made = Made::new();
    let archives = [
        made.archive("plain.tar", plain),
        made.archive("one.tar.gz", gzip),
        made.archive("two.tar.zst", zstd),
        made.docker_archive(),
    ];
    check(&made, &made.layout()).await;
    for archive in archives {
        // It is one image, whichever way it came.
        check(&made, &archive).await;
    }
}

/// `docs/images.md` says so.
#[tokio::test]
async fn of_what_an_image_says_about_its_programs_the_environment_counts() {
    let attacker = fs::read(attacker()).unwrap();
    let mut made = Made::new();
    made.layers.push(tar(&[("odd/bin/teller", &attacker, 0o755)]));
    let native = made.native();
    let (sandboxes, session) = created(&native, of(&made.layout()).with_env("OWN", "sandbox")).await.unwrap();
    let command = Command::new(["teller", "environment"]);
    let output = session.exec(command).await.unwrap().collect(10_000).await.unwrap();
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    let expected = [
        "folder=/workspace",
        "user=1000",
        "variable=FROM=image",
        "variable=OWN=sandbox",
        "variable=PATH=/odd/bin:/bin",
        "variable=HOME=/home/agent",
        "variable=USER=agent",
    ];
    for line in expected {
        assert!(told.lines().any(|it| it.strip_prefix("note: ") == Some(line)), "{line} is not in {told}, {output:?}");
    }
    sandboxes.destroy(session.id()).await.unwrap();
}

#[tokio::test]
async fn an_image_is_unpacked_once_however_many_want_it() {
    let made = Made::new();
    let native = made.native();
    let image = made.archive("image.tar.gz", gzip);
    let all = (0..8).map(|_| created(&native, of(&image)));
    for made in futures::future::join_all(all).await {
        let (sandboxes, session) = made.unwrap();
        check_inside(&*session).await;
        sandboxes.destroy(session.id()).await.unwrap();
    }
    assert_eq!(made.unpacked().len(), 1);
    let first = fs::metadata(made.unpacked()[0].join("root")).unwrap().created().unwrap();
    check(&made, &image).await;
    assert_eq!(fs::metadata(made.unpacked()[0].join("root")).unwrap().created().unwrap(), first, "and not again");
}

#[tokio::test]
async fn an_image_stays_as_long_as_a_sandbox_has_it() {
    let made = Made::new();
    let native = made.native();
    let image = made.layout();
    let (sandboxes, session) = created(&native, of(&image)).await.unwrap();
    assert_eq!(native.driver().remove_images(Duration::ZERO).unwrap(), 0);
    check_inside(&*session).await;
    sandboxes.destroy(session.id()).await.unwrap();
    assert_eq!(native.driver().remove_images(Duration::from_secs(3600)).unwrap(), 0, "it was asked for just now");
    assert_eq!(native.driver().remove_images(Duration::ZERO).unwrap(), 1);
    assert_eq!(made.unpacked(), [] as [PathBuf; 0]);
    check(&made, &image).await;
}

#[tokio::test]
async fn a_sandbox_in_stock_has_its_image_like_any_other() {
    let made = Made::new();
    let native = Arc::new(Native::with(|config| config.with_image_cache(made.cache()).with_pool(1)));
    let spec = of(&made.layout());
    native.driver().prepare(&spec).await.unwrap();
    assert_eq!(native.driver().remove_images(Duration::ZERO).unwrap(), 0, "what is in stock has it too");
    let (sandboxes, session) = created(&native, spec).await.unwrap();
    check_inside(&*session).await;
    sandboxes.destroy(session.id()).await.unwrap();
}

#[tokio::test]
async fn an_image_that_is_not_what_it_says_is_refused_and_leaves_nothing() {
    let made = Made::new();
    let native = made.native();
    let image = made.layout();
    let refused = async |part: &str| {
        let Err(error) = created(&native, of(&image)).await else { panic!("{part}: it runs") };
        let text = format!("{:?}", error);
        assert!(text.contains(part), "{part}: {text}");
        assert_eq!(made.unpacked(), [] as [PathBuf; 0], "{part}");
    };
    let first = image.join("blobs/sha256").join(hex(&gzip(&made.layers[0])));
    let sound = fs::read(&first).unwrap();
    // Whole, and another: only the digest tells.
    fs::write(&first, gzip(&tar(&[("odd/bin/tool", b"#!/bin/sh", 0o755)]))).unwrap();
    refused("another digest").await;
    fs::write(&first, &sound[..sound.len() / 2]).unwrap();
    refused("layer").await;
    fs::remove_file(&first).unwrap();
    refused("it has no readable").await;
    std::os::unix::fs::symlink("/etc/passwd", &first).unwrap();
    refused("it has no readable").await;
    fs::remove_file(&first).unwrap();
    fs::write(&first, sound).unwrap();
    check(&made, &image).await;
}

#[tokio::test]
async fn what_a_crash_left_of_an_image_is_removed() {
    let made = Made::new();
    let native = made.native();
    check(&made, &made.layout()).await;
    let half = made.cache().join(format!(".new-{}", SandboxId::random()));
    fs::create_dir_all(half.join("root/etc")).unwrap();
    assert_eq!(made.unpacked().len(), 2);
    drop(NativeDriver::new(config(native.state.path()).with_image_cache(made.cache())).unwrap());
    assert_eq!(made.unpacked().len(), 1);
}

#[tokio::test]
async fn a_root_folder_is_shown_as_it_is() {
    let made = Made::new();
    let root = made.home.path().join("root");
    for layer in &made.layers {
        tar::Archive::new(&layer[..]).unpack(&root).unwrap();
    }
    let native = made.native();
    let path = root.join("odd/bin");
    let spec = of(&root).with_env("PATH", format!("/{}", path.strip_prefix(&root).unwrap().display()));
    let (sandboxes, session) = created(&native, spec).await.unwrap();
    let output = session.exec(Command::new(["tool", "--version"])).await.unwrap().collect(1000).await.unwrap();
    assert!(output.exit.success());
    session.write_file("/odd/theirs", "1".into(), 0o644).await.unwrap_err();
    sandboxes.destroy(session.id()).await.unwrap();
    assert!(!made.cache().exists(), "nothing was unpacked");
}

#[tokio::test]
async fn an_image_with_a_name_is_one_of_a_folder_and_others_are_refused_with_what_to_give() {
    let made = Made::new();
    let images = made.home.path().join("images");
    fs::create_dir_all(images.join("team")).unwrap();
    fs::copy(made.archive("x.tar", plain), images.join("team/tools:1.tar")).unwrap();
    let named = |name: &str| SandboxSpec::default().with_image(name.parse().unwrap());
    let native = Arc::new(Native::with(|it| it.with_image_cache(made.cache()).with_images(&images)));
    let (sandboxes, session) = created(&native, named("team/tools:1")).await.unwrap();
    check_inside(&*session).await;
    sandboxes.destroy(session.id()).await.unwrap();
    for (native, name, told) in [
        (native.clone(), "team/tools:2", "there is no team/tools:2"),
        (native.clone(), "team/../../layout", "there is no"),
        (Arc::new(Native::new()), "python:3.11-slim", "absolute path of a root folder"),
        (native.clone(), "/nowhere/at/all", "/nowhere/at/all does not lie in"),
        (native.clone(), "/", "does not lie in"),
        (native.clone(), &format!("{}/../layout", images.display()), "does not lie in"),
        (Arc::new(Native::new()), "/nowhere/at/all", "/nowhere/at/all"),
    ] {
        match created(&native, named(name)).await {
            Err(SessionError::Unsupported { what, reason }) => {
                assert!(what == "that image" && reason.contains(told), "{name}: {what}: {reason}")
            }
            other => panic!("{name}: {other:?}"),
        }
    }
    let by_path = images.join("team/tools:1.tar");
    let (sandboxes, session) = created(&native, of(&by_path)).await.unwrap();
    sandboxes.destroy(session.id()).await.unwrap();
    let nothing = images.join("nothing");
    File::create(&nothing).unwrap();
    assert!(format!("{:?}", created(&native, of(&nothing)).await.unwrap_err()).contains("it is no image"));
}
