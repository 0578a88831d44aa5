//! The registry: series and the handles that write them.
//!
//! A handle shares its cell with the registry and is lock-free; the lock is taken only where a handle is asked for, a
//! series removed or values read. A removed series takes its handles along: they write into a cell nobody reads.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock};

use super::family::{Family, Kind};

/// A count that only goes up.
#[derive(Clone, Debug)]
pub struct Counter(Arc<AtomicU64>);

/// A value that goes both ways.
#[derive(Clone, Debug)]
pub struct Gauge(Arc<AtomicU64>);

/// Counts durations by upper bounds.
#[derive(Clone, Debug)]
pub struct Histogram(Arc<Buckets>);

/// A histogram's cell.
#[derive(Debug)]
struct Buckets {
    bounds: &'static [f64],
    /// One per bound, and one for all above the last. Not cumulative; the reader adds up.
    counts: Box<[AtomicU64]>,
    /// Bits of an f64.
    sum: AtomicU64,
}

/// One series' cell. A gauge handle on a counter family holds an f64 (a total kept elsewhere, as the kernel's).
#[derive(Clone, Debug)]
enum Cell {
    Int(Arc<AtomicU64>),
    Float(Arc<AtomicU64>),
    Histogram(Arc<Buckets>),
}

/// What a series holds at the moment it is read.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Reading {
    /// A whole count.
    Int(u64),
    /// A value.
    Float(f64),
    /// Counts per bound (not cumulative, the last is above all bounds), and the sum.
    Histogram(&'static [f64], Vec<u64>, f64),
}

/// One series as read: its label values and what it holds.
pub(super) type Sample = (Box<[Box<str>]>, Reading);

#[derive(Debug)]
struct FamilySeries {
    family: &'static Family,
    series: BTreeMap<Box<[Box<str>]>, Cell>,
}

/// Every series of one instance, by family name.
#[derive(Debug, Default)]
pub(super) struct Registry {
    families: RwLock<BTreeMap<&'static str, FamilySeries>>,
}

fn buckets(family: &'static Family) -> Arc<Buckets> {
    let bounds: &'static [f64] = match family.kind {
        Kind::Histogram(bounds) => bounds,
        Kind::Counter | Kind::Gauge => &[],
    };
    Arc::new(Buckets {
        bounds,
        counts: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(),
        sum: AtomicU64::new(0),
    })
}

fn add_float(cell: &AtomicU64, by: f64) {
    let mut seen = cell.load(Relaxed);
    loop {
        let next = (f64::from_bits(seen) + by).to_bits();
        match cell.compare_exchange_weak(seen, next, Relaxed, Relaxed) {
            Ok(_) => return,
            Err(now) => seen = now,
        }
    }
}

// === impl Counter ===

impl Counter {
    /// Adds to the count.
    pub fn add(&self, by: u64) {
        self.0.fetch_add(by, Relaxed);
    }

    /// Adds one.
    pub fn inc(&self) {
        self.add(1);
    }

    /// The count.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

// === impl Gauge ===

impl Gauge {
    /// Sets the value.
    pub fn set(&self, value: f64) {
        self.0.store(value.to_bits(), Relaxed);
    }

    /// Adds to the value.
    pub fn add(&self, by: f64) {
        add_float(&self.0, by);
    }

    /// Takes from the value.
    pub fn sub(&self, by: f64) {
        add_float(&self.0, -by);
    }

    /// The value.
    pub fn get(&self) -> f64 {
        f64::from_bits(self.0.load(Relaxed))
    }
}

// === impl Histogram ===

impl Histogram {
    /// Records one sample, in the family's unit (seconds).
    pub fn record(&self, value: f64) {
        let index = self.0.bounds.partition_point(|bound| *bound < value);
        self.0.counts[index].fetch_add(1, Relaxed);
        add_float(&self.0.sum, value);
    }

    /// How many samples were recorded.
    pub fn count(&self) -> u64 {
        self.0.counts.iter().map(|count| count.load(Relaxed)).sum()
    }
}

// === impl Cell ===

impl Cell {
    fn read(&self) -> Reading {
        match self {
            Cell::Int(cell) => Reading::Int(cell.load(Relaxed)),
            Cell::Float(cell) => Reading::Float(f64::from_bits(cell.load(Relaxed))),
            Cell::Histogram(cell) => Reading::Histogram(
                cell.bounds,
                cell.counts
                    .iter()
                    .map(|count| count.load(Relaxed))
                    .collect(),
                f64::from_bits(cell.sum.load(Relaxed)),
            ),
        }
    }
}

// === impl Reading ===

impl Reading {
    /// As one number: a histogram's is its count.
    pub(super) fn number(&self) -> f64 {
        match self {
            Reading::Int(count) => *count as f64,
            Reading::Float(value) => *value,
            Reading::Histogram(_, counts, _) => counts.iter().sum::<u64>() as f64,
        }
    }
}

// === impl Registry ===

impl Registry {
    fn cell(
        &self,
        family: &'static Family,
        labels: &[&str],
        new: fn(&'static Family) -> Cell,
    ) -> Cell {
        debug_assert_eq!(
            labels.len(),
            family.labels.len(),
            "labels of {}",
            family.name
        );
        // A wrong count is a bug that the assertion finds in tests; in production the exposition stays well-formed.
        let key: Box<[Box<str>]> = (0..family.labels.len())
            .map(|index| Box::from(labels.get(index).copied().unwrap_or_default()))
            .collect();
        let mut families = self
            .families
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let family_series = families.entry(family.name).or_insert_with(|| FamilySeries {
            family,
            series: BTreeMap::new(),
        });
        family_series
            .series
            .entry(key)
            .or_insert_with(|| new(family))
            .clone()
    }

    /// The counter with these labels, made where there is none.
    pub(super) fn counter(&self, family: &'static Family, labels: &[&str]) -> Counter {
        debug_assert_eq!(family.kind, Kind::Counter, "{}", family.name);
        match self.cell(family, labels, |_| Cell::Int(Arc::default())) {
            Cell::Int(cell) => Counter(cell),
            _ => Counter(Arc::default()),
        }
    }

    /// The gauge with these labels, made where there is none. On a counter family: a total that is kept elsewhere.
    pub(super) fn gauge(&self, family: &'static Family, labels: &[&str]) -> Gauge {
        debug_assert!(
            !matches!(family.kind, Kind::Histogram(_)),
            "{}",
            family.name
        );
        match self.cell(family, labels, |_| Cell::Float(Arc::default())) {
            Cell::Float(cell) => Gauge(cell),
            _ => Gauge(Arc::default()),
        }
    }

    /// The histogram with these labels, made where there is none.
    pub(super) fn histogram(&self, family: &'static Family, labels: &[&str]) -> Histogram {
        debug_assert!(matches!(family.kind, Kind::Histogram(_)), "{}", family.name);
        match self.cell(family, labels, |family| Cell::Histogram(buckets(family))) {
            Cell::Histogram(cell) => Histogram(cell),
            _ => Histogram(buckets(family)),
        }
    }

    /// Drops every series that carries all these labels with these values.
    pub(super) fn remove(&self, matching: &[(&str, &str)]) {
        let mut families = self
            .families
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        for family_series in families.values_mut() {
            let family = family_series.family;
            family_series
                .series
                .retain(|values, _| !carries(family, values, matching));
        }
        families.retain(|_, family_series| !family_series.series.is_empty());
    }

    /// The same, of these families only.
    pub(super) fn remove_from(&self, names: &[&Family], matching: &[(&str, &str)]) {
        let mut families = self
            .families
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        for family in names {
            if let Some(family_series) = families.get_mut(family.name) {
                family_series
                    .series
                    .retain(|values, _| !carries(family, values, matching));
            }
        }
        families.retain(|_, family_series| !family_series.series.is_empty());
    }

    /// The series of one family that carry all these labels with these values.
    pub(super) fn read(&self, name: &str, matching: &[(&str, &str)]) -> Vec<Sample> {
        let families = self.families.read().unwrap_or_else(PoisonError::into_inner);
        let Some(family_series) = families.get(name) else {
            return Vec::new();
        };
        family_series
            .series
            .iter()
            .filter(|(values, _)| carries(family_series.family, values, matching))
            .map(|(values, cell)| (values.clone(), cell.read()))
            .collect()
    }
}

fn carries(family: &Family, values: &[Box<str>], matching: &[(&str, &str)]) -> bool {
    matching.iter().all(|(label, value)| {
        family
            .labels
            .iter()
            .zip(values)
            .any(|(name, held)| name == label && held.as_ref() == *value)
    })
}
