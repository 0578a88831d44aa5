//! Random sequences over real sockets: lengths, chunks, pauses, buffer sizes and ends, both ways at once. The seed of
//! a failure is printed; `ENTRYWAY_RELAY_SEED` replays it, `ENTRYWAY_RELAY_SEQUENCES` sets how many are run.

use super::*;
use crate::sys::{socket, tcp_info};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Close {
    /// Ends its half when it has sent everything.
    Fin,
    /// Resets once the other end's kernel has everything.
    Reset,
}

/// One far end's part: says its bytes in random pieces, hears the other's, ends.
async fn far_end(
    mut stream: TcpStream,
    seed: u64,
    says: usize,
    close: Close,
) -> (usize, io::Result<()>, usize) {
    let mut random = fastrand::Rng::with_seed(seed);
    let hears = seed ^ 1;
    let (mut said, mut heard) = (0, 0);
    let (mut out, mut buf, mut expected) = (Vec::new(), vec![0; 128 << 10], vec![0; 128 << 10]);
    let mut out_at = 0;
    let mut told = false;
    loop {
        if out_at == out.len() && said < says {
            let most = if random.bool() { 256 << 10 } else { 2000 };
            let len = random.usize(1..=most).min(says - said);
            out.resize(len, 0);
            pattern(seed, said, &mut out);
            (out_at, said) = (0, said + len);
            if random.u8(..) < 40 {
                tokio::time::sleep(Duration::from_millis(random.u64(0..3))).await;
            }
        }
        if out_at == out.len() && !told {
            if close == Close::Reset {
                heard += read_until_acknowledged(&mut stream).await;
                socket::reset_on_close(&stream).unwrap();
                return (heard, Ok(()), said);
            }
            told = true;
            if let Err(error) = socket::finish(&stream) {
                return (heard, Err(error), said);
            }
        }
        let room = random.usize(1..=buf.len());
        let (mut reader, mut writer) = stream.split();
        tokio::select! {
            read = reader.read(&mut buf[..room]) => match read {
                Ok(0) if told => return (heard, Ok(()), said),
                Ok(0) => {
                    // The other has ended; we go on saying what we have.
                    writer.write_all(&out[out_at..]).await.ok();
                    while said < says {
                        let len = (64 << 10).min(says - said);
                        pattern(seed, said, &mut expected[..len]);
                        if let Err(error) = writer.write_all(&expected[..len]).await {
                            return (heard, Err(error), said);
                        }
                        said += len;
                    }
                    if close == Close::Reset {
                        heard += read_until_acknowledged(&mut stream).await;
                        socket::reset_on_close(&stream).unwrap();
                    } else {
                        socket::finish(&stream).ok();
                    }
                    return (heard, Ok(()), said);
                }
                Ok(len) => {
                    pattern(hears, heard, &mut expected[..len]);
                    assert!(buf[..len] == expected[..len], "seed {seed}: wrong bytes at {heard}");
                    heard += len;
                }
                Err(error) => return (heard, Err(error), said),
            },
            wrote = writer.write(&out[out_at..]), if out_at < out.len() => match wrote {
                Ok(len) => out_at += len,
                Err(error) => {
                    // What had arrived before the reset is still there to be read.
                    while let Ok(len @ 1..) = reader.read(&mut buf).await {
                        pattern(hears, heard, &mut expected[..len]);
                        assert!(buf[..len] == expected[..len], "seed {seed}: wrong bytes at {heard}");
                        heard += len;
                    }
                    return (heard, Err(error), said);
                }
            },
        }
    }
}

/// Waits until everything we sent is with the other's kernel, or the connection is over; reads meanwhile, so that two
/// ends that wait for each other's acknowledgement both get it.
async fn read_until_acknowledged(stream: &mut TcpStream) -> usize {
    let (mut buf, mut heard) = (vec![0; 128 << 10], 0);
    while tcp_info::unsent(stream).unwrap() > 0 && !socket::is_over(stream) {
        match tokio::time::timeout(Duration::from_millis(1), stream.read(&mut buf)).await {
            Ok(Ok(0)) => tokio::time::sleep(Duration::from_millis(1)).await,
            Ok(Ok(len)) => heard += len,
            Ok(Err(_)) => break,
            Err(_) => {}
        }
    }
    heard
}

async fn sequence(seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut length = || match random.u8(0..10) {
        0 => 0,
        1..7 => random.usize(0..20_000),
        7 | 8 => random.usize(0..300_000),
        _ => random.usize(0..2_000_000),
    };
    let (asks, answers) = (length(), length());
    let mut close = || {
        if random.u8(0..4) == 0 {
            Close::Reset
        } else {
            Close::Fin
        }
    };
    let (client_close, server_close) = (close(), close());
    let mut plan = if random.u8(0..3) == 0 {
        Plan::buffer_only()
    } else {
        Plan::default()
    };
    if random.bool() {
        plan.client_buffers = Some(random.u32(4096..100_000));
    }
    if random.bool() {
        plan.pauses = Some(seed);
    }
    let rig = plan.rig().await;
    let base = seed << 1;
    let client = far_end(rig.client, base, asks, client_close);
    let server = far_end(rig.server, base ^ 1, answers, server_close);
    let (client, server) = tokio::join!(client, server);
    let outcome = rig.done.await.unwrap();
    let context =
        format!("seed {seed}: {client_close:?} {server_close:?} {outcome:?} {client:?} {server:?}");
    match outcome {
        Outcome::Finished { .. } => {
            assert!(
                client_close == Close::Fin && server_close == Close::Fin,
                "{context}"
            );
            assert!(client.1.is_ok() && server.1.is_ok(), "{context}");
            assert_eq!((client.0, server.0), (answers, asks), "{context}");
        }
        Outcome::Reset(from, _) => {
            assert!(
                client_close == Close::Reset || server_close == Close::Reset,
                "{context}"
            );
            // Everything the one that reset first had said was acknowledged, so the other must have heard it,
            // unless that one has reset too.
            match from {
                Side::Downstream if server_close == Close::Fin => {
                    assert_eq!(server.0, client.2, "{context}")
                }
                Side::Upstream if client_close == Close::Fin => {
                    assert_eq!(client.0, server.2, "{context}")
                }
                _ => {}
            }
        }
        _ => panic!("{context}"),
    }
    eventually("clean", || {
        rig.shared.leftover_bytes() == 0 && rig.shared.pipes_in_use() == 0
    })
    .await;
    assert_eq!(rig.shared.stalls(), 0, "{context}");
}

#[tokio::test]
async fn random_sequences_lose_nothing() {
    let number = |key: &str| {
        std::env::var(key)
            .ok()
            .and_then(|text| text.parse::<u64>().ok())
    };
    if let Some(seed) = number("ENTRYWAY_RELAY_SEED") {
        return sequence(seed).await;
    }
    let first = fastrand::u64(..1 << 48);
    let count = number("ENTRYWAY_RELAY_SEQUENCES").unwrap_or(400);
    println!("seeds {first} to {}", first + count - 1);
    let mut running = tokio::task::JoinSet::new();
    for seed in first..first + count {
        if running.len() == 32 {
            running.join_next().await.unwrap().unwrap();
        }
        running.spawn(sequence(seed));
    }
    while let Some(done) = running.join_next().await {
        done.unwrap();
    }
}
