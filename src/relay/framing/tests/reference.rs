//! Generated exchanges, read in pieces, against a reference that parses all bytes so far from their beginning with
//! httparse. `FRAMING_CASES` and `FRAMING_SEED` set how many and which.

use super::*;

/// One message of a direction, as the reference sees it.
#[derive(Debug)]
struct Message {
    head_complete: bool,
    complete: bool,
    is_head: bool,
    is_interim: bool,
}

/// What the bytes so far mean; for well-formed exchanges only.
fn reference(upload: &[u8], download: &[u8]) -> HttpPhase {
    let requests = requests(upload);
    let answers = answers(download, &requests);
    let done = |messages: &[Message]| {
        messages
            .iter()
            .filter(|message| message.complete && !message.is_interim)
            .count()
    };
    let inside = |messages: &[Message]| messages.last().is_some_and(|last| !last.complete);
    if inside(&answers) {
        HttpPhase::Answer
    } else if done(&requests) > done(&answers) {
        HttpPhase::Waiting
    } else if inside(&requests) {
        HttpPhase::Request
    } else {
        HttpPhase::Idle
    }
}

fn requests(mut bytes: &[u8]) -> Vec<Message> {
    let mut messages = Vec::new();
    while !bytes.is_empty() {
        if let Some(rest) = bytes.strip_prefix(b"\r\n") {
            bytes = rest;
            continue;
        }
        let mut fields = [httparse::EMPTY_HEADER; 32];
        let mut request = httparse::Request::new(&mut fields);
        let mut message = Message {
            head_complete: false,
            complete: false,
            is_head: false,
            is_interim: false,
        };
        let mut rest: &[u8] = &[];
        if let httparse::Status::Complete(head) = request.parse(bytes).unwrap() {
            message.head_complete = true;
            message.is_head = request.method == Some("HEAD");
            let body = &bytes[head..];
            let length = length(request.headers).unwrap_or(Some(0));
            if let Some(end) = body_end(body, length) {
                message.complete = true;
                rest = &body[end..];
            }
        }
        bytes = rest;
        messages.push(message);
    }
    messages
}

fn answers(mut bytes: &[u8], requests: &[Message]) -> Vec<Message> {
    let mut messages = Vec::new();
    let mut answered = 0;
    while !bytes.is_empty() {
        let mut fields = [httparse::EMPTY_HEADER; 32];
        let mut response = httparse::Response::new(&mut fields);
        let mut message = Message {
            head_complete: false,
            complete: false,
            is_head: false,
            is_interim: false,
        };
        let mut rest: &[u8] = &[];
        if let httparse::Status::Complete(head) = response.parse(bytes).unwrap() {
            message.head_complete = true;
            let status = response.code.unwrap();
            message.is_interim = status < 200;
            let body = &bytes[head..];
            let bodiless =
                message.is_interim || matches!(status, 204 | 304) || requests[answered].is_head;
            let end = match length(response.headers) {
                _ if bodiless => Some(0),
                Some(length) => body_end(body, length),
                None => None,
            };
            if let Some(end) = end {
                message.complete = true;
                rest = &body[end..];
                answered += usize::from(!message.is_interim);
            }
        }
        bytes = rest;
        messages.push(message);
    }
    messages
}

/// `Some(None)`: chunked.
fn length(fields: &[httparse::Header<'_>]) -> Option<Option<usize>> {
    let value = |name: &str| {
        let field = fields
            .iter()
            .find(|field| field.name.eq_ignore_ascii_case(name))?;
        Some(str::from_utf8(field.value).unwrap())
    };
    if value("transfer-encoding").is_some() {
        return Some(None);
    }
    value("content-length").map(|length| Some(length.trim().parse().unwrap()))
}

fn body_end(body: &[u8], length: Option<usize>) -> Option<usize> {
    match length {
        Some(length) => (body.len() >= length).then_some(length),
        None => chunked_end(body),
    }
}

fn chunked_end(body: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let httparse::Status::Complete((line, size)) =
            httparse::parse_chunk_size(&body[at..]).unwrap()
        else {
            return None;
        };
        at += line;
        if size == 0 {
            break;
        }
        at += usize::try_from(size).unwrap() + 2;
        if at > body.len() {
            return None;
        }
    }
    // Trailers, up to an empty line.
    loop {
        let end = at + body[at..].windows(2).position(|two| two == b"\r\n")?;
        let is_empty = end == at;
        at = end + 2;
        if is_empty {
            return Some(at);
        }
    }
}

/// A generated conversation: the bytes of both directions, and where heads and answers end.
#[derive(Debug, Default)]
struct Conversation {
    upload: Vec<u8>,
    download: Vec<u8>,
    /// For each exchange: the request's head ends here, its answer there.
    exchanges: Vec<(usize, usize)>,
}

fn conversation(random: &mut fastrand::Rng) -> Conversation {
    let mut made = Conversation::default();
    let count = random.usize(1..5);
    for number in 0..count {
        let method = random
            .choice(["GET", "HEAD", "POST", "PUT", "DELETE"])
            .unwrap();
        let version = random.choice(["1.1", "1.1", "1.1", "1.0"]).unwrap();
        if random.u8(..) < 20 {
            made.upload.extend_from_slice(b"\r\n");
        }
        let end = line_end(random);
        let target = "/".to_owned() + &word(random, 40);
        made.upload
            .extend_from_slice(format!("{method} {target} HTTP/{version}{end}").as_bytes());
        let sent = body(random, version == "1.1", &mut made.upload, end);
        let head_end = made.upload.len();
        made.upload.extend(sent);

        for _ in 0..random.usize(0..8).saturating_sub(5) {
            let status = random
                .choice(["100 Continue", "103 Early Hints", "102 "])
                .unwrap();
            made.download
                .extend_from_slice(format!("HTTP/1.1 {status}\r\n").as_bytes());
            fields(random, &mut made.download, "\r\n");
            made.download.extend_from_slice(b"\r\n");
        }
        let status = random
            .choice([
                "200 OK",
                "201 Created",
                "204 No Content",
                "304 Not Modified",
                "404 Not Found",
                "500 ",
            ])
            .unwrap();
        let end = line_end(random);
        let version = random.choice(["1.1", "1.1", "1.0"]).unwrap();
        made.download
            .extend_from_slice(format!("HTTP/{version} {status}{end}").as_bytes());
        let bodiless = method == "HEAD" || status.starts_with("204") || status.starts_with("304");
        let start = made.download.len() - 1;
        let mut answer = body(random, version == "1.1", &mut made.download, end);
        if bodiless {
            answer.clear();
        } else if answer.is_empty() && !has_length(&made.download[start..]) {
            if number + 1 < count {
                // Only the last answer may end with the connection.
                let head = made.download.len() - end.len();
                made.download.truncate(head);
                made.download
                    .extend_from_slice(format!("content-length: 0{end}{end}").as_bytes());
            } else {
                answer = bytes(random, 50);
            }
        }
        made.download.extend(answer);
        made.exchanges.push((head_end, made.download.len()));
    }
    made
}

fn has_length(head: &[u8]) -> bool {
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    head.contains("\ncontent-length") || head.contains("\ntransfer-encoding")
}

fn line_end(random: &mut fastrand::Rng) -> &'static str {
    if random.u8(..) < 30 { "\n" } else { "\r\n" }
}

fn word(random: &mut fastrand::Rng, most: usize) -> String {
    (0..random.usize(1..most))
        .map(|_| random.alphanumeric())
        .collect()
}

fn bytes(random: &mut fastrand::Rng, most: usize) -> Vec<u8> {
    (0..random.usize(1..most)).map(|_| random.u8(..)).collect()
}

fn fields(random: &mut fastrand::Rng, to: &mut Vec<u8>, end: &str) {
    for _ in 0..random.usize(0..4) {
        let name = random
            .choice([
                "Host",
                "X-Content-Length",
                "Connection",
                "Upgrade",
                "Expect",
                "Cookie",
                "x-y",
            ])
            .unwrap();
        let value = random
            .choice(["close", "h2c", "100-continue", "chunked", "5", "", "a b: c"])
            .unwrap();
        to.extend_from_slice(format!("{name}: {value}{end}").as_bytes());
    }
}

/// Writes fields and the empty line; the body that they promise.
fn body(random: &mut fastrand::Rng, may_chunk: bool, to: &mut Vec<u8>, end: &str) -> Vec<u8> {
    fields(random, to, end);
    let kind = random.u8(0..3);
    let mut body = Vec::new();
    if kind == 1 {
        body = if random.bool() {
            bytes(random, 80)
        } else {
            Vec::new()
        };
        let name = random
            .choice(["Content-Length", "content-length", "CONTENT-LENGTH"])
            .unwrap();
        let space = random.choice([" ", "", "\t "]).unwrap();
        to.extend_from_slice(format!("{name}:{space}{}{space}{end}", body.len()).as_bytes());
    } else if kind == 2 && may_chunk {
        let value = random
            .choice(["chunked", "Chunked", "gzip, chunked"])
            .unwrap();
        to.extend_from_slice(format!("Transfer-Encoding: {value}{end}").as_bytes());
        for _ in 0..random.usize(0..4) {
            let data = bytes(random, 40);
            let extension = random.choice(["", ";a=b", " ;x"]).unwrap();
            body.extend_from_slice(format!("{:x}{extension}\r\n", data.len()).as_bytes());
            body.extend(data);
            body.extend_from_slice(b"\r\n");
        }
        body.extend_from_slice(b"0\r\n");
        if random.bool() {
            body.extend_from_slice(b"Trailer: x\r\n");
        }
        body.extend_from_slice(b"\r\n");
    }
    fields(random, to, end);
    to.extend_from_slice(end.as_bytes());
    body
}

fn env(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn it_agrees_with_a_parser_of_whole_prefixes() {
    let seed = env("FRAMING_SEED").unwrap_or_else(|| fastrand::u64(..));
    let cases = env("FRAMING_CASES").unwrap_or(400);
    println!("FRAMING_SEED={seed} FRAMING_CASES={cases}");
    let mut answers = 0;
    for case in 0..cases {
        let mut random = fastrand::Rng::with_seed(seed.wrapping_add(case));
        answers += one(&mut random, case);
    }
    println!("{answers} exchanges");
}

/// Shows one conversation in pieces and compares after each; how many exchanges it had.
fn one(random: &mut fastrand::Rng, case: u64) -> u32 {
    let made = conversation(random);
    let byte_by_byte = random.u8(..) < 60;
    let mut framing = Framing::default();
    let mut seen = FramingProgress::default();
    let mut at = [0; 2];
    while at != [made.upload.len(), made.download.len()] {
        // An answer may come once the head of its request has gone.
        let limit = made
            .exchanges
            .iter()
            .take_while(|(head_end, _)| *head_end <= at[0])
            .last()
            .map_or(0, |(_, answer_end)| *answer_end);
        let direction = match (at[0] < made.upload.len(), at[1] < limit) {
            (true, true) => *random.choice(&Direction::BOTH).unwrap(),
            (true, false) => Direction::Upload,
            _ => Direction::Download,
        };
        let (bytes, end) = match direction {
            Direction::Upload => (&made.upload, made.upload.len()),
            Direction::Download => (&made.download, limit),
        };
        let start = at[direction.index()];
        let mut most = if byte_by_byte {
            1
        } else {
            random.usize(1..200)
        };
        most = most.min(end - start);
        let opaque = framing.opaque(direction);
        let progress = if opaque > 0 && random.bool() {
            most = most.min(usize::try_from(opaque).unwrap_or(usize::MAX));
            framing.skip(direction, most as u64)
        } else {
            framing.inspect(direction, &bytes[start..start + most])
        };
        at[direction.index()] += most;
        seen.requests += progress.requests;
        seen.begun += progress.begun;
        seen.answers += progress.answers;
        let expected = reference(&made.upload[..at[0]], &made.download[..at[1]]);
        assert_eq!(
            framing.phase(),
            expected,
            "case {case}, at {at:?}\n{:?}\n{:?}",
            String::from_utf8_lossy(&made.upload[..at[0]]),
            String::from_utf8_lossy(&made.download[..at[1]])
        );
    }
    seen.answers += framing.end(Direction::Download).answers;
    assert_eq!(framing.phase(), HttpPhase::Idle, "case {case}");
    let count = u32::try_from(made.exchanges.len()).unwrap();
    assert_eq!(
        (seen.requests, seen.begun, seen.answers),
        (count, count, count)
    );
    assert!(framing.partial.is_none());
    count
}
