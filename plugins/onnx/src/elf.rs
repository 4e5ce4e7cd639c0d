//! A look at a shared library before it is opened.
//!
//! `dlopen` of a library that was cut short does not fail: it maps the file and dies of SIGBUS at
//! the first page that is not there. And only an open library tells its version. So the program
//! headers are checked against the file's size first, and the version is read from the version
//! definitions (`VERS_1.32.0`) that ONNX Runtime's linker script gives every build.
//!
//! Layout: System V ABI, "Object Files" (header, program header, section header) and Linux
//! Standard Base, "Symbol Versioning" (verdef). 64-bit little-endian only; on any other target the
//! check is skipped and the loader decides.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Most headers, definitions and bytes of a name that are looked at.
const MAX_HEADERS: u16 = 512;
const MAX_NAME: usize = 64;

const PT_LOAD: u32 = 1;
const SHT_GNU_VERDEF: u32 = 0x6fff_fffd;

/// Whether the library at `path` is whole and for this machine: its version, if it tells one, or
/// what is wrong with it.
pub(crate) fn inspect(path: &Path) -> Result<Option<String>, String> {
    let file = File::open(path).map_err(|e| e.to_string())?;
    if !cfg!(all(target_pointer_width = "64", target_endian = "little")) {
        return Ok(None);
    }
    let len = file.metadata().map_err(|e| e.to_string())?.len();
    let header: [u8; 64] = read(&file, 0).ok_or("it is not a shared library (too short)")?;
    if header[..4] != *b"\x7fELF" {
        return Err("it is not a shared library (no ELF header)".to_owned());
    }
    if header[4] != 2 || header[5] != 1 {
        return Err("it is not a 64-bit little-endian library".to_owned());
    }
    let machine = u16_at(&header, 18);
    let expected = match std::env::consts::ARCH {
        "x86_64" => 62,
        "aarch64" => 183,
        "riscv64" => 243,
        _ => machine,
    };
    if machine != expected {
        return Err(format!(
            "it is for another processor (ELF machine {machine}, this one is {expected})"
        ));
    }
    check_segments(&file, &header, len)?;
    Ok(version(&file, &header))
}

/// Every loaded segment must lie inside the file.
fn check_segments(file: &File, header: &[u8; 64], len: u64) -> Result<(), String> {
    let (table, size, count) = (u64_at(header, 32), u16_at(header, 54), u16_at(header, 56));
    let cut = || "it was cut short: copy it again".to_owned();
    if size < 56 || count > MAX_HEADERS {
        return Err("its program headers make no sense".to_owned());
    }
    for i in 0..count {
        let at = table
            .checked_add(u64::from(i) * u64::from(size))
            .ok_or_else(cut)?;
        let segment: [u8; 56] = read(file, at).ok_or_else(cut)?;
        let end = u64_at(&segment, 8).checked_add(u64_at(&segment, 32));
        if u32_at(&segment, 0) == PT_LOAD && end.is_none_or(|end| end > len) {
            return Err(cut());
        }
    }
    Ok(())
}

/// `1.32.0` of the definition `VERS_1.32.0`.
fn version(file: &File, header: &[u8; 64]) -> Option<String> {
    let (table, size, count) = (u64_at(header, 40), u16_at(header, 58), u16_at(header, 60));
    if size < 64 || count > MAX_HEADERS {
        return None;
    }
    let section = |i: u32| -> Option<[u8; 64]> {
        read(file, table.checked_add(u64::from(i) * u64::from(size))?)
    };
    let verdef = (0..u32::from(count))
        .filter_map(section)
        .find(|s| u32_at(s, 4) == SHT_GNU_VERDEF)?;
    let names = u64_at(&section(u32_at(&verdef, 40))?, 24);
    let mut at = u64_at(&verdef, 24);
    for _ in 0..MAX_HEADERS {
        let definition: [u8; 20] = read(file, at)?;
        let auxiliary: [u8; 8] = read(file, at.checked_add(u64::from(u32_at(&definition, 12)))?)?;
        let name = name_at(file, names.checked_add(u64::from(u32_at(&auxiliary, 0)))?)?;
        if let Some(version) = name.strip_prefix("VERS_") {
            return Some(version.to_owned());
        }
        match u32_at(&definition, 16) {
            0 => return None,
            next => at = at.checked_add(u64::from(next))?,
        }
    }
    None
}

fn name_at(file: &File, at: u64) -> Option<String> {
    let mut bytes = [0; MAX_NAME];
    let got = file.read_at(&mut bytes, at).ok()?;
    let end = bytes[..got].iter().position(|b| *b == 0)?;
    String::from_utf8(bytes[..end].to_vec()).ok()
}

fn read<const N: usize>(file: &File, at: u64) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    file.read_exact_at(&mut bytes, at).ok()?;
    Some(bytes)
}

fn bytes_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    // Offsets are constants below the size of the header read.
    if let Some(part) = bytes.get(at..at + N) {
        out.copy_from_slice(part);
    }
    out
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes_at(bytes, at))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes_at(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes_at(bytes, at))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The test program itself is a whole ELF file without ONNX Runtime's version.
    fn own_program() -> Vec<u8> {
        std::fs::read(std::env::current_exe().unwrap()).unwrap()
    }

    fn inspect_bytes(bytes: &[u8]) -> Result<Option<String>, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lib.so");
        std::fs::write(&path, bytes).unwrap();
        inspect(&path)
    }

    #[test]
    fn a_whole_file_passes_and_any_cut_is_noticed() {
        let whole = own_program();
        assert_eq!(inspect_bytes(&whole), Ok(None));
        for part in [0, 3, 63, 64, 200, whole.len() / 2] {
            let error = inspect_bytes(&whole[..part]).unwrap_err();
            assert!(
                error.contains("cut short") || error.contains("not a shared library"),
                "{part}: {error}"
            );
        }
    }

    #[test]
    fn text_and_other_machines_are_named() {
        let error = inspect_bytes(&[b'x'; 4096]).unwrap_err();
        assert!(error.contains("no ELF header"), "{error}");
        let mut other = own_program();
        other[18] ^= 0xff;
        assert!(
            inspect_bytes(&other)
                .unwrap_err()
                .contains("another processor")
        );
    }

    #[test]
    fn wild_headers_never_panic() {
        let whole = own_program();
        for at in 16..64 {
            for value in [0, 1, 0x7f, 0xff] {
                let mut bytes = whole[..4096.min(whole.len())].to_vec();
                bytes[at] = value;
                let answer = inspect_bytes(&bytes);
                assert!(answer != Ok(Some(String::new())), "{at}");
            }
        }
    }
}
