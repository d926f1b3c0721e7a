//! Images: found, pulled, or built.

use std::{collections::HashSet, io, path::Path};

use astraforge_core::{BoxError, error::chain};
use bollard::{
    errors::Error,
    models::ProgressDetail,
    query_parameters::{BuildImageOptionsBuilder, CreateImageOptionsBuilder},
};
use bytes::Bytes;
use futures::{Stream, StreamExt};
use tokio::sync::Mutex;

use super::{
    engine::{Engine, found, is_status},
    settings::DockerConfig,
    spec::unsupported,
};
use crate::driver::DriverError;

/// Makes sure that images are there, each one once at a time.
#[derive(Debug, Default)]
pub(super) struct Images {
    /// Held by whoever pulls or builds; what was pulled meanwhile is found.
    work: Mutex<()>,
}

impl Images {
    /// Makes sure that the engine has `image`: pulls it, or builds it where it is the default one and no registry has it.
    pub(super) async fn ensure(&self, engine: &Engine, config: &DockerConfig, image: &str) -> Result<(), DriverError> {
        if is_there(engine, image).await? {
            return Ok(());
        }
        let _turn = self.work.lock().await;
        if is_there(engine, image).await? {
            return Ok(());
        }
        let Err(reason) = pull(engine, image).await else { return Ok(()) };
        let is_default = super::reference::of(&config.image).is_ok_and(|default| default == image);
        match &config.build_context {
            Some(folder) if is_default => {
                tracing::warn!(image, reason, folder = %folder.display(), "no registry has the image: building it");
                build(engine, image, folder).await.map_err(|error| {
                    let reason = format!("{reason}; building it from {} failed: {error}", folder.display());
                    unsupported(&format!("the image {image}"), reason)
                })
            }
            _ => Err(unsupported(
                &format!("the image {image}"),
                format!(
                    "{reason}; give it to the engine with `docker pull`, `docker load` or `docker build`, or name another one"
                ),
            )),
        }
    }
}

/// Tells whether the engine has `image`.
pub(super) async fn is_there(engine: &Engine, image: &str) -> Result<bool, DriverError> {
    let answer = found(engine.0.inspect_image(image).await);
    answer.map(|it| it.is_some()).map_err(|error| unsupported(&format!("the image {image}"), chain(&error)))
}

/// Pulls an image. The error is the reason, in words.
async fn pull(engine: &Engine, image: &str) -> Result<(), String> {
    tracing::info!(image, "pulling an image");
    let options = CreateImageOptionsBuilder::new().from_image(image).build();
    let steps = engine.0.create_image(Some(options), None, None);
    let steps = steps.map(|step| {
        let step = step?;
        Ok(Step {
            layer: step.id,
            status: step.status,
            progress: step.progress_detail,
            error: step.error_detail.and_then(|it| it.message),
        })
    });
    follow(image, steps).await.map_err(|error| match error {
        Failure::Engine(error) if is_status(&error, 404) || is_status(&error, 403) => {
            format!("no registry that the engine asks has it, or it may not be pulled ({})", chain(&error))
        }
        Failure::Engine(error) => {
            format!("it is not on this machine, and the engine cannot pull it ({})", chain(&error))
        }
        Failure::Told(reason) => format!("it is not on this machine, and the engine cannot pull it ({reason})"),
    })
}

/// Builds an image from the folder of its `Dockerfile`.
async fn build(engine: &Engine, image: &str, folder: &Path) -> Result<(), BoxError> {
    let owned = folder.to_owned();
    let context = tokio::task::spawn_blocking(move || pack(&owned)).await??;
    let options = BuildImageOptionsBuilder::new().dockerfile("Dockerfile").t(image).rm(true).forcerm(true).build();
    let steps = engine.0.build_image(options, None, Some(bollard::body_full(Bytes::from(context))));
    let steps = steps.map(|step| {
        let step = step?;
        let status = step.status.or(step.stream);
        Ok(Step {
            layer: step.id,
            status,
            progress: step.progress_detail,
            error: step.error_detail.and_then(|it| it.message),
        })
    });
    match follow(image, steps).await {
        Ok(()) => Ok(()),
        Err(Failure::Engine(error)) => Err(error.into()),
        Err(Failure::Told(reason)) => Err(reason.into()),
    }
}

/// One line of the engine's report.
struct Step {
    layer: Option<String>,
    status: Option<String>,
    progress: Option<ProgressDetail>,
    error: Option<String>,
}

enum Failure {
    Engine(Error),
    Told(String),
}

/// Tells the log how it goes, each stage of each layer once.
async fn follow(image: &str, steps: impl Stream<Item = Result<Step, Error>>) -> Result<(), Failure> {
    let mut told = HashSet::new();
    let mut steps = std::pin::pin!(steps);
    while let Some(step) = steps.next().await {
        let Step { layer, status, progress, error } = step.map_err(Failure::Engine)?;
        if let Some(error) = error {
            return Err(Failure::Told(error));
        }
        let (layer, status) = (layer.unwrap_or_default(), status.unwrap_or_default());
        let status = status.trim();
        let bytes = progress.and_then(|it| it.total);
        if !status.is_empty() && told.insert((layer.clone(), status.to_owned())) {
            tracing::info!(image, layer, bytes, "{status}");
        }
    }
    Ok(())
}

/// A folder as an archive.
fn pack(folder: &Path) -> io::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    archive.follow_symlinks(false);
    archive.append_dir_all(".", folder)?;
    archive.into_inner()
}
