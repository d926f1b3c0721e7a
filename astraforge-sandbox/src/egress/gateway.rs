//! The gateway of one sandbox: takes a connection, sees what it speaks, and makes the connections it may make.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use astraforge_core::{
    egress::{Egress, EgressEvent},
    id::SandboxId,
    ports::guest_service::{GuestService, GuestStream},
};
use async_trait::async_trait;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::Semaphore,
    time::timeout,
};
use tokio_util::{
    compat::{Compat, FuturesAsyncReadCompatExt},
    sync::CancellationToken,
};

use super::{
    EgressSettings,
    client::Client,
    flows::{Flows, Upstream},
    http_proxy,
    policy::{Policy, Refusal},
    socks, socks_proxy,
    target::{Host, Target},
};

/// Connections of one sandbox that may be open at once. Its guest forwards more, so other services have room.
const MAX_CONNECTIONS: usize = 96;
/// Lookups of one sandbox that may be under way at once.
const MAX_LOOKUPS: usize = 8;

/// How long the gateway waits for others.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// For a client to say what it wants.
    pub(super) greeting: Duration,
    /// For a name to be looked up.
    pub(super) lookup: Duration,
    /// For one address to answer, and for all of them together.
    pub(super) connect: (Duration, Duration),
    /// For anything to move on a connection.
    pub(super) idle: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            greeting: Duration::from_secs(15),
            lookup: Duration::from_secs(10),
            connect: (Duration::from_secs(10), Duration::from_secs(30)),
            idle: Duration::from_secs(600),
        }
    }
}

/// What a client's stream is, once it came to the gateway.
pub(super) type Inside = Client<Compat<GuestStream>>;

/// The way out of one sandbox; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Gateway {
    settings: EgressSettings,
    flows: Flows,
    room: Arc<Semaphore>,
    lookups: Arc<Semaphore>,
}

impl Gateway {
    /// The way out of `sandbox`, which may reach `egress`.
    pub(crate) fn new(sandbox: SandboxId, settings: &EgressSettings, egress: Egress) -> Self {
        let policy = Policy::new(egress, Arc::clone(&settings.networks));
        Self {
            settings: settings.clone(),
            flows: Flows::new(sandbox, policy, settings.audit.clone()),
            room: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            lookups: Arc::new(Semaphore::new(MAX_LOOKUPS)),
        }
    }

    /// Changes what may be reached; open connections that are no longer allowed are cut before this returns.
    pub(crate) fn set(&self, egress: Egress) {
        self.flows.set(egress, &self.settings.networks);
    }

    /// What may be reached.
    pub(crate) fn egress(&self) -> Egress {
        self.flows.policy().egress().clone()
    }

    /// The last connections that were tried, oldest first.
    pub(crate) fn events(&self) -> Vec<EgressEvent> {
        self.flows.events()
    }
}

#[async_trait]
impl GuestService for Gateway {
    async fn serve(&self, stream: GuestStream) {
        let mut client = Client::new(stream.compat());
        let patience = self.settings.patience;
        let Ok(_place) = self.room.try_acquire() else {
            let busy = http_proxy::too_many(MAX_CONNECTIONS);
            drop(timeout(patience.greeting, client.write_all(busy.as_bytes())).await);
            return;
        };
        let (pulse, cut) = (client.pulse(), CancellationToken::new());
        let visit = Visit { gateway: self.clone(), cut: cut.clone() };
        tokio::select! {
            biased;
            () = cut.cancelled() => {}
            () = pulse.stops(patience.idle) => {}
            () = visit.serve(client) => {}
        }
    }
}

/// One connection of a program inside; whatever it leads to ends with it.
#[derive(Debug, Clone)]
pub(super) struct Visit {
    gateway: Gateway,
    cut: CancellationToken,
}

/// Why no connection was made.
#[derive(Debug, Clone)]
pub(super) enum NoWay {
    /// The policy forbids it.
    Refused(Refusal),
    /// There is no such host.
    Unknown(String),
    /// It does not answer.
    Unanswered(String),
    /// It refuses the connection.
    Closed(String),
}

impl Visit {
    pub(super) fn patience(&self) -> Patience {
        self.gateway.settings.patience
    }

    pub(super) fn policy(&self) -> Policy {
        self.gateway.flows.policy()
    }

    /// Remembers a refusal of something that was never looked up.
    pub(super) fn refused(&self, host: &str, port: u16, refusal: &Refusal) {
        self.gateway.flows.refused(host, port, refusal);
    }

    async fn serve(self, mut client: Inside) {
        let mut first = [0];
        match timeout(self.patience().greeting, client.read_exact(&mut first)).await {
            Ok(Ok(_)) => client.put_back(first.to_vec()),
            _ => return,
        }
        if first[0] == socks::VERSION {
            socks_proxy::serve(self, client).await;
        } else {
            http_proxy::serve_proxy(self, client).await;
        }
    }

    /// Makes the connection, if it may be made: the name is looked up once, and nothing but what was found then is
    /// connected to.
    pub(super) async fn dial(&self, target: &Target) -> Result<Upstream, NoWay> {
        let flows = &self.gateway.flows;
        let refuse = |refusal: Refusal| {
            flows.refused(&target.host.to_string(), target.port, &refusal);
            NoWay::Refused(refusal)
        };
        let policy = flows.policy();
        policy.judge(target).map_err(refuse)?;
        let addresses = self.look_up(target).await.inspect_err(|no_way| flows.failed(target, no_way.reason()))?;
        let outside = &self.gateway.settings.outside;
        let pinned = policy.pin(target, &addresses, &|address| outside.is_own(address)).map_err(refuse)?;
        let flow = flows.enter(target, &self.cut).map_err(refuse)?;
        let (each, all) = self.patience().connect;
        let attempt = async {
            let mut failed = NoWay::Unknown(format!("`{}` has no address", target.host));
            for address in pinned {
                match timeout(each, outside.connect(SocketAddr::new(address, target.port))).await {
                    Ok(Ok(stream)) => return Ok((stream, address)),
                    Ok(Err(error)) => failed = unconnected(target, &error),
                    Err(_) => failed = NoWay::Unanswered(format!("`{target}` did not answer at {address}")),
                }
            }
            Err(failed)
        };
        let late = || Err(NoWay::Unanswered(format!("`{target}` did not answer")));
        match timeout(all, attempt).await.unwrap_or_else(|_| late()) {
            Ok((stream, address)) => Ok(flow.carry(stream, address)),
            Err(no_way) => {
                flow.fail(no_way.reason());
                Err(no_way)
            }
        }
    }

    async fn look_up(&self, target: &Target) -> Result<Vec<std::net::IpAddr>, NoWay> {
        let name = match &target.host {
            Host::Address(address) => return Ok(vec![*address]),
            Host::Name(name) => name,
        };
        let found = async {
            let _place = self.gateway.lookups.acquire().await.map_err(std::io::Error::other)?;
            self.gateway.settings.outside.resolve(name).await
        };
        match timeout(self.patience().lookup, found).await {
            Ok(Ok(addresses)) if !addresses.is_empty() => Ok(addresses),
            Ok(Ok(_)) => Err(NoWay::Unknown(format!("`{name}` has no address"))),
            Ok(Err(error)) => Err(NoWay::Unknown(format!("`{name}` could not be looked up: {error}"))),
            Err(_) => Err(NoWay::Unknown(format!("`{name}` could not be looked up in time"))),
        }
    }
}

fn unconnected(target: &Target, error: &std::io::Error) -> NoWay {
    let text = format!("`{target}` could not be connected to: {error}");
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => NoWay::Closed(text),
        _ => NoWay::Unanswered(text),
    }
}

impl NoWay {
    /// What went wrong, in a sentence without its dot.
    pub(super) fn reason(&self) -> &str {
        match self {
            Self::Refused(_) => "the policy forbids it",
            Self::Unknown(reason) | Self::Unanswered(reason) | Self::Closed(reason) => reason,
        }
    }
}
