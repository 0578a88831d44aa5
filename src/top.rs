//! `entryway top`: zones, connections and events of a running instance, live in a terminal.
//!
//! [`View`] is the whole state: data as read from the admin API, what is selected, and what waits for a confirmation.
//! Keys change it and rendering reads it, both without I/O, so that tests drive it on ratatui's test backend. [`terminal`]
//! reads the instance, feeds keys, and sends what was confirmed through the control socket.

use std::collections::VecDeque;

use ratatui::Frame;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::symbols::border;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Cell, Clear, Paragraph, Row, Table, TableState};

use crate::admin::EndpointAction;
use crate::admin::api_types::{EndpointJson, History, StatusJson};

pub(crate) use data::TopData;
use data::{EventLine, ShownConnection};
pub use terminal::run;

mod data;
mod terminal;

/// Events kept for the list.
const EVENTS: usize = 500;

/// Minutes in a sparkline.
const MINUTES: usize = 60;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Tab {
    #[default]
    Zones,
    Connections,
    Events,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Sort {
    #[default]
    Age,
    Idle,
    Sent,
    Received,
    Endpoint,
}

/// What changes the instance, once confirmed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Endpoint {
        action: EndpointAction,
        upstream: String,
        name: String,
    },
    Close(u64),
}

/// What a key asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum KeyOutcome {
    Continue,
    Quit,
    Do(Action),
}

/// How the terminal can draw.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Look {
    pub(crate) colour: bool,
    pub(crate) unicode: bool,
}

#[derive(Debug)]
pub(crate) struct View {
    look: Look,
    /// The instance's address, for the title.
    instance: String,
    status: Option<StatusJson>,
    endpoints: Vec<EndpointJson>,
    connections: Vec<ShownConnection>,
    history: History,
    events: VecDeque<EventLine>,
    /// Why the last read failed; data above is older then.
    error: Option<String>,
    /// What the last action did.
    message: String,
    tab: Tab,
    selected: usize,
    sort: Sort,
    filter: String,
    filtering: bool,
    confirm: Option<Action>,
}

// === impl Action ===

impl Action {
    fn question(&self) -> String {
        match self {
            Action::Endpoint {
                action,
                upstream,
                name,
            } => match action {
                EndpointAction::Drain => {
                    format!("Drain {upstream}/{name}? Its connections at rest are closed.")
                }
                EndpointAction::Ready => format!("Put {upstream}/{name} back into use?"),
                EndpointAction::Probe => format!("Probe {upstream}/{name} now?"),
            },
            Action::Close(id) => format!("Reset connection {id} on both sides?"),
        }
    }
}

// === impl View ===

impl View {
    pub(crate) fn new(instance: String, look: Look) -> Self {
        Self {
            look,
            instance,
            status: None,
            endpoints: Vec::new(),
            connections: Vec::new(),
            history: History::default(),
            events: VecDeque::new(),
            error: None,
            message: String::new(),
            tab: Tab::default(),
            selected: 0,
            sort: Sort::default(),
            filter: String::new(),
            filtering: false,
            confirm: None,
        }
    }

    pub(crate) fn update(&mut self, data: TopData) {
        self.error = None;
        self.status = Some(data.status);
        self.endpoints = data.endpoints;
        if let Some(connections) = data.connections {
            self.connections = connections;
        }
        if let Some(history) = data.history {
            self.history = history;
        }
        self.selected = self.selected.min(self.rows().saturating_sub(1));
    }

    pub(crate) fn failed(&mut self, error: String) {
        self.error = Some(error);
    }

    pub(crate) fn did(&mut self, message: String) {
        self.message = message;
    }

    pub(crate) fn event(&mut self, line: &str) {
        if let Some(event) = EventLine::parse(line) {
            if self.events.len() >= EVENTS {
                self.events.pop_back();
            }
            self.events.push_front(event);
            // The list grows at its top: the selection stays on its row's content.
            if self.tab == Tab::Events && self.selected > 0 {
                self.selected = (self.selected + 1).min(self.events.len() - 1);
            }
        }
    }

    /// Whether connections are on the screen.
    pub(crate) fn shows_connections(&self) -> bool {
        self.tab == Tab::Connections
    }

    /// The control socket that changes go to.
    pub(crate) fn control_socket(&self) -> Option<&str> {
        self.status.as_ref()?.control_socket.as_deref()
    }

    pub(crate) fn key(&mut self, key: KeyEvent) -> KeyOutcome {
        if key.kind == KeyEventKind::Release {
            return KeyOutcome::Continue;
        }
        if key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL) {
            return KeyOutcome::Quit;
        }
        if self.filtering {
            match key.code {
                KeyCode::Enter => self.filtering = false,
                KeyCode::Esc => {
                    self.filtering = false;
                    self.filter.clear();
                }
                KeyCode::Backspace => {
                    self.filter.pop();
                }
                KeyCode::Char(character) => self.filter.push(character),
                _ => {}
            }
            self.selected = 0;
            return KeyOutcome::Continue;
        }
        if let Some(action) = self.confirm.take() {
            // Anything but a plain yes is a no.
            return match key.code {
                KeyCode::Char('y') => KeyOutcome::Do(action),
                _ => KeyOutcome::Continue,
            };
        }
        self.message.clear();
        match key.code {
            KeyCode::Char('q') => return KeyOutcome::Quit,
            KeyCode::Char('1') => self.show(Tab::Zones),
            KeyCode::Char('2') => self.show(Tab::Connections),
            KeyCode::Char('3') => self.show(Tab::Events),
            KeyCode::Tab => self.show(match self.tab {
                Tab::Zones => Tab::Connections,
                Tab::Connections => Tab::Events,
                Tab::Events => Tab::Zones,
            }),
            KeyCode::Down | KeyCode::Char('j') => {
                self.selected = (self.selected + 1).min(self.rows().saturating_sub(1));
            }
            KeyCode::Up | KeyCode::Char('k') => self.selected = self.selected.saturating_sub(1),
            KeyCode::Home => self.selected = 0,
            KeyCode::End => self.selected = self.rows().saturating_sub(1),
            KeyCode::Char('/') if self.tab == Tab::Connections => self.filtering = true,
            KeyCode::Char('s') if self.tab == Tab::Connections => {
                self.sort = match self.sort {
                    Sort::Age => Sort::Idle,
                    Sort::Idle => Sort::Sent,
                    Sort::Sent => Sort::Received,
                    Sort::Received => Sort::Endpoint,
                    Sort::Endpoint => Sort::Age,
                };
            }
            KeyCode::Char('d') => self.ask(EndpointAction::Drain),
            KeyCode::Char('r') => self.ask(EndpointAction::Ready),
            KeyCode::Char('p') => self.ask(EndpointAction::Probe),
            KeyCode::Char('x') if self.tab == Tab::Connections => {
                let id = self.shown().get(self.selected).map(|one| one.id);
                self.confirm = id.map(Action::Close);
            }
            _ => {}
        }
        KeyOutcome::Continue
    }

    fn show(&mut self, tab: Tab) {
        self.tab = tab;
        self.selected = 0;
    }

    fn ask(&mut self, action: EndpointAction) {
        if self.tab == Tab::Zones
            && let Some(endpoint) = self.endpoints.get(self.selected)
        {
            self.confirm = Some(Action::Endpoint {
                action,
                upstream: endpoint.upstream.clone(),
                name: endpoint.name.clone(),
            });
        }
    }

    fn rows(&self) -> usize {
        match self.tab {
            Tab::Zones => self.endpoints.len(),
            Tab::Connections => self.shown().len(),
            Tab::Events => self.events.len(),
        }
    }

    /// The connections that pass the filter, sorted.
    fn shown(&self) -> Vec<&ShownConnection> {
        let filter = self.filter.to_lowercase();
        let text = |one: &ShownConnection| {
            let part = |text: &Option<String>| text.clone().unwrap_or_default();
            format!(
                "{} {} {} {}",
                one.client,
                part(&one.endpoint),
                part(&one.address),
                one.listener
            )
            .to_lowercase()
        };
        let mut shown: Vec<&ShownConnection> = self
            .connections
            .iter()
            .filter(|one| filter.is_empty() || text(one).contains(&filter))
            .collect();
        match self.sort {
            Sort::Age => shown.sort_by(|a, b| b.age_s.total_cmp(&a.age_s)),
            Sort::Idle => shown.sort_by(|a, b| b.idle_s.total_cmp(&a.idle_s)),
            Sort::Sent => shown.sort_by_key(|one| std::cmp::Reverse(one.bytes.upload)),
            Sort::Received => shown.sort_by_key(|one| std::cmp::Reverse(one.bytes.download)),
            Sort::Endpoint => shown.sort_by(|a, b| a.endpoint.cmp(&b.endpoint)),
        }
        shown
    }

    pub(crate) fn render(&self, frame: &mut Frame<'_>) {
        let [head, body, foot] = Layout::vertical([
            Constraint::Length(2),
            Constraint::Min(1),
            Constraint::Length(1),
        ])
        .areas(frame.area());
        frame.render_widget(self.head(), head);
        match self.tab {
            Tab::Zones => self.zones(frame, body),
            Tab::Connections => self.connections(frame, body),
            Tab::Events => self.events(frame, body),
        }
        frame.render_widget(Paragraph::new(self.foot()), foot);
        if let Some(action) = &self.confirm {
            self.question(frame, &action.question());
        }
    }

    fn head(&self) -> Paragraph<'_> {
        let first = match (&self.status, &self.error) {
            (_, Some(error)) => Line::from(vec![
                Span::styled("no answer ", self.bad()),
                Span::raw(clean(error)),
            ]),
            (None, None) => Line::raw(format!("reading {} …", self.instance)),
            (Some(status), None) => {
                let (word, style) = match (status.draining, status.ready) {
                    (true, _) => ("draining", self.warn()),
                    (false, true) => ("ready", self.good()),
                    (false, false) => ("not ready", self.bad()),
                };
                let held: usize = status.listeners.iter().map(|one| one.parked).sum();
                let open: usize = status.listeners.iter().map(|one| one.connections).sum();
                Line::from(vec![
                    Span::raw(format!("entryway {} ", clean(&status.version))),
                    Span::styled(word, style),
                    Span::raw(format!(
                        "  up {}  {open} open  {held} held",
                        span(status.uptime_s)
                    )),
                ])
            }
        };
        let tab = |tab: Tab, label: &'static str| {
            let style = match tab == self.tab {
                true => Style::new().add_modifier(Modifier::REVERSED),
                false => Style::new(),
            };
            Span::styled(label, style)
        };
        let tabs = Line::from(vec![
            tab(Tab::Zones, " 1 zones "),
            tab(Tab::Connections, " 2 connections "),
            tab(Tab::Events, " 3 events "),
        ]);
        Paragraph::new(vec![first, tabs])
    }

    fn foot(&self) -> String {
        if self.filtering {
            return format!("filter: {}_  (Enter keeps it, Esc clears it)", self.filter);
        }
        if !self.message.is_empty() {
            return clean(&self.message);
        }
        match self.tab {
            Tab::Zones => "q quit  Tab next  d drain  r ready  p probe".to_owned(),
            Tab::Connections => {
                let filter = match self.filter.is_empty() {
                    true => String::new(),
                    false => format!("  filter {}", self.filter),
                };
                format!(
                    "q quit  s sort ({:?})  / filter  x close{filter}",
                    self.sort
                )
                .to_lowercase()
            }
            Tab::Events => "q quit  Tab next  newest first".to_owned(),
        }
    }

    fn zones(&self, frame: &mut Frame<'_>, area: Rect) {
        let rows = self.endpoints.iter().map(|endpoint| {
            let up = endpoint
                .addresses
                .iter()
                .filter(|one| one.state == "up")
                .count();
            let (state, style) = match (endpoint.intent.as_str(), endpoint.healthy) {
                ("drain", _) => ("drained", self.warn()),
                (_, false) => ("down", self.bad()),
                (_, true) if up < endpoint.addresses.len() => ("in part", self.warn()),
                _ => ("up", self.good()),
            };
            let connect = endpoint
                .addresses
                .iter()
                .filter_map(|one| one.connect_ms)
                .reduce(f64::min);
            let reason = endpoint
                .addresses
                .iter()
                .find(|one| one.state != "up")
                .map_or("", |one| one.reason.as_str());
            Row::new(vec![
                Cell::from(if endpoint.active { self.arrow() } else { " " }),
                Cell::from(clean(endpoint.zone.as_deref().unwrap_or("-"))),
                Cell::from(clean(&endpoint.name)),
                Cell::from(state).style(style),
                Cell::from(format!("{up}/{}", endpoint.addresses.len())),
                Cell::from(endpoint.connections.to_string()),
                Cell::from(connect.map_or("-".to_owned(), |millis| format!("{millis:.1}"))),
                Cell::from(clean(reason)),
                Cell::from(self.sparkline(endpoint)),
            ])
        });
        let widths = [
            Constraint::Length(1),
            Constraint::Length(11),
            Constraint::Fill(2),
            Constraint::Length(8),
            Constraint::Length(5),
            Constraint::Length(6),
            Constraint::Length(7),
            Constraint::Fill(1),
            Constraint::Length(12),
        ];
        let header = [
            "",
            "zone",
            "endpoint",
            "state",
            "up",
            "conns",
            "ms",
            "why",
            "last hour",
        ];
        self.table(frame, area, rows, &widths, &header);
    }

    /// Twelve cells of five minutes: connect times, or `x` where every probe failed.
    fn sparkline(&self, endpoint: &EndpointJson) -> String {
        let series = self
            .history
            .series
            .iter()
            .find(|series| series.endpoint == endpoint.name);
        let Some(series) = series else {
            return String::new();
        };
        let count = series.probe_ok.len();
        let slowest = series
            .connect_p50_ms
            .iter()
            .flatten()
            .copied()
            .fold(0.0, f64::max);
        let levels: &[char] = match self.look.unicode {
            true => &['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'],
            false => &['_', '.', '-', '=', '+', '*', '#', '@'],
        };
        let start = count.saturating_sub(MINUTES);
        (start..count)
            .step_by(5)
            .map(|from| {
                let range = from..(from + 5).min(count);
                let sum =
                    |values: &[Option<u32>]| values[range.clone()].iter().flatten().sum::<u32>();
                let (ok, failed) = (sum(&series.probe_ok), sum(&series.probe_failed));
                let times: Vec<f64> = series.connect_p50_ms[range.clone()]
                    .iter()
                    .flatten()
                    .copied()
                    .collect();
                match (ok, failed) {
                    (0, 0) => ' ',
                    (0, _) => 'x',
                    _ if times.is_empty() || slowest == 0.0 => levels[0],
                    _ => {
                        let mean = times.iter().sum::<f64>() / times.len() as f64;
                        levels[((mean / slowest * 7.0).round() as usize).min(7)]
                    }
                }
            })
            .collect()
    }

    fn connections(&self, frame: &mut Frame<'_>, area: Rect) {
        let rows = self.shown().into_iter().map(|one| {
            Row::new(vec![
                Cell::from(one.id.to_string()),
                Cell::from(clean(&one.client)),
                Cell::from(clean(one.endpoint.as_deref().unwrap_or("(held)"))),
                Cell::from(span(one.age_s)),
                Cell::from(span(one.idle_s)),
                Cell::from(bytes(one.bytes.upload)),
                Cell::from(bytes(one.bytes.download)),
                Cell::from(if one.at_rest { "at rest" } else { "busy" }),
            ])
        });
        let widths = [
            Constraint::Length(7),
            Constraint::Fill(2),
            Constraint::Fill(2),
            Constraint::Length(7),
            Constraint::Length(7),
            Constraint::Length(8),
            Constraint::Length(8),
            Constraint::Length(7),
        ];
        let header = [
            "id", "client", "endpoint", "open", "idle", "sent", "received", "state",
        ];
        self.table(frame, area, rows, &widths, &header);
    }

    fn events(&self, frame: &mut Frame<'_>, area: Rect) {
        let rows = self.events.iter().map(|event| {
            let style = match event.level.as_str() {
                "error" => self.bad(),
                "warn" => self.warn(),
                _ => Style::new(),
            };
            Row::new(vec![
                Cell::from(clean(&event.time)),
                Cell::from(clean(&event.name)).style(style),
                Cell::from(clean(&event.text)),
            ])
        });
        let widths = [
            Constraint::Length(8),
            Constraint::Length(18),
            Constraint::Fill(1),
        ];
        self.table(frame, area, rows, &widths, &["time", "event", "what"]);
    }

    /// Only rows that fit are made: the list may hold thousands.
    fn table<'a>(
        &self,
        frame: &mut Frame<'_>,
        area: Rect,
        rows: impl Iterator<Item = Row<'a>>,
        widths: &[Constraint],
        header: &[&'static str],
    ) {
        let bold = Style::new().add_modifier(Modifier::BOLD);
        // The header takes a line.
        let height = usize::from(area.height.saturating_sub(1)).max(1);
        let first = (self.selected + 1).saturating_sub(height);
        let rows: Vec<Row<'_>> = rows.skip(first).take(height).collect();
        let table = Table::new(rows, widths.to_vec())
            .header(Row::new(header.to_vec()).style(bold))
            .column_spacing(1)
            .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
        let mut state = TableState::new().with_selected(Some(self.selected - first));
        frame.render_stateful_widget(table, area, &mut state);
    }

    fn question(&self, frame: &mut Frame<'_>, question: &str) {
        let whole = frame.area();
        let wanted = question.chars().count() as u16 + 4;
        let width = wanted.max(32).min(whole.width);
        let height = 4.min(whole.height);
        let area = Rect {
            x: (whole.width - width) / 2,
            y: (whole.height - height) / 2,
            width,
            height,
        };
        let set = match self.look.unicode {
            true => border::PLAIN,
            false => border::Set {
                top_left: "+",
                top_right: "+",
                bottom_left: "+",
                bottom_right: "+",
                vertical_left: "|",
                vertical_right: "|",
                horizontal_top: "-",
                horizontal_bottom: "-",
            },
        };
        let text = vec![
            Line::raw(clean(question)),
            Line::raw("y = yes, any other key = no"),
        ];
        let block = Block::bordered().border_set(set);
        frame.render_widget(Clear, area);
        frame.render_widget(Paragraph::new(text).block(block), area);
    }

    fn arrow(&self) -> &'static str {
        match self.look.unicode {
            true => "→",
            false => ">",
        }
    }

    fn painted(&self, colour: Color, modifier: Modifier) -> Style {
        match self.look.colour {
            true => Style::new().fg(colour),
            false => Style::new().add_modifier(modifier),
        }
    }

    fn good(&self) -> Style {
        self.painted(Color::Green, Modifier::empty())
    }

    fn warn(&self) -> Style {
        self.painted(Color::Yellow, Modifier::UNDERLINED)
    }

    fn bad(&self) -> Style {
        self.painted(Color::Red, Modifier::BOLD)
    }
}

/// Text of an instance, safe for a terminal.
fn clean(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}

fn span(seconds: f64) -> String {
    match seconds.max(0.0) as u64 {
        whole @ 0..=59 => format!("{whole}s"),
        whole @ 60..=3599 => format!("{}m{}s", whole / 60, whole % 60),
        whole @ 3600..=86399 => format!("{}h{}m", whole / 3600, whole % 3600 / 60),
        whole => format!("{}d{}h", whole / 86400, whole % 86400 / 3600),
    }
}

fn bytes(count: u64) -> String {
    match count {
        0..=9_999 => count.to_string(),
        10_000..=9_999_999 => format!("{}k", count / 1000),
        10_000_000..=9_999_999_999 => format!("{}M", count / 1_000_000),
        _ => format!("{}G", count / 1_000_000_000),
    }
}

#[cfg(test)]
mod tests;
