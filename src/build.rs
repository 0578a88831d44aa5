//! Stamps the commit and the compiler into `entryway version`; both are absent where they cannot be had. With
//! `BUILD_PORTABLE` in the environment the code that runs off Linux is built, on Linux too.
use std::process::Command;

fn line_of(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && !text.trim().is_empty()).then(|| text.trim().to_owned())
}

fn main() {
    println!("cargo::rerun-if-changed=.git/HEAD");
    println!("cargo::rerun-if-changed=src/build.rs");
    println!("cargo::rerun-if-env-changed=BUILD_PORTABLE");
    if std::env::var_os("BUILD_PORTABLE").is_some() {
        println!("cargo::rustc-cfg=entryway_portable");
    }
    if let Some(commit) = line_of("git", &["rev-parse", "--short=12", "HEAD"]) {
        println!("cargo::rustc-env=ENTRYWAY_COMMIT={commit}");
    }
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    if let Some(version) = line_of(&rustc, &["--version"]) {
        println!("cargo::rustc-env=ENTRYWAY_RUSTC={version}");
    }
}
