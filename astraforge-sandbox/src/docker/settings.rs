//! What a Docker driver is told: which engine, whose sandboxes, and how they are closed in.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use astraforge_core::image::Image;

use crate::{container::AGENT, driver::Access};

/// Name of the bridge that [`Network::Isolated`] stands for.
pub const ISOLATED: &str = "astraforge-sandbox";

/// Which engine runs sandboxes, whose they are, and how they are closed in.
///
/// ```
/// use astraforge_sandbox::docker::{DockerConfig, Network};
///
/// let config = DockerConfig::new("production", "/usr/lib/astraforge/astraforge-guest", "python:3.11-slim".parse()?);
/// assert_eq!(config.network, Network::None);
/// # Ok::<(), astraforge_core::image::ParseImageError>(())
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct DockerConfig {
    /// Where the engine answers: `unix:///var/run/docker.sock` or `tcp://host:port`; `None` is the local one.
    pub host: Option<String>,
    /// Whose sandboxes these are. A driver sees, adopts and removes those of its owner alone.
    pub owner: String,
    /// The guest program.
    pub guest: PathBuf,
    /// How sandboxes are reached; `None` is through the guest, unless the engine's machines are of another architecture
    /// than this one.
    pub access: Option<Access>,
    /// The image of sandboxes that ask for none.
    pub image: Image,
    /// A folder with the `Dockerfile` of that image, to build it from where no registry has it.
    pub build_context: Option<PathBuf>,
    /// Who commands run as.
    pub user: ContainerUser,
    /// The network of sandboxes that may reach public addresses. All others have none.
    pub network: Network,
    /// Whether such sandboxes find the engine's host under the name `host.docker.internal`.
    pub host_gateway: HostGateway,
    /// Which system calls the engine lets through.
    pub seccomp: Seccomp,
    /// Whether the image's own files can be changed.
    pub root: RootFiles,
    /// More folders in memory, beside `/tmp`, `/run`, the home folder and `/dev/shm`.
    pub tmpfs: Vec<PathBuf>,
    /// The most processes any sandbox may have, in bounds of which a sandbox's own limit lies.
    pub max_processes: u32,
    /// What the names of volumes begin with.
    pub volume_prefix: String,
    /// The engine's runtime, `runsc` for instance; `None` is its default.
    pub runtime: Option<String>,
}

impl DockerConfig {
    /// Sandboxes of `owner` on the local engine, without a network.
    pub fn new(owner: impl Into<String>, guest: impl Into<PathBuf>, image: Image) -> Self {
        Self {
            host: None,
            owner: owner.into(),
            guest: guest.into(),
            access: None,
            image,
            build_context: None,
            user: ContainerUser::default(),
            network: Network::None,
            host_gateway: HostGateway::Hidden,
            seccomp: Seccomp::Default,
            root: RootFiles::ReadOnly,
            tmpfs: Vec::new(),
            max_processes: 512,
            volume_prefix: "astraforge-sandbox-".to_owned(),
            runtime: None,
        }
    }

    /// Sets where the engine answers.
    #[must_use]
    pub fn with_host(mut self, host: impl Into<String>) -> Self {
        self.host = Some(host.into());
        self
    }
}

/// Who commands run as, in numbers: `1000:1000` unless set. Names mean something else in every image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContainerUser {
    /// The user's id.
    pub uid: u32,
    /// The group's id.
    pub gid: u32,
}

impl Default for ContainerUser {
    fn default() -> Self {
        Self { uid: AGENT, gid: AGENT }
    }
}

impl fmt::Display for ContainerUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.uid, self.gid)
    }
}

impl FromStr for ContainerUser {
    type Err = SettingError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || SettingError(format!("`{text}` is no user: write uid or uid:gid in numbers, such as 1000:1000"));
        let (uid, gid) = text.split_once(':').unwrap_or((text, text));
        Ok(Self { uid: uid.parse().map_err(|_| wrong())?, gid: gid.parse().map_err(|_| wrong())? })
    }
}

/// The network of sandboxes that may reach public addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Network {
    /// None: the way out is the gateway, through the guest.
    None,
    /// A bridge of its own, [`ISOLATED`], on which sandboxes cannot reach each other. What else it reaches, private
    /// addresses of the host's networks for instance, is the engine's to decide.
    Isolated,
    /// One that exists, by name.
    Named(String),
}

impl FromStr for Network {
    type Err = SettingError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let sound = text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c));
        match text {
            "" | "none" => Ok(Self::None),
            ISOLATED => Ok(Self::Isolated),
            "host" => Err(SettingError("sandboxes never share the host's network: name another one".to_owned())),
            name if sound => Ok(Self::Named(name.to_owned())),
            _ => Err(SettingError(format!("`{text}` is no name of a network"))),
        }
    }
}

/// Whether sandboxes on a network find the engine's host by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostGateway {
    /// They do, as `host.docker.internal`.
    Named,
    /// They don't.
    Hidden,
}

/// Whether the image's own files can be changed in a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RootFiles {
    /// They cannot.
    ReadOnly,
    /// They can, by whoever the image lets.
    Writable,
}

/// Which system calls the engine lets through. The guest's own filter holds in any case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seccomp {
    /// What the engine thinks right.
    Default,
    /// All.
    Unconfined,
    /// What a profile says, which is JSON.
    Profile(String),
}

impl Seccomp {
    /// Reads the setting: empty or `default`, `unconfined`, or the path of a profile on this machine.
    ///
    /// # Errors
    /// When the profile can't be read or is no JSON.
    pub fn read(text: &str) -> Result<Self, SettingError> {
        match text {
            "" | "default" => return Ok(Self::Default),
            "unconfined" => return Ok(Self::Unconfined),
            _ => {}
        }
        let profile = std::fs::read_to_string(Path::new(text))
            .map_err(|error| SettingError(format!("the seccomp profile {text} cannot be read: {error}")))?;
        serde_json::from_str::<serde::de::IgnoredAny>(&profile)
            .map_err(|error| SettingError(format!("the seccomp profile {text} is no JSON: {error}")))?;
        Ok(Self::Profile(profile))
    }
}

/// A setting that means nothing, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SettingError(String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_numbers_and_networks_never_the_hosts() {
        assert_eq!("1000".parse(), Ok(ContainerUser { uid: 1000, gid: 1000 }));
        assert_eq!("5:6".parse(), Ok(ContainerUser { uid: 5, gid: 6 }));
        for text in ["", "root", "1:", ":1", "1:2:3", "-1"] {
            assert!(text.parse::<ContainerUser>().is_err(), "{text}");
        }
        assert_eq!("none".parse(), Ok(Network::None));
        assert_eq!(ISOLATED.parse(), Ok(Network::Isolated));
        assert_eq!("office".parse(), Ok(Network::Named("office".to_owned())));
        for text in ["host", "container:abc", "--privileged", "a b"] {
            assert!(text.parse::<Network>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_seccomp_profile_is_read_and_must_be_json() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("profile.json");
        std::fs::write(&path, "{\"defaultAction\": 1}").unwrap();
        let text = path.to_str().unwrap();
        assert_eq!(Seccomp::read(text), Ok(Seccomp::Profile("{\"defaultAction\": 1}".to_owned())));
        std::fs::write(&path, "nonsense").unwrap();
        assert!(Seccomp::read(text).is_err());
        assert!(Seccomp::read("/nowhere").unwrap_err().to_string().contains("/nowhere"));
        assert_eq!(Seccomp::read("default"), Ok(Seccomp::Default));
    }
}
