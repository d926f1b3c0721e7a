//! The way out of a sandbox, tried by programs inside of it.

use std::net::SocketAddr;

use astraforge_core::egress::{EgressEvent, EgressOutcome};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    task::JoinHandle,
};

use super::*;
use crate::{egress::EgressSettings, guest::client::GuestClient, testing::PlayedInternet};

/// A sandbox whose way out leads to a played internet with one server: `example.com` at port 8080.
struct Way {
    sandbox: Fixture,
    driver: DynSandboxDriver,
    port: u16,
    server: JoinHandle<()>,
}

impl Way {
    async fn new(driver: DynSandboxDriver, egress: &str) -> Self {
        let internet = Arc::new(PlayedInternet::default());
        let (address, server) = greeter("127.0.0.1:0").await;
        internet.name("example.com", &["93.184.216.34"]);
        internet.server("93.184.216.34:8080", address);
        let settings = EgressSettings::default().with_outside(internet);
        let (sandbox, port) = fixture(&driver, egress, settings).await;
        Self { sandbox, driver, port, server }
    }

    async fn connect(&self, target: &str) -> String {
        connect(&self.sandbox, target).await
    }

    async fn end(self) {
        self.server.abort();
        self.sandbox.end().await;
    }
}

async fn fixture(driver: &DynSandboxDriver, egress: &str, settings: EgressSettings) -> (Fixture, u16) {
    let settings = settings.with_port(free_ports()[0]);
    let port = settings.port();
    let sandboxes = Sandboxes::new(Arc::clone(driver)).with_egress(settings);
    let spec = SandboxSpec::default().with_egress(egress.parse().unwrap());
    let session = sandboxes.create(SandboxId::random(), spec, Vec::new()).await.unwrap();
    (Fixture { sandboxes, session }, port)
}

/// A server that says hello to whoever comes.
async fn greeter(at: &str) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind(at).await.unwrap();
    let address = listener.local_addr().unwrap();
    let greet = async move {
        let mut guests = Vec::new();
        while let Ok((mut guest, _)) = listener.accept().await {
            drop(guest.write_all(b"hello from outside\n").await);
            guests.push(tokio::spawn(async move { guest.read_to_end(&mut Vec::new()).await }));
        }
    };
    (address, tokio::spawn(greet))
}

/// A shell line that asks the proxy of its environment for `target`, as descriptor 3.
fn ask(target: &str) -> String {
    format!(
        "p=${{HTTPS_PROXY#http://}}; exec 3<>/dev/tcp/${{p%:*}}/${{p#*:}}; printf 'CONNECT {target} HTTP/1.1\\r\\n\\r\\n' >&3; "
    )
}

/// What a program inside hears first when it asks for `target`.
async fn connect(sandbox: &Fixture, target: &str) -> String {
    // Not sed: some wait for the next line before they end with this one.
    let hear = r#"while IFS= read -r line <&3; do printf '%s\n' "$line"; case $line in *hello* | AstraForge*) break ;; esac; done"#;
    let line = format!("{} {hear}", ask(target));
    let output = sandbox.run(Command::new(["bash", "-c", &line])).await;
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Without an egress every program is told why it gets nowhere.
pub async fn the_way_out_leads_nowhere_when_it_is_off(driver: DynSandboxDriver) {
    let way = Way::new(driver, "off").await;
    for target in ["example.com:8080", "93.184.216.34:8080", "127.0.0.1:80"] {
        let answer = way.connect(target).await;
        assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("egress is off"), "{target}: {answer}");
    }
    way.end().await;
}

/// What a rule names is reached, and nothing else; both are remembered.
pub async fn an_allowlist_lets_through_what_it_names(driver: DynSandboxDriver) {
    let way = Way::new(driver, "allow:example.com:8080").await;
    let answer = way.connect("example.com:8080").await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("hello from outside"), "{answer}");
    for target in ["example.com:80", "93.184.216.34:8080", "evil-example.com:8080"] {
        let answer = way.connect(target).await;
        assert!(answer.starts_with("HTTP/1.1 403"), "{target}: {answer}");
    }
    let machine = way.sandbox.sandboxes.find(way.sandbox.session.id(), "allow:example.com:8080".parse().unwrap());
    let log = machine.await.unwrap().egress_log().await.unwrap();
    let is_refused = |event: &&EgressEvent| matches!(event.outcome, EgressOutcome::Refused { .. });
    assert_eq!(log.iter().filter(is_refused).count(), 3, "{log:?}");
    assert!(log.iter().any(|it| matches!(it.outcome, EgressOutcome::Allowed { received: 19, .. })), "{log:?}");
    way.end().await;
}

/// A change of egress holds at once, for what is open and for what comes.
pub async fn a_narrowed_policy_cuts_what_it_forbids(driver: DynSandboxDriver) {
    let way = Way::new(driver, "public").await;
    let id = way.sandbox.session.id();
    // Not cat: some move bytes within the kernel, which gives out none of them while it waits for more.
    let hear = r#"while IFS= read -r line <&3; do printf '%s\n' "$line"; done; echo cut"#;
    let line = format!("{} {hear}", ask("example.com:8080"));
    let command = Command::new(["bash", "-c", &line]).with_cwd("/tmp");
    let mut open = way.sandbox.session.exec(command).await.unwrap();
    let mut heard = String::new();
    while !heard.contains("hello") {
        match timeout(PATIENCE, open.events.next()).await.unwrap().unwrap().unwrap() {
            ExecEvent::Stdout(bytes) => heard.push_str(&String::from_utf8_lossy(&bytes)),
            other => panic!("{other:?} after {heard}"),
        }
    }
    way.sandbox.sandboxes.find(id, "allow:other.example".parse().unwrap()).await.unwrap();
    let rest = timeout(PATIENCE, open.collect(MIB)).await.expect("it is cut").unwrap();
    assert_eq!(rest.stdout, b"cut\n");
    assert!(way.connect("example.com:8080").await.starts_with("HTTP/1.1 403"));
    way.sandbox.sandboxes.find(id, Egress::Public).await.unwrap();
    assert!(way.connect("example.com:8080").await.contains("hello from outside"));
    way.end().await;
}

/// What listens on the node, or on its network, is out of reach whatever it is called.
pub async fn no_spelling_reaches_the_node(driver: DynSandboxDriver) {
    let (address, server) = greeter("0.0.0.0:0").await;
    let (sandbox, _) = fixture(&driver, "public", EgressSettings::default()).await;
    let port = address.port();
    let mut hosts: Vec<String> = [
        "127.0.0.1",
        "127.0.0.2",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "0.0.0.0",
        "0",
        "localhost",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "169.254.169.254",
    ]
    .map(str::to_owned)
    .to_vec();
    // Its own address on the network that it is on, if it is on one.
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    if socket.connect("192.0.2.1:9").is_ok() {
        hosts.push(socket.local_addr().unwrap().ip().to_string());
    }
    for host in hosts {
        let answer = connect(&sandbox, &format!("{host}:{port}")).await;
        assert!(answer.starts_with("HTTP/1.1 403") || answer.starts_with("HTTP/1.1 400"), "{host}: {answer}");
    }
    server.abort();
    sandbox.end().await;
}

/// Without its server a sandbox reaches nothing; one that takes it over gives it the egress that it knows of.
pub async fn the_way_out_ends_with_its_server(driver: DynSandboxDriver) {
    let way = Way::new(driver, "public").await;
    let Way { sandbox: Fixture { sandboxes, session }, driver, port, server } = way;
    let id = session.id();
    drop((sandboxes, session));
    let guest = GuestClient::connect(driver.connect(id).await.unwrap(), Vec::new()).await.unwrap();
    let line = format!(
        "exec 3<>/dev/tcp/127.0.0.2/{port}; printf 'CONNECT example.com:8080 HTTP/1.1\\r\\n\\r\\n' >&3; cat <&3"
    );
    let command = || Command::new(["bash", "-c", &line]).with_cwd("/tmp");
    let output = timeout(PATIENCE, guest.exec(command()).await.unwrap().collect(MIB)).await.unwrap().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "");
    let settings = EgressSettings::default().with_port(port).with_outside(Arc::default());
    let next = Sandboxes::new(driver).with_egress(settings);
    let found = next.find(id, Egress::Off).await.unwrap();
    let output = timeout(PATIENCE, found.exec(command()).await.unwrap().collect(MIB)).await.unwrap().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).starts_with("HTTP/1.1 403"), "{output:?}");
    next.destroy(id).await.unwrap();
    server.abort();
}

/// The real thing: a package manager installs a package from where this machine has its packages, by the way out alone.
///
/// Skipped aloud where the sandbox has no pip, or this machine reaches no packages, unless `ASTRAFORGE_TEST_PACKAGES` says
/// that they are required.
pub async fn a_package_is_installed_through_the_way_out(driver: DynSandboxDriver) {
    // Machines may have their packages on an inner network.
    let inner = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24"];
    let settings = EgressSettings::default().with_open_networks(inner.map(|it| it.parse().unwrap()));
    let (sandbox, _) = fixture(&driver, "off", settings).await;
    let folder = sandbox.path("site");
    let install = format!(
        "python3 -m pip install --disable-pip-version-check --no-cache-dir --no-deps --retries 1 --timeout 60 --target {folder} six"
    );
    let install = with_pip_settings(&sandbox, Command::shell(&install)).await;
    if !sandbox.shell("python3 -m pip --version").await.exit.success() {
        skip("the sandbox has no pip");
        return sandbox.end().await;
    }
    let closed = sandbox.run(install.clone()).await;
    assert!(!closed.exit.success(), "it is off");
    let why = String::from_utf8_lossy(&closed.stderr).into_owned() + &String::from_utf8_lossy(&closed.stdout);
    assert!(why.contains("egress is off"), "the program is told why: {why}");

    let machine = sandbox.sandboxes.find(sandbox.session.id(), Egress::Public).await.unwrap();
    let opened = sandbox.run(install).await;
    let log = machine.egress_log().await.unwrap();
    let was_reached = log.iter().any(|event| matches!(event.outcome, EgressOutcome::Allowed { .. }));
    if !opened.exit.success() && !was_reached {
        let refused =
            log.iter().filter(|it| matches!(&it.outcome, EgressOutcome::Refused { reason } if !reason.contains("off")));
        assert_eq!(refused.collect::<Vec<_>>(), [] as [&EgressEvent; 0]);
        skip(&format!("this machine reaches no packages: {}", String::from_utf8_lossy(&opened.stderr)));
        return sandbox.end().await;
    }
    assert!(opened.exit.success(), "{}", String::from_utf8_lossy(&opened.stderr));
    let import = format!("PYTHONPATH={folder} python3 -c 'import six; print(six.__file__)'");
    let found = sandbox.shell(&import).await;
    assert!(String::from_utf8_lossy(&found.stdout).contains(&folder), "{found:?}");
    sandbox.end().await;
}

fn skip(reason: &str) {
    assert!(std::env::var_os("ASTRAFORGE_TEST_PACKAGES").is_none(), "{reason}");
    eprintln!("skipped: {reason}");
}

/// Gives pip in the sandbox what it is told on this machine: where packages are, and whom to trust.
async fn with_pip_settings(sandbox: &Fixture, command: Command) -> Command {
    let mut command = command;
    for name in ["PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_TRUSTED_HOST"] {
        if let Ok(value) = std::env::var(name) {
            command = command.with_env(name, value);
        }
    }
    let home = std::env::var("HOME").unwrap_or_default();
    let config = std::env::var("PIP_CONFIG_FILE").unwrap_or_default();
    let configs =
        [config, format!("{home}/.config/pip/pip.conf"), format!("{home}/.pip/pip.conf"), "/etc/pip.conf".to_owned()];
    let certificates = ["PIP_CERT", "SSL_CERT_FILE"].map(|name| std::env::var(name).unwrap_or_default());
    let certificates = certificates.into_iter().chain(["/etc/ssl/certs/ca-certificates.crt".to_owned()]);
    for (variable, mut candidates) in [
        ("PIP_CONFIG_FILE", Box::new(configs.into_iter()) as Box<dyn Iterator<Item = String> + Send>),
        ("PIP_CERT", Box::new(certificates)),
    ] {
        if let Some(contents) = candidates.find_map(|path| std::fs::read(path).ok()) {
            let path = sandbox.path(variable);
            sandbox.session.write_file(&path, contents.into(), 0o644).await.unwrap();
            command = command.with_env(variable, path);
        }
    }
    command
}
