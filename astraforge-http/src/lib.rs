//! AstraForge over HTTP: the wire types, the axum server (feature `server`) and the typed client (feature `client`).
//!
//! [`server::router`] serves a [`Forge`](astraforge_core::forge::Forge); [`client::Client`] talks to such a server. Both
//! share the bodies in [`wire`], so that what one writes the other reads.

#[cfg(feature = "client")]
pub mod client;
#[cfg(feature = "server")]
pub mod server;
pub mod wire;

#[cfg(feature = "client")]
pub use self::client::{Client, ClientError};
#[cfg(feature = "server")]
pub use self::server::{AppState, auth::mint_api_key, router};
