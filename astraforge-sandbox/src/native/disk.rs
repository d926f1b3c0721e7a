//! A workspace on disk with a hard limit: a file system of its own, in one file of the sandbox's folder.
//!
//! The file has holes, so it takes what is in it and no more. It is mounted in the sandbox and nowhere else; when the
//! last process of the sandbox is gone the kernel unmounts it and lets go of the file by itself.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::fs::FileTypeExt,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use rustix::{
    fs::{AtFlags, Gid, Uid, chownat, unlinkat},
    io::Errno,
    mount::{FsMountFlags, FsOpenFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen},
};

use super::{
    launch_spec::{AtStep, Failure},
    mounts,
    record::Folder,
};

/// The smallest that holds its own bookkeeping and something besides.
pub(super) const MIN_SIZE: u64 = 4 << 20;

/// Where `mkfs.ext4` is on one distribution or another.
const MKFS: [&str; 5] =
    ["/usr/sbin/mkfs.ext4", "/sbin/mkfs.ext4", "/usr/bin/mkfs.ext4", "/usr/local/sbin/mkfs.ext4", "/bin/mkfs.ext4"];

/// How often another may be quicker to take a device.
const ATTEMPTS: usize = 200;

/// Tells what is missing for workspaces with a hard limit; whether they work is seen when one is made.
pub(super) fn missing() -> Option<&'static str> {
    let knows_ext4 =
        fs::read_to_string("/proc/filesystems").is_ok_and(|it| it.lines().any(|it| it.ends_with("\text4")));
    let control = File::options().read(true).write(true).open(CONTROL);
    if control.is_err() {
        Some("this server may not use loop devices (/dev/loop-control); run it as root of the machine itself")
    } else if mkfs().is_none() {
        Some("mkfs.ext4 is not installed: apt-get install e2fsprogs")
    } else if !knows_ext4 {
        Some("this kernel has no ext4: modprobe ext4")
    } else {
        None
    }
}

fn mkfs() -> Option<&'static str> {
    MKFS.into_iter().find(|it| Path::new(it).is_file())
}

/// Makes the file system, or takes over the one that an earlier sandbox left, and returns it mounted nowhere yet.
pub(super) fn open(folder: &Folder, size: u64, owner: Option<u32>) -> Result<OwnedFd, Failure> {
    let path = folder.disk();
    if folder.workspace().exists() {
        return Err("there is one without a hard limit, which this sandbox asks for").at("take over the workspace");
    }
    let is_new = !path.exists();
    if is_new {
        make(&path, size)?;
    }
    let file = File::options().read(true).write(true).open(&path).at("open the workspace's file system")?;
    let device = attach(&file).at("attach the workspace's file system to a loop device")?;
    let mounted = mount(&device).at("mount the workspace's file system")?;
    if is_new {
        // What a repair would put there is nobody's business inside, and no agent could read it.
        let _ = unlinkat(&mounted, "lost+found", AtFlags::REMOVEDIR);
        let (uid, gid) = (owner.map(Uid::from_raw), owner.map(Gid::from_raw));
        chownat(&mounted, "", uid, gid, AtFlags::EMPTY_PATH).at("give the workspace to its agent")?;
    }
    Ok(mounted)
}

/// Makes a file system, under its name only once it is whole.
fn make(path: &Path, size: u64) -> Result<(), Failure> {
    let step = "make the workspace's file system";
    let new = path.with_extension("new");
    let program = mkfs().ok_or("mkfs.ext4 is not installed").at(step)?;
    File::create(&new).and_then(|it| it.set_len(size)).at(step)?;
    let made = Command::new(program)
        // Nothing that can be left for later is written now; no block is set aside for root.
        .args([
            "-q",
            "-F",
            "-b",
            "4096",
            "-m",
            "0",
            "-i",
            "8192",
            "-E",
            "lazy_itable_init=1,lazy_journal_init=1,nodiscard",
        ])
        .arg(&new)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .output()
        .at(step)?;
    if !made.status.success() {
        return Err(format!("{program}: {}", String::from_utf8_lossy(&made.stderr).trim())).at(step);
    }
    fs::rename(new, path).at(step)
}

fn mount(device: &LoopDevice) -> rustix::io::Result<OwnedFd> {
    let context = fsopen("ext4", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(context.as_fd(), "source", device.path.as_path())?;
    // What is removed inside is given back to the host.
    fsconfig_set_flag(context.as_fd(), "discard")?;
    fsconfig_create(context.as_fd())?;
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, mounts::WRITABLE)
}

const CONTROL: &str = "/dev/loop-control";

/// A loop device; the kernel frees it when neither this nor a mount uses it any more.
struct LoopDevice {
    path: PathBuf,
    _open: File,
}

fn attach(backing: &File) -> io::Result<LoopDevice> {
    const LOOP_CTL_GET_FREE: libc::c_ulong = 0x4C82;
    const LOOP_CONFIGURE: libc::c_ulong = 0x4C0A;
    const LO_FLAGS_AUTOCLEAR: u32 = 4;
    let control = File::options().read(true).write(true).open(CONTROL)?;
    for _ in 0..ATTEMPTS {
        #[expect(unsafe_code, reason = "rustix does not wrap the calls of loop devices")]
        // SAFETY: this call takes no argument and returns a number.
        let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE as _) };
        if number < 0 {
            return Err(io::Error::last_os_error());
        }
        let path = PathBuf::from(format!("/dev/loop{number}"));
        let device = File::options().read(true).write(true).open(&path)?;
        if !device.metadata()?.file_type().is_block_device() {
            return Err(io::Error::other(format!("{} is no device", path.display())));
        }
        let config = LoopConfig {
            fd: backing.as_raw_fd().cast_unsigned(),
            block_size: 4096,
            info: LoopInfo { flags: LO_FLAGS_AUTOCLEAR, ..LoopInfo::default() },
            reserved: [0; 8],
        };
        #[expect(unsafe_code, reason = "rustix does not wrap the calls of loop devices")]
        // SAFETY: both descriptors are open, and the kernel reads one struct of this layout, which outlives the call.
        let configured = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE as _, &raw const config) };
        if configured == 0 {
            return Ok(LoopDevice { path, _open: device });
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(Errno::BUSY.raw_os_error()) {
            return Err(error);
        }
    }
    Err(io::ErrorKind::ResourceBusy.into())
}

/// `struct loop_config` of the kernel.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo,
    reserved: [u64; 8],
}

/// `struct loop_info64` of the kernel.
#[repr(C)]
struct LoopInfo {
    numbers: [u64; 5],
    number: u32,
    encryption: [u32; 2],
    flags: u32,
    names: [[u8; 64]; 2],
    key: [u8; 32],
    init: [u64; 2],
}

impl Default for LoopInfo {
    fn default() -> Self {
        Self {
            numbers: [0; 5],
            number: 0,
            encryption: [0; 2],
            flags: 0,
            names: [[0; 64]; 2],
            key: [0; 32],
            init: [0; 2],
        }
    }
}

/// Waits until no loop device uses the file any more: the kernel unmounts a little after the last process is gone, and
/// until then what is in it may not be mounted again.
pub(super) fn wait_for_release(path: &Path, patience: Duration) -> io::Result<()> {
    let start = Instant::now();
    let Ok(path) = path.canonicalize() else { return Ok(()) };
    while is_used(&path)? {
        if start.elapsed() > patience {
            return Err(io::Error::new(io::ErrorKind::TimedOut, format!("{} is still mounted", path.display())));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

fn is_used(path: &Path) -> io::Result<bool> {
    for device in fs::read_dir("/sys/block")? {
        // One that is free has no such file.
        let backing = fs::read_to_string(device?.path().join("loop/backing_file")).unwrap_or_default();
        if Path::new(backing.trim_end_matches('\n')) == path {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_structs_of_loop_devices_have_the_sizes_that_the_kernel_reads() {
        assert_eq!((size_of::<LoopInfo>(), size_of::<LoopConfig>()), (232, 304));
    }

    #[test]
    fn a_file_that_no_device_uses_is_free() {
        let file = tempfile::NamedTempFile::new().unwrap();
        wait_for_release(file.path(), Duration::ZERO).unwrap();
        wait_for_release(Path::new("/nowhere/at/all"), Duration::ZERO).unwrap();
    }
}
