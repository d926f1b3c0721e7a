//! Builds the arguments and the whole environment of every git call that the host makes.

use std::{
    ffi::OsString,
    fmt,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use crate::{ports::git::Remote, repository::Secret};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};

/// Where programs are looked for, after the folder of git itself.
const SEARCH_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// Settings of every call. They come from the command line, so no configuration file can change them.
const SETTINGS: &[(&str, &str)] = &[
    ("core.hooksPath", "/dev/null"),
    ("core.fsmonitor", "false"),
    ("core.attributesFile", "/dev/null"),
    ("core.pager", "cat"),
    ("core.quotePath", "false"),
    // Larger files are hashed as a stream and shown as binary, so a pack that inflates a thousandfold costs no memory.
    ("core.bigFileThreshold", "50m"),
    ("credential.helper", ""),
    ("gc.auto", "0"),
    ("maintenance.auto", "false"),
    ("protocol.ext.allow", "never"),
    ("protocol.version", "2"),
    ("transfer.fsckObjects", "true"),
    ("submodule.recurse", "false"),
    ("diff.renameLimit", "1000"),
];

/// Faults that old, honest histories have. They are let in from real repositories, never from a workspace.
const FORGIVEN_IN_FETCHED_HISTORY: &[&str] =
    &["zeroPaddedFilemode", "badTimezone", "missingSpaceBeforeDate", "missingTaggerEntry"];

/// One call of git: what follows the program's name, and its whole environment.
///
/// ```
/// use std::path::Path;
///
/// use astraforge_core::git::argv::Call;
///
/// let call = Call::on(Path::new("/usr/bin/git"), Path::new("/srv/demo.git"), ["rev-parse", "--verify", "main"]);
/// assert!(call.args.iter().any(|arg| arg == "--git-dir=/srv/demo.git"));
/// assert!(call.args.iter().any(|arg| arg == "core.hooksPath=/dev/null"), "no hook of a repository ever runs");
/// ```
pub struct Call {
    /// What follows the program's name.
    pub args: Vec<OsString>,
    /// The whole environment; nothing of the caller's is passed on.
    pub env: Vec<(OsString, OsString)>,
}

/// Values of the environment may be credentials, so only their names are shown.
impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.env.iter().map(|(name, _)| name).collect();
        f.debug_struct("Call").field("args", &self.args).field("env", &names).finish()
    }
}

impl Call {
    /// A call on a bare repository that the host made.
    pub fn on<S: Into<OsString>>(git: &Path, bare: &Path, args: impl IntoIterator<Item = S>) -> Self {
        let mut call = Self { args: settings(SETTINGS), env: environment(git, "") };
        call.args.push(joined("--git-dir=", bare));
        call.args.extend(args.into_iter().map(Into::into));
        call
    }

    /// A call that makes a repository, so that none is there yet.
    pub fn init(git: &Path, bare: &Path) -> Self {
        let mut args = settings(SETTINGS);
        let rest = ["init", "--bare", "--quiet", "--template=", "--initial-branch=main", "--object-format=sha1", "--"];
        args.extend(rest.into_iter().map(OsString::from));
        args.push(bare.into());
        Self { args, env: environment(git, "") }
    }

    /// A call of a verb that needs no repository.
    pub fn bare_verb(git: &Path, verb: &str) -> Self {
        Self { args: vec![verb.into()], env: environment(git, "") }
    }

    /// Puts settings before those that the call has already.
    pub fn with_settings(mut self, more: &[(&str, &str)]) -> Self {
        self.args.splice(0..0, settings(more));
        self
    }

    /// Sets one variable of the environment.
    pub fn with_env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.env.retain(|(known, _)| known != name);
        self.env.push((name.into(), value.into()));
        self
    }

    /// Lets the call reach one real repository, by its transport only.
    pub fn reaching(self, transport: &Transport) -> Self {
        match transport {
            Transport::Local(_) => self.with_env("GIT_ALLOW_PROTOCOL", "file"),
            Transport::Http { url, token } => {
                let call =
                    self.with_env("GIT_ALLOW_PROTOCOL", if url.starts_with("https:") { "https" } else { "http" });
                match token {
                    None => call,
                    Some(token) => {
                        let pair = BASE64.encode(format!("x-access-token:{}", token.reveal()));
                        call.with_env("GIT_CONFIG_COUNT", "2")
                            .with_env("GIT_CONFIG_KEY_0", "http.extraHeader")
                            .with_env("GIT_CONFIG_VALUE_0", format!("Authorization: Basic {pair}"))
                            .with_env("GIT_CONFIG_KEY_1", "http.followRedirects")
                            .with_env("GIT_CONFIG_VALUE_1", "false")
                    }
                }
            }
        }
    }
}

/// How a real repository is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transport {
    /// It is a folder of this machine.
    Local(PathBuf),
    /// It is on a host, behind HTTP.
    Http {
        /// Its address, without a credential in it.
        url: String,
        /// What opens it.
        token: Option<Secret>,
    },
}

impl Transport {
    /// The transport of a remote's own address.
    ///
    /// # Errors
    /// Why the address cannot be used, in words.
    pub fn of(remote: &Remote) -> Result<Self, String> {
        Self::parse(&remote.url, remote.token.as_ref())
    }

    /// The transport to where a remote's published branches go.
    ///
    /// # Errors
    /// Why the address cannot be used, in words.
    pub fn of_published(remote: &Remote) -> Result<Self, String> {
        Self::parse(remote.publish_url.as_deref().unwrap_or(&remote.url), remote.token.as_ref())
    }

    fn parse(url: &str, token: Option<&Secret>) -> Result<Self, String> {
        if url.contains(|c: char| c.is_control()) {
            return Err("its address has a control character".into());
        }
        if url.starts_with('/') {
            return Ok(Self::Local(url.into()));
        }
        let http = |rest: &str| -> Result<Self, String> {
            let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
            if host.is_empty() || host.contains('@') {
                return Err("its address must name a host, and hold no user or credential".into());
            }
            Ok(Self::Http { url: url.to_owned(), token: token.cloned() })
        };
        match url.split_once("://") {
            Some(("https", rest)) => http(rest),
            Some(("http", rest)) if token.is_none() || is_loopback(rest) => http(rest),
            Some(("http", _)) => Err("its credential would cross the network unencrypted; use https://".into()),
            _ => Err("only absolute paths, https:// and http:// can be reached".into()),
        }
    }

    /// The address as git takes it.
    pub fn address(&self) -> OsString {
        match self {
            Self::Local(path) => path.into(),
            Self::Http { url, .. } => url.into(),
        }
    }

    /// The option that makes git serve a folder without listening to what that folder's configuration says.
    ///
    /// Git starts the serving side in the folder itself and clears `-c` settings on the way, so they are given again:
    /// - `core.hooksPath`: no hook of the folder runs, also none that its own `core.hooksPath` names;
    /// - `core.alternateRefsCommand`: the folder cannot name a program that lists its alternates;
    /// - `GIT_ALLOW_PROTOCOL=none`, `GIT_NO_LAZY_FETCH`: missing objects are never fetched from a "promisor" of the
    ///   folder's choice, whose address or `uploadpack` could be any program.
    ///
    /// `uploadpack.packObjectsHook` is heeded by git only outside of a repository's own configuration.
    pub fn serving_option(&self, git: &Path, serve: Serve) -> Option<OsString> {
        let Self::Local(_) = self else { return None };
        let (option, verb) = match serve {
            Serve::Upload => ("--upload-pack=", "upload-pack"),
            Serve::Receive => ("--receive-pack=", "receive-pack"),
        };
        let mut line = OsString::from(option);
        line.push("GIT_ALLOW_PROTOCOL=none GIT_NO_LAZY_FETCH=1 ");
        line.push(shell_quoted(git));
        for (name, value) in
            SETTINGS.iter().chain(&[("core.alternateRefsCommand", "true"), ("receive.autogc", "false")])
        {
            line.push(format!(" -c {name}={value}"));
        }
        line.push(format!(" {verb}"));
        Some(line)
    }
}

/// Whether the rest of an address, after `://`, names this machine.
fn is_loopback(rest: &str) -> bool {
    let host = rest.split('/').next().unwrap_or_default();
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    ["127.0.0.1", "localhost", "[::1]"].contains(&name)
}

/// Which side of git serves.
#[derive(Debug, Clone, Copy)]
pub enum Serve {
    /// It gives objects.
    Upload,
    /// It takes objects.
    Receive,
}

/// The settings of a fetch from a real repository.
pub fn fetch_settings() -> Vec<(String, &'static str)> {
    FORGIVEN_IN_FETCHED_HISTORY.iter().map(|fault| (format!("fetch.fsck.{fault}"), "warn")).collect()
}

/// The settings under which a workspace's push is taken: to one branch, without deletion, at most `max_bytes` large.
pub fn receive_settings(work_branch: &str, max_bytes: u64) -> Vec<(&'static str, String)> {
    vec![
        ("receive.hideRefs", "refs/".into()),
        ("receive.hideRefs", format!("!refs/heads/{work_branch}")),
        ("receive.denyDeletes", "true".into()),
        ("receive.denyNonFastForwards", "false".into()),
        ("receive.advertisePushOptions", "false".into()),
        ("receive.autogc", "false".into()),
        ("receive.fsckObjects", "true".into()),
        ("receive.maxInputSize", max_bytes.to_string()),
    ]
}

/// The settings under which a workspace reads: branches only.
pub const UPLOAD_SETTINGS: &[(&str, &str)] =
    &[("uploadpack.hideRefs", "refs/"), ("uploadpack.hideRefs", "!refs/heads"), ("uploadpack.allowFilter", "true")];

fn settings(pairs: &[(&str, &str)]) -> Vec<OsString> {
    pairs.iter().flat_map(|(name, value)| ["-c".into(), format!("{name}={value}").into()]).collect()
}

fn environment(git: &Path, protocols: &str) -> Vec<(OsString, OsString)> {
    let mut path = OsString::new();
    if let Some(folder) = git.parent().filter(|folder| folder.is_absolute()) {
        path.push(folder);
        path.push(":");
    }
    path.push(SEARCH_PATH);
    let fixed = [
        ("GIT_CONFIG_NOSYSTEM", "1"),
        ("GIT_CONFIG_GLOBAL", "/dev/null"),
        ("GIT_ATTR_NOSYSTEM", "1"),
        ("GIT_TERMINAL_PROMPT", "0"),
        ("GIT_NO_REPLACE_OBJECTS", "1"),
        ("GIT_NO_LAZY_FETCH", "1"),
        ("GIT_OPTIONAL_LOCKS", "0"),
        ("HOME", "/nonexistent"),
        ("LC_ALL", "C"),
        // An empty list allows nothing, whatever a configuration says.
        ("GIT_ALLOW_PROTOCOL", protocols),
    ];
    let mut env: Vec<(OsString, OsString)> = fixed.iter().map(|(name, value)| (name.into(), value.into())).collect();
    env.push(("PATH".into(), path));
    env
}

fn joined(prefix: &str, path: &Path) -> OsString {
    let mut text = OsString::from(prefix);
    text.push(path);
    text
}

fn shell_quoted(path: &Path) -> OsString {
    let mut quoted = vec![b'\''];
    for &byte in path.as_os_str().as_bytes() {
        match byte {
            b'\'' => quoted.extend_from_slice(br"'\''"),
            _ => quoted.push(byte),
        }
    }
    quoted.push(b'\'');
    std::ffi::OsStr::from_bytes(&quoted).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remote(url: &str, token: Option<&str>) -> Remote {
        Remote { url: url.into(), publish_url: None, token: token.map(Secret::new) }
    }

    fn texts(args: &[OsString]) -> Vec<&str> {
        args.iter().map(|arg| arg.to_str().unwrap()).collect()
    }

    fn value(call: &Call, name: &str) -> Option<String> {
        call.env.iter().find(|(known, _)| known == name).map(|(_, value)| value.to_str().unwrap().to_owned())
    }

    #[test]
    fn a_call_names_its_repository_and_turns_everything_off_before_the_verb() {
        let call = Call::on(Path::new("git"), Path::new("/q/1.git"), ["for-each-ref"]);
        let args = texts(&call.args);
        let verb = args.iter().position(|arg| *arg == "for-each-ref").unwrap();
        for needed in
            ["core.hooksPath=/dev/null", "core.fsmonitor=false", "protocol.ext.allow=never", "--git-dir=/q/1.git"]
        {
            assert!(args.iter().position(|arg| *arg == needed).unwrap() < verb, "{needed}");
        }
        assert_eq!(value(&call, "GIT_CONFIG_NOSYSTEM").as_deref(), Some("1"));
        assert_eq!(value(&call, "GIT_CONFIG_GLOBAL").as_deref(), Some("/dev/null"));
        assert_eq!(value(&call, "GIT_TERMINAL_PROMPT").as_deref(), Some("0"));
        assert_eq!(value(&call, "GIT_ALLOW_PROTOCOL").as_deref(), Some(""));
    }

    #[test]
    fn a_token_is_in_no_argument_and_in_no_debug_output() {
        let transport = Transport::of(&remote("https://git.example/team/demo", Some("hunter2"))).unwrap();
        let call = Call::on(Path::new("git"), Path::new("/q"), ["ls-remote", "--"]).reaching(&transport);
        let shown = format!("{call:?} {transport:?}");
        let encoded = BASE64.encode("x-access-token:hunter2");
        assert!(!shown.contains("hunter2") && !shown.contains(&encoded));
        assert_eq!(value(&call, "GIT_CONFIG_VALUE_0"), Some(format!("Authorization: Basic {encoded}")));
        assert_eq!(value(&call, "GIT_ALLOW_PROTOCOL").as_deref(), Some("https"));
    }

    #[test]
    fn addresses_that_could_run_programs_or_leak_a_token_are_refused() {
        for url in [
            "ext::sh -c id",
            "ssh://host/x",
            "git@host:x",
            "file:///x",
            "relative",
            "../x",
            "-x",
            "--upload-pack=x",
            "https://user:pw@host/x",
            "https:///x",
            "http://u@host/",
            "/a\nb",
            "git://host/x",
            "",
        ] {
            assert!(Transport::of(&remote(url, None)).is_err(), "{url}");
        }
        for url in
            ["http://host/x", "http://127.0.0.1.evil.test/x", "http://localhost.evil.test/x", "http://[::1]evil/x"]
        {
            assert!(Transport::of(&remote(url, Some("t"))).is_err(), "{url}");
        }
        assert!(Transport::of(&remote("http://127.0.0.1:8080/x", Some("t"))).is_ok());
        assert!(Transport::of(&remote("http://host/x", None)).is_ok());
    }

    #[test]
    fn a_folder_is_served_without_its_own_hooks_and_promisors() {
        let transport = Transport::Local("/r".into());
        let option = transport.serving_option(Path::new("/opt/it's/git"), Serve::Upload).unwrap();
        let option = option.to_str().unwrap();
        assert!(
            option.starts_with(r"--upload-pack=GIT_ALLOW_PROTOCOL=none GIT_NO_LAZY_FETCH=1 '/opt/it'\''s/git' -c ")
        );
        assert!(option.contains(" -c core.hooksPath=/dev/null ") && option.ends_with(" upload-pack"));
        let http = Transport::Http { url: "https://h/x".into(), token: None };
        assert_eq!(http.serving_option(Path::new("git"), Serve::Receive), None);
    }
}
