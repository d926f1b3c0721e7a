//! What the sandboxes promise, tried from outside.

mod guest;
mod guest_process;
#[cfg(feature = "native")]
mod native;
mod process_driver;
