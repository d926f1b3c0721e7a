//! What the sandboxes promise, tried from outside.

mod corpus;
#[cfg(feature = "docker")]
mod docker;
mod guest;
mod guest_process;
#[cfg(any(feature = "docker", feature = "native"))]
mod guest_program;
#[cfg(feature = "k8s")]
mod kubernetes;
#[cfg(feature = "native")]
mod native;
mod process_driver;
