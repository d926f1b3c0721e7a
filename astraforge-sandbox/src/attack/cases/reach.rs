//! What of the host and of other sandboxes can be reached without a network.

use std::{
    fs,
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener},
    },
};

use crate::attack::{
    Target,
    case::{Judged, Stop, hold, table},
    target::Subject,
};

table! { Kernel:
    "root-read-only" "nothing but the agent's own folders can be written" target => root(target);
    "host-files" "no file of the host is there" target => host_files(target);
    "host-sockets" "no socket of the host answers, and the guest's own hangs up" target => target.probe(&["local-sockets"]);
    "abstract-sockets" "no socket without a file is shared with the host" target => abstract_sockets(target);
    "host-objects" "no shared memory and no queue of the host is found" target => objects(target);
    "two-sandboxes" "two sandboxes have nothing in common" target => two(target);
    "environment" "nothing of the server's environment is inherited" target => environment(target);
}

async fn root(target: &Target) -> Judged {
    let before = fs::metadata("/etc/passwd").and_then(|it| it.modified()).ok();
    let subject = target.shared().await?;
    let text = subject
        .attack(&[
            "writable-below",
            "/etc",
            "/usr/bin",
            "/usr/lib",
            "/usr/local",
            "/bin",
            "/sbin",
            "/lib",
            "/opt",
            "/boot",
            "/srv",
            "/mnt",
        ])
        .await?
        .hold_to_the_end()?;
    let output = subject
        .shell(
            "for it in / /etc /usr /usr/bin /home /dev /proc /sys /opt /lib /bin; do \
                (: > $it/attack) 2>/dev/null && echo $it; mkdir $it/attack-folder 2>/dev/null && echo $it; done; true",
        )
        .await?;
    hold!(output.stdout.is_empty(), "can be written: {}", String::from_utf8_lossy(&output.stdout));
    hold!(fs::metadata("/etc/passwd").and_then(|it| it.modified()).ok() == before, "a file of the host has changed");
    Ok(text)
}

async fn host_files(target: &Target) -> Judged {
    // A file that only the host has, in places that a careless mount would show.
    let name = target.unique("canary");
    let folders =
        [std::env::temp_dir(), "/var/tmp".into(), "/root".into(), "/home".into(), "/dev/shm".into(), "/run".into()];
    let canaries: Vec<_> = folders.iter().map(|it| it.join(&name)).filter(|it| fs::write(it, "host").is_ok()).collect();
    let paths: Vec<String> = canaries.iter().map(|it| it.display().to_string()).collect();
    let mut arguments = vec!["sees"];
    arguments.extend(paths.iter().map(String::as_str));
    arguments.extend([
        "/root/.ssh",
        "/etc/shadow-of-the-host",
        "/var/lib/docker",
        "/var/lib/kubelet",
        "/var/lib/containerd",
        "/var/run/docker.sock",
        "/run/docker.sock",
        "/run/containerd",
        "/run/dbus/system_bus_socket",
        "/etc/kubernetes",
        "/var/run/secrets/kubernetes.io/serviceaccount/token",
        "/host",
        "/rootfs",
    ]);
    let judged = async {
        let text = target.probe(&arguments).await?;
        let unchanged = canaries.iter().all(|it| fs::read(it).is_ok_and(|it| it == b"host"));
        hold!(unchanged, "a file of the host has changed");
        Ok(text)
    }
    .await;
    for path in canaries {
        let _ = fs::remove_file(path);
    }
    judged
}

async fn abstract_sockets(target: &Target) -> Judged {
    let name = target.unique("socket");
    let address = SocketAddr::from_abstract_name(&name).map_err(Stop::trouble)?;
    let listener = UnixListener::bind_addr(&address).map_err(Stop::trouble)?;
    listener.set_nonblocking(true).map_err(Stop::trouble)?;
    let text = target.probe(&["abstract", &name]).await?;
    hold!(listener.accept().is_err(), "the host's socket was connected to");
    Ok(text)
}

async fn objects(target: &Target) -> Judged {
    let name = target.unique("queue");
    let object = HostObject::make(&name)?;
    let judged = target.probe(&["objects", &object.key.to_string(), &name]).await;
    drop(object);
    judged
}

/// A segment that the host made, and nobody else may find.
struct HostObject {
    key: i32,
    id: i32,
}

impl HostObject {
    fn make(name: &str) -> Result<Self, Stop> {
        use std::hash::{Hash, Hasher};
        let mut hasher = std::hash::DefaultHasher::new();
        name.hash(&mut hasher);
        #[expect(clippy::cast_possible_truncation, reason = "any number does for a key")]
        let key = (hasher.finish() as i32) | 1;
        // SAFETY: makes a segment and nothing else.
        #[expect(unsafe_code, reason = "rustix has no such call")]
        let id = unsafe { libc::shmget(key, 4096, libc::IPC_CREAT | libc::IPC_EXCL | 0o666) };
        if id < 0 { Err(Stop::trouble(std::io::Error::last_os_error())) } else { Ok(Self { key, id }) }
    }
}

impl Drop for HostObject {
    fn drop(&mut self) {
        // SAFETY: removes the segment that was made above.
        #[expect(unsafe_code, reason = "rustix has no such call")]
        unsafe {
            libc::shmctl(self.id, libc::IPC_RMID, std::ptr::null_mut())
        };
    }
}

async fn two(target: &Target) -> Judged {
    let (one, two) = (target.sandbox(Default::default()).await?, target.sandbox(Default::default()).await?);
    let folders = "/tmp /dev/shm /workspace /run /home/agent /var/tmp";
    one.shell(&format!("for it in {folders}; do (echo secret > $it/it) 2>/dev/null; done; true")).await?;
    let seen = two.shell(&format!("for it in {folders}; do cat $it/it 2>/dev/null; done; true")).await?;
    hold!(seen.stdout.is_empty(), "files of another sandbox are read");
    let apart = async |kind: &str| {
        let name =
            async |it: &Subject| Ok::<_, Stop>(it.shell(&format!("readlink /proc/self/ns/{kind}")).await?.stdout);
        let (a, b) = (name(&one).await?, name(&two).await?);
        hold!(a != b && !a.is_empty(), "both have {}", String::from_utf8_lossy(&a));
        Ok(String::new())
    };
    for kind in ["mnt", "pid", "net", "ipc", "uts"] {
        apart(kind).await?;
    }
    let (running, _) = one.ready(&["listen", "40000"]).await?;
    two.attack(&["spread", "40000"]).await?.hold_to_the_end()?;
    drop(running);
    target.or_its_nodes(apart("cgroup").await)?;
    Ok("files, ports and six name spaces are apart".to_owned())
}

async fn environment(target: &Target) -> Judged {
    let transcript = target.shared().await?.attack(&["environment"]).await?;
    transcript.hold_to_the_end()?;
    let theirs: Vec<_> = transcript.notes("variable").filter_map(|it| it.split_once('=')).collect();
    // Values that are long enough to be nobody else's; they are compared here, and never shown inside.
    for (name, value) in std::env::vars().filter(|(_, value)| value.len() >= 16 && !value.starts_with('/')) {
        let found = theirs.iter().find(|it| it.1.contains(&value));
        hold!(found.is_none(), "the server's {name} is inherited");
    }
    let names: Vec<_> = theirs.iter().map(|it| it.0).collect();
    // The only way out is the sandbox's own. Two variables name none: one says what needs none, one is a switch.
    let no_way = ["NO_PROXY", "no_proxy", "NODE_USE_ENV_PROXY"];
    let is_proxy = |name: &str| name.to_ascii_lowercase().ends_with("_proxy") && !no_way.contains(&name);
    let strange: Vec<_> = theirs.iter().filter(|it| is_proxy(it.0) && !it.1.contains("//127.0.0.2:")).collect();
    hold!(strange.is_empty(), "there is a way out that is not its own: {strange:?}");
    Ok(names.join(" "))
}
