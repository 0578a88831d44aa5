//! Standard output as commands use it.

use std::io::{self, Write};

/// Standard output, without colours where it is no terminal. When its reader has gone (`entryway status | head -1`) what
/// follows is discarded: the reader has had enough, and a command whose exit code is its answer keeps that answer.
/// Other errors, such as a full disk, are the caller's to report.
#[derive(Debug)]
pub struct Stdout {
    inner: anstream::Stdout,
    /// Whether there is anything to flush. Standard output has one lock, which a thread of `run` holds for as long as it
    /// writes into a pipe that nobody reads: a command that has written nothing must not wait for it at its end.
    is_written: bool,
}

// === impl Stdout ===

impl Default for Stdout {
    fn default() -> Self {
        Self {
            inner: anstream::stdout(),
            is_written: false,
        }
    }
}

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.is_written = true;
        unless_reader_is_gone(self.inner.write(bytes), bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if !self.is_written {
            return Ok(());
        }
        unless_reader_is_gone(self.inner.flush(), ())
    }
}

fn unless_reader_is_gone<T>(result: io::Result<T>, otherwise: T) -> io::Result<T> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(otherwise),
        result => result,
    }
}
