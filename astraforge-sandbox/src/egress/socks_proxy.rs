//! The conversation with a client that speaks SOCKS 5.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use super::{
    gateway::{Inside, NoWay, Visit},
    policy::Refusal,
    socks::{self, LONGEST, NO_METHOD, NO_PASSWORD, NotSocks, Reply, Request},
    tunnel,
};

/// Serves one client.
pub(super) async fn serve(visit: Visit, mut client: Inside) {
    let Ok(Some(request)) = timeout(visit.patience().greeting, ask(&mut client)).await else { return };
    let reply = match request {
        Request::Connect(target) => match visit.dial(&target).await {
            Ok(upstream) => {
                if client.write_all(&socks::reply(Reply::Granted)).await.is_ok() {
                    tunnel::run(visit, client, upstream).await;
                }
                return;
            }
            Err(NoWay::Refused(_)) => Reply::NotAllowed,
            Err(NoWay::Unknown(_) | NoWay::Unanswered(_)) => Reply::HostUnreachable,
            Err(NoWay::Closed(_)) => Reply::Refused,
        },
        Request::Unreadable { text, reason } => {
            visit.refused(&text, 0, &Refusal::Spelling { text: text.clone(), reason });
            Reply::NotAllowed
        }
        Request::OtherCommand => Reply::OtherCommand,
        Request::OtherAddress => Reply::OtherAddress,
    };
    drop(client.write_all(&socks::reply(reply)).await);
    drop(client.shutdown().await);
}

/// Learns what the client wants; `None` when that cannot be understood.
async fn ask(client: &mut Inside) -> Option<Request> {
    let is_open = message(client, socks::greeting).await?;
    client.write_all(if is_open { &NO_PASSWORD } else { &NO_METHOD }).await.ok()?;
    if is_open { message(client, socks::request).await } else { None }
}

/// Reads one message, and not a byte of what follows it.
async fn message<T>(client: &mut Inside, parse: impl Fn(&[u8]) -> Result<Option<(T, usize)>, NotSocks>) -> Option<T> {
    let mut bytes = Vec::with_capacity(LONGEST);
    loop {
        if let Some((message, length)) = parse(&bytes).ok()? {
            client.put_back(bytes.split_off(length));
            return Some(message);
        }
        if bytes.len() >= LONGEST || client.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
}
