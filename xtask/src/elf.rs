//! Reads just enough of an ELF file to say whether it needs a dynamic loader.

use anyhow::{Context as _, bail, ensure};

/// The program header that names an interpreter, which only a dynamic executable has.
const PT_INTERP: u32 = 3;

/// Fails unless `bytes` are a 64-bit little-endian executable that runs without any shared library.
pub(crate) fn ensure_static(bytes: &[u8]) -> anyhow::Result<()> {
    ensure!(bytes.starts_with(b"\x7fELF"), "it is not an ELF file");
    ensure!(bytes.get(4..6) == Some(&[2, 1]), "it is not a 64-bit little-endian ELF file");
    let table = usize::try_from(u64::from_le_bytes(field(bytes, 32)?))?;
    let size = usize::from(u16::from_le_bytes(field(bytes, 54)?));
    let count = usize::from(u16::from_le_bytes(field(bytes, 56)?));
    ensure!(count > 0, "it has no program headers");
    for index in 0..count {
        let kind = u32::from_le_bytes(field(bytes, table + index * size)?);
        if kind == PT_INTERP {
            bail!("it asks for a dynamic loader, so it would not start in a sandbox without one");
        }
    }
    Ok(())
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> anyhow::Result<[u8; N]> {
    let end = at.checked_add(N).context("an offset is out of range")?;
    let slice = bytes.get(at..end).context("it is cut short")?;
    Ok(slice.try_into()?)
}

#[cfg(test)]
mod tests {
    use super::ensure_static;

    /// A header with program headers of these kinds, as a linker would lay them out.
    fn elf(kinds: &[u32]) -> Vec<u8> {
        let mut bytes = vec![0; 64];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[32..40].copy_from_slice(&64_u64.to_le_bytes());
        bytes[54..56].copy_from_slice(&56_u16.to_le_bytes());
        bytes[56..58].copy_from_slice(&u16::try_from(kinds.len()).unwrap().to_le_bytes());
        for kind in kinds {
            bytes.extend_from_slice(&kind.to_le_bytes());
            bytes.extend_from_slice(&[0; 52]);
        }
        bytes
    }

    #[test]
    fn an_executable_without_an_interpreter_is_static() {
        ensure_static(&elf(&[1, 1, 2])).unwrap();
    }

    #[test]
    fn an_interpreter_makes_it_dynamic() {
        assert!(ensure_static(&elf(&[1, 3])).unwrap_err().to_string().contains("dynamic loader"));
    }

    #[test]
    fn a_cut_or_foreign_file_is_refused() {
        assert!(ensure_static(b"#!/bin/sh\n").is_err());
        assert!(ensure_static(&elf(&[1, 1])[..100]).is_err());
        assert!(ensure_static(&elf(&[])).is_err());
    }

    #[test]
    fn the_tests_own_executable_is_dynamic() {
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(ensure_static(&own).is_err());
    }
}
