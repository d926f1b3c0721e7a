//! Fields of a JSON body: read one by one, so that every mistake is told at once, in the contract's words.

use std::{collections::BTreeMap, fmt::Display, str::FromStr};

use astraforge_core::request::Prompt;
use chrono::{DateTime, Utc};
use serde_json::{Map, Value, json};

/// What is said of a field that is not there.
const REQUIRED: &str = "This field is required.";
/// What is said of a field that is null.
const NULL: &str = "This field may not be null.";
/// What is said of a field without text.
const BLANK: &str = "This field may not be blank.";

/// A body that is read from fields. Unknown fields are left alone.
pub(super) trait FromFields: Sized {
    /// Reads the body; `None` only when a mistake was noted.
    fn from_fields(fields: &mut Fields) -> Option<Self>;
}

/// What is wrong with a field: a list of messages, or an object of them for what is within the field.
pub(super) type Mistake = Value;

/// The fields of one object, and the mistakes found so far.
#[derive(Debug)]
pub(super) struct Fields {
    values: Map<String, Value>,
    mistakes: Map<String, Mistake>,
}

impl Fields {
    /// Reads an object.
    pub(super) fn read<T: FromFields>(value: Value) -> Result<T, Map<String, Mistake>> {
        let values = match value {
            Value::Object(values) => values,
            Value::Null => return Err(whole("No data provided")),
            other => {
                let got = python_type(&other);
                return Err(whole(&format!("Invalid data. Expected a dictionary, but got {got}.")));
            }
        };
        let mut fields = Self { values, mistakes: Map::new() };
        match T::from_fields(&mut fields) {
            Some(body) if fields.mistakes.is_empty() => Ok(body),
            _ => Err(fields.mistakes),
        }
    }

    /// Reads a field that has to be there.
    pub(super) fn required<T>(&mut self, name: &str, read: impl FnOnce(Value) -> Result<T, Mistake>) -> Option<T> {
        if self.values.contains_key(name) {
            return self.optional(name, read);
        }
        self.reject(name, REQUIRED);
        None
    }

    /// Reads a field that may be left out, but not null.
    pub(super) fn optional<T>(&mut self, name: &str, read: impl FnOnce(Value) -> Result<T, Mistake>) -> Option<T> {
        match self.values.remove(name)? {
            Value::Null => {
                self.reject(name, NULL);
                None
            }
            value => read(value).map_err(|mistake| self.mistakes.insert(name.to_owned(), mistake)).ok(),
        }
    }

    /// Reads a field that may be left out (`None`) or null (`Some(None)`).
    pub(super) fn nullable<T>(
        &mut self,
        name: &str,
        read: impl FnOnce(Value) -> Result<T, Mistake>,
    ) -> Option<Option<T>> {
        if self.values.get(name).is_some_and(Value::is_null) {
            self.values.remove(name);
            return Some(None);
        }
        self.optional(name, read).map(Some)
    }

    /// Notes a mistake.
    pub(super) fn reject(&mut self, name: &str, message: impl Into<String>) {
        self.mistakes.insert(name.to_owned(), mistake(message));
    }
}

fn whole(message: &str) -> Map<String, Mistake> {
    Map::from_iter([("non_field_errors".to_owned(), mistake(message))])
}

/// One message about a field.
pub(super) fn mistake(message: impl Into<String>) -> Mistake {
    json!([message.into()])
}

fn python_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "NoneType",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float",
        Value::Number(_) => "int",
        Value::String(_) => "str",
        Value::Array(_) => "list",
        Value::Object(_) => "dict",
    }
}

/// Text as it is, with whatever it holds.
pub(super) fn anything(value: Value) -> Result<String, Mistake> {
    match value {
        Value::String(text) => Ok(text),
        _ => Err(mistake("Not a valid string.")),
    }
}

/// A path in a sandbox, as it is.
pub(super) fn path(value: Value) -> Result<String, Mistake> {
    match raw(value)? {
        path if path.trim().is_empty() => Err(mistake(BLANK)),
        path => Ok(path),
    }
}

/// Yes or no, as JSON or in a word.
pub(super) fn boolean(value: Value) -> Result<bool, Mistake> {
    match &value {
        Value::Bool(yes) => Ok(*yes),
        Value::String(word) if matches!(word.as_str(), "true" | "True" | "1") => Ok(true),
        Value::String(word) if matches!(word.as_str(), "false" | "False" | "0") => Ok(false),
        _ => Err(mistake("Must be a valid boolean.")),
    }
}

/// A number of seconds, at least `least`.
pub(super) fn seconds(least: u64) -> impl FnOnce(Value) -> Result<u64, Mistake> {
    move |value| {
        let number = match &value {
            Value::String(digits) => digits.trim().parse().ok(),
            value => value.as_i64(),
        };
        let number = number.ok_or_else(|| mistake("A valid integer is required."))?;
        match u64::try_from(number) {
            Ok(seconds) if seconds >= least => Ok(seconds),
            _ => Err(mistake(format!("Ensure this value is greater than or equal to {least}."))),
        }
    }
}

/// How many there may be, at least one.
pub(super) fn count(value: Value) -> Result<u32, Mistake> {
    let number = value.as_u64().and_then(|number| u32::try_from(number).ok()).filter(|number| *number > 0);
    number.ok_or_else(|| mistake("A number from 1 on is required."))
}

/// What a text says, in whatever grammar `T` has.
pub(super) fn parsed<T: FromStr<Err: Display>>(text: String) -> Result<T, Mistake> {
    text.parse().map_err(|error: T::Err| mistake(error.to_string()))
}

/// What a text of at most `max` characters says, or nothing where it is blank.
pub(super) fn blank_or<T: FromStr<Err: Display>>(max: usize) -> impl FnOnce(Value) -> Result<Option<T>, Mistake> {
    move |value| match text(max)(value)? {
        text if text.is_empty() => Ok(None),
        text => parsed(text).map(Some),
    }
}

/// Variables of an environment.
pub(super) fn variables(value: Value) -> Result<BTreeMap<String, String>, Mistake> {
    let Value::Object(entries) = value else {
        return Err(mistake("Expected a dictionary of names and texts."));
    };
    let mut mistakes = Map::new();
    let mut variables = BTreeMap::new();
    for (name, value) in entries {
        match variable(&name, value) {
            Ok(value) => _ = variables.insert(name, value),
            Err(mistake) => _ = mistakes.insert(name, mistake),
        }
    }
    if mistakes.is_empty() { Ok(variables) } else { Err(Value::Object(mistakes)) }
}

fn variable(name: &str, value: Value) -> Result<String, Mistake> {
    let letter = |c: char| c.is_ascii_alphabetic() || c == '_';
    if !name.starts_with(letter) || !name.chars().all(|c| letter(c) || c.is_ascii_digit()) {
        return Err(mistake("A name has letters, digits and underscores, and does not begin with a digit."));
    }
    match value {
        Value::String(text) if !text.contains('\0') => Ok(text),
        _ => Err(mistake("Not a valid string.")),
    }
}

/// Text as it is, perhaps empty. Numbers are taken for their digits.
pub(super) fn raw(value: Value) -> Result<String, Mistake> {
    let text = match value {
        Value::String(text) => text,
        Value::Number(number) => number.to_string(),
        _ => return Err(mistake("Not a valid string.")),
    };
    if text.contains('\0') {
        return Err(mistake("Null characters are not allowed."));
    }
    Ok(text)
}

/// Text without the white space around it, perhaps empty, of at most `max` characters.
pub(super) fn text(max: usize) -> impl FnOnce(Value) -> Result<String, Mistake> {
    move |value| {
        let text = raw(value)?.trim().to_owned();
        if text.chars().count() > max {
            return Err(mistake(format!("Ensure this field has no more than {max} characters.")));
        }
        Ok(text)
    }
}

/// Text that is not blank, without the white space around it, of at most `max` characters.
pub(super) fn name(max: usize) -> impl FnOnce(Value) -> Result<String, Mistake> {
    move |value| match text(max)(value)? {
        text if text.is_empty() => Err(mistake(BLANK)),
        text => Ok(text),
    }
}

/// A credential: not blank, and kept as it is.
pub(super) fn secret(value: Value) -> Result<astraforge_core::repository::Secret, Mistake> {
    match raw(value)? {
        text if text.trim().is_empty() => Err(mistake(BLANK)),
        text => Ok(astraforge_core::repository::Secret::new(text)),
    }
}

/// What a person says: kept as it is.
pub(super) fn prompt(value: Value) -> Result<Prompt, Mistake> {
    raw(value)?.parse().map_err(|error: astraforge_core::request::ParsePromptError| mistake(error.to_string()))
}

/// An id.
pub(super) fn id<T: FromStr>(value: Value) -> Result<T, Mistake> {
    value.as_str().and_then(|text| text.parse().ok()).ok_or_else(|| mistake("Must be a valid UUID."))
}

/// A point in time, as RFC 3339 has it.
pub(super) fn time(value: Value) -> Result<DateTime<Utc>, Mistake> {
    let time = value.as_str().and_then(|text| DateTime::parse_from_rfc3339(text.trim()).ok());
    time.map(|time| time.to_utc()).ok_or_else(|| mistake("Enter a time with its offset, such as 2030-01-31T12:00:00Z."))
}

/// One of several names.
pub(super) fn choice<T>(known: impl FnOnce(&str) -> Option<T>) -> impl FnOnce(Value) -> Result<T, Mistake> {
    move |value| {
        let shown = match &value {
            Value::String(text) => text.chars().take(80).collect(),
            other => other.to_string().chars().take(80).collect::<String>(),
        };
        let chosen = value.as_str().and_then(known);
        chosen.ok_or_else(|| mistake(format!("\"{shown}\" is not a valid choice.")))
    }
}

/// An e-mail address, or empty.
pub(super) fn email(value: Value) -> Result<String, Mistake> {
    let email = text(254)(value)?;
    if email.is_empty() || is_email(&email) { Ok(email) } else { Err(mistake("Enter a valid email address.")) }
}

fn is_email(text: &str) -> bool {
    let Some((user, host)) = text.rsplit_once('@') else { return false };
    let plain = |c: char| !c.is_whitespace() && !c.is_control() && !matches!(c, '@' | '<' | '>' | ',' | ';');
    let label = |l: &str| !l.is_empty() && !l.starts_with('-') && !l.ends_with('-');
    !user.is_empty()
        && user.chars().all(plain)
        && (host == "localhost" || host.contains('.'))
        && host.split('.').all(label)
        && host.chars().all(|c| c.is_alphanumeric() || matches!(c, '.' | '-'))
}

/// An object with fields of its own.
pub(super) fn object<T: FromFields>(value: Value) -> Result<T, Mistake> {
    Fields::read(value).map_err(Value::Object)
}

/// A list; mistakes are told by the items' places.
pub(super) fn list<T>(
    mut read: impl FnMut(Value) -> Result<T, Mistake>,
) -> impl FnOnce(Value) -> Result<Vec<T>, Mistake> {
    move |value| {
        let Value::Array(items) = value else {
            let got = python_type(&value);
            return Err(mistake(format!("Expected a list of items but got type \"{got}\".")));
        };
        let mut mistakes = Map::new();
        let mut list = Vec::with_capacity(items.len());
        for (place, item) in items.into_iter().enumerate() {
            let read = if item.is_null() { Err(mistake(NULL)) } else { read(item) };
            match read {
                Ok(item) => list.push(item),
                Err(mistake) => _ = mistakes.insert(place.to_string(), mistake),
            }
        }
        if mistakes.is_empty() { Ok(list) } else { Err(Value::Object(mistakes)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq)]
    struct Sample {
        name: String,
        sender: Option<String>,
        list: Option<Vec<String>>,
        gone: Option<Option<String>>,
    }

    impl FromFields for Sample {
        fn from_fields(fields: &mut Fields) -> Option<Self> {
            let name = fields.required("name", name(5));
            let sender = fields.optional("sender", email);
            let list = fields.optional("list", list(|item| super::name(5)(item)));
            let gone = fields.nullable("gone", text(5));
            Some(Self { name: name?, sender, list, gone })
        }
    }

    #[track_caller]
    fn check(body: Value, mistakes: Value) {
        assert_eq!(Fields::read::<Sample>(body).map_err(Value::Object), Err(mistakes));
    }

    #[test]
    fn mistakes_are_told_in_the_contracts_words() {
        check(json!([]), json!({"non_field_errors": ["Invalid data. Expected a dictionary, but got list."]}));
        check(json!("x"), json!({"non_field_errors": ["Invalid data. Expected a dictionary, but got str."]}));
        check(json!({}), json!({"name": ["This field is required."]}));
        check(json!({"name": null}), json!({"name": ["This field may not be null."]}));
        check(json!({"name": "  "}), json!({"name": ["This field may not be blank."]}));
        check(json!({"name": true}), json!({"name": ["Not a valid string."]}));
        check(json!({"name": "a\u{0}"}), json!({"name": ["Null characters are not allowed."]}));
        check(json!({"name": "123456"}), json!({"name": ["Ensure this field has no more than 5 characters."]}));
        check(json!({"name": "a", "sender": "x"}), json!({"sender": ["Enter a valid email address."]}));
        check(json!({"name": "a", "list": "x"}), json!({"list": ["Expected a list of items but got type \"str\"."]}));
        check(json!({"name": "a", "list": ["a", ""]}), json!({"list": {"1": ["This field may not be blank."]}}));
    }

    #[test]
    fn all_mistakes_are_told_at_once() {
        let mistakes = Fields::read::<Sample>(json!({"sender": 1, "list": [null]})).unwrap_err();
        assert_eq!(mistakes.keys().collect::<Vec<_>>(), ["list", "name", "sender"]);
    }

    #[test]
    fn what_is_left_out_differs_from_null() {
        let read = |body| Fields::read::<Sample>(body).unwrap();
        let sample = Sample { name: "7".into(), sender: None, list: None, gone: None };
        assert_eq!(read(json!({"name": 7, "unknown": 1})), sample);
        assert_eq!(read(json!({"name": "7", "gone": null})).gone, Some(None));
        assert_eq!(read(json!({"name": "7", "gone": " a "})).gone, Some(Some("a".into())));
    }

    #[test]
    fn addresses_are_told_from_other_texts() {
        for good in ["a@b.org", "mira.k+x@sub.example.org", "a@localhost"] {
            assert!(is_email(good), "{good}");
        }
        for bad in ["", "a", "a@", "@b.org", "a@b", "a b@c.org", "a@b..org", "a@-b.org", "a@b@c.org"] {
            assert!(!is_email(bad), "{bad}");
        }
    }
}
