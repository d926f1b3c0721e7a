//! What the sandbox's first process gives up, for itself and all that come after it.

use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetStatus, Scope,
};
use rustix::{
    process::{DumpableBehavior, Gid, Resource, Rlimit, Uid},
    thread::{CapabilitiesSecureBits, CapabilitySet, CapabilitySets},
};

use super::launch_spec::{AtStep, Failure, LaunchSpec};

/// The agent's user and group id inside.
pub(super) const AGENT: u32 = 1000;

/// The newest Landlock interface whose rights the rules below name; an older kernel enforces those that it knows.
const LANDLOCK: ABI = ABI::V7;

/// Folders that the agent may write.
const WRITABLE: [&str; 5] = ["/workspace", "/tmp", "/run", "/home", "/dev/shm"];

/// Devices that the agent may write and steer.
const DEVICES: [&str; 7] =
    ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty", "/dev/pts"];

/// Becomes the agent, and keeps for now the capabilities over the sandbox's own namespaces.
pub(super) fn become_agent(private_id: bool) -> Result<(), Failure> {
    let step = "become the agent";
    rustix::thread::set_keep_capabilities(true).at(step)?;
    let (uid, gid) = (Uid::from_raw(AGENT), Gid::from_raw(AGENT));
    if private_id {
        // Without a private id the kernel forbids it: the user's own groups stay, and nothing they own is visible.
        rustix::thread::set_thread_groups(&[]).at("drop the host's groups")?;
    }
    rustix::thread::set_thread_res_gid(gid, gid, gid).at(step)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).at(step)?;
    let held = rustix::thread::capabilities(None).at(step)?;
    rustix::thread::set_capabilities(None, CapabilitySets { effective: held.permitted, ..held }).at(step)
}

/// Sets the limits that hold without control groups.
pub(super) fn limit(spec: &LaunchSpec) -> Result<(), Failure> {
    let limits = &spec.shape.limits;
    let files = u64::from(limits.open_files);
    // One more for the daemon itself. The kernel counts per user namespace, so sandboxes do not share this limit.
    let processes = u64::from(limits.processes.max) + 1;
    for (name, resource, max) in [
        ("processes", Resource::Nproc, processes),
        ("open files", Resource::Nofile, files),
        // Of one byte: no dump, and no program of the host's that takes dumps. The filter keeps it so.
        ("core dumps", Resource::Core, 1),
        ("message queues", Resource::Msgqueue, 1 << 20),
        ("locked memory", Resource::Memlock, 8 << 20),
        ("real-time priority", Resource::Rtprio, 0),
    ] {
        let known = rustix::process::getrlimit(resource).maximum.unwrap_or(u64::MAX);
        let max = Some(max.min(known));
        rustix::process::setrlimit(resource, Rlimit { current: max, maximum: max }).at(format_args!("limit {name}"))?;
    }
    Ok(())
}

/// Gives up every capability, for good, and the ways to get one back.
pub(super) fn drop_capabilities() -> Result<(), Failure> {
    for bit in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << bit);
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            Ok(()) => {}
            Err(rustix::io::Errno::INVAL) => break, // past the newest capability of this kernel
            Err(error) => return Err(error).at("empty the bounding set"),
        }
    }
    rustix::thread::clear_ambient_capability_set().at("empty the ambient set")?;
    let bits = CapabilitiesSecureBits::NO_ROOT
        | CapabilitiesSecureBits::NO_ROOT_LOCKED
        | CapabilitiesSecureBits::NO_SETUID_FIXUP
        | CapabilitiesSecureBits::NO_SETUID_FIXUP_LOCKED
        | CapabilitiesSecureBits::KEEP_CAPS_LOCKED
        | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE
        | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE_LOCKED;
    rustix::thread::set_capabilities_secure_bits(bits).at("lock the secure bits")?;
    let none = CapabilitySet::empty();
    let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
    rustix::thread::set_capabilities(None, sets).at("drop capabilities")?;
    rustix::thread::set_no_new_privs(true).at("forbid new privileges")?;
    // Other processes of the sandbox are the same user: without this they could look into the daemon.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).at("close the daemon to others")
}

/// Restricts what may be read, run and written, beneath what the mounts allow already.
pub(super) fn landlock() -> Result<(), Failure> {
    let step = "restrict file access with Landlock";
    let all = AccessFs::from_all(LANDLOCK);
    let device = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::Truncate | AccessFs::IoctlDev;
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(all)
        .at(step)?
        .scope(Scope::AbstractUnixSocket | Scope::Signal)
        .at(step)?
        .create()
        .at(step)?;
    let allow = |path: &'static str, access: BitFlags<AccessFs>| {
        PathFd::new(path).map(|fd| PathBeneath::new(fd, access)).at(format_args!("{step} ({path})"))
    };
    rules = rules.add_rule(allow("/", AccessFs::from_read(LANDLOCK))?).at(step)?;
    for path in WRITABLE {
        rules = rules.add_rule(allow(path, all & !AccessFs::IoctlDev)?).at(step)?;
    }
    for path in DEVICES {
        rules = rules.add_rule(allow(path, device)?).at(step)?;
    }
    // A process may set its own name and OOM score; everything that steers the host is mounted read-only.
    rules = rules.add_rule(allow("/proc", AccessFs::WriteFile | AccessFs::Truncate)?).at(step)?;
    let status = rules.restrict_self().at(step)?;
    if status.ruleset == RulesetStatus::NotEnforced {
        return Err("this kernel has no Landlock; add `landlock` to the `lsm=` boot parameter").at(step);
    }
    Ok(())
}
