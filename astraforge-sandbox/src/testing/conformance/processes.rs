//! Processes that go on without a watcher, terminals, and input while a command runs.

use astraforge_core::{
    ports::sessions::Execution,
    process::{Process, ProcessName},
    session::PtySize,
};

use super::*;

impl Fixture {
    async fn spawn(&self, line: &str, tag: Option<&str>) -> Process {
        let command = Command::shell(line).with_cwd("/tmp");
        let tag = tag.map(|tag| tag.parse().unwrap());
        self.machine().await.spawn(command, tag).await.unwrap()
    }

    async fn attach(&self, name: &str, from: u64) -> Execution {
        self.machine().await.attach(name.parse().unwrap(), from).await.unwrap()
    }

    async fn process(&self, name: &str) -> Process {
        let name: ProcessName = name.parse().unwrap();
        let all = self.machine().await.processes().await.unwrap();
        all.into_iter().find(|it| ProcessName::Id(it.id) == name).expect("it is listed")
    }

    /// Waits for a process to have ended.
    async fn ended(&self, process: &Process) -> Process {
        let wait = async {
            loop {
                let now = self.process(&process.id.to_string()).await;
                if now.exit.is_some() {
                    return now;
                }
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, wait).await.expect("the process ends")
    }
}

async fn rest(execution: Execution) -> ExecOutput {
    timeout(PATIENCE, execution.collect(8 * MIB)).await.expect("it ends").unwrap()
}

/// Reads until the output holds `word`.
async fn hear(execution: &mut Execution, word: &str) -> String {
    let mut text = String::new();
    let listen = async {
        while !text.contains(word) {
            match execution.events.next().await.expect("it lives").unwrap() {
                ExecEvent::Stdout(bytes) | ExecEvent::Stderr(bytes) => text.push_str(&String::from_utf8_lossy(&bytes)),
                other => panic!("{other:?} after {text:?}"),
            }
        }
    };
    timeout(PATIENCE, listen).await.expect(word);
    text
}

/// A process goes on without the one that started it, is listed, and can be followed from its first byte.
pub async fn a_process_goes_on_without_a_watcher(driver: DynSandboxDriver) {
    let sandbox = Fixture::new(driver.clone()).await;
    let process = sandbox.spawn("echo one; echo two >&2; sleep 0.3; echo three; exit 7", Some("server")).await;
    assert_eq!((process.exit, process.tag.unwrap().as_str()), (None, "server"));
    // Another connection altogether, as of a server that was started again.
    let later = Sandboxes::new(driver);
    let machine = later.find(sandbox.session.id(), Egress::Off).await.unwrap();
    let output = rest(machine.attach("server".parse().unwrap(), 0).await.unwrap()).await;
    assert_eq!((output.stdout, output.stderr), (b"one\nthree\n".to_vec(), b"two\n".to_vec()));
    assert_eq!(output.exit, Exit::Exited { code: 7 });
    let ended = sandbox.process(&process.id.to_string()).await;
    assert_eq!((ended.exit, ended.first_sequence, ended.next_sequence), (Some(output.exit), 0, 14));
    assert_eq!(rest(sandbox.attach("server", 8).await).await.stdout, b"three\n", "also after its end");
    sandbox.end().await;
}

/// Watchers that come and go get every byte exactly once, from the number they ask for.
pub async fn watchers_come_and_go_and_miss_nothing(driver: DynSandboxDriver) {
    let sandbox = Fixture::new(driver).await;
    let line = "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done";
    let process = sandbox.spawn(line, None).await;
    let (mut seen, mut exit) = (Vec::new(), None);
    while exit.is_none() {
        let mut execution = sandbox.attach(&process.id.to_string(), seen.len() as u64).await;
        for _ in 0..7 {
            match timeout(PATIENCE, execution.events.next()).await.unwrap() {
                Some(Ok(ExecEvent::Stdout(bytes))) => seen.extend_from_slice(&bytes),
                Some(Ok(ExecEvent::Exited(ended))) => exit = Some(ended),
                None => break,
                other => panic!("{other:?}"),
            }
        }
    }
    let expected: String = (0..20_000).map(|n| format!("line {n}\n")).collect();
    assert!(seen == expected.as_bytes(), "{} of {} bytes", seen.len(), expected.len());
    sandbox.end().await;
}

/// Output that nobody reads slows nothing down, and how much of it is gone is told exactly.
pub async fn lost_output_is_counted(driver: DynSandboxDriver) {
    let sandbox = Fixture::new(driver).await;
    let process = sandbox.spawn("head -c 5000000 /dev/zero; printf end", None).await;
    let ended = sandbox.ended(&process).await;
    assert_eq!(ended.next_sequence, 5_000_003);
    assert!(ended.first_sequence > 0, "memory is bounded");
    let mut execution = sandbox.attach(&process.id.to_string(), 10).await;
    let (mut lost, mut kept) = (0, 0);
    while let Some(event) = execution.events.next().await {
        match event.unwrap() {
            ExecEvent::Lost(n_bytes) => lost += n_bytes,
            ExecEvent::Stdout(bytes) => kept += bytes.len() as u64,
            ExecEvent::Exited(exit) => assert!(exit.success()),
            ExecEvent::Stderr(_) => panic!("nothing was written there"),
        }
    }
    assert_eq!((lost, lost + kept), (ended.first_sequence - 10, 5_000_003 - 10));
    let beyond = sandbox.machine().await.attach(ProcessName::Id(process.id), 5_000_004).await;
    assert!(beyond.is_err(), "bytes that were not written cannot be followed");
    sandbox.end().await;
}

/// A process and all beneath it can be ended by name; the last one of a tag is meant. Its limit on time holds too.
pub async fn a_process_is_ended_by_name(driver: DynSandboxDriver) {
    let sandbox = Fixture::new(driver).await;
    sandbox.make_folder().await;
    let first = sandbox.spawn("sleep 1000", Some("job")).await;
    let line = format!("{} sleep 1000", stray(&sandbox.path("pid")));
    let second = sandbox.spawn(&line, Some("job")).await;
    let pid = sandbox.pid_in("pid").await;
    let machine = sandbox.machine().await;
    machine.signal("job".parse().unwrap(), Signal::Kill).await.unwrap();
    assert_eq!(sandbox.ended(&second).await.exit, Some(Exit::Signaled { signal: 9 }));
    sandbox.assert_gone(&pid).await;
    assert_eq!(sandbox.process(&first.id.to_string()).await.exit, None);
    machine.signal(ProcessName::Id(first.id), Signal::Terminate).await.unwrap();
    assert_eq!(sandbox.ended(&first).await.exit, Some(Exit::Signaled { signal: 15 }));
    machine.signal(ProcessName::Id(first.id), Signal::Kill).await.unwrap();
    let limited = Command::shell("sleep 1000").with_cwd("/tmp").with_timeout(Duration::from_millis(100));
    let limited = machine.spawn(limited, None).await.unwrap();
    assert_eq!(sandbox.ended(&limited).await.exit, Some(Exit::TimedOut));
    for name in ["99", "nobody"] {
        let unknown = machine.attach(name.parse().unwrap(), 0).await;
        assert!(matches!(unknown, Err(SessionError::NoSuchProcess { .. })), "{name}");
        let unknown = machine.signal(name.parse().unwrap(), Signal::Kill).await;
        assert!(matches!(unknown, Err(SessionError::NoSuchProcess { .. })), "{name}");
    }
    sandbox.end().await;
}

/// There is an end to how many may run at once, and it says what to do.
pub async fn kept_processes_are_bounded(driver: DynSandboxDriver) {
    let sandbox = Fixture::new(driver).await;
    let machine = sandbox.machine().await;
    let mut n_started = 0;
    let refused = loop {
        assert!(n_started < 1000, "there is no end");
        match machine.spawn(Command::new(["sleep", "1000"]).with_cwd("/tmp"), None).await {
            Ok(_) => n_started += 1,
            Err(error) => break error,
        }
    };
    assert!(refused.to_string().contains("end one first"), "{refused}");
    for process in machine.processes().await.unwrap() {
        machine.signal(ProcessName::Id(process.id), Signal::Kill).await.unwrap();
    }
    sandbox.end().await;
}

/// Input is given while a command runs, until it is closed; also to a kept one, by whoever follows it.
pub async fn input_is_given_while_a_command_runs(driver: DynSandboxDriver) {
    let sandbox = Fixture::new(driver).await;
    let cat = || Command::new(["cat"]).with_cwd("/tmp").with_stdin("first ").with_open_stdin();
    let mut running = sandbox.session.exec(cat()).await.unwrap();
    hear(&mut running, "first ").await;
    running.control.write_stdin("second".into()).await.unwrap();
    hear(&mut running, "second").await;
    running.control.close_stdin().await.unwrap();
    assert!(rest(running).await.exit.success());
    let large = Bytes::from(vec![b'x'; 2 * MIB]);
    let process = sandbox.machine().await.spawn(cat(), None).await.unwrap();
    let mut watched = sandbox.attach(&process.id.to_string(), 0).await;
    hear(&mut watched, "first ").await;
    let control = Arc::clone(&watched.control);
    let writing = tokio::spawn(async move {
        control.write_stdin(large).await.unwrap();
        control.close_stdin().await.unwrap();
    });
    let mut n_bytes = 0;
    while let Some(event) = timeout(PATIENCE, watched.events.next()).await.unwrap() {
        match event.unwrap() {
            ExecEvent::Stdout(bytes) => n_bytes += bytes.len(),
            ExecEvent::Lost(lost) => n_bytes += usize::try_from(lost).unwrap(),
            other => assert_eq!(other, ExecEvent::Exited(Exit::Exited { code: 0 })),
        }
    }
    assert_eq!(n_bytes, 2 * MIB);
    writing.await.unwrap();
    let closed = sandbox.session.exec(Command::new(["true"]).with_cwd("/tmp")).await.unwrap();
    let refused = closed.control.write_stdin("x".into()).await;
    assert!(matches!(refused, Err(SessionError::Unsupported { .. })), "it was not left open");
    sandbox.end().await;
}

/// A terminal is one: it has a size that changes, a controlling process, and an end.
pub async fn a_terminal_is_one(driver: DynSandboxDriver) {
    let sandbox = Fixture::new(driver).await;
    let size = |rows, columns| PtySize { rows, columns };
    let line = "tty; stty size; trap 'stty size' WINCH; echo ready; while ! read -r line; do :; done; echo \"got $line\"; \
                exit 3";
    let command = Command::shell(line).with_cwd("/tmp").with_pty(size(33, 111));
    let mut terminal = sandbox.session.exec(command).await.unwrap();
    let text = hear(&mut terminal, "ready").await;
    assert!(text.contains("/dev/pts/") && text.contains("33 111"), "{text:?}");
    terminal.control.resize(size(10, 20)).await.unwrap();
    hear(&mut terminal, "10 20").await;
    terminal.control.write_stdin("hello\n".into()).await.unwrap();
    let output = rest(terminal).await;
    assert!(String::from_utf8_lossy(&output.stdout).contains("got hello"), "{output:?}");
    assert_eq!(output.exit, Exit::Exited { code: 3 });
    let mut shell = sandbox.session.exec(Command::new(["cat"]).with_cwd("/tmp").with_pty(size(24, 80))).await.unwrap();
    shell.control.write_stdin("abc\n".into()).await.unwrap();
    hear(&mut shell, "abc\r\nabc").await;
    shell.control.close_stdin().await.unwrap();
    assert!(rest(shell).await.exit.success());
    sandbox.end().await;
}

/// One Ctrl-C is enough, however early it comes: the terminal is the command's from before its first instruction.
///
/// No shell stands between the two here. A shell that is about to start a program may itself swallow the key: dash
/// does, on any terminal.
pub async fn one_ctrl_c_is_enough(driver: DynSandboxDriver) {
    let sandbox = Fixture::new(driver).await;
    for _ in 0..20 {
        let command = Command::new(["sleep", "1000"]).with_cwd("/tmp").with_pty(PtySize::default());
        let sleeping = sandbox.session.exec(command).await.unwrap();
        sleeping.control.write_stdin("\x03".into()).await.unwrap();
        assert_eq!(rest(sleeping).await.exit, Exit::Signaled { signal: 2 });
    }
    let line = "trap 'echo caught; exit 9' INT; echo ready; while :; do sleep 0.01; done";
    let command = Command::shell(line).with_cwd("/tmp").with_pty(PtySize::default());
    let mut shell = sandbox.session.exec(command).await.unwrap();
    hear(&mut shell, "ready").await;
    shell.control.write_stdin("\x03".into()).await.unwrap();
    assert_eq!(rest(shell).await.exit, Exit::Exited { code: 9 }, "a shell that waits for it hears it");
    sandbox.end().await;
}
