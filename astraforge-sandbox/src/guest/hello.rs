//! The handshake: both sides say who they are before anything else.
//!
//! A greeting is eight bytes of magic, the protocol's version (four bytes, big endian), and a header with the rest.
//! Magic and version never move, so that any two versions can tell each other apart.

use std::{io, time::Duration};

use futures::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::{
    frame::ProtocolError,
    header::{read_header, write_header},
};

/// The version of the protocol this crate speaks.
const PROTOCOL: u32 = 3;
const MAGIC: [u8; 8] = *b"\x00AFguest";
const MAX_GREETING: usize = 1024;
/// How long the peer may take to greet.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why no connection to a guest came to be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// The peer speaks another version of the protocol.
    #[error(
        "the guest speaks protocol {theirs}, this host {ours}: start the sandbox with the guest of this host's version"
    )]
    Version {
        /// The version of this side.
        ours: u32,
        /// The version of the peer.
        theirs: u32,
    },
    /// What answers is no AstraForge peer.
    #[error("what answers is not an AstraForge guest")]
    NotAGuest,
    /// Nothing answered in time.
    #[error("the guest did not greet within {} s", PATIENCE.as_secs())]
    Silent,
    /// The greeting was cut short or is malformed.
    #[error("the handshake with the guest failed")]
    Broken(#[source] ProtocolError),
}

/// What a host says of itself.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct HostGreeting {
    /// Whether this connection takes service calls.
    pub(super) serves: bool,
}

/// What a guest says of itself.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct GuestGreeting {
    /// The version of the guest's software.
    pub(super) version: String,
}

/// Greets a guest.
pub(super) async fn greet_guest(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    greeting: &HostGreeting,
) -> Result<GuestGreeting, HandshakeError> {
    let exchange = async {
        send(stream, greeting).await?;
        receive(stream).await
    };
    timeout(PATIENCE, exchange).await.map_err(|_| HandshakeError::Silent)?
}

/// Answers a host. The version goes out before the host's is judged, so that the host can say what is wrong.
pub(super) async fn greet_host(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
) -> Result<HostGreeting, HandshakeError> {
    let greeting = GuestGreeting { version: env!("CARGO_PKG_VERSION").to_owned() };
    let exchange = async {
        send(stream, &greeting).await?;
        receive(stream).await
    };
    timeout(PATIENCE, exchange).await.map_err(|_| HandshakeError::Silent)?
}

async fn send(stream: &mut (impl AsyncWrite + Unpin), greeting: &impl Serialize) -> Result<(), HandshakeError> {
    let mut head = [0; 12];
    head[..8].copy_from_slice(&MAGIC);
    head[8..].copy_from_slice(&PROTOCOL.to_be_bytes());
    stream.write_all(&head).await.map_err(broken)?;
    write_header(stream, greeting, MAX_GREETING).await.map_err(HandshakeError::Broken)
}

async fn receive<T: serde::de::DeserializeOwned>(stream: &mut (impl AsyncRead + Unpin)) -> Result<T, HandshakeError> {
    let mut magic = [0; 8];
    stream.read_exact(&mut magic).await.map_err(broken)?;
    if magic != MAGIC {
        return Err(HandshakeError::NotAGuest);
    }
    let mut version = [0; 4];
    stream.read_exact(&mut version).await.map_err(broken)?;
    match u32::from_be_bytes(version) {
        PROTOCOL => read_header(stream, MAX_GREETING).await.map_err(HandshakeError::Broken),
        theirs => Err(HandshakeError::Version { ours: PROTOCOL, theirs }),
    }
}

fn broken(error: io::Error) -> HandshakeError {
    HandshakeError::Broken(error.into())
}

#[cfg(test)]
mod tests {
    use tokio_util::compat::TokioAsyncReadCompatExt;

    use super::*;

    #[tokio::test]
    async fn host_and_guest_learn_who_the_other_is() {
        let (host, guest) = tokio::io::duplex(4096);
        let (mut host, mut guest) = (host.compat(), guest.compat());
        let greeting = HostGreeting { serves: true };
        let (at_host, at_guest) = futures::join!(greet_guest(&mut host, &greeting), greet_host(&mut guest));
        assert_eq!(at_host.unwrap().version, env!("CARGO_PKG_VERSION"));
        assert!(at_guest.unwrap().serves);
    }

    /// Greets a peer that answers with `answer` and hangs up.
    async fn refusal(answer: &[u8]) -> String {
        let (host, guest) = tokio::io::duplex(4096);
        let (mut host, mut guest) = (host.compat(), guest.compat());
        guest.write_all(answer).await.unwrap();
        guest.close().await.unwrap();
        greet_guest(&mut host, &HostGreeting { serves: false }).await.unwrap_err().to_string()
    }

    #[tokio::test]
    async fn a_stranger_is_refused_with_the_reason() {
        let other = [&MAGIC[..], &7_u32.to_be_bytes()].concat();
        assert!(refusal(&other).await.contains(&format!("speaks protocol 7, this host {PROTOCOL}")));
        assert!(refusal(b"SSH-2.0-OpenSSH_9.2\r\n").await.contains("not an AstraForge guest"));
        let cut_short = [&MAGIC[..], &PROTOCOL.to_be_bytes(), b"\xff\xff\xff\xff"].concat();
        assert!(refusal(&cut_short).await.contains("handshake"));
        assert!(refusal(b"").await.contains("handshake"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_peer_is_given_up() {
        let (host, _guest) = tokio::io::duplex(4096);
        let greeting = HostGreeting { serves: false };
        let result = greet_guest(&mut host.compat(), &greeting).await;
        assert!(matches!(result, Err(HandshakeError::Silent)));
    }
}
