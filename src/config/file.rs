//! Files that people write by hand: settings, secrets, templates.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::Path;

/// More than any of them has. A wrong path, such as that of a table or a device, does not fill the memory.
const MAX_BYTES: u64 = 1024 * 1024;

/// All of a file, if it is no longer than 1 MiB.
pub(super) fn read_bytes(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > MAX_BYTES {
        true => Err(io::Error::new(ErrorKind::FileTooLarge, "it is longer than 1 MiB")),
        false => Ok(bytes),
    }
}

/// The same as text.
pub fn read_text(path: &Path) -> io::Result<String> {
    let no_text = |_| io::Error::new(ErrorKind::InvalidData, "it is no UTF-8");
    String::from_utf8(read_bytes(path)?).map_err(no_text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_an_end_is_refused() {
        let error = read_text(Path::new("/dev/zero")).unwrap_err();
        assert_eq!(error.to_string(), "it is longer than 1 MiB");
        assert!(read_text(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))).is_ok());
    }
}
