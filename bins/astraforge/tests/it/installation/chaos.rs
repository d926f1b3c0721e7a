//! Programs of an installation are killed, halted and cut off at moments of chance while it is used; what was accepted
//! must hold in the end.

use std::{collections::BTreeSet, process::Command, time::Duration};

use astraforge_core::id::RequestId;
use astraforge_http::wire::{repository_link::NewRepositoryLink, request::NewRequest};

use super::{Installation, LEASE};
use crate::{
    restarts::{Chance, check_published, check_requests, files_below, move_on, settle},
    world::{say, shell, step},
};

const APIS: [&str; 2] = ["api-1", "api-2"];
const WORKERS: [&str; 2] = ["worker-1", "worker-2"];

#[tokio::test]
#[ignore = "takes as long as it is told; run by cargo xtask chaos service"]
async fn nothing_is_lost_doubled_or_left_by_an_installation_that_is_struck_again_and_again() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let n_blows = number("ASTRAFORGE_CHAOS_KILLS").unwrap_or(10);
    let mut chance = Chance::of(number("ASTRAFORGE_CHAOS_SEED").unwrap_or(1));
    let mut it = Installation::new(vec![
        step(0, shell("echo $$ >> made; sleep 0.3; echo more >> made")),
        step(1, say("Done.")),
        step(2, say("Done again.")),
    ]);
    it.start("proxy");
    APIS.into_iter().chain(WORKERS).for_each(|name| it.start(name));
    let link = it.client("api-1").link_repository(&NewRepositoryLink::new("local", "demo")).await.unwrap().id;
    let mut accepted = BTreeSet::<RequestId>::new();
    for n in 0..n_blows {
        let (until, roll) = (chance.next() % 1_500, chance.next());
        let api = APIS[usize::try_from(roll % 2).unwrap()];
        let using = async {
            for n in 0.. {
                let client = it.client(api);
                let prompt = format!("Blow {n}").parse().unwrap();
                // What is not answered was not accepted.
                if let Ok(request) = client.submit(&NewRequest::new(link, prompt)).await {
                    accepted.insert(request.id);
                }
                move_on(&client, roll.wrapping_add(n)).await;
                tokio::time::sleep(Duration::from_millis(400)).await;
            }
        };
        _ = tokio::time::timeout(Duration::from_millis(until), using).await;
        let told = strike(&mut it, &mut chance).await;
        println!("chaos: blow {:>4} of {n_blows}, {} requests so far: {told}", n + 1, accepted.len());
    }
    settle(&it.world, accepted.len()).await;
    check_requests(&it.world, &accepted).await;
    check_published(&it.world).await;
    check_nothing_left(&mut it);
    assert!(!accepted.is_empty(), "nothing was accepted, so nothing was tried");
    println!("chaos: {n_blows} blows, {} requests: nothing lost, nothing doubled, nothing left", accepted.len());
}

/// Strikes something, and puts it up again after a while.
async fn strike(it: &mut Installation, chance: &mut Chance) -> String {
    let roll = chance.next();
    let pick = |names: [&'static str; 2]| names[usize::try_from(roll / 100 % 2).unwrap()];
    let pause = Duration::from_millis(chance.next() % 1_500);
    match roll % 100 {
        0..40 => kill(it, pick(WORKERS), pause).await,
        40..60 => kill(it, pick(APIS), pause).await,
        60..65 => kill(it, "proxy", pause).await,
        65..80 => {
            // Longer than its lease, so that another takes over and it must find out.
            let name = pick(WORKERS);
            it.signal(name, "-STOP");
            tokio::time::sleep(Duration::from_secs(LEASE.into()) + pause).await;
            it.signal(name, "-CONT");
            format!("halt {name}")
        }
        80..90 => {
            it.sql(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                 WHERE datname = current_database() AND pid <> pg_backend_pid()",
            );
            "cut all connections to PostgreSQL".to_owned()
        }
        90..95 => redis(it, &["FLUSHALL"]),
        _ => redis(it, &["CLIENT", "KILL", "TYPE", "normal"]),
    }
}

async fn kill(it: &mut Installation, name: &'static str, pause: Duration) -> String {
    it.kill(name);
    tokio::time::sleep(pause).await;
    it.start(name);
    format!("kill -9 {name}")
}

fn redis(it: &Installation, words: &[&str]) -> String {
    let answer = Command::new("redis-cli").args(["-u", &it.redis]).args(words).output().unwrap();
    assert!(answer.status.success(), "{words:?}: {}", String::from_utf8_lossy(&answer.stderr));
    format!("redis {}", words.join(" "))
}

fn check_nothing_left(it: &mut Installation) {
    assert_eq!(it.sql("SELECT count(*) FROM jobs WHERE state IN ('waiting', 'running')"), "0", "jobs");
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(it.world.scratch.path().to_str().unwrap()), "{mounts}");
    for name in WORKERS {
        it.world.assert_no_sandbox_of(&format!("data-{name}"));
        // What a kill left half written is swept when its node starts.
        it.stop(name);
        it.start(name);
        it.stop(name);
    }
    let unfinished = |name: &str| [".tmp-", "tmp-", "tmp_"].iter().any(|begin| name.starts_with(begin));
    let left = files_below(it.world.scratch.path(), &unfinished);
    assert!(left.is_empty(), "{left:?}");
}
