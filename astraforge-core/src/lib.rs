//! The domain of AstraForge: from a plain-language request to a reviewed merge request, with nothing plugged in.
//!
//! A [`Forge`](forge::Forge) carries out [commands](command), each through a tower service of its own; a
//! [`Worker`](worker::Worker) does the work that they queue. What both need from outside (a store, an agent, git, a
//! policy) are the [ports]; this crate knows no database, no HTTP and no runtime.
//!
//! ```
//! use astraforge_core::{
//!     access::Role,
//!     command::{ApproveChange, Start, SubmitRequest},
//!     forge::{Forge, Settings},
//!     request::RequestState,
//!     testing::Spine,
//!     worker::Worker,
//! };
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // Ports in memory, with an agent that always changes one file. A real program brings its own.
//! let spine = Spine::new().await;
//! let forge = Forge::new(spine.ports(Settings::default()));
//! let worker = Worker::new(forge.clone());
//!
//! let caller = spine.caller("ada", Role::Maintainer);
//! let request = forge
//!     .submit(SubmitRequest {
//!         caller: caller.clone(),
//!         id: None,
//!         prompt: "Cache the loader results".parse()?,
//!         repository: spine.link.id,
//!         source: "direct_user".to_owned(),
//!         sender: String::new(),
//!         attachments: Vec::new(),
//!         start: Start::Now,
//!     })
//!     .await?;
//! worker.drain().await?;
//!
//! // Nothing leaves before a person approved exactly what they saw.
//! let change = forge.store().latest_change_set(request.id).await?.expect("the agent changed a file");
//! forge.approve(ApproveChange { caller: caller.clone(), request: request.id, digest: Some(change.digest) }).await?;
//! worker.drain().await?;
//!
//! let request = forge.store().request(&caller.tenant, request.id).await?.expect("it was submitted");
//! assert_eq!(request.state, RequestState::Reviewed);
//! # Ok(()) }
//! ```

pub mod access;
pub mod account;
pub mod archive;
pub mod audit;
pub mod cancel;
pub mod command;
pub mod control_plane;
pub mod diff;
pub mod download_link;
pub mod egress;
pub mod error;
pub mod event;
mod facade;
pub mod files;
pub mod forge;
pub mod git;
pub mod id;
pub mod idempotency;
pub mod identity;
pub mod image;
pub mod job;
pub mod journal;
pub mod merge_request;
pub mod node;
pub mod page;
pub mod policy;
pub mod ports;
pub mod process;
pub mod redact;
pub mod registry;
pub mod repository;
pub mod request;
pub mod retention;
pub mod review;
pub mod run;
pub mod run_log;
pub mod sandbox;
pub mod schedule;
pub mod screen;
pub mod session;
pub mod sweep;
#[cfg(feature = "testing")]
pub mod testing;
mod usecases;
mod wiring;
pub mod worker;

/// An error of any type, as tower's middleware passes it on.
pub type BoxError = Box<dyn std::error::Error + Send + Sync + 'static>;
