//! A screen, its mouse and its keyboard, in a sandbox of an image like the one of `deploy/images/desktop`.
//!
//! `cargo xtask test` does not run this: the image takes a registry and minutes to build. Where both can be had:
//!
//! ```text
//! docker build --tag astraforge/sandbox-desktop:latest deploy/images/desktop
//! ASTRAFORGE_TEST_DOCKER=/var/run/docker.sock ASTRAFORGE_TEST_DESKTOP_IMAGE=astraforge/sandbox-desktop:latest \
//!     cargo test --package astraforge-sandbox --all-features --test it -- --ignored docker::screen
//! ```

use std::{sync::Arc, time::Duration};

use astraforge_core::{
    id::SandboxId,
    ports::{
        machines::{Machine, Machines},
        sessions::SessionError,
    },
    screen::{KeyboardInput, MouseButton, MouseInput, keyboard, mouse, screenshot},
    session::{Command, SandboxSpec},
};
use astraforge_sandbox::sandboxes::Sandboxes;

use super::{PATIENCE, Tidy, config, run, text};

/// Names the image that the engine has.
const IMAGE: &str = "ASTRAFORGE_TEST_DESKTOP_IMAGE";

/// Writes what is typed into it.
const TERMINAL: &str = "xterm -geometry 80x20+100+100 -e sh -c 'read -r line; echo \"$line\" > /workspace/typed'";

/// Where the terminal is, whatever the window manager puts around it: width, height and place in pixels.
const WINDOW: &str = "480x260+100+100";

/// Waits until it is so, and returns what came of it.
async fn eventually<T>(what: &str, is_so: impl AsyncFn() -> Option<T>) -> T {
    let wait = async {
        loop {
            match is_so().await {
                Some(value) => break value,
                None => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("{what} does not come"))
}

async fn picture(machine: &dyn Machine) -> Option<bytes::Bytes> {
    match screenshot(machine).await {
        Ok(picture) => Some(picture),
        // The server starts in the background.
        Err(SessionError::Unsupported { .. }) => None,
        Err(error) => panic!("{error}"),
    }
}

/// What the terminal shows: the same text for the same points. All else on the screen, a clock for instance, changes by
/// itself, and a picture may hold the time at which it was taken.
async fn shown(machine: &dyn Machine) -> Option<String> {
    let picture = picture(machine).await?;
    let points = Command::new(["convert", "png:-", "-crop", WINDOW, "-format", "%#", "info:-"]).with_stdin(picture);
    let output = run(machine, points).await;
    assert!(output.exit.success(), "{output:?}");
    Some(text(&output))
}

/// The same, once it stays so by itself.
async fn shown_for_good(machine: &dyn Machine) -> Option<String> {
    let first = shown(machine).await?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    shown(machine).await.filter(|second| *second == first)
}

#[tokio::test]
#[ignore = "needs an image with a screen in ASTRAFORGE_TEST_DESKTOP_IMAGE and an engine that has it: \
            `cargo test --package astraforge-sandbox --all-features --test it -- --ignored docker::screen`"]
async fn a_screen_is_seen_and_its_mouse_and_keyboard_do_as_they_are_told() {
    let image = std::env::var(IMAGE).unwrap_or_else(|_| panic!("{IMAGE} names no image with a screen"));
    let config = config().expect("there is an engine");
    let sandboxes = Sandboxes::new(Arc::new(Tidy::new(config).await));
    let id = SandboxId::random();
    let spec = SandboxSpec::default().with_image(image.parse().unwrap());
    let machine = sandboxes.make(id, spec).await.unwrap().machine;
    let machine = machine.as_ref();
    let whole = eventually("a screen", async || picture(machine).await).await;
    assert!(whole.starts_with(b"\x89PNG"));

    mouse(machine, MouseInput::Move { x: 300, y: 200 }).await.unwrap();
    let place = text(&run(machine, Command::new(["xdotool", "getmouselocation"])).await);
    assert!(place.starts_with("x:300 y:200 "), "{place}");

    let terminal = machine.exec(Command::shell(TERMINAL)).await.unwrap();
    // It fails too when a window vanishes that it is about to look at, as some do while the window manager starts.
    let search = Command::new(["xdotool", "search", "--onlyvisible", "--class", "xterm"]);
    let is_seen = async || run(machine, search.clone()).await.exit.success().then_some(());
    eventually("a terminal", is_seen).await;
    mouse(machine, MouseInput::Click { x: 200, y: 200, button: MouseButton::Left }).await.unwrap();
    let before = eventually("a terminal that waits", async || shown_for_good(machine).await).await;
    keyboard(machine, &KeyboardInput::Text("Grüße, screen!".to_owned())).await.unwrap();
    eventually("the text on the screen", async || shown(machine).await.filter(|it| *it != before)).await;
    keyboard(machine, &KeyboardInput::Keys("Return".to_owned())).await.unwrap();
    let typed = eventually("the text in the file", async || {
        machine.read_file("/workspace/typed", 100).await.ok().filter(|it| !it.is_empty())
    });
    assert_eq!(typed.await, "Grüße, screen!\n");
    drop(terminal);
    sandboxes.remove(id).await.unwrap();
}
