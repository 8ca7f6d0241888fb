//! Reads configuration files and the command line into a draft, option by option.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::diagnostic::{ConfigError, Diagnostic};
use super::directives::{self, CLIENT_ONLY, CONNECTION, Class, Directive, INLINE, PULL_ONLY};
use super::draft::{ConnectionDraft, Draft, Given};
use super::finish::finish;
use super::lexer::{self, Line};
use super::options::Options;
use super::position::Position;
use super::set;

/// Name of the command line in positions.
pub const COMMAND_LINE: &str = "command line";

/// Deepest nesting of `config`.
const MAX_DEPTH: usize = 10;
/// Largest file in bytes.
const MAX_FILE: u64 = 16 << 20;

/// A configuration that can be used.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// What it says.
    pub options: Options,
    /// What is worth knowing about it.
    pub warnings: Vec<Diagnostic>,
}

/// Reads a command line without the program's name: `FILE`, or options like
/// `--config FILE --verb 4`.
///
/// # Errors
/// The first thing that is wrong, with its place.
pub fn load(args: &[String]) -> Result<Loaded, ConfigError> {
    let mut parser = Parser::default();
    parser.command_line(args)?;
    finish(parser.draft)
}

/// Like [`load`], but goes on after a fault, to find them all.
///
/// # Errors
/// Every finding, warnings included, when at least one of them is an error.
pub fn load_all(args: &[String]) -> Result<Loaded, Vec<Diagnostic>> {
    let mut parser = Parser {
        keep_going: true,
        ..Parser::default()
    };
    if let Err(error) = parser.command_line(args) {
        parser.faults.push(error.0);
    }
    let mut findings = parser.draft.warnings.clone();
    if parser.faults.is_empty() {
        return finish(parser.draft).map_err(|error| {
            findings.push(error.0);
            findings
        });
    }
    findings.append(&mut parser.faults);
    Err(findings)
}

/// Reads the text of one file, which must not name further `config` files. Touches no file.
///
/// # Errors
/// The first thing that is wrong, with its place.
pub fn parse_text(name: &str, text: &[u8]) -> Result<Loaded, ConfigError> {
    let mut parser = Parser {
        depth: MAX_DEPTH,
        ..Parser::default()
    };
    parser.text(&Arc::from(name), text)?;
    finish(parser.draft)
}

#[derive(Default)]
struct Parser {
    draft: Draft,
    /// Working directory after `cd`, absolute.
    base: Option<PathBuf>,
    /// How many files are open.
    depth: usize,
    /// Names from `ignore-unknown-option`.
    ignore_unknown: BTreeSet<String>,
    /// `setenv FORWARD_COMPATIBLE 1`: every unknown option is only warned of.
    forward_compatible: bool,
    /// Collect faults instead of ending at the first.
    keep_going: bool,
    /// What was collected.
    faults: Vec<Diagnostic>,
}

impl Parser {
    fn command_line(&mut self, args: &[String]) -> Result<(), ConfigError> {
        let name: Arc<str> = Arc::from(COMMAND_LINE);
        let mut rest = args.iter().zip(1..).peekable();
        if let Some((file, number)) = rest.next_if(|(word, _)| !word.starts_with("--")) {
            let position = Position::new(Arc::clone(&name), number);
            self.directive(Line {
                words: vec!["config".to_owned(), file.clone()],
                inline: None,
                position,
            })?;
        }
        while let Some((word, number)) = rest.next() {
            let position = Position::new(Arc::clone(&name), number);
            let Some(option) = word.strip_prefix("--").filter(|option| !option.is_empty()) else {
                let message = format!("\"{word}\" is not an option; options begin with --");
                return Err(Diagnostic::error(&position, "", message).into());
            };
            let mut words = vec![option.to_owned()];
            while let Some((word, _)) = rest.next_if(|(word, _)| !word.starts_with("--")) {
                words.push(word.clone());
            }
            if words.len() > lexer::MAX_PARAMETERS {
                let message = lexer::WordError::TooMany.to_string();
                return Err(Diagnostic::error(&position, option, message).into());
            }
            self.directive(Line {
                words,
                inline: None,
                position,
            })?;
        }
        Ok(())
    }

    fn file(&mut self, path: &Path, from: &Position) -> Result<(), ConfigError> {
        if self.depth >= MAX_DEPTH {
            let message = format!("files are nested more than {MAX_DEPTH} deep");
            return Err(Diagnostic::error(from, "config", message).into());
        }
        let text = read(path).map_err(|error| {
            let message = format!("cannot read {}: {error}", path.display());
            Diagnostic::error(from, "config", message)
        })?;
        self.depth += 1;
        let name = Arc::from(path.display().to_string());
        let result = self.text(&name, &text);
        self.depth -= 1;
        result
    }

    fn text(&mut self, name: &Arc<str>, text: &[u8]) -> Result<(), ConfigError> {
        for line in lexer::lex(name, text, 1)? {
            self.directive(line)?;
        }
        Ok(())
    }

    /// One option outside `<connection>`; its fault is kept if that is wanted.
    fn directive(&mut self, line: Line) -> Result<(), ConfigError> {
        match self.act_on(line) {
            Err(fault) if self.keep_going => {
                self.faults.push(fault.0);
                Ok(())
            }
            result => result,
        }
    }

    fn act_on(&mut self, line: Line) -> Result<(), ConfigError> {
        let Some((directive, line)) = self.admit(line)? else {
            return Ok(());
        };
        let position = &line.position;
        let args = &line.words[1..];
        match directive.name {
            "config" => {
                if self.depth == 0 {
                    self.draft.options.config = Some(args[0].clone());
                }
                let path = self.resolve(&args[0]);
                return self.file(&path, position);
            }
            "cd" => {
                let here = std::env::current_dir().unwrap_or_default();
                let path = here.join(self.resolve(&args[0]));
                self.draft.options.cd = Some(path.clone());
                self.base = Some(path);
            }
            "ignore-unknown-option" => self.ignore_unknown.extend(args.iter().cloned()),
            "connection" => self.connection_block(&line)?,
            "setenv" if args[0] == "FORWARD_COMPATIBLE" => {
                self.forward_compatible = args.get(1).is_some_and(|value| value == "1");
            }
            "setenv" if args[0] == "PUSH_PEER_INFO" => self.draft.options.push_peer_info = true,
            _ => self.set(directive, line, None)?,
        }
        Ok(())
    }

    /// The options of a `<connection>`; they start from what the file has set before.
    fn connection_block(&mut self, block: &Line) -> Result<(), ConfigError> {
        let content = block.inline.as_deref().unwrap_or_default();
        let mut connection = self.draft.connection.clone();
        connection.position = None;
        let file = &block.position.file;
        for line in lexer::lex(file, content.as_bytes(), block.position.line + 1)? {
            let Some((directive, line)) = self.admit(line)? else {
                continue;
            };
            if !directive.places.has(CONNECTION) {
                let message = "cannot stand in a <connection> block; move it out";
                return Err(Diagnostic::error(&line.position, directive.name, message).into());
            }
            self.set(directive, line, Some(&mut connection))?;
        }
        if connection.remote.is_none() {
            let message = "the block needs a remote";
            return Err(Diagnostic::error(&block.position, "connection", message).into());
        }
        self.draft.blocks.push(connection);
        Ok(())
    }

    /// Looks an option up and checks that it may be used like this. `None` is an option that is
    /// skipped, with a warning unless `ignore-unknown-option` covers it.
    fn admit(&mut self, mut line: Line) -> Result<Option<(&'static Directive, Line)>, ConfigError> {
        let optional = line.words[0] == "setenv" && line.words.get(1).is_some_and(|w| w == "opt");
        if optional {
            line.words.drain(..2);
            if line.words.is_empty() {
                let message = "an option is needed after \"opt\"";
                return Err(Diagnostic::error(&line.position, "setenv", message).into());
            }
            if let Some(bare) = line.words[0].strip_prefix("--") {
                line.words[0] = bare.to_owned();
            }
        }
        let name = line.words[0].as_str();
        let position = &line.position;
        let error = |message: String| Err(Diagnostic::error(position, name, message).into());
        let Some(directive) = directives::find(name) else {
            if self.ignore_unknown.contains(name) {
                return Ok(None);
            }
            if optional || self.forward_compatible {
                let warning = Diagnostic::warning(position, name, "unknown option, skipped");
                self.draft.warnings.push(warning);
                return Ok(None);
            }
            return error(match directives::similar(name) {
                Some(known) => format!("unknown option; did you mean {known}?"),
                None => "unknown option".to_owned(),
            });
        };
        match directive.class {
            Class::Honoured => {}
            // Asks for what is the case: no parameters.
            Class::NoEffect(_) if line.words == ["dh", "none"] => return Ok(None),
            Class::NoEffect(reason) => {
                let message = format!("no effect: {reason}");
                let warning = Diagnostic::warning(position, directive.name, message);
                self.draft.warnings.push(warning);
                return Ok(None);
            }
            Class::Refused(reason) if optional => {
                let message = format!("skipped: {reason}");
                let warning = Diagnostic::warning(position, directive.name, message);
                self.draft.warnings.push(warning);
                return Ok(None);
            }
            Class::Refused(reason) => return error(reason.to_owned()),
            Class::Action => return error("only possible on the command line".to_owned()),
        }
        if directive.places.has(PULL_ONLY) {
            return error("only a server can send this option".to_owned());
        }
        if directive.places.has(CLIENT_ONLY) {
            return error(
                "is for one client: its file in client-config-dir, or client-connect".to_owned(),
            );
        }
        if line.inline.is_some() {
            if !directive.places.has(INLINE) {
                return error("cannot be given as an inline block".to_owned());
            }
            return Ok(Some((directive, line)));
        }
        if directive.name == "connection" {
            return error("write an inline block: <connection> ... </connection>".to_owned());
        }
        let count = line.words.len() - 1;
        if count < usize::from(directive.min) {
            return error(format!(
                "{} parameter(s) are needed, {count} given",
                directive.min
            ));
        }
        if count > usize::from(directive.max) {
            return error(format!(
                "at most {} parameter(s) are possible, {count} given",
                directive.max
            ));
        }
        Ok(Some((directive, line)))
    }

    /// Takes over an option that was admitted.
    fn set(
        &mut self,
        directive: &'static Directive,
        line: Line,
        block: Option<&mut ConnectionDraft>,
    ) -> Result<(), ConfigError> {
        if block.is_none() {
            let position = line.position.clone();
            self.draft.seen.insert(directive.name, position);
        }
        let given = Given {
            name: directive.name,
            args: &line.words[1..],
            inline: line.inline,
            position: &line.position,
            base: self.base.as_deref(),
        };
        set::set(&mut self.draft, block, given)
            .map_err(|message| Diagnostic::error(&line.position, directive.name, message).into())
    }

    fn resolve(&self, path: &str) -> PathBuf {
        match &self.base {
            Some(base) if path != "stdin" => base.join(path),
            _ => PathBuf::from(path),
        }
    }
}

/// The content of a file, or of the standard input for `stdin`.
fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut text = Vec::new();
    if path == Path::new("stdin") {
        std::io::stdin()
            .lock()
            .take(MAX_FILE + 1)
            .read_to_end(&mut text)?;
    } else {
        std::fs::File::open(path)?
            .take(MAX_FILE + 1)
            .read_to_end(&mut text)?;
    }
    match text.len() as u64 > MAX_FILE {
        true => Err(std::io::Error::other("the file is too large")),
        false => Ok(text),
    }
}
