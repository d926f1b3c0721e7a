//! What is set, to what, and by whom: read from the programs' own description of their options, so that none is left
//! out.

use std::{
    collections::BTreeSet,
    ffi::{OsStr, OsString},
};

use astraforge_core::redact::Redactor;
use clap::{
    Arg, ArgMatches, Command, Error, Parser,
    builder::StyledStr,
    error::{ContextKind, ContextValue},
    parser::ValueSource,
};
use serde::Serialize;

/// What is shown of a secret.
const BLANK: &str = "***";

/// Where a value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Source {
    /// It was typed.
    Argument,
    /// The environment variable is set.
    Variable,
    /// Neither.
    Default,
}

/// One setting of a program.
#[derive(Debug, Serialize)]
pub(crate) struct Setting {
    /// The environment variable.
    pub(crate) variable: String,
    /// The option that comes before it.
    pub(crate) option: String,
    /// What it is set to, secrets blanked; `None` is nothing.
    pub(crate) value: Option<String>,
    /// Where the value comes from.
    pub(crate) source: Source,
    /// What is done where it is set to nothing, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) otherwise: Option<String>,
}

/// The settings of `command`, subcommands aside, as they are in `matches`.
pub(crate) fn settings(command: &Command, matches: &ArgMatches) -> Vec<Setting> {
    let setting = |arg: &Arg| {
        let variable = arg.get_env()?.to_string_lossy().into_owned();
        let source = match matches.value_source(arg.get_id().as_str()) {
            Some(ValueSource::CommandLine) => Source::Argument,
            Some(ValueSource::EnvVariable) => Source::Variable,
            _ => Source::Default,
        };
        let value = value(arg, matches);
        let otherwise = if value.is_none() { otherwise(arg) } else { None };
        Some(Setting { variable, option: option(arg), value, source, otherwise })
    };
    command.get_arguments().filter_map(setting).collect()
}

/// The environment variables that `command` and its subcommands read.
pub(crate) fn variables(command: &Command) -> BTreeSet<String> {
    let own = command.get_arguments().filter_map(Arg::get_env).map(|name| name.to_string_lossy().into_owned());
    own.chain(command.get_subcommands().flat_map(variables)).collect()
}

/// Reads the command line and the environment, or ends the program and says which option or variable is wrong.
pub(crate) fn read<P: Parser>() -> (P, ArgMatches) {
    let mut command = P::command();
    let typed: Vec<_> = std::env::args_os().collect();
    let matches = command.try_get_matches_from_mut(&typed);
    let matches = matches.map_err(|error| with_variable(error, &command, &typed, &is_set));
    let matches = matches.unwrap_or_else(|error| error.exit());
    let program = P::from_arg_matches(&matches).unwrap_or_else(|error| error.format(&mut command).exit());
    (program, matches)
}

/// What the environment alone tells a program; a variable that is wrong ends this one as it would that one.
pub(crate) fn untyped(mut command: Command) -> (Command, ArgMatches) {
    let matches = command.try_get_matches_from_mut([OsString::new()]);
    let matches = matches.map_err(|error| with_variable(error, &command, &[], &is_set));
    (command, matches.unwrap_or_else(|error| error.exit()))
}

fn is_set(variable: &OsStr) -> bool {
    std::env::var_os(variable).is_some()
}

/// The same error, with the name of the variable if its value is what is wrong: clap names the option only, which
/// nobody typed.
fn with_variable(mut error: Error, command: &Command, typed: &[OsString], is_set: &dyn Fn(&OsStr) -> bool) -> Error {
    let Some(ContextValue::String(wrong)) = error.get(ContextKind::InvalidArg) else { return error };
    // With the name of its value after it.
    let option = wrong.split([' ', '=', '[']).next().unwrap_or_default();
    let Some(variable) = variable_of(command, option).filter(|variable| is_set(variable)) else { return error };
    let is_typed = typed.iter().any(|word| {
        let word = word.to_string_lossy();
        word.strip_prefix(option).is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
    });
    if !is_typed {
        let tip = format!("the value is that of the environment variable {}", variable.to_string_lossy());
        let tip = StyledStr::from(tip);
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip]));
    }
    error
}

fn variable_of<'a>(command: &'a Command, typed: &str) -> Option<&'a OsStr> {
    let own = command.get_arguments().find(|arg| option(arg) == typed).and_then(Arg::get_env);
    own.or_else(|| command.get_subcommands().find_map(|command| variable_of(command, typed)))
}

/// What is typed for it.
pub(crate) fn option(arg: &Arg) -> String {
    arg.get_long().map(|long| format!("--{long}")).unwrap_or_default()
}

/// What its help says is done without a value.
fn otherwise(arg: &Arg) -> Option<String> {
    let help = arg.get_help()?.to_string();
    let (_, rest) = help.rsplit_once("[default: ")?;
    Some(rest.trim_end().trim_end_matches(']').split_whitespace().collect::<Vec<_>>().join(" "))
}

fn value(arg: &Arg, matches: &ArgMatches) -> Option<String> {
    if let Ok(Some(answer)) = matches.try_get_one::<bool>(arg.get_id().as_str()) {
        return Some(answer.to_string());
    }
    let values = matches.try_get_raw(arg.get_id().as_str()).ok()??;
    let shown = values.map(|value| match arg.is_hide_env_values_set() {
        true if !value.is_empty() => BLANK.to_owned(),
        _ => without_secrets(&value.to_string_lossy()),
    });
    Some(shown.collect::<Vec<_>>().join(&arg.get_value_delimiter().unwrap_or(' ').to_string()))
}

/// Blanks who is named in a URL, and what is asked of its server, and whatever else looks like a secret. Rather too much
/// than too little: a password may hold any character.
fn without_secrets(value: &str) -> String {
    let value = match value.split_once("://") {
        Some((scheme, rest)) => {
            let (rest, query) = rest.split_once('?').map_or((rest, ""), |(rest, _)| (rest, "?***"));
            match rest.rsplit_once('@') {
                Some((_, place)) => format!("{scheme}://{BLANK}@{place}{query}"),
                None => format!("{scheme}://{rest}{query}"),
            }
        }
        None => value.to_owned(),
    };
    Redactor::default().redact(&value)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::cli::Cli;

    fn found(words: &[&str], variable: &str) -> (Option<String>, Source) {
        let mut command = Cli::command();
        let matches = command.try_get_matches_from_mut([&["astraforge"], words, &["doctor"]].concat()).unwrap();
        let found = settings(&command, &matches).into_iter().find(|it| it.variable == variable).unwrap();
        (found.value, found.source)
    }

    #[test]
    fn a_setting_is_told_with_where_it_comes_from() {
        assert_eq!(found(&["--lease", "20"], "ASTRAFORGE_LEASE"), (Some("20".to_owned()), Source::Argument));
        assert_eq!(found(&[], "RUN_LOG_STREAM_PREFIX").0.as_deref(), Some("runlog"));
        assert_eq!(found(&["--toolchains", "/a:/b"], "SANDBOX_TOOLCHAINS").0.as_deref(), Some("/a:/b"));
        let none = found(&[], "SANDBOX_DOCKER_RUNTIME");
        assert_eq!(none, (None, Source::Default));
    }

    #[test]
    fn no_secret_is_shown() {
        for (words, variable) in [
            (["--openai-api-key", "hunter2"], "OPENAI_API_KEY"),
            (["--database-url", "postgres://a:hunter2@h/x"], "DATABASE_URL"),
            (["--redis-url", "redis://:hunter2@h"], "REDIS_URL"),
            (["--secret-key", "hunter2"], "ASTRAFORGE_SECRET_KEY"),
            (["--oidc-client-secret", "hunter2"], "OIDC_CLIENT_SECRET"),
            (["--llm-proxy-token", "hunter2"], "LLM_PROXY_TOKEN"),
            (["--api-key", "hunter2"], "ASTRAFORGE_API_KEY"),
            (["--llm-proxy-url", "http://a:hunter2@h"], "LLM_PROXY_URL"),
            (["--openai-base-url", "https://hunter2@h/v1"], "OPENAI_BASE_URL"),
            (["--openai-base-url", "https://h/v1?key=hunter2"], "OPENAI_BASE_URL"),
            (["--s3-endpoint", "http://a:hun/ter2@hunter2@h"], "SANDBOX_S3_ENDPOINT_URL"),
        ] {
            let value = found(&words, variable).0.unwrap();
            assert!(value.contains(BLANK) && !value.contains("ter2"), "{variable}: {value}");
        }
        assert_eq!(without_secrets("https://api.example/v1"), "https://api.example/v1");
        assert_eq!(found(&["--redis-url", ""], "REDIS_URL").0.as_deref(), Some(""), "set to nothing is told");
    }

    #[test]
    fn a_wrong_value_of_a_variable_is_told_by_the_variables_name() {
        let mut command = Cli::command();
        let typed = ["astraforge", "--lease", "soon", "doctor"];
        let error = command.try_get_matches_from_mut(typed).unwrap_err();
        let as_typed: Vec<_> = typed.iter().map(OsString::from).collect();
        let named = with_variable(error, &command, &as_typed, &|_| true);
        assert!(!named.to_string().contains("ASTRAFORGE_LEASE"), "who typed it knows: {named}");
        let named = with_variable(named, &command, &["astraforge".into(), "doctor".into()], &|_| true);
        assert!(named.to_string().contains("ASTRAFORGE_LEASE"), "{named}");
    }

    #[test]
    fn what_is_typed_wrong_where_no_variable_is_read_is_told_as_ever() {
        for typed in [&["astraforge", "jobs", "ls", "--state", "gone"][..], &["astraforge", "completions", "x"]] {
            let mut command = Cli::command();
            let error = command.try_get_matches_from_mut(typed).unwrap_err();
            let told = error.to_string();
            let typed: Vec<_> = typed.iter().map(OsString::from).collect();
            assert_eq!(with_variable(error, &command, &typed, &|_| true).to_string(), told);
        }
    }
}
