//! Seals texts that must not be readable on disk.

use std::{
    fmt, fs,
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use chacha20poly1305::{
    AeadInPlace as _, KeyInit as _, XChaCha20Poly1305, XNonce,
    aead::{Aead as _, Payload},
};

const KEY_BYTES: usize = 32;

/// The key that seals secrets at rest, with XChaCha20-Poly1305 and a fresh nonce a time.
///
/// Whoever has the key and the database has the secrets; whoever has only the database has none. Keep a copy of the key
/// apart from the copies of the database.
///
/// ```
/// use astraforge_adapters::secret_box::SecretKey;
///
/// let folder = tempfile::tempdir()?;
/// let key = SecretKey::load_or_create(folder.path().join("secret.key"))?;
/// let sealed = key.seal(b"token", "link 1")?;
/// assert_eq!(key.open(&sealed, "link 1")?, b"token");
/// assert!(key.open(&sealed, "link 2").is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
// The cipher wipes its key when it is dropped.
#[derive(Clone)]
pub struct SecretKey(XChaCha20Poly1305);

impl SecretKey {
    const NONCE_BYTES: usize = 24;
    /// The first byte of what is sealed, so that another form can follow.
    const FORM: u8 = 1;

    /// A key of 32 random bytes.
    #[must_use]
    pub fn new(bytes: &[u8; 32]) -> Self {
        Self(XChaCha20Poly1305::new(bytes.into()))
    }

    /// A fresh key that is kept nowhere.
    ///
    /// # Errors
    /// [`SecretKeyError::Randomness`] when the system gives no random bytes.
    pub fn random() -> Result<Self, SecretKeyError> {
        Ok(Self::new(&random::<{ KEY_BYTES }>()?))
    }

    /// Reads the key from a file, which is made (mode 0600) if it is not there.
    ///
    /// Processes that do this at the same time get the same key: the file appears whole or not at all.
    ///
    /// # Errors
    /// [`SecretKeyError::Malformed`] for a file that holds no key, [`SecretKeyError::Io`] for one that cannot be read or
    /// made.
    pub fn load_or_create(path: impl AsRef<Path>) -> Result<Self, SecretKeyError> {
        Ok(Self::new(&key_bytes(path)?))
    }

    /// Seals a text so that it opens only with this key and the same `associated` name of its place.
    ///
    /// # Errors
    /// [`SecretKeyError::Randomness`] when the system gives no random bytes.
    pub fn seal(&self, plain: &[u8], associated: &str) -> Result<Vec<u8>, SecretKeyError> {
        let nonce = random::<{ Self::NONCE_BYTES }>()?;
        let mut sealed = Vec::with_capacity(1 + nonce.len() + plain.len() + 16);
        sealed.push(Self::FORM);
        sealed.extend_from_slice(&nonce);
        let mut body = plain.to_vec();
        self.0
            .encrypt_in_place(XNonce::from_slice(&nonce), associated.as_bytes(), &mut body)
            .map_err(|_| SecretKeyError::TooLong)?;
        sealed.extend_from_slice(&body);
        Ok(sealed)
    }

    /// Opens what [`seal`](Self::seal) sealed.
    ///
    /// # Errors
    /// [`SecretKeyError::WrongKey`] when another key sealed it, it was sealed for another place, or it was changed.
    pub fn open(&self, sealed: &[u8], associated: &str) -> Result<Vec<u8>, SecretKeyError> {
        let Some((&[Self::FORM], rest)) = sealed.split_first_chunk::<1>() else {
            return Err(SecretKeyError::WrongKey);
        };
        let (nonce, body) = rest.split_at_checked(Self::NONCE_BYTES).ok_or(SecretKeyError::WrongKey)?;
        let payload = Payload { msg: body, aad: associated.as_bytes() };
        self.0.decrypt(XNonce::from_slice(nonce), payload).map_err(|_| SecretKeyError::WrongKey)
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey(***)")
    }
}

/// Why a key could not be had, or something not be opened with it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SecretKeyError {
    /// The file is there, and is no key.
    #[error(
        "`{}` holds no key: expected one line of base64 for 32 bytes; restore it from a backup, or remove it to get a \
         new one (sealed tokens are then lost)", path.display()
    )]
    Malformed {
        /// The file.
        path: PathBuf,
    },
    /// A text is no key.
    #[error("expected base64 of 32 bytes, as the command `openssl rand -base64 32` prints it")]
    NotAKey,
    /// The file could not be read or made.
    #[error("cannot {operation} the key file `{}`", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It was sealed with another key, for another place, or changed since.
    #[error("this was sealed with another key: use the key file that the database was made with")]
    WrongKey,
    /// The text is too long to be sealed (256 GiB).
    #[error("the text is too long to be sealed")]
    TooLong,
    /// The system gave no random bytes.
    #[error("the system gave no random bytes")]
    Randomness(#[source] io::Error),
}

/// Reads the 32 bytes of a key from base64.
///
/// # Errors
/// [`SecretKeyError::NotAKey`].
pub fn parse_key(text: &str) -> Result<[u8; 32], SecretKeyError> {
    let bytes = BASE64.decode(text.trim()).map_err(|_| SecretKeyError::NotAKey)?;
    bytes.try_into().map_err(|_| SecretKeyError::NotAKey)
}

/// Reads 32 secret bytes from a file, which is made (mode 0600) if it is not there: for keys of another kind.
///
/// Processes that do this at the same time get the same bytes: the file appears whole or not at all.
///
/// # Errors
/// [`SecretKeyError::Malformed`] for a file that holds no key, [`SecretKeyError::Io`] for one that cannot be read or
/// made.
pub fn key_bytes(path: impl AsRef<Path>) -> Result<[u8; 32], SecretKeyError> {
    let path = path.as_ref();
    if let Some(key) = load(path)? {
        return Ok(key);
    }
    create(path)?;
    load(path)?.ok_or_else(|| io_error("read", path, io::ErrorKind::NotFound.into()))
}

fn load(path: &Path) -> Result<Option<[u8; KEY_BYTES]>, SecretKeyError> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_error("read", path, error)),
    };
    let key = parse_key(&text).map_err(|_| SecretKeyError::Malformed { path: path.to_owned() })?;
    warn_if_others_can_read(path);
    Ok(Some(key))
}

/// Puts a fresh key at `path` unless somebody else did so first.
fn create(path: &Path) -> Result<(), SecretKeyError> {
    let suffix = u64::from_ne_bytes(random()?);
    let mut draft = path.as_os_str().to_owned();
    draft.push(format!(".{suffix:016x}.tmp"));
    let draft = PathBuf::from(draft);
    let line = BASE64.encode(random::<{ KEY_BYTES }>()?) + "\n";
    let written = write_new(&draft, line.as_bytes()).and_then(|()| fs::hard_link(&draft, path));
    // The draft has done its work, or is of no use.
    let _ = fs::remove_file(&draft);
    match written {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(io_error("create", path, error)),
        _ => Ok(()),
    }
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn warn_if_others_can_read(path: &Path) {
    if fs::metadata(path).is_ok_and(|file| file.mode() & 0o077 != 0) {
        tracing::warn!(path = %path.display(), "other users may read the key file; `chmod 600` it");
    }
}

fn random<const N: usize>() -> Result<[u8; N], SecretKeyError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| SecretKeyError::Randomness(io::Error::other(error.to_string())))?;
    Ok(bytes)
}

fn io_error(operation: &'static str, path: &Path, source: io::Error) -> SecretKeyError {
    SecretKeyError::Io { operation, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_file_is_made_once_and_is_nobody_elses_to_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let sealed = SecretKey::load_or_create(&path).unwrap().seal(b"token", "place").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(SecretKey::load_or_create(&path).unwrap().open(&sealed, "place").unwrap(), b"token");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no draft is left");
    }

    #[test]
    fn those_who_make_the_file_at_the_same_time_get_the_same_key() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let keys: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| SecretKey::load_or_create(&path).unwrap())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let sealed = keys[0].seal(b"token", "place").unwrap();
        assert!(keys.iter().all(|key| key.open(&sealed, "place").is_ok()));
    }

    #[test]
    fn the_same_text_never_looks_the_same_and_never_looks_like_itself() {
        let key = SecretKey::random().unwrap();
        let (one, two) = (key.seal(b"token", "p").unwrap(), key.seal(b"token", "p").unwrap());
        assert_ne!(one, two);
        assert!(!one.windows(5).any(|part| part == b"token"));
    }

    #[track_caller]
    fn check_refused(edit: impl FnOnce(&mut Vec<u8>), associated: &str) {
        let key = SecretKey::random().unwrap();
        let mut sealed = key.seal(b"token", "place").unwrap();
        edit(&mut sealed);
        assert!(matches!(key.open(&sealed, associated), Err(SecretKeyError::WrongKey)));
    }

    #[test]
    fn what_was_changed_or_moved_does_not_open() {
        check_refused(|_| (), "another place");
        check_refused(|sealed| sealed[0] = 2, "place");
        check_refused(|sealed| sealed[1] ^= 1, "place");
        check_refused(|sealed| *sealed.last_mut().unwrap() ^= 1, "place");
        check_refused(|sealed| sealed.truncate(20), "place");
        check_refused(Vec::clear, "place");
    }

    #[test]
    fn another_key_does_not_open_it() {
        let sealed = SecretKey::random().unwrap().seal(b"token", "place").unwrap();
        assert!(matches!(SecretKey::random().unwrap().open(&sealed, "place"), Err(SecretKeyError::WrongKey)));
    }

    #[test]
    fn a_file_without_a_key_is_left_alone_and_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        fs::write(&path, "too short\n").unwrap();
        let error = SecretKey::load_or_create(&path).unwrap_err();
        assert!(matches!(error, SecretKeyError::Malformed { .. }), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "too short\n");
    }

    #[test]
    fn a_key_is_not_shown() {
        assert_eq!(format!("{:?}", SecretKey::random().unwrap()), "SecretKey(***)");
    }
}
