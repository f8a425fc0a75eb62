//! A JSON document as a tree that borrows its texts from the document. A webhook's body is read once and let
//! go: serde_json's own tree would copy each text and each name in it, which costs twice as much.

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::Number;
use std::borrow::Cow;
use std::fmt;
use std::ops::Index;

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Json<'a> {
    /// `null`, `true` or `false`: nobody asks for them.
    Nothing,
    Number(Number),
    Text(Cow<'a, str>),
    List(Vec<Json<'a>>),
    /// In the document's order; of entries with one name the last one holds.
    Object(Vec<(Name<'a>, Json<'a>)>),
}

/// The name of an entry.
#[derive(Debug, Clone, PartialEq, serde::Deserialize)]
#[serde(transparent)]
pub(super) struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'a> Json<'a> {
    /// The entry with this name, where this is an object that has it.
    pub(super) fn get(&self, name: &str) -> Option<&Json<'a>> {
        let Json::Object(entries) = self else { return None };
        entries.iter().rfind(|(Name(this), _)| this == name).map(|(_, value)| value)
    }

    /// The text, where this is one.
    pub(super) fn text(&self) -> Option<&str> {
        if let Json::Text(text) = self { Some(text) } else { None }
    }

    /// The items, where this is a list.
    pub(super) fn list(&self) -> Option<&[Json<'a>]> {
        if let Json::List(items) = self { Some(items) } else { None }
    }
}

impl<'a> Index<&str> for Json<'a> {
    type Output = Json<'a>;

    /// The entry with this name, or nothing.
    fn index(&self, name: &str) -> &Json<'a> {
        self.get(name).unwrap_or(&Json::Nothing)
    }
}

impl<'de> Deserialize<'de> for Json<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Json<'de>, D::Error> {
        from.deserialize_any(Reader)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Json<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Json<'de>, E> {
        Ok(Json::Nothing)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Json<'de>, E> {
        Ok(Json::Nothing)
    }

    fn visit_u64<E>(self, number: u64) -> Result<Json<'de>, E> {
        Ok(Json::Number(number.into()))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Json<'de>, E> {
        Ok(Json::Number(number.into()))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Json<'de>, E> {
        Ok(Number::from_f64(number).map_or(Json::Nothing, Json::Number))
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Json<'de>, E> {
        Ok(Json::Text(text.into()))
    }

    fn visit_str<E>(self, text: &str) -> Result<Json<'de>, E> {
        Ok(Json::Text(text.to_owned().into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Json<'de>, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Json::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Json<'de>, A::Error> {
        let mut object = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            object.push(entry);
        }
        Ok(Json::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    fn read(document: &str) -> Json<'_> {
        serde_json::from_str(document).unwrap()
    }

    #[test]
    fn only_a_text_with_escapes_is_copied() {
        let document = read(r#"{ "plain": "sent", "with \"escapes\"": "a\nb" }"#);
        assert!(matches!(&document["plain"], Json::Text(Cow::Borrowed("sent"))));
        assert_eq!(document["with \"escapes\""].text(), Some("a\nb"));
    }

    #[test]
    fn the_last_of_entries_with_one_name_holds() {
        assert_eq!(read(r#"{ "id": "1", "status": 3, "id": "2" }"#)["id"].text(), Some("2"));
    }

    #[test]
    fn what_is_not_there_is_nothing() {
        let document = read(r#"[{ "id": null }]"#);
        assert_eq!((&document["id"], document.text()), (&Json::Nothing, None));
        let entry = &document.list().unwrap()[0];
        assert_eq!((entry.get("id"), entry.get("x")), (Some(&Json::Nothing), None));
        assert_eq!((&entry["x"]["y"], entry.list()), (&Json::Nothing, None));
    }

    /// The same as serde_json's tree, which keeps all.
    fn is_same(json: &Json<'_>, value: &Value) -> bool {
        match (json, value) {
            (Json::Nothing, Value::Null | Value::Bool(_)) => true,
            (Json::Number(one), Value::Number(other)) => one == other,
            (Json::Text(one), Value::String(other)) => one == other,
            (Json::List(one), Value::Array(other)) => {
                one.len() == other.len()
                    && one.iter().zip(other).all(|(one, other)| is_same(one, other))
            }
            (Json::Object(_), Value::Object(other)) => {
                other.iter().all(|(name, value)| is_same(&json[name], value))
            }
            _ => false,
        }
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::hash_map(any::<String>(), inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn it_reads_what_serde_json_reads(value in any_value()) {
            let document = value.to_string();
            let value = serde_json::from_str(&document).unwrap();
            prop_assert!(is_same(&read(&document), &value), "{document}");
        }
    }
}
