//! Memory of every kind, and who pays for it.

use astraforge_core::{
    ports::sessions::Sessions,
    session::{ByteSize, Command, Limit, SandboxSpec, Workspace},
};

use crate::attack::{
    Target,
    case::{Judged, Stop, hold, table},
    target::host_is_well,
};

table! { Resources:
    "memory-private" "private memory stops at the limit" target => stops(target, "private");
    "memory-shared" "shared memory stops at the limit" target => stops(target, "shared");
    "memory-memfd" "files in memory without a name stop at the limit" target => stops(target, "memfd");
    "memory-segments" "System V segments stop at the limit" target => stops(target, "segments");
    "memory-dev-shm" "/dev/shm stops at the limit" target => stops(target, "/dev/shm");
    "memory-tmp" "/tmp stops at the limit" target => stops(target, "/tmp");
    "memory-workspace" "a workspace in memory stops at the limit" target => stops(target, "/workspace");
    "memory-local-sockets" "what lies in local sockets counts as memory" target => stops(target, "local-sockets");
    "memory-network-sockets" "what lies in network sockets counts as memory" target => network_sockets(target);
    "memory-dies-alone" "a sandbox that fills its memory for good dies alone" target => dies_alone(target);
    "memory-page-cache" "reading and writing files beyond the limit harms nobody" target => page_cache(target);
    "oom-victim" "a sandbox goes before its server when the host is out of memory" target => victim(target);
}

const LIMIT: u64 = 96;

async fn stops(target: &Target, kind: &str) -> Judged {
    target.needs("a limit on memory", target.capabilities().memory)?;
    let other = target.shared().await?;
    let subject = target.limited(|it| it.memory = Limit::required(ByteSize::mib(LIMIT))).await?;
    target.remember(subject.id).await?;
    let transcript = subject.attack(&["memory", kind, &LIMIT.to_string()]).await?;
    transcript.hold()?;
    other.is_well().await?;
    host_is_well()?;
    let held = transcript.note("held").unwrap_or("0").to_owned();
    Ok(format!("{held} MiB of {LIMIT} and then: {:?}", transcript.exit))
}

async fn network_sockets(target: &Target) -> Judged {
    let subject = target.shared().await?;
    let judged = stops(target, "network-sockets").await;
    // The older control groups leave each socket its first buffers, whatever their limit on them is.
    let is_old = subject.footprint().await?.paths.iter().any(|it| it.starts_with("/sys/fs/cgroup/memory"));
    match judged {
        Err(Stop::Breach(text)) if is_old => {
            Err(Stop::Excused(format!("control groups of version 1 count TCP buffers apart: {text}")))
        }
        judged => judged,
    }
}

async fn dies_alone(target: &Target) -> Judged {
    target.needs("a limit on memory", target.capabilities().memory)?;
    let other = target.shared().await?;
    let subject = target.limited(|it| it.memory = Limit::required(ByteSize::mib(LIMIT))).await?;
    target.remember(subject.id).await?;
    let fill = "for it in /workspace /tmp /dev/shm; do head -c 400000000 /dev/zero > $it/big & done; wait; \
                head -c 400000000 /dev/zero | tail -c 399999999 | wc -c";
    let ended = subject.start_command(Command::shell(fill).with_cwd("/tmp")).await?.end().await?;
    hold!(!ended.text.contains("399999999"), "400 MB were held under a limit of {LIMIT} MiB");
    other.is_well().await?;
    host_is_well()?;
    target.clear().await.map_err(Stop::Breach)?;
    Ok(format!("it ended, {:?}, and the others go on", ended.exit))
}

async fn page_cache(target: &Target) -> Judged {
    target.needs("a limit on memory", target.capabilities().memory)?;
    let spec = SandboxSpec::default().with_workspace(Workspace::Disk { size: Limit::best_effort(ByteSize::gib(1)) });
    let mut limits = spec.limits.clone();
    limits.memory = Limit::required(ByteSize::mib(LIMIT));
    let subject = target.sandbox(spec.with_limits(limits)).await?;
    let output = subject
        .shell("head -c 300000000 /dev/zero > /workspace/big && cat /workspace/big | wc -c; rm -f /workspace/big")
        .await?;
    hold!(output.stdout == b"300000000\n", "a file larger than memory cannot be used: {output:?}");
    if let Some(peak) = subject.machine.usage().await?.memory_peak {
        let most = ByteSize::mib(LIMIT + 8);
        hold!(peak <= most, "the host counted {peak} under a limit of {LIMIT} MiB");
    }
    target.sandboxes().destroy(subject.id).await?;
    Ok("300 MB went through 96 MiB".to_owned())
}

async fn victim(target: &Target) -> Judged {
    let subject = target.sandbox(Default::default()).await?;
    let (_running, transcript) = subject.ready(&["victim"]).await?;
    let score = |pid: &dyn std::fmt::Display| -> Option<i32> {
        std::fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).ok()?.trim().parse().ok()
    };
    let own = score(&"self").unwrap_or(0);
    for process in subject.processes().await? {
        let Some(theirs) = score(&process.pid) else { continue };
        let text = format!("{} has a score of {theirs}, the server {own}", process.name);
        if theirs <= own {
            // Without the capability for it what was set may be taken back; the kernel's own order decides then.
            let lowered = transcript.text.contains("asked=0: Ok");
            let may = rustix::thread::capabilities(None)
                .is_ok_and(|it| it.effective.contains(rustix::thread::CapabilitySet::SYS_RESOURCE));
            if lowered && !may {
                return Err(Stop::Excused(format!(
                    "this server lacks the capability that keeps a score as it is set: {text}"
                )));
            }
            return Err(Stop::Breach(text));
        }
    }
    Ok(format!("every process goes before the server, whose score is {own}"))
}
