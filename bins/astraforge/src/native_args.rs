//! Options of native sandboxes.

use std::path::{Path, PathBuf};

use astraforge_sandbox::native::NativeConfig;
use clap::Args;

/// Settings of native sandboxes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Native sandboxes")]
pub(crate) struct NativeArgs {
    /// Folder with the images that can be asked for: root folders, OCI layouts, archives [default: DATA/images]
    #[arg(long, global = true, env = "SANDBOX_IMAGES", value_name = "FOLDER")]
    pub(crate) images: Option<PathBuf>,
    /// How many sandboxes a server keeps ready, of each kind, for whoever asks next
    #[arg(long, global = true, env = "SANDBOX_POOL", value_name = "N", default_value_t = 0,
          value_parser = clap::value_parser!(u16).range(0..=64))]
    pub(crate) pool: u16,
}

impl NativeArgs {
    /// Applies all but the pool, which is not for commands that are over at once.
    pub(crate) fn apply(&self, config: NativeConfig, root: &Path) -> NativeConfig {
        let images = self.images.clone().unwrap_or_else(|| root.join("images"));
        config.with_image_cache(root.join("image-cache")).with_images(images)
    }
}
