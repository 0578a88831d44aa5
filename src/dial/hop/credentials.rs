//! The user and password of a proxy, read from a file that only we may read.

use std::fmt;
use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::sandbox;

/// RFC 1929 allows 255 bytes for each part.
const MAX_PART: usize = 255;

/// A login at a proxy. Never shown: `Debug` and `Display` leave the password out.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    user: String,
    password: String,
}

// === impl Credentials ===

impl Credentials {
    pub(crate) fn new(user: impl Into<String>, password: impl Into<String>) -> Self {
        Self {
            user: user.into(),
            password: password.into(),
        }
    }

    /// Reads `USER:PASSWORD` from a regular file of mode 0600 or stricter. `user`: the one in the URL, which must be
    /// the same.
    pub(crate) fn read(file: &Path, user: Option<&str>) -> Result<Self, String> {
        let name = file.display();
        let unreadable = |error| format!("credentials_file {name} cannot be read: {error}");
        let metadata = fs::metadata(file).map_err(unreadable)?;
        if !metadata.is_file() {
            return Err(format!("credentials_file {name} is not a regular file"));
        }
        let mode = metadata.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(format!(
                "credentials_file {name} can be read by others (mode {mode:04o}): chmod 600 {name}"
            ));
        }
        let mut text = String::new();
        sandbox::open(file)
            .and_then(|file| file.take(4096).read_to_string(&mut text))
            .map_err(unreadable)?;
        let line = text.trim_end_matches(['\r', '\n']);
        let Some((read_user, password)) = line.split_once(':') else {
            return Err(format!("credentials_file {name} is not USER:PASSWORD"));
        };
        if line.contains('\n') {
            return Err(format!("credentials_file {name} has more than one line"));
        }
        if user.is_some_and(|user| user != read_user) {
            return Err(format!(
                "credentials_file {name} is for another user than the URL names"
            ));
        }
        if read_user.len() > MAX_PART || password.len() > MAX_PART || password.is_empty() {
            return Err(format!(
                "credentials_file {name}: user and password have 1 to {MAX_PART} bytes"
            ));
        }
        Ok(Self::new(read_user, password))
    }

    pub(super) fn user(&self) -> &str {
        &self.user
    }

    pub(super) fn password(&self) -> &str {
        &self.password
    }

    /// The value of `Proxy-Authorization: Basic`.
    pub(super) fn basic(&self) -> String {
        base64(format!("{}:{}", self.user, self.password).as_bytes())
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({})", self.user)
    }
}

/// RFC 4648, with padding: a dozen lines instead of a dependency.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let bits = chunk
            .iter()
            .fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte))
            << (8 * (3 - chunk.len()));
        for at in 0..4 {
            let index = (bits >> (18 - 6 * at)) as usize & 63;
            text.push(if at <= chunk.len() {
                char::from(ALPHABET[index])
            } else {
                '='
            });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_as_in_rfc_4648() {
        for (plain, coded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }

    #[test]
    fn a_file_that_others_can_read_is_refused_and_no_error_shows_the_password() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("login");
        let write = |text: &str, mode| {
            // One that its owner may not write cannot be written again but by root.
            let _ = fs::remove_file(&file);
            fs::write(&file, text).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            Credentials::read(&file, Some("me"))
        };
        let login = write("me:sec:ret\n", 0o600).unwrap();
        assert_eq!((login.user(), login.password()), ("me", "sec:ret"));
        assert!(!format!("{login:?}").contains("sec"));
        assert!(write("me:secret", 0o400).is_ok());
        for (text, mode, what) in [
            ("me:secret", 0o640, "mode 0640"),
            ("me:secret", 0o604, "mode 0604"),
            ("you:secret", 0o600, "another user"),
            ("secret", 0o600, "USER:PASSWORD"),
            ("me:", 0o600, "1 to 255"),
            ("me:secret\nx:y", 0o600, "more than one line"),
        ] {
            let error = write(text, mode).unwrap_err();
            assert!(
                error.contains(what) && !error.contains("secret\n"),
                "{error}"
            );
            assert!(!error.contains("me:secret"), "{error}");
        }
        assert!(
            Credentials::read(folder.path(), None)
                .unwrap_err()
                .contains("regular file")
        );
    }
}
