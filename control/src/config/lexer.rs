//! The grammar of configuration files (protocol §14).
//!
//! ```text
//!   --name  word  "with \"blanks\""  'literal'   # comment
//!   <name>
//!   content, verbatim
//!   </name>
//! ```
//! One directive per line. The lexer knows no option names; it only finds words and inline blocks
//! and where they stand. Pushed options are split by [`words`] too.

use std::sync::Arc;

use super::diagnostic::{ConfigError, Diagnostic};
use super::position::Position;

/// Most parameters of a directive, its name included.
pub const MAX_PARAMETERS: usize = 16;
/// Longest parameter in bytes.
pub const MAX_PARAMETER: usize = 256;
/// Longest line of a file in bytes, line end excluded; inline content may be longer.
pub const MAX_LINE: usize = 255;

/// One directive of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The words. Never empty; the first is the name, without leading dashes. With `inline` it is
    /// the only one.
    pub words: Vec<String>,
    /// Content of an inline block.
    pub inline: Option<String>,
    /// Where the directive begins.
    pub position: Position,
}

/// Splits the text of a file into directives.
///
/// `first_line` is the number of the first line, for text that is part of a file.
///
/// # Errors
/// A word or line that is too long, a misplaced backslash, a quotation or inline block without
/// end, or words that are not UTF-8; with the position.
pub fn lex(file: &Arc<str>, text: &[u8], first_line: usize) -> Result<Vec<Line>, ConfigError> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let mut directives = Vec::new();
    let mut rows = text
        .split_inclusive(|&byte| byte == b'\n')
        .zip(first_line..);
    while let Some((row, number)) = rows.next() {
        let position = Position::new(Arc::clone(file), number);
        let row = without_line_end(row);
        if row.len() > MAX_LINE {
            let message = format!(
                "line of {} bytes; at most {MAX_LINE} are allowed",
                row.len()
            );
            return Err(Diagnostic::error(&position, "", message).into());
        }
        let mut words = words(row).map_err(|error| fault(&position, &error))?;
        let Some(name) = words.first_mut() else {
            continue;
        };
        if let Some(bare) = name.strip_prefix("--").filter(|bare| !bare.is_empty()) {
            *name = bare.to_owned();
        }
        let tag = name
            .strip_prefix('<')
            .and_then(|rest| rest.strip_suffix('>'))
            .filter(|tag| !tag.is_empty() && !tag.starts_with('/'))
            .map(str::to_owned);
        let inline = match tag {
            Some(tag) if words.len() == 1 => {
                let content = inline_content(&tag, &mut rows, &position)?;
                words = vec![tag];
                Some(content)
            }
            _ => None,
        };
        directives.push(Line {
            words,
            inline,
            position,
        });
    }
    Ok(directives)
}

/// Why a line cannot be split into words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WordError {
    /// A backslash before something it cannot quote.
    #[error(
        "a backslash may only stand before a backslash, a double quote or a blank; use '...' for literal text"
    )]
    Backslash,
    /// No closing quote.
    #[error("the quotation has no end")]
    OpenQuote,
    /// More than [`MAX_PARAMETERS`].
    #[error("more than {MAX_PARAMETERS} words")]
    TooMany,
    /// A word above [`MAX_PARAMETER`].
    #[error("a word of more than {MAX_PARAMETER} bytes")]
    TooLong,
    /// A NUL byte, or bytes that are not UTF-8.
    #[error("not UTF-8 text")]
    NotText,
}

/// Splits one line into words. A comment ends the line; the result may be empty.
///
/// # Errors
/// See [`WordError`].
pub fn words(line: &[u8]) -> Result<Vec<String>, WordError> {
    let mut found = Vec::new();
    let mut rest = line.iter().copied().peekable();
    loop {
        while rest.next_if(u8::is_ascii_whitespace).is_some() {}
        let quote = match rest.peek() {
            None | Some(b'#' | b';') => return Ok(found),
            Some(&quote @ (b'"' | b'\'')) => {
                rest.next();
                Some(quote)
            }
            Some(_) => None,
        };
        if found.len() == MAX_PARAMETERS {
            return Err(WordError::TooMany);
        }
        found.push(word(&mut rest, quote)?);
    }
}

/// Writes a word so that [`words`] reads it back as it was.
pub fn quote(word: &str) -> String {
    let plain = !word.is_empty()
        && !word.starts_with(['#', ';', '\'', '"'])
        && !word
            .bytes()
            .any(|byte| byte.is_ascii_whitespace() || byte == b'\\' || byte == b'"');
    if plain {
        return word.to_owned();
    }
    let mut quoted = String::with_capacity(word.len() + 2);
    quoted.push('"');
    for c in word.chars() {
        if c == '\\' || c == '"' {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    quoted.push('"');
    quoted
}

/// Reads one word up to its blank or closing quote.
fn word(
    rest: &mut std::iter::Peekable<impl Iterator<Item = u8>>,
    quote: Option<u8>,
) -> Result<String, WordError> {
    let mut bytes = Vec::new();
    loop {
        let byte = match rest.next() {
            None if quote.is_some() => return Err(WordError::OpenQuote),
            None => break,
            Some(byte) if Some(byte) == quote => break,
            Some(byte) if quote.is_none() && byte.is_ascii_whitespace() => break,
            Some(b'\\') if quote != Some(b'\'') => match rest.next() {
                Some(byte) if matches!(byte, b'\\' | b'"') || byte.is_ascii_whitespace() => byte,
                _ => return Err(WordError::Backslash),
            },
            Some(0) => return Err(WordError::NotText),
            Some(byte) => byte,
        };
        if bytes.len() == MAX_PARAMETER {
            return Err(WordError::TooLong);
        }
        bytes.push(byte);
    }
    String::from_utf8(bytes).map_err(|_| WordError::NotText)
}

/// Collects the lines up to the end tag, verbatim.
fn inline_content<'a>(
    tag: &str,
    rows: &mut impl Iterator<Item = (&'a [u8], usize)>,
    position: &Position,
) -> Result<String, ConfigError> {
    let end = format!("</{tag}>");
    let mut content = Vec::new();
    for (row, _) in rows {
        if row.trim_ascii_start().starts_with(end.as_bytes()) {
            return String::from_utf8(content)
                .map_err(|_| fault(position, &WordError::NotText).into());
        }
        content.extend_from_slice(row);
    }
    let message = format!("the block has no end: {end} is missing");
    Err(Diagnostic::error(position, tag, message).into())
}

fn without_line_end(row: &[u8]) -> &[u8] {
    let row = row.strip_suffix(b"\n").unwrap_or(row);
    row.strip_suffix(b"\r").unwrap_or(row)
}

fn fault(position: &Position, error: &WordError) -> Diagnostic {
    Diagnostic::error(position, "", error.to_string())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn split(line: &str) -> Vec<String> {
        words(line.as_bytes()).unwrap()
    }

    fn lex_text(text: &str) -> Result<Vec<Line>, ConfigError> {
        lex(&Arc::from("t.conf"), text.as_bytes(), 1)
    }

    #[test]
    fn words_quotes_and_comments() {
        assert_eq!(
            split("remote host 1194 # there"),
            ["remote", "host", "1194"]
        );
        assert_eq!(split("; all comment"), Vec::<String>::new());
        assert_eq!(split("a b#c d;e ;f"), ["a", "b#c", "d;e"]);
        assert_eq!(
            split(r#"up "/a b/c \"q\" \\x" y"#),
            ["up", r#"/a b/c "q" \x"#, "y"]
        );
        assert_eq!(split(r"p 'C:\x y' z"), ["p", r"C:\x y", "z"]);
        assert_eq!(split(r"dir a\ b"), ["dir", "a b"]);
        assert_eq!(split(r#"x "" '' y"#), ["x", "", "", "y"]);
        assert_eq!(split(r#"x don't a"b"#), ["x", "don't", "a\"b"]);
        assert_eq!(
            split("\tcipher\u{c}AES-256-GCM  \r"),
            ["cipher", "AES-256-GCM"]
        );
    }

    #[test]
    fn words_refuse() {
        assert_eq!(words(br"up C:\new"), Err(WordError::Backslash));
        assert_eq!(words(b"end \\"), Err(WordError::Backslash));
        assert_eq!(words(b"a \"b"), Err(WordError::OpenQuote));
        assert_eq!(words(b"a 'b"), Err(WordError::OpenQuote));
        assert_eq!(words(b"a b\0c"), Err(WordError::NotText));
        assert_eq!(words(b"a \xff"), Err(WordError::NotText));
        assert!(words(b"a # \xff in a comment").is_ok());
        let many = "x ".repeat(MAX_PARAMETERS);
        assert_eq!(words(many.as_bytes()).unwrap().len(), MAX_PARAMETERS);
        assert_eq!(words((many + "x").as_bytes()), Err(WordError::TooMany));
        let long = "x".repeat(MAX_PARAMETER);
        assert!(words(long.as_bytes()).is_ok());
        assert_eq!(words((long + "x").as_bytes()), Err(WordError::TooLong));
    }

    #[test]
    fn files_inline_blocks_and_positions() {
        let text = "\u{feff}--dev tun\r\n\n# c\n<ca>\nline 1\n # verbatim \\\n  </ca> \nverb 3";
        let lines = lex_text(text).unwrap();
        assert_eq!(lines[0].words, ["dev", "tun"]);
        assert_eq!(lines[0].position.line, 1);
        assert_eq!(lines[1].words, ["ca"]);
        assert_eq!(lines[1].inline.as_deref(), Some("line 1\n # verbatim \\\n"));
        assert_eq!(lines[1].position.line, 4);
        assert_eq!(lines[2].words, ["verb", "3"]);
        assert_eq!(lines[2].position.line, 8);
        assert_eq!(lines.len(), 3);
    }

    #[test]
    fn errors_name_the_line() {
        let error = lex_text("dev tun\n<key>\nx\n").unwrap_err().to_string();
        assert_eq!(
            error,
            "t.conf:2: key: the block has no end: </key> is missing"
        );
        let long = format!("dev tun\n#{}\n", "x".repeat(MAX_LINE));
        let error = lex_text(&long).unwrap_err().to_string();
        assert_eq!(
            error,
            "t.conf:2: line of 256 bytes; at most 255 are allowed"
        );
        let inline = format!("<ca>\n{}\n</ca>\n", "x".repeat(2000));
        assert!(lex_text(&inline).is_ok());
        assert!(
            lex_text("a b\nc 'd\n")
                .unwrap_err()
                .to_string()
                .starts_with("t.conf:2: ")
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(text in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = lex(&Arc::from("x"), &text, 1);
        }

        #[test]
        fn any_config_like_text_is_survived(text in "[ -~\\n<>/\"'\\\\#;]{0,300}") {
            if let Ok(lines) = lex(&Arc::from("x"), text.as_bytes(), 1) {
                for line in lines {
                    prop_assert!((1..=MAX_PARAMETERS).contains(&line.words.len()));
                }
            }
        }

        #[test]
        fn quoting_round_trips(list in proptest::collection::vec("[^\0]{0,60}", 1..MAX_PARAMETERS)) {
            let line = list.iter().map(|word| quote(word)).collect::<Vec<_>>().join(" ");
            prop_assert_eq!(words(line.as_bytes()).unwrap(), list);
        }
    }
}
