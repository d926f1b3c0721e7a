//! The words of `astraforge users`.

use astraforge_core::access::Role;
use clap::{Args, Subcommand};

use crate::config::TENANT;

/// What to do with people who log in.
#[derive(Debug, Subcommand)]
pub(crate) enum UsersCommand {
    /// List them
    Ls {
        /// Whose they are; others than the server's own come from an OpenID provider
        #[arg(long, value_name = "NAME", default_value = TENANT)]
        tenant: String,
    },
    /// Add somebody; the password is read from standard input
    Add(AddUserArgs),
    /// Change somebody's password, which is read from standard input, and log them out
    Passwd(UserArg),
    /// Change what somebody may do
    Role(UserRoleArgs),
    /// Keep somebody from logging in, and log them out
    Disable(UserArg),
    /// Let somebody log in again
    Enable(UserArg),
}

/// Somebody.
#[derive(Debug, Args)]
pub(crate) struct UserArg {
    /// Their name
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
}

/// Arguments of `users add`.
#[derive(Debug, Args)]
pub(crate) struct AddUserArgs {
    /// Their name
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// What they may do: observer, reviewer, maintainer or admin
    #[arg(long, default_value = "maintainer", value_name = "ROLE")]
    pub(crate) role: Role,
    /// Their e-mail address
    #[arg(long, default_value = "", value_name = "ADDRESS")]
    pub(crate) email: String,
}

/// Arguments of `users role`.
#[derive(Debug, Args)]
pub(crate) struct UserRoleArgs {
    /// Their name
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// What they may do from now on: observer, reviewer, maintainer or admin
    #[arg(value_name = "ROLE")]
    pub(crate) role: Role,
}
