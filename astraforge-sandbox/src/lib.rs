//! Isolated sandboxes for agents.
//!
//! [`Sandboxes`](sandboxes::Sandboxes) implements the core port
//! [`Sessions`](astraforge_core::ports::sessions::Sessions) over any [`SandboxDriver`](driver::SandboxDriver).

#[cfg(feature = "native")]
pub mod doctor;
pub mod driver;
pub mod guest;
#[cfg(feature = "native")]
pub mod native;
pub mod sandboxes;
#[cfg(feature = "testing")]
pub mod testing;
