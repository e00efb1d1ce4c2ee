//! How the values of options are parsed, where the type alone does not say it.

use std::ffi::OsStr;

use clap::ValueEnum;
use clap::builder::{PossibleValue, TypedValueParser};
use clap::error::ErrorKind;
use clap::parser::ValueSource;

use crate::config::{LogFormat, LoneSurrogates, StoreLocation, may_be_repeated};

/// Parses a [`StoreLocation`]. Its errors do not repeat what may hold a password.
#[derive(Clone)]
pub(super) struct StoreParser;

impl TypedValueParser for StoreParser {
    type Value = StoreLocation;

    fn parse_ref(
        &self,
        command: &clap::Command,
        option: Option<&clap::Arg>,
        value: &OsStr,
    ) -> Result<StoreLocation, clap::Error> {
        self.parse_ref_(command, option, value, ValueSource::CommandLine)
    }

    fn parse_ref_(
        &self,
        command: &clap::Command,
        _: Option<&clap::Arg>,
        value: &OsStr,
        source: ValueSource,
    ) -> Result<StoreLocation, clap::Error> {
        let parsed = value.to_str().ok_or_else(|| "is not UTF-8".to_owned()).and_then(str::parse);
        parsed.map_err(|reason| {
            let shown =
                value.to_str().filter(|value| may_be_repeated(value)).map(|value| format!("--store {value}"));
            let shown = shown.unwrap_or_else(|| "the value of --store".to_owned());
            let origin = if source == ValueSource::EnvVariable { " (from AGGREGATOR_STORE)" } else { "" };
            let text = format!("{shown}{origin} {reason}\n");
            clap::Error::raw(ErrorKind::ValueValidation, text).with_cmd(command)
        })
    }
}

impl ValueEnum for LogFormat {
    fn value_variants<'a>() -> &'a [Self] {
        &[Self::Auto, Self::Human, Self::Json]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(match self {
            Self::Auto => PossibleValue::new("auto").help("Human on a terminal, JSON otherwise"),
            Self::Human => PossibleValue::new("human").help("A line for people"),
            Self::Json => PossibleValue::new("json").help("A JSON object a line"),
        })
    }
}

impl ValueEnum for LoneSurrogates {
    fn value_variants<'a>() -> &'a [Self] {
        &[Self::Refuse, Self::Keep]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(match self {
            Self::Refuse => PossibleValue::new("refuse").help("It is refused"),
            Self::Keep => PossibleValue::new("keep").help("It is stored, its payload as it is spelled"),
        })
    }
}

#[cfg(all(test, feature = "postgres"))]
mod tests {
    use clap::Parser as _;

    use crate::Config;
    use crate::config::StoreLocation;
    use crate::options::Options;

    #[test]
    fn a_password_is_shown_nowhere() {
        let store: StoreLocation = "postgres://me:s3cret@a,b:2/db?sslmode=require".parse().unwrap();
        assert_eq!(store.to_string(), "postgres://me@a:5432,b:2/db");
        let config = Config { store, ..Config::default() };
        assert!(!format!("{config:?}").contains("s3cret"));
        let error =
            Options::try_parse_from(["aggregator-server", "--store", "postgres://me:s3cret@a/db?nonsense=1"]);
        let error = error.unwrap_err().to_string();
        assert!(error.contains("nonsense") && !error.contains("s3cret"), "{error}");
    }
}
