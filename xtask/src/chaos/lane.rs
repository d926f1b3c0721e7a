//! One client's line of work: which sandboxes it has, what it does next, and what came of it.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context as _, ensure};

use super::{
    clients::Ended,
    dice::Dice,
    oracle::{Change, Files, Oracle, hash},
};

/// The names of files; few, so that they are written again and again.
const NAMES: [&str; 5] = ["./a", "./b", "./deep/c", "./deep/er/d", "./e f"];

/// A sandbox, and what is known of it.
#[derive(Debug)]
pub(crate) struct Sandbox {
    pub(crate) id: String,
    pub(crate) files: Oracle,
    /// The files of each snapshot.
    snapshots: BTreeMap<String, Vec<Files>>,
}

impl Sandbox {
    pub(crate) fn new(id: String, files: Oracle) -> Self {
        Self { id, files, snapshots: BTreeMap::new() }
    }
}

/// The sandboxes of one client after another: one to work in, and what came of it beside.
#[derive(Debug, Default)]
pub(crate) struct Lane {
    pub(crate) sandboxes: Vec<Sandbox>,
}

/// One command that is to be given.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    /// What it is, for the log.
    pub(crate) name: &'static str,
    /// The sandbox that it is about; none for a creation.
    pub(crate) sandbox: Option<String>,
    /// The words after `astraforge sandbox`.
    pub(crate) words: Vec<String>,
    change: Change,
}

/// What a command that did not end well may have left.
#[derive(Debug, Default)]
pub(crate) struct Loose {
    /// What sandboxes may hold that nobody was told of.
    pub(crate) made: Vec<Files>,
    /// Sandboxes that may be gone.
    pub(crate) deleted: Vec<String>,
}

impl Lane {
    /// Decides what is done next; two commands at once where they do not disturb each other.
    pub(crate) fn plan(&self, dice: &mut Dice, mark: &str, scratch: &Path) -> anyhow::Result<Vec<Step>> {
        let Some(main) = self.sandboxes.first() else { return Ok(vec![create()]) };
        if let Some(extra) = self.sandboxes.get(1).filter(|_| dice.chance(60)) {
            return Ok(vec![step("delete", extra, &["rm", &extra.id], Change::Nothing)]);
        }
        if dice.chance(8) {
            return Ok(vec![create()]);
        }
        let name = |dice: &mut Dice| *dice.one_of(&NAMES).unwrap_or(&NAMES[0]);
        let a_snapshot = {
            let ids: Vec<&String> = main.snapshots.keys().collect();
            dice.one_of(&ids).map(|id| (*id).clone())
        };
        Ok(match dice.below(100) {
            0..24 => vec![write(main, name(dice), mark)],
            24..34 => {
                let first = name(dice);
                let second = *NAMES.iter().find(|it| **it != first).unwrap_or(&first);
                vec![write(main, first, mark), write(main, second, mark)]
            }
            34..46 => vec![place(main, name(dice), mark, 1 << (10 + dice.below(13)), scratch)?],
            46..51 => vec![remove(main, name(dice))],
            51..65 => vec![step("snapshot", main, &["snapshot", &main.id], Change::Nothing)],
            65..77 => match a_snapshot {
                None => vec![step("snapshot", main, &["snapshot", &main.id], Change::Nothing)],
                Some(snapshot) => {
                    let by = main.snapshots.get(&snapshot).cloned().unwrap_or_default();
                    vec![step("restore", main, &["restore", &main.id, &snapshot], Change::Replaced { by })]
                }
            },
            77..85 => vec![step("fork", main, &["fork", &main.id], Change::Nothing)],
            85..95 => vec![step("stop", main, &["stop", &main.id], Change::Nothing)],
            _ => vec![step("delete", main, &["rm", &main.id], Change::Nothing)],
        })
    }

    /// Learns from how a command ended; what may have come of one that was cut off goes to `loose`.
    ///
    /// # Errors
    /// When it failed and may not have, or did not say what it has to.
    pub(crate) fn learn(
        &mut self,
        step: &Step,
        ended: &Ended,
        may_fail: bool,
        loose: &mut Loose,
    ) -> anyhow::Result<()> {
        let is_done = ended.status.success();
        if !is_done && !ended.was_killed && !may_fail {
            ended.ensure_success()?;
        }
        let sandbox = self.sandboxes.iter_mut().find(|it| Some(&it.id) == step.sandbox.as_ref());
        match (step.name, sandbox) {
            ("create", _) if is_done => self.sandboxes.push(Sandbox::new(ended.field("id")?, Oracle::empty())),
            ("create", _) => loose.made.push(Files::new()),
            ("fork", Some(origin)) if is_done => {
                let fork = Sandbox::new(ended.field("id")?, origin.files.clone());
                self.sandboxes.push(fork);
            }
            ("fork", Some(origin)) => {
                loose.made.push(Files::new());
                loose.made.extend_from_slice(origin.files.possible());
            }
            ("delete", Some(deleted)) if is_done => {
                let id = deleted.id.clone();
                self.sandboxes.retain(|it| it.id != id);
            }
            ("delete", Some(deleted)) => loose.deleted.push(deleted.id.clone()),
            ("snapshot", Some(sandbox)) if is_done => {
                let files = sandbox.files.possible().to_vec();
                sandbox.snapshots.insert(ended.field("id")?, files);
            }
            (_, Some(sandbox)) if is_done => sandbox.files.acknowledge(&step.change),
            (_, Some(sandbox)) => sandbox.files.cut_off(&step.change),
            (_, None) => {}
        }
        Ok(())
    }
}

fn step(name: &'static str, sandbox: &Sandbox, words: &[&str], change: Change) -> Step {
    let words = words.iter().map(|word| (*word).to_owned()).collect();
    Step { name, sandbox: Some(sandbox.id.clone()), words, change }
}

fn create() -> Step {
    Step { name: "create", sandbox: None, words: vec!["create".to_owned()], change: Change::Nothing }
}

fn write(sandbox: &Sandbox, path: &str, text: &str) -> Step {
    let line = format!("mkdir -p deep/er && printf %s '{text}' > '{path}'");
    let change = Change::Written { path: path.to_owned(), hash: hash(text.as_bytes()) };
    step("write", sandbox, &["exec", &sandbox.id, "--", "sh", "-c", &line], change)
}

fn remove(sandbox: &Sandbox, path: &str) -> Step {
    let line = format!("rm -f '{path}'");
    let change = Change::Removed { path: path.to_owned() };
    step("remove", sandbox, &["exec", &sandbox.id, "--", "sh", "-c", &line], change)
}

fn place(sandbox: &Sandbox, path: &str, mark: &str, size: usize, scratch: &Path) -> anyhow::Result<Step> {
    let bytes: Vec<u8> = mark.bytes().cycle().take(size).collect();
    let source = scratch.join("in").join(hash(&bytes));
    fs::write(&source, &bytes).context("cannot write a file to copy")?;
    let target = format!("{}:/workspace/{}", sandbox.id, path.trim_start_matches("./"));
    let source = source.to_str().context("the folder for temporary files is not UTF-8")?;
    ensure!(!source.contains(':'), "a colon in {source} would mean a sandbox");
    let change = Change::Placed { path: path.to_owned(), hash: hash(&bytes) };
    Ok(step("copy", sandbox, &["cp", source, &target], change))
}
