//! The kernel's file-descriptor based mount calls, named by what we do with them.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::CWD,
    io::Result,
    mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags},
};

/// Attributes of everything that is shown read-only.
pub(super) const READ_ONLY: MountAttrFlags =
    MountAttrFlags::MOUNT_ATTR_RDONLY.union(MountAttrFlags::MOUNT_ATTR_NOSUID).union(MountAttrFlags::MOUNT_ATTR_NODEV);

/// Attributes of everything that may be written.
pub(super) const WRITABLE: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID.union(MountAttrFlags::MOUNT_ATTR_NODEV);

/// Attributes of a single device node.
pub(super) const DEVICE: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID.union(MountAttrFlags::MOUNT_ATTR_NOEXEC);

/// Makes a fresh file system that is attached nowhere yet.
pub(super) fn fresh(kind: &str, options: &[(&str, &str)], attributes: MountAttrFlags) -> Result<OwnedFd> {
    let context = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in options {
        rustix::mount::fsconfig_set_string(context.as_fd(), *key, *value)?;
    }
    rustix::mount::fsconfig_create(context.as_fd())?;
    rustix::mount::fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// Copies the mounts at and below `path`, attached nowhere yet.
pub(super) fn copy(dir: impl AsFd, path: &Path) -> Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    rustix::mount::open_tree(dir, path, flags)
}

/// Copies the mounts at and below a path of the host and gives all of them `attributes`.
pub(super) fn copy_with(path: &Path, attributes: MountAttrFlags) -> io::Result<OwnedFd> {
    let tree = copy(CWD, path)?;
    restrict(&tree, attributes)?;
    Ok(tree)
}

/// Adds attributes to the mounts at and below `tree`, and cuts them off from mounts made elsewhere later.
pub(super) fn restrict(tree: impl AsFd, attributes: MountAttrFlags) -> io::Result<()> {
    set_attributes(tree.as_fd(), attributes, libc::AT_RECURSIVE)
}

/// Adds attributes to `mount` alone.
pub(super) fn restrict_one(mount: impl AsFd, attributes: MountAttrFlags) -> io::Result<()> {
    set_attributes(mount.as_fd(), attributes, 0)
}

fn set_attributes(mount: BorrowedFd<'_>, attributes: MountAttrFlags, recursive: libc::c_int) -> io::Result<()> {
    #[repr(C)]
    struct MountAttr {
        set: u64,
        clear: u64,
        propagation: u64,
        user_namespace: u64,
    }
    let wanted =
        MountAttr { set: u64::from(attributes.bits()), clear: 0, propagation: libc::MS_PRIVATE, user_namespace: 0 };
    #[expect(unsafe_code, reason = "neither rustix nor libc wraps mount_setattr")]
    // SAFETY: the descriptor is open, the path is a NUL-terminated literal, and the kernel reads exactly the given
    // number of bytes of a struct that outlives the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | recursive,
            &raw const wanted,
            size_of::<MountAttr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Attaches `tree` at `target` below `root`.
pub(super) fn attach(tree: impl AsFd, root: impl AsFd, target: &str) -> Result<()> {
    rustix::mount::move_mount(tree, "", root, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}

/// Attaches `tree` over the file or folder that `target` stands for.
pub(super) fn attach_over(tree: impl AsFd, target: impl AsFd) -> Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(tree, "", target, "", flags)
}
