//! Reads YAML strictly and remembers where everything stands, so that each [`Problem`] names its line and column.
//!
//! ```text
//! text ── read ──▶ typed value + Document ── at ──▶ At ── key, item ──▶ line and column of any value
//!            └───▶ Problem (unknown key, wrong kind of value, …: the first one only)
//! ```
//!
//! Invariant: unknown keys, duplicate keys, merge keys, tags and `yes`/`no` as booleans are refused, never interpreted.
//! Invariant: every problem carries what would mend it.

mod explain;

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, MapAccess, SeqAccess, Visitor},
};
use serde_saphyr::{Location, MergeKeyPolicy, Options, Spanned};

use self::explain::{explain, explain_in};

/// One thing that is wrong in a file. Lines and columns count from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub line: u64,
    pub column: u64,
    /// What is wrong.
    pub what: String,
    /// What a person does about it.
    pub mend: String,
}

impl Problem {
    /// The problem with the name of its file before it: `fleet.yaml:12:5: …`.
    pub fn in_file(&self, name: &str) -> String {
        format!("{name}:{self}")
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}; mend: {}", self.line, self.column, self.what, self.mend)
    }
}

/// Reads a document of format `version` into `T`. Fails with the first problem of form.
///
/// The version is looked at first: a file of another version would otherwise fail on keys that this build does not know.
pub fn read<T: DeserializeOwned>(text: &str, version: u32) -> Result<(T, Document), Problem> {
    let root: Spanned<Node> =
        serde_saphyr::from_str_with_options(text, strict()).map_err(|error| explain(&error))?;
    let document = Document { root };
    version_is(&document, version)?;
    match serde_saphyr::from_str_with_options(text, strict()) {
        Ok(value) => Ok((value, document)),
        Err(error) => Err(explain_in(&error, &document)),
    }
}

/// Where every value of a document stands.
#[derive(Debug)]
pub struct Document {
    root: Spanned<Node>,
}

impl Document {
    /// The top of the document.
    pub fn at(&self) -> At<'_> {
        At::of(&self.root)
    }
}

/// A place in a document. Going to what is not there stays where it is, so that there is always a line to name.
#[derive(Clone, Copy, Debug)]
pub struct At<'a> {
    node: Option<&'a Node>,
    location: Location,
}

impl<'a> At<'a> {
    /// The value under `name`.
    pub fn key(self, name: &str) -> Self {
        self.entry(name).map_or(Self { node: None, ..self }, |(_, value)| Self::of(value))
    }

    /// The key `name` itself; what is below it is found as by [`At::key`].
    pub fn name(self, name: &str) -> Self {
        self.entry(name).map_or(Self { node: None, ..self }, |(key, value)| Self {
            node: Some(&value.value),
            location: key.referenced,
        })
    }

    /// The item of a list, counted from 0.
    pub fn item(self, index: usize) -> Self {
        match self.node {
            Some(Node::List(items)) => {
                items.get(index).map_or(Self { node: None, ..self }, Self::of)
            }
            Some(Node::Map(_) | Node::Scalar(_)) | None => Self { node: None, ..self },
        }
    }

    /// The text of a plain value.
    pub fn text(self) -> Option<&'a str> {
        match self.node {
            Some(Node::Scalar(text)) => Some(text),
            Some(Node::Map(_) | Node::List(_)) | None => None,
        }
    }

    /// A problem here.
    pub fn problem(self, what: impl Into<String>, mend: impl Into<String>) -> Problem {
        problem(self.location, what, mend)
    }

    /// The map that has a key at `location`, here or below.
    fn map_with_key_at(self, location: Location) -> Option<Self> {
        let below: Vec<Self> = match self.node {
            Some(Node::Map(entries))
                if entries.iter().any(|(key, _)| key.referenced == location) =>
            {
                return Some(self);
            }
            Some(Node::Map(entries)) => entries.iter().map(|(_, value)| Self::of(value)).collect(),
            Some(Node::List(items)) => items.iter().map(Self::of).collect(),
            Some(Node::Scalar(_)) | None => Vec::new(),
        };
        below.into_iter().find_map(|at| at.map_with_key_at(location))
    }

    fn of(spanned: &'a Spanned<Node>) -> Self {
        Self { node: Some(&spanned.value), location: spanned.referenced }
    }

    fn entry(self, name: &str) -> Option<&'a (Spanned<String>, Spanned<Node>)> {
        match self.node {
            Some(Node::Map(entries)) => entries.iter().find(|(key, _)| key.value == name),
            Some(Node::List(_) | Node::Scalar(_)) | None => None,
        }
    }
}

/// Collects problems, each only once.
#[derive(Debug, Default)]
pub struct Report {
    problems: Vec<Problem>,
}

impl Report {
    /// Adds a problem at a place.
    pub fn add(&mut self, at: At<'_>, what: impl Into<String>, mend: impl Into<String>) {
        let problem = at.problem(what, mend);
        if !self.problems.contains(&problem) {
            self.problems.push(problem);
        }
    }

    /// All problems in the order of the file, or nothing wrong.
    pub fn finish(mut self) -> Result<(), Vec<Problem>> {
        if self.problems.is_empty() {
            return Ok(());
        }
        self.problems.sort_by_key(|problem| (problem.line, problem.column));
        Err(self.problems)
    }
}

/// The known word that was probably meant: a slip of the keys, or the beginning of a longer word (`bearer` of `bearer_file`).
pub fn meant<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let slips = (word.chars().count() / 3).clamp(1, 3);
    known
        .into_iter()
        .map(|candidate| {
            let begun = word.len() >= 3 && candidate.starts_with(&format!("{word}_"));
            let distance = if begun { 1 } else { strsim::damerau_levenshtein(word, candidate) };
            (distance, candidate)
        })
        .filter(|(distance, _)| *distance <= slips)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// The mend for a word that is not known.
pub fn mend_word<'a>(word: &str, known: impl IntoIterator<Item = &'a str> + Clone) -> String {
    if let Some(candidate) = meant(word, known.clone()) {
        return format!("did you mean `{candidate}`?");
    }
    let known: Vec<String> = known.into_iter().map(|candidate| format!("`{candidate}`")).collect();
    match known.as_slice() {
        [] => "leave it out".to_owned(),
        [one] => format!("use {one}"),
        many => format!("use one of {}", many.join(", ")),
    }
}

/// What stands at a place; values that are no list and no map by their text.
#[derive(Debug)]
enum Node {
    Scalar(String),
    List(Vec<Spanned<Node>>),
    Map(Vec<(Spanned<String>, Spanned<Node>)>),
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value, a list or a map")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Scalar(value.to_string()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Scalar(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Scalar(value.to_string()))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Node, E> {
        Ok(Node::Scalar(value.to_string()))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Node, E> {
        Ok(Node::Scalar(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        Ok(Node::Scalar(value.to_string()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Scalar(value.to_owned()))
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Scalar(String::new()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Node, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            items.push(item);
        }
        Ok(Node::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Node::Map(entries))
    }
}

fn version_is(document: &Document, version: u32) -> Result<(), Problem> {
    let at = document.at();
    if !matches!(at.node, Some(Node::Map(_))) {
        return Err(at.problem(
            "this is not a map of keys and values",
            format!("begin the file with `version: {version}`"),
        ));
    }
    let at = at.key("version");
    match at.text() {
        Some(text) if text == version.to_string() => Ok(()),
        Some(text) => Err(at.problem(
            format!("version `{text}` is not known to this build"),
            format!("write `version: {version}`, or use a build that knows this version"),
        )),
        None => Err(
            at.problem("`version` is missing", format!("begin the file with `version: {version}`"))
        ),
    }
}

/// The reading rules; see the module's invariants.
fn strict() -> Options {
    serde_saphyr::options! {
        strict_booleans: true,
        merge_keys: MergeKeyPolicy::Error,
        reject_unsupported_tags: true,
        emit_comments: false,
        // The snippet would repeat the file's text; the caller has the file.
        with_snippet: false,
        // An alias may save typing; it may not blow a small file up.
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: 100_000 },
    }
}

fn problem(at: Location, what: impl Into<String>, mend: impl Into<String>) -> Problem {
    Problem {
        line: at.line().max(1),
        column: at.column().max(1),
        what: printable(what.into()),
        mend: printable(mend.into()),
    }
}

/// A file's text may hold what a terminal would obey.
fn printable(text: String) -> String {
    if text.contains(char::is_control) { text.escape_debug().to_string() } else { text }
}
