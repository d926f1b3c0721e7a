//! A way to a server that can be cut, and that leads to whichever server is there now.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

/// Passes connections on.
pub(crate) struct Relay {
    url: String,
    target: Arc<Mutex<String>>,
    n_connections: Arc<AtomicUsize>,
}

impl Relay {
    /// A relay to the server at `url`, whose connections break after so many bytes of answers.
    pub(crate) fn new(url: &str, bytes: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let relay = Self {
            url: format!("http://{}", listener.local_addr().unwrap()),
            target: Arc::new(Mutex::new(String::new())),
            n_connections: Arc::default(),
        };
        relay.leads_to(url);
        let (target, n_connections) = (relay.target.clone(), relay.n_connections.clone());
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                n_connections.fetch_add(1, Ordering::SeqCst);
                let target = target.lock().unwrap().clone();
                thread::spawn(move || pass(&client, &target, bytes));
            }
        });
        relay
    }

    /// Where it is reached.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Passes later connections on to the server at `url`.
    pub(crate) fn leads_to(&self, url: &str) {
        *self.target.lock().unwrap() = url.strip_prefix("http://").unwrap().to_owned();
    }

    /// How many connections there were.
    pub(crate) fn n_connections(&self) -> usize {
        self.n_connections.load(Ordering::SeqCst)
    }
}

fn pass(client: &TcpStream, target: &str, bytes: u64) {
    if let Ok(server) = TcpStream::connect(target) {
        thread::scope(|scope| {
            scope.spawn(|| copy(client, &server, u64::MAX));
            copy(&server, client, bytes);
            // A cut ends both directions, for both ends.
            _ = server.shutdown(Shutdown::Both);
            _ = client.shutdown(Shutdown::Both);
        });
    }
}

fn copy(mut from: &TcpStream, mut to: &TcpStream, bytes: u64) {
    let (mut left, mut buffer) = (bytes, [0; 4096]);
    while left > 0 {
        let n_bytes = from.read(&mut buffer).unwrap_or(0);
        let passed = n_bytes.min(usize::try_from(left).unwrap_or(usize::MAX));
        if passed == 0 || to.write_all(&buffer[..passed]).is_err() {
            break;
        }
        left -= passed as u64;
    }
    _ = to.shutdown(Shutdown::Write);
}
