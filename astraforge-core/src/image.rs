//! What a sandbox sees as its system, by name.

use std::{fmt, path::Path, str::FromStr};

use serde::{Deserialize, Serialize};

/// What a sandbox sees as its system: `python:3.11-slim`, `registry.example.com/team/tools@sha256:…`, or the absolute
/// path of a root folder, an OCI image layout or an image archive on the host.
///
/// A name that could be taken for an option, or that holds blanks, is no image.
///
/// ```
/// use astraforge_core::image::Image;
///
/// assert_eq!("python:3.11-slim".parse::<Image>()?.as_str(), "python:3.11-slim");
/// assert!("--privileged".parse::<Image>().is_err());
/// # Ok::<(), astraforge_core::image::ParseImageError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Image(String);

/// A text that names no image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` names no image: write name:tag, registry/name@sha256:digest, or an absolute path")]
pub struct ParseImageError(String);

impl Image {
    /// Returns the name or path.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the path on the host, when the image is one.
    #[must_use]
    pub fn as_path(&self) -> Option<&Path> {
        self.0.starts_with('/').then(|| Path::new(&self.0))
    }
}

impl FromStr for Image {
    type Err = ParseImageError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let path = |c: char| !c.is_control();
        let name = |c: char| c.is_ascii_alphanumeric() || "._-/:@".contains(c);
        let starts_well = text.starts_with(|c: char| c.is_ascii_alphanumeric());
        let sound = if text.starts_with('/') {
            text.len() <= 4096 && text.chars().all(path)
        } else {
            text.len() <= 255 && starts_well && text.chars().all(name) && !text.contains("//") && !text.ends_with('/')
        };
        sound.then(|| Self(text.to_owned())).ok_or_else(|| ParseImageError(text.chars().take(80).collect()))
    }
}

impl fmt::Display for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Image {
    type Error = ParseImageError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Image> for String {
    fn from(image: Image) -> Self {
        image.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_be_an_option_or_holds_blanks_is_no_image() {
        for name in
            ["busybox", "python:3.11-slim", "registry.example.com:5000/team/tools@sha256:abcd", "/srv/images/root fs"]
        {
            assert!(name.parse::<Image>().is_ok(), "{name}");
        }
        for name in ["", "--privileged", "-v=/:/host", "a b", "a\nb", "a//b", "a/", "/a\nb", ":tag", &"a".repeat(256)] {
            assert!(name.parse::<Image>().is_err(), "{name:?}");
        }
    }
}
