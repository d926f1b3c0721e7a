//! Options of native sandboxes.

use std::path::{Path, PathBuf};

use astraforge_sandbox::native::NativeConfig;
use clap::Args;

/// Settings of native sandboxes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Native sandboxes")]
pub(crate) struct NativeArgs {
    /// Folder with the images that can be asked for by name: root folders, OCI layouts, archives
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
        let config = config.with_image_cache(root.join("image-cache"));
        self.images.iter().fold(config, NativeConfig::with_images)
    }
}
