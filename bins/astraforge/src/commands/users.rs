//! `users`: people who log in, as whoever runs the server adds and changes them.

use std::io::{BufRead, IsTerminal, Stdin, Write};

use anyhow::{Context, bail};
use astraforge_adapters::clock::SystemClock;
use astraforge_core::{
    account::Account,
    audit::{Audit, NewEntry},
    id::{TenantId, UserId},
    ports::{account_store::AccountStore, clock::Clock},
    repository::Secret,
};
use astraforge_http::server::hash_password;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use serde_json::{Value, json};

use crate::{
    audit,
    cli::{ConnectionArgs, UsersCommand},
    commands::print,
    config::TENANT,
    connection::open_database,
    render::{Terminal, bad, faint, good, harmless},
};

/// The shortest password that is taken, in characters.
const SHORTEST: usize = 8;

/// Does what was asked.
pub(crate) async fn users(args: &ConnectionArgs, command: &UsersCommand) -> anyhow::Result<()> {
    let database = open_database(args).await?;
    let store = database.accounts();
    let audit = audit::of_command_line(args, &database)?;
    let desk = Desk { args, store: store.as_ref(), audit };
    let done = match command {
        UsersCommand::Ls { tenant } => desk.list(tenant).await,
        UsersCommand::Add(new) => desk.add(&new.name, new.role, &new.email).await,
        UsersCommand::Passwd(who) => {
            desk.change("user.passwd", &who.name, |it| {
                Ok(Account { password_hash: hash_password(&password()?)?, ..it })
            })
            .await
        }
        UsersCommand::Role(change) => {
            desk.change("user.role", &change.name, |it| Ok(Account { role: change.role, ..it })).await
        }
        UsersCommand::Disable(who) => {
            desk.change("user.disable", &who.name, |it| Ok(Account { is_active: false, ..it })).await
        }
        UsersCommand::Enable(who) => {
            desk.change("user.enable", &who.name, |it| Ok(Account { is_active: true, ..it })).await
        }
    };
    database.close().await;
    done
}

struct Desk<'a> {
    args: &'a ConnectionArgs,
    store: &'a dyn AccountStore,
    audit: Audit,
}

impl Desk<'_> {
    async fn list(&self, tenant: &str) -> anyhow::Result<()> {
        let accounts = self.store.accounts(&TenantId::new(tenant)).await?;
        let values: Vec<Value> = accounts.iter().map(shown).collect();
        print(self.args, &values, |terminal, _| {
            if accounts.is_empty() {
                terminal.line("Nobody logs in yet. Add somebody with: astraforge users add NAME");
            }
            accounts.iter().for_each(|account| terminal.line(row(terminal, account)));
        })
    }

    async fn add(&self, name: &str, role: astraforge_core::access::Role, email: &str) -> anyhow::Result<()> {
        if name.trim().is_empty() || name.trim() != name || name.chars().count() > 150 {
            bail!("a name has 1 to 150 characters, and no blanks around it");
        }
        let account = Account {
            user: UserId::new(name),
            tenant: TenantId::new(TENANT),
            email: email.to_owned(),
            password_hash: hash_password(&password()?)?,
            role,
            is_active: true,
            created_at: SystemClock.now(),
        };
        if !self.store.add_account(&account).await? {
            bail!("there is a `{name}` already; change the password with: astraforge users passwd {name}");
        }
        self.note("user.add", &account).await;
        self.show(&account)
    }

    async fn change(
        &self,
        action: &str,
        name: &str,
        change: impl FnOnce(Account) -> anyhow::Result<Account>,
    ) -> anyhow::Result<()> {
        // Whatever their tenant: a name is one person's in all of them.
        let found = self.store.account(&UserId::new(name)).await?;
        let account = found.with_context(|| format!("there is no `{name}`; `astraforge users ls` lists all"))?;
        let account = change(account)?;
        self.store.change_account(&account).await?;
        self.note(action, &account).await;
        self.show(&account)
    }

    /// Has the audit say what was done to whom.
    async fn note(&self, action: &str, account: &Account) {
        let (tenant, name) = (account.tenant.clone(), account.user.as_str());
        let entry = NewEntry::new(tenant, audit::whoever_types(), action, name, "done");
        self.audit.note(entry.with("role", account.role.as_str())).await;
    }

    fn show(&self, account: &Account) -> anyhow::Result<()> {
        print(self.args, &shown(account), |terminal, _| terminal.line(row(terminal, account)))
    }
}

/// Reads a password: what is piped in is taken to the end of its first line.
fn password() -> anyhow::Result<Secret> {
    let stdin = std::io::stdin();
    let mut line = String::new();
    let read = if stdin.is_terminal() {
        // Beside the answer, which a program may read.
        write!(std::io::stderr(), "Password: ")?;
        let unseen = Unseen::begin(&stdin).context("cannot keep the password from being shown")?;
        let read = stdin.lock().read_line(&mut line);
        drop(unseen);
        writeln!(std::io::stderr())?;
        read
    } else {
        stdin.lock().read_line(&mut line)
    };
    read.context("cannot read the password from standard input")?;
    let password = line.strip_suffix('\n').unwrap_or(&line);
    let password = password.strip_suffix('\r').unwrap_or(password);
    if password.chars().count() < SHORTEST {
        bail!("a password has {SHORTEST} characters at least; write it to standard input");
    }
    Ok(Secret::new(password))
}

/// A terminal that does not show what is typed, until this is dropped.
struct Unseen<'a> {
    terminal: &'a Stdin,
    before: Termios,
}

impl<'a> Unseen<'a> {
    fn begin(terminal: &'a Stdin) -> std::io::Result<Self> {
        let before = tcgetattr(terminal)?;
        let mut unseen = before.clone();
        unseen.local_modes.remove(LocalModes::ECHO);
        tcsetattr(terminal, OptionalActions::Flush, &unseen)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Unseen<'_> {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing back.
        let _ = tcsetattr(self.terminal, OptionalActions::Now, &self.before);
    }
}

fn shown(account: &Account) -> Value {
    json!({
        "username": account.user.as_str(), "email": account.email, "role": account.role.as_str(),
        "is_active": account.is_active, "created_at": account.created_at,
    })
}

fn row(terminal: Terminal, account: &Account) -> String {
    let state = if account.is_active { terminal.paint("active", good()) } else { terminal.paint("disabled", bad()) };
    let made = terminal.paint(account.created_at.format("%Y-%m-%d"), faint());
    let (name, email) = (harmless(account.user.as_str()), harmless(&account.email));
    format!("{name}  {}  {state}  {made}  {email}", account.role).trim_end().to_owned()
}
