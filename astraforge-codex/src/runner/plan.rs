//! The outline of a run: fixed, made without a model, and it says so.

use astraforge_core::{
    repository::RepositoryEnvironment,
    request::{Plan, PlanStep},
};

/// The steps that a run on this repository takes.
pub(super) fn outline(prompt: &str, environment: &RepositoryEnvironment) -> Plan {
    let first_line = prompt.trim().lines().next().unwrap_or_default();
    let subject: String = first_line.chars().take(120).collect();
    let branch = environment.base_branch.as_deref().unwrap_or("the default branch");
    let mut steps = vec![step(format!("Clone the repository at {branch} into an isolated workspace"), None)];
    if let Some(setup) = &environment.setup {
        steps.push(step(format!("Run the setup command: {setup}"), Some("a setup that fails ends the run")));
    }
    steps.push(step(format!("Let the agent look for what bears on: {subject}"), None));
    steps.push(step(
        "Let the agent make the change",
        Some("the agent may misunderstand the request; the diff shows it"),
    ));
    if let Some(test) = &environment.test {
        steps.push(step(
            format!("Run the tests: {test}"),
            Some("tests that fail are shown, and do not hold the change back"),
        ));
    }
    steps.push(step("Show the exact diff for approval; nothing leaves before it is approved", None));
    Plan {
        steps,
        summary: "A fixed outline of a run, made from the request and the repository's settings; no model was asked."
            .to_owned(),
    }
}

fn step(description: impl Into<String>, risk: Option<&str>) -> PlanStep {
    PlanStep { description: description.into(), completed: false, risk: risk.map(str::to_owned) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_outline_names_what_the_repository_runs() {
        let environment = RepositoryEnvironment {
            setup: Some("make deps".into()),
            test: Some("make test".into()),
            ..Default::default()
        };
        let plan = outline("Cache the loader\nmore", &environment);
        let text = plan.steps.iter().map(|step| step.description.as_str()).collect::<Vec<_>>().join("\n");
        assert!(
            text.contains("make deps") && text.contains("make test") && text.contains("Cache the loader"),
            "{text}"
        );
        assert!(plan.summary.contains("no model was asked"));
        assert_eq!(outline("x", &RepositoryEnvironment::default()).steps.len(), 4);
    }
}
