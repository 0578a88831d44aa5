//! The registry of one instance: series, and the handles of the `metrics` crate that write them.
//!
//! A handle shares its cell with the registry and is lock-free; the lock is taken only to ask for a handle, to remove a
//! series or to read values. Handles to a removed series stay usable and write into a cell that is never read.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock};

use ::metrics::{Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn};

use super::family::{Family, FamilyKind};

#[derive(Debug, Default)]
struct Count(AtomicU64);

/// The bits of an f64.
#[derive(Debug, Default)]
struct Float(AtomicU64);

#[derive(Debug)]
struct Buckets {
    bounds: &'static [f64],
    /// One per bound, and one for all above the last. Not cumulative; the reader adds up.
    counts: Box<[AtomicU64]>,
    sum: Float,
}

/// The value of one series. A gauge handle on a counter family holds a float (a total kept elsewhere, as the kernel's).
#[derive(Clone, Debug)]
enum Cell {
    Count(Arc<Count>),
    Float(Arc<Float>),
    Histogram(Arc<Buckets>),
}

/// What a series holds at the moment it is read.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Reading {
    Int(u64),
    Float(f64),
    /// Counts per bound (not cumulative, the last is above all bounds), and the sum.
    Histogram(&'static [f64], Vec<u64>, f64),
}

/// One series as read: its label values and what it holds.
pub(super) type SeriesSample = (Box<[Box<str>]>, Reading);

#[derive(Debug)]
struct FamilySeries {
    family: &'static Family,
    series: BTreeMap<Box<[Box<str>]>, Cell>,
}

/// Every series of one instance, by family name.
#[derive(Debug, Default)]
pub(super) struct SeriesRegistry {
    families: RwLock<BTreeMap<&'static str, FamilySeries>>,
}

// === impl Count ===

impl CounterFn for Count {
    fn increment(&self, by: u64) {
        self.0.fetch_add(by, Relaxed);
    }

    fn absolute(&self, value: u64) {
        self.0.fetch_max(value, Relaxed);
    }
}

// === impl Float ===

impl Float {
    fn get(&self) -> f64 {
        f64::from_bits(self.0.load(Relaxed))
    }

    fn add(&self, by: f64) {
        let mut seen = self.0.load(Relaxed);
        loop {
            let next = (f64::from_bits(seen) + by).to_bits();
            match self.0.compare_exchange_weak(seen, next, Relaxed, Relaxed) {
                Ok(_) => return,
                Err(now) => seen = now,
            }
        }
    }
}

impl GaugeFn for Float {
    fn increment(&self, by: f64) {
        self.add(by);
    }

    fn decrement(&self, by: f64) {
        self.add(-by);
    }

    fn set(&self, value: f64) {
        self.0.store(value.to_bits(), Relaxed);
    }
}

// === impl Buckets ===

impl Buckets {
    fn new(family: &Family) -> Self {
        let bounds: &'static [f64] = match family.kind {
            FamilyKind::Histogram(bounds) => bounds,
            FamilyKind::Counter | FamilyKind::Gauge => &[],
        };
        Self {
            bounds,
            counts: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(),
            sum: Float::default(),
        }
    }
}

impl HistogramFn for Buckets {
    fn record(&self, value: f64) {
        let index = self.bounds.partition_point(|bound| *bound < value);
        self.counts[index].fetch_add(1, Relaxed);
        self.sum.add(value);
    }
}

// === impl Cell ===

impl Cell {
    fn read(&self) -> Reading {
        match self {
            Cell::Count(count) => Reading::Int(count.0.load(Relaxed)),
            Cell::Float(float) => Reading::Float(float.get()),
            Cell::Histogram(buckets) => Reading::Histogram(
                buckets.bounds,
                buckets
                    .counts
                    .iter()
                    .map(|count| count.load(Relaxed))
                    .collect(),
                buckets.sum.get(),
            ),
        }
    }
}

// === impl Reading ===

impl Reading {
    /// As one number; of a histogram, its count.
    pub(super) fn number(&self) -> f64 {
        match self {
            Reading::Int(count) => *count as f64,
            Reading::Float(value) => *value,
            Reading::Histogram(_, counts, _) => counts.iter().sum::<u64>() as f64,
        }
    }
}

// === impl Registry ===

impl SeriesRegistry {
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
        debug_assert_eq!(family.kind, FamilyKind::Counter, "{}", family.name);
        match self.cell(family, labels, |_| Cell::Count(Arc::default())) {
            Cell::Count(cell) => Counter::from_arc(cell),
            _ => Counter::noop(),
        }
    }

    /// The gauge with these labels, made where there is none. On a counter family: a total that is kept elsewhere.
    pub(super) fn gauge(&self, family: &'static Family, labels: &[&str]) -> Gauge {
        debug_assert!(
            !matches!(family.kind, FamilyKind::Histogram(_)),
            "{}",
            family.name
        );
        match self.cell(family, labels, |_| Cell::Float(Arc::default())) {
            Cell::Float(cell) => Gauge::from_arc(cell),
            _ => Gauge::noop(),
        }
    }

    /// The histogram with these labels, made where there is none.
    pub(super) fn histogram(&self, family: &'static Family, labels: &[&str]) -> Histogram {
        debug_assert!(
            matches!(family.kind, FamilyKind::Histogram(_)),
            "{}",
            family.name
        );
        let new = |family| Cell::Histogram(Arc::new(Buckets::new(family)));
        match self.cell(family, labels, new) {
            Cell::Histogram(cell) => Histogram::from_arc(cell),
            _ => Histogram::noop(),
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
    pub(super) fn read(&self, name: &str, matching: &[(&str, &str)]) -> Vec<SeriesSample> {
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
