//! The simulator as a program.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The program is another package's: whoever tests the workspace has it beside the server's, others get it now.
pub(crate) fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let server = Path::new(env!("CARGO_BIN_EXE_aggregator-server"));
        let (program, directory) = (server.with_file_name("publisher-sim"), server.parent().unwrap());
        if !program.exists() {
            let profile = directory.file_name().unwrap().to_str().unwrap();
            let mut build = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
            build.args(["build", "--locked", "--package", "publisher-sim", "--target-dir"]);
            build.arg(directory.parent().unwrap()).arg("--profile");
            build
                .arg(if profile == "debug" { "dev" } else { profile })
                .current_dir(env!("CARGO_MANIFEST_DIR"));
            assert!(build.status().unwrap().success(), "publisher-sim cannot be built");
        }
        program
    })
}
