//! Starts a program, once its process has become what the program is to find.

use std::{
    collections::BTreeMap,
    ffi::{CStr, CString},
    io,
    mem::MaybeUninit,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    ptr, thread,
    time::{Duration, Instant},
};

use rustix::fs::{Access, access};

/// How long a program may be open for writing that is to be started.
const STILL_WRITTEN: Duration = Duration::from_millis(500);

/// Starts `argv` as the leader of a session of its own, with no signal blocked, ignored or handled.
/// Descriptors 0 to 2 are `tty`, its controlling terminal, or inherited; the working directory and all else are.
///
/// # Errors
/// The reason, in words for the command's caller.
pub(super) fn start(argv: &[String], env: &BTreeMap<String, String>, tty: Option<&str>) -> Result<i32, String> {
    let program = find(argv.first().map_or("", String::as_str), env.get("PATH").map_or("", String::as_str))?;
    let argv = argv.iter().map(|arg| text(arg, "an argument")).collect::<Result<Vec<_>, _>>()?;
    let env = env.iter().map(variable).collect::<Result<Vec<_>, _>>()?;
    let path = CString::new(program.as_os_str().as_bytes()).map_err(|_| "its path contains a NUL byte".to_owned())?;
    let tty = tty.map(|tty| text(tty, "the terminal")).transpose()?;
    let began = Instant::now();
    loop {
        match posix_spawn(&path, &argv, &env, tty.as_deref()) {
            // A program that was written a moment ago: a process that was forked meanwhile has not closed it yet.
            Err(error) if error.raw_os_error() == Some(libc::ETXTBSY) && began.elapsed() < STILL_WRITTEN => {
                thread::sleep(Duration::from_millis(2));
            }
            started => return started.map_err(|error| explain(&program, &error)),
        }
    }
}

/// Finds a program the way `execvp` does, in the command's own `PATH`.
fn find(program: &str, path: &str) -> Result<PathBuf, String> {
    if program.is_empty() {
        return Err("no program is named".to_owned());
    }
    if program.contains('/') {
        return Ok(program.into());
    }
    let mut reason = format!("no such program in PATH ({path})");
    for folder in path.split(':') {
        let candidate = Path::new(if folder.is_empty() { "." } else { folder }).join(program);
        if candidate.is_file() {
            match access(&candidate, Access::EXEC_OK) {
                Ok(()) => return Ok(candidate),
                Err(_) => reason = format!("`{}` is not executable", candidate.display()),
            }
        }
    }
    Err(reason)
}

fn explain(program: &Path, error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ENOENT) if program.exists() => {
            "the interpreter or loader that the file names does not exist".to_owned()
        }
        Some(libc::ENOENT) => "no such file".to_owned(),
        Some(libc::EACCES) if program.is_dir() => "it is a folder".to_owned(),
        Some(libc::EACCES) => "it is not executable".to_owned(),
        Some(libc::ENOEXEC) => "it is no program: neither a binary for this machine nor a script with #!".to_owned(),
        Some(libc::ETXTBSY) => "somebody is still writing it".to_owned(),
        Some(libc::EAGAIN) => "the sandbox has too many processes".to_owned(),
        _ => error.to_string(),
    }
}

fn text(text: &str, what: &str) -> Result<CString, String> {
    CString::new(text).map_err(|_| format!("{what} contains a NUL byte"))
}

fn variable((name, value): (&String, &String)) -> Result<CString, String> {
    if name.is_empty() || name.contains('=') {
        return Err(format!("`{name}` is no name for an environment variable"));
    }
    text(&format!("{name}={value}"), "an environment variable")
}

fn posix_spawn(program: &CStr, argv: &[CString], env: &[CString], tty: Option<&CStr>) -> io::Result<i32> {
    let attributes = Attributes::new()?;
    let actions = tty.map(Actions::on_terminal).transpose()?;
    let argv = pointers(argv);
    let env = pointers(env);
    let mut pid = 0;
    #[expect(unsafe_code, reason = "std's Command can't start a session without a second fork")]
    // SAFETY: `program`, `argv` and `env` are NUL-terminated and live until the call returns, both arrays end with a
    // null pointer, `attributes` is initialised, and so is `actions` where there are any.
    let errno = unsafe {
        libc::posix_spawn(
            &raw mut pid,
            program.as_ptr(),
            actions.as_ref().map_or(ptr::null(), |actions| &raw const actions.0),
            &raw const attributes.0,
            argv.as_ptr(),
            env.as_ptr(),
        )
    };
    if errno == 0 { Ok(pid) } else { Err(io::Error::from_raw_os_error(errno)) }
}

fn pointers(texts: &[CString]) -> Vec<*mut libc::c_char> {
    texts.iter().map(|text| text.as_ptr().cast_mut()).chain([ptr::null_mut()]).collect()
}

/// What is done to the descriptors of a command.
struct Actions(libc::posix_spawn_file_actions_t);

impl Actions {
    /// Makes all three streams the terminal. The session is a new one by then, so opening it makes it the session's.
    fn on_terminal(tty: &CStr) -> io::Result<Self> {
        let mut actions = MaybeUninit::uninit();
        #[expect(unsafe_code, reason = "std's Command can't start a session without a second fork")]
        // SAFETY: the value is initialised by the first function that gets it, and only then used.
        let (mut actions, errno) = unsafe {
            match libc::posix_spawn_file_actions_init(actions.as_mut_ptr()) {
                0 => {}
                errno => return Err(io::Error::from_raw_os_error(errno)),
            }
            let mut actions = Self(actions.assume_init());
            let errno = libc::posix_spawn_file_actions_addopen(&raw mut actions.0, 0, tty.as_ptr(), libc::O_RDWR, 0);
            (actions, errno)
        };
        let mut failed = errno;
        for target in [1, 2] {
            #[expect(unsafe_code, reason = "std's Command can't start a session without a second fork")]
            // SAFETY: `actions` is initialised.
            let errno = unsafe { libc::posix_spawn_file_actions_adddup2(&raw mut actions.0, 0, target) };
            failed |= errno;
        }
        if failed == 0 { Ok(actions) } else { Err(io::Error::from_raw_os_error(failed)) }
    }
}

impl Drop for Actions {
    fn drop(&mut self) {
        #[expect(unsafe_code, reason = "std's Command can't start a session without a second fork")]
        // SAFETY: the value is initialised and not used again.
        unsafe {
            libc::posix_spawn_file_actions_destroy(&raw mut self.0);
        }
    }
}

/// A new session, an empty signal mask, default signal dispositions.
struct Attributes(libc::posix_spawnattr_t);

impl Attributes {
    fn new() -> io::Result<Self> {
        const FLAGS: i32 = libc::POSIX_SPAWN_SETSIGMASK | libc::POSIX_SPAWN_SETSIGDEF;
        let mut attributes = MaybeUninit::uninit();
        let (mut none, mut all) = (MaybeUninit::uninit(), MaybeUninit::uninit());
        #[expect(unsafe_code, reason = "std's Command can't start a session without a second fork")]
        // SAFETY: each value is initialised by the first function that gets it, and only then read.
        let errno = unsafe {
            match libc::posix_spawnattr_init(attributes.as_mut_ptr()) {
                0 => {}
                errno => return Err(io::Error::from_raw_os_error(errno)),
            }
            libc::sigemptyset(none.as_mut_ptr());
            libc::sigfillset(all.as_mut_ptr());
            libc::posix_spawnattr_setsigmask(attributes.as_mut_ptr(), none.as_ptr())
                | libc::posix_spawnattr_setsigdefault(attributes.as_mut_ptr(), all.as_ptr())
                | libc::posix_spawnattr_setflags(
                    attributes.as_mut_ptr(),
                    FLAGS as libc::c_short | libc::POSIX_SPAWN_SETSID,
                )
        };
        #[expect(unsafe_code, reason = "std's Command can't start a session without a second fork")]
        // SAFETY: `posix_spawnattr_init` succeeded.
        let attributes = Self(unsafe { attributes.assume_init() });
        if errno == 0 { Ok(attributes) } else { Err(io::Error::from_raw_os_error(errno)) }
    }
}

impl Drop for Attributes {
    fn drop(&mut self) {
        #[expect(unsafe_code, reason = "std's Command can't start a session without a second fork")]
        // SAFETY: the value is initialised and not used again.
        unsafe {
            libc::posix_spawnattr_destroy(&raw mut self.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(argv: &[&str], env: &[(&str, &str)], reason: &str) {
        let argv: Vec<String> = argv.iter().map(|&arg| arg.to_owned()).collect();
        let env = env.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
        let error = start(&argv, &env, None).unwrap_err();
        assert!(error.contains(reason), "{error}");
    }

    #[test]
    fn what_cannot_start_says_why() {
        check(&[], &[], "no program is named");
        check(&["nonsense"], &[("PATH", "/bin:/usr/bin")], "no such program in PATH (/bin:/usr/bin)");
        check(&["/nonsense"], &[], "no such file");
        check(&["/bin"], &[], "it is a folder");
        check(&["/etc/passwd"], &[], "it is not executable");
        check(&["passwd"], &[("PATH", "/etc")], "`/etc/passwd` is not executable");
        check(&["/bin/true", "a\0b"], &[], "an argument contains a NUL byte");
        check(&["/bin/true"], &[("A=B", "c")], "`A=B` is no name");
        check(&["/bin/true"], &[("A", "\0")], "an environment variable contains a NUL byte");
    }

    #[test]
    fn a_program_that_is_still_written_is_waited_for_and_not_for_ever() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("program");
        std::fs::copy("/bin/true", &program).unwrap();
        let argv = [program.display().to_string()];
        let writer = std::fs::OpenOptions::new().append(true).open(&program).unwrap();
        assert_eq!(start(&argv, &BTreeMap::new(), None).unwrap_err(), "somebody is still writing it");
        let closing = thread::spawn(move || {
            thread::sleep(Duration::from_millis(50));
            drop(writer);
        });
        let pid = start(&argv, &BTreeMap::new(), None).unwrap();
        closing.join().unwrap();
        rustix::process::waitpid(rustix::process::Pid::from_raw(pid), rustix::process::WaitOptions::empty()).unwrap();
    }
}
