//! docs/reference.md against the program.

use std::collections::{BTreeMap, BTreeSet};

use aggregator_server::options::Options;
use clap::CommandFactory as _;

use crate::support::Server;

fn reference() -> String {
    std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference.md")).unwrap()
}

/// The cells of the table of options.
fn rows() -> Vec<[String; 2]> {
    let text = reference();
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `--"));
    rows.map(|row| {
        let (option, rest) = row.split_once('`').unwrap();
        let default = rest.trim_start_matches(" | ").split('|').next().unwrap();
        [format!("--{option}"), default.trim().trim_matches('`').to_owned()]
    })
    .collect()
}

#[test]
fn the_reference_has_every_option_with_its_default_and_no_other() {
    let command = Options::command();
    // `--help` and `--version` have no variable.
    let options = command.get_arguments().filter(|option| option.get_env().is_some());
    let expected: Vec<_> = options
        .map(|option| {
            let name = option.get_long().unwrap();
            let values = option.get_action().takes_values().then(|| option.get_value_names()).flatten();
            let value = values.map(|names| format!(" {}", names[0])).unwrap_or_default();
            let defaults: Vec<_> =
                option.get_default_values().iter().filter_map(|value| value.to_str()).collect();
            (format!("--{name}{value}"), defaults.join(" "))
        })
        .collect();
    assert!(expected.len() > 25, "{expected:?}");
    let rows = rows();
    for (name, default) in &expected {
        let row = rows.iter().find(|[shown, _]| shown == name);
        let row = row.unwrap_or_else(|| panic!("docs/reference.md does not have {name}"));
        // An option without a default may say what happens without it.
        assert!(default.is_empty() || row[1] == *default, "{name}: {default:?}, and not {:?}", row[1]);
    }
    for [shown, _] in &rows {
        assert!(expected.iter().any(|(name, _)| name == shown), "there is no option {shown}");
    }
}

/// The paths of the table of routes, each with its methods. A row may have several paths with one method.
fn routes() -> BTreeMap<String, BTreeSet<String>> {
    let text = reference();
    let cells = text.lines().filter_map(|line| line.strip_prefix("| `")?.split(" | ").next());
    let with_method =
        cells.filter_map(|cell| cell.split_once(' ').filter(|(_, paths)| paths.starts_with('/')));
    let mut routes = BTreeMap::new();
    for (method, paths) in with_method {
        for path in paths.split(", ").map(|path| path.trim_matches('`')) {
            let methods: &mut BTreeSet<_> = routes.entry(path.to_owned()).or_default();
            assert!(methods.insert(method.to_owned()), "{method} {path} is there twice");
        }
    }
    routes
}

#[tokio::test]
async fn the_reference_has_every_route_with_its_method_and_no_other() {
    let server = Server::volatile().await;
    let routes = routes();
    let shown: Vec<_> = routes.keys().map(String::as_str).collect();
    // A 404 names all paths but `/`.
    let answer = server.get("/nothing/like/it").await;
    let (_, served) = answer.json["detail"].as_str().unwrap().split_once("the paths are ").unwrap();
    let mut served: Vec<_> = served.split(", ").chain(["/"]).collect();
    served.sort_unstable();
    assert_eq!(shown, served);
    for (path, methods) in &routes {
        let request = server.client.patch(format!("{}{path}", server.url));
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 405, "{path}");
        let allowed = answer.headers()["allow"].to_str().unwrap();
        // Whatever takes GET takes HEAD.
        let allowed = allowed.split(',').filter(|method| *method != "HEAD").map(str::to_owned).collect();
        assert_eq!(*methods, allowed, "{path}");
    }
}
