//! Serde for points in time, in the two forms of the contract; both have microseconds.

macro_rules! form {
    ($(#[$doc:meta])* $name:ident, use_z: $use_z:literal) => {
        $(#[$doc])*
        pub(crate) mod $name {
            use chrono::{DateTime, SecondsFormat, Utc};
            use serde::{Deserialize, Deserializer, Serializer};

            pub(crate) fn serialize<S: Serializer>(at: &DateTime<Utc>, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&at.to_rfc3339_opts(SecondsFormat::Micros, $use_z))
            }

            pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<DateTime<Utc>, D::Error> {
                DateTime::deserialize(d)
            }

            /// The same for a time that may be missing.
            pub(crate) mod optional {
                use chrono::{DateTime, Utc};
                use serde::{Deserialize, Deserializer, Serializer};

                pub(crate) fn serialize<S: Serializer>(
                    at: &Option<DateTime<Utc>>,
                    serializer: S,
                ) -> Result<S::Ok, S::Error> {
                    match at {
                        Some(at) => super::serialize(at, serializer),
                        None => serializer.serialize_none(),
                    }
                }

                pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<DateTime<Utc>>, D::Error> {
                    Option::deserialize(d)
                }
            }
        }
    };
}

form! {
    /// Rows: `2026-03-01T10:15:00.123456Z`.
    row, use_z: true
}

form! {
    /// Runs and messages: `2026-03-01T10:15:00.123456+00:00`.
    offset, use_z: false
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, Utc};

    use super::*;

    #[derive(serde::Serialize, serde::Deserialize, PartialEq, Debug)]
    struct Times {
        #[serde(with = "row")]
        row: DateTime<Utc>,
        #[serde(with = "offset::optional")]
        offset: Option<DateTime<Utc>>,
        #[serde(with = "row::optional")]
        none: Option<DateTime<Utc>>,
    }

    #[test]
    fn both_forms_have_microseconds_and_survive_the_wire() {
        let at: DateTime<Utc> = "2026-03-01T10:15:00.120Z".parse().unwrap();
        let times = Times { row: at, offset: Some(at), none: None };
        let json = serde_json::to_string(&times).unwrap();
        assert_eq!(
            json,
            r#"{"row":"2026-03-01T10:15:00.120000Z","offset":"2026-03-01T10:15:00.120000+00:00","none":null}"#
        );
        assert_eq!(serde_json::from_str::<Times>(&json).unwrap(), times);
    }
}
