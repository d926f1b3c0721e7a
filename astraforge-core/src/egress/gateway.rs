//! How programs inside a sandbox find their way out.

/// The port on the in-guest address `127.0.0.2` at which a sandbox's way out listens: an HTTP and SOCKS5 proxy.
pub const GATEWAY_PORT: u16 = 3128;

/// What is reached without the way out.
const DIRECT: &str = "127.0.0.1,127.0.0.2,localhost,::1";

/// The environment that sends programs through the way out at `port`.
///
/// Both spellings, since some programs read only one. `ALL_PROXY` names the HTTP proxy too: several HTTP libraries refuse to start
/// when it names a SOCKS proxy for which they lack an extension.
#[must_use]
pub fn proxy_variables(port: u16) -> Vec<(&'static str, String)> {
    let proxy = format!("http://127.0.0.2:{port}");
    let mut variables = Vec::new();
    for name in ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"] {
        variables.push((name, proxy.clone()));
    }
    for name in ["NO_PROXY", "no_proxy"] {
        variables.push((name, DIRECT.to_owned()));
    }
    // Node.js looks at the others only when it is told to.
    variables.push(("NODE_USE_ENV_PROXY", "1".to_owned()));
    variables
}
