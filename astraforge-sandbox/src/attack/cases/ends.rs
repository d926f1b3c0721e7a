//! Processes that want to outlive their command, and how a command's end is told.

use std::time::Duration;

use astraforge_core::{
    ports::sessions::Sessions,
    session::{ByteSize, Command, Exit, Limit},
};

use crate::{
    attack::{
        Target,
        case::{Judged, Stop, hold, table},
        target::{PROGRAM, Subject},
    },
    sandboxes::Sandboxes,
};

table! { Processes:
    "orphans-after-end" "orphans of every kind are gone when their command has ended" target => after_end(target);
    "orphans-after-timeout" "orphans are gone when the time is up" target => after_timeout(target);
    "orphans-after-cancel" "orphans are gone when nobody listens any more" target => after_cancel(target);
    "orphans-after-kill" "orphans are gone when their command is killed" target => after_kill(target);
    "orphans-after-loss" "orphans are gone when the client vanishes" target => after_loss(target);
    "orphans-after-destroy" "orphans are gone with their sandbox" target => after_destroy(target);
    "held-stdout" "a command returns although a grandchild holds its output" target => held_stdout(target);
    "exit-codes" "every exit code is told as it is" target => exit_codes(target);
    "deaths-told-apart" "signals and timeouts are told apart" target => deaths(target);
    "oom-told-apart" "a command that used up the memory is told so" target => out_of_memory(target);
    "core-dumps" "a crash leaves no dump, and starts no program of the host" target => core_dumps(target);
}

/// Leaves one stray of each kind, and returns when all of them run.
async fn strays(subject: &Subject) -> Result<crate::attack::transcript::Running, Stop> {
    let (running, _) = subject.ready(&["stray", "stay"]).await?;
    let found = subject.processes().await?;
    let n_strays = found.iter().filter(|it| it.name.contains("attacker")).count();
    if n_strays < 5 {
        return Err(Stop::trouble(format_args!("{n_strays} strays run, not one of each kind: {found:?}")));
    }
    Ok(running)
}

async fn gone(subject: &Subject) -> Judged {
    subject.settles_at(0).await?;
    subject.is_well().await?;
    Ok("the host sees none of them".to_owned())
}

async fn after_end(target: &Target) -> Judged {
    let subject = target.sandbox(Default::default()).await?;
    let transcript = subject.attack(&["stray", "exit"]).await?;
    hold!(transcript.exit == Some(Exit::Exited { code: 7 }), "exit code 7 became {:?}", transcript.exit);
    // When the end is told they are gone already.
    let found = subject.processes().await?;
    hold!(!found.iter().any(|it| it.name.contains("attacker")), "they outlive their command: {found:?}");
    gone(&subject).await
}

async fn after_timeout(target: &Target) -> Judged {
    let subject = target.sandbox(Default::default()).await?;
    let command = Command::new([PROGRAM, "stray", "stay"]).with_cwd("/tmp").with_timeout(Duration::from_secs(1));
    let transcript = subject.start_command(command).await?.end().await?;
    hold!(transcript.exit == Some(Exit::TimedOut), "a timeout became {:?}", transcript.exit);
    gone(&subject).await
}

async fn after_cancel(target: &Target) -> Judged {
    let subject = target.sandbox(Default::default()).await?;
    drop(strays(&subject).await?);
    gone(&subject).await
}

async fn after_kill(target: &Target) -> Judged {
    let subject = target.sandbox(Default::default()).await?;
    let execution = subject.machine.exec(Command::new([PROGRAM, "stray", "stay"]).with_cwd("/tmp")).await?;
    let control = std::sync::Arc::clone(&execution.control);
    let mut running = crate::attack::transcript::Running::new(execution);
    running.ready().await?;
    control.signal(astraforge_core::session::Signal::Kill).await?;
    let transcript = running.end().await?;
    hold!(transcript.exit == Some(Exit::Signaled { signal: 9 }), "a kill became {:?}", transcript.exit);
    gone(&subject).await
}

async fn after_loss(target: &Target) -> Judged {
    target.needs_guest()?;
    let subject = target.sandbox(Default::default()).await?;
    // A second server, which goes without a word.
    let other = Sandboxes::new(target.driver().clone());
    let session = other.attach(subject.id, Vec::new()).await?;
    let execution = session.exec(Command::new([PROGRAM, "stray", "stay"]).with_cwd("/tmp")).await?;
    let mut running = crate::attack::transcript::Running::new(execution);
    running.ready().await?;
    drop((running, session, other));
    gone(&subject).await
}

async fn after_destroy(target: &Target) -> Judged {
    let subject = target.sandbox(Default::default()).await?;
    let running = strays(&subject).await?;
    target.remember(subject.id).await?;
    target.sandboxes().destroy(subject.id).await?;
    let left: Vec<_> = subject.processes().await?;
    hold!(left.is_empty(), "they outlive their sandbox: {left:?}");
    drop(running);
    Ok("the host sees none of them".to_owned())
}

async fn held_stdout(target: &Target) -> Judged {
    let subject = target.shared().await?;
    let output = subject.shell("sleep 600 & echo last words; exit 3").await?;
    hold!(output.stdout == b"last words\n" && output.exit == Exit::Exited { code: 3 }, "{output:?}");
    Ok("the last words and the exit code came at once".to_owned())
}

async fn exit_codes(target: &Target) -> Judged {
    let subject = target.shared().await?;
    for code in 0..=255 {
        let transcript = subject.attack(&["exit-with", &code.to_string()]).await?;
        hold!(transcript.exit == Some(Exit::Exited { code }), "exit code {code} became {:?}", transcript.exit);
    }
    Ok("all 256".to_owned())
}

async fn deaths(target: &Target) -> Judged {
    let subject = target.shared().await?;
    for signal in [1, 2, 3, 4, 6, 7, 8, 9, 11, 13, 14, 15, 31, 34, 64] {
        let transcript = subject.attack(&["die-by", &signal.to_string()]).await?;
        hold!(transcript.exit == Some(Exit::Signaled { signal }), "signal {signal} became {:?}", transcript.exit);
    }
    let sleep = Command::new(["sleep", "60"]).with_cwd("/tmp").with_timeout(Duration::from_millis(300));
    let exit = subject.start_command(sleep).await?.end().await?.exit;
    hold!(exit == Some(Exit::TimedOut), "a timeout became {exit:?}");
    Ok("signals and timeouts".to_owned())
}

async fn out_of_memory(target: &Target) -> Judged {
    target.needs("a limit on memory", target.capabilities().memory)?;
    let subject = target.limited(|it| it.memory = Limit::required(ByteSize::mib(96))).await?;
    target.remember(subject.id).await?;
    let exit = subject.attack(&["memory", "private", "96"]).await?.exit;
    hold!(exit == Some(Exit::OutOfMemory), "used up memory became {exit:?}");
    Ok("out of memory".to_owned())
}

async fn core_dumps(target: &Target) -> Judged {
    let subject = target.sandbox(Default::default()).await?;
    let (running, transcript) = subject.ready(&["core-dump"]).await?;
    let files = subject.shell("ls -A /workspace /tmp").await?;
    let files = String::from_utf8_lossy(&files.stdout).into_owned();
    hold!(!files.contains("core"), "a crash left a dump: {files}; {:?}", transcript.note("crash"));
    for process in subject.processes().await?.iter().filter(|it| it.name.contains("attacker")) {
        let limit = process.limit("Max core file size");
        // Of one byte the kernel makes neither a file nor, for a handler behind a pipe, a process of the host's root.
        let fine = limit.as_ref().is_some_and(|(soft, hard)| soft == "1" && hard == "1");
        if !fine {
            let text = format!("a crash could start the host's handler of dumps: the limit is {limit:?}, not 1");
            target.needs_own_filter().map_err(|stop| Stop::Excused(format!("{stop}; {text}")))?;
            return Err(Stop::Breach(text));
        }
    }
    drop(running);
    Ok("no dump; the limit is one byte, and stays so".to_owned())
}
