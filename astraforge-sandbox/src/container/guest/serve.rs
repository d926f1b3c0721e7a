//! The first process of a container.

use std::{collections::BTreeMap, ffi::OsString, io, os::unix::net::UnixListener};

use super::{address, lockdown};
use crate::{
    container::{CONFIG_VARIABLE, ContainerConfig},
    guest::daemon,
};

/// Runs the guest daemon of this container, as the variable [`CONFIG_VARIABLE`] says; returns when the sandbox ends.
///
/// It takes the socket before anything else runs here, and gives up whatever the engine has left it. The variable is
/// handed on to nobody.
///
/// # Errors
/// When the variable is missing or malformed, or the daemon can't be set up.
pub fn serve() -> io::Result<()> {
    let mut config = config()?;
    let listener = UnixListener::bind_addr(&address()?)?;
    lockdown::close_in(config.open_files, config.processes)?;
    let mut env = image_environment(std::env::vars_os());
    env.append(&mut config.guest.env);
    config.guest.env = env;
    daemon::run(listener, config.guest)
}

fn config() -> io::Result<ContainerConfig> {
    let invalid = |reason: String| io::Error::new(io::ErrorKind::InvalidInput, format!("{CONFIG_VARIABLE} {reason}"));
    let json = std::env::var(CONFIG_VARIABLE).map_err(|error| invalid(error.to_string()))?;
    serde_json::from_str(&json).map_err(|error| invalid(format!("is malformed: {error}")))
}

/// What the image sets for its programs. What the engine adds about its own network is nobody's business.
fn image_environment(variables: impl Iterator<Item = (OsString, OsString)>) -> BTreeMap<String, String> {
    let is_foreign = |name: &str| name == CONFIG_VARIABLE || name.starts_with("KUBERNETES_");
    let texts = variables.filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    texts.filter(|(name, _)| !is_foreign(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_see_the_images_variables_and_not_the_engines() {
        let variables = [("PATH", "/opt/node/bin"), (CONFIG_VARIABLE, "{}"), ("KUBERNETES_SERVICE_HOST", "10.0.0.1")];
        let env = image_environment(variables.map(|(name, value)| (name.into(), value.into())).into_iter());
        assert_eq!(env, BTreeMap::from([("PATH".to_owned(), "/opt/node/bin".to_owned())]));
    }
}
