//! System calls and rights.

use crate::{
    attack::{
        Target,
        case::{Judged, Stop, hold, table},
        footprint::HostProcess,
    },
    driver::IsolationTier,
};

table! { Kernel:
    "posture" "the host sees every process without rights, filtered, and in name spaces of its own" target => posture(target);
    "every-call" "every system call is answered as the driver's filter says" target => every_call(target);
    "x32-calls" "calls of the x32 kind are refused" target => every_call_of(target, "x32");
    "int80" "calls of 32-bit programs are refused" target => target.probe_filter(&["int80"]);
    "ptrace" "no process is traced" target => target.probe_filter(&["call", "ptrace"]);
    "ptrace-init" "the daemon cannot be traced, read or written" target => target.probe(&["call", "ptrace-init"]);
    "process-memory" "no process reaches into another" target => target.probe_filter(&["call", "process-vm"]);
    "bpf" "no programs for the kernel" target => target.probe(&["call", "bpf"]);
    "perf-events" "no performance counters" target => target.probe(&["call", "perf-event"]);
    "userfaultfd" "no faults to handle" target => target.probe(&["call", "userfaultfd"]);
    "io-uring" "no io_uring" target => target.probe(&["call", "io-uring"]);
    "keyrings" "no keyrings" target => target.probe(&["call", "keyrings"]);
    "mount" "nothing is mounted, remounted or unmounted" target => target.probe(&["call", "mount"]);
    "new-mount-api" "nor by the newer calls for it" target => target.probe(&["call", "new-mount-api"]);
    "pivot-root" "the root cannot be changed" target => target.probe(&["call", "pivot-root"]);
    "swap" "no swapping" target => target.probe(&["call", "swap"]);
    "reboot" "no reboot" target => target.probe(&["call", "reboot"]);
    "kexec" "no other kernel" target => target.probe(&["call", "kexec"]);
    "modules" "no modules" target => target.probe(&["call", "modules"]);
    "file-handles" "no files by handle" target => target.probe(&["call", "file-handles"]);
    "personality" "no personality that weakens" target => target.probe_filter(&["personality"]);
    "set-time" "the time stays" target => target.probe(&["call", "set-time"]);
    "port-io" "no ports" target => port_io(target);
    "ldt" "no segments" target => target.probe_filter(&["call", "ldt"]);
    "accounting" "no accounting, no quotas" target => target.probe(&["call", "accounting"]);
    "fanotify" "no watching of whole file systems" target => target.probe_filter(&["call", "fanotify"]);
    "kernel-log" "the kernel's log stays closed" target => target.probe(&["call", "kernel-log"]);
    "host-name" "the host's name stays" target => host_name(target);
    "hang-up" "no hanging up" target => target.probe(&["call", "hang-up"]);
    "user-namespaces" "no name spaces of one's own" target => target.probe(&["namespaces"]);
    "clone3-namespaces" "nor by the call whose flags no filter sees" target => target.probe(&["clone3"]);
    "setns" "no entry into others' name spaces" target => target.probe(&["setns"]);
    "own-filter" "a filter of one's own undoes nothing" target => target.probe(&["own-filter"]);
    "become-root" "nobody becomes somebody else" target => target.probe(&["privileges"]);
    "capabilities" "no capability in any set, and none to be had" target => target.probe(&["capabilities"]);
    "setuid-files" "setuid and setgid bits do nothing" target => setuid_files(target);
    "file-capabilities" "capabilities of files do nothing" target => target.probe(&["file-capabilities"]);
    "memory-map" "nobody moves what a process is said to hold" target => target.probe(&["memory-map"]);
    "terminal-input" "nobody types for others" target => target.probe_filter(&["terminal"]);
    "raw-sockets" "no raw sockets" target => target.probe(&["socket-kinds", "raw"]);
    "packet-sockets" "no packet sockets" target => target.probe(&["socket-kinds", "packet"]);
    "crypto-sockets" "no sockets to the kernel's ciphers" target => target.probe_filter(&["socket-kinds", "crypto"]);
    "vsock" "no sockets to the hypervisor" target => target.probe_filter(&["socket-kinds", "vsock"]);
    "netlink" "no netlink but for questions about routes" target => target.probe_filter(&["socket-kinds", "netlink"]);
    "rare-sockets" "no sockets of rare kinds" target => target.probe_filter(&["socket-kinds", "rare"]);
}

/// Calls that the kernel answers before any filter: they end whoever makes them from anywhere but a probe of the kernel's.
const BEFORE_ANY_FILTER: [i64; 2] = [335, 336];

/// What the host itself reads of the processes inside; not what they say.
async fn posture(target: &Target) -> Judged {
    let subject = target.sandbox(Default::default()).await?;
    let (_running, _) = subject.ready(&["priority"]).await?;
    let processes = subject.processes().await?;
    hold!(!processes.is_empty(), "the host sees no process of it");
    for process in processes.iter().filter(|it| !it.is_zombie()) {
        for (field, wanted) in expected(target.tier()) {
            let found = process.status(field);
            hold!(found.as_deref() == Some(wanted), "{field} of {} is {found:?}, not {wanted}", process.name);
        }
        let uids = process.status("Uid").unwrap_or_default();
        let is_root_driver = rustix::process::geteuid().is_root();
        hold!(
            !is_root_driver || !uids.split_whitespace().any(|it| it == "0"),
            "{} is the host's root: {uids}",
            process.name
        );
        own_process_numbers(process)?;
        for kind in ["mnt", "net", "ipc", "uts", "pid"] {
            own_namespace(process, kind)?;
        }
    }
    for process in processes.iter().filter(|it| !it.is_zombie()) {
        target.or_its_nodes(own_namespace(process, "cgroup"))?;
    }
    Ok(format!("{} processes, each without rights", processes.len()))
}

fn expected(tier: IsolationTier) -> Vec<(&'static str, &'static str)> {
    const NONE: &str = "0000000000000000";
    let mut wanted = vec![
        ("CapInh", NONE),
        ("CapPrm", NONE),
        ("CapEff", NONE),
        ("CapAmb", NONE),
        ("NoNewPrivs", "1"),
        ("Seccomp", "2"),
    ];
    if tier == IsolationTier::T1 {
        wanted.push(("CapBnd", NONE));
    }
    wanted
}

fn own_process_numbers(process: &HostProcess) -> Result<(), Stop> {
    let pids = process.status("NSpid").unwrap_or_default();
    let own = HostProcess::find(std::process::id().cast_signed()).and_then(|it| it.status("NSpid")).unwrap_or_default();
    hold!(
        pids.split_whitespace().count() > own.split_whitespace().count(),
        "{} shares the host's process numbers: {pids}",
        process.name
    );
    Ok(())
}

fn own_namespace(process: &HostProcess, kind: &str) -> Judged {
    let read = |pid: &dyn std::fmt::Display| std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok();
    if let (Some(theirs), Some(ours)) = (read(&process.pid), read(&"self")) {
        hold!(theirs != ours, "{} shares the host's {kind} name space", process.name);
    }
    Ok(String::new())
}

async fn every_call(target: &Target) -> Judged {
    target.needs_own_filter()?;
    every_call_of(target, "native").await
}

/// Calls that are refused whatever they are given: by the filter, by number.
async fn every_call_of(target: &Target, kind: &str) -> Judged {
    if !cfg!(target_arch = "x86_64") && kind == "x32" {
        return Err(Stop::Excused("this processor has no such calls".to_owned()));
    }
    // A sandbox of its own: some of the calls are allowed, and have effects.
    let subject = target.sandbox(Default::default()).await?;
    let transcript = subject.attack(&["every-call", kind]).await?;
    transcript.hold_to_the_end()?;
    let (mut n_refused, mut n_answered, mut open) = (0, 0, Vec::new());
    for number in 0..512 {
        let Some(answer) = transcript.note(&number.to_string()) else { continue };
        n_answered += 1;
        let own =
            cfg!(target_arch = "x86_64") && BEFORE_ANY_FILTER.contains(&number) && ["killed", "6"].contains(&answer);
        let refused = own || ["1", "13", "38"].contains(&answer);
        n_refused += u32::from(refused);
        match (kind, target.host().refuses_call(number)) {
            ("x32", _) if !refused => open.push(format!("{number}: {answer}")),
            (_, Some(true)) if !refused => open.push(format!("{number}: {answer}")),
            _ => {}
        }
    }
    hold!(n_answered > 400, "{n_answered} calls were answered");
    let open = open.join(", ");
    match (open.is_empty(), target.tier()) {
        (true, _) => Ok(format!("{n_refused} of {n_answered} refused")),
        (false, IsolationTier::T1) => Err(Stop::Breach(format!("let through: {open}"))),
        (false, tier) => Err(Stop::Excused(format!("tier {tier:?}, whose engine's filter lets through {open}"))),
    }
}

async fn port_io(target: &Target) -> Judged {
    if cfg!(target_arch = "x86_64") {
        target.probe(&["call", "port-io"]).await
    } else {
        Err(Stop::Excused("this processor has no ports".to_owned()))
    }
}

async fn host_name(target: &Target) -> Judged {
    let name = || rustix::system::uname().nodename().to_owned();
    let before = name();
    let text = target.probe(&["call", "host-name"]).await?;
    hold!(name() == before, "the host has another name: {:?}", name());
    Ok(text)
}

async fn setuid_files(target: &Target) -> Judged {
    let subject = target.sandbox(Default::default()).await?;
    subject.attack(&["setuid-file"]).await?.hold_to_the_end()
}
