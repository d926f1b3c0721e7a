//! What the sandboxes promise, tried from outside.

mod guest;
mod guest_process;
mod process_driver;
