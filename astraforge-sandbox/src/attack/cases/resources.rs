//! Disk, processor time, limits and priorities.

use astraforge_core::session::{ByteSize, Limit, SandboxSpec, Workspace};

use crate::attack::{
    Target,
    case::{Judged, Stop, hold, table},
    target::host_is_well,
};

table! { Resources:
    "disk-bytes" "a workspace in memory is full at its size" target => fills(target, "bytes", 24);
    "disk-deleted" "files that are deleted and still open count" target => fills(target, "deleted", 24);
    "disk-sparse" "a sparse terabyte takes what it holds" target => fills(target, "sparse", 24);
    "disk-names" "empty files stop at a number" target => fills_up(target, "names");
    "disk-folders" "folders stop at a number" target => fills_up(target, "folders");
    "disk-links" "links stop at a number" target => fills_up(target, "links");
    "disk-hard-limit" "a workspace on disk is full at its size where that is promised" target => disk(target);
    "disk-other-folders" "every other folder that may be written has a size" target => others(target);
    "raise-limits" "no hard limit can be raised" target => raise(target);
    "raise-priority" "no process gets before others of the host" target => priority(target);
    "processor-limit" "processor time stops at its limit" target => processor(target);
    "processor-hog" "a sandbox that uses every processor leaves the host and others at work" target => hog(target);
}

/// More names than a small workspace may have.
const NAMES: u64 = 200_000;

async fn fills_up(target: &Target, how: &str) -> Judged {
    target.or_its_memory(fills(target, how, NAMES).await)
}

async fn fills(target: &Target, how: &str, most: u64) -> Judged {
    let spec = SandboxSpec::default().with_workspace(Workspace::Tmpfs { size: ByteSize::mib(16) });
    let subject = target.sandbox(spec).await?;
    let judged = subject.attack(&["fill", how, "/workspace", &most.to_string()]).await?;
    let text = judged.hold_to_the_end()?;
    let errno = judged.number("errno")?;
    hold!([28, 122, 12].contains(&errno), "it ended with error {errno}, not for want of room");
    subject.is_well().await?;
    host_is_well()?;
    Ok(judged.text.lines().find_map(|it| it.strip_prefix("held: ")).unwrap_or(&text).to_owned())
}

async fn disk(target: &Target) -> Judged {
    target.needs("a limit on a workspace on disk", target.capabilities().disk)?;
    let spec = SandboxSpec::default().with_workspace(Workspace::Disk { size: Limit::required(ByteSize::mib(64)) });
    let subject = target.sandbox(spec).await?;
    let transcript = subject.attack(&["fill", "bytes", "/workspace", "80"]).await?;
    transcript.hold_to_the_end()?;
    let used = subject.machine.usage().await?.disk;
    hold!(used.is_none_or(|it| it <= ByteSize::mib(72)), "the host counts {used:?} under a limit of 64 MiB");
    subject.shell("rm -rf /workspace/attack-*").await?;
    let transcript = subject.attack(&["fill", "names", "/workspace", "5000000"]).await?;
    transcript.hold_to_the_end()?;
    host_is_well()?;
    Ok("64 MiB, and a number of names".to_owned())
}

async fn others(target: &Target) -> Judged {
    target.needs("a limit on memory", target.capabilities().memory)?;
    // What is left writable beside the workspace lies in memory: it is full, or memory is.
    let subject = target.limited(|it| it.memory = Limit::required(ByteSize::mib(128))).await?;
    target.remember(subject.id).await?;
    let writable = subject
        .shell(
            "for it in $(cut -d' ' -f2 /proc/mounts | sort -u) /home/agent /run /var /root /; do \
                                  [ -d $it ] && touch $it/.w 2>/dev/null && rm $it/.w && echo $it; done",
        )
        .await?;
    let writable = String::from_utf8_lossy(&writable.stdout).into_owned();
    let mut told = Vec::new();
    for folder in writable.lines().filter(|it| !it.starts_with("/proc") && !it.starts_with("/workspace")) {
        let gone = |_| Stop::Breach(format!("nothing is heard of the sandbox once {folder} is filled"));
        let transcript = subject.attack(&["fill", "bytes", folder, "160"]).await.map_err(gone)?;
        transcript.hold()?;
        let _ = subject.shell(&format!("rm -f {folder}/attack-*")).await;
        told.push(folder.to_owned());
    }
    Ok(told.join(" "))
}

async fn raise(target: &Target) -> Judged {
    target.probe(&["raise-limits"]).await
}

async fn priority(target: &Target) -> Judged {
    let subject = target.sandbox(Default::default()).await?;
    let (_running, transcript) = subject.ready(&["priority"]).await?;
    transcript.hold()?;
    for process in subject.processes().await? {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.pid)).unwrap_or_default();
        let fields: Vec<_> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let number = |it: usize| fields.get(it).and_then(|it| it.parse::<i64>().ok());
        let (nice, policy) = (number(16), number(38));
        hold!(
            nice >= Some(0) && policy != Some(1) && policy != Some(2),
            "{} has niceness {nice:?} and policy {policy:?}",
            process.name
        );
    }
    Ok(format!("{} tried in vain", transcript.n_held()))
}

async fn processor(target: &Target) -> Judged {
    target.needs("a limit on processor time", target.capabilities().cpu)?;
    let subject = target.limited(|it| it.cpu_millis = Some(Limit::required(200))).await?;
    let transcript = subject.attack(&["spin", "3", "2"]).await?;
    let millis = transcript.number("millis")?;
    hold!(millis <= 1100, "of 3 s on every processor it got {millis} ms under a limit of a fifth of one");
    Ok(format!("{millis} ms of 600"))
}

async fn hog(target: &Target) -> Judged {
    let other = target.shared().await?;
    let subject = target.sandbox(Default::default()).await?;
    let (running, _) = subject.ready(&["spin", "4", "8"]).await?;
    for _ in 0..5 {
        other.is_well().await?;
        host_is_well()?;
    }
    let ended = running.end().await?;
    ended.number("millis").map_err(|_| Stop::trouble("it did not spin"))?;
    Ok("another sandbox and the host answered all along".to_owned())
}
