//! The request spine, from prompt to reviewed merge request, over ports in memory.

mod spine;
