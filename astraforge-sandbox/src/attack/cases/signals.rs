//! Whom a hostile program reaches with signals and other means against processes.

use std::process::{Command as HostCommand, Stdio};

use astraforge_core::session::Command;

use crate::attack::{
    HostProcess, Target,
    case::{Judged, Stop, hold, table},
    target::{Subject, host_is_well},
};

table! { Processes:
    "signal-everyone" "a signal to all reaches the sandbox's own processes alone" target => everyone(target);
    "signal-host" "processes of the host cannot be signalled by their numbers" target => host_numbers(target);
    "kill-init" "killing the first process ends the sandbox cleanly, or does nothing" target => kill_init(target);
    "starve-init" "a daemon that is starved is destroyed all the same" target => starve_init(target);
    "exhaust-calls" "a storm of commands leaves no process and no descriptor" target => storm(target);
}

/// A process of the host that must not be hurt.
struct Canary(std::process::Child);

impl Canary {
    fn start() -> Result<(Self, HostProcess), Stop> {
        let child = HostCommand::new("sleep").arg("300").stdin(Stdio::null()).spawn().map_err(Stop::trouble)?;
        let process = HostProcess::find(child.id().cast_signed()).ok_or_else(|| Stop::trouble("no process"))?;
        Ok((Self(child), process))
    }
}

impl Drop for Canary {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn everyone(target: &Target) -> Judged {
    let (_canary, process) = Canary::start()?;
    let other = target.shared().await?;
    for signal in ["9", "19", "20", "11", "15"] {
        let subject = target.sandbox(Default::default()).await?;
        target.remember(subject.id).await?;
        let sleeper = subject.start_command(Command::new(["sleep", "300"]).with_cwd("/tmp")).await?;
        let attack = subject.start_command(
            Command::new([crate::attack::target::PROGRAM, "signal-all", signal])
                .with_cwd("/tmp")
                .with_timeout(std::time::Duration::from_secs(3)),
        );
        // How it ends is its own affair; that it ends is not.
        let ended = attack.await?.end().await?;
        drop(sleeper);
        hold!(process.lives(), "signal {signal} reached a process of the host");
        other.is_well().await?;
        answers_or_fails(&subject).await?;
        drop(ended);
        target.clear().await.map_err(Stop::Breach)?;
    }
    host_is_well()?;
    Ok("the host and another sandbox noticed nothing".to_owned())
}

/// Whatever became of the sandbox: a call to it ends.
async fn answers_or_fails(subject: &Subject) -> Result<(), Stop> {
    match subject.shell("echo alive").await {
        Err(stop @ Stop::Breach(_)) => Err(stop),
        _ => Ok(()),
    }
}

async fn host_numbers(target: &Target) -> Judged {
    let (_canary, process) = Canary::start()?;
    let subject = target.sandbox(Default::default()).await?;
    let (one, two) = (process.pid.to_string(), std::process::id().to_string());
    subject.attack(&["signal-pid", &one, &two]).await?.hold_to_the_end()?;
    hold!(process.lives(), "a process of the host was killed by its number");
    Ok("both canaries live".to_owned())
}

async fn kill_init(target: &Target) -> Judged {
    let subject = target.sandbox(Default::default()).await?;
    target.remember(subject.id).await?;
    // It may succeed before its start was told.
    match subject.start(&["kill-init"]).await {
        Err(stop @ Stop::Breach(_)) => return Err(stop),
        Err(_) => {}
        Ok(attack) => drop(attack.end().await?),
    }
    answers_or_fails(&subject).await?;
    let alive = subject.is_well().await.is_ok();
    target.clear().await.map_err(Stop::Breach)?;
    Ok(if alive { "it lives, and works" } else { "the session failed, and nothing is left" }.to_owned())
}

async fn starve_init(target: &Target) -> Judged {
    let subject = target.sandbox(Default::default()).await?;
    target.remember(subject.id).await?;
    let attack = subject.start(&["starve-init"]).await;
    if let Err(stop @ Stop::Breach(_)) = attack {
        return Err(stop);
    }
    for _ in 0..10 {
        answers_or_fails(&subject).await?;
    }
    drop(attack);
    target.clear().await.map_err(Stop::Breach)?;
    Ok("every call ended, and nothing is left".to_owned())
}

async fn storm(target: &Target) -> Judged {
    let subject = target.sandbox(Default::default()).await?;
    subject.is_well().await?;
    let n_calls = target.scaled(150, 2000);
    let calls = (0..n_calls).map(|it| {
        let subject = &subject;
        async move {
            match it % 4 {
                0 => drop(subject.machine.exec(Command::new(["/nonsense"]).with_cwd("/tmp")).await),
                1 => drop(subject.machine.exec(Command::shell("sleep 60").with_cwd("/tmp")).await),
                2 => drop(subject.machine.read_file("/workspace/none", 10).await),
                _ => return subject.is_well().await,
            }
            Ok(())
        }
    });
    for answer in futures::future::join_all(calls).await {
        answer?;
    }
    subject.settles_at(0).await?;
    Ok(format!("{n_calls} calls, and no process is left of them"))
}
