//! How a metric is declared: its name, its help, what an operator concludes from it, and its labels by
//! type, so that no series has a value that was not foreseen. What is declared here stands in
//! `docs/metrics.md`.

use super::NAMESPACE;
use crate::wire::NumberId;
use prometheus::core::{Collector, MetricVec, MetricVecBuilder};
use prometheus::{
    Error, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry,
};
use std::borrow::Cow;
use std::marker::PhantomData;

/// Which values a label has.
#[derive(Debug, Clone)]
pub(super) enum Values {
    /// These and no others.
    Closed(Vec<&'static str>),
    /// Bounded by something else: what they are, in a few words.
    Bounded(&'static str),
}

/// One label of a metric.
pub(super) trait Label {
    const NAME: &'static str;
    /// What an event is told with.
    type Value<'a>;
    fn text(value: Self::Value<'_>) -> Cow<'_, str>;
    fn values() -> Values;
}

/// A closed set of words, which is a label by itself.
pub(super) trait Word: Copy + 'static {
    const LABEL: &'static str;
    const ALL: &'static [Self];
    fn word(self) -> &'static str;
}

impl<W: Word> Label for W {
    const NAME: &'static str = W::LABEL;
    type Value<'a> = W;

    fn text(value: Self::Value<'_>) -> Cow<'_, str> {
        value.word().into()
    }

    fn values() -> Values {
        Values::Closed(W::ALL.iter().map(|value| value.word()).collect())
    }
}

/// A closed set of words and the label that has them, in one place.
macro_rules! words {
    (
        $(#[$about:meta])*
        pub enum $name:ident as $label:literal {
            $($(#[$about_one:meta])* $one:ident = $word:literal,)+
        }
    ) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$about_one])* $one,)+
        }

        impl $name {
            /// The word in labels.
            pub fn name(self) -> &'static str {
                match self {
                    $($name::$one => $word,)+
                }
            }
        }

        impl $crate::metrics::declare::Word for $name {
            const LABEL: &'static str = $label;
            const ALL: &'static [$name] = &[$($name::$one,)+];

            fn word(self) -> &'static str {
                self.name()
            }
        }
    };
}
pub(super) use words;

/// A number that has a lane. Its counters go when the lane does (`super::numbers`), its gauges by those who
/// set them.
#[derive(Debug, Clone)]
pub(super) struct Number;

impl Label for Number {
    const NAME: &'static str = "number";
    type Value<'a> = &'a NumberId;

    fn text(value: Self::Value<'_>) -> Cow<'_, str> {
        value.as_str().into()
    }

    fn values() -> Values {
        Values::Bounded("phone number IDs that have a lane")
    }
}

/// The number by whose lane something came, where there is one.
#[derive(Debug, Clone)]
pub(super) struct Lane;

impl Label for Lane {
    const NAME: &'static str = Number::NAME;
    type Value<'a> = Option<&'a NumberId>;

    fn text(value: Self::Value<'_>) -> Cow<'_, str> {
        value.map_or("unknown", NumberId::as_str).into()
    }

    fn values() -> Values {
        Values::Bounded("phone number IDs that have a lane, `unknown`")
    }
}

/// A label as it stands in the reference.
#[derive(Debug, Clone)]
pub(super) struct Described {
    pub(super) name: &'static str,
    pub(super) values: Values,
}

fn described<L: Label>() -> Described {
    Described { name: L::NAME, values: L::values() }
}

/// The labels of a metric, in their order.
pub(super) trait Labels {
    type Values<'a>;
    type Texts<'a>: AsRef<[Cow<'a, str>]>;
    fn texts(values: Self::Values<'_>) -> Self::Texts<'_>;
    fn described() -> Vec<Described>;
}

impl<A: Label> Labels for A {
    type Values<'a> = A::Value<'a>;
    type Texts<'a> = [Cow<'a, str>; 1];

    fn texts(a: Self::Values<'_>) -> Self::Texts<'_> {
        [A::text(a)]
    }

    fn described() -> Vec<Described> {
        vec![described::<A>()]
    }
}

impl<A: Label, B: Label> Labels for (A, B) {
    type Values<'a> = (A::Value<'a>, B::Value<'a>);
    type Texts<'a> = [Cow<'a, str>; 2];

    fn texts((a, b): Self::Values<'_>) -> Self::Texts<'_> {
        [A::text(a), B::text(b)]
    }

    fn described() -> Vec<Described> {
        vec![described::<A>(), described::<B>()]
    }
}

impl<A: Label, B: Label, C: Label> Labels for (A, B, C) {
    type Values<'a> = (A::Value<'a>, B::Value<'a>, C::Value<'a>);
    type Texts<'a> = [Cow<'a, str>; 3];

    fn texts((a, b, c): Self::Values<'_>) -> Self::Texts<'_> {
        [A::text(a), B::text(b), C::text(c)]
    }

    fn described() -> Vec<Described> {
        vec![described::<A>(), described::<B>(), described::<C>()]
    }
}

/// The series of one metric, told apart by `L`.
#[derive(Debug, Clone)]
pub(super) struct Family<V, L> {
    series: V,
    labels: PhantomData<fn(L)>,
}

/// Counters with labels.
pub(super) type Counters<L> = Family<IntCounterVec, L>;
/// Gauges of whole things, with labels.
pub(super) type Gauges<L> = Family<IntGaugeVec, L>;
/// Gauges of seconds and rates, with labels.
pub(super) type RealGauges<L> = Family<GaugeVec, L>;
/// Histograms with labels.
pub(super) type Histograms<L> = Family<HistogramVec, L>;

impl<T: MetricVecBuilder, L: Labels> Family<MetricVec<T>, L> {
    /// The series with these values.
    pub(super) fn of(&self, values: L::Values<'_>) -> T::M {
        self.series.with_label_values(L::texts(values).as_ref())
    }

    /// Shows it no longer.
    pub(super) fn remove(&self, values: L::Values<'_>) {
        // An error says that there is no such series, which is what was wanted.
        drop(self.series.remove_label_values(L::texts(values).as_ref()));
    }

    /// What is shown.
    pub(super) fn collector(&self) -> &MetricVec<T> {
        &self.series
    }
}

/// What is said of a metric.
#[derive(Debug, Clone, Copy)]
pub(super) struct About {
    /// Without the namespace.
    pub(super) name: &'static str,
    /// What it is: one sentence, also on the page itself.
    pub(super) help: &'static str,
    /// What an operator concludes from it.
    pub(super) tells: &'static str,
}

impl About {
    fn opts(self) -> Opts {
        Opts::new(self.name, self.help).namespace(NAMESPACE)
    }

    fn histogram(self, buckets: &[f64]) -> HistogramOpts {
        HistogramOpts { common_opts: self.opts(), buckets: buckets.to_vec() }
    }
}

/// What a metric's values do.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    /// Grow.
    Counter,
    /// Go up and down.
    Gauge,
    /// Fall into buckets.
    Histogram,
}

/// One metric in the reference.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) about: About,
    pub(super) kind: Kind,
    pub(super) labels: Vec<Described>,
}

/// Metrics that are read together.
#[derive(Debug, Clone)]
pub(super) struct Theme {
    pub(super) title: &'static str,
    /// The question that they answer.
    pub(super) question: &'static str,
    pub(super) entries: Vec<Entry>,
}

/// A metric's counters, of which each number has its own.
#[derive(Debug)]
pub(super) struct ByNumber {
    series: IntCounterVec,
    labels: Vec<Described>,
}

impl ByNumber {
    /// Shows those of this number no longer.
    pub(super) fn remove(&self, number: &NumberId) {
        for values in combined(&self.labels, Some(number.as_str())) {
            // An error says that there is no such series, which is what was wanted.
            drop(self.series.remove_label_values(&values));
        }
    }
}

/// Makes metrics and registers them, theme by theme.
pub(super) struct Declare {
    pub(super) registry: Registry,
    pub(super) themes: Vec<Theme>,
    pub(super) by_number: Vec<ByNumber>,
}

impl Declare {
    pub(super) fn new() -> Declare {
        Declare { registry: Registry::new(), themes: Vec::new(), by_number: Vec::new() }
    }

    /// What follows belongs to this theme.
    pub(super) fn theme(&mut self, title: &'static str, question: &'static str) {
        self.themes.push(Theme { title, question, entries: Vec::new() });
    }

    pub(super) fn counter(&mut self, about: About) -> Result<IntCounter, Error> {
        self.note(about, Kind::Counter, Vec::new());
        self.register(IntCounter::with_opts(about.opts())?)
    }

    pub(super) fn counters<L: Labels>(&mut self, about: About) -> Result<Counters<L>, Error> {
        let counters = self.unregistered_counters(about)?;
        // Where all are known: a counter that first shows 1 has not grown.
        for values in combined(&L::described(), None) {
            drop(counters.series.with_label_values(&values));
        }
        self.register(counters.series.clone())?;
        Ok(counters)
    }

    /// They are registered as a part of something else.
    pub(super) fn unregistered_counters<L: Labels>(
        &mut self,
        about: About,
    ) -> Result<Counters<L>, Error> {
        let labels = L::described();
        let names = self.note(about, Kind::Counter, labels.clone());
        let series = IntCounterVec::new(about.opts(), &names)?;
        if names.contains(&Number::NAME) {
            self.by_number.push(ByNumber { series: series.clone(), labels });
        }
        Ok(family(series))
    }

    pub(super) fn gauge(&mut self, about: About) -> Result<IntGauge, Error> {
        let gauge = self.unregistered_gauge(about)?;
        self.register(gauge)
    }

    /// It is registered as a part of something else.
    pub(super) fn unregistered_gauge(&mut self, about: About) -> Result<IntGauge, Error> {
        self.note(about, Kind::Gauge, Vec::new());
        IntGauge::with_opts(about.opts())
    }

    pub(super) fn gauges<L: Labels>(&mut self, about: About) -> Result<Gauges<L>, Error> {
        let names = self.note(about, Kind::Gauge, L::described());
        self.register(IntGaugeVec::new(about.opts(), &names)?).map(family)
    }

    pub(super) fn real_gauges<L: Labels>(&mut self, about: About) -> Result<RealGauges<L>, Error> {
        let names = self.note(about, Kind::Gauge, L::described());
        self.register(GaugeVec::new(about.opts(), &names)?).map(family)
    }

    pub(super) fn histogram(&mut self, about: About, buckets: &[f64]) -> Result<Histogram, Error> {
        self.note(about, Kind::Histogram, Vec::new());
        self.register(Histogram::with_opts(about.histogram(buckets))?)
    }

    pub(super) fn histograms<L: Labels>(
        &mut self,
        about: About,
        buckets: &[f64],
    ) -> Result<Histograms<L>, Error> {
        let names = self.note(about, Kind::Histogram, L::described());
        self.register(HistogramVec::new(about.histogram(buckets), &names)?).map(family)
    }

    pub(super) fn register<M: Collector + Clone + 'static>(&self, metric: M) -> Result<M, Error> {
        self.registry.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    /// Puts it into the reference, and returns the names of its labels.
    fn note(&mut self, about: About, kind: Kind, labels: Vec<Described>) -> Vec<&'static str> {
        let names = labels.iter().map(|label| label.name).collect();
        let theme = self.themes.last_mut().expect("each theme is opened before its metrics");
        theme.entries.push(Entry { about, kind, labels });
        names
    }
}

/// The values of all series that there can be of one number, or of none; nothing where they are not known.
fn combined<'a>(labels: &[Described], number: Option<&'a str>) -> Vec<Vec<&'a str>> {
    let mut all = vec![Vec::new()];
    for label in labels {
        let words: Vec<&str> = match (&label.values, number) {
            (Values::Closed(words), _) => words.clone(),
            (Values::Bounded(_), Some(number)) if label.name == Number::NAME => vec![number],
            (Values::Bounded(_), _) => return Vec::new(),
        };
        let longer = |begun: Vec<&'a str>| {
            words.iter().map(move |word| [&begun[..], &[*word]].concat()).collect::<Vec<_>>()
        };
        all = all.into_iter().flat_map(longer).collect();
    }
    all
}

fn family<V, L>(series: V) -> Family<V, L> {
    Family { series, labels: PhantomData }
}

#[cfg(test)]
mod tests {
    use crate::metrics::Metrics;

    #[test]
    fn a_counter_of_which_all_series_are_known_shows_them_before_anything_happens() {
        let page = Metrics::new().unwrap().render().unwrap();
        for series in [
            r#"dead_letters_total{class="unavailable"}"#,
            r#"publishes_total{kind="reply",outcome="refused"}"#,
            r#"publishes_total{kind="presence",outcome="confirmed"}"#,
        ] {
            assert!(page.contains(&format!("chakra_sender_{series} 0\n")), "{series}: {page}");
        }
        assert!(!page.contains("results_total{"), "{page}");
    }
}
