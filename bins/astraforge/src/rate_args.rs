//! How many calls are taken from whom, and who is believed about where a call comes from.

use std::num::NonZeroU32;

use anyhow::{Context, bail};
use astraforge_http::server::{Rate, RateLimits, TrustedProxies};
use clap::Args;

/// Limits of calls, which each server counts by itself.
#[derive(Debug, Args)]
#[command(next_help_heading = "Rate limits")]
pub(crate) struct RateArgs {
    /// How many calls a minute each server takes from one API key or login [default: no limit]
    #[arg(long, global = true, env = "ASTRAFORGE_CALLS_PER_MINUTE", value_name = "N")]
    calls_per_minute: Option<NonZeroU32>,
    /// How many calls of one API key or login may come at once [default: as many as in a minute]
    #[arg(long, global = true, env = "ASTRAFORGE_CALLS_AT_ONCE", value_name = "N")]
    calls_at_once: Option<NonZeroU32>,
    /// How many calls a minute with wrong credentials, or none, each server takes from one address; 0 is no limit
    #[arg(long, global = true, env = "ASTRAFORGE_STRANGERS_PER_MINUTE", value_name = "N", default_value_t = 60)]
    strangers_per_minute: u32,
    /// How many calls with wrong credentials, or none, may come from one address at once
    /// [default: as many as in a minute]
    #[arg(long, global = true, env = "ASTRAFORGE_STRANGERS_AT_ONCE", value_name = "N")]
    strangers_at_once: Option<NonZeroU32>,
    /// How many attempts a minute to log in or to register each server takes from one address; 0 is no limit
    #[arg(long, global = true, env = "ASTRAFORGE_LOGINS_PER_MINUTE", value_name = "N", default_value_t = 20)]
    logins_per_minute: u32,
    /// Proxies before this server, addresses or ranges of them separated by commas; only what they write into
    /// X-Forwarded-For is believed [default: none]
    #[arg(long, global = true, env = "ASTRAFORGE_TRUSTED_PROXIES", value_name = "ADDRESSES", value_delimiter = ',')]
    trusted_proxies: Vec<String>,
}

impl RateArgs {
    /// The limits.
    pub(crate) fn limits(&self) -> anyhow::Result<RateLimits> {
        let (calls, strangers) = (self.calls_per_minute, NonZeroU32::new(self.strangers_per_minute));
        if calls.is_none() && self.calls_at_once.is_some() {
            bail!("ASTRAFORGE_CALLS_AT_ONCE limits nothing without ASTRAFORGE_CALLS_PER_MINUTE");
        }
        if strangers.is_none() && self.strangers_at_once.is_some() {
            bail!("ASTRAFORGE_STRANGERS_AT_ONCE limits nothing where ASTRAFORGE_STRANGERS_PER_MINUTE is 0");
        }
        let proxies = TrustedProxies::parse(self.trusted_proxies.iter().map(String::as_str));
        Ok(RateLimits {
            callers: calls.map(|n| rate(n, self.calls_at_once)),
            strangers: strangers.map(|n| rate(n, self.strangers_at_once)),
            logins: NonZeroU32::new(self.logins_per_minute).map(|n| rate(n, None)),
            proxies: proxies.context("ASTRAFORGE_TRUSTED_PROXIES cannot be used")?,
        })
    }
}

fn rate(per_minute: NonZeroU32, at_once: Option<NonZeroU32>) -> Rate {
    Rate { per_minute, burst: at_once.unwrap_or(per_minute) }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        rates: RateArgs,
    }

    fn read(words: &[&str]) -> anyhow::Result<RateLimits> {
        Line::try_parse_from(["x"].iter().chain(words))?.rates.limits()
    }

    fn numbers(rate: Option<Rate>) -> Option<(u32, u32)> {
        rate.map(|rate| (rate.per_minute.get(), rate.burst.get()))
    }

    #[test]
    fn only_strangers_are_limited_unless_something_else_is_said() {
        let usual = read(&[]).unwrap();
        assert_eq!([usual.callers, usual.strangers, usual.logins].map(numbers), [None, Some((60, 60)), Some((20, 20))]);
        assert_eq!(usual.proxies, TrustedProxies::default());
        let words =
            ["--calls-per-minute=600", "--calls-at-once=50", "--strangers-per-minute=0", "--logins-per-minute=0"];
        let said = read(&words).unwrap();
        assert_eq!([said.callers, said.strangers, said.logins].map(numbers), [Some((600, 50)), None, None]);
    }

    #[test]
    fn what_limits_nothing_and_what_is_no_address_is_told_by_name() {
        let told = |words: &[&str]| format!("{:#}", read(words).unwrap_err());
        assert!(told(&["--calls-at-once=5"]).contains("ASTRAFORGE_CALLS_PER_MINUTE"));
        let words = ["--strangers-per-minute=0", "--strangers-at-once=5"];
        assert!(told(&words).contains("ASTRAFORGE_STRANGERS_PER_MINUTE"));
        let told = told(&["--trusted-proxies=10.0.0.0/8,proxy.example"]);
        assert!(told.contains("ASTRAFORGE_TRUSTED_PROXIES") && told.contains("`proxy.example`"), "{told}");
    }
}
