//! Bulk streams as blocks that carry stamps, so that a lost, repeated or moved page shows.

use std::io::{self, Read, Write};
use std::net::TcpStream;

/// Bulk streams move in blocks of this size.
pub(crate) const BLOCK: usize = 256 * 1024;

/// Every so many bytes of a bulk stream there is a stamp of 8: how many stamps came before.
pub(crate) const STAMP: usize = 4096;

/// Writes stamped blocks until told to stop; returns bytes written.
pub(crate) fn pour(stream: &mut impl Write, stop: impl Fn() -> bool) -> io::Result<u64> {
    let mut block = vec![0x5a; BLOCK];
    let mut number = 0u64;
    while !stop() {
        for (place, page) in block.chunks_mut(STAMP).enumerate() {
            page[..8].copy_from_slice(&stamp(number, place));
        }
        stream.write_all(&block)?;
        number += 1;
    }
    Ok(number * BLOCK as u64)
}

pub(crate) fn stamp(block: u64, place: usize) -> [u8; 8] {
    (block * (BLOCK / STAMP) as u64 + place as u64).to_le_bytes()
}

/// Reads until the block is full or the stream has ended.
pub(crate) fn fill(mut stream: &TcpStream, block: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < block.len() {
        match stream.read(&mut block[filled..])? {
            0 => break,
            more => filled += more,
        }
    }
    Ok(filled)
}

pub(crate) fn check(block: &[u8], number: u64) -> io::Result<()> {
    for (place, page) in block.chunks_exact(STAMP).enumerate() {
        if page[..8] != stamp(number, place) || page[8] != 0x5a || page[STAMP - 1] != 0x5a {
            return Err(io::Error::other(format!(
                "block {number} is not the one that was sent"
            )));
        }
    }
    Ok(())
}
