//! Where the bytes of one direction are between its two sockets, and when that changes.
//!
//! Either in memory (the thread's copy buffer, and an owned leftover for what the destination would not take) or in a
//! pipe (two plain TCP sockets and large messages: splice). The rule and its numbers are measured. A buffer changes
//! its mode only when empty (L4), and an idle one owns nothing.

use std::cell::RefCell;

use crate::sys::pipe::{self, NoPipe, Pipe, PipePool};

use super::shared::RelayShared;
use super::thread_buffer;

/// A read at least this large counts for the pipe: splice pays from 64 KiB messages on, never below 48.
const LARGE_READ: usize = 48 << 10;
/// Consecutive large reads that move a direction to the pipe; one that fills the thread's buffer does at once.
const LARGE_READS: u8 = 2;
/// A fill below this counts for memory.
const SMALL_FILL: usize = 32 << 10;
/// Consecutive small fills that move a direction back.
const SMALL_FILLS: u8 = 4;
/// A message whose rest is shorter stays in memory: framing has to see what follows it.
const LEAST_OPAQUE: u64 = LARGE_READ as u64;
/// Bytes without the source running dry after which the pipe is swapped for a large one.
const BULK: u32 = 512 << 10;
/// Large reads after which a pipe that was refused is asked for again.
const PATIENCE: u8 = 128;

thread_local! {
    static POOL: RefCell<PipePool> = RefCell::default();
}

/// The bytes of one direction that are in neither socket.
#[derive(Debug)]
pub(super) struct TransferBuffer {
    mode: BufferKind,
    /// Held only while bytes move.
    pipe: Option<Box<Pipe>>,
    /// Present only while the destination takes no more.
    rest: Option<Box<Leftover>>,
    /// Both ends are plain TCP, the settings allow it, and no splice was refused so far.
    may_splice: bool,
    large_reads: u8,
    small_fills: u8,
    patience: u8,
    /// Bytes since the source ran dry.
    run: u32,
    pipe_size: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BufferKind {
    Buffer,
    Pipe,
}

/// Bytes that the peer would not take yet.
#[derive(Debug, Default)]
struct Leftover {
    bytes: Vec<u8>,
    start: usize,
}

// === impl TransferBuffer ===

impl TransferBuffer {
    pub(super) fn new(may_splice: bool, pipe_size: u32) -> Self {
        Self {
            mode: BufferKind::Buffer,
            pipe: None,
            rest: None,
            may_splice,
            large_reads: 0,
            small_fills: 0,
            patience: 0,
            run: 0,
            pipe_size,
        }
    }

    pub(super) fn mode(&self) -> BufferKind {
        self.mode
    }

    /// Bytes inside.
    pub(super) fn pending(&self) -> usize {
        self.rest().len() + self.pipe.as_ref().map_or(0, |pipe| pipe.pending())
    }

    // In memory.

    /// Keeps what the peer would not take of a read.
    pub(super) fn keep(&mut self, bytes: Vec<u8>, shared: &RelayShared) {
        debug_assert_eq!(self.pending(), 0, "L1: only an empty buffer is filled");
        shared.leftover_grew(bytes.capacity());
        self.rest = Some(Box::new(Leftover { bytes, start: 0 }));
    }

    pub(super) fn rest(&self) -> &[u8] {
        self.rest
            .as_deref()
            .map_or(&[], |rest| &rest.bytes[rest.start..])
    }

    /// Takes sent bytes off the leftover; frees it when they were the last.
    pub(super) fn sent(&mut self, bytes: usize, shared: &RelayShared) {
        if let Some(rest) = &mut self.rest {
            rest.start += bytes;
            debug_assert!(rest.start <= rest.bytes.len());
        }
        if self.rest().is_empty() {
            self.take_rest(shared);
        }
    }

    /// The leftover, taken out.
    pub(super) fn take_rest(&mut self, shared: &RelayShared) -> Vec<u8> {
        let Some(rest) = self.rest.take() else {
            return Vec::new();
        };
        let Leftover { mut bytes, start } = *rest;
        shared.leftover_shrank(bytes.capacity());
        bytes.drain(..start);
        bytes
    }

    /// After a read of `bytes` into room for `room`: whether to move to the pipe. `opaque`: bytes that follow and that
    /// framing need not see.
    pub(super) fn after_read(&mut self, bytes: usize, room: usize, opaque: u64) {
        if !self.may_splice {
            return;
        }
        if bytes < LARGE_READ || opaque < LEAST_OPAQUE {
            self.large_reads = 0;
            return;
        }
        if self.patience > 0 {
            self.patience -= 1;
            return;
        }
        self.large_reads += 1;
        if self.large_reads >= LARGE_READS || (bytes == room && room == thread_buffer::SIZE) {
            self.large_reads = 0;
            self.small_fills = 0;
            self.run = 0;
            self.mode = BufferKind::Pipe;
        }
    }

    // In a pipe.

    /// An empty pipe to fill, borrowed on need; falls back to memory when there is none.
    pub(super) fn empty_pipe(&mut self, shared: &RelayShared) -> Option<&mut Pipe> {
        if self.pipe.is_none() {
            match POOL.with_borrow_mut(|pool| pool.take(self.pipe_size as usize, &shared.pipes)) {
                Ok(pipe) => self.pipe = Some(pipe),
                Err(why) => {
                    self.patience = PATIENCE;
                    self.fall_back(why, shared);
                }
            }
        }
        self.pipe.as_deref_mut()
    }

    /// The pipe, if it holds bytes.
    pub(super) fn full_pipe(&mut self) -> Option<&mut Pipe> {
        self.pipe.as_deref_mut().filter(|pipe| pipe.pending() > 0)
    }

    /// After bytes came into the pipe: what this says about the size of messages.
    pub(super) fn after_fill(&mut self, bytes: usize) {
        let bytes_of_run = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.run = self.run.saturating_add(bytes_of_run);
        self.small_fills = if bytes < SMALL_FILL {
            self.small_fills + 1
        } else {
            0
        };
    }

    /// The pipe has run empty: back to the buffer when messages are small, to a large pipe in bulk (L4).
    pub(super) fn drained(&mut self, shared: &RelayShared) {
        if self.small_fills >= SMALL_FILLS {
            self.small_fills = 0;
            self.mode = BufferKind::Buffer;
            self.give_back();
        } else if self.run >= BULK && self.pipe.as_ref().is_some_and(|pipe| !pipe.is_large()) {
            // None left: the small one goes on, and is asked again after as many bytes.
            self.run = 0;
            if let Ok(large) = POOL.with_borrow_mut(|pool| pool.take(pipe::LARGE, &shared.pipes)) {
                self.give_back();
                self.pipe = Some(large);
            }
        }
    }

    /// What comes next must be read into memory. Only while the pipe is empty (L4).
    pub(super) fn leave_pipe(&mut self) {
        debug_assert_eq!(self.pending(), 0, "L4: modes change only when empty");
        self.mode = BufferKind::Buffer;
        self.dry();
    }

    /// The source has run dry: an empty pipe goes back to the pool.
    pub(super) fn dry(&mut self) {
        self.run = 0;
        self.give_back();
    }

    /// The kernel refused to splice: from here on everything goes through the buffer; bytes in the pipe are read back.
    pub(super) fn refuse_splice(
        &mut self,
        error: &std::io::Error,
        shared: &RelayShared,
    ) -> std::io::Result<()> {
        self.may_splice = false;
        self.move_to_buffer(shared)?;
        self.fall_back(NoPipe::of(error), shared);
        Ok(())
    }

    /// Moves whatever the pipe holds to the leftover.
    pub(super) fn move_to_buffer(&mut self, shared: &RelayShared) -> std::io::Result<()> {
        self.mode = BufferKind::Buffer;
        if let Some(mut pipe) = self.pipe.take() {
            let bytes = pipe.rescue()?;
            self.keep(bytes, shared);
        }
        Ok(())
    }

    fn fall_back(&mut self, why: NoPipe, shared: &RelayShared) {
        self.mode = BufferKind::Buffer;
        shared.fell_back(why);
    }

    fn give_back(&mut self) {
        if let Some(pipe) = self.pipe.take() {
            POOL.with_borrow_mut(|pool| pool.give(pipe));
        }
    }

    /// Lets everything go; what is inside is lost. A dirty pipe is closed (L3).
    pub(super) fn clear(&mut self, shared: &RelayShared) {
        self.take_rest(shared);
        self.give_back();
    }
}
