//! The engine: reached, asked, and its answers sorted into what can be acted on.

use std::{collections::HashMap, time::Duration};

use astraforge_core::{BoxError, error::chain, id::SandboxId};
use bollard::{
    API_DEFAULT_VERSION, Docker,
    errors::Error,
    models::{ContainerCreateBody, ContainerInspectResponse, ContainerSummary},
    query_parameters::{
        CreateContainerOptionsBuilder, ListContainersOptionsBuilder, ListVolumesOptionsBuilder, LogsOptionsBuilder,
        RemoveContainerOptionsBuilder, RemoveVolumeOptionsBuilder, UploadToContainerOptionsBuilder,
    },
};
use bytes::Bytes;
use futures::StreamExt;
use tokio::time::{Instant, sleep};

use super::settings::DockerConfig;
use crate::driver::DriverError;

/// How long the engine may take to answer; pulls and builds are no answers.
const PATIENCE_SECONDS: u64 = 90;

/// How long the engine may take to be done with what it is removing already.
const REMOVAL: Duration = Duration::from_secs(30);

/// The local engine, unless another one is named.
const LOCAL: &str = "unix:///var/run/docker.sock";

/// A container engine.
#[derive(Debug, Clone)]
pub(super) struct Engine(pub(super) Docker);

impl Engine {
    /// Reaches the engine and agrees on a version of its interface.
    pub(super) async fn reach(config: &DockerConfig) -> Result<Self, DriverError> {
        let host = config.host.as_deref().unwrap_or(LOCAL);
        let unreachable = |error: Error| DriverError::Unsupported {
            what: "docker sandboxes".to_owned(),
            reason: format!(
                "no container engine answers at {host} ({}); start it, or name another one with DOCKER_HOST",
                chain(&error)
            ),
        };
        let client = match host.strip_prefix("unix://") {
            Some(path) => Docker::connect_with_unix(path, PATIENCE_SECONDS, API_DEFAULT_VERSION),
            None => Docker::connect_with_http(host, PATIENCE_SECONDS, API_DEFAULT_VERSION),
        };
        let client = client.map_err(unreachable)?;
        Ok(Self(client.negotiate_version().await.map_err(unreachable)?))
    }

    /// What there is under the name or id of a container.
    pub(super) async fn inspect(&self, container: &str) -> Result<Option<ContainerInspectResponse>, Error> {
        found(self.0.inspect_container(container, None).await)
    }

    /// Containers with these labels, whatever their state.
    pub(super) async fn containers(
        &self,
        filter: &HashMap<String, Vec<String>>,
    ) -> Result<Vec<ContainerSummary>, Error> {
        let options = ListContainersOptionsBuilder::new().all(true).filters(filter).build();
        self.0.list_containers(Some(options)).await
    }

    /// Makes a container; it is not started.
    pub(super) async fn create(&self, name: &str, body: ContainerCreateBody) -> Result<(), Error> {
        let options = CreateContainerOptionsBuilder::new().name(name).build();
        let made = self.0.create_container(Some(options), body).await?;
        for warning in made.warnings {
            tracing::debug!(container = name, warning, "the engine has a remark");
        }
        Ok(())
    }

    /// Kills and removes a container, with the nameless volumes of its image. One that is not there is fine. When it
    /// returns, no process of it is left.
    pub(super) async fn remove(&self, container: &str) -> Result<(), Error> {
        let began = Instant::now();
        loop {
            let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
            match found(self.0.remove_container(container, Some(options)).await) {
                // Somebody else is at it; only its end is an end.
                Err(error) if is_conflict(&error) && began.elapsed() < REMOVAL => {
                    sleep(Duration::from_millis(50)).await
                }
                removed => return removed.map(drop),
            }
        }
    }

    /// Removes a volume. One that is not there is fine.
    pub(super) async fn remove_volume(&self, name: &str) -> Result<(), Error> {
        let options = RemoveVolumeOptionsBuilder::new().force(true).build();
        found(self.0.remove_volume(name, Some(options)).await).map(drop)
    }

    /// Labels of a volume, if there is one.
    pub(super) async fn volume(&self, name: &str) -> Result<Option<HashMap<String, String>>, Error> {
        Ok(found(self.0.inspect_volume(name).await)?.map(|volume| volume.labels))
    }

    /// Labels of the volumes that have certain ones.
    pub(super) async fn volumes(
        &self,
        filter: &HashMap<String, Vec<String>>,
    ) -> Result<Vec<HashMap<String, String>>, Error> {
        let options = ListVolumesOptionsBuilder::new().filters(filter).build();
        let volumes = self.0.list_volumes(Some(options)).await?.volumes.unwrap_or_default();
        Ok(volumes.into_iter().map(|volume| volume.labels).collect())
    }

    /// Puts an archive into a container, below `/`.
    pub(super) async fn upload(&self, container: &str, archive: Vec<u8>) -> Result<(), Error> {
        let options = UploadToContainerOptionsBuilder::new().path("/").build();
        self.0.upload_to_container(container, Some(options), bollard::body_full(Bytes::from(archive))).await
    }

    /// The last that a container wrote, and how it ended, in one line.
    pub(super) async fn last_words(&self, container: &str) -> String {
        let state = self.inspect(container).await.ok().flatten().and_then(|it| it.state);
        let state = state.map_or_else(
            || "it is gone".to_owned(),
            |state| match (state.running, state.oom_killed, state.exit_code) {
                (Some(true), ..) => "it runs".to_owned(),
                (_, Some(true), _) => "it ran out of memory".to_owned(),
                (.., code) => format!("it ended with exit code {}", code.unwrap_or_default()),
            },
        );
        let options = LogsOptionsBuilder::new().stdout(true).stderr(true).tail("5").build();
        let lines = self.0.logs(container, Some(options)).take(5).collect::<Vec<_>>().await;
        let lines: Vec<String> =
            lines.into_iter().filter_map(|it| Some(it.ok()?.to_string().trim().to_owned())).collect();
        if lines.is_empty() { state } else { format!("{state}: {}", lines.join("; ")) }
    }
}

/// Turns the answer that something is not there into none.
pub(super) fn found<T>(answer: Result<T, Error>) -> Result<Option<T>, Error> {
    match answer {
        Ok(it) => Ok(Some(it)),
        Err(error) if is_status(&error, 404) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Tells whether the name is taken, or something is in use or in the wrong state.
pub(super) fn is_conflict(error: &Error) -> bool {
    is_status(error, 409)
}

pub(super) fn is_status(error: &Error, status: u16) -> bool {
    matches!(error, Error::DockerResponseServerError { status_code, .. } if *status_code == status)
}

/// A failure of the engine at `operation` on sandbox `id`.
pub(super) fn failed(operation: &'static str, id: SandboxId, source: impl Into<BoxError>) -> DriverError {
    DriverError::Backend { operation, id, source: source.into() }
}
