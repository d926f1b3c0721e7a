//! Bytes to and fro, once it is clear that they go where they say.

use std::io;

use bytes::BytesMut;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional_with_sizes},
    time::{Instant, sleep_until},
};

use super::{
    first_bytes::{self, FirstBytes},
    flows::Upstream,
    gateway::{Inside, Visit},
    http_proxy,
    policy::Refusal,
};

/// What is held of each direction, in bytes.
const BUFFER: usize = 32 * 1024;
/// A TLS client that is told `access_denied` says so to its user.
const TLS_REFUSAL: [u8; 7] = [0x15, 3, 3, 0, 2, 2, 49];

/// Joins a client with the connection that was made for it, until both are done.
pub(super) async fn run(visit: Visit, mut client: Inside, mut upstream: Upstream) {
    let Ok((first, begins)) = beginning(&visit, &mut client, &mut upstream).await else { return };
    let policy = visit.policy();
    let target = upstream.target();
    if let Err(refusal) = policy.judge_first_bytes(target, &first) {
        visit.refused(&target.host.to_string(), target.port, &refusal);
        refuse(&mut client, &first, &refusal).await;
        return;
    }
    client.put_back(begins);
    if first == FirstBytes::Http && policy.reads_tunnelled_http() {
        http_proxy::serve_tunnel(visit, client, upstream).await;
        return;
    }
    drop(copy_bidirectional_with_sizes(&mut client, &mut upstream, BUFFER, BUFFER).await);
}

/// Reads what the client sends first. A server that speaks first is heard meanwhile.
async fn beginning(visit: &Visit, client: &mut Inside, upstream: &mut Upstream) -> io::Result<(FirstBytes, BytesMut)> {
    let mut bytes = BytesMut::with_capacity(4096);
    let mut heard = Vec::with_capacity(4096);
    let (mut deadline, mut is_over) = (None, false);
    let reads_lines = visit.policy().reads_tunnelled_http();
    loop {
        if let Some(first) = first_bytes::read(&bytes) {
            return Ok((first, bytes));
        }
        // Whoever need not know more does not keep a line waiting for its end.
        if !reads_lines && !bytes.is_empty() && !first_bytes::may_be_tls(&bytes) {
            return Ok((FirstBytes::Other, bytes));
        }
        let late = async {
            match deadline {
                Some(deadline) => sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            read = client.read_buf(&mut bytes) => {
                if read? == 0 {
                    return Ok((first_bytes::settle(&bytes), bytes));
                }
                // Who began has to come to the point.
                deadline.get_or_insert_with(|| Instant::now() + visit.patience().greeting);
            }
            read = upstream.read_buf(&mut heard), if !is_over => {
                is_over = read? == 0;
                client.write_all(&heard).await?;
                client.flush().await?;
                heard.clear();
                if is_over {
                    client.shutdown().await?;
                }
            }
            () = late => return Ok((first_bytes::settle(&bytes), bytes)),
        }
    }
}

/// Says why, in the language that the client speaks.
async fn refuse(client: &mut Inside, first: &FirstBytes, refusal: &Refusal) {
    let written = match first {
        FirstBytes::Tls { .. } => client.write_all(&TLS_REFUSAL).await,
        FirstBytes::Http => client.write_all(http_proxy::forbidden(refusal).as_bytes()).await,
        FirstBytes::Other => Ok(()),
    };
    if written.is_ok() {
        drop(client.shutdown().await);
    }
}
