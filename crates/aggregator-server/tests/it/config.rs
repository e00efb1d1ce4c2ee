//! The configuration as a library gives it: plain data, whatever process it is in.

use std::process::Command;
use std::{env, fs};

use aggregator_server::Config;
use aggregator_server::options::Options;
use clap::{CommandFactory as _, Parser as _};
use tempfile::TempDir;

const SHOW_IN: &str = "TEST_SHOWS_CONFIG_IN";

/// What the next tests start as a process of its own.
#[test]
fn a_process_that_shows_its_configuration() {
    let Ok(file) = env::var(SHOW_IN) else { return };
    let shown = format!("{:?}", Config::default());
    fs::write(&file, shown).unwrap();
    let parsed = Options::try_parse_from(["aggregator-server"]);
    let parsed =
        parsed.map_or_else(|_| "refused".to_owned(), |options| format!("{:?}", options.into_parts().1));
    fs::write(format!("{file}.parsed"), parsed).unwrap();
}

/// `Config::default()` of a process with this value in every variable, and what it makes of its command line.
fn in_a_process_with(value: Option<&str>) -> (String, String) {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("config").display().to_string();
    let mut process = Command::new(env::current_exe().unwrap());
    process.args(["--exact", "config::a_process_that_shows_its_configuration"]).env(SHOW_IN, &file);
    let variables: Vec<_> =
        Options::command().get_arguments().filter_map(|arg| arg.get_env().map(ToOwned::to_owned)).collect();
    assert!(variables.len() > 20, "every option has one: {variables:?}");
    for variable in variables {
        match value {
            Some(value) => process.env(variable, value),
            None => process.env_remove(variable),
        };
    }
    let output = process.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let read = |file: &str| fs::read_to_string(file).unwrap();
    (read(&file), read(&format!("{file}.parsed")))
}

#[test]
fn the_default_configuration_knows_nothing_of_the_environment() {
    let expected = format!("{:?}", Config::default());
    // Good for some options and bad for others; then bad for all.
    for value in ["7", "nonsense"] {
        let (default, parsed) = in_a_process_with(Some(value));
        assert_eq!(default, expected);
        assert_ne!(parsed, expected, "the environment was there to be read");
    }
}

#[test]
fn without_options_the_program_has_the_default_configuration() {
    let (default, parsed) = in_a_process_with(None);
    assert_eq!(parsed, default);
}
