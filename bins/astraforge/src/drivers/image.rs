//! The image of sandboxes that ask for none, on drivers that have images.

use astraforge_core::image::{Image, ParseImageError};
use clap::Args;

/// What is used where nothing is named.
const DEFAULT: &str = "astraforge/codex-cli:latest";

/// What sandboxes see as their system unless they ask for something else.
#[derive(Debug, Clone, Args)]
pub(crate) struct ImageArgs {
    /// Image of sandboxes that ask for none, on Docker and Kubernetes [default: CODEX_WORKSPACE_IMAGE, else
    /// astraforge/codex-cli:latest]
    #[arg(long, global = true, env = "SANDBOX_IMAGE", value_name = "IMAGE")]
    sandbox_image: Option<Image>,
    /// Image of sandboxes, where SANDBOX_IMAGE is not set
    #[arg(long, global = true, env = "CODEX_WORKSPACE_IMAGE", hide = true)]
    codex_workspace_image: Option<Image>,
}

impl ImageArgs {
    /// Whether one is named, rather than taken for want of a name.
    pub(crate) fn is_named(&self) -> bool {
        self.sandbox_image.is_some() || self.codex_workspace_image.is_some()
    }

    /// The default image.
    pub(crate) fn image(&self) -> Result<Image, ParseImageError> {
        match self.sandbox_image.as_ref().or(self.codex_workspace_image.as_ref()) {
            Some(image) => Ok(image.clone()),
            None => DEFAULT.parse(),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        image: ImageArgs,
    }

    #[test]
    fn the_image_of_sandboxes_comes_before_that_of_workspaces() {
        let check = |words: &[&str], expected: &str| {
            let line = Line::try_parse_from(["x"].iter().chain(words)).unwrap();
            assert_eq!(line.image.image().unwrap().as_str(), expected, "{words:?}");
        };
        check(&[], DEFAULT);
        check(&["--codex-workspace-image", "a:1"], "a:1");
        check(&["--codex-workspace-image", "a:1", "--sandbox-image", "b:1"], "b:1");
    }
}
