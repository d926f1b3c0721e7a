//! Git as plain values: the arguments and environment of each call, and what its answers mean. Nothing here runs git.

pub mod argv;
pub mod parse;
pub mod refname;
