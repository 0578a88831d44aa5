//! How many pipes there may be, and what refuses one.
//!
//! Owns the counts of one instance: pages (an unprivileged uid has a quota of them), large pipes, descriptors.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// The size of a pipe for bulk.
pub const LARGE: usize = 1 << 20;

const PAGE: usize = 4096;

/// Why there is no pipe to be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NoPipe {
    /// Our own bound on pipes, pages or large pipes.
    Budget,
    /// No descriptor left (EMFILE, ENFILE).
    Descriptors,
    /// The kernel gave a pipe that is too small to be of use (the uid's page quota is used up), or refused its size.
    Small,
    /// Not permitted (EPERM, EACCES: a seccomp filter).
    Permission,
    /// Unknown to this kernel (ENOSYS, EINVAL).
    Unsupported,
    /// Anything else.
    Other,
}

/// How many pipes there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PipeLimits {
    /// Pages in all pipes together.
    pub pages: usize,
    /// Large pipes.
    pub large: usize,
    /// Pipes of any size (two descriptors each).
    pub pipes: usize,
}

/// The count of pipes of one instance. Data threads add and subtract; the scrape reads.
#[derive(Debug)]
pub struct PipeBudget {
    limits: PipeLimits,
    pages: AtomicUsize,
    large: AtomicUsize,
    pipes: AtomicUsize,
    pub(super) in_use: AtomicUsize,
}

// === impl Refused ===

impl NoPipe {
    /// All of them.
    pub const ALL: [NoPipe; 6] = [
        NoPipe::Budget,
        NoPipe::Descriptors,
        NoPipe::Small,
        NoPipe::Permission,
        NoPipe::Unsupported,
        NoPipe::Other,
    ];

    /// The metric label.
    pub const fn as_str(self) -> &'static str {
        match self {
            NoPipe::Budget => "budget",
            NoPipe::Descriptors => "emfile",
            NoPipe::Small => "small_pipe",
            NoPipe::Permission => "eperm",
            NoPipe::Unsupported => "unsupported",
            NoPipe::Other => "other",
        }
    }

    /// Index into an array of six.
    pub const fn index(self) -> usize {
        self as usize
    }

    /// Classes an error of `pipe2`, `F_SETPIPE_SZ` or `splice` that is no fault of the connection.
    pub fn of(error: &io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::EMFILE | libc::ENFILE) => NoPipe::Descriptors,
            Some(libc::EPERM | libc::EACCES) => NoPipe::Permission,
            Some(libc::ENOSYS | libc::EINVAL) => NoPipe::Unsupported,
            _ => NoPipe::Other,
        }
    }
}

// === impl PipeLimits ===

impl PipeLimits {
    /// Half of what an unprivileged uid may have (`pipe-user-pages-soft`), at most 32 large ones and 512 pipes.
    pub fn of_this_machine() -> Self {
        let soft = std::fs::read_to_string("/proc/sys/fs/pipe-user-pages-soft")
            .ok()
            .and_then(|text| text.trim().parse::<usize>().ok())
            // 0 means no limit; the kernel's default bounds us all the same.
            .filter(|&pages| pages > 0)
            .unwrap_or(16384);
        Self {
            pages: soft / 2,
            large: 32,
            pipes: 512,
        }
    }

    /// The same with at most this many pipes, half of which may be large.
    #[must_use]
    pub fn at_most(self, pipes: usize) -> Self {
        let large = self.large.min(self.pages * PAGE / LARGE).min(pipes / 2);
        Self {
            large,
            pipes: self.pipes.min(pipes),
            ..self
        }
    }
}

// === impl Budget ===

impl PipeBudget {
    /// An empty budget.
    pub fn new(limits: PipeLimits) -> Self {
        Self {
            limits,
            pages: AtomicUsize::new(0),
            large: AtomicUsize::new(0),
            pipes: AtomicUsize::new(0),
            in_use: AtomicUsize::new(0),
        }
    }

    /// Pipes that a connection holds now.
    pub fn in_use(&self) -> usize {
        self.in_use.load(Relaxed)
    }

    /// Pipes that exist, in use or pooled.
    pub fn existing(&self) -> usize {
        self.pipes.load(Relaxed)
    }

    /// Takes room for one pipe of this size, or leaves everything as it was.
    pub(super) fn enter(&self, size: usize) -> bool {
        let pages = size / PAGE;
        let is_large = size >= LARGE;
        // A quarter of the pages is kept for small pipes: one elephant must not send every message to the buffer.
        let most_pages = if is_large {
            self.limits.pages / 4 * 3
        } else {
            self.limits.pages
        };
        let fits = add_within(&self.pipes, 1, self.limits.pipes);
        if !fits {
            return false;
        }
        if !add_within(&self.pages, pages, most_pages) {
            self.pipes.fetch_sub(1, Relaxed);
            return false;
        }
        if is_large && !add_within(&self.large, 1, self.limits.large) {
            self.pages.fetch_sub(pages, Relaxed);
            self.pipes.fetch_sub(1, Relaxed);
            return false;
        }
        true
    }

    pub(super) fn leave(&self, size: usize) {
        self.pipes.fetch_sub(1, Relaxed);
        self.pages.fetch_sub(size / PAGE, Relaxed);
        if size >= LARGE {
            self.large.fetch_sub(1, Relaxed);
        }
    }
}

fn add_within(count: &AtomicUsize, more: usize, limit: usize) -> bool {
    count
        .fetch_update(Relaxed, Relaxed, |now| {
            (now + more <= limit).then_some(now + more)
        })
        .is_ok()
}
