//! Tells the program what it is: target and commit.
use std::process::Command;

fn main() {
    let target = std::env::var("TARGET").unwrap_or_default();
    println!("cargo::rustc-env=VISUALPATH_TARGET={target}");
    println!("cargo::rerun-if-env-changed=VISUALPATH_COMMIT");
    // A package build sets it; a checkout asks git, and asks again when HEAD moves.
    let commit = std::env::var("VISUALPATH_COMMIT").ok().or_else(|| {
        let git = |args: &[&str]| {
            let out = Command::new("git").args(args).output().ok()?;
            out.status
                .success()
                .then(|| String::from_utf8_lossy(&out.stdout).trim().to_owned())
        };
        let head = git(&["rev-parse", "--git-path", "logs/HEAD"])?;
        println!("cargo::rerun-if-changed={head}");
        git(&["rev-parse", "--short=12", "HEAD"])
    });
    println!(
        "cargo::rustc-env=VISUALPATH_COMMIT={}",
        commit.unwrap_or_default()
    );
}
