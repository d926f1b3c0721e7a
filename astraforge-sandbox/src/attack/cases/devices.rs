//! What `/proc`, `/sys` and `/dev` show and steer.

use std::{collections::BTreeMap, fs};

use crate::attack::{
    Target,
    case::{Judged, Stop, hold, table},
};

table! { Kernel:
    "proc-secrets" "/proc tells nothing of the host" target => secrets(target);
    "proc-sys" "nothing below /proc/sys can be written" target => proc_sys(target);
    "proc-triggers" "nothing in /proc steers the host" target => triggers(target);
    "proc-pids" "no process of the host is seen" target => pids(target);
    "proc-daemon" "the daemon cannot be looked into" target => target.probe(&["daemon"]);
    "sys-read-only" "/sys is small and read-only" target => sys(target);
    "cgroup-escape" "control groups cannot be changed" target => cgroups(target);
    "devices" "no devices but the harmless ones" target => devices(target);
    "make-devices" "no devices can be made" target => target.probe(&["make-devices"]);
    "kernel-messages" "no kernel messages" target => target.probe(&["read", "/dev/kmsg", "/proc/kmsg"]);
    "leaked-descriptors" "no descriptor of the host is inherited" target => descriptors(target);
    "programs" "programs of the image and of the host cannot be written" target => programs(target);
}

async fn secrets(target: &Target) -> Judged {
    target
        .probe(&[
            "read",
            "/proc/kcore",
            "/proc/keys",
            "/proc/timer_list",
            "/proc/sched_debug",
            "/proc/latency_stats",
            "/proc/1/environ",
            "/proc/1/auxv",
            "/sys/kernel/debug/sched/debug",
            "/sys/kernel/security/lsm",
            "/sys/firmware/dmi/tables/DMI",
        ])
        .await?;
    let of_the_kernel = target.probe(&["read", "/proc/kallsyms", "/proc/config.gz", "/sys/kernel/vmcoreinfo"]).await;
    target.or_its_nodes(of_the_kernel)
}

/// Settings of the host that must be what they were.
fn settings() -> BTreeMap<&'static str, String> {
    [
        "kernel/core_pattern",
        "kernel/modprobe",
        "kernel/hostname",
        "kernel/domainname",
        "vm/overcommit_memory",
        "net/ipv4/ip_forward",
        "kernel/randomize_va_space",
        "fs/suid_dumpable",
        "kernel/sysrq",
    ]
    .into_iter()
    .map(|it| (it, fs::read_to_string(format!("/proc/sys/{it}")).unwrap_or_default()))
    .collect()
}

async fn proc_sys(target: &Target) -> Judged {
    let before = settings();
    let text = target.probe(&["writable-below", "/proc/sys"]).await?;
    let subject = target.shared().await?;
    subject
        .shell(
            "for it in kernel/core_pattern kernel/hostname net/ipv4/ip_forward vm/overcommit_memory; do \
                (echo '|/tmp/x' > /proc/sys/$it) 2>/dev/null; (echo 1 > /proc/sys/$it) 2>/dev/null; done; true",
        )
        .await?;
    hold!(settings() == before, "a setting of the host has changed: {:?}", settings());
    Ok(text)
}

async fn triggers(target: &Target) -> Judged {
    target
        .probe(&[
            "write",
            "/proc/sysrq-trigger",
            "/proc/sys/kernel/core_pattern",
            "/proc/sys/kernel/modprobe",
            "/proc/sys/vm/drop_caches",
            "/proc/sys/fs/binfmt_misc/register",
            "/proc/sys/user/max_user_namespaces",
            "/proc/irq/default_smp_affinity",
            "/proc/kcore",
            "/proc/mtrr",
            "/proc/scsi/scsi",
            "/proc/bus/pci/devices",
            "/proc/acpi/wakeup",
            "/proc/self/uid_map",
            "/proc/self/gid_map",
            "/proc/self/setgroups",
        ])
        .await
}

async fn pids(target: &Target) -> Judged {
    let transcript = target.shared().await?.attack(&["pids"]).await?;
    let (count, largest) = (transcript.number("count")?, transcript.number("pids")?);
    let n_host = fs::read_dir("/proc").into_iter().flatten().flatten();
    let n_host = n_host.filter(|it| it.file_name().to_str().is_some_and(|it| it.parse::<u32>().is_ok())).count() as u64;
    hold!(count < 12 && count < n_host, "{count} processes are listed, the host has {n_host}");
    Ok(format!("{count} processes up to number {largest}; the host has {n_host}"))
}

async fn sys(target: &Target) -> Judged {
    target.probe(&["writable-below", "/sys"]).await
}

async fn cgroups(target: &Target) -> Judged {
    let subject = target.sandbox(Default::default()).await?;
    let before = subject.footprint().await?.paths;
    let limits = || -> Vec<String> {
        let files = [
            "memory.max",
            "memory.limit_in_bytes",
            "pids.max",
            "cpu.max",
            "cpu.cfs_quota_us",
            "release_agent",
            "notify_on_release",
        ];
        before
            .iter()
            .flat_map(|it| files.map(|file| it.join(file)))
            .filter_map(|it| fs::read_to_string(it).ok())
            .collect()
    };
    let settings = limits();
    let text = subject.attack(&["writable-below", "/sys/fs/cgroup"]).await?.hold_to_the_end()?;
    subject
        .attack(&[
            "write",
            "/sys/fs/cgroup/cgroup.procs",
            "/sys/fs/cgroup/memory.max",
            "/sys/fs/cgroup/pids.max",
            "/sys/fs/cgroup/release_agent",
            "/sys/fs/cgroup/memory/release_agent",
            "/sys/fs/cgroup/memory/memory.limit_in_bytes",
            "/sys/fs/cgroup/pids/pids.max",
        ])
        .await?
        .hold_to_the_end()?;
    hold!(limits() == settings, "a limit has changed");
    Ok(text)
}

async fn devices(target: &Target) -> Judged {
    const HARMLESS: [&str; 12] = [
        "/dev/null",
        "/dev/zero",
        "/dev/full",
        "/dev/random",
        "/dev/urandom",
        "/dev/tty",
        "/dev/ptmx",
        "/dev/pts/ptmx",
        "/dev/console",
        "/dev/stdin",
        "/dev/stdout",
        "/dev/stderr",
    ];
    let transcript = target.shared().await?.attack(&["devices", "/dev"]).await?;
    transcript.hold_to_the_end()?;
    let found = transcript.note("devices").unwrap_or_default();
    let strange: Vec<_> = found
        .split(' ')
        .filter(|it| !HARMLESS.contains(it) && !it.starts_with("/dev/pts/") && !it.starts_with("/dev/fd/"))
        .collect();
    hold!(strange.is_empty(), "there is {}", strange.join(" "));
    Ok(found.to_owned())
}

async fn descriptors(target: &Target) -> Judged {
    target.probe(&["descriptors"]).await
}

async fn programs(target: &Target) -> Judged {
    let own = fs::read("/proc/self/exe").map_err(Stop::trouble)?;
    let text = target.probe(&["programs"]).await?;
    hold!(fs::read("/proc/self/exe").is_ok_and(|it| it == own), "the server's program has changed");
    Ok(text)
}
