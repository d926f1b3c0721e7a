//! Ways out of a sandbox that is offline.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    time::Duration,
};

use astraforge_core::session::SandboxSpec;

use crate::attack::{
    Target,
    case::{Judged, Stop, hold, table},
};

table! { Network:
    "offline-interfaces" "the host sees no interface in it but the loopback" target => interfaces(target);
    "offline-metadata" "metadata addresses are out of reach in every spelling" target => metadata(target);
    "offline-private" "private, shared, link-local and unique local addresses are out of reach" target => private(target);
    "offline-public" "public addresses are out of reach" target => public(target);
    "offline-names" "no name is resolved, and no question leaves" target => names(target);
    "offline-datagrams" "no datagram leaves, not to one, to all or to a group" target => datagrams(target);
    "host-ports" "ports of the host cannot be reached, at any of its addresses" target => host_ports(target);
    "sibling-ports" "ports of another sandbox cannot be reached" target => siblings(target);
    "route-change" "routes and interfaces cannot be changed" target => target.probe(&["routes"]);
    "gateway-off" "the gateway gives no way out when egress is off" target => gateway_off(target);
    "gateway-public" "with public egress it gives none to metadata, private addresses and the host" target => gateway_public(target);
    "gateway-allowlist" "with an allowlist it gives one to what is named alone, however the rest is spelled" target => gateway_allowlist(target);
    "orchestrator" "the cluster's API, the node's agent and the engine are out of reach" target => orchestrator(target);
}

/// Where clouds tell secrets, in every spelling.
const METADATA: &[&str] = &[
    "169.254.169.254:80",
    "2852039166:80",
    "0xA9FEA9FE:80",
    "0xa9.0xfe.0xa9.0xfe:80",
    "0251.0376.0251.0376:80",
    "169.16689662:80",
    "169.254.43518:80",
    "[::ffff:169.254.169.254]:80",
    "[::ffff:a9fe:a9fe]:80",
    "[::169.254.169.254]:80",
    "[64:ff9b::a9fe:a9fe]:80",
    "[2002:a9fe:a9fe::]:80",
    "[fd00:ec2::254]:80",
    "[fd20:ce::254]:80",
    "[fe80::a9fe:a9fe]:80",
    "169.254.170.2:80",
    "169.254.170.23:80",
    "100.100.100.200:80",
    "192.0.0.192:80",
    "168.63.129.16:80",
    "metadata.google.internal:80",
    "instance-data:80",
];

/// Addresses that are nobody's in public.
const PRIVATE: &[&str] = &[
    "10.0.0.1:80",
    "10.255.255.254:443",
    "172.16.0.1:80",
    "172.17.0.1:2375",
    "172.31.255.254:80",
    "192.168.0.1:80",
    "192.168.122.1:22",
    "100.64.0.1:80",
    "169.254.0.1:80",
    "198.18.0.1:80",
    "192.0.2.1:80",
    "0.0.0.0:22",
    "240.0.0.1:80",
    "[fc00::1]:80",
    "[fd12:3456:789a::1]:80",
    "[fe80::1]:80",
    "[::ffff:10.0.0.1]:80",
];

/// Addresses that everybody reaches.
const PUBLIC: &[&str] = &[
    "1.1.1.1:443",
    "8.8.8.8:53",
    "9.9.9.9:853",
    "93.184.216.34:80",
    "[2606:4700:4700::1111]:443",
    "[2001:4860:4860::8888]:53",
];

/// Where the gateway listens in every sandbox.
const GATEWAY: &str = "127.0.0.2:3128";

async fn interfaces(target: &Target) -> Judged {
    let subject = target.shared().await?;
    let processes = subject.processes().await?;
    let first = processes.first().ok_or_else(|| Stop::trouble("the host sees no process of it"))?;
    let table = std::fs::read_to_string(format!("/proc/{}/net/dev", first.pid)).map_err(Stop::trouble)?;
    let names: Vec<_> = table.lines().skip(2).filter_map(|it| it.split(':').next()).map(str::trim).collect();
    let harmless = ["lo", "tunl0", "sit0", "gre0", "gretap0", "erspan0", "ip_vti0", "ip6_vti0", "ip6tnl0", "ip6gre0"];
    let strange: Vec<_> = names.iter().filter(|it| !harmless.contains(it)).collect();
    if !strange.is_empty() {
        let text = format!("there is {strange:?}");
        // A pod always has one; what it leads to is the other cases' to find.
        let is_pod = target.driver().name() == "k8s";
        return Err(if is_pod { Stop::Excused(format!("a pod has one: {text}")) } else { Stop::Breach(text) });
    }
    Ok(names.join(" "))
}

async fn metadata(target: &Target) -> Judged {
    target.probe(&[&["connect"], METADATA].concat()).await
}

async fn private(target: &Target) -> Judged {
    target.probe(&[&["connect"], PRIVATE].concat()).await
}

async fn public(target: &Target) -> Judged {
    target.probe(&[&["connect"], PUBLIC].concat()).await
}

async fn names(target: &Target) -> Judged {
    target
        .probe(&[
            "resolve",
            "example.com",
            "secret-data.attacker.example",
            "kubernetes.default.svc",
            "host.docker.internal",
        ])
        .await?;
    // The loopback of a sandbox is its own; a resolver that an engine puts there must not ask on.
    let transcript = target
        .shared()
        .await?
        .attack(&[
            "send",
            "127.0.0.11:53",
            "127.0.0.53:53",
            "127.0.0.1:53",
            "8.8.8.8:53",
            "1.1.1.1:53",
            "10.96.0.10:53",
        ])
        .await?;
    transcript.hold_to_the_end()
}

async fn datagrams(target: &Target) -> Judged {
    let transcript = target
        .shared()
        .await?
        .attack(&[
            "send",
            "8.8.8.8:9",
            "255.255.255.255:9",
            "224.0.0.251:5353",
            "239.255.255.250:1900",
            "10.0.0.1:9",
            "[ff02::1]:9",
            "[ff02::fb]:5353",
            "[2001:4860:4860::8888]:9",
        ])
        .await?;
    transcript.hold_to_the_end()
}

/// Everything the host listens at: the addresses of its interfaces, each with a port that is open for it.
struct Listeners {
    tcp: Vec<TcpListener>,
    udp: UdpSocket,
    addresses: Vec<String>,
}

impl Listeners {
    fn open() -> Result<Self, Stop> {
        let any = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).map_err(Stop::trouble)?;
        let port = any.local_addr().map_err(Stop::trouble)?.port();
        let udp = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).map_err(Stop::trouble)?;
        let mut addresses: Vec<String> =
            ["127.0.0.1", "127.0.0.2", "[::1]", "0.0.0.0", "[::ffff:127.0.0.1]", "2130706433", "0x7f000001", "127.1"]
                .map(|it| format!("{it}:{port}"))
                .into();
        // Which of its addresses the host would use towards others; nothing is sent for that.
        for towards in ["192.0.2.1:9", "10.255.255.255:9", "172.17.255.255:9", "169.254.169.254:9"] {
            let own = UdpSocket::bind("0.0.0.0:0").and_then(|it| it.connect(towards).and_then(|()| it.local_addr()));
            addresses.extend(own.ok().map(|it: SocketAddr| format!("{}:{port}", it.ip())));
        }
        addresses.push(format!("host.docker.internal:{port}"));
        addresses.push(format!("host.containers.internal:{port}"));
        let tcp = vec![any];
        for listener in &tcp {
            listener.set_nonblocking(true).map_err(Stop::trouble)?;
        }
        udp.set_read_timeout(Some(Duration::from_millis(200))).map_err(Stop::trouble)?;
        Ok(Self { tcp, udp, addresses })
    }

    /// Fails when anybody came.
    fn nobody_came(&self) -> Result<(), Stop> {
        for listener in &self.tcp {
            hold!(listener.accept().is_err(), "a port of the host was connected to");
        }
        hold!(self.udp.recv_from(&mut [0; 16]).is_err(), "a datagram came to the host");
        Ok(())
    }
}

async fn host_ports(target: &Target) -> Judged {
    let listeners = Listeners::open()?;
    for how in ["connect", "send"] {
        let mut arguments = vec![how];
        arguments.extend(listeners.addresses.iter().map(String::as_str));
        target.probe(&arguments).await?;
    }
    listeners.nobody_came()?;
    Ok(format!("{} addresses, and nobody came", listeners.addresses.len()))
}

async fn siblings(target: &Target) -> Judged {
    let (one, two) = (target.sandbox(Default::default()).await?, target.sandbox(Default::default()).await?);
    let (running, _) = one.ready(&["listen", "41000"]).await?;
    let own = one.shell("hostname -i 2>/dev/null; cut -f1 /etc/hosts | sort -u; cat /proc/net/fib_trie 2>/dev/null | grep -o '|-- [0-9.]*' | cut -c5- | sort -u").await?;
    let own = String::from_utf8_lossy(&own.stdout).into_owned();
    let mut addresses: Vec<String> = own
        .split_whitespace()
        .filter(|it| it.parse::<std::net::IpAddr>().is_ok_and(|it| !it.is_loopback() && !it.is_unspecified()))
        .map(|it| format!("{it}:41000"))
        .collect();
    addresses.extend(["127.0.0.1:41000", "127.0.0.2:41000", "[::1]:41000", "0.0.0.0:41000"].map(String::from));
    let mut arguments = vec!["connect"];
    arguments.extend(addresses.iter().map(String::as_str));
    target.or_its_network(two.attack(&arguments).await?.hold_to_the_end())?;
    drop(running);
    Ok(addresses.join(" "))
}

/// Asks the gateway of a sandbox with that egress for a way to each target, in every language that it speaks.
async fn ask_gateway(target: &Target, egress: &str, targets: &[&str]) -> Judged {
    target.needs_guest()?;
    let egress = egress.parse().map_err(|error| Stop::trouble(&error))?;
    let subject = target.sandbox(SandboxSpec::default().with_egress(egress)).await?;
    let transcript = subject.attack(&[&["proxy", GATEWAY], targets].concat()).await?;
    let held = transcript.hold_to_the_end()?;
    // One that nobody reaches gives no way either, and shows nothing.
    hold!(transcript.text.contains("CONNECT: no way to"), "no gateway answers at {GATEWAY}");
    Ok(held)
}

async fn gateway_off(target: &Target) -> Judged {
    ask_gateway(target, "off", &[METADATA, PRIVATE, PUBLIC, &["example.com:443", "localhost:22"]].concat()).await
}

async fn gateway_public(target: &Target) -> Judged {
    let listeners = Listeners::open()?;
    let host: Vec<&str> = listeners.addresses.iter().map(String::as_str).collect();
    let held = ask_gateway(target, "public", &[METADATA, PRIVATE, &["localhost:80"], &host].concat()).await?;
    listeners.nobody_came()?;
    Ok(held)
}

async fn gateway_allowlist(target: &Target) -> Judged {
    let others = [
        "example.com:80",
        "example.com.:8443",
        "www.example.com:443",
        "evil-example.com:443",
        "example.com.evil.example:443",
        "example.com%2eevil.example:443",
        "example.com@evil.example:443",
        "evil.example#example.com:443",
        "[::ffff:5db8:d822]:443",
        "93.184.216.34:443",
        "1572395042:443",
        "localhost:443",
    ];
    ask_gateway(target, "allow:example.com:443", &[METADATA, PRIVATE, PUBLIC, &others].concat()).await
}

async fn orchestrator(target: &Target) -> Judged {
    target
        .probe(&[
            "connect",
            "10.96.0.1:443",
            "10.43.0.1:443",
            "10.0.0.1:6443",
            "127.0.0.1:6443",
            "127.0.0.1:10250",
            "127.0.0.1:10255",
            "127.0.0.1:2375",
            "127.0.0.1:2379",
            "172.17.0.1:10250",
            "kubernetes.default.svc:443",
        ])
        .await
}
