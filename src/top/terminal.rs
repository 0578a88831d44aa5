//! The loop around [`View`]: reads the instance at most once a second, draws at most four times a second, obeys keys.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyEvent};
use rustix::time::{ClockId, clock_gettime};
use serde::de::DeserializeOwned;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::data::Connections;
use super::{Action, KeyOutcome, Look, TopData, View};
use crate::admin::api_types::{Endpoints, StatusJson};
use crate::http::client::{self, Bounds, HttpTarget};
use crate::http::query::encode;

/// Between two readings: at least, and at most.
const READ_EVERY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5));
/// Readings come so much less often than one costs that all of this takes at most 1/250 of a core, whatever the number of
/// connections.
const READ_COSTS: u32 = 250;
/// The history is one of minutes.
const HISTORY_EVERY: Duration = Duration::from_secs(20);
const DRAW_EVERY: Duration = Duration::from_millis(250);

const BOUNDS: Bounds = Bounds {
    time: Duration::from_secs(5),
    body: 64 << 20,
};

enum TerminalInput {
    Key(KeyEvent),
    Resize,
    Closed,
}

/// Shows the instance until q or Ctrl-C. Fails where standard output is not a terminal.
pub async fn run(instance: HttpTarget, control: Option<PathBuf>) -> io::Result<()> {
    let mut terminal = ratatui::try_init()?;
    let outcome = show(&mut terminal, instance, control).await;
    ratatui::restore();
    outcome
}

async fn show(
    terminal: &mut DefaultTerminal,
    instance: HttpTarget,
    control: Option<PathBuf>,
) -> io::Result<()> {
    let mut view = View::new(instance.to_string(), look());
    let mut keys = read_keys();
    let (lines_to, mut lines) = mpsc::channel(256);
    let follow = tokio::spawn(follow(instance.clone(), lines_to));
    let (mut read_at, mut draw_at) = (Instant::now(), Instant::now());
    let mut history_at = Instant::now();
    let mut spent = cpu_time();
    let mut changed = true;
    let mut terminated = signal(SignalKind::terminate())?;
    loop {
        tokio::select! {
            _ = terminated.recv() => break,
            input = keys.recv() => match input {
                Some(TerminalInput::Key(key)) => {
                    changed = true;
                    // What a key does is seen at once.
                    draw_at = Instant::now();
                    let had_connections = view.shows_connections();
                    match view.key(key) {
                        KeyOutcome::Continue => {}
                        KeyOutcome::Quit => break,
                        KeyOutcome::Do(action) => {
                            let socket = control.clone().or_else(|| view.control_socket().map(PathBuf::from));
                            view.did(change(socket, &action).await);
                            read_at = Instant::now();
                        }
                    }
                    if view.shows_connections() && !had_connections {
                        // They are read only while they are shown.
                        read_at = Instant::now();
                    }
                }
                Some(TerminalInput::Resize) => {
                    changed = true;
                    draw_at = Instant::now();
                }
                // The terminal is gone.
                Some(TerminalInput::Closed) | None => break,
            },
            Some(line) = lines.recv() => {
                view.event(&line);
                changed = true;
            }
            () = sleep_until(read_at) => {
                let with_history = Instant::now() >= history_at;
                match read(&instance, view.shows_connections(), with_history).await {
                    Ok(data) => {
                        if with_history {
                            history_at = Instant::now() + HISTORY_EVERY;
                        }
                        view.update(data);
                    }
                    Err(error) => view.failed(error),
                }
                changed = true;
                let before = std::mem::replace(&mut spent, cpu_time());
                read_at = Instant::now() + pause_after(spent.saturating_sub(before));
            }
            () = sleep_until(draw_at), if changed => {
                terminal.draw(|frame| view.render(frame))?;
                changed = false;
                draw_at = Instant::now() + DRAW_EVERY;
            }
        }
    }
    follow.abort();
    Ok(())
}

/// A thread of its own: reading a terminal blocks. It ends with the process, or with its receiver at the next key.
fn read_keys() -> mpsc::Receiver<TerminalInput> {
    let (sender, receiver) = mpsc::channel(16);
    std::thread::spawn(move || {
        loop {
            let input = match event::read() {
                Ok(Event::Key(key)) => TerminalInput::Key(key),
                Ok(Event::Resize(..)) => TerminalInput::Resize,
                Ok(_) => continue,
                Err(_) => TerminalInput::Closed,
            };
            let over = matches!(input, TerminalInput::Closed);
            if sender.blocking_send(input).is_err() || over {
                return;
            }
        }
    });
    receiver
}

/// Follows `/v1/events`, again after each end: the instance may restart.
async fn follow(instance: HttpTarget, lines: mpsc::Sender<String>) {
    let mut last = String::from("none");
    loop {
        let headers = [("last-event-id", last.clone())];
        let headers: Vec<(&str, &str)> = headers.iter().map(|(k, v)| (*k, v.as_str())).collect();
        let mut ids = Vec::new();
        // An error shows itself in the reading beside this.
        let _ = client::lines(&instance, "/v1/events", &headers, |line| {
            if let Some(id) = line.strip_prefix("id: ") {
                ids = vec![id.to_owned()];
            } else if let Some(data) = line.strip_prefix("data: ") {
                // A full channel means that drawing is behind: the event is left out.
                let _ = lines.try_send(data.to_owned());
            }
        })
        .await;
        if let Some(id) = ids.pop() {
            last = id;
        }
        if lines.is_closed() {
            return;
        }
        tokio::time::sleep(READ_EVERY.0).await;
    }
}

/// How long to wait after a reading, when so much of a core was used since the one before.
fn pause_after(spent: Duration) -> Duration {
    (spent * READ_COSTS).clamp(READ_EVERY.0, READ_EVERY.1)
}

/// CPU time of this process.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(
        time.tv_sec.try_into().unwrap_or(0),
        time.tv_nsec.try_into().unwrap_or(0),
    )
}

async fn read(
    instance: &HttpTarget,
    with_connections: bool,
    with_history: bool,
) -> Result<TopData, String> {
    let status: StatusJson = get(instance, "/v1/status").await?;
    let endpoints: Endpoints = get(instance, "/v1/endpoints").await?;
    let connections = match with_connections {
        true => {
            let read: Connections = get(instance, "/v1/connections").await?;
            Some(read.connections)
        }
        false => None,
    };
    let history = match with_history {
        // An older instance has no history; the rest is shown all the same.
        true => Some(
            get(instance, "/v1/history?minutes=60")
                .await
                .unwrap_or_default(),
        ),
        false => None,
    };
    Ok(TopData {
        status,
        endpoints: endpoints.endpoints,
        connections,
        history,
    })
}

async fn get<T: DeserializeOwned>(instance: &HttpTarget, path: &str) -> Result<T, String> {
    let answer = client::get(instance, path, BOUNDS)
        .await
        .map_err(|error| error.to_string())?;
    if !answer.status.is_success() {
        return Err(format!("{path}: {}", answer.status));
    }
    serde_json::from_slice(&answer.body).map_err(|error| format!("{path}: {error}"))
}

/// What it did, in one line.
async fn change(control: Option<PathBuf>, action: &Action) -> String {
    let Some(socket) = control else {
        return "the instance has no control socket; nothing was changed".to_owned();
    };
    let path = match action {
        Action::Endpoint {
            action,
            upstream,
            name,
        } => format!(
            "/v1/endpoints/{}/{}?upstream={}",
            encode(name),
            action.as_str(),
            encode(upstream)
        ),
        Action::Close(id) => format!("/v1/connections/{id}/close"),
    };
    match client::post(&HttpTarget::Unix(socket), &path, &[], BOUNDS).await {
        Ok(answer) if answer.status.is_success() => "done".to_owned(),
        Ok(answer) => format!("refused ({}): {}", answer.status, answer.text()),
        Err(error) => format!("not done: {error}"),
    }
}

/// What the terminal says about itself: `NO_COLOR`, and the character set of the locale.
fn look() -> Look {
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let locale = set("LC_ALL")
        .or_else(|| set("LC_CTYPE"))
        .or_else(|| set("LANG"));
    let unicode = locale.is_some_and(|locale| {
        let locale = locale.to_ascii_lowercase();
        locale.contains("utf-8") || locale.contains("utf8")
    });
    Look {
        colour: set("NO_COLOR").is_none() && set("TERM").is_none_or(|term| term != "dumb"),
        unicode,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::api_types::History;

    /// It never reads faster than it may, and what a reading costs is at most 1/250 of the time between two.
    #[test]
    fn readings_cost_a_fixed_part_of_a_core() {
        let pause = |micros| pause_after(Duration::from_micros(micros));
        assert_eq!(pause(0), Duration::from_secs(1));
        assert_eq!(pause(3_900), Duration::from_secs(1));
        assert_eq!(pause(8_000), Duration::from_secs(2));
        assert_eq!(pause(1_000_000), Duration::from_secs(5));
        assert!(READ_EVERY.0 >= DRAW_EVERY);
        let before = cpu_time();
        while cpu_time() == before {}
    }

    /// Of the first version: rows with the fields it had, neither history nor events, one field that is gone since.
    #[tokio::test]
    async fn an_instance_of_an_old_version_is_shown() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let instance = HttpTarget::Tcp(listener.local_addr().unwrap().to_string());
        let serve = async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = vec![0; 4096];
                let length = stream.read(&mut request).await.unwrap();
                let request = String::from_utf8_lossy(&request[..length]);
                let path = request.split(' ').nth(1).unwrap_or_default();
                let (status, body) = match path {
                    "/v1/status" => (200, r#"{"schema_version":1,"version":"0.0.1","gone":[1]}"#),
                    "/v1/endpoints" => (
                        200,
                        r#"{"endpoints":[{"name":"us-east-1a","addresses":[{"address":"10.0.0.1:8182"}]}]}"#,
                    ),
                    "/v1/connections" => (200, r#"{"connections":[{"id":7}]}"#),
                    _ => (404, r#"{"title":"no such path"}"#),
                };
                let answer = format!(
                    "HTTP/1.1 {status} x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
                    body.len()
                );
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        };
        let serve = tokio::spawn(serve);
        let data = read(&instance, true, true).await.unwrap();
        assert_eq!(data.history, Some(History::default()));
        let (lines_to, mut lines) = mpsc::channel(1);
        let follow = tokio::spawn(follow(instance.clone(), lines_to));
        let look = Look {
            colour: false,
            unicode: false,
        };
        let mut view = View::new(instance.to_string(), look);
        view.update(data);
        let backend = ratatui::backend::TestBackend::new(80, 24);
        let mut terminal = ratatui::Terminal::new(backend).unwrap();
        for key in ['1', '2', '3'] {
            view.key(KeyEvent::from(event::KeyCode::Char(key)));
            terminal.draw(|frame| view.render(frame)).unwrap();
        }
        view.key(KeyEvent::from(event::KeyCode::Char('1')));
        terminal.draw(|frame| view.render(frame)).unwrap();
        let shown = terminal.backend().to_string();
        assert!(
            shown.contains("entryway 0.0.1") && shown.contains("us-east-1a"),
            "{shown}"
        );
        assert!(lines.try_recv().is_err());
        follow.abort();
        serve.abort();
    }
}
