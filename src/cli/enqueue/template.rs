//! A job with blanks: JSON in which `{{column}}` stands for what a row has in that column. It is read as
//! JSON with its blanks in it, so each of them stands inside a string, and values are escaped for one: what
//! comes of it is JSON, whatever a table holds. Reads no file, and knows nothing of jobs.

use serde_json::value::RawValue;
use std::collections::BTreeMap;

/// A template that is filled from the columns of one table.
#[derive(Debug)]
pub(super) struct Template {
    /// Without white space between its tokens: a message is known by its bytes, and who indents a template
    /// anew means the same messages.
    sent: Text,
    /// As it was written, for people.
    written: Text,
    has_id: bool,
}

/// `NAME=COLUMN`: the blank `{{NAME}}` is filled from another column than its namesake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mapping {
    name: String,
    column: String,
}

impl Mapping {
    pub(super) fn parse(text: &str) -> Result<Mapping, String> {
        let (name, column) = text.split_once('=').ok_or("it must be NAME=COLUMN")?;
        let [name, column] = [name, column].map(|part| part.trim().to_owned());
        match name.is_empty() || column.is_empty() {
            true => Err("it must be NAME=COLUMN".into()),
            false => Ok(Mapping { name, column }),
        }
    }
}

impl Template {
    /// Reads a template for a table with these columns. The error is a sentence for its author.
    pub(super) fn read(
        text: &str,
        columns: &[String],
        mappings: &[Mapping],
    ) -> Result<Template, String> {
        let text = text.trim_start_matches('\u{feff}');
        let fields: BTreeMap<String, &RawValue> =
            serde_json::from_str(text).map_err(|error| format!("it is no JSON object: {error}"))?;
        let has_id = fields.contains_key("id");
        let find = |name: &str| find(name, columns, mappings);
        let written = Text::read(text, find)?;
        for Mapping { name, column } in mappings {
            let blanks = || written.blanks.iter().map(|(_, blank)| &blank.name);
            if !blanks().any(|blank| blank == name) {
                return Err(format!("--map {name}={column}: it has no {{{{{name}}}}}"));
            }
        }
        Ok(Template { sent: Text::read(&compact(text), find)?, written, has_id })
    }

    /// Whether it gives each job an id.
    pub(super) fn has_id(&self) -> bool {
        self.has_id
    }

    /// The JSON of one row. `cell` gives the value of a column.
    pub(super) fn fill<'c>(&self, cell: impl Fn(usize) -> &'c str) -> String {
        self.sent.fill(|column| cell(column).to_owned())
    }

    /// The same as the template's author has laid it out.
    pub(super) fn fill_as_written(&self, cell: impl Fn(usize) -> String) -> String {
        self.written.fill(cell)
    }
}

/// The column that fills a blank.
fn find(name: &str, columns: &[String], mappings: &[Mapping]) -> Result<usize, String> {
    let mut others = mappings.iter().filter(|mapping| mapping.name == name);
    let column = match (others.next(), others.next()) {
        (Some(_), Some(_)) => return Err(format!("--map {name}: it is given twice")),
        (Some(mapping), None) => &mapping.column,
        (None, _) => name,
    };
    let mut places = (0..columns.len()).filter(|at| columns[*at] == *column);
    match (places.next(), places.next()) {
        (Some(at), None) => Ok(at),
        (Some(_), Some(_)) => Err(format!("{{{{{name}}}}}: the table has two columns {column:?}")),
        (None, _) => Err(format!(
            "{{{{{name}}}}}: the table has no column {column:?}; it has {} ({})",
            columns.join(", "),
            other_delimiter(columns)
                .unwrap_or_else(|| format!("--map {name}=COLUMN names another"))
        )),
    }
}

/// What may stand between the columns where all of them are taken for one.
fn other_delimiter(columns: &[String]) -> Option<String> {
    let [one] = columns else { return None };
    let shown = |delimiter: char| match delimiter {
        '\t' => "--delimiter '\\t'".to_owned(),
        other => format!("--delimiter '{other}'"),
    };
    let found = [';', '\t', '|', ','].into_iter().find(|delimiter| one.contains(*delimiter))?;
    Some(format!("is it one column? else {}", shown(found)))
}

/// A text and the blanks in it.
#[derive(Debug)]
struct Text {
    /// Each with the text before it.
    blanks: Vec<(String, Blank)>,
    rest: String,
}

#[derive(Debug)]
struct Blank {
    name: String,
    column: usize,
}

impl Text {
    fn read(text: &str, find: impl Fn(&str) -> Result<usize, String>) -> Result<Text, String> {
        let (mut blanks, mut rest) = (Vec::new(), text);
        // Outside of a string two of these are no JSON.
        while let Some((before, from)) = rest.split_once("{{") {
            let (name, after) = from.split_once("}}").unwrap_or_default();
            // As it stands in its JSON string: some programs write all but ASCII as \u….
            let name: String =
                serde_json::from_str(&format!("\"{}\"", name.trim())).unwrap_or_default();
            if name.is_empty() || name.contains(['"', '{', '}', '\n']) {
                let line = 1 + text[..text.len() - from.len()].matches('\n').count();
                return Err(format!(
                    "line {line}: a blank is written {{{{column}}}}; for the two braces themselves write \\u007b{{"
                ));
            }
            let column = find(&name)?;
            blanks.push((before.to_owned(), Blank { name, column }));
            rest = after;
        }
        Ok(Text { blanks, rest: rest.to_owned() })
    }

    fn fill(&self, cell: impl Fn(usize) -> String) -> String {
        let mut filled = String::new();
        for (before, blank) in &self.blanks {
            filled.push_str(before);
            let escaped = serde_json::Value::String(cell(blank.column)).to_string();
            filled.push_str(&escaped[1..escaped.len() - 1]);
        }
        filled + &self.rest
    }
}

/// JSON without the white space between its tokens.
fn compact(json: &str) -> String {
    let (mut in_string, mut is_escaped) = (false, false);
    let stays = |c: &char| {
        in_string ^= *c == '"' && !is_escaped;
        is_escaped = in_string && *c == '\\' && !is_escaped;
        in_string || !c.is_ascii_whitespace()
    };
    json.chars().filter(stays).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn columns() -> [String; 2] {
        ["phone", "first name"].map(str::to_owned)
    }

    fn read(text: &str, mappings: &[&str]) -> Result<Template, String> {
        let mappings: Vec<Mapping> =
            mappings.iter().map(|mapping| Mapping::parse(mapping).unwrap()).collect();
        Template::read(text, &columns(), &mappings)
    }

    #[test]
    fn a_blank_is_filled_from_its_namesake_or_from_the_column_that_is_mapped() {
        let text = "{ \"to\" : \"+{{to}}\",\n \"a b\": \"Hi {{ first name }}, {{to}}!\" }";
        let template = read(text, &["to=phone"]).unwrap();
        let cells = ["91", "Ann \"A\""];
        let filled = template.fill(|column| cells[column]);
        assert_eq!(filled, r#"{"to":"+91","a b":"Hi Ann \"A\", 91!"}"#);
        let written = template.fill_as_written(|column| cells[column].to_owned());
        assert!(written.starts_with("{ \"to\" : \"+91\",\n"), "{written}");
        assert!(!template.has_id() && read(r#"{"id":"{{phone}}"}"#, &[]).unwrap().has_id());
    }

    #[test]
    fn braces_that_are_meant_can_be_written_and_others_are_explained() {
        let template = read(r#"{"a":"\u007b{phone}} }}","b":{"c":{}}}"#, &[]).unwrap();
        let filled: Value = serde_json::from_str(&template.fill(|_| "1")).unwrap();
        assert_eq!(filled, json!({ "a": "{{phone}} }}", "b": { "c": {} } }));
        for (text, mappings, part) in [
            ("{", &[][..], "no JSON object: EOF"),
            ("[]", &[], "no JSON object"),
            ("{\n\"a\":\"{{}}\"}", &[], "line 2: a blank is written {{column}}"),
            (r#"{"a":"{{phone"}"#, &[], "line 1: a blank"),
            (r#"{"a":"{{phone","b":"}}"}"#, &[], "line 1: a blank"),
            (
                r#"{"a":"{{phon}}"}"#,
                &[],
                "no column \"phon\"; it has phone, first name (--map phon=",
            ),
            (r#"{"a":"{{to}}"}"#, &["to=fone"], "no column \"fone\""),
            (r#"{"a":"{{to}}"}"#, &["to=phone", "to=phone"], "given twice"),
            (r#"{"a":"{{phone}}"}"#, &["to=phone"], "--map to=phone: it has no {{to}}"),
        ] {
            let error = read(text, mappings).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
        let twice = ["a", "a"].map(str::to_owned);
        let error = Template::read(r#"{"a":"{{a}}"}"#, &twice, &[]).unwrap_err();
        assert_eq!(error, "{{a}}: the table has two columns \"a\"");
    }

    #[test]
    fn a_blank_may_be_written_in_ascii_alone() {
        let columns = ["n\u{e4}me", "\u{1f600}"].map(str::to_owned);
        let text = r#"{"a":"{{n\u00e4me}} {{ \ud83d\ude00 }}"}"#;
        let template = Template::read(text, &columns, &[]).unwrap();
        assert_eq!(template.fill(|column| ["Ann", ":)"][column]), r#"{"a":"Ann :)"}"#);
    }

    proptest! {
        #[test]
        fn whatever_a_table_holds_it_stays_json_and_the_value(value in "\\PC*|[\"\\\\{}\n\t\u{0}]{0,9}") {
            let template = read("{ \"a\": [ \"-{{phone}}-\", 1.0 ] }", &[]).unwrap();
            let filled = template.fill(|_| &value);
            let parsed: Value = serde_json::from_str(&filled).unwrap();
            prop_assert_eq!(&parsed["a"][0], &json!(format!("-{value}-")));
            prop_assert!(filled.ends_with("\",1.0]}"), "numbers stay as they are written");
        }
    }
}
