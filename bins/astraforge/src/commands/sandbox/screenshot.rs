//! `sandbox screenshot`.

use anyhow::Context;
use astraforge_core::screen;
use serde_json::json;

use super::{Desk, sandbox_id};
use crate::cli::ScreenshotArgs;

impl Desk<'_> {
    pub(super) async fn screenshot(&self, args: &ScreenshotArgs) -> anyhow::Result<()> {
        let machine = self.machine(sandbox_id(&args.id)?).await?;
        let picture = screen::screenshot(machine.as_ref()).await?;
        std::fs::write(&args.file, &picture).with_context(|| format!("cannot write {}", args.file.display()))?;
        let text = format!("{} bytes to {}", picture.len(), args.file.display());
        self.say(&json!({ "path": args.file.display().to_string(), "bytes": picture.len() }), &text)
    }
}
