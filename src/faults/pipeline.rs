//! The toxics of one direction of one connection, one behind the other: bytes in, bytes out, and when to look again.
//!
//! A pure state machine over time, so that its tests need no sockets and no waiting. Each stage holds what its toxic
//! keeps back; a stage takes more only while it has room, so that a slow one slows the source down.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::toxic::{Effect, Toxic};

/// What goes through the stages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Item {
    /// Bytes, and when they came (a toxic that held them back moves that on).
    Data(Vec<u8>, Instant),
    /// The source has ended.
    End,
    /// A toxic closes the whole connection, behind what it has let through.
    Close,
}

/// The stages of one direction.
#[derive(Debug, Default)]
pub(super) struct Pipeline {
    stages: Vec<ToxicStage>,
    /// What has passed all of them.
    pub out: VecDeque<Item>,
    /// A toxic resets the connection, at once.
    pub reset: bool,
    /// Bytes that `limit_data` has let through, by toxic: kept when the chain changes.
    transmitted: HashMap<u64, i64>,
}

#[derive(Debug)]
struct ToxicStage {
    toxic: Arc<Toxic>,
    queue: VecDeque<Item>,
    /// When the first of the queue may go on, once that is known.
    due: Option<Instant>,
    /// The bandwidth is used up until then.
    busy_until: Option<Instant>,
    /// Since when the timeout runs.
    since: Instant,
    /// It has let through all it may: it closes the connection next.
    full: bool,
    /// It has closed the connection, and takes nothing any more.
    closed: bool,
    /// The sizes into which the first of the queue is still to be cut.
    slices: VecDeque<usize>,
}

/// Chunks that a latency holds, as in Toxiproxy; the others take one at a time.
const LATENCY_CHUNKS: usize = 1024;
/// A slow bandwidth passes its bytes on in pieces this far apart.
const PIECE: Duration = Duration::from_millis(100);

fn millis(ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}

// === impl Pipeline ===

impl Pipeline {
    /// Puts other toxics in the place of those there are. One that stays keeps what it holds; what a removed one held
    /// goes on to the next, in order. Removing a timeout closes the connection it applied to.
    pub(super) fn replace(&mut self, toxics: Vec<Arc<Toxic>>, now: Instant) {
        let removed_timeout = self.stages.iter().any(|stage| {
            matches!(stage.toxic.effect, Effect::Timeout { .. })
                && toxics.iter().all(|toxic| toxic.id != stage.toxic.id)
        });
        let mut old = std::mem::take(&mut self.stages);
        let mut stages: Vec<ToxicStage> = toxics
            .into_iter()
            .map(|toxic| ToxicStage::new(toxic, now))
            .collect();
        // From the destination on: what is nearer to it is older. Toxics never change places, so what a removed one held
        // goes behind what the next one holds.
        let mut next = stages.len();
        while let Some(mut stage) = old.pop() {
            let kept = stages[..next]
                .iter()
                .rposition(|new| new.toxic.id == stage.toxic.id);
            match kept {
                Some(index) => {
                    next = index;
                    if Arc::ptr_eq(&stages[index].toxic, &stage.toxic) {
                        let before = std::mem::take(&mut stages[index].queue);
                        stage.queue.extend(before);
                        stages[index] = stage;
                    } else {
                        stages[index].queue.extend(stage.queue);
                    }
                }
                None => match stages.get_mut(next) {
                    Some(following) => following.queue.extend(stage.queue),
                    None => self.out.extend(stage.queue),
                },
            }
        }
        self.stages = stages;
        self.transmitted
            .retain(|id, _| self.stages.iter().any(|stage| stage.toxic.id == *id));
        if removed_timeout {
            self.out.push_back(Item::Close);
        }
    }

    /// Whether these are the toxics it has.
    pub(super) fn has(&self, toxics: &[Arc<Toxic>]) -> bool {
        self.stages.len() == toxics.len()
            && self
                .stages
                .iter()
                .zip(toxics)
                .all(|(stage, toxic)| Arc::ptr_eq(&stage.toxic, toxic))
    }

    /// Whether it takes another item.
    pub(super) fn has_room(&self) -> bool {
        match self.stages.first() {
            Some(stage) => stage.has_room(),
            None => self.out.len() < 2,
        }
    }

    /// Bytes inside.
    pub(super) fn pending(&self) -> usize {
        let length = |item: &Item| match item {
            Item::Data(bytes, _) => bytes.len(),
            Item::End | Item::Close => 0,
        };
        self.stages
            .iter()
            .flat_map(|stage| &stage.queue)
            .chain(&self.out)
            .map(length)
            .sum()
    }

    pub(super) fn push(&mut self, item: Item) {
        match self.stages.first_mut() {
            Some(stage) => stage.queue.push_back(item),
            None => self.out.push_back(item),
        }
    }

    /// Moves on what may go on by now; when to call it again, if time alone will change anything.
    pub(super) fn advance(&mut self, now: Instant) -> Option<Instant> {
        loop {
            let mut wake: Option<Instant> = None;
            let mut moved = false;
            for index in (0..self.stages.len()).rev() {
                let has_room = match self.stages.get(index + 1) {
                    Some(next) => next.has_room(),
                    None => self.out.len() < 2,
                };
                let transmitted = &mut self.transmitted;
                let stage = &mut self.stages[index];
                let id = stage.toxic.id;
                match stage.step(now, has_room, transmitted.entry(id).or_default()) {
                    Step::Wait(at) => {
                        wake = match (wake, at) {
                            (Some(one), Some(other)) => Some(one.min(other)),
                            (one, other) => one.or(other),
                        };
                    }
                    Step::Again => moved = true,
                    Step::Pass(item) => {
                        moved = true;
                        match self.stages.get_mut(index + 1) {
                            Some(next) => next.queue.push_back(item),
                            None => self.out.push_back(item),
                        }
                    }
                    Step::Reset => {
                        self.reset = true;
                        return None;
                    }
                }
            }
            if !moved {
                return wake;
            }
        }
    }
}

enum Step {
    /// Nothing can go on before this time, or before something comes.
    Wait(Option<Instant>),
    /// Something has changed within; look again.
    Again,
    Pass(Item),
    Reset,
}

// === impl ToxicStage ===

impl ToxicStage {
    fn new(toxic: Arc<Toxic>, now: Instant) -> Self {
        Self {
            toxic,
            queue: VecDeque::new(),
            due: None,
            busy_until: None,
            since: now,
            full: false,
            closed: false,
            slices: VecDeque::new(),
        }
    }

    fn has_room(&self) -> bool {
        let most = match self.toxic.effect {
            Effect::Latency { .. } => LATENCY_CHUNKS,
            _ => 1,
        };
        !self.closed && self.queue.len() < most
    }

    fn step(&mut self, now: Instant, has_room: bool, transmitted: &mut i64) -> Step {
        if self.closed || !has_room {
            return Step::Wait(None);
        }
        match self.toxic.effect {
            Effect::Timeout { timeout } => self.swallow(now, timeout),
            Effect::ResetPeer { timeout } => {
                if self.queue.is_empty() {
                    return Step::Wait(None);
                }
                let due = *self.due.get_or_insert(now + millis(timeout));
                if due <= now {
                    Step::Reset
                } else {
                    Step::Wait(Some(due))
                }
            }
            Effect::LimitData { .. } if self.full => self.close(),
            _ if self.queue.is_empty() => Step::Wait(None),
            Effect::Latency { latency, jitter } => self.delay(now, latency, jitter),
            Effect::Bandwidth { rate } => self.limit_rate(now, rate),
            Effect::SlowClose { delay } => {
                if self.queue.front() == Some(&Item::End) {
                    let due = *self.due.get_or_insert(now + millis(delay));
                    if due > now {
                        return Step::Wait(Some(due));
                    }
                }
                self.pass()
            }
            Effect::Slicer {
                average_size,
                size_variation,
                delay,
            } => self.slice(now, average_size, size_variation, delay),
            Effect::LimitData { bytes } => self.limit(bytes, transmitted),
            Effect::Noop => self.pass(),
        }
    }

    fn close(&mut self) -> Step {
        self.closed = true;
        self.queue.clear();
        Step::Pass(Item::Close)
    }

    fn pass(&mut self) -> Step {
        self.due = None;
        self.queue.pop_front().map_or(Step::Wait(None), Step::Pass)
    }

    /// Drops everything; closes after this long without data, if that is not 0.
    fn swallow(&mut self, now: Instant, timeout: i64) -> Step {
        if let Some(item) = self.queue.pop_front() {
            if item == Item::End {
                return self.close();
            }
            self.since = now;
            return Step::Again;
        }
        if timeout <= 0 {
            return Step::Wait(None);
        }
        let due = self.since + millis(timeout);
        if due <= now {
            return self.close();
        }
        Step::Wait(Some(due))
    }

    fn delay(&mut self, now: Instant, latency: i64, jitter: i64) -> Step {
        let Some(Item::Data(_, at)) = self.queue.front_mut() else {
            return self.pass();
        };
        let due = match self.due {
            Some(due) => due,
            None => {
                let mut delay = latency;
                if jitter > 0 {
                    delay = delay.saturating_add(fastrand::i64(-jitter..jitter));
                }
                // Bytes that had to queue behind slower ones have waited already.
                let due = *at + millis(delay);
                self.due = Some(due);
                due
            }
        };
        if due > now {
            return Step::Wait(Some(due));
        }
        *at = due;
        self.pass()
    }

    fn limit_rate(&mut self, now: Instant, rate: i64) -> Step {
        let Some(Item::Data(bytes, at)) = self.queue.front_mut() else {
            return self.pass();
        };
        let Ok(rate) = usize::try_from(rate) else {
            return Step::Wait(None);
        };
        if rate == 0 {
            // As Toxiproxy has it: nothing passes.
            return Step::Wait(None);
        }
        let most = rate.saturating_mul(PIECE.as_millis() as usize);
        let piece = bytes.len().min(most);
        let took = Duration::from_secs_f64(piece as f64 / (rate as f64 * 1000.0));
        let start = self.busy_until.map_or(now, |until| until.max(now));
        let due = *self.due.get_or_insert(start + took);
        if due > now {
            return Step::Wait(Some(due));
        }
        self.due = None;
        // From the time it was due, not from now: a late wake-up is caught up on.
        self.busy_until = Some(due);
        if piece == bytes.len() {
            return self.pass_kept();
        }
        let rest = bytes.split_off(piece);
        let first = std::mem::replace(bytes, rest);
        let at = *at;
        // The next piece counts from here.
        let next = bytes.len().min(most);
        self.due = Some(due + Duration::from_secs_f64(next as f64 / (rate as f64 * 1000.0)));
        Step::Pass(Item::Data(first, at))
    }

    /// Passes the first on without a change to the times.
    fn pass_kept(&mut self) -> Step {
        self.queue.pop_front().map_or(Step::Wait(None), Step::Pass)
    }

    fn slice(&mut self, now: Instant, average: i64, variation: i64, delay: i64) -> Step {
        if let Some(due) = self.due
            && due > now
        {
            return Step::Wait(Some(due));
        }
        let Some(Item::Data(bytes, at)) = self.queue.front_mut() else {
            return self.pass();
        };
        if self.slices.is_empty() {
            let average = usize::try_from(average).unwrap_or(0).max(1);
            let variation = usize::try_from(variation).unwrap_or(0);
            cut(bytes.len(), average, variation, &mut self.slices);
        }
        let size = self.slices.pop_front().unwrap_or(bytes.len());
        // From the time it was due, not from now: a late wake-up is caught up on.
        let delay = Duration::from_micros(u64::try_from(delay).unwrap_or(0));
        let late = self.due.map_or(Duration::ZERO, |due| now - due);
        self.due = Some(now + if late < delay { delay - late } else { delay });
        if size >= bytes.len() {
            return self.pass_kept();
        }
        let rest = bytes.split_off(size);
        let first = std::mem::replace(bytes, rest);
        Step::Pass(Item::Data(first, *at))
    }

    fn limit(&mut self, bytes: i64, transmitted: &mut i64) -> Step {
        let Some(Item::Data(data, _)) = self.queue.front_mut() else {
            return self.pass();
        };
        let left = usize::try_from(bytes.saturating_sub(*transmitted)).unwrap_or(0);
        if left == 0 {
            return self.close();
        }
        data.truncate(left);
        *transmitted += data.len() as i64;
        self.full = *transmitted >= bytes;
        self.pass()
    }
}

/// Cuts a length into halves, varied, and those again, until each is about the average.
fn cut(length: usize, average: usize, variation: usize, slices: &mut VecDeque<usize>) {
    if length <= average.saturating_add(variation) {
        slices.push_back(length);
        return;
    }
    let mut middle = length / 2;
    if variation > 0 {
        let most = variation.min(length);
        middle = (middle + fastrand::usize(0..2 * most)).saturating_sub(most);
    }
    let middle = middle.clamp(1, length - 1);
    cut(middle, average, variation, slices);
    cut(length - middle, average, variation, slices);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Moment;
    use crate::faults::toxic::ToxicRequest;

    fn toxic(id: u64, kind: &str, attributes: &str) -> Arc<Toxic> {
        let text = format!(r#"{{"type":"{kind}","attributes":{attributes}}}"#);
        let mut request = ToxicRequest::parse(text.as_bytes()).unwrap();
        request.read_attributes().unwrap();
        Arc::new(Toxic::new(
            id,
            request,
            Moment::default(),
            Duration::from_secs(600),
        ))
    }

    /// Stands for the close in what comes out.
    const CLOSE: usize = usize::MAX;

    /// Runs the pipeline over virtual time; what came out, and after how many ms.
    fn run(pipeline: &mut Pipeline, start: Instant, until: u64) -> Vec<(u64, usize)> {
        let mut out = Vec::new();
        let mut now = start;
        loop {
            let wake = pipeline.advance(now);
            let mut progressed = false;
            while let Some(item) = pipeline.out.pop_front() {
                progressed = true;
                let ms = now.duration_since(start).as_millis() as u64;
                match item {
                    Item::Data(bytes, _) => out.push((ms, bytes.len())),
                    Item::End => out.push((ms, 0)),
                    Item::Close => out.push((ms, CLOSE)),
                }
            }
            if progressed {
                continue;
            }
            match wake {
                Some(wake) if wake <= start + Duration::from_millis(until) => now = wake,
                _ => return out,
            }
        }
    }

    fn with(toxics: Vec<Arc<Toxic>>, start: Instant) -> Pipeline {
        let mut pipeline = Pipeline::default();
        pipeline.replace(toxics, start);
        pipeline
    }

    #[test]
    fn effects_on_time() {
        let start = Instant::now();
        let data = |bytes| Item::Data(vec![0; bytes], start);
        // Kind, attributes, what goes in, what comes out (ms, bytes; 0 bytes is the end), whether it resets.
        let table = [
            (
                "noop",
                "{}",
                vec![data(10), Item::End],
                vec![(0, 10), (0, 0)],
                false,
            ),
            (
                "latency",
                r#"{"latency":100}"#,
                vec![data(10), Item::End],
                vec![(100, 10), (100, 0)],
                false,
            ),
            (
                "bandwidth",
                r#"{"rate":10}"#,
                vec![data(2500)],
                vec![(100, 1000), (200, 1000), (250, 500)],
                false,
            ),
            ("bandwidth", r#"{"rate":0}"#, vec![data(10)], vec![], false),
            (
                "slow_close",
                r#"{"delay":300}"#,
                vec![data(10), Item::End],
                vec![(0, 10), (300, 0)],
                false,
            ),
            ("timeout", r#"{"timeout":0}"#, vec![data(10)], vec![], false),
            (
                "timeout",
                r#"{"timeout":200}"#,
                vec![data(10)],
                vec![(200, CLOSE)],
                false,
            ),
            (
                "reset_peer",
                r#"{"timeout":0}"#,
                vec![data(10)],
                vec![],
                true,
            ),
            ("reset_peer", r#"{"timeout":0}"#, vec![], vec![], false),
            (
                "limit_data",
                r#"{"bytes":15}"#,
                vec![data(10), data(10), data(10)],
                vec![(0, 10), (0, 5), (0, CLOSE)],
                false,
            ),
            (
                "slicer",
                r#"{"average_size":4,"delay":1000}"#,
                vec![data(8)],
                vec![(0, 4), (1, 4)],
                false,
            ),
        ];
        for (kind, attributes, input, expected, reset) in table {
            let mut pipeline = with(vec![toxic(1, kind, attributes)], start);
            let mut out = Vec::new();
            for item in input {
                pipeline.push(item);
                if !pipeline.has_room() && kind != "latency" {
                    out.extend(run(&mut pipeline, start, 1000));
                }
            }
            out.extend(run(&mut pipeline, start, 1000));
            assert_eq!(out, expected, "{kind} {attributes}");
            assert_eq!(pipeline.reset, reset, "{kind} {attributes}");
        }
    }

    #[test]
    fn jitter_stays_within_its_bounds() {
        let start = Instant::now();
        for _ in 0..200 {
            let mut pipeline = with(
                vec![toxic(1, "latency", r#"{"latency":100,"jitter":50}"#)],
                start,
            );
            pipeline.push(Item::Data(vec![0], start));
            let out = run(&mut pipeline, start, 1000);
            assert!((50..150).contains(&out[0].0), "{out:?}");
        }
    }

    #[test]
    fn a_chain_loses_no_byte_when_it_changes() {
        let start = Instant::now();
        let slow = toxic(1, "latency", r#"{"latency":5000}"#);
        let narrow = toxic(2, "bandwidth", r#"{"rate":1}"#);
        let mut pipeline = with(vec![slow, Arc::clone(&narrow)], start);
        let mut sent = Vec::new();
        for n in 0..100u8 {
            sent.extend([n; 7]);
            pipeline.push(Item::Data(vec![n; 7], start));
        }
        pipeline.push(Item::End);
        pipeline.advance(start + Duration::from_millis(5010));
        pipeline.replace(Vec::new(), start + Duration::from_millis(5010));
        let mut got = Vec::new();
        let mut ended = false;
        while let Some(item) = pipeline.out.pop_front() {
            match item {
                Item::Data(bytes, _) => got.extend(bytes),
                Item::End => ended = true,
                Item::Close => panic!("nothing closes it"),
            }
        }
        assert_eq!(got, sent);
        assert!(ended && pipeline.has(&[]));
    }

    #[test]
    fn a_toxic_that_stays_keeps_what_it_holds_and_order_is_kept() {
        let start = Instant::now();
        let later = |ms| start + Duration::from_millis(ms);
        let slow = toxic(1, "latency", r#"{"latency":100}"#);
        let slower = toxic(2, "latency", r#"{"latency":1000}"#);
        let mut pipeline = with(vec![Arc::clone(&slow), Arc::clone(&slower)], start);
        pipeline.push(Item::Data(vec![1], start));
        pipeline.advance(later(150));
        pipeline.push(Item::Data(vec![2; 2], later(150)));
        pipeline.push(Item::End);
        // A third one behind them changes nothing for what the others hold.
        pipeline.replace(
            vec![Arc::clone(&slow), slower, toxic(3, "noop", "{}")],
            later(150),
        );
        assert_eq!(run(&mut pipeline, start, 200), []);
        assert_eq!(pipeline.pending(), 3);
        // Without the second one the first byte goes out at once, and the rest after what is left of the first delay.
        pipeline.replace(vec![slow], later(160));
        pipeline.advance(later(160));
        assert_eq!(
            pipeline.out.pop_front(),
            Some(Item::Data(vec![1], later(100)))
        );
        pipeline.advance(later(249));
        assert!(pipeline.out.is_empty());
        pipeline.advance(later(250));
        assert_eq!(pipeline.out.len(), 2);
        assert_eq!(pipeline.out.pop_back(), Some(Item::End));
    }

    #[test]
    fn slices_are_about_the_average() {
        for (length, average, variation) in [(1000, 64, 0), (32768, 64, 10), (5, 1, 0), (10, 1, 90)]
        {
            let mut slices = VecDeque::new();
            cut(length, average, variation, &mut slices);
            assert_eq!(slices.iter().sum::<usize>(), length);
            assert!(
                slices
                    .iter()
                    .all(|size| (1..=average + variation).contains(size))
            );
        }
        let mut slices = VecDeque::new();
        cut(1000, 64, 0, &mut slices);
        assert_eq!(slices.len(), 16, "as many as Toxiproxy's");
    }

    /// Toxiproxy takes any number of bytes; a limit below nothing lets nothing through.
    #[test]
    fn a_limit_at_the_ends_of_its_range_closes_or_passes() {
        let start = Instant::now();
        for (bytes, expected) in [
            (i64::MIN, vec![(0, 8), (0, CLOSE)]),
            (i64::MAX, vec![(0, 8), (0, 8)]),
        ] {
            let wide = toxic(1, "limit_data", r#"{"bytes":100}"#);
            let attributes = format!(r#"{{"bytes":{bytes}}}"#);
            let mut pipeline = with(vec![wide], start);
            pipeline.push(Item::Data(vec![0; 8], start));
            let mut seen = run(&mut pipeline, start, 10);
            // With bytes counted already, the difference would go beyond the type.
            pipeline.replace(vec![toxic(1, "limit_data", &attributes)], start);
            pipeline.push(Item::Data(vec![0; 8], start));
            seen.extend(run(&mut pipeline, start, 10));
            assert_eq!(seen, expected, "{bytes}");
        }
    }

    #[test]
    fn limits_are_kept_when_the_chain_changes_and_a_removed_timeout_closes() {
        let start = Instant::now();
        let limit = toxic(1, "limit_data", r#"{"bytes":10}"#);
        let mut pipeline = with(vec![Arc::clone(&limit)], start);
        pipeline.push(Item::Data(vec![0; 8], start));
        assert_eq!(run(&mut pipeline, start, 10), [(0, 8)]);
        let silent = toxic(2, "timeout", r#"{"timeout":0}"#);
        pipeline.replace(vec![Arc::clone(&limit), silent], start);
        pipeline.replace(vec![limit], start);
        assert_eq!(pipeline.out.pop_front(), Some(Item::Close));
        pipeline.push(Item::Data(vec![0; 8], start));
        assert_eq!(run(&mut pipeline, start, 10), [(0, 2), (0, CLOSE)]);
    }
}
