//! Prometheus' text format, version 0.0.4:
//! <https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format>.

use std::fmt::Write;

use super::metrics::Metric;

/// A text that grows.
#[derive(Default)]
pub(super) struct Text(String);

impl Text {
    /// Begins a metric; its samples follow.
    pub fn metric(&mut self, metric: &Metric) {
        let Metric { name, help, .. } = metric;
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        self.push(&format!("# HELP {name} {help}\n"));
        self.push(&format!("# TYPE {name} {}\n", metric.kind.as_str()));
    }

    /// One number of `metric`, with the values of its labels.
    pub fn sample(&mut self, metric: &Metric, values: &[&str], number: f64) {
        debug_assert_eq!(metric.labels.len(), values.len(), "{}", metric.name);
        let labels = metric.labels.iter().copied().zip(values.iter().copied());
        self.named(metric.name, labels, number);
    }

    /// The same under a name that is not the metric's own: the parts of a histogram.
    pub fn named<'a>(
        &mut self,
        name: &str,
        labels: impl Iterator<Item = (&'a str, &'a str)>,
        number: f64,
    ) {
        self.push(name);
        let mut open = '{';
        for (label, value) in labels {
            let value = value
                .replace('\\', "\\\\")
                .replace('"', "\\\"")
                .replace('\n', "\\n");
            self.push(&format!("{open}{label}=\"{value}\""));
            open = ',';
        }
        if open == ',' {
            self.push("}");
        }
        let number = match number {
            n if n.is_nan() => "NaN".to_owned(),
            n if n.is_infinite() => if n > 0.0 { "+Inf" } else { "-Inf" }.to_owned(),
            n => n.to_string(),
        };
        self.push(&format!(" {number}\n"));
    }

    pub fn into_string(self) -> String {
        self.0
    }

    fn push(&mut self, text: &str) {
        // Writing to a string does not fail.
        self.0.write_str(text).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::super::metrics::Kind;
    use super::*;

    #[test]
    fn what_a_stranger_named_can_t_leave_its_quotes() {
        const ODD: Metric = Metric {
            name: "odd",
            kind: Kind::Gauge,
            help: "back\\slash\nline",
            labels: &["a", "b"],
        };
        let mut text = Text::default();
        text.metric(&ODD);
        text.sample(&ODD, &["x\"} 1\nevil 2", "\\"], -0.5);
        text.sample(&ODD, &["", "ü"], f64::INFINITY);
        let expected = "# HELP odd back\\\\slash\\nline\n# TYPE odd gauge\n\
                        odd{a=\"x\\\"} 1\\nevil 2\",b=\"\\\\\"} -0.5\nodd{a=\"\",b=\"ü\"} +Inf\n";
        assert_eq!(text.into_string(), expected);
    }

    #[test]
    fn large_counts_are_written_in_full() {
        const PLAIN: Metric = Metric {
            name: "n",
            kind: Kind::Counter,
            help: "",
            labels: &[],
        };
        let mut text = Text::default();
        text.sample(&PLAIN, &[], 9_007_199_254_740_991.0);
        text.sample(&PLAIN, &[], 0.1);
        assert_eq!(text.into_string(), "n 9007199254740991\nn 0.1\n");
    }
}
