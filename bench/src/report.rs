//! report.html: one page that shows the figures, without anything from elsewhere.

use std::fmt::Write as _;

use crate::chart::{self, Bar, escape};
use crate::measure::{Better, Measure};
use crate::program::RINGWAY;
use crate::results::Results;
use crate::suite::{self, Row, Setting};
use crate::table::{METHOD, result, sides, spread};
use crate::target::{Outcome, Target};

const STYLE: &str = include_str!("report.css");

/// The whole page.
pub(crate) fn page(results: &Results) -> String {
    let mut html = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>Ringway, measured</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n"
    );
    html.push_str(&header(results));
    html.push_str("<section>\n<h2>Targets</h2>\n");
    for row in suite::ROWS {
        html.push_str(&target_row(results, row));
    }
    html.push_str(
        "</section>\n<section>\n<h2>Figures</h2>\n<p class=\"note\">A bar ends at the \
                   median, the line spans all rounds, each dot is one round.</p>\n",
    );
    for setting in suite::SETTINGS {
        html.push_str(&figures(results, setting));
    }
    html.push_str("</section>\n");
    html.push_str(&notes(results));
    html + "</main>\n</body>\n</html>\n"
}

fn header(results: &Results) -> String {
    let [mut met, mut missed, mut open] = [0; 3];
    for target in suite::ROWS.iter().flat_map(|row| row.targets) {
        match target.judge(results) {
            Outcome::Met(_) => met += 1,
            Outcome::Missed(_) => missed += 1,
            Outcome::Unmeasured { .. } => open += 1,
        }
    }
    let mut html = String::from("<header>\n<h1>Ringway, measured</h1>\n<p class=\"counts\">");
    for (count, class, word) in [
        (met, "met", "met"),
        (missed, "missed", "missed"),
        (open, "open", "not measured"),
    ] {
        if count > 0 {
            let _ = write!(
                html,
                "<span class=\"badge {class}\"><b>{count}</b> {word}</span> "
            );
        }
    }
    html.push_str("</p>\n<ul class=\"machine\">\n");
    for line in results.machine.lines() {
        let _ = writeln!(html, "<li>{}</li>", escape(&line));
    }
    let _ = writeln!(
        html,
        "<li>{}, {}</li>\n</ul>\n</header>",
        escape(&results.made),
        results.rounds_text()
    );
    html
}

fn target_row(results: &Results, row: &Row) -> String {
    let mut html = format!("<article class=\"row\">\n<h3>{}</h3>\n", escape(row.title));
    for target in row.targets {
        let outcome = target.judge(results);
        let class = class(&outcome);
        let drawing = match &outcome {
            Outcome::Met(figures) | Outcome::Missed(figures) => {
                chart::track(figures.value, target.bound.limit(), class)
            }
            Outcome::Unmeasured { .. } => String::new(),
        };
        let _ = writeln!(
            html,
            "<div class=\"target\"><div class=\"what\"><b>{}</b><span>{}</span></div>\
             <div class=\"drawing\">{drawing}</div>\
             <div class=\"outcome\"><span class=\"badge {class}\">{}</span><span>{}</span></div></div>",
            escape(&target.text()),
            escape(&subject(row, target)),
            escape(&badge(target, &outcome)),
            escape(&explanation(results, target, &outcome)),
        );
    }
    html + "</article>\n"
}

/// The quantity, and the setting where the row has several.
fn subject(row: &Row, target: &Target) -> String {
    let title = suite::setting(target.setting).map_or(target.setting, |setting| setting.title);
    match title == row.title {
        true => target.measure.title().to_owned(),
        false => format!("{}. {}", target.measure.title(), title),
    }
}

fn class(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Met(_) => "met",
        Outcome::Missed(_) => "missed",
        Outcome::Unmeasured { .. } => "open",
    }
}

fn badge(target: &Target, outcome: &Outcome) -> String {
    match outcome {
        Outcome::Met(_) => format!("{} met", result(target, outcome)),
        Outcome::Missed(_) => format!("{} missed", result(target, outcome)),
        Outcome::Unmeasured { .. } => "not measured".to_owned(),
    }
}

fn explanation(results: &Results, target: &Target, outcome: &Outcome) -> String {
    match outcome {
        Outcome::Met(figures) | Outcome::Missed(figures) => match sides(results, target, figures) {
            (_, theirs) if theirs.is_empty() => String::new(),
            (ours, theirs) => format!("{ours}, {theirs}{}", spread(outcome)),
        },
        Outcome::Unmeasured { reason } => reason.clone(),
    }
}

fn figures(results: &Results, setting: &Setting) -> String {
    let measures = results.measures(setting.key);
    if measures.is_empty() {
        return String::new();
    }
    let mut html = format!(
        "<article class=\"setting\" id=\"{}\">\n<h3>{}</h3>\n<div class=\"charts\">\n",
        setting.key,
        escape(setting.title)
    );
    for measure in measures {
        html.push_str(&chart_of(results, setting, measure));
    }
    html + "</div>\n</article>\n"
}

fn chart_of(results: &Results, setting: &Setting, measure: Measure) -> String {
    let bars: Vec<Bar<'_>> = results
        .present(setting.key, measure)
        .into_iter()
        .map(|(program, series)| Bar {
            label: &program.title,
            series,
            text: format!("{} {}", measure.show(series.median()), measure.unit()),
            class: match program.key.as_str() {
                RINGWAY => "ours",
                key if key.starts_with(RINGWAY) => "variant",
                _ => "other",
            },
        })
        .collect();
    let better = match measure.better() {
        Better::Higher => "more is better",
        Better::Lower => "less is better",
    };
    let title = format!("{}: {}", setting.title, measure.title());
    format!(
        "<figure><figcaption>{}, {} <i>{better}</i></figcaption>\n{}</figure>\n",
        escape(measure.title()),
        escape(measure.unit()),
        chart::bars(&title, &bars)
    )
}

fn notes(results: &Results) -> String {
    let mut html = String::from("<section class=\"notes\">\n");
    if !results.failures.is_empty() {
        html.push_str("<h2>What did not work</h2>\n<ul>\n");
        for failure in &results.failures {
            let _ = writeln!(
                html,
                "<li>{}, {}: {}</li>",
                escape(&failure.setting),
                escape(results.title(&failure.program)),
                escape(&failure.reason)
            );
        }
        html.push_str("</ul>\n");
    }
    html.push_str("<h2>How it is measured</h2>\n<ul>\n");
    for line in METHOD {
        let _ = writeln!(html, "<li>{}</li>", escape(line));
    }
    html.push_str("</ul>\n<h2>Programs</h2>\n<ul>\n");
    for program in results.programs.iter().filter(|p| !p.version.is_empty()) {
        let _ = writeln!(
            html,
            "<li><b>{}</b> {}</li>",
            escape(&program.title),
            escape(&program.version)
        );
    }
    let _ = writeln!(
        html,
        "</ul>\n<h2>Repeat it</h2>\n<p>As root, with the Rust toolchain, openvpn and iperf3:</p>\n\
         <pre>cargo build --release -p ringway -p ringway-bench\n{}</pre>\n\
         <p>Every value is in results.json beside this page.</p>\n</section>",
        escape(&results.command)
    );
    html
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_shows_verdicts_and_needs_nothing_from_elsewhere() {
        let mut results = Results::default();
        for key in ["ringway", "openvpn"] {
            results.other(key);
        }
        results.push("gcm", "ringway", Measure::TcpRate, 10.0);
        results.push("gcm", "openvpn", Measure::TcpRate, 4.0);
        results.fail("gcm", "veth", "<b>bold</b>");
        let html = page(&results);
        assert!(
            html.contains("<span class=\"badge missed\">2.50 x missed</span>"),
            "{html}"
        );
        assert!(html.contains("not measured"));
        assert!(html.contains("&lt;b&gt;bold") && !html.contains("<b>bold"));
        for foreign in ["http:", "https:", "<script", "@import", "url("] {
            assert!(!html.contains(foreign), "{foreign}");
        }
        let opened = html.matches("<svg").count();
        assert!(opened > 1 && opened == html.matches("</svg>").count());
    }
}
