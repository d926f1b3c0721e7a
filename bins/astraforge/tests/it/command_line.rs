//! The command line, as a person or a script types it.

use std::{
    fs,
    io::{BufRead, BufReader},
    process::{Command, Output, Stdio},
};

use astraforge_http::wire::repository_link::EnvironmentBody;
use serde_json::Value;

use crate::world::{World, git, one_command, say, step};

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a command that must work.
#[track_caller]
fn works(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}\n{}{}", stdout(&output), String::from_utf8_lossy(&output.stderr));
    stdout(&output)
}

/// Runs a command that must fail, with these words.
#[track_caller]
fn fails(command: &mut Command, words: &str) {
    let output = command.output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && error.contains(words), "{command:?}\n{}{error}", stdout(&output));
}

/// A world without a server, and a clone with one commit in it.
fn clone_world() -> (World, std::path::PathBuf) {
    let world = World::without_server(one_command("echo made > made"));
    let clone = world.make_repository("origin", |clone| fs::write(clone.join("README.md"), "# mine\n").unwrap());
    (world, clone)
}

#[test]
fn a_clone_is_worked_on_and_changed_only_by_apply() {
    let (world, clone) = clone_world();
    let before = git(&clone, &["for-each-ref"]);
    let ran = works(world.astraforge().args(["run", "--yes", "--json", "--repo"]).arg(&clone).arg("Make it"));
    let summary: Value = serde_json::from_str(ran.lines().last().unwrap()).unwrap();
    assert_eq!(summary["state"], "published", "{ran}");
    assert_eq!(git(&clone, &["for-each-ref"]), before, "the clone is read, not written");

    let request = summary["request_id"].as_str().unwrap();
    works(world.astraforge().args(["apply", request, "--repo"]).arg(&clone));
    let branch = summary["merge_request"]["source_branch"].as_str().unwrap();
    assert_eq!(git(&clone, &["rev-parse", branch]), summary["merge_request"]["commit"].as_str().unwrap());
    assert_eq!(git(&clone, &["show", &format!("{branch}:made")]), "made");
}

#[test]
fn without_a_person_a_change_waits_and_is_approved_later() {
    let (world, clone) = clone_world();
    let ran = works(world.astraforge().args(["run", "--repo"]).arg(&clone).arg("Make it"));
    assert!(ran.contains("Not approved.") && ran.contains("+made"), "{ran}");
    let listed: Value = serde_json::from_str(&works(world.astraforge().args(["requests", "--json"]))).unwrap();
    let request = listed[0]["id"].as_str().unwrap().to_owned();
    assert_eq!(listed[0]["state"], "PATCH_READY");
    let stale = format!("sha256:{}", "0".repeat(64));
    fails(world.astraforge().args(["approve", &request, "--digest", &stale]), "look at it again");
    let approved = works(world.astraforge().args(["approve", &request]));
    assert!(approved.contains("approved sha256:"), "{approved}");
    assert!(works(world.astraforge().args(["mr", &request])).contains("Reviewed by rules"));
    assert!(works(world.astraforge().args(["logs", &request])).contains("Execution finished"));
}

#[test]
fn commands_use_the_server_that_runs_on_the_data_folder() {
    let world = World::new(vec![step(0, say("Fine."))]);
    let ran = works(world.astraforge().args(["run", "--repo", "demo", "Is it fine?"]));
    assert!(ran.contains("The agent changed nothing."), "{ran}");
    fails(world.astraforge().args(["up", "--listen", "127.0.0.1:0"]), "another AstraForge runs");
}

#[test]
fn mistakes_are_told_with_what_to_do() {
    let world = World::without_server(vec![step(0, say("Fine."))]);
    fails(world.astraforge().args(["run", "  "]), "may not be blank");
    fails(world.astraforge().args(["run", "--repo", "/nowhere", "x"]), "there is no such folder");
    fails(world.astraforge().args(["run", "--repo", "https://github.com/a/b", "x"]), "GitHub and GitLab are coming");
    fails(world.astraforge().args(["run", "--repo"]).arg(world.scratch.path()).arg("x"), "not in a git repository");
    fails(world.astraforge().args(["diff", "x"]), "is not a valid request id");
    fails(world.astraforge().args(["logs", "01a20380-757b-7283-91c1-838b0019b98d"]), "not found");
    fails(world.astraforge().args(["requests", "--server", "http://127.0.0.1:9"]), "--api-key");
    fails(world.astraforge().args(["requests", "--server", "http://127.0.0.1:9", "--api-key", "k"]), "127.0.0.1:9");
}

/// Starts `run`, interrupts it like Ctrl-C when its agent is at work, and returns the request and what it said.
fn interrupted(world: &World, repository: &str) -> (String, String) {
    let mut command = world.astraforge();
    command.args(["run", "--repo", repository, "Take your time"]);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let first = lines.next().unwrap();
    let request = first.strip_prefix("request ").unwrap().to_owned();
    lines.find(|line| line.contains("Starting Codex CLI session")).unwrap();
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    lines.for_each(drop);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    (request, String::from_utf8(output.stderr).unwrap())
}

#[test]
fn an_interrupted_run_leaves_no_sandbox_and_says_where_it_stands() {
    let world = World::without_server(one_command("sleep 60"));
    world.make_repository("demo", |clone| fs::write(clone.join("README.md"), "# demo\n").unwrap());
    let (request, said) = interrupted(&world, "demo");
    assert!(said.contains(&format!("astraforge requests {request}")), "{said}");
    assert!(world.sandbox_processes().is_empty(), "they are gone with the command, not some time later");
    world.assert_no_sandbox();
    assert!(works(world.astraforge().args(["requests", &request])).contains("CANCELLED"));
    assert!(works(world.astraforge().args(["logs", &request])).contains("Run cancelled"));
}

#[test]
fn a_reader_that_has_had_enough_ends_a_run_in_order() {
    let world = World::without_server(one_command("sleep 60"));
    world.make_repository("demo", |clone| fs::write(clone.join("README.md"), "# demo\n").unwrap());
    let mut command = world.astraforge();
    command.args(["run", "--repo", "demo", "Take your time"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let first = lines.next().unwrap();
    // The run has begun; what is told of it after this has no reader.
    assert!(lines.any(|line| line.contains("Provisioning")));
    drop(lines);
    assert_eq!(child.wait().unwrap().code(), Some(130), "the run did not end well");
    assert!(world.sandbox_processes().is_empty());
    let request = first.trim().strip_prefix("request ").unwrap().to_owned();
    assert!(works(world.astraforge().args(["requests", &request])).contains("CANCELLED"));
}

#[test]
fn an_output_that_takes_nothing_is_an_error() {
    let world = World::without_server(Vec::new());
    let mut command = world.astraforge();
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = command.arg("config").stdout(full).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("cannot write to standard output: No space left"), "{said}");
}

#[test]
fn a_run_at_a_server_goes_on_when_its_command_is_interrupted() {
    let world = World::new(one_command("sleep 60"));
    let (request, said) = interrupted(&world, "demo");
    assert!(said.contains(&format!("astraforge logs -f {request}")), "{said}");
    assert!(works(world.astraforge().args(["requests", &request])).contains("EXECUTING"));
    assert!(works(world.astraforge().args(["cancel", &request])).contains("cancel"));
}

#[tokio::test]
async fn looking_at_a_request_does_not_begin_what_waits_in_its_queue() {
    let mut world = World::without_server(one_command("sleep 60"));
    world.options = vec!["--workers".to_owned(), "1".to_owned()];
    for name in ["demo", "other"] {
        world.make_repository(name, |clone| fs::write(clone.join("README.md"), "# demo\n").unwrap());
    }
    world.start();
    let at_work = world.submit("Take your time").await.to_string();
    let waiting = world.submit_for("other", "Wait", EnvironmentBody::default()).await.to_string();
    world.kill();
    let looked = works(world.astraforge().args(["requests", &at_work]));
    assert!(!looked.contains(&waiting), "{looked}");
    let shown: Value = serde_json::from_str(&works(world.astraforge().args(["--json", "requests", &waiting]))).unwrap();
    assert_eq!(shown["state"], "RECEIVED", "{shown}");
    let last = works(world.astraforge().args(["requests", "--limit", "1"]));
    assert!(last.contains(&waiting) && !last.contains(&at_work) && last.contains("with --limit"), "{last}");
    let all = works(world.astraforge().args(["requests", "--limit", "2"]));
    assert!(all.contains(&waiting) && all.contains(&at_work) && !all.contains("with --limit"), "{all}");
    world.assert_no_sandbox();
}

#[test]
fn the_branch_of_a_change_is_the_one_that_is_checked_out() {
    let (world, clone) = clone_world();
    git(&clone, &["checkout", "--quiet", "-b", "feature"]);
    let target = |options: &[&str]| {
        let ran = works(world.astraforge().args(["run", "--yes", "--json", "--repo"]).arg(&clone).args(options));
        let summary: Value = serde_json::from_str(ran.lines().last().unwrap()).unwrap();
        summary["merge_request"]["target_branch"].as_str().unwrap().to_owned()
    };
    assert_eq!(target(&["--branch", "main", "Make it"]), "main");
    assert_eq!(target(&["Make it"]), "feature", "what was given once does not stick");
    git(&clone, &["checkout", "--quiet", "--detach"]);
    fails(world.astraforge().args(["run", "--repo"]).arg(&clone).arg("x"), "--branch NAME");
    fs::write(clone.join("new"), "").unwrap();
    let ran = world.astraforge().args(["run", "--branch", "main", "--repo"]).arg(&clone).arg("x").output().unwrap();
    assert!(String::from_utf8(ran.stderr).unwrap().contains("one file is not committed"));
}

#[test]
fn the_stub_agent_says_that_it_is_one() {
    let (mut world, clone) = clone_world();
    world.options = vec!["--executor".to_owned(), "stub".to_owned()];
    let ran = works(world.astraforge().args(["run", "--yes", "--repo"]).arg(&clone).arg("Make it"));
    assert!(ran.contains("stub"), "{ran}");
}

#[test]
fn doctor_and_completions_answer() {
    let world = World::without_server(vec![step(0, say("Fine."))]);
    let checks: Value = serde_json::from_str(&works(world.astraforge().args(["doctor", "--json"]))).unwrap();
    assert!(checks.as_array().unwrap().iter().all(|check| check["status"] != "fail"), "{checks}");
    assert!(works(world.astraforge().args(["completions", "bash"])).contains("astraforge"));
}

#[test]
fn applying_again_changes_nothing_and_never_moves_what_is_checked_out() {
    let (world, clone) = clone_world();
    let ran = works(world.astraforge().args(["run", "--yes", "--json", "--repo"]).arg(&clone).arg("Make it"));
    let summary: Value = serde_json::from_str(ran.lines().last().unwrap()).unwrap();
    let request = summary["request_id"].as_str().unwrap();
    let branch = summary["merge_request"]["source_branch"].as_str().unwrap();
    let apply = || {
        let mut command = world.astraforge();
        command.args(["apply", request, "--repo"]).arg(&clone);
        command
    };
    works(&mut apply());
    git(&clone, &["checkout", "--quiet", branch]);
    works(&mut apply());
    git(&clone, &["commit", "--quiet", "--allow-empty", "--message", "mine"]);
    works(&mut apply());
    assert_eq!(git(&clone, &["log", "-1", "--format=%s"]), "mine", "what the person added stays");
    git(&clone, &["reset", "--quiet", "--hard", "main"]);
    fails(&mut apply(), "git merge --ff-only");
    git(&clone, &["commit", "--quiet", "--allow-empty", "--message", "other"]);
    fails(&mut apply(), "commits of its own");
    git(&clone, &["checkout", "--quiet", "main"]);
    git(&clone, &["branch", "--quiet", "--force", branch, "main"]);
    works(&mut apply());
}

#[test]
fn settings_are_told_with_their_source_and_without_their_secrets() {
    let world = World::without_server(vec![step(0, say("Fine."))]);
    let config = || world.program(env!("CARGO_BIN_EXE_astraforge"));
    let mut command = config();
    command.args(["config", "--json", "--workers", "3"]).env("ASTRAFORGE_LEASE", "20").env("OPENAI_API_KEY", "hunter2");
    command.env("ASTRAFORGE_HEALTH_LISTEN", "127.0.0.1:1").env("LOG_LEVEL", "DEBUG").env("DEBUG", "");
    let told = works(&mut command);
    assert!(!told.contains("hunter2"), "{told}");
    let told: Value = serde_json::from_str(&told).unwrap();
    let setting = |name: &str| {
        let all = told["settings"].as_array().unwrap();
        let found = all.iter().find(|it| it["variable"] == name).unwrap_or_else(|| panic!("{name}: {told}"));
        format!("{} {}", found["source"].as_str().unwrap(), found["value"].as_str().unwrap_or("-"))
    };
    assert_eq!(setting("ASTRAFORGE_WORKERS"), "argument 3");
    assert_eq!(setting("ASTRAFORGE_LEASE"), "variable 20");
    assert_eq!(setting("OPENAI_API_KEY"), "variable ***");
    assert_eq!(setting("ASTRAFORGE_HEALTH_LISTEN"), "variable 127.0.0.1:1");
    assert_eq!(setting("LLM_PROXY_MAX_IN_FLIGHT"), "default 256");
    assert_eq!(setting("ASTRAFORGE_LISTEN"), "default 127.0.0.1:8001");
    assert_eq!(told["ignored"][0]["variable"], "LOG_LEVEL");
    assert_eq!(told["ignored"].as_array().unwrap().len(), 1, "one that is set to nothing is not set: {told}");
    let output = config().args(["config"]).env("ASTRAFORGE_LAESE", "20").env("EVENT_BUS", "redis").output().unwrap();
    let text = stdout(&output);
    assert!(!output.status.success() && text.contains("nearest one is ASTRAFORGE_LEASE"), "{text}");
    assert!(text.contains("REDIS_URL names no server"), "{text}");
}

#[test]
fn every_server_refuses_a_variable_that_is_a_mistake_and_tells_of_one_that_is_ignored() {
    let world = World::without_server(vec![step(0, say("Fine."))]);
    for (program, words) in [
        (env!("CARGO_BIN_EXE_astraforge"), &["up", "--listen", "127.0.0.1:0"][..]),
        // With a server of its own.
        (env!("CARGO_BIN_EXE_astraforge"), &["run", "--repo", "demo", "x"]),
        (env!("CARGO_BIN_EXE_astraforge-api"), &[]),
        (env!("CARGO_BIN_EXE_astraforge-worker"), &[]),
        (env!("CARGO_BIN_EXE_astraforge-proxy"), &[]),
    ] {
        let run = |name: &str, value: &str| {
            let mut command = world.program(program);
            // None of them comes further than its configuration.
            let command = command.args(words).env("EVENT_BUS", "redis").env("SECRET_KEY", "x").env(name, value);
            command.env("DATABASE_URL", "");
            let output = command.output().unwrap();
            assert!(!output.status.success(), "{program}");
            String::from_utf8_lossy(&output.stderr).into_owned()
        };
        let said = run("ASTRAFORGE_LAESE", "20");
        assert!(said.contains("ASTRAFORGE_LAESE: there is no such variable"), "{program}: {said}");
        assert!(said.contains("SECRET_KEY is set: use ASTRAFORGE_SECRET_KEY instead"), "{program}: {said}");
        let said = run("SANDBOX_S3_BUKCET", "x");
        assert!(said.contains("is SANDBOX_S3_BUCKET meant?"), "{program}: {said}");
        if !program.ends_with("proxy") {
            let said = run("ASTRAFORGE_LEASE", "soon");
            assert!(said.contains("the environment variable ASTRAFORGE_LEASE"), "{program}: {said}");
        }
    }
}

#[test]
fn yes_and_no_are_said_in_a_variable_as_people_say_them() {
    let world = World::without_server(vec![step(0, say("Fine."))]);
    for (value, expected) in [("1", "true"), ("yes", "true"), ("true", "true"), ("0", "false"), ("off", "false")] {
        let mut command = world.program(env!("CARGO_BIN_EXE_astraforge"));
        command.args(["config", "--json"]).env("ASTRAFORGE_APPROVER_MUST_DIFFER", value);
        let told: Value = serde_json::from_str(&works(&mut command)).unwrap();
        let all = told["settings"].as_array().unwrap();
        let found = all.iter().find(|it| it["variable"] == "ASTRAFORGE_APPROVER_MUST_DIFFER").unwrap();
        assert_eq!(found["value"], expected, "{value}");
    }
}
