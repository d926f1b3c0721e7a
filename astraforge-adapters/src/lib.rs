//! AstraForge's ports made real: one module and one feature each.
//!
//! | port of the core | here |
//! |---|---|
//! | `Store`, `SandboxStore`, `AuditLog` | [`sqlite`] or `postgres`, over [`sql`] |
//! | `GitBroker`, `VcsProvider` | [`git`], [`local`] |
//! | `ModelUpstream`, `Reviewer` | [`models`] |
//! | `PolicyEngine` | [`rego`] |
//! | `IdentityProvider` | `oidc` |
//! | `Wakeups` | [`wakeup`], `postgres` or `redis` |
//! | `ArtifactStore`, `Clock` | [`artifacts`] or `s3`, [`clock`] |
//!
//! ```
//! use astraforge_adapters::{secret_box::SecretKey, sqlite::SqliteStore};
//! use astraforge_core::{id::TenantId, ports::store::Store};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let folder = tempfile::tempdir()?;
//! let key = SecretKey::load_or_create(folder.path().join("secret.key"))?;
//! let store = SqliteStore::open(folder.path().join("astraforge.db"), key).await?;
//! assert!(store.requests(&TenantId::new("acme")).await?.is_empty());
//! # Ok(()) }
//! ```

pub mod artifacts;
pub mod clock;
#[cfg(feature = "git")]
pub mod git;
#[cfg(feature = "git")]
pub mod local;
#[cfg(feature = "models")]
pub mod models;
#[cfg(feature = "oidc")]
pub mod oidc;
#[cfg(feature = "postgres")]
pub mod postgres;
#[cfg(feature = "redis")]
pub mod redis;
#[cfg(feature = "rego")]
pub mod rego;
#[cfg(feature = "s3")]
pub mod s3;
#[cfg(any(feature = "oidc", feature = "sql"))]
pub mod secret_box;
#[cfg(feature = "sql")]
pub mod sql;
#[cfg(feature = "sqlite")]
pub mod sqlite;
pub mod wakeup;
