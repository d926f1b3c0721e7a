//! Files, names and links made to confuse whoever handles them from outside.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::Write,
    os::unix::{
        ffi::OsStringExt,
        fs::{DirBuilderExt, PermissionsExt, symlink},
        net::UnixListener,
    },
    path::{Path, PathBuf},
};

use libc::c_long;

use crate::{Attack, say, sys::call_with};

pub(crate) const ATTACKS: &[(&str, Attack)] = &[
    ("odd-files", odd_files),
    ("odd-names", odd_names),
    ("race", race),
    ("churn", churn),
    ("grow", grow),
    ("thicket", thicket),
    ("awkward-tree", awkward_tree),
];

fn text_of(path: &str) -> std::ffi::CString {
    std::ffi::CString::new(path).unwrap_or_default()
}

/// Makes one of everything that is no plain file.
///
/// Argument: the folder.
fn odd_files(args: &[String]) {
    let top = args.first().map_or("/workspace", String::as_str);
    let fifo = text_of(&format!("{top}/fifo"));
    let _ = call_with(
        libc::SYS_mknodat,
        &[libc::AT_FDCWD.into(), fifo.as_ptr() as c_long, i64::from(libc::S_IFIFO | 0o666), 0],
    );
    let socket = UnixListener::bind(format!("{top}/socket"));
    for (name, target) in [
        ("dangling", "nowhere"),
        ("loop", "loop"),
        ("loop-a", "loop-b"),
        ("loop-b", "loop-a"),
        ("up", "../../../../../../etc/passwd"),
        ("root", "/proc/self/root"),
        ("init-root", "/proc/1/root"),
        ("cwd", "/proc/self/cwd"),
        ("descriptor", "/proc/self/fd/0"),
        ("host", "/etc/passwd"),
        ("tty", "/dev/tty"),
        ("stdin", "/dev/stdin"),
        ("zero", "/dev/zero"),
    ] {
        let _ = symlink(target, format!("{top}/{name}"));
    }
    if let Ok(file) = File::create(format!("{top}/sparse")) {
        let _ = file.set_len(1 << 40);
    }
    let _ = fs::hard_link("/etc/passwd", format!("{top}/hard"));
    let _ = File::create(format!("{top}/closed")).and_then(|it| it.set_permissions(fs::Permissions::from_mode(0o0)));
    let _ = fs::DirBuilder::new().mode(0o0).create(format!("{top}/closed-folder"));
    say::note("socket", socket.is_ok());
    say::ready_and_stay();
}

/// Makes files of every name that a file may have, and says how many.
///
/// Argument: the folder.
fn odd_names(args: &[String]) {
    let top = PathBuf::from(args.first().map_or("/workspace", String::as_str));
    let long = "n".repeat(255);
    let names: Vec<Vec<u8>> = [
        "-rf",
        "--",
        "-",
        "*",
        "?",
        "[a]",
        "{a,b}",
        "$(touch hacked)",
        "`id`",
        ";id",
        "|id",
        "a b",
        " ",
        "\t",
        "line\nbreak",
        "carriage\rreturn",
        "\x1b[31mred",
        "\"",
        "'",
        "\\",
        "...",
        "..a",
        "a..",
        "~",
        "#",
        "%2e%2e",
        "%00",
        "nul\u{0}".trim_end_matches('\u{0}'),
        "ünï",
        "\u{202e}gnp.exe",
        "CON",
        long.as_str(),
    ]
    .iter()
    .map(|it| it.as_bytes().to_vec())
    .chain([b"\xff\xfe".to_vec(), b"a\xc3".to_vec(), vec![0x80; 200]])
    .collect();
    let mut n_made = 0;
    for name in names {
        let path = top.join(OsString::from_vec(name));
        n_made += u32::from(File::create(path).and_then(|mut it| it.write_all(b"odd")).is_ok());
    }
    say::note("made", n_made);
}

/// Swaps a folder and a link for each other as fast as it can, until it is ended.
///
/// Arguments: the folder in which it does so, and where the link leads.
fn race(args: &[String]) {
    let [top, target] = args else { return say::open("two arguments are needed") };
    let _ = fs::create_dir_all(format!("{top}/door"));
    let _ = fs::write(format!("{top}/door/canary"), "inside");
    let _ = fs::create_dir_all(format!("{top}/door/sub"));
    let _ = symlink(target, format!("{top}/way"));
    let (door, way) = (text_of(&format!("{top}/door")), text_of(&format!("{top}/way")));
    let cwd = c_long::from(libc::AT_FDCWD);
    let swap = || call_with(libc::SYS_renameat2, &[cwd, door.as_ptr() as c_long, cwd, way.as_ptr() as c_long, 2]);
    say::note("swap", format_args!("{:?}", swap()));
    say::ready();
    loop {
        let _ = swap();
    }
}

/// Makes, changes, moves and removes files until it is ended.
///
/// Argument: the folder.
fn churn(args: &[String]) {
    let top = PathBuf::from(args.first().map_or("/workspace", String::as_str));
    let mut n_rounds = 0_u64;
    loop {
        let folder = top.join(format!("churn-{}", n_rounds % 7));
        let _ = fs::create_dir_all(folder.join("deep/er"));
        for it in 0..20 {
            let _ = fs::write(folder.join(format!("deep/{it}")), vec![b'x'; 1000 * it]);
        }
        let _ = fs::rename(folder.join("deep/3"), folder.join("deep/er/3"));
        let _ = fs::remove_dir_all(top.join(format!("churn-{}", (n_rounds + 3) % 7)));
        let _ = symlink("/proc/self/root", folder.join("link"));
        n_rounds += 1;
        if n_rounds == 10 {
            say::ready();
        }
    }
}

/// A file that never stops growing.
///
/// Argument: the file.
fn grow(args: &[String]) {
    let Some(path) = args.first() else { return };
    let Ok(mut file) = File::create(path) else { return };
    let _ = file.write_all(&vec![b'g'; 1 << 20]);
    say::ready();
    loop {
        if file.write_all(&[b'g'; 4096]).is_err() {
            // The disk is full: it begins again, in the same file.
            let _ = file.set_len(0);
        }
    }
}

/// A tree that is deep, closed and full of links; whatever removes a sandbox has to get through it.
fn thicket(args: &[String]) {
    let top = args.first().map_or("/workspace", String::as_str);
    let _ = call_with(libc::SYS_chdir, &[text_of(top).as_ptr() as c_long]);
    let mut depth = 0;
    while depth < 2000 && fs::create_dir("d").is_ok() && std::env::set_current_dir("d").is_ok() {
        depth += 1;
    }
    let _ = std::env::set_current_dir(top);
    for it in 0..500 {
        let _ = symlink("/", format!("link-{it}"));
    }
    let _ = fs::create_dir("closed");
    let _ = fs::write("closed/x", "x");
    let _ = fs::set_permissions("closed", fs::Permissions::from_mode(0o0));
    let _ = fs::set_permissions(Path::new(top), fs::Permissions::from_mode(0o0));
    say::note("depth", depth);
}

/// A workspace as people have them: links inside it, names with blanks, programs, empty folders.
fn awkward_tree(args: &[String]) {
    let top = args.first().map_or("/workspace", String::as_str);
    let make = || -> std::io::Result<()> {
        fs::create_dir_all(format!("{top}/tree/node_modules/.bin"))?;
        fs::create_dir_all(format!("{top}/tree/empty"))?;
        fs::write(format!("{top}/tree/a file"), "text")?;
        fs::write(format!("{top}/tree/run.sh"), "#!/bin/sh\n")?;
        fs::set_permissions(format!("{top}/tree/run.sh"), fs::Permissions::from_mode(0o755))?;
        symlink("../../run.sh", format!("{top}/tree/node_modules/.bin/run"))?;
        symlink("a file", format!("{top}/tree/relative"))?;
        symlink("/workspace/tree/run.sh", format!("{top}/tree/absolute"))?;
        symlink("gone", format!("{top}/tree/dangling"))?;
        fs::hard_link(format!("{top}/tree/a file"), format!("{top}/tree/same"))?;
        Ok(())
    };
    say::note("made", format_args!("{:?}", make()));
}
