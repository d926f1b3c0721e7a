//! Workspaces on volumes: whose they are, and how a new one comes to belong to the agent.

use std::io;

use astraforge_core::{BoxError, id::SandboxId, ports::machines::WorkspaceOrigin};

use super::{
    engine::Engine,
    names,
    settings::{ContainerUser, DockerConfig},
    spec,
};
use crate::container::WORKSPACE;

/// Tells whether an earlier sandbox left a workspace.
pub(super) async fn origin(engine: &Engine, config: &DockerConfig, id: SandboxId) -> Result<WorkspaceOrigin, BoxError> {
    let name = names::workspace(&config.volume_prefix, id);
    match engine.volume(&name).await? {
        None => Ok(WorkspaceOrigin::Fresh),
        Some(labels) if names::is_owned(&labels, &config.owner) => Ok(WorkspaceOrigin::Kept),
        Some(_) => Err(format!("the volume {name} belongs to somebody else").into()),
    }
}

/// Makes the volume and gives it to the agent, through a container that is never started.
///
/// That container stays until the sandbox's own is made: as long as it is there, the volume was never used.
pub(super) async fn prepare(
    engine: &Engine,
    config: &DockerConfig,
    id: SandboxId,
    image: &str,
    maker: &str,
) -> Result<(), BoxError> {
    let container = names::preparation(id);
    let mount = spec::workspace_volume(config, id);
    let mut labels = names::labels(&config.owner, id);
    labels.insert(names::MAKER.to_owned(), maker.to_owned());
    let body = spec::preparation(image, labels, vec![mount]);
    engine.create(&container, body).await?;
    Ok(engine.upload(&container, archive(config.user)?).await?)
}

/// Removes the workspace of a sandbox, if it is the owner's.
pub(super) async fn remove(engine: &Engine, config: &DockerConfig, id: SandboxId) -> Result<(), BoxError> {
    let name = names::workspace(&config.volume_prefix, id);
    match engine.volume(&name).await? {
        Some(labels) if names::is_owned(&labels, &config.owner) => Ok(engine.remove_volume(&name).await?),
        _ => Ok(()),
    }
}

/// The folder alone, with its owner.
fn archive(user: ContainerUser) -> io::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Directory);
    header.set_mode(0o755);
    header.set_uid(user.uid.into());
    header.set_gid(user.gid.into());
    header.set_size(0);
    archive.append_data(&mut header, WORKSPACE.trim_start_matches('/'), io::empty())?;
    archive.into_inner()
}
