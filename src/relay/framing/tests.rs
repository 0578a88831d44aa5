//! Framing against a reference that parses whole prefixes with another parser, and a corpus of what must be unknown.

use super::*;

mod reference;

use Direction::{Download, Upload};

/// Shows bytes in one piece.
fn show(framing: &mut Framing, direction: Direction, text: &str) -> HttpPhase {
    framing.inspect(direction, text.as_bytes());
    framing.phase()
}

/// The phase after these bytes, the same whether they come at once or byte by byte.
fn after(parts: &[(Direction, &[u8])]) -> HttpPhase {
    let mut whole = Framing::default();
    let mut single = Framing::default();
    for (direction, bytes) in parts {
        whole.inspect(*direction, bytes);
        for byte in *bytes {
            single.inspect(*direction, std::slice::from_ref(byte));
        }
        assert_eq!(
            whole.phase(),
            single.phase(),
            "{:?}",
            String::from_utf8_lossy(bytes)
        );
    }
    whole.phase()
}

fn after_request(request: impl AsRef<[u8]>) -> HttpPhase {
    after(&[(Upload, request.as_ref())])
}

/// The phase after this answer to a plain GET.
fn after_answer(answer: impl AsRef<[u8]>) -> HttpPhase {
    after(&[
        (Upload, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
        (Download, answer.as_ref()),
    ])
}

#[test]
fn it_is_small() {
    assert!(size_of::<Framing>() <= 48, "{}", size_of::<Framing>());
}

#[test]
fn an_exchange_goes_through_its_phases() {
    let mut framing = Framing::default();
    assert_eq!(framing.phase(), HttpPhase::Idle);
    assert_eq!(show(&mut framing, Upload, "POST / HT"), HttpPhase::Request);
    let rest = "TP/1.1\r\nContent-Length: 4\r\n\r\nab";
    assert_eq!(show(&mut framing, Upload, rest), HttpPhase::Request);
    assert_eq!(framing.opaque(Upload), 2);
    assert_eq!(show(&mut framing, Upload, "cd"), HttpPhase::Waiting);
    let interim = "HTTP/1.1 102 Processing\r\n\r\n";
    assert_eq!(show(&mut framing, Download, interim), HttpPhase::Waiting);
    assert_eq!(show(&mut framing, Download, "H"), HttpPhase::Answer);
    let head = "TTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\n";
    assert_eq!(show(&mut framing, Download, head), HttpPhase::Answer);
    assert_eq!(framing.opaque(Download), 5);
    framing.skip(Download, 5);
    assert_eq!(show(&mut framing, Download, "\r\n0\r\n"), HttpPhase::Answer);
    assert_eq!(
        show(&mut framing, Download, "X: y\r\n\r\n"),
        HttpPhase::Idle
    );
    assert!(framing.partial.is_none());
}

#[test]
fn an_upload_that_waits_for_100_continue_is_a_request_under_way() {
    let head = b"POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n";
    let go_on = b"HTTP/1.1 100 Continue\r\n\r\n";
    assert_eq!(after(&[(Upload, head)]), HttpPhase::Request);
    assert_eq!(
        after(&[(Upload, head), (Download, go_on)]),
        HttpPhase::Request
    );
    let refused = b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n";
    let early = [(Upload, head.as_slice()), (Download, refused)];
    assert_eq!(after(&early), HttpPhase::Request, "its body may still come");
    let whole = [early[0], early[1], (Upload, b"abc".as_slice())];
    assert_eq!(after(&whole), HttpPhase::Idle);
}

#[test]
fn an_answer_until_the_close_is_complete_at_the_close_only() {
    let mut framing = Framing::default();
    show(&mut framing, Upload, "GET / HTTP/1.0\r\n\r\n");
    assert_eq!(
        show(&mut framing, Download, "HTTP/1.0 200 OK\r\n\r\nso far"),
        HttpPhase::Answer
    );
    assert_eq!(framing.opaque(Download), u64::MAX);
    assert_eq!(framing.end(Download).answers, 1);
    assert_eq!(framing.phase(), HttpPhase::Idle);
}

#[test]
fn bodiless_answers_end_with_their_head() {
    for status in ["204 No Content", "304 Not Modified"] {
        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 10\r\n\r\n");
        assert_eq!(after_answer(&answer), HttpPhase::Idle, "{status}");
        assert_eq!(after_answer(answer + "0123456789"), HttpPhase::Unknown);
    }
    let head: (Direction, &[u8]) = (Upload, b"HEAD / HTTP/1.1\r\n\r\n");
    let get: (Direction, &[u8]) = (Upload, b"GET / HTTP/1.1\r\n\r\n");
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n";
    assert_eq!(after(&[head, (Download, answer)]), HttpPhase::Idle);
    assert_eq!(after(&[head, get, (Download, answer)]), HttpPhase::Waiting);
    let with_body: (Direction, &[u8]) = (Download, b"abc");
    assert_eq!(
        after(&[head, (Download, answer), with_body]),
        HttpPhase::Unknown,
        "a body behind an answer to HEAD is not believed"
    );
    assert_eq!(
        after(&[head, get, (Download, answer), with_body]),
        HttpPhase::Unknown
    );
}

#[test]
fn long_heads_and_split_lines_are_kept_within_bounds() {
    let long = "x".repeat(60_000);
    assert_eq!(
        after_request(format!("GET /{long} HTTP/1.1\r\n\r\n")),
        HttpPhase::Waiting
    );
    assert_eq!(
        after_request(format!("GET / HTTP/1.1\r\nCookie: {long}\r\n\r\n")),
        HttpPhase::Waiting
    );
    let many = "a:b\r\n".repeat(10_000);
    assert_eq!(
        after_request(format!("GET / HTTP/1.1\r\n{many}\r\n")),
        HttpPhase::Waiting
    );
    let mut framing = Framing::default();
    framing.inspect(Upload, b"GET / HTTP/1.1\r\nCookie: ");
    for _ in 0..60 {
        framing.inspect(Upload, &[b'c'; 1000]);
        let kept = framing.kept();
        assert!(kept <= 2 * KEPT_LINE, "{kept}");
    }
    assert_eq!(framing.phase(), HttpPhase::Request);
    assert_eq!(
        after_request("GET / HTTP/1.1\r\n".to_owned() + &"x:y\r\n".repeat(20_000)),
        HttpPhase::Unknown,
        "above 64 KiB"
    );
}

/// `after` compares with the same bytes one by one.
#[test]
fn a_line_that_is_too_long_to_be_kept_is_judged_the_same_in_one_piece() {
    let get = "GET / HTTP/1.1\r\n";
    let (name, fold) = ("n".repeat(KEPT_LINE), "f".repeat(KEPT_LINE));
    for (field, phase) in [
        (format!("{name}: x"), HttpPhase::Unknown),
        (format!("X: y\r\n {fold}"), HttpPhase::Unknown),
        (format!("X: {fold}"), HttpPhase::Waiting),
    ] {
        let request = format!("{get}{field}\r\n\r\n");
        assert_eq!(after_request(request), phase, "{:.8}", field);
    }
    let chunked = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
    let extension = format!("{chunked}1;{name}\r\na\r\n0\r\n\r\n");
    assert_eq!(after_request(extension), HttpPhase::Unknown);
}

#[test]
fn bare_lf_and_folds_of_other_fields_are_understood() {
    assert_eq!(
        after_request("GET / HTTP/1.1\nHost: x\n\n"),
        HttpPhase::Waiting
    );
    assert_eq!(
        after_request("POST / HTTP/1.1\r\nX: a\r\n b\r\nContent-Length: 1\r\n\r\n"),
        HttpPhase::Request
    );
    assert_eq!(
        after_request("\r\n\r\nGET / HTTP/1.1\r\n\r\n"),
        HttpPhase::Waiting
    );
    assert_eq!(
        after_answer("HTTP/1.1 200\nContent-Length: 2\n\nok"),
        HttpPhase::Idle
    );
}

/// Shapes on which two readers may differ, or that are no HTTP/1.x: never a guess.
#[test]
fn what_is_ambiguous_is_unknown() {
    let post = "POST / HTTP/1.1\r\nHost: x\r\n";
    let fields = [
        "Content-Length: 5\r\nContent-Length: 5",
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: 5, 5",
        "Content-Length: +5",
        "Content-Length: -5",
        "Content-Length: 0x5",
        "Content-Length: 5 5",
        "Content-Length: 5\u{b}",
        "Content-Length: \u{c}5",
        "Content-Length:",
        "Content-Length: five",
        "Content-Length: 9223372036854775808",
        "Content-Length: 99999999999999999999",
        "Content-Length : 5",
        "Content-Length\t: 5",
        "Content-Length:\r\n 5",
        "Content-Length: 5\r\n 0",
        "Content-Length: 5\rX: y",
        "Content-Length: 5\0",
        "Content-Length 5",
        ": 5",
        "C y: z",
        "X: a\0b",
        "X: a\rContent-Length: 5",
        "Transfer-Encoding: chunked\r\nContent-Length: 5",
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunked;q=1",
        "Transfer-Encoding: \u{b}chunked",
        "Transfer-Encoding:\r\n chunked",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding: chunked\r\n , gzip",
        "\u{7f}Transfer-Encoding: chunked",
    ];
    for field in fields {
        let request = format!("{post}{field}\r\n\r\n");
        assert_eq!(after_request(&request), HttpPhase::Unknown, "{field:?}");
        let answer = format!("HTTP/1.1 200 OK\r\n{field}\r\n\r\n");
        assert_eq!(
            after_answer(&answer),
            HttpPhase::Unknown,
            "answer, {field:?}"
        );
    }
    let folded_first = "POST / HTTP/1.1\r\n Content-Length: 5\r\n\r\n";
    assert_eq!(after_request(folded_first), HttpPhase::Unknown);
    let old = "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(after_request(old), HttpPhase::Unknown);
    let chunks = [
        "5 x\r\n",
        "5\n",
        "-1\r\n",
        "0x5\r\n",
        " 5\r\n",
        "\r\n",
        "8000000000000000\r\n",
        "0000000000000000000000000000000000000005\r\n",
        "1\r\naX\r\n",
        "1\r\na\n",
        "5;a\rb\r\n",
        "0\r\n\n",
        "0\r\nno trailer\r\n",
    ];
    for chunk in chunks {
        let request = format!("{post}Transfer-Encoding: chunked\r\n\r\n{chunk}");
        assert_eq!(after_request(&request), HttpPhase::Unknown, "{chunk:?}");
        let answer = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}");
        assert_eq!(
            after_answer(&answer),
            HttpPhase::Unknown,
            "answer, {chunk:?}"
        );
    }
}

#[test]
fn what_is_not_http_is_unknown_at_once() {
    let begins: [&[u8]; 12] = [
        b"\x16\x03\x01\x02\x00",
        b"\0",
        b"\n\xff",
        b"{\"json\":1} ",
        b"GET\t/ HTTP/1.1\r\n",
        b" GET / HTTP/1.1\r\n",
        b"SSH-2.0-OpenSSH_9.6 Debian\r\n",
        b"PRI * HTTP/2.0\r\n",
        b"GET /\r\n",
        b"GET HTTP/1.1\r\n",
        b"CONNECT a:1 HTTP/1.1\r\n",
        b"a-token-that-is-longer-than-any-method",
    ];
    for begin in begins {
        assert_eq!(
            after_request(begin),
            HttpPhase::Unknown,
            "{:?}",
            String::from_utf8_lossy(begin)
        );
    }
    let answers: [&[u8]; 7] = [
        b"x",
        b"HTTP/2 200\r\n",
        b"HTTP/1.1 20\r\n",
        b"HTTP/1.1 2000 OK\r\n",
        b"HTTP/1.1 600 Odd\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"\r\nHTTP/1.1 200 OK\r\n",
    ];
    for answer in answers {
        assert_eq!(
            after_answer(answer),
            HttpPhase::Unknown,
            "{:?}",
            String::from_utf8_lossy(answer)
        );
    }
    assert_eq!(after(&[(Download, b"HTTP/1.1 200 OK")]), HttpPhase::Unknown);
    assert_eq!(after(&[(Download, b"220 hello\r\n")]), HttpPhase::Unknown);
    let twice = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".repeat(2);
    assert_eq!(
        after_answer(twice),
        HttpPhase::Unknown,
        "two answers to one"
    );
    assert_eq!(
        after_request("GET / HTTP/1.1\r\n\r\n".repeat(33)),
        HttpPhase::Unknown,
        "more than 32 unanswered"
    );
}
