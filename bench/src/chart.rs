//! Drawings for the report, as SVG text without scripts. Colours and fonts come from the page's
//! style sheet by class.

use std::fmt::Write as _;

use ringway_lab::measure::Series;

/// One bar.
#[derive(Clone, Debug)]
pub(crate) struct Bar<'a> {
    /// Name of the program.
    pub(crate) label: &'a str,
    /// Its values.
    pub(crate) series: &'a Series,
    /// The median as text, with its unit.
    pub(crate) text: String,
    /// Class of the bar: `ours`, `variant` or `other`.
    pub(crate) class: &'static str,
}

const WIDTH: f64 = 640.0;
const LABELS: f64 = 176.0;
const TEXTS: f64 = 116.0;
const STEP: f64 = 30.0;
const THICK: f64 = 16.0;

/// Bars from zero to the medians, a line from the smallest to the largest value of each, and a dot
/// per value. `title` is for those who cannot see it.
pub(crate) fn bars(title: &str, bars: &[Bar<'_>]) -> String {
    let most = bars.iter().map(|bar| bar.series.max()).fold(0.0, f64::max);
    let area = WIDTH - LABELS - TEXTS;
    let at = |value: f64| LABELS + scale(value, most, area);
    let height = STEP * bars.len() as f64;
    let mut svg = format!(
        "<svg class=\"bars\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{}\">\n",
        escape(title)
    );
    for (number, bar) in bars.iter().enumerate() {
        let top = STEP * number as f64 + (STEP - THICK) / 2.0;
        let middle = top + THICK / 2.0;
        let (left, median) = (at(0.0), at(bar.series.median()));
        let (min, max) = (at(bar.series.min()), at(bar.series.max()));
        let _ = writeln!(
            svg,
            "<text class=\"label {class}\" x=\"{:.1}\" y=\"{:.1}\">{}</text>\
             <rect class=\"{class}\" x=\"{left:.1}\" y=\"{top:.1}\" width=\"{:.1}\" \
             height=\"{THICK}\" rx=\"2\"/>",
            LABELS - 10.0,
            middle + 4.5,
            escape(bar.label),
            (median - left).max(1.0),
            class = bar.class,
        );
        if bar.series.values().len() > 1 {
            let _ = writeln!(
                svg,
                "<line class=\"range\" x1=\"{min:.1}\" x2=\"{max:.1}\" y1=\"{middle:.1}\" \
                 y2=\"{middle:.1}\"/>"
            );
            for &value in bar.series.values() {
                let _ = writeln!(
                    svg,
                    "<circle class=\"dot\" cx=\"{:.1}\" cy=\"{middle:.1}\" r=\"2.2\"/>",
                    at(value)
                );
            }
        }
        let _ = writeln!(
            svg,
            "<text class=\"value\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            max.max(median) + 8.0,
            middle + 4.5,
            escape(&bar.text)
        );
    }
    svg + "</svg>\n"
}

/// A track with `value` filled in and a mark at `limit`, both from zero.
pub(crate) fn track(value: f64, limit: f64, class: &str) -> String {
    const LENGTH: f64 = 200.0;
    // The mark is never at the end, nor the value beyond it.
    let most = (limit * 1.6).max(value * 1.05);
    let (value, mark) = (scale(value, most, LENGTH), scale(limit, most, LENGTH));
    format!(
        "<svg class=\"track\" viewBox=\"0 0 {LENGTH} 14\" aria-hidden=\"true\">\
         <rect class=\"rail\" x=\"0\" y=\"4\" width=\"{LENGTH}\" height=\"6\" rx=\"3\"/>\
         <rect class=\"{class}\" x=\"0\" y=\"4\" width=\"{:.1}\" height=\"6\" rx=\"3\"/>\
         <line class=\"mark\" x1=\"{mark:.1}\" x2=\"{mark:.1}\" y1=\"0\" y2=\"14\"/></svg>",
        value.max(2.0)
    )
}

/// Where `value` lies on a length that `most` fills; 0 for what is not a number.
fn scale(value: f64, most: f64, length: f64) -> f64 {
    match value / most * length {
        at if at.is_finite() => at.clamp(0.0, length),
        _ => 0.0,
    }
}

/// Text as it may stand in HTML and SVG, also inside attributes.
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_in_proportion() {
        assert_eq!(scale(5.0, 10.0, 300.0), 150.0);
        assert_eq!(scale(20.0, 10.0, 300.0), 300.0);
        assert_eq!(scale(-1.0, 10.0, 300.0), 0.0);
        assert_eq!(scale(0.0, 0.0, 300.0), 0.0);
        assert_eq!(scale(f64::NAN, 1.0, 300.0), 0.0);
    }

    #[test]
    fn a_chart_has_a_bar_and_a_range_per_program() {
        let (mut three, mut one) = (Series::default(), Series::default());
        for value in [1.0, 4.0, 2.0] {
            three.push(value);
        }
        one.push(1.0);
        let bar = |label, series| Bar {
            label,
            series,
            text: "x".to_owned(),
            class: "other",
        };
        let svg = bars("a & b", &[bar("<one>", &one), bar("three", &three)]);
        assert_eq!(svg.matches("<rect").count(), 2);
        assert_eq!(svg.matches("<line").count(), 1);
        assert_eq!(svg.matches("<circle").count(), 3);
        assert!(svg.contains("a &amp; b") && svg.contains("&lt;one&gt;"));
        // The median of three is half of the largest value, that of one a quarter.
        let area = WIDTH - LABELS - TEXTS;
        assert!(svg.contains(&format!("width=\"{:.1}\"", area / 2.0)));
        assert!(svg.contains(&format!("width=\"{:.1}\"", area / 4.0)));
    }

    #[test]
    fn the_mark_stays_on_the_track() {
        assert!(track(1.0, 5.0, "missed").contains("x1=\"125.0\""));
        let far = track(50.0, 5.0, "met");
        assert!(
            far.contains("x1=\"19.0\"") && far.contains("width=\"190.5\""),
            "{far}"
        );
        assert!(track(0.0, 0.0, "met").contains("x1=\"0.0\""));
    }
}
