//! Files that are taken out of a sandbox, and links to them: what outlives it.

use super::{engine::Engine, transfer::keep};
use crate::{
    access::{Action, Caller},
    download_link::LinkClaim,
    error::ForgeError,
    files::DownloadRequest,
    id::{ArtifactId, SandboxId},
    ports::artifacts::ArtifactStream,
    sandbox::{Artifact, Sandbox},
};

/// The longest that a link may be of use, in seconds: a week.
const MAX_LINK: u32 = 7 * 24 * 3600;

/// A file that is to be taken out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewExport {
    /// Its absolute path in the sandbox.
    pub path: String,
    /// The name it is offered under; the last part of its path, if `None` or empty.
    pub filename: Option<String>,
    /// What it holds; `application/octet-stream` unless set.
    pub content_type: String,
}

impl NewExport {
    /// The file at `path`, under its own name.
    pub fn new(path: impl Into<String>) -> Self {
        Self { path: path.into(), filename: None, content_type: "application/octet-stream".to_owned() }
    }
}

/// A link that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedLink {
    /// What its holder may do.
    pub claim: LinkClaim,
    /// That it was made here.
    pub proof: String,
}

impl SignedLink {
    /// The path and query of the route that takes it, below the server's address.
    #[must_use]
    pub fn path_and_query(&self) -> String {
        let LinkClaim { tenant, artifact, expires } = &self.claim;
        let tenant: String = tenant.as_str().bytes().map(query_byte).collect();
        format!("/api/sandbox/artifacts/{artifact}/download/?tenant={tenant}&expires={expires}&proof={}", self.proof)
    }
}

fn query_byte(byte: u8) -> String {
    if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
        char::from(byte).to_string()
    } else {
        format!("%{byte:02X}")
    }
}

impl Engine {
    pub(super) async fn export(
        &self,
        caller: &Caller,
        id: SandboxId,
        NewExport { path, filename, content_type }: NewExport,
    ) -> Result<Artifact, ForgeError> {
        let machine = self.machine(caller, id).await?;
        let roots = self.find(caller, id).await?.spec.roots;
        let request = DownloadRequest { roots, path: path.clone(), offset: 0, limit: None };
        let bytes = machine.download(request).await?;
        let artifact = ArtifactId::random();
        let key = format!("artifacts/{id}/{artifact}");
        let (size, sha256) = keep(self.artifacts.as_ref(), &key, bytes).await?;
        let own = || path.rsplit('/').find(|part| !part.is_empty()).map(str::to_owned);
        let name = filename.filter(|name| !name.is_empty()).or_else(own).unwrap_or_else(|| "download".to_owned());
        let artifact = Artifact {
            id: artifact,
            sandbox: id,
            tenant: caller.tenant.clone(),
            filename: name.chars().filter(|c| !c.is_control()).take(255).collect(),
            content_type,
            path,
            key,
            size,
            sha256,
            created_at: self.clock.now(),
        };
        self.store.add_artifact(&artifact).await?;
        Ok(artifact)
    }

    pub(super) async fn artifacts(&self, caller: &Caller, id: SandboxId) -> Result<Vec<Artifact>, ForgeError> {
        self.find_even_deleted(caller, id).await?;
        Ok(self.store.artifacts(id).await?)
    }

    /// Finds a sandbox whose artifacts are wanted: those of one that was deleted are still there.
    pub(super) async fn find_even_deleted(&self, caller: &Caller, id: SandboxId) -> Result<Sandbox, ForgeError> {
        caller.may(Action::Read)?;
        let sandbox = self.store.sandbox(id).await?.filter(|sandbox| sandbox.tenant == caller.tenant);
        sandbox.ok_or(ForgeError::NoSandbox { id })
    }

    pub(super) async fn artifact(
        &self,
        caller: &Caller,
        id: ArtifactId,
    ) -> Result<(Artifact, ArtifactStream), ForgeError> {
        caller.may(Action::Read)?;
        let artifact = self.find_artifact(caller, id).await?;
        let bytes = self.bytes_of(&artifact.key, &artifact.sha256).await?;
        Ok((artifact, bytes))
    }

    pub(super) async fn link(&self, caller: &Caller, id: ArtifactId, seconds: u32) -> Result<SignedLink, ForgeError> {
        caller.may(Action::Read)?;
        self.link_to(&self.find_artifact(caller, id).await?, seconds)
    }

    pub(super) fn link_to(&self, artifact: &Artifact, seconds: u32) -> Result<SignedLink, ForgeError> {
        if !(1..=MAX_LINK).contains(&seconds) {
            let message = format!("a link is of use for 1 to {MAX_LINK} seconds");
            return Err(ForgeError::Invalid { field: "expires", message });
        }
        let key = self.settings.link_key.as_ref();
        let key = key.ok_or_else(|| ForgeError::conflict("this control plane has no key that signs links"))?;
        let expires = self.clock.now().timestamp() + i64::from(seconds);
        let claim = LinkClaim { tenant: artifact.tenant.clone(), artifact: artifact.id, expires };
        let proof = key.sign(&claim);
        Ok(SignedLink { claim, proof })
    }

    pub(super) async fn download(
        &self,
        claim: &LinkClaim,
        proof: &str,
    ) -> Result<(Artifact, ArtifactStream), ForgeError> {
        let unknown = || ForgeError::not_found("A file for this link, which is not valid or has expired,");
        let key = self.settings.link_key.as_ref().ok_or_else(unknown)?;
        key.check(claim, proof, self.clock.now()).map_err(|_| unknown())?;
        let artifact = self.store.artifact(&claim.tenant, claim.artifact).await?.ok_or_else(unknown)?;
        let bytes = self.bytes_of(&artifact.key, &artifact.sha256).await?;
        Ok((artifact, bytes))
    }

    async fn find_artifact(&self, caller: &Caller, id: ArtifactId) -> Result<Artifact, ForgeError> {
        let found = self.store.artifact(&caller.tenant, id).await?;
        found.ok_or_else(|| ForgeError::not_found(format!("Artifact {id}")))
    }
}
