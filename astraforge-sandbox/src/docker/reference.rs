//! Names of images, as an engine's registry protocol spells them.

use astraforge_core::image::Image;

use crate::driver::DriverError;

/// Returns the name that the engine is given; one without tag and digest means `latest`, as everywhere.
///
/// An [`Image`] cannot be an option already. Here it must be a reference too: what has `..` in it, for instance, would
/// be another address of the engine's interface.
pub(super) fn of(image: &Image) -> Result<String, DriverError> {
    let refused =
        |reason: &str| DriverError::Unsupported { what: format!("the image {image}"), reason: reason.to_owned() };
    if image.as_path().is_some() {
        return Err(refused(&format!(
            "an engine has images of its own: give it {image} with `docker load` or `docker import`, and name it"
        )));
    }
    let text = image.as_str();
    let (rest, digest) = text.split_once('@').map_or((text, None), |(rest, digest)| (rest, Some(digest)));
    let (name, tag) = match rest.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (rest, None),
    };
    let sound = is_name(name) && tag.is_none_or(is_tag) && digest.is_none_or(is_digest);
    if !sound {
        return Err(refused("write name:tag or registry/name@sha256:digest, in lower case"));
    }
    Ok(if tag.is_none() && digest.is_none() { format!("{text}:latest") } else { text.to_owned() })
}

/// Path components, of which the first may be the address of a registry.
fn is_name(name: &str) -> bool {
    let (first, rest) = name.split_once('/').map_or((name, None), |(first, rest)| (first, Some(rest)));
    match rest {
        None => is_component(first),
        Some(rest) => (is_component(first) || is_registry(first)) && rest.split('/').all(is_component),
    }
}

fn is_component(text: &str) -> bool {
    let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let middle = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c);
    ends(text.chars().next()) && ends(text.chars().next_back()) && text.chars().all(middle) && !text.contains("..")
}

fn is_registry(text: &str) -> bool {
    let (host, port) = text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
    let label = |label: &str| {
        !label.is_empty() && !label.starts_with('-') && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
    };
    host.split('.').all(label) && port.is_none_or(|port| port.parse::<u16>().is_ok())
}

fn is_tag(text: &str) -> bool {
    let first = text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
    first && text.len() <= 128 && text.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
}

fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:").is_some_and(|hex| hex.len() == 64 && hex.chars().all(|c| c.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_a_reference_or_nothing() {
        let digest = format!("team/tools@sha256:{}", "a1".repeat(32));
        for name in ["python:3.11-slim", "Registry.example.com:5000/team/tools:v1", "a/b/c_d:x", digest.as_str()] {
            assert_eq!(of(&name.parse().unwrap()).unwrap(), name);
        }
        assert_eq!(of(&"busybox".parse().unwrap()).unwrap(), "busybox:latest");
        for name in
            ["a/../../containers/x", "a..b", "a/b:", "UPPER", "a@sha256:12", "a:b:c", "a@b", "/srv/image", "a/-b", "a:"]
        {
            let image: Image = name.parse().unwrap();
            assert!(matches!(of(&image), Err(DriverError::Unsupported { .. })), "{name}");
        }
    }
}
