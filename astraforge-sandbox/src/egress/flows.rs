//! The connections of one sandbox to the outside: which are open, what became of those that are not, and the policy
//! that all of them are under.

use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use astraforge_core::{
    egress::{Egress, EgressEvent, EgressOutcome},
    id::SandboxId,
    ports::egress_audit::EgressAudit,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_util::sync::CancellationToken;

use super::{
    policy::{Networks, Policy, Refusal},
    target::Target,
};

/// How many events are remembered.
const MAX_EVENTS: usize = 512;
/// The longest host that is remembered, in characters.
const MAX_HOST: usize = 253;

/// Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Flows(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    sandbox: SandboxId,
    audit: Option<Arc<dyn EgressAudit>>,
    state: Mutex<State>,
}

/// All under one lock: no connection slips in between the change of a policy and the cutting of what it forbids.
#[derive(Debug)]
struct State {
    policy: Policy,
    open: HashMap<u64, Open>,
    next: u64,
    events: VecDeque<EgressEvent>,
}

/// A connection, and what ends it.
#[derive(Debug)]
struct Open {
    target: Target,
    cut: CancellationToken,
}

impl Flows {
    pub(super) fn new(sandbox: SandboxId, policy: Policy, audit: Option<Arc<dyn EgressAudit>>) -> Self {
        let state = State { policy, open: HashMap::new(), next: 0, events: VecDeque::new() };
        Self(Arc::new(Shared { sandbox, audit, state: Mutex::new(state) }))
    }

    /// The policy as it is now.
    pub(super) fn policy(&self) -> Policy {
        self.0.lock().policy.clone()
    }

    /// Changes what may be reached, and cuts what no longer may.
    pub(super) fn set(&self, egress: Egress, networks: &Arc<Networks>) {
        let mut state = self.0.lock();
        if *state.policy.egress() == egress {
            return;
        }
        let policy = Policy::new(egress, Arc::clone(networks));
        let mut cut = Vec::new();
        for open in state.open.values() {
            if let Err(refusal) = policy.judge(&open.target) {
                open.cut.cancel();
                cut.push((open.target.clone(), refusal));
            }
        }
        state.policy = policy;
        drop(state);
        for (target, refusal) in cut {
            let outcome = EgressOutcome::Refused { reason: format!("it was cut: {refusal}") };
            self.note(&target.host.to_string(), target.port, outcome);
        }
    }

    /// Enters a connection that is about to be made; `cut` is cancelled when it is no longer allowed.
    pub(super) fn enter(&self, target: &Target, cut: &CancellationToken) -> Result<Flow, Refusal> {
        let mut state = self.0.lock();
        state.policy.judge(target)?;
        let number = state.next;
        state.next += 1;
        state.open.insert(number, Open { target: target.clone(), cut: cut.clone() });
        let (flows, at) = (self.clone(), chrono::Utc::now());
        Ok(Flow { flows, number, at, target: target.clone(), address: None, failed: None, sent: 0, received: 0 })
    }

    /// Remembers a refusal.
    pub(super) fn refused(&self, host: &str, port: u16, refusal: &Refusal) {
        self.note(host, port, EgressOutcome::Refused { reason: refusal.to_string() });
    }

    /// Remembers a connection that could not be made.
    pub(super) fn failed(&self, target: &Target, reason: &str) {
        self.note(&target.host.to_string(), target.port, EgressOutcome::Failed { reason: reason.to_owned() });
    }

    /// The last connections, oldest first.
    pub(super) fn events(&self) -> Vec<EgressEvent> {
        self.0.lock().events.iter().cloned().collect()
    }

    fn note(&self, host: &str, port: u16, outcome: EgressOutcome) {
        self.remember(EgressEvent { at: chrono::Utc::now(), host: printable(host), port, outcome });
    }

    fn remember(&self, event: EgressEvent) {
        tracing::debug!(sandbox.id = %self.0.sandbox, host = event.host, port = event.port, outcome = ?event.outcome, "egress");
        if let Some(audit) = &self.0.audit {
            audit.note(self.0.sandbox, &event);
        }
        let mut state = self.0.lock();
        if state.events.len() == MAX_EVENTS {
            state.events.pop_front();
        }
        state.events.push_back(event);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // No code panics while it holds the state, and it is whole between any two of its calls.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a sandbox wrote, fit to be shown.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_HOST).collect()
}

/// One connection; when it goes, what became of it is remembered.
#[derive(Debug)]
pub(super) struct Flow {
    flows: Flows,
    number: u64,
    at: chrono::DateTime<chrono::Utc>,
    target: Target,
    address: Option<IpAddr>,
    failed: Option<String>,
    sent: u64,
    received: u64,
}

impl Flow {
    /// Notes why it could not be made.
    pub(super) fn fail(mut self, reason: &str) {
        self.failed = Some(reason.to_owned());
    }

    /// Puts the connection that was made under it.
    pub(super) fn carry(mut self, stream: TcpStream, address: IpAddr) -> Upstream {
        self.address = Some(address);
        Upstream { stream, flow: self }
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.flows.0.lock().open.remove(&self.number);
        let (sent, received) = (self.sent, self.received);
        let outcome = match (self.failed.take(), self.address) {
            (Some(reason), _) => EgressOutcome::Failed { reason },
            (None, Some(address)) => EgressOutcome::Allowed { address, sent, received },
            (None, None) => EgressOutcome::Failed { reason: "it was given up before it was made".to_owned() },
        };
        let host = printable(&self.target.host.to_string());
        self.flows.remember(EgressEvent { at: self.at, host, port: self.target.port, outcome });
    }
}

/// A connection to the outside that counts its bytes.
#[derive(Debug)]
pub(super) struct Upstream {
    stream: TcpStream,
    flow: Flow,
}

impl Upstream {
    /// What it was asked for.
    pub(super) fn target(&self) -> &Target {
        &self.flow.target
    }
}

impl AsyncRead for Upstream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.flow.received += (buf.filled().len() - before) as u64;
        read
    }
}

impl AsyncWrite for Upstream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        if let Poll::Ready(Ok(n_bytes)) = written {
            self.flow.sent += n_bytes as u64;
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
