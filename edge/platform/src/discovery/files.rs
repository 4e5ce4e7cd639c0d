//! Reading files and directories that others made: bounded, and never a pipe or a device.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;

/// The names in a directory in order, without hidden ones. More than `most` is an error.
pub fn names(dir: &Path, most: usize) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        if name.as_encoded_bytes().first() == Some(&b'.') {
            continue;
        }
        if names.len() == most {
            let message = format!("more than {most} entries");
            return Err(io::Error::other(message));
        }
        names.push(name);
    }
    names.sort();
    Ok(names)
}

/// The whole file, as text. What is longer than `most` bytes or not UTF-8 is an error.
pub fn text(file: &Path, most: u64) -> io::Result<String> {
    let bytes = start(file, most + 1)?;
    if bytes.len() as u64 > most {
        return Err(invalid(format!("longer than {most} bytes")));
    }
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        let line = e.as_bytes()[..at].iter().filter(|b| **b == b'\n').count() + 1;
        invalid(format!("not UTF-8 in line {line}"))
    })
}

/// The first `most` bytes of a regular file. A pipe would block whoever opens it, hence
/// `NONBLOCK` and the look at what was opened.
pub fn start(file: &Path, most: u64) -> io::Result<Vec<u8>> {
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).map_err(io::Error::other)?;
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(file)?;
    if !opened.metadata()?.is_file() {
        return Err(invalid("not a regular file".to_owned()));
    }
    let mut bytes = Vec::new();
    opened.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}
