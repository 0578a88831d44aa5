use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::*;
use crate::admin::api_types::{AddressJson, BytesJson, HistorySeries, ListenerJson};

const PLAIN: Look = Look {
    colour: false,
    unicode: false,
};

fn data() -> TopData {
    let endpoint = |name: &str, state: &str, active| EndpointJson {
        upstream: "default".to_owned(),
        name: name.to_owned(),
        zone: Some(name.to_owned()),
        healthy: state == "up",
        intent: "ready".to_owned(),
        active,
        connections: 3,
        addresses: vec![AddressJson {
            address: "10.0.0.1:8182".to_owned(),
            state: state.to_owned(),
            reason: if state == "up" { "" } else { "refused" }.to_owned(),
            connect_ms: Some(0.4),
            ..AddressJson::default()
        }],
        ..EndpointJson::default()
    };
    let connection = |id, client: &str, age_s, upload| ShownConnection {
        id,
        client: client.to_owned(),
        endpoint: Some("us-east-1a".to_owned()),
        age_s,
        bytes: BytesJson {
            upload,
            download: 1,
        },
        ..ShownConnection::default()
    };
    TopData {
        status: StatusJson {
            version: "1.2.3".to_owned(),
            ready: true,
            uptime_s: 61.0,
            control_socket: Some("/run/entryway.sock".to_owned()),
            listeners: vec![ListenerJson {
                connections: 2,
                parked: 1,
                ..ListenerJson::default()
            }],
            ..StatusJson::default()
        },
        endpoints: vec![
            endpoint("us-east-1a", "up", true),
            endpoint("us-east-1b", "down", false),
        ],
        connections: Some(vec![
            connection(7, "127.0.0.1:50001", 5.0, 10),
            connection(8, "127.0.0.1:50002", 90.0, 20_000),
        ]),
        history: Some(History {
            series: vec![HistorySeries {
                endpoint: "us-east-1a".to_owned(),
                probe_ok: vec![Some(12); 60],
                probe_failed: vec![Some(0); 60],
                connect_p50_ms: (0..60).map(|minute| Some(f64::from(minute))).collect(),
                ..HistorySeries::default()
            }],
            ..History::default()
        }),
    }
}

fn view() -> View {
    let mut view = View::new("127.0.0.1:8183".to_owned(), PLAIN);
    view.update(data());
    view
}

fn drawn(view: &View, width: u16, height: u16) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| view.render(frame)).unwrap();
    let buffer = terminal.backend().buffer().clone();
    (0..height)
        .map(|y| {
            let row: String = (0..width).map(|x| buffer[(x, y)].symbol()).collect();
            row.trim_end().to_owned()
        })
        .collect()
}

fn press(view: &mut View, keys: &str) -> KeyOutcome {
    let mut outcome = KeyOutcome::Continue;
    for key in keys.chars() {
        let code = match key {
            '\n' => KeyCode::Enter,
            '\t' => KeyCode::Tab,
            other => KeyCode::Char(other),
        };
        outcome = view.key(KeyEvent::new(code, KeyModifiers::NONE));
    }
    outcome
}

#[test]
fn zones_fit_80_columns_without_colour_and_unicode() {
    let rows = drawn(&view(), 80, 24);
    assert_eq!(rows[0], "entryway 1.2.3 ready  up 1m1s  2 open  1 held");
    assert!(
        rows[1].starts_with(" 1 zones  2 connections  3 events"),
        "{rows:#?}"
    );
    let [first, second] = [&rows[3], &rows[4]];
    assert!(first.starts_with("> us-east-1a"), "{first}");
    assert!(
        first.contains(" up ") && first.contains("1/1") && first.contains("0.4"),
        "{first}"
    );
    assert!(first.ends_with('@'), "{first}");
    assert!(
        second.contains("down") && second.contains("refused"),
        "{second}"
    );
    assert_eq!(rows[23], "q quit  Tab next  d drain  r ready  p probe");
    assert!(rows.iter().all(|row| row.is_ascii()), "{rows:#?}");
}

#[test]
fn connections_are_sorted_and_filtered() {
    let mut view = view();
    press(&mut view, "2");
    let rows = drawn(&view, 80, 24);
    assert!(
        rows[3].starts_with('8') && rows[4].starts_with('7'),
        "{rows:#?}"
    );
    press(&mut view, "/50001\n");
    let rows = drawn(&view, 80, 24);
    assert!(rows[3].starts_with('7') && rows[4].is_empty(), "{rows:#?}");
    press(&mut view, "s");
    assert!(drawn(&view, 80, 24)[23].contains("sort (idle)"));
}

#[test]
fn changes_need_a_confirmation() {
    let mut view = view();
    assert_eq!(press(&mut view, "jd"), KeyOutcome::Continue);
    let rows = drawn(&view, 80, 24).join("\n");
    assert!(rows.contains("Drain default/us-east-1b?"), "{rows}");
    // Anything but y is a no.
    assert_eq!(press(&mut view, "n"), KeyOutcome::Continue);
    assert_eq!(press(&mut view, "y"), KeyOutcome::Continue);
    assert_eq!(
        press(&mut view, "dy"),
        KeyOutcome::Do(Action::Endpoint {
            action: EndpointAction::Drain,
            upstream: "default".to_owned(),
            name: "us-east-1b".to_owned(),
        })
    );
    assert_eq!(press(&mut view, "2xy"), KeyOutcome::Do(Action::Close(8)));
    assert_eq!(press(&mut view, "q"), KeyOutcome::Quit);
    let ctrl_c = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    assert_eq!(view.key(ctrl_c), KeyOutcome::Quit);
}

#[test]
fn an_instance_that_is_gone_and_back() {
    let mut view = view();
    view.failed("connect 127.0.0.1:8183: refused".to_owned());
    let rows = drawn(&view, 80, 24);
    assert!(
        rows[0].starts_with("no answer connect 127.0.0.1:8183"),
        "{rows:#?}"
    );
    // The last known zones stay.
    assert!(rows[3].contains("us-east-1a"), "{rows:#?}");
    view.update(data());
    assert!(drawn(&view, 80, 24)[0].contains("ready"));
}

#[test]
fn events_come_newest_first_and_hostile_text_is_harmless() {
    let mut view = view();
    view.event(
        r#"{"timestamp":"2026-11-29T10:00:01.000Z","level":"info","event":"wake","message":"old"}"#,
    );
    view.event("{\"timestamp\":\"2026-11-29T10:00:02.000Z\",\"level\":\"warn\",\"event\":\"dns.error\",\"message\":\"new \\u001b[31m\"}");
    view.event("not json");
    press(&mut view, "3");
    let rows = drawn(&view, 80, 24);
    assert!(
        rows[3].starts_with("10:00:02 dns.error") && rows[3].ends_with("new ?[31m"),
        "{rows:#?}"
    );
    assert!(rows[4].starts_with("10:00:01 wake"), "{rows:#?}");
}

#[test]
fn any_size_is_drawn() {
    let mut view = view();
    press(&mut view, "d");
    for (width, height) in [(1, 1), (10, 3), (20, 5), (300, 100)] {
        drawn(&view, width, height);
    }
}
