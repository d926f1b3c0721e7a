//! Runs Codex.
