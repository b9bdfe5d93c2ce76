//! What is wrong with a configuration, told the way a compiler does.

use std::fmt;
use std::ops::Range;

use annotate_snippets::{AnnotationKind, Level, Origin, Renderer, Snippet};
use serde::{Serialize, Serializer};

/// Problems that are kept; further ones are counted. More would scroll away unread.
const PROBLEMS: usize = 200;
/// Characters of a message or a help. Only quoted text can make them long.
const MESSAGE_CHARS: usize = 600;

/// One text that configuration came from.
#[derive(Clone, Debug)]
pub(super) struct Input {
    /// The file's path, or the name of the environment variable.
    pub(super) name: String,
    /// The file's contents, or `NAME=value`.
    pub(super) text: String,
    /// Whether it is an environment variable.
    pub(super) environment: bool,
}

/// Where something is written: bytes of one of the texts that were read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(super) input: usize,
    pub(super) start: usize,
    pub(super) end: usize,
}

/// How grave a problem is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Severity {
    /// The configuration cannot be used.
    Error,
    /// It can, but perhaps it is not what was meant.
    Warning,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Problem {
    severity: Severity,
    place: Option<Place>,
    message: String,
    help: Option<String>,
}

/// Everything that was found, and the texts it was found in.
#[derive(Clone, Debug, Default)]
pub(crate) struct Problems {
    inputs: Vec<Input>,
    list: Vec<Problem>,
    left_out: usize,
}

/// One problem for programs.
#[derive(Debug, Serialize)]
struct Entry<'a> {
    severity: Severity,
    /// The file's path or the environment variable's name; null where the whole configuration is meant.
    file: Option<&'a str>,
    /// From 1; null where no text is to blame, and for environment variables.
    line: Option<usize>,
    /// In characters, from 1.
    column: Option<usize>,
    message: &'a str,
    help: Option<&'a str>,
}

impl Problems {
    /// Records an error. Without a place it concerns the configuration as a whole.
    pub(crate) fn error(
        &mut self,
        place: Option<Place>,
        message: impl Into<String>,
        help: impl Into<Option<String>>,
    ) {
        self.push(Severity::Error, place, message.into(), help.into());
    }

    /// Records a warning.
    pub(crate) fn warning(
        &mut self,
        place: Option<Place>,
        message: impl Into<String>,
        help: impl Into<Option<String>>,
    ) {
        self.push(Severity::Warning, place, message.into(), help.into());
    }

    /// Whether the configuration cannot be used.
    pub(crate) fn has_errors(&self) -> bool {
        self.count(Severity::Error) > 0
    }

    /// Whether nothing at all was found.
    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// "5 errors, 1 warning".
    pub(crate) fn summary(&self) -> String {
        let count = |severity, word: &str| match self.count(severity) {
            0 => None,
            1 => Some(format!("1 {word}")),
            n => Some(format!("{n} {word}s")),
        };
        let mut parts: Vec<String> = [
            count(Severity::Error, "error"),
            count(Severity::Warning, "warning"),
        ]
        .into_iter()
        .flatten()
        .collect();
        if self.left_out > 0 {
            parts.push(format!("{} more not shown", self.left_out));
        }
        if parts.is_empty() {
            "no problem".to_owned()
        } else {
            parts.join(", ")
        }
    }

    /// Everything for a terminal, each problem followed by an empty line, the summary last.
    pub(crate) fn render(&self, color: bool) -> String {
        let renderer = if color {
            Renderer::styled().hyperlink(false)
        } else {
            Renderer::plain()
        };
        let mut out = String::new();
        for problem in &self.list {
            out.push_str(&self.render_one(&renderer, problem));
            out.push_str("\n\n");
        }
        out.push_str(&self.summary());
        out.push('\n');
        out
    }

    /// Line and column of a place, from 1, the column in characters.
    pub(super) fn line_column(&self, place: Place) -> Option<(usize, usize)> {
        let text = &self.inputs.get(place.input)?.text;
        let line = line_of(text, place.start);
        let before = text.get(..line.start)?;
        let column = text.get(line.start..place.start.min(line.end))?;
        Some((before.matches('\n').count() + 1, column.chars().count() + 1))
    }

    pub(super) fn inputs(&self) -> &[Input] {
        &self.inputs
    }

    pub(super) fn add_input(&mut self, input: Input) -> usize {
        self.inputs.push(input);
        self.inputs.len() - 1
    }

    pub(super) fn set_text(&mut self, input: usize, text: String) {
        if let Some(input) = self.inputs.get_mut(input) {
            input.text = text;
        }
    }

    /// Orders by text and position; what concerns the whole comes last.
    pub(super) fn sort(&mut self) {
        self.list
            .sort_by_key(|problem| (problem.place.is_none(), problem.place));
    }

    fn entry<'a>(&'a self, problem: &'a Problem) -> Entry<'a> {
        let input = problem.place.and_then(|place| self.inputs.get(place.input));
        let at = problem
            .place
            .filter(|_| input.is_some_and(|input| !input.environment))
            .and_then(|place| self.line_column(place));
        Entry {
            severity: problem.severity,
            file: input.map(|input| input.name.as_str()),
            line: at.map(|(line, _)| line),
            column: at.map(|(_, column)| column),
            message: &problem.message,
            help: problem.help.as_deref(),
        }
    }

    fn count(&self, severity: Severity) -> usize {
        self.list.iter().filter(|p| p.severity == severity).count()
    }

    fn push(
        &mut self,
        severity: Severity,
        place: Option<Place>,
        message: String,
        help: Option<String>,
    ) {
        let problem = Problem {
            severity,
            place,
            message: shorten(message),
            help: help.map(shorten),
        };
        if self.list.contains(&problem) {
            return;
        }
        if self.list.len() < PROBLEMS {
            self.list.push(problem);
            return;
        }
        self.left_out += 1;
        // An error must never hide behind warnings: it decides whether the configuration can be used.
        if severity == Severity::Error
            && let Some(last) = self
                .list
                .iter_mut()
                .rev()
                .find(|p| p.severity == Severity::Warning)
        {
            *last = problem;
        }
    }

    fn render_one(&self, renderer: &Renderer, problem: &Problem) -> String {
        let level = match problem.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let title = level.primary_title(problem.message.as_str());
        let input = problem
            .place
            .and_then(|place| Some((place, self.inputs.get(place.input)?)));
        let mut group = match input {
            None => match self.inputs.iter().find(|input| !input.environment) {
                Some(main) => title.element(Origin::path(main.name.as_str())),
                None => title.elements(None::<Origin<'_>>),
            },
            Some((place, input)) => {
                let line = line_of(&input.text, place.start);
                let text = masked(input.text.get(line.clone()).unwrap_or_default());
                let span = span_in(&text, &line, place);
                let snippet = Snippet::source(text).annotation(AnnotationKind::Primary.span(span));
                if input.environment {
                    title
                        .element(snippet.line_numbering(false))
                        .element(Level::NOTE.message("from the environment"))
                } else {
                    let number = self.line_column(place).map_or(1, |(line, _)| line);
                    title.element(snippet.line_start(number).path(input.name.as_str()))
                }
            }
        };
        if let Some(help) = &problem.help {
            group = group
                .element(Level::HELP.message(annotate_snippets::normalize_untrusted_str(help)));
        }
        renderer.render(&[group])
    }
}

/// The list `{severity, file, line, column, message, help}` for programs.
impl Serialize for Problems {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.list.iter().map(|problem| self.entry(problem)))
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

/// Replaces the password in every `scheme://user:password@` with asterisks, byte for byte, so that spans keep fitting:
/// problems are printed to logs.
pub(super) fn masked(line: &str) -> String {
    let mut bytes = Vec::with_capacity(line.len());
    let mut rest = line;
    while let Some(start) = rest.find("://").map(|at| at + 3) {
        let (head, tail) = rest.split_at(start);
        bytes.extend_from_slice(head.as_bytes());
        let end = tail
            .find(|c: char| matches!(c, '/' | '"' | '\'') || c.is_whitespace())
            .unwrap_or(tail.len());
        let (authority, after) = tail.split_at(end);
        let secret = authority
            .rfind('@')
            .and_then(|at| Some(authority.get(..at)?.find(':')? + 1..at));
        for (index, byte) in authority.bytes().enumerate() {
            let hidden = secret
                .as_ref()
                .is_some_and(|secret| secret.contains(&index));
            bytes.push(if hidden { b'*' } else { byte });
        }
        rest = after;
    }
    bytes.extend_from_slice(rest.as_bytes());
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The bytes of the line that holds a position, without its end.
pub(super) fn line_of(text: &str, at: usize) -> Range<usize> {
    let at = at.min(text.len());
    let bytes = text.as_bytes();
    let start = bytes
        .iter()
        .take(at)
        .rposition(|byte| *byte == b'\n')
        .map_or(0, |newline| newline + 1);
    let end = bytes
        .iter()
        .skip(at)
        .position(|byte| *byte == b'\n')
        .map_or(text.len(), |length| at + length);
    let end = if end > start && bytes.get(end - 1) == Some(&b'\r') {
        end - 1
    } else {
        end
    };
    start..end
}

/// A place as bytes of its first line, on character boundaries.
fn span_in(line_text: &str, line: &Range<usize>, place: Place) -> Range<usize> {
    let inside = |at: usize| {
        let mut at = at.saturating_sub(line.start).min(line_text.len());
        while !line_text.is_char_boundary(at) {
            at -= 1;
        }
        at
    };
    let (start, end) = (inside(place.start), inside(place.end));
    start..end.max(start)
}

fn shorten(text: String) -> String {
    match text.char_indices().nth(MESSAGE_CHARS) {
        Some((cut, _)) => format!("{}…", text.get(..cut).unwrap_or_default()),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_in_urls_are_masked_and_nothing_else_moves() {
        let check = |line: &str, expect: &str| {
            assert_eq!(masked(line), expect);
            assert_eq!(masked(line).len(), line.len());
        };
        check("url = \"mqtt://h:1883\"", "url = \"mqtt://h:1883\"");
        check("url = \"mqtt://u:pä@h:1\"", "url = \"mqtt://u:***@h:1\"");
        check("u='a://b:c@d' # e://f:g@h", "u='a://b:*@d' # e://f:*@h");
        check("://", "://");
    }

    #[test]
    fn places_are_counted_in_characters_from_one() {
        let mut problems = Problems::default();
        problems.add_input(Input {
            name: "x".into(),
            text: "a\r\nümlaut = 1\n".into(),
            environment: false,
        });
        let at = |start| {
            problems.line_column(Place {
                input: 0,
                start,
                end: start,
            })
        };
        assert_eq!(at(0), Some((1, 1)));
        assert_eq!(at(3), Some((2, 1)));
        assert_eq!(at(5), Some((2, 2)));
        assert_eq!(at(999), Some((3, 1)));
    }

    #[test]
    fn an_error_is_never_crowded_out_by_warnings() {
        let mut problems = Problems::default();
        for n in 0..PROBLEMS + 5 {
            problems.warning(None, format!("w{n}"), None);
        }
        problems.error(None, "the one that counts", None);
        assert!(problems.has_errors());
        assert_eq!(
            problems.summary(),
            "1 error, 199 warnings, 6 more not shown"
        );
    }
}
