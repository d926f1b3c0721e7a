//! Ports: what the core needs from the world outside, one trait a file.

pub mod guest_service;
pub mod sessions;
