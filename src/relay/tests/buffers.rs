//! The lanes: when the pipe is used, what happens when it cannot be.

use super::*;

const BULK: usize = 32 << 20;

/// Bulk one way; both ends in order. How many bytes went through a pipe.
async fn bulk(plan: Plan, direction: Direction) -> Rig {
    let mut rig = plan.rig().await;
    {
        let (from, to) = match direction {
            Direction::Upload => (&mut rig.client, &mut rig.server),
            Direction::Download => (&mut rig.server, &mut rig.client),
        };
        let send = async {
            send_pattern(from, 7, BULK).await;
            from.shutdown().await.unwrap();
        };
        let ((), (bytes, end)) = tokio::join!(send, check_pattern(to, 7));
        end.unwrap();
        assert_eq!(bytes, BULK);
        to.shutdown().await.unwrap();
    }
    let outcome = (&mut rig.done).await.unwrap();
    assert!(matches!(outcome, Outcome::Finished { .. }), "{outcome:?}");
    assert_eq!(rig.stats.bytes(direction), BULK as u64);
    assert_clean(&rig.shared, &rig.stats);
    rig
}

#[tokio::test]
async fn bulk_is_spliced_both_ways() {
    for direction in Direction::BOTH {
        let rig = bulk(Plan::default(), direction).await;
        if !PIPES {
            assert_eq!(rig.stats.spliced(direction), 0);
            assert_eq!(rig.stats.lane(), "buffer");
            let told = |(why, count)| why == "unsupported" && count > 0;
            assert!(rig.shared.fallbacks().any(told));
            continue;
        }
        let share = rig.stats.spliced(direction) as f64 / BULK as f64;
        assert!(
            share >= 0.99,
            "only {share:.3} of {} was spliced",
            direction.as_str()
        );
        assert_eq!(rig.stats.lane(), "pipe");
        assert_eq!(
            rig.shared.fallbacks().map(|(_, count)| count).sum::<u64>(),
            0
        );
    }
}

#[tokio::test]
async fn without_splice_bulk_goes_through_the_buffer() {
    let rig = bulk(Plan::buffer_only(), Direction::Download).await;
    assert_eq!(rig.stats.spliced(Direction::Download), 0);
}

#[tokio::test]
async fn no_pipe_to_be_had_is_counted_and_harms_nothing() {
    for limits in [
        PipeLimits {
            pages: 8192,
            large: 32,
            pipes: 0,
        },
        PipeLimits {
            pages: 8,
            large: 0,
            pipes: 9,
        },
    ] {
        let plan = Plan {
            shared: Arc::new(RelayShared::new(limits)),
            ..Plan::default()
        };
        let rig = bulk(plan, Direction::Upload).await;
        assert_eq!(rig.stats.spliced(Direction::Upload), 0);
        assert!(
            rig.shared
                .fallbacks()
                .any(|(why, count)| why == "budget" && count > 0)
        );
    }
}

#[tokio::test]
async fn without_large_pipes_small_ones_do() {
    let limits = PipeLimits {
        pages: 64,
        large: 0,
        pipes: 4,
    };
    let rig = bulk(
        Plan {
            shared: Arc::new(RelayShared::new(limits)),
            ..Plan::default()
        },
        Direction::Download,
    )
    .await;
    let least = if PIPES { BULK as u64 / 100 * 99 } else { 0 };
    assert!(rig.stats.spliced(Direction::Download) >= least);
}

#[tokio::test]
async fn l4_small_messages_after_bulk_go_back_to_the_buffer() {
    let mut rig = Plan::default().rig().await;
    let send = async {
        send_pattern(&mut rig.client, 1, 8 << 20).await;
    };
    let receive = async {
        rig.server.read_exact(&mut vec![0; 8 << 20]).await.unwrap();
    };
    tokio::join!(send, receive);
    let spliced = rig.stats.spliced(Direction::Upload);
    assert_eq!(spliced > 0, PIPES);
    for _ in 0..10 {
        rig.client.write_all(&[1; 1000]).await.unwrap();
        rig.server.read_exact(&mut [0; 1000]).await.unwrap();
    }
    let then = rig.stats.spliced(Direction::Upload);
    assert!(then - spliced <= 5000, "back after four small fills");
    eventually("an idle connection holds no pipe", || {
        rig.shared.pipes_in_use() == 0
    })
    .await;
}

#[tokio::test]
async fn l1_one_byte_segments_and_a_slow_reader() {
    // A pipe has 16 slots: many tiny segments fill it with a few bytes, which must not look like a dry source.
    let mut rig = Plan {
        client_buffers: Some(4096),
        ..Plan::default()
    }
    .rig()
    .await;
    let big = 2 << 20;
    let send = async {
        send_pattern(&mut rig.server, 3, big).await;
        let mut buf = vec![0; 3000];
        pattern(3, big, &mut buf);
        for byte in &buf {
            rig.server
                .write_all(std::slice::from_ref(byte))
                .await
                .unwrap();
        }
        rig.server.shutdown().await.unwrap();
    };
    let receive = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        check_pattern(&mut rig.client, 3).await
    };
    let ((), (bytes, end)) = tokio::join!(send, receive);
    end.unwrap();
    assert_eq!(bytes, big + 3000);
    assert_eq!(rig.stats.spliced(Direction::Download) > 0, PIPES);
}

#[tokio::test]
async fn short_messages_are_not_delayed_in_the_pipe_lane() {
    let mut rig = Plan::default().rig().await;
    // Large messages move the direction to the pipe; each ends in a segment that is not full.
    let mut buf = vec![0; 64 << 10];
    let begin = tokio::time::Instant::now();
    for _ in 0..50 {
        rig.client.write_all(&buf).await.unwrap();
        rig.server.read_exact(&mut buf).await.unwrap();
    }
    assert!(
        begin.elapsed() < Duration::from_secs(2),
        "{:?}",
        begin.elapsed()
    );
    assert_eq!(rig.stats.spliced(Direction::Upload) > 0, PIPES);
}

#[tokio::test]
async fn r50_leftovers_are_capped_in_all() {
    let shared = Plan::default().shared;
    let mut rigs = Vec::new();
    for _ in 0..100 {
        let plan = Plan {
            shared: Arc::clone(&shared),
            client_buffers: Some(4096),
            ..Plan::buffer_only()
        };
        rigs.push(plan.rig().await);
    }
    let total = 2 << 20;
    let mut sends = Vec::new();
    let mut clients = Vec::new();
    for (seed, rig) in rigs.into_iter().enumerate() {
        let (mut server, client) = (rig.server, rig.client);
        sends.push(tokio::spawn(async move {
            send_pattern(&mut server, seed as u64, total).await
        }));
        clients.push((seed, client, rig.done, rig.stats));
    }
    // Everything stands still once no stats moves any more.
    let sum = |clients: &[(usize, TcpStream, _, Arc<ConnStats>)]| -> u64 {
        clients
            .iter()
            .map(|(.., stats)| stats.bytes(Direction::Download))
            .sum()
    };
    let mut before = u64::MAX;
    while before == 0 || before != sum(&clients) {
        before = sum(&clients);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let most = (8 << 20) + (256 << 10) + 100 * (8 << 10);
    assert!(
        shared.leftover_bytes() <= most,
        "{} in leftovers",
        shared.leftover_bytes()
    );
    assert!(shared.leftover_bytes() > 0);
    for (seed, mut client, ..) in clients {
        let (bytes, end) = check_pattern(&mut client, seed as u64).await;
        end.unwrap_or_else(|error| panic!("{seed}: {error}"));
        assert_eq!(bytes, total);
    }
    for send in sends {
        send.await.unwrap();
    }
    eventually("the leftovers are gone", || shared.leftover_bytes() == 0).await;
}

// There are no pipes elsewhere.
#[cfg(all(target_os = "linux", not(entryway_portable)))]
#[tokio::test]
async fn l4_a_splice_refused_with_a_full_pipe_loses_nothing() {
    let (mut far, near) = pair(None).await;
    let shared = Plan::default().shared;
    let mut buffer = TransferBuffer::new(true, Limits::PIPE_SIZE);
    buffer.after_read(256 << 10, 256 << 10, u64::MAX);
    assert_eq!(buffer.mode(), buffer::BufferKind::Pipe);
    far.write_all(b"in the pipe").await.unwrap();
    near.readable().await.unwrap();
    let pipe = buffer.empty_pipe(&shared).unwrap();
    crate::sys::pipe::splice_in(&near, pipe, 100).unwrap();
    let refusal = io::Error::from_raw_os_error(libc::EINVAL);
    buffer.refuse_splice(&refusal, &shared).unwrap();
    assert_eq!(
        (buffer.mode(), buffer.rest()),
        (buffer::BufferKind::Buffer, &b"in the pipe"[..])
    );
    assert!(shared.fallbacks().any(|count| count == ("unsupported", 1)));
    assert_eq!(shared.pipes_in_use(), 0, "closed, not pooled: {buffer:?}");
    // From here on this direction stays with the buffer.
    buffer.sent(11, &shared);
    buffer.after_read(256 << 10, 256 << 10, u64::MAX);
    assert_eq!(
        (buffer.mode(), shared.leftover_bytes()),
        (buffer::BufferKind::Buffer, 0)
    );
}

#[test]
fn l6_one_splice_asks_for_at_most_one_mebibyte() {
    assert_eq!(crate::sys::pipe::MOST, 1 << 20);
}

#[tokio::test]
async fn l8_bytes_are_counted_while_the_connection_lives() {
    let mut rig = Plan::default().rig().await;
    rig.client.write_all(&[0; 100]).await.unwrap();
    rig.server.read_exact(&mut [0; 100]).await.unwrap();
    assert_eq!(rig.stats.bytes(Direction::Upload), 100);
    assert_eq!(rig.stats.last_direction(), Some(Direction::Upload));
    rig.server.write_all(&[0; 7]).await.unwrap();
    rig.client.read_exact(&mut [0; 7]).await.unwrap();
    assert_eq!(rig.stats.bytes(Direction::Download), 7);
    assert_eq!(rig.stats.last_direction(), Some(Direction::Download));
    assert!(!rig.done.is_finished());
}

/// Urgent data stops a receive short, and a splice altogether; the bytes on both sides of it arrive all the same.
#[tokio::test]
async fn bytes_on_both_sides_of_urgent_data_arrive() {
    for (before, after, ends) in [
        (8 << 20, 1 << 20, true),
        (8 << 20, 1 << 20, false),
        (8 << 20, 100, false),
        (100, 100, true),
        (100, 100, false),
        (0, 100, false),
    ] {
        for plan in [Plan::default(), Plan::buffer_only()] {
            let Rig {
                mut client,
                mut server,
                ..
            } = plan.rig().await;
            let send = async {
                send_pattern(&mut client, 1, before).await;
                loop {
                    client.writable().await.unwrap();
                    let urgent = || socket2::SockRef::from(&client).send_out_of_band(b"!");
                    if client.try_io(tokio::io::Interest::WRITABLE, urgent).is_ok() {
                        break;
                    }
                }
                send_pattern(&mut client, 2, after).await;
                if ends {
                    client.shutdown().await.unwrap();
                }
            };
            let receive = async {
                let mut got = vec![0; before + after];
                server.read_exact(&mut got).await.unwrap();
                let mut expected = vec![0; before + after];
                pattern(1, 0, &mut expected[..before]);
                pattern(2, 0, &mut expected[before..]);
                assert!(got == expected, "{before} {after} {ends}");
                if ends {
                    assert_eq!(server.read(&mut [0; 1]).await.unwrap(), 0);
                }
            };
            let both = async { tokio::join!(send, receive) };
            tokio::time::timeout(Duration::from_secs(20), both)
                .await
                .unwrap_or_else(|_| panic!("{before} {after} {ends}: hangs"));
        }
    }
}
