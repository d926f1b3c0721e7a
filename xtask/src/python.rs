//! A Python of this machine with its pip, as files for images of tests.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, bail};

use crate::process;

/// What no package manager needs, and most of the size is.
const LEFT_OUT: [&str; 8] =
    ["__pycache__", "test", "tests", "idlelib", "lib2to3", "site-packages", "dist-packages", "ensurepip"];

/// Prints the program behind all links, and the folders of the library and of pip.
const WHERE: &str = "import os, pip, sys, sysconfig
print(os.path.realpath(sys.executable), sysconfig.get_path('stdlib'), os.path.dirname(pip.__file__), sep='\\n')";

/// A Python.
#[derive(Debug)]
pub(crate) struct Python {
    /// Its program.
    pub(crate) program: PathBuf,
    /// Everything that it needs, itself included, to be found under the very same paths.
    pub(crate) files: BTreeSet<PathBuf>,
}

impl Python {
    /// Finds one that has pip.
    pub(crate) fn find() -> anyhow::Result<Self> {
        let candidates = [Path::new("/usr/bin/python3"), Path::new("python3")];
        let answers = candidates.iter().find_map(|python| process::read(Command::new(python).args(["-c", WHERE])).ok());
        let Some(answers) = answers else { bail!("no python3 has pip here: `apt-get install python3-pip`") };
        let mut lines = answers.lines().map(PathBuf::from);
        let program = lines.next().context("python3 says nothing")?;
        let mut files = BTreeSet::from([program.clone()]);
        for folder in lines {
            add_files(&folder, &mut files).with_context(|| format!("cannot read {}", folder.display()))?;
        }
        let linked: Vec<PathBuf> = files
            .iter()
            .filter(|file| **file == program || file.extension().is_some_and(|it| it == "so"))
            .cloned()
            .collect();
        for file in linked {
            files.extend(process::libraries(&file)?);
        }
        Ok(Self { program, files })
    }
}

fn add_files(folder: &Path, files: &mut BTreeSet<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let is_left_out = path.file_name().is_some_and(|name| LEFT_OUT.iter().any(|it| name == *it));
        match path.is_dir() {
            true if is_left_out => {}
            true => add_files(&path, files)?,
            // A link may lead to what is not there.
            false => files.extend(path.is_file().then_some(path)),
        }
    }
    Ok(())
}
