//! Options of the Docker driver, under the names that they have always had.

use std::path::{Path, PathBuf};

use anyhow::Context;
use astraforge_core::image::Image;
use astraforge_sandbox::docker::{ContainerUser, DockerConfig, HostGateway, Network, RootFiles, Seccomp};
use clap::{ArgAction, Args, builder::BoolishValueParser};

use crate::config::given;

/// How sandboxes run on a Docker engine.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Sandboxes on Docker")]
pub(crate) struct DockerArgs {
    /// Where the engine answers [default: unix:///var/run/docker.sock]
    #[arg(long, global = true, env = "DOCKER_HOST", value_name = "ADDRESS")]
    docker_host: Option<String>,
    /// Folder with the Dockerfile of the default image, to build it from where no registry has it
    #[arg(long, global = true, env = "CODEX_CLI_BUILD_CONTEXT", value_name = "FOLDER")]
    docker_build_context: Option<PathBuf>,
    /// Network of sandboxes that may reach public addresses: none, astraforge-sandbox (one that keeps them apart), or
    /// the name of another [default: CODEX_WORKSPACE_NETWORK, else none]
    #[arg(long, global = true, env = "SANDBOX_DOCKER_NETWORK", value_name = "NETWORK")]
    docker_network: Option<Network>,
    /// Network of sandboxes, where SANDBOX_DOCKER_NETWORK is not set
    #[arg(long, global = true, env = "CODEX_WORKSPACE_NETWORK", hide = true)]
    codex_workspace_network: Option<Network>,
    /// Sandboxes on a network find the engine's host as host.docker.internal
    #[arg(long, global = true, env = "SANDBOX_DOCKER_HOST_GATEWAY", value_name = "BOOL", default_value = "false",
          action = ArgAction::Set, value_parser = BoolishValueParser::new())]
    docker_host_gateway: bool,
    /// What the engine lets through: empty or default, unconfined, or the file of a seccomp profile
    #[arg(long, global = true, env = "SANDBOX_DOCKER_SECCOMP", value_name = "PROFILE", default_value = "default",
          value_parser = Seccomp::read)]
    docker_seccomp: Seccomp,
    /// The most processes that a sandbox may have; empty is no limit but the sandbox's own
    #[arg(long, global = true, env = "SANDBOX_DOCKER_PIDS_LIMIT", value_name = "N", default_value = "512",
          value_parser = processes)]
    docker_pids_limit: u32,
    /// The image's own files cannot be changed
    #[arg(long, global = true, env = "SANDBOX_DOCKER_READ_ONLY", value_name = "BOOL", default_value = "true",
          action = ArgAction::Set, value_parser = BoolishValueParser::new())]
    docker_read_only: bool,
    /// More folders in memory, separated by semicolons; mount options after a colon are the driver's own to choose
    #[arg(long, global = true, env = "SANDBOX_DOCKER_TMPFS", value_name = "FOLDERS", value_delimiter = ';',
          value_parser = folder)]
    docker_tmpfs: Vec<PathBuf>,
    /// Who commands run as, in numbers
    #[arg(long, global = true, env = "SANDBOX_DOCKER_USER", value_name = "UID[:GID]", default_value = "1000:1000")]
    docker_user: ContainerUser,
    /// Workspaces on disk are volumes of one session each; nothing else is offered
    #[arg(long, global = true, env = "SANDBOX_DOCKER_VOLUME_MODE", value_name = "MODE", default_value = "session",
          value_parser = ["session"])]
    docker_volume_mode: String,
    /// What the names of volumes begin with
    #[arg(long, global = true, env = "SANDBOX_DOCKER_VOLUME_PREFIX", value_name = "PREFIX",
          default_value = "astraforge-sandbox-", value_parser = prefix)]
    docker_volume_prefix: String,
    /// The engine's runtime, runsc for instance [default: the engine's own]
    #[arg(long, global = true, env = "SANDBOX_DOCKER_RUNTIME", value_name = "NAME")]
    docker_runtime: Option<String>,
}

impl DockerArgs {
    /// The driver's configuration, for sandboxes of `owner`.
    pub(crate) fn config(&self, owner: String, guest: &Path, image: Image) -> anyhow::Result<DockerConfig> {
        let mut config = DockerConfig::new(owner, guest, image);
        config.host.clone_from(&self.docker_host);
        if let Some(folder) = &self.docker_build_context {
            let absolute = std::path::absolute(folder).with_context(|| format!("{} is no path", folder.display()))?;
            config.build_context = Some(absolute);
        }
        config.network = self.docker_network.clone().or(self.codex_workspace_network.clone()).unwrap_or(Network::None);
        config.host_gateway = if self.docker_host_gateway { HostGateway::Named } else { HostGateway::Hidden };
        config.seccomp = self.docker_seccomp.clone();
        config.max_processes = self.docker_pids_limit;
        config.root = if self.docker_read_only { RootFiles::ReadOnly } else { RootFiles::Writable };
        config.tmpfs.clone_from(&self.docker_tmpfs);
        config.user = self.docker_user;
        config.volume_prefix.clone_from(&self.docker_volume_prefix);
        config.runtime = given(self.docker_runtime.as_deref()).map(str::to_owned);
        Ok(config)
    }
}

fn processes(text: &str) -> Result<u32, String> {
    match text {
        "" => Ok(u32::MAX),
        _ => text.parse().ok().filter(|n| *n > 0).ok_or_else(|| format!("`{text}` is no number of processes")),
    }
}

/// A folder, with the mount options that older settings have after it.
fn folder(text: &str) -> Result<PathBuf, String> {
    let path = text.split(':').next().unwrap_or_default();
    if path.starts_with('/') { Ok(path.into()) } else { Err(format!("`{text}` is no absolute path")) }
}

/// What an engine takes as the beginning of a name.
fn prefix(text: &str) -> Result<String, String> {
    let sound = text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c));
    if sound { Ok(text.to_owned()) } else { Err(format!("`{text}` is no beginning of a name")) }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        docker: DockerArgs,
    }

    fn read(words: &[&str]) -> Result<DockerConfig, String> {
        let line = Line::try_parse_from(["x"].iter().chain(words)).map_err(|error| error.to_string())?;
        let image = "busybox".parse().unwrap();
        Ok(line.docker.config("owner".to_owned(), Path::new("/guest"), image).unwrap())
    }

    #[test]
    fn older_settings_mean_what_they_meant() {
        let config = read(&[
            "--docker-tmpfs=/tmp:rw,nosuid,nodev;/var/cache",
            "--docker-seccomp=",
            "--docker-pids-limit=",
            "--docker-read-only=0",
            "--codex-workspace-network=office",
            "--docker-user=5",
            "--docker-host-gateway=1",
            "--docker-volume-prefix=mine-",
            "--docker-build-context=/src",
        ])
        .unwrap();
        assert_eq!(config.tmpfs, [Path::new("/tmp"), Path::new("/var/cache")]);
        assert_eq!(config.seccomp, Seccomp::Default);
        assert_eq!(config.max_processes, u32::MAX);
        assert_eq!(config.root, RootFiles::Writable);
        assert_eq!(config.network, Network::Named("office".to_owned()));
        assert_eq!(config.user, ContainerUser { uid: 5, gid: 5 });
        assert_eq!(config.host_gateway, HostGateway::Named);
        assert_eq!(config.volume_prefix, "mine-");
        assert_eq!(config.build_context.as_deref(), Some(Path::new("/src")));
        let both = read(&["--docker-network=one", "--codex-workspace-network=other"]).unwrap();
        assert_eq!(both.network, Network::Named("one".to_owned()));
    }

    #[test]
    fn what_weakens_a_sandbox_unseen_is_refused() {
        for word in [
            "--docker-network=host",
            "--docker-volume-mode=user",
            "--docker-user=root",
            "--docker-pids-limit=0",
            "--docker-tmpfs=relative",
            "--docker-volume-prefix=-x",
            "--docker-seccomp=/nowhere.json",
        ] {
            assert!(read(&[word]).is_err(), "{word}");
        }
        assert_eq!(read(&[]).unwrap().network, Network::None);
    }
}
