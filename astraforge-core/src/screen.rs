//! The screen of a sandbox, its mouse and its keyboard, where the image has an X server and the programs for it.
//!
//! What is run and how its output is read is decided here; it is run like any other command.

use std::time::Duration;

use bytes::Bytes;

use crate::{
    ports::sessions::{Session, SessionError},
    session::{Command, ExecOutput, Exit},
};

/// How long a picture or a key may take.
const TIMEOUT: Duration = Duration::from_secs(30);
/// How long the pause is between two characters of a text that no keyboard has all of, in milliseconds: for each of those
/// a key is given another meaning, which programs have to hear of before it is pressed.
const PAUSE_MS: u16 = 60;
/// The largest picture that is taken, in bytes.
const MAX_PICTURE: usize = 32 * 1024 * 1024;
/// What is understood as: there is no screen, or no program for it.
const NO_SCREEN: i32 = 69;
/// The display that the contract's images use.
const DISPLAY: &str = "DISPLAY=${DISPLAY:-:99}; export DISPLAY";

/// Takes the picture with whichever program the image has.
const TAKE: &str = "if command -v import >/dev/null; then exec import -window root png:-; fi
if command -v scrot >/dev/null; then f=$(mktemp -d)/screen.png; scrot \"$f\" && cat \"$f\"; s=$?; rm -rf \"${f%/*}\"; exit $s; fi
if command -v xwd >/dev/null && command -v convert >/dev/null; then xwd -root -silent | convert xwd:- png:-; exit; fi
echo 'no program of the image takes pictures: install ImageMagick, scrot, or xwd with convert' >&2; exit 69";

/// Sends what is given as arguments.
const SEND: &str = "if command -v xdotool >/dev/null; then exec xdotool \"$@\"; fi
echo 'the image has no xdotool, which moves the mouse and presses keys' >&2; exit 69";

/// A button of a mouse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MouseButton {
    /// The first.
    Left,
    /// The wheel.
    Middle,
    /// The second.
    Right,
}

/// What a mouse does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum MouseInput {
    /// Moves to a place, in pixels from the top left.
    Move {
        /// To the right.
        x: u16,
        /// Down.
        y: u16,
    },
    /// Moves to a place and clicks there.
    Click {
        /// To the right.
        x: u16,
        /// Down.
        y: u16,
        /// With what.
        button: MouseButton,
    },
    /// Turns the wheel: down where it is positive.
    Scroll {
        /// How many notches.
        notches: i8,
    },
}

/// What a keyboard does.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyboardInput {
    /// Types a text.
    Text(String),
    /// Presses keys together, as `xdotool` names them: `ctrl+c`, `Return`, `F5`.
    Keys(String),
}

/// Takes a picture of the screen, as PNG.
///
/// # Errors
/// [`SessionError::Unsupported`] where there is no screen, which says what is missing.
pub async fn screenshot(session: &dyn Session) -> Result<Bytes, SessionError> {
    let output = run(session, "a screenshot", on_screen(TAKE, &[])).await?;
    if is_png(&output.stdout) && !output.truncated {
        Ok(output.stdout.into())
    } else {
        Err(unsupported("a screenshot", "what the image's program gave is no picture"))
    }
}

/// Moves the mouse, or clicks.
///
/// # Errors
/// [`SessionError::Unsupported`] where there is no screen, which says what is missing.
pub async fn mouse(session: &dyn Session, input: MouseInput) -> Result<(), SessionError> {
    run(session, "mouse input", on_screen(SEND, &mouse_words(input))).await.map(drop)
}

/// Presses keys.
///
/// # Errors
/// [`SessionError::Unsupported`] where there is no screen, which says what is missing.
pub async fn keyboard(session: &dyn Session, input: &KeyboardInput) -> Result<(), SessionError> {
    let command = on_screen(SEND, &keyboard_words(input)).with_timeout(TIMEOUT + typing_time(input));
    run(session, "keyboard input", command).await.map(drop)
}

fn on_screen(line: &str, words: &[String]) -> Command {
    let argv = ["/bin/sh", "-c", &format!("{DISPLAY}\n{line}"), "screen"].map(str::to_owned);
    Command::new(argv.into_iter().chain(words.iter().cloned())).with_cwd("/").with_timeout(TIMEOUT)
}

fn mouse_words(input: MouseInput) -> Vec<String> {
    let place = |x: u16, y: u16| ["mousemove".to_owned(), "--sync".to_owned(), x.to_string(), y.to_string()];
    match input {
        MouseInput::Move { x, y } => place(x, y).into(),
        MouseInput::Click { x, y, button } => {
            let button = match button {
                MouseButton::Left => 1,
                MouseButton::Middle => 2,
                MouseButton::Right => 3,
            };
            place(x, y).into_iter().chain(["click".to_owned(), button.to_string()]).collect()
        }
        MouseInput::Scroll { notches } => {
            let button = if notches < 0 { "4" } else { "5" };
            ["click", "--repeat", &notches.unsigned_abs().to_string(), button].map(str::to_owned).into()
        }
    }
}

fn keyboard_words(input: &KeyboardInput) -> Vec<String> {
    // What follows `--` is no option, whatever it begins with.
    match input {
        KeyboardInput::Text(text) if text.is_ascii() => ["type", "--", text].map(str::to_owned).into(),
        KeyboardInput::Text(text) => ["type", "--delay", &PAUSE_MS.to_string(), "--", text].map(str::to_owned).into(),
        KeyboardInput::Keys(keys) => ["key", "--", keys].map(str::to_owned).into(),
    }
}

/// How long the pauses of a text are together.
fn typing_time(input: &KeyboardInput) -> Duration {
    match input {
        KeyboardInput::Text(text) => {
            Duration::from_millis(PAUSE_MS.into()) * u32::try_from(text.chars().count()).unwrap_or(u32::MAX)
        }
        KeyboardInput::Keys(_) => Duration::ZERO,
    }
}

async fn run(session: &dyn Session, what: &str, command: Command) -> Result<ExecOutput, SessionError> {
    let output = match session.exec(command).await {
        Ok(execution) => execution.collect(MAX_PICTURE).await?,
        Err(SessionError::Spawn { reason, .. }) => return Err(unsupported(what, &format!("no shell: {reason}"))),
        Err(error) => return Err(error),
    };
    let said = String::from_utf8_lossy(&output.stderr);
    let said: String = said.lines().next().unwrap_or_default().chars().filter(|c| !c.is_control()).take(200).collect();
    match output.exit {
        Exit::Exited { code: 0 } => Ok(output),
        Exit::Exited { code: NO_SCREEN } => Err(unsupported(what, &said)),
        Exit::TimedOut => Err(unsupported(what, "the X server does not answer")),
        _ if said.is_empty() => Err(unsupported(what, "no X server answers at DISPLAY, which is :99 unless set")),
        _ => Err(unsupported(what, &format!("no X server answers at DISPLAY, which is :99 unless set ({said})"))),
    }
}

fn unsupported(what: &str, reason: &str) -> SessionError {
    SessionError::Unsupported { what: what.to_owned(), reason: reason.to_owned() }
}

/// Tells whether bytes are a whole PNG: its signature, a header with a size, and an end.
fn is_png(bytes: &[u8]) -> bool {
    const SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR";
    const END: &[u8] = b"IEND\xaeB`\x82";
    let is_sized = bytes.get(16..24).is_some_and(|size| size[..4] != [0; 4] && size[4..] != [0; 4]);
    bytes.starts_with(SIGNATURE) && is_sized && bytes.ends_with(END)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_is_whole_or_none() {
        let mut png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\x02\0\0\0\x01\0rest".to_vec();
        assert!(!is_png(&png), "it has no end");
        png.extend_from_slice(b"IEND\xaeB`\x82");
        assert!(is_png(&png));
        png[16..20].fill(0);
        assert!(!is_png(&png), "it has no width");
        assert!(!is_png(b"") && !is_png(b"import: unable to open X server"));
    }

    #[test]
    fn what_is_typed_never_becomes_an_option_or_a_command() {
        let command = on_screen(SEND, &keyboard_words(&KeyboardInput::Text("--delay; rm -rf /".to_owned())));
        assert_eq!(command.argv[3..], ["screen", "type", "--", "--delay; rm -rf /"]);
        let umlaut = KeyboardInput::Text("--ü".to_owned());
        assert_eq!(keyboard_words(&umlaut), ["type", "--delay", "60", "--", "--ü"]);
        assert_eq!(typing_time(&umlaut), Duration::from_millis(180));
        let click = MouseInput::Click { x: 3, y: 4, button: MouseButton::Right };
        assert_eq!(mouse_words(click).join(" "), "mousemove --sync 3 4 click 3");
        assert_eq!(mouse_words(MouseInput::Scroll { notches: -128 }).join(" "), "click --repeat 128 4");
    }
}
