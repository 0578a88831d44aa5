//! Pipes that carry bytes between two sockets by splice, a bounded budget for them and a pool per thread.
//!
//! A pipe that holds bytes is closed, never pooled (L3); a pipe counts against its [`Budget`] from creation to close;
//! one splice asks for at most [`MOST`] bytes with flags NONBLOCK only (L6). Nothing ever waits on a pipe.

use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

pub use budget::{LARGE, NoPipe, PipeBudget, PipeLimits};

mod budget;

/// The most one splice asks for. `usize::MAX` is EINVAL, above 1 GiB is pointless.
pub const MOST: usize = 1 << 20;

/// What one splice did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moved {
    /// This many bytes moved.
    Bytes(NonZeroUsize),
    /// Nothing: the source has ended, or urgent data is next. A receive tells which.
    Nothing,
}

/// One pipe.
#[derive(Debug)]
pub struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    /// The size that the kernel granted, read back.
    size: usize,
    /// Bytes inside. May exceed `size`: merged segments take one slot each, whatever their length.
    pending: usize,
    budget: Arc<PipeBudget>,
}

/// Empty pipes of one thread, kept for the next who needs one. Needs no lock.
#[derive(Debug, Default)]
#[expect(
    clippy::vec_box,
    reason = "a connection that has no pipe has room for the pointer only, and none is allocated for a kept one"
)]
pub struct PipePool {
    small: Vec<Box<Pipe>>,
    large: Vec<Box<Pipe>>,
}

// === impl Pipe ===

impl Pipe {
    /// A new pipe of at least this size.
    fn open(size: usize, budget: &Arc<PipeBudget>) -> Result<Self, NoPipe> {
        if !budget.enter(size) {
            return Err(NoPipe::Budget);
        }
        match open_fds(size) {
            Ok((read, write, granted)) if granted >= size => {
                let pipe = Self {
                    read,
                    write,
                    size,
                    pending: 0,
                    budget: Arc::clone(budget),
                };
                budget.in_use.fetch_add(1, Relaxed);
                Ok(pipe)
            }
            Ok(_) => {
                budget.leave(size);
                Err(NoPipe::Small)
            }
            Err(error) => {
                budget.leave(size);
                Err(NoPipe::of(&error))
            }
        }
    }

    /// Bytes inside.
    pub fn pending(&self) -> usize {
        self.pending
    }

    /// Whether this is one of the large ones.
    pub fn is_large(&self) -> bool {
        self.size >= LARGE
    }

    /// Reads everything inside back into memory, for when a splice out of it is refused.
    pub fn rescue(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; self.pending];
        let mut filled = 0;
        while filled < bytes.len() {
            match rustix::io::read(&self.read, &mut bytes[filled..]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(more) => filled += more,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.pending = 0;
        Ok(bytes)
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        // Pooled pipes are not in use and count as such from `give` to `take`.
        self.budget.in_use.fetch_sub(1, Relaxed);
        self.budget.leave(self.size);
    }
}

// === impl PipePool ===

impl PipePool {
    /// Empty small pipes kept per thread.
    const KEEP_SMALL: usize = 16;
    /// Empty large pipes kept per thread.
    const KEEP_LARGE: usize = 4;

    /// An empty pipe of this size: a kept one, else a new one if the budget has room.
    pub fn take(&mut self, size: usize, budget: &Arc<PipeBudget>) -> Result<Box<Pipe>, NoPipe> {
        let kept = if size >= LARGE {
            &mut self.large
        } else {
            &mut self.small
        };
        while let Some(pipe) = kept.pop() {
            pipe.budget.in_use.fetch_add(1, Relaxed);
            if pipe.size == size && Arc::ptr_eq(&pipe.budget, budget) {
                return Ok(pipe);
            }
        }
        Pipe::open(size, budget).map(Box::new)
    }

    /// Gives a pipe back. One that holds bytes is closed: the next user must not see them (L3).
    pub fn give(&mut self, pipe: Box<Pipe>) {
        let (kept, keep) = if pipe.is_large() {
            (&mut self.large, Self::KEEP_LARGE)
        } else {
            (&mut self.small, Self::KEEP_SMALL)
        };
        if pipe.pending == 0 && kept.len() < keep {
            pipe.budget.in_use.fetch_sub(1, Relaxed);
            kept.push(pipe);
        }
    }

    /// Kept pipes.
    pub fn kept(&self) -> usize {
        self.small.len() + self.large.len()
    }
}

impl Drop for PipePool {
    fn drop(&mut self) {
        // `Pipe`'s own drop takes one off `in_use`, which kept pipes have given back already.
        for pipe in self.small.iter().chain(&self.large) {
            pipe.budget.in_use.fetch_add(1, Relaxed);
        }
    }
}

#[cfg(all(target_os = "linux", not(entryway_portable)))]
fn open_fds(size: usize) -> io::Result<(OwnedFd, OwnedFd, usize)> {
    use rustix::pipe::{PipeFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with};

    let (read, write) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC)?;
    let mut granted = fcntl_getpipe_size(&write)?;
    if granted != size {
        granted = match fcntl_setpipe_size(&write, size) {
            Ok(granted) => granted,
            // Above the uid's quota: the size stays as it is, which the caller finds too small.
            Err(rustix::io::Errno::PERM | rustix::io::Errno::BUSY) => granted,
            Err(error) => return Err(error.into()),
        };
    }
    Ok((read, write, granted))
}

#[cfg(any(not(target_os = "linux"), entryway_portable))]
fn open_fds(_size: usize) -> io::Result<(OwnedFd, OwnedFd, usize)> {
    Err(io::Error::from_raw_os_error(libc::ENOSYS))
}

/// Moves bytes from a socket into an **empty** pipe, so that WouldBlock is always the source's (L1).
pub fn splice_in(socket: &impl AsFd, pipe: &mut Pipe, len: usize) -> io::Result<Moved> {
    debug_assert_eq!(pipe.pending, 0, "L1: only an empty pipe is filled");
    match NonZeroUsize::new(splice(socket, &pipe.write, len.min(MOST))?) {
        Some(bytes) => {
            pipe.pending += bytes.get();
            Ok(Moved::Bytes(bytes))
        }
        None => Ok(Moved::Nothing),
    }
}

/// Moves bytes out of a pipe that holds some, so that WouldBlock is always the destination's (L1).
pub fn splice_out(pipe: &mut Pipe, socket: &impl AsFd) -> io::Result<NonZeroUsize> {
    let asked = pipe.pending.min(MOST);
    let Some(bytes) = NonZeroUsize::new(splice(&pipe.read, socket, asked)?) else {
        return Err(io::ErrorKind::WriteZero.into());
    };
    pipe.pending -= bytes.get();
    Ok(bytes)
}

#[cfg(all(target_os = "linux", not(entryway_portable)))]
fn splice(from: &impl AsFd, to: &impl AsFd, len: usize) -> io::Result<usize> {
    use rustix::pipe::{SpliceFlags, splice};

    loop {
        // NONBLOCK only: MORE delays short messages by 200 ms.
        match splice(from, None, to, None, len, SpliceFlags::NONBLOCK) {
            Err(rustix::io::Errno::INTR) => {}
            other => return other.map_err(Into::into),
        }
    }
}

#[cfg(any(not(target_os = "linux"), entryway_portable))]
fn splice(_from: &impl AsFd, _to: &impl AsFd, _len: usize) -> io::Result<usize> {
    Err(io::Error::from_raw_os_error(libc::ENOSYS))
}

// There are no pipes elsewhere.
#[cfg(all(target_os = "linux", not(entryway_portable)))]
#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (near, listener.accept().unwrap().0)
    }

    fn budget(pipes: usize, large: usize, pages: usize) -> Arc<PipeBudget> {
        Arc::new(PipeBudget::new(PipeLimits {
            pages,
            large,
            pipes,
        }))
    }

    #[test]
    fn the_budget_bounds_pipes_pages_and_large_ones() {
        let mut pool = PipePool::default();
        let tight = budget(2, 1, 4096);
        let first = pool.take(65536, &tight).unwrap();
        let large = pool.take(LARGE, &tight).unwrap();
        assert!(large.is_large() && !first.is_large());
        assert_eq!(pool.take(65536, &tight).unwrap_err(), NoPipe::Budget);
        assert_eq!(tight.in_use(), 2);
        drop(first);
        assert_eq!(
            pool.take(LARGE, &tight).unwrap_err(),
            NoPipe::Budget,
            "one large is the limit"
        );
        pool.give(large);
        assert_eq!((tight.in_use(), tight.existing(), pool.kept()), (0, 1, 1));
        assert!(pool.take(LARGE, &tight).unwrap().is_large());
        assert_eq!((tight.in_use(), tight.existing()), (0, 0));
        assert_eq!(
            pool.take(65536, &budget(9, 0, 8)).unwrap_err(),
            NoPipe::Budget,
            "16 pages do not fit in 8"
        );
    }

    #[test]
    fn a_dirty_pipe_is_never_pooled() {
        let (mut near, far) = pair();
        let counts = budget(4, 0, 4096);
        let mut pool = PipePool::default();
        let mut pipe = pool.take(65536, &counts).unwrap();
        near.write_all(b"secret").unwrap();
        assert_eq!(
            splice_in(&far, &mut pipe, MOST).unwrap(),
            Moved::Bytes(NonZeroUsize::new(6).unwrap())
        );
        pool.give(pipe);
        assert_eq!((pool.kept(), counts.existing(), counts.in_use()), (0, 0, 0));
    }

    #[test]
    fn what_is_inside_can_be_rescued() {
        let (mut near, far) = pair();
        let mut pool = PipePool::default();
        let mut pipe = pool.take(65536, &budget(1, 0, 64)).unwrap();
        near.write_all(b"abc").unwrap();
        splice_in(&far, &mut pipe, MOST).unwrap();
        assert_eq!(pipe.rescue().unwrap(), b"abc");
        assert_eq!(pipe.pending(), 0);
        near.write_all(b"d").unwrap();
        splice_in(&far, &mut pipe, MOST).unwrap();
        assert_eq!(splice_out(&mut pipe, &far).unwrap().get(), 1);
        near.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(splice_in(&far, &mut pipe, MOST).unwrap(), Moved::Nothing);
    }
}
