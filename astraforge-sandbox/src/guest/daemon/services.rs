//! In-guest services: connections made to `127.0.0.2` become streams to the host.

use std::{
    cell::{Cell, RefCell},
    io,
    net::Ipv4Addr,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::spawn_local,
};
use tokio_util::compat::FuturesAsyncReadCompatExt;

use crate::guest::{
    header::{MAX_CALL, ServiceCall, write_header},
    mux::Opener,
};

/// Where programs of the sandbox find services.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
/// Calls that may be open at once, on all ports together; less than the host takes. More wait.
const MAX_CALLS: usize = 128;

/// The hosts that serve, oldest first. Calls go to the newest.
#[derive(Debug, Default)]
pub(super) struct Hosts {
    next: Cell<u64>,
    openers: RefCell<Vec<(u64, Opener)>>,
}

impl Hosts {
    /// Gives all calls to `opener`, until the returned guard goes.
    pub(super) fn add(self: &Rc<Self>, opener: Opener) -> Serving {
        let number = self.next.replace(self.next.get() + 1);
        self.openers.borrow_mut().push((number, opener));
        Serving { hosts: Rc::clone(self), number }
    }

    fn newest(&self) -> Option<Opener> {
        self.openers.borrow().last().map(|(_, opener)| opener.clone())
    }
}

/// One host's willingness to serve.
#[derive(Debug)]
pub(super) struct Serving {
    hosts: Rc<Hosts>,
    number: u64,
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.hosts.openers.borrow_mut().retain(|(number, _)| *number != self.number);
    }
}

/// Listens on all `ports`, before any command can take one of them.
pub(super) fn listen(ports: &[u16], hosts: &Rc<Hosts>) -> io::Result<()> {
    let room = Arc::new(Semaphore::new(MAX_CALLS));
    for &port in ports {
        let listener = std::net::TcpListener::bind((ADDRESS, port))?;
        listener.set_nonblocking(true)?;
        spawn_local(accept(TcpListener::from_std(listener)?, port, Rc::clone(hosts), Arc::clone(&room)));
    }
    Ok(())
}

async fn accept(listener: TcpListener, port: u16, hosts: Rc<Hosts>, room: Arc<Semaphore>) {
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((connection, _)) => {
                let host = hosts.newest();
                spawn_local(async move {
                    if let Some(host) = host {
                        forward(connection, port, &host).await;
                    }
                    drop(permit);
                });
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// Joins an in-guest connection with a stream to the host. Either end's failure is the other's end of stream.
async fn forward(mut connection: TcpStream, port: u16, host: &Opener) {
    drop(connection.set_nodelay(true));
    let Some(mut stream) = host.open().await else { return };
    if write_header(&mut stream, &ServiceCall { service: port }, MAX_CALL).await.is_ok() {
        drop(tokio::io::copy_bidirectional(&mut connection, &mut stream.compat()).await);
    }
}
