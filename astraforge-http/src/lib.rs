//! AstraForge over HTTP: the wire types, the axum server (feature `server`) and the typed client (feature `client`).
//!
//! [`server::router`] serves a [`Forge`](astraforge_core::forge::Forge), on a [`server::Server`]; [`client::Client`] talks to such a server. Both
//! share the bodies in [`wire`], so that what one writes the other reads.
//!
//! ```
//! use astraforge_core::{
//!     forge::{Forge, Settings},
//!     testing::Spine,
//! };
//! use astraforge_http::{AppState, router, server::Server};
//! use axum::{Router, routing::get};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // Ports in memory; a real program brings its own.
//! let forge = Forge::new(Spine::new().await.ports(Settings::default()));
//! let app: Router = router(AppState::builder(forge).build()).route("/", get(|| async { "my own page" }));
//!
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
//! let server = Server::new(listener, app);
//! # let stop = std::future::ready(());
//! # server.run_until(stop).await;
//! # #[cfg(any())]
//! server.run().await;
//! # Ok(()) }
//! ```

#[cfg(feature = "client")]
pub mod client;
#[cfg(feature = "server")]
pub mod server;
pub mod wire;

#[cfg(feature = "client")]
pub use self::client::{Client, ClientError};
#[cfg(feature = "server")]
pub use self::server::{AppState, auth::mint_api_key, router};
