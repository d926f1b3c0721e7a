//! A screen, its mouse and its keyboard, in a sandbox of an image like the one of `deploy/images/desktop`.

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

#[tokio::test]
async fn a_screen_is_seen_and_its_mouse_and_keyboard_do_as_they_are_told() {
    let Ok(image) = std::env::var(IMAGE) else {
        return eprintln!("skipped: {IMAGE} names no image with a screen");
    };
    let Some(config) = config() else { return };
    let sandboxes = Sandboxes::new(Arc::new(Tidy::new(config).await));
    let id = SandboxId::random();
    let spec = SandboxSpec::default().with_image(image.parse().unwrap());
    let machine = sandboxes.make(id, spec).await.unwrap().machine;
    let machine = machine.as_ref();
    let before = eventually("a screen", async || picture(machine).await).await;

    mouse(machine, MouseInput::Move { x: 300, y: 200 }).await.unwrap();
    let place = text(&run(machine, Command::new(["xdotool", "getmouselocation"])).await);
    assert!(place.starts_with("x:300 y:200 "), "{place}");

    let terminal = machine.exec(Command::shell(TERMINAL)).await.unwrap();
    let search = Command::new(["xdotool", "search", "--sync", "--onlyvisible", "--class", "xterm"]);
    assert!(run(machine, search).await.exit.success());
    mouse(machine, MouseInput::Click { x: 200, y: 200, button: MouseButton::Left }).await.unwrap();
    keyboard(machine, &KeyboardInput::Text("Grüße, screen!".to_owned())).await.unwrap();
    let after = eventually("a change", async || picture(machine).await.filter(|it| *it != before)).await;
    assert!(after.starts_with(b"\x89PNG"));
    keyboard(machine, &KeyboardInput::Keys("Return".to_owned())).await.unwrap();
    let typed = eventually("the text", async || {
        machine.read_file("/workspace/typed", 100).await.ok().filter(|it| !it.is_empty())
    });
    assert_eq!(typed.await, "Grüße, screen!\n");
    drop(terminal);
    sandboxes.remove(id).await.unwrap();
}
