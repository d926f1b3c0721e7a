//! `astraforge sandbox shell` and `watch`, in a terminal as a person has one.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read, Write},
    os::{fd::OwnedFd, unix::process::CommandExt},
    process::{Child, Stdio},
    thread::JoinHandle,
};

use rustix::{
    fs::{Mode, OFlags, open},
    process::{Pid, Signal, kill_process},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize},
};

use crate::sandboxes::{Desk, both_ways};

/// A terminal with a command in it.
struct Terminal {
    keyboard: File,
    /// The command's own side, as a shell that started it still holds it.
    side: OwnedFd,
    child: Child,
    screen: JoinHandle<String>,
    seen: std::sync::mpsc::Receiver<String>,
    text: String,
}

impl Terminal {
    fn open(desk: &Desk, words: &[&str]) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let path = ptsname(&master, Vec::new()).unwrap();
        let side = open(&path, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap();
        tcsetwinsize(&side, Winsize { ws_row: 30, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
        let stdio = || Stdio::from(side.try_clone().unwrap());
        let mut command = desk.command(words);
        let child = command.env("TERM", "dumb").stdin(stdio()).stdout(stdio()).stderr(stdio()).process_group(0);
        let child = child.spawn().unwrap();
        let (sender, seen) = std::sync::mpsc::channel();
        let mut reader = File::from(master.try_clone().unwrap());
        let screen = std::thread::spawn(move || {
            let (mut whole, mut buffer) = (String::new(), [0; 4096]);
            while let Ok(n_bytes @ 1..) = reader.read(&mut buffer) {
                let text = String::from_utf8_lossy(&buffer[..n_bytes]).into_owned();
                whole.push_str(&text);
                drop(sender.send(text));
            }
            whole
        });
        Self { keyboard: master.into(), side, child, screen, seen, text: String::new() }
    }

    fn press(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits for a word on the screen, and forgets what stands before its end.
    #[track_caller]
    fn see(&mut self, word: &str) {
        while !self.text.contains(word) {
            match self.seen.recv_timeout(std::time::Duration::from_secs(60)) {
                Ok(text) => self.text.push_str(&text),
                Err(error) => panic!("{word:?} is not there ({error}): {:?}", self.text),
            }
        }
        let end = self.text.find(word).unwrap() + word.len();
        self.text.drain(..end);
    }

    /// Whether keys are handed on as they are.
    fn is_raw(&self) -> bool {
        !tcgetattr(&self.side).unwrap().local_modes.contains(LocalModes::ICANON)
    }

    /// Waits for the command's end and returns its exit code.
    fn end(mut self) -> i32 {
        let status = self.child.wait().unwrap();
        assert!(!self.is_raw(), "the terminal is as it was");
        drop(self.side);
        drop(self.keyboard);
        drop(self.screen);
        status.code().unwrap()
    }
}

fn a_shell_is_a_terminal_of_the_sandbox(desk: Desk) {
    let id = desk.works(&["create"]);
    let mut terminal = Terminal::open(&desk, &["shell", &id, "-e", "WHO=you", "--", "sh", "-i"]);
    terminal.press("stty size; echo hello-$WHO\n");
    terminal.see("30 100");
    terminal.see("hello-you");
    assert!(terminal.is_raw());
    let size = Winsize { ws_row: 40, ws_col: 120, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(&terminal.side, size).unwrap();
    // The kernel tells the foreground of a session; this command has none here.
    kill_process(Pid::from_child(&terminal.child), Signal::WINCH).unwrap();
    terminal.press("until stty size | grep '40 120'; do :; done\n");
    terminal.see("\n40 120");
    // Ctrl-C is a key for whoever is inside, and ends nothing else.
    terminal.press("trap 'echo caught-it' INT\n");
    terminal.press("echo ready-now; sleep 1000\n");
    terminal.see("ready-now\r\n");
    let mut presses = 0;
    // A shell that is about to start a program may swallow the key, as on any terminal.
    while !terminal.text.contains("caught-it") && presses < 100 {
        terminal.press("\x03");
        presses += 1;
        if let Ok(text) = terminal.seen.recv_timeout(std::time::Duration::from_millis(300)) {
            terminal.text.push_str(&text);
        }
    }
    terminal.see("caught-it");
    // A shell that hears of a Ctrl-C late throws away the line that it has read by then.
    let mut lines = 0;
    while terminal.child.try_wait().unwrap().is_none() && lines < 100 {
        terminal.press("exit 7\n");
        lines += 1;
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    assert_eq!(terminal.end(), 7);
}

fn a_terminal_is_given_back_when_the_command_is_told_to_end(desk: Desk) {
    let id = desk.works(&["create"]);
    let mut terminal = Terminal::open(&desk, &["shell", &id, "--", "sh", "-c", "echo up; exec sleep 1000"]);
    terminal.see("up");
    assert!(terminal.is_raw());
    kill_process(Pid::from_child(&terminal.child), Signal::TERM).unwrap();
    assert_eq!(terminal.end(), 130);
    assert_eq!(desk.shell(&id, "pgrep -x sleep || echo none"), "none", "what ran in it ended with it");
}

fn changes_are_shown_as_they_happen(desk: Desk) {
    let id = desk.works(&["create"]);
    let mut watch = desk.command(&["watch", &id, "--json"]);
    let mut watch = watch.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.next().unwrap().contains("watching"));
    desk.shell(&id, "mkdir -p a/b && echo x > a/b/c");
    let created = lines.find(|line| line.contains("/workspace/a/b/c")).unwrap();
    assert!(created.contains("\"created\""), "{created}");
    kill_process(Pid::from_child(&watch), Signal::INT).unwrap();
    assert!(watch.wait().unwrap().success());
    desk.fails(&["watch", &id, "/etc"], "only paths below /workspace, /tmp");
}

fn a_sandbox_without_a_screen_says_so(desk: Desk) {
    let id = desk.works(&["create"]);
    let picture = desk.world.path("screen.png");
    desk.fails(&["screenshot", &id, picture.to_str().unwrap()], "not supported by this sandbox driver");
}

/// Where the machine has an X server to try it with.
#[test]
fn a_screen_is_looked_at() {
    let desk = Desk::new();
    let id = desk.works(&["create"]);
    let picture = desk.world.path("screen.png");
    if !["Xvfb", "import", "xdotool", "xlogo"].iter().all(|it| std::path::Path::new("/usr/bin").join(it).exists()) {
        return println!("skipped: this machine has no Xvfb, ImageMagick, xdotool and xlogo");
    }
    desk.works(&["exec", &id, "--detach", "--", "Xvfb", ":99", "-screen", "0", "320x200x24", "-nolisten", "tcp"]);
    desk.shell(&id, "until DISPLAY=:99 xdotool getmouselocation; do sleep 0.1; done 2>/dev/null");
    desk.works(&["exec", &id, "--detach", "-e", "DISPLAY=:99", "--", "xlogo", "-geometry", "320x200+0+0"]);
    desk.shell(&id, "until DISPLAY=:99 xdotool search --onlyvisible --class xlogo; do sleep 0.1; done 2>/dev/null");
    desk.works(&["screenshot", &id, picture.to_str().unwrap()]);
    let png = std::fs::read(picture).unwrap();
    assert_eq!(png[16..24], [0, 0, 1, 64, 0, 0, 0, 200], "320 by 200");
}

both_ways!(
    a_shell_is_a_terminal_of_the_sandbox
    a_terminal_is_given_back_when_the_command_is_told_to_end
    changes_are_shown_as_they_happen
    a_sandbox_without_a_screen_says_so
);
