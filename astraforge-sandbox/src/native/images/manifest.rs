//! What an image says of itself: which layers it has, and with which settings its programs are to run.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// The longest manifest, index or configuration, in bytes.
pub(super) const MAX_JSON: u64 = 4 << 20;
/// Layers of one image.
const MAX_LAYERS: usize = 512;
/// Variables of an image's environment.
const MAX_VARIABLES: usize = 1024;
/// How deep an index may name another.
const MAX_INDEXES: usize = 4;

/// A SHA-256 digest, as images spell it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(super) struct Digest([u8; 32]);

impl Digest {
    pub(super) fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    pub(super) fn from_hash(hash: Sha256) -> Self {
        Self(hash.finalize().into())
    }

    /// The digest in lower-case hexadecimal digits.
    pub(super) fn hex(&self) -> String {
        use std::fmt::Write;
        self.0.iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    }

    fn from_hex(hex: &str) -> Option<Self> {
        let digits = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
        if hex.len() != 64 || !hex.bytes().all(digits) {
            return None;
        }
        let byte = |i: usize| u8::from_str_radix(hex.get(2 * i..2 * i + 2)?, 16).ok();
        let bytes: Option<Vec<u8>> = (0..32).map(byte).collect();
        bytes?.try_into().ok().map(Self)
    }
}

impl TryFrom<String> for Digest {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let hex = text.strip_prefix("sha256:").and_then(Self::from_hex);
        hex.ok_or_else(|| format!("`{}` is no sha256 digest", text.chars().take(80).collect::<String>()))
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        format!("sha256:{}", digest.hex())
    }
}

/// A part of an image, by the name that it has in its layout or archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Blob {
    pub(super) name: String,
    /// What it must hash to, where that is said.
    pub(super) digest: Option<Digest>,
}

impl Blob {
    fn of(digest: Digest) -> Self {
        Self { name: format!("blobs/sha256/{}", digest.hex()), digest: Some(digest) }
    }

    /// One that `docker save` wrote: where its name is a digest, it has to be true.
    fn named(name: String) -> Self {
        let file = name.rsplit('/').next().unwrap_or_default();
        let digest = Digest::from_hex(file.strip_suffix(".json").unwrap_or(file));
        Self { name, digest }
    }
}

/// An image's parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Manifest {
    pub(super) config: Blob,
    /// The lowest first.
    pub(super) layers: Vec<Blob>,
}

/// What an image's programs expect.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Settings {
    /// The environment, `PATH` included.
    pub(crate) env: BTreeMap<String, String>,
}

/// An image's configuration, as far as it matters here.
#[derive(Debug)]
pub(super) struct Config {
    /// The digest of the configuration, and so of the image: it names what every layer holds.
    pub(super) id: Digest,
    /// What each layer hashes to once it is decompressed, the lowest first.
    pub(super) layers: Vec<Digest>,
    pub(super) settings: Settings,
}

/// Returns the manifest that an OCI layout's index leads to. `read` returns a blob whose digest was verified.
pub(super) fn from_index(
    index: &[u8],
    read: &mut dyn FnMut(&Blob) -> Result<Vec<u8>, String>,
) -> Result<Manifest, String> {
    let mut json = index.to_vec();
    for _ in 0..MAX_INDEXES {
        let index: Index = parse("an index", &json)?;
        let chosen = choose(index.manifests)?;
        json = read(&Blob::of(chosen))?;
        let manifest: OciManifest = parse("a manifest", &json)?;
        if let Some(config) = manifest.config {
            let layers = manifest.layers.into_iter().map(|it| Blob::of(it.digest)).collect();
            return checked(Manifest { config: Blob::of(config.digest), layers });
        }
    }
    Err("its indexes name each other too often".to_owned())
}

/// Returns the manifest of what `docker save` wrote.
pub(super) fn from_docker(json: &[u8]) -> Result<Manifest, String> {
    let mut images: Vec<DockerManifest> = parse("manifest.json", json)?;
    images.dedup();
    match (images.pop(), images.len()) {
        (Some(image), 0) => checked(Manifest {
            config: Blob::named(image.config),
            layers: image.layers.into_iter().map(Blob::named).collect(),
        }),
        (None, _) => Err("it holds no image".to_owned()),
        (Some(_), n_others) => Err(format!("it holds {} images; save one of them alone", n_others + 1)),
    }
}

/// Understands a configuration, which must be for this machine.
pub(super) fn config(json: &[u8]) -> Result<Config, String> {
    let config: OciConfig = parse("its configuration", json)?;
    let platform = Platform { os: config.os, architecture: config.architecture };
    if !platform.fits() {
        return Err(format!("it is for {platform}, and this machine is linux/{}", architecture()));
    }
    let env = config.config.unwrap_or_default().env.unwrap_or_default();
    let sound = |(name, value): &(&str, &str)| !name.is_empty() && ![name, value].iter().any(|it| it.contains('\0'));
    let env = env.iter().take(MAX_VARIABLES).filter_map(|it| it.split_once('=')).filter(sound);
    let env = env.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    Ok(Config { id: Digest::of(json), layers: config.rootfs.diff_ids, settings: Settings { env } })
}

fn checked(manifest: Manifest) -> Result<Manifest, String> {
    if manifest.layers.len() > MAX_LAYERS {
        return Err(format!("it has {} layers, more than {MAX_LAYERS}", manifest.layers.len()));
    }
    Ok(manifest)
}

/// Chooses the one image that is for this machine.
fn choose(manifests: Vec<Descriptor>) -> Result<Digest, String> {
    let n_all = manifests.len();
    let fits = |it: &Descriptor| it.platform.as_ref().is_none_or(Platform::fits);
    let mut fitting: Vec<_> = manifests.into_iter().filter(fits).map(|it| it.digest).collect();
    fitting.dedup();
    match (fitting.pop(), fitting.len()) {
        (Some(digest), 0) => Ok(digest),
        (None, _) => Err(format!("none of its {n_all} images is for linux/{}", architecture())),
        (Some(_), n_others) => Err(format!("it holds {} images; save one of them alone", n_others + 1)),
    }
}

fn parse<'a, T: Deserialize<'a>>(what: &str, json: &'a [u8]) -> Result<T, String> {
    serde_json::from_slice(json).map_err(|error| format!("{what} is not understood: {error}"))
}

/// This machine's architecture, as images spell it.
const fn architecture() -> &'static str {
    if cfg!(target_arch = "x86_64") {
        "amd64"
    } else if cfg!(target_arch = "aarch64") {
        "arm64"
    } else {
        std::env::consts::ARCH
    }
}

#[derive(Debug, Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

#[derive(Debug, Deserialize)]
struct Descriptor {
    digest: Digest,
    platform: Option<Platform>,
}

#[derive(Debug, Deserialize)]
struct Platform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
}

impl Platform {
    fn fits(&self) -> bool {
        let is = |said: &str, wanted| said.is_empty() || said == wanted;
        is(&self.os, "linux") && is(&self.architecture, architecture())
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let printable = |text: &str| text.chars().filter(char::is_ascii_graphic).take(40).collect::<String>();
        write!(f, "{}/{}", printable(&self.os), printable(&self.architecture))
    }
}

/// A manifest, or an index that stands in its place: then there is no configuration.
#[derive(Debug, Deserialize)]
struct OciManifest {
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
}

#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerManifest {
    config: String,
    layers: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct OciConfig {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    config: Option<Run>,
    rootfs: RootFs,
}

#[derive(Debug, Default, Deserialize)]
struct Run {
    #[serde(rename = "Env")]
    env: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
struct RootFs {
    diff_ids: Vec<Digest>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(n: u8) -> String {
        Digest([n; 32]).into()
    }

    #[test]
    fn an_index_leads_to_the_image_of_this_machine() {
        let manifest = format!(
            r#"{{"config":{{"digest":"{}"}},"layers":[{{"digest":"{}"}},{{"digest":"{}"}}]}}"#,
            digest(1),
            digest(2),
            digest(3)
        );
        let index = format!(
            r#"{{"manifests":[
                {{"digest":"{}","platform":{{"os":"linux","architecture":"s390x"}}}},
                {{"digest":"{}","platform":{{"os":"linux","architecture":"{}"}}}},
                {{"digest":"{}","platform":{{"os":"unknown","architecture":"unknown"}}}}]}}"#,
            digest(7),
            digest(8),
            architecture(),
            digest(9)
        );
        let mut read = |blob: &Blob| {
            assert_eq!(blob.name, format!("blobs/sha256/{}", "08".repeat(32)));
            Ok(manifest.clone().into_bytes())
        };
        let found = from_index(index.as_bytes(), &mut read).unwrap();
        assert_eq!(found.config.name, format!("blobs/sha256/{}", "01".repeat(32)));
        assert_eq!(found.layers.len(), 2);
    }

    #[test]
    fn an_index_that_leads_nowhere_or_to_several_is_refused() {
        let one = |n| format!(r#"{{"digest":"{}"}}"#, digest(n));
        let mut same = |_: &Blob| Ok(format!(r#"{{"manifests":[{}]}}"#, one(1)).into_bytes());
        let error = from_index(format!(r#"{{"manifests":[{}]}}"#, one(1)).as_bytes(), &mut same).unwrap_err();
        assert!(error.contains("too often"), "{error}");
        let several = format!(r#"{{"manifests":[{},{}]}}"#, one(1), one(2));
        let error = from_index(several.as_bytes(), &mut same).unwrap_err();
        assert!(error.contains("2 images; save one"), "{error}");
        for json in [r#"{"manifests":[]}"#, "{}", "", r#"{"manifests":[{"digest":"sha256:../../etc/passwd"}]}"#] {
            from_index(json.as_bytes(), &mut same).unwrap_err();
        }
    }

    #[test]
    fn a_docker_archive_names_its_parts() {
        let hex = "0a".repeat(32);
        let json = format!(r#"[{{"Config":"{hex}.json","RepoTags":["x:1"],"Layers":["abc/layer.tar"]}}]"#);
        let found = from_docker(json.as_bytes()).unwrap();
        assert_eq!(found.config.digest, Some(Digest([10; 32])));
        assert_eq!(found.layers, [Blob { name: "abc/layer.tar".to_owned(), digest: None }]);
        assert!(from_docker(b"[]").unwrap_err().contains("no image"));
    }

    #[test]
    fn a_configuration_is_checked_against_the_machine_and_its_environment_is_read() {
        let of = |architecture: &str, env: &str| {
            config(
                format!(
                    r#"{{"os":"linux","architecture":"{architecture}","config":{{"Env":{env}}},
                    "rootfs":{{"type":"layers","diff_ids":["{}"]}}}}"#,
                    digest(5)
                )
                .as_bytes(),
            )
        };
        let found = of(architecture(), r#"["PATH=/a:/b","X=1=2","broken","=y","Z=\u0000"]"#).unwrap();
        let env: Vec<_> = found.settings.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(env, ["PATH=/a:/b", "X=1=2"]);
        assert_eq!(found.layers, [Digest([5; 32])]);
        assert!(of("s390x", "[]").unwrap_err().contains("it is for linux/s390x"));
        assert_eq!(of(architecture(), "null").unwrap().settings, Settings::default());
    }
}
