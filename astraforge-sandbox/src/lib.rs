//! Isolated sandboxes for agents.
//!
//! [`Sandboxes`](sandboxes::Sandboxes) implements the core port
//! [`Sessions`](astraforge_core::ports::sessions::Sessions) over any [`SandboxDriver`](driver::SandboxDriver). The one
//! that needs no daemon, no image and no root is the [`NativeDriver`](native::NativeDriver).
//!
//! ```no_run
//! use std::{path::Path, sync::Arc};
//!
//! use astraforge_core::{
//!     id::SandboxId,
//!     ports::sessions::Sessions,
//!     session::{Command, SandboxSpec},
//! };
//! use astraforge_sandbox::{
//!     native::{NativeConfig, NativeDriver, guest_binary::GuestBinary},
//!     sandboxes::Sandboxes,
//! };
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let state = Path::new("/var/lib/my-service/sandboxes");
//! // Beside this executable, or built into it; `cargo install astraforge-guest` makes one.
//! let guest = GuestBinary::find(None, state)?;
//! let driver = NativeDriver::new(NativeConfig::new(state, guest.path()))?;
//! let sandboxes = Sandboxes::new(Arc::new(driver));
//!
//! let id = SandboxId::random();
//! let session = sandboxes.create(id, SandboxSpec::default(), Vec::new()).await?;
//! let output = session.exec(Command::new(["id", "--user"])).await?.collect(1024).await?;
//! assert_eq!(output.stdout, b"1000\n");
//! sandboxes.destroy(id).await?;
//! # Ok(()) }
//! ```

mod archive;
#[cfg(feature = "attack")]
pub mod attack;
pub mod connect;
pub mod container;
#[cfg(feature = "docker")]
pub mod docker;
#[cfg(feature = "native")]
pub mod doctor;
pub mod driver;
pub mod egress;
pub mod guest;
#[cfg(feature = "k8s")]
pub mod kubernetes;
#[cfg(feature = "native")]
pub mod native;
mod oom;
pub mod plain;
pub mod sandboxes;
#[cfg(feature = "testing")]
pub mod testing;
mod tree;
mod usage;
