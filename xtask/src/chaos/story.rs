//! The story of a run: rounds of work in which something is killed, and what is checked after each.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, thread,
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use rustix::process::{Pid, Signal};
use serde_json::Value;

use super::{
    clients::{Client, Ended, Program, Server},
    dice::Dice,
    host::{Host, Known},
    lane::{Lane, Loose, Sandbox, Step},
    oracle::{Oracle, read_sums},
};

/// How many clients work at the same time.
const N_LANES: usize = 3;
/// How a sandbox is asked for all its files.
const LOOK: &str = "find . ! -type d -exec sha256sum {} +";

/// What happens in the middle of a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blow {
    /// A command is killed.
    Client,
    /// The server is killed, and perhaps its successor while it starts.
    Server,
    /// Both are.
    Both,
    /// A sandbox's launcher is killed, and with it the sandbox dies.
    Launcher,
    /// A command stands still for a while.
    Pause,
}

impl Blow {
    fn of(dice: &mut Dice) -> Self {
        match dice.below(100) {
            0..48 => Self::Client,
            48..66 => Self::Server,
            66..76 => Self::Both,
            76..90 => Self::Launcher,
            _ => Self::Pause,
        }
    }
}

/// A run as it stands.
#[derive(Debug)]
pub(crate) struct Story<'a> {
    program: &'a Program,
    host: &'a Host,
    dice: Dice,
    lanes: Vec<Lane>,
    server: Option<Server>,
    /// Typical time of a command here, from the first one on.
    pace: Duration,
    pub(crate) n_rounds: u64,
    pub(crate) n_kills: u64,
    pub(crate) n_commands: u64,
    /// How often something was left until a server started again.
    pub(crate) n_settled_by_a_start: u64,
}

impl<'a> Story<'a> {
    /// Starts a server, and takes the time of a command.
    pub(crate) fn begin(program: &'a Program, host: &'a Host, seed: u64) -> anyhow::Result<Self> {
        let server = program.start_server(None)?;
        let lanes = (0..N_LANES).map(|_| Lane::default()).collect();
        let first = program.run(&["create"])?;
        first.ensure_success()?;
        program.run(&["rm", &first.field("id")?])?.ensure_success()?;
        let pace = first.took;
        let dice = Dice::new(seed);
        let (n_rounds, n_kills, n_commands, n_settled_by_a_start) = (0, 0, 0, 0);
        Ok(Self { program, host, dice, lanes, server, pace, n_rounds, n_kills, n_commands, n_settled_by_a_start })
    }

    /// One round: everybody works, something is killed, and all of it is looked over. Returns what happened.
    pub(crate) fn round(&mut self) -> anyhow::Result<String> {
        self.n_rounds += 1;
        let blow = Blow::of(&mut self.dice);
        // Most blows fall while the commands work; some before their first deed, some when they are done.
        let after = self.pace.mul_f64(self.dice.below(1300) as f64 / 1000.0);
        let mut work = Vec::new();
        for (lane, state) in self.lanes.iter().enumerate() {
            let mark = format!("round-{}-of-lane-{lane}", self.n_rounds);
            for step in state.plan(&mut self.dice, &mark, &self.program.scratch)? {
                work.push((lane, step));
            }
        }
        let names: Vec<&str> = work.iter().map(|(_, step)| step.name).collect();
        let told = format!("{blow:?} after {} ms of {}", after.as_millis(), names.join(", "));
        self.carry_out(blow, after, work).with_context(|| format!("round {}: {told}", self.n_rounds))?;
        fs::remove_dir_all(self.program.scratch.join("in"))?;
        fs::create_dir(self.program.scratch.join("in"))?;
        Ok(told)
    }

    fn carry_out(&mut self, blow: Blow, after: Duration, work: Vec<(usize, Step)>) -> anyhow::Result<()> {
        let mut clients = Vec::new();
        for (i, (_, step)) in work.iter().enumerate() {
            clients.push(self.program.start(&step.words, &self.program.scratch.join(format!("out/{i}")))?);
        }
        thread::sleep(after);
        let hurt = self.strike(blow, &mut clients)?;
        let mut loose = Loose::default();
        for ((lane, step), client) in work.iter().zip(clients) {
            self.n_commands += 1;
            let may_fail = hurt.is_some() && step.sandbox == hurt;
            self.lanes[*lane].learn(step, &client.end()?, may_fail, &mut loose)?;
        }
        if self.server.is_none() {
            self.start_server()?;
        }
        self.compare_lists(&loose)?;
        self.look_at_files()?;
        self.look_at_host()
    }

    /// Deals the blow; returns the sandbox whose machine it hit.
    fn strike(&mut self, blow: Blow, clients: &mut [Client]) -> anyhow::Result<Option<String>> {
        let n_clients = clients.len() as u64;
        let victim = usize::try_from(self.dice.below(n_clients))?;
        let pause = Duration::from_millis(20 + self.dice.below(2000));
        let mut hurt = None;
        if matches!(blow, Blow::Client | Blow::Both) && clients[victim].kill()? {
            self.n_kills += 1;
        }
        let is_hit = matches!(blow, Blow::Server | Blow::Both);
        if let Some(server) = self.server.take_if(|_| is_hit) {
            server.kill()?;
            self.n_kills += 1;
        }
        if blow == Blow::Launcher {
            let ids: Vec<String> = self.lanes.iter().flat_map(|it| &it.sandboxes).map(|it| it.id.clone()).collect();
            hurt = self.dice.one_of(&ids).cloned().filter(|id| self.host.kill_launcher(id));
            self.n_kills += u64::from(hurt.is_some());
        }
        if blow == Blow::Pause {
            clients[victim].pause(pause)?;
        }
        Ok(hurt)
    }

    /// Starts a server, which may be killed once while it does.
    fn start_server(&mut self) -> anyhow::Result<()> {
        if self.dice.chance(30) {
            let dies_after = self.pace.mul_f64(self.dice.below(1000) as f64 / 1000.0);
            self.server = self.program.start_server(Some(dies_after))?;
            self.n_kills += u64::from(self.server.is_none());
        }
        if self.server.is_none() {
            self.server = self.program.start_server(None)?;
        }
        Ok(())
    }

    /// Compares the sandboxes that are told with those that must be there.
    fn compare_lists(&mut self, loose: &Loose) -> anyhow::Result<()> {
        let told = self.told()?;
        for lane in &mut self.lanes {
            let is_gone = |it: &Sandbox| !told.contains_key(&it.id);
            if let Some(lost) = lane.sandboxes.iter().find(|it| is_gone(it) && !loose.deleted.contains(&it.id)) {
                bail!("sandbox {} is gone, and nobody deleted it", lost.id);
            }
            lane.sandboxes.retain(|it| !is_gone(it));
        }
        let known: BTreeSet<&String> = self.lanes.iter().flat_map(|lane| &lane.sandboxes).map(|it| &it.id).collect();
        let new: Vec<String> = told.keys().filter(|id| !known.contains(id)).cloned().collect();
        for id in new {
            ensure!(!loose.made.is_empty(), "sandbox {id} is there, and nobody made it, or it was deleted");
            let lane = usize::try_from(self.dice.below(N_LANES as u64))?;
            self.lanes[lane].sandboxes.push(Sandbox::new(id, Oracle::of(loose.made.clone())));
        }
        Ok(())
    }

    /// What the program tells of its sandboxes: the status of each.
    fn told(&self) -> anyhow::Result<BTreeMap<String, String>> {
        let listed = self.program.run(&["ls"])?;
        listed.ensure_success()?;
        let Value::Array(rows) = listed.value()? else { bail!("`ls` printed {}", listed.stdout) };
        let text = |row: &Value, name: &str| row[name].as_str().unwrap_or_default().to_owned();
        Ok(rows.iter().map(|row| (text(row, "id"), text(row, "status"))).collect())
    }

    /// Looks at the files of every sandbox of which something is uncertain, and of most others. A stopped one comes back.
    fn look_at_files(&mut self) -> anyhow::Result<()> {
        let dice = &mut self.dice;
        let (mut looks, mut n) = (Vec::new(), 0);
        for sandbox in self.lanes.iter_mut().flat_map(|lane| &mut lane.sandboxes) {
            if sandbox.files.possible().len() > 1 || dice.chance(60) {
                let words = ["exec", &sandbox.id, "--", "sh", "-c", LOOK].map(str::to_owned);
                n += 1;
                let client = self.program.start(&words, &self.program.scratch.join(format!("out/look-{n}")))?;
                looks.push((sandbox, client));
            }
        }
        let ended: Vec<(&mut Sandbox, anyhow::Result<Ended>)> =
            looks.into_iter().map(|(sandbox, client)| (sandbox, client.end())).collect();
        for (sandbox, ended) in ended {
            let ended = ended?;
            ended.ensure_success()?;
            let found = read_sums(&ended.stdout).with_context(|| format!("sums read {}", ended.stdout))?;
            let seen = sandbox.files.see(found);
            seen.map_err(|wrong| anyhow::anyhow!("the files of sandbox {} are wrong: {wrong}", sandbox.id))?;
        }
        Ok(())
    }

    /// Looks over the host. What a command that was killed has left may stay until a server starts.
    fn look_at_host(&mut self) -> anyhow::Result<()> {
        let mut left = self.host.settle(&self.known()?)?;
        if !left.is_empty() {
            if let Some(server) = self.server.take() {
                server.stop()?;
            }
            self.server = self.program.start_server(None)?;
            self.n_settled_by_a_start += 1;
            left = self.host.settle(&self.known()?)?;
        }
        ensure!(left.is_empty(), "left over on the host:\n  {}", left.join("\n  "));
        Ok(())
    }

    fn known(&self) -> anyhow::Result<Known> {
        let mut known = Known { ours: self.server.iter().map(Server::pid).collect(), ..Known::default() };
        for (id, status) in self.told()? {
            match status.as_str() {
                "ready" | "starting" => known.live.insert(id),
                "terminated" => known.stopped.insert(id),
                _ => bail!("sandbox {id} is {status}"),
            };
        }
        Ok(known)
    }

    /// Deletes everything and looks whether anything at all is left.
    pub(crate) fn end(mut self) -> anyhow::Result<()> {
        for sandbox in self.lanes.iter().flat_map(|lane| &lane.sandboxes) {
            self.program.run(&["rm", &sandbox.id])?.ensure_success()?;
        }
        let told = self.told()?;
        ensure!(told.is_empty(), "deleted sandboxes are still there: {told:?}");
        if let Some(server) = self.server.take() {
            server.stop()?;
        }
        let left = self.host.settle(&Known::default())?;
        ensure!(left.is_empty(), "left over on the host at the end:\n  {}", left.join("\n  "));
        Ok(())
    }
}

impl Host {
    /// Kills the launcher of a sandbox; tells whether there was one.
    fn kill_launcher(&self, id: &str) -> bool {
        let launcher = self.keeper(id).filter(|pid| self.is_ours(*pid)).and_then(Pid::from_raw);
        launcher.is_some_and(|pid| rustix::process::kill_process(pid, Signal::KILL).is_ok())
    }
}
