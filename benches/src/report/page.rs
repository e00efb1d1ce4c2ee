//! The report as a page with plots. Its text is that of the Markdown.

use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd, html};
use report_page::{Figure, Page, Tone};

use super::Report;
use super::markdown::count;
use super::sections::{Section, TITLE, sections};

pub(super) fn render(report: &Report) -> String {
    let mut page = Page::new(TITLE, &subtitle(report));
    let (tone, sentence, reasons) = verdict(report);
    page.verdict(tone, &sentence, &reasons);
    let figures = figures(report);
    if !figures.is_empty() {
        page.figures(&figures);
    }
    for Section { title, text, charts } in sections(report) {
        page.section(title);
        page.markup(&to_html(&text));
        if !charts.is_empty() {
            page.charts(&charts);
        }
    }
    page.finish("Written by scripts/bench. The page loads and runs nothing.")
}

fn subtitle(report: &Report) -> String {
    let machine = &report.machine;
    let rounds =
        if report.rounds == 1 { "one round".to_owned() } else { format!("{} rounds", report.rounds) };
    format!("{} cores ({}), seed {}, {rounds}", machine.cores, machine.processor, report.seed)
}

fn verdict(report: &Report) -> (Tone, String, Vec<String>) {
    let failures = report.failures.len();
    if failures > 0 {
        let sentence = format!("Not complete: {failures} of the measurements failed");
        return (Tone::Bad, sentence, vec!["What failed is told below.".to_owned()]);
    }
    let checked = "The counts of every reply and the server's totals were checked in every run.".to_owned();
    if report.quick {
        let sentence = "A quick run: everything works, and the figures mean little".to_owned();
        return (Tone::Open, sentence, vec![checked]);
    }
    (Tone::Good, "Everything was measured".to_owned(), vec![checked])
}

/// What somebody looks for who has a minute.
fn figures(report: &Report) -> Vec<Figure> {
    let figure = |name: &str, value: String, note: String| Figure {
        name: name.to_owned(),
        value,
        note,
        tone: Tone::Open,
    };
    let mut figures = Vec::new();
    let served = report.ingest.iter().flat_map(|ingest| &ingest.lines).filter(|line| line.served.is_some());
    if let Some(line) = served.max_by(|a, b| a.rate.median.total_cmp(&b.rate.median)) {
        figures.push(figure("most deliveries/s", count(line.rate.median), line.name.clone()));
        if let Some(of_many) = line.of_many_append_5000 {
            figures.push(figure(
                "of plain SQLite",
                format!("{:.2}", of_many.median),
                "20 rows a statement by 5,000".to_owned(),
            ));
        }
    }
    if let Some(growth) = &report.growth {
        let value = format!("{:.2}", growth.last_to_first);
        figures.push(figure(
            "last tenth over the first",
            value,
            "deliveries/s as the store grows".to_owned(),
        ));
    }
    if let Some(steady) = report.latency.first() {
        figures.push(figure("p99 at half load", format!("{:.1} ms", steady.p99_ms), steady.name.clone()));
    }
    if let Some(reading) = report.read.first() {
        figures.push(figure("events read/s", count(reading.rate.median), reading.name.clone()));
    }
    figures
}

/// Around a table, which can be moved sideways where it is too wide.
const SCROLL: &str = "<div class=\"scroll\" role=\"region\" aria-label=\"Table\" tabindex=\"0\">";

/// Markdown as HTML. Names of machines and messages of other programs are in it: HTML in it is text.
fn to_html(markdown: &str) -> String {
    let events = Parser::new_ext(markdown, Options::ENABLE_TABLES).flat_map(|event| match event {
        Event::Html(text) | Event::InlineHtml(text) => [Some(Event::Text(text)), None],
        // No page of ours has links or pictures; a message could.
        Event::Start(Tag::Link { .. } | Tag::Image { .. }) | Event::End(TagEnd::Link | TagEnd::Image) => {
            [None, None]
        }
        start @ Event::Start(Tag::Table(_)) => [Some(Event::Html(SCROLL.into())), Some(start)],
        end @ Event::End(TagEnd::Table) => [Some(end), Some(Event::Html("</div>\n".into()))],
        other => [Some(other), None],
    });
    let mut out = String::with_capacity(markdown.len() * 2);
    html::push_html(&mut out, events.flatten());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_in_the_text_is_text() {
        let html = to_html(
            "a <script>alert(1)</script> [b](javascript:x) ![c](//d)\n\n<img src=x>\n\n| <b> |\n|--:|\n| 1 |\n",
        );
        for foreign in ["<script", "<img", "href", "src=\"", "<b>"] {
            assert!(!html.contains(foreign), "{foreign}: {html}");
        }
        assert!(html.contains("&lt;script&gt;alert(1)") && html.contains("&lt;img src=x&gt;"), "{html}");
    }

    #[test]
    fn a_table_can_be_moved_sideways() {
        let html = to_html("| a | b |\n|---|--:|\n| c | 1 |\n");
        assert!(html.starts_with(&format!("{SCROLL}<table>")), "{html}");
        assert!(html.ends_with("</table>\n</div>\n"), "{html}");
    }
}
