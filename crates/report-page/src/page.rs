//! The page: what comes in which order, and how it is written as HTML.

use std::fmt::Write as _;

use crate::chart::Chart;
use crate::escape::escape;

/// Everything that a page looks like.
const STYLE: &str = include_str!("style.css");

/// Nothing may be loaded and nothing may run.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'";

/// A page that is being written, from the top down.
#[derive(Debug)]
pub struct Page {
    title: String,
    body: String,
    charts: usize,
    in_section: bool,
}

/// How good a result is. It has a colour and a sign, so that nobody needs to see the colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// As promised.
    Good,
    /// A promise is broken.
    Bad,
    /// Not known, or not asked for.
    Open,
}

/// A number that stands out.
#[derive(Debug, Clone)]
pub struct Figure {
    /// What it is.
    pub name: String,
    /// The number with its unit.
    pub value: String,
    /// What belongs to it; may be empty.
    pub note: String,
    /// `Bad` makes it stand out more.
    pub tone: Tone,
}

/// A column of a table.
#[derive(Debug, Clone, Copy)]
pub struct Column {
    /// What is in it.
    pub name: &'static str,
    /// Whether it has numbers, which stand at the right.
    pub is_number: bool,
}

impl Tone {
    fn class(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Bad => "bad",
            Self::Open => "open",
        }
    }

    /// A tick, a cross, or a dash.
    fn sign(self) -> &'static str {
        match self {
            Self::Good => "M6 12.5l4 4 8-9",
            Self::Bad => "M7 7l10 10M17 7L7 17",
            Self::Open => "M6.5 12h11",
        }
    }
}

impl Column {
    /// A column of texts.
    #[must_use]
    pub const fn text(name: &'static str) -> Self {
        Self { name, is_number: false }
    }

    /// A column of numbers.
    #[must_use]
    pub const fn number(name: &'static str) -> Self {
        Self { name, is_number: true }
    }
}

impl Page {
    /// An empty page.
    #[must_use]
    pub fn new(title: &str, subtitle: &str) -> Self {
        let title = escape(title);
        let body = format!("<header><h1>{title}</h1><p>{}</p></header>\n<main>\n", escape(subtitle));
        Self { title, body, charts: 0, in_section: false }
    }

    /// The verdict, which stands before everything else: a sentence, and what it rests on.
    pub fn verdict(&mut self, tone: Tone, sentence: &str, reasons: &[String]) {
        let _ = write!(
            self.body,
            "<section class=\"verdict {}\"><svg viewBox=\"0 0 24 24\" aria-hidden=\"true\">\
             <circle cx=\"12\" cy=\"12\" r=\"12\"/><path d=\"{}\"/></svg><div><h2>{}</h2>",
            tone.class(),
            tone.sign(),
            escape(sentence)
        );
        for reason in reasons {
            let _ = write!(self.body, "<p>{}</p>", escape(reason));
        }
        self.body.push_str("</div></section>\n");
    }

    /// Numbers that stand out.
    pub fn figures(&mut self, figures: &[Figure]) {
        self.body.push_str("<dl class=\"figures\">\n");
        for figure in figures {
            let _ = writeln!(
                self.body,
                "<div class=\"{}\"><dt>{}</dt><dd>{}</dd><dd class=\"note\">{}</dd></div>",
                figure.tone.class(),
                escape(&figure.name),
                escape(&figure.value),
                escape(&figure.note)
            );
        }
        self.body.push_str("</dl>\n");
    }

    /// Begins a section. It goes on to the next one.
    pub fn section(&mut self, title: &str) {
        self.end_section();
        let _ = writeln!(self.body, "<section>\n<h2>{}</h2>", escape(title));
        self.in_section = true;
    }

    fn end_section(&mut self) {
        if self.in_section {
            self.body.push_str("</section>\n");
        }
        self.in_section = false;
    }

    /// A paragraph.
    pub fn paragraph(&mut self, text: &str) {
        let _ = writeln!(self.body, "<p>{}</p>", escape(text));
    }

    /// Plots, beside each other where there is room.
    pub fn charts(&mut self, charts: &[Chart]) {
        self.body.push_str("<div class=\"charts\">\n");
        for chart in charts {
            self.charts += 1;
            self.body.push_str(&chart.figure(self.charts));
        }
        self.body.push_str("</div>\n");
    }

    /// A table, which can be moved sideways where it is too wide.
    pub fn table(&mut self, caption: &str, columns: &[Column], rows: &[Vec<String>]) {
        let class = |column: &Column| if column.is_number { " class=\"number\"" } else { "" };
        let label = if caption.is_empty() { "Table".to_owned() } else { escape(caption) };
        let _ = writeln!(
            self.body,
            "<div class=\"scroll\" role=\"region\" aria-label=\"{label}\" tabindex=\"0\"><table>"
        );
        if !caption.is_empty() {
            let _ = writeln!(self.body, "<caption>{}</caption>", escape(caption));
        }
        self.body.push_str("<thead><tr>");
        for column in columns {
            let _ = write!(self.body, "<th scope=\"col\"{}>{}</th>", class(column), escape(column.name));
        }
        self.body.push_str("</tr></thead>\n<tbody>\n");
        for row in rows {
            self.body.push_str("<tr>");
            for (column, cell) in columns.iter().zip(row) {
                let _ = write!(self.body, "<td{}>{}</td>", class(column), escape(cell));
            }
            self.body.push_str("</tr>\n");
        }
        self.body.push_str("</tbody></table></div>\n");
    }

    /// Counts by name, each with a bar for its share of the largest.
    pub fn counts(&mut self, caption: &str, counts: &[(String, u64)]) {
        let largest = counts.iter().map(|(_, count)| *count).max().unwrap_or(0).max(1);
        let _ = writeln!(self.body, "<table class=\"counts\">\n<caption>{}</caption>", escape(caption));
        for (name, count) in counts {
            let permille = u128::from(*count) * 1000 / u128::from(largest);
            let _ = writeln!(
                self.body,
                "<tr><th scope=\"row\">{}</th><td class=\"number\">{}</td><td><svg viewBox=\"0 0 1000 10\" \
                 preserveAspectRatio=\"none\" aria-hidden=\"true\"><rect width=\"{permille}\" height=\"10\"/></svg></td></tr>",
                escape(name),
                crate::number::count(*count)
            );
        }
        self.body.push_str("</table>\n");
    }

    /// Lines to copy.
    pub fn code(&mut self, text: &str) {
        let _ = writeln!(self.body, "<pre tabindex=\"0\"><code>{}</code></pre>", escape(text));
    }

    /// HTML as it is. Whoever calls this has escaped every text in it.
    pub fn markup(&mut self, html: &str) {
        self.body.push_str(html);
    }

    /// The whole page.
    #[must_use]
    pub fn finish(mut self, footer: &str) -> String {
        self.end_section();
        format!(
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta http-equiv=\"Content-Security-Policy\" content=\"{POLICY}\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta name=\"color-scheme\" content=\"light dark\">\n<title>{title}</title>\n\
             <style>\n{STYLE}</style>\n</head>\n<body>\n{body}</main>\n<footer><p>{footer}</p></footer>\n</body>\n</html>\n",
            title = self.title,
            body = self.body,
            footer = escape(footer),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVIL: &str = "<img src=\"//evil\" onerror='x()'>&";

    /// A page with the text in every place that takes one.
    fn page(text: &str) -> String {
        let mut page = Page::new(text, text);
        page.verdict(Tone::Bad, text, &[text.to_owned()]);
        let own = || text.to_owned();
        page.figures(&[Figure { name: own(), value: own(), note: own(), tone: Tone::Good }]);
        page.section(text);
        page.paragraph(text);
        page.counts(text, &[(own(), 3)]);
        page.section("Next");
        page.table(text, &[Column::text("name"), Column::number("n")], &[vec![own(), own()]]);
        page.code(text);
        page.finish(text)
    }

    #[test]
    fn every_text_of_a_page_is_escaped() {
        let page = page(EVIL);
        assert!(!page.contains("<img") && !page.contains("//evil\""), "{page}");
        let escaped = "&lt;img src=&quot;//evil&quot; onerror=&#39;x()&#39;&gt;&amp;";
        assert_eq!(page.matches(escaped).count(), 18, "{page}");
    }

    #[test]
    fn a_page_needs_nothing_but_itself() {
        let page = page("text");
        for foreign in
            ["<script", "<link", "src=", "href=", "@import", "url(", "http://", "https://", "onload"]
        {
            assert!(!page.contains(foreign), "{foreign}");
        }
        assert!(page.contains("default-src 'none'"));
    }

    #[test]
    fn what_is_opened_is_closed() {
        let page = page("text");
        for tag in [
            "html", "head", "body", "main", "header", "section", "div", "table", "tr", "td", "dl", "svg", "p",
        ] {
            let opened =
                page.matches(&format!("<{tag}>")).count() + page.matches(&format!("<{tag} ")).count();
            assert_eq!(opened, page.matches(&format!("</{tag}>")).count(), "{tag}");
        }
    }
}
