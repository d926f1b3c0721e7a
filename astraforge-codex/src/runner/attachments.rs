//! Files that came with a request, shown to the agent outside of its repository.

use std::collections::BTreeSet;

use astraforge_core::{ports::executor::Assignment, run::RunFailure};

use super::{HOME, bench::Bench};

/// Writes the attachments into the sandbox and returns the prompt that names them.
pub(super) async fn deliver(bench: &Bench, assignment: &Assignment) -> Result<String, RunFailure> {
    let names = file_names(assignment.attachments.iter().map(|(attachment, _)| attachment.name.as_str()));
    let mut paths = Vec::new();
    for (name, (_, bytes)) in names.iter().zip(&assignment.attachments) {
        let path = format!("{HOME}/attachments/{name}");
        bench.write(&path, bytes.clone(), 0o644).await?;
        paths.push(path);
    }
    if paths.is_empty() {
        return Ok(assignment.prompt.clone());
    }
    bench.log.status("workspace", format!("Brought in {} attached files", paths.len())).await;
    let list: String = paths.iter().map(|path| format!("- {path}\n")).collect();
    Ok(format!("{}\n\nFiles that came with this request, outside of the repository:\n{list}", assignment.prompt))
}

/// Makes names that stay in one folder, differ from each other, and are safe to print.
fn file_names<'a>(names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut taken = BTreeSet::new();
    names
        .map(|name| {
            let plain: String = name
                .rsplit(['/', '\\'])
                .next()
                .unwrap_or_default()
                .chars()
                .map(|c| if c.is_alphanumeric() || " ._-+()".contains(c) { c } else { '_' })
                .take(120)
                .collect();
            let plain = if plain.trim_matches(['.', ' ']).is_empty() { "attachment".to_owned() } else { plain };
            let name = (1..)
                .map(|n| if n == 1 { plain.clone() } else { format!("{n}-{plain}") })
                .find(|name| !taken.contains(name));
            let name = name.unwrap_or(plain);
            taken.insert(name.clone());
            name
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_in_their_folder_and_differ() {
        let names = ["a.png", "../../etc/passwd", "a.png", "..", "", "x\ny`$(z)", "C:\\tmp\\b.txt"];
        let expected = ["a.png", "passwd", "2-a.png", "attachment", "2-attachment", "x_y__(z)", "b.txt"];
        assert_eq!(file_names(names.into_iter()), expected);
    }
}
