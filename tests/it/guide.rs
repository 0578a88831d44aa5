//! Every command of the guide that is marked as runnable runs, through the built binary.

use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

use crate::harness::child::BINARY;

/// The blocks of one page that begin with "```sh run".
fn blocks(text: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut block: Option<String> = None;
    for line in text.lines() {
        match &mut block {
            Some(_) if line.starts_with("```") => blocks.extend(block.take()),
            Some(block) => {
                block.push_str(line);
                block.push('\n');
            }
            None if line.trim() == "```sh run" => block = Some(String::new()),
            None => {}
        }
    }
    blocks
}

#[tokio::test]
async fn the_guides_commands_run() {
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(BINARY, folder.path().join("entryway")).unwrap();
    let path = format!(
        "{}:{}",
        folder.path().display(),
        std::env::var("PATH").unwrap()
    );
    let (mut count, mut demos) = (0, 0);
    for page in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/src/guide")).unwrap() {
        let page = page.unwrap().path();
        if page.extension().is_none_or(|ending| ending != "md") {
            continue;
        }
        for block in blocks(&std::fs::read_to_string(&page).unwrap()) {
            let is_demo = block.contains("entryway demo");
            demos += usize::from(is_demo);
            if is_demo && demos > 1 {
                continue;
            }
            let mut shell = Command::new("sh");
            shell
                .arg("-ec")
                .arg(&block)
                .env("PATH", &path)
                .current_dir(env!("CARGO_MANIFEST_DIR"))
                .kill_on_drop(true);
            // The guide uses the default port, which a demo of another test may hold for a while.
            let output = loop {
                let output = timeout(Duration::from_secs(60), shell.output()).await;
                let output = output
                    .unwrap_or_else(|_| panic!("{}: hangs\n{block}", page.display()))
                    .unwrap();
                if !String::from_utf8_lossy(&output.stderr).contains("in use by entryway") {
                    break output;
                }
            };
            let err = String::from_utf8_lossy(&output.stderr);
            assert!(
                output.status.success(),
                "{}\n{block}\n{err}",
                page.display()
            );
            count += 1;
        }
    }
    println!("{count} blocks of the guide were run");
    assert!(count > 0);
}
