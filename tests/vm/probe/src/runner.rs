//! Runs scenarios one after the other and hands out their results.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use crate::{machine, scenarios};

/// Seconds of the machine's own clock for one scenario.
const LIMIT: Duration = Duration::from_secs(900);

/// What a scenario found out, by name; printed with its result.
pub type Numbers = Map<String, Value>;

/// Every scenario named, each in a process of its own; a name may carry an argument after `=`.
pub fn all(port: &str, names: &[&str]) -> Result<()> {
    let mut port = OpenOptions::new()
        .read(true)
        .write(true)
        .open(port)
        .with_context(|| port.to_owned())?;
    for name in names {
        let found = supervised(name, &mut port).unwrap_or_else(|e| Some(format!("{e:#}")));
        if let Some(detail) = found {
            let scenario = name.split('=').next();
            let result = json!({"scenario": scenario, "ok": false, "detail": detail});
            writeln!(port, "{result}")?;
        }
    }
    writeln!(port, "{}", json!({"end": true}))?;
    Ok(())
}

/// Runs one; its lines go to the port as they come. Gives what is wrong if it ended without a result.
fn supervised(name: &str, port: &mut File) -> Result<Option<String>> {
    println!("== {name}");
    let mut child = Command::new(std::env::current_exe()?)
        .args(["one", name])
        .stdin(port.try_clone()?)
        .stdout(Stdio::piped())
        .spawn()?;
    let (tell, told) = mpsc::channel();
    let stdout = child.stdout.take().context("stdout")?;
    let reader = std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if tell.send(line).is_err() {
                return;
            }
        }
    });
    let patience = Instant::now() + LIMIT;
    let mut has_result = false;
    loop {
        match told.recv_timeout(patience.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                has_result |= line.contains("\"scenario\"");
                writeln!(port, "{line}")?;
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                let threads = threads(&child);
                child.kill()?;
                child.wait()?;
                return Ok(Some(format!(
                    "no end after {LIMIT:?}; its threads: {threads}"
                )));
            }
        }
    }
    let status = child.wait()?;
    if reader.join().is_err() {
        anyhow::bail!("the reader of its output panicked");
    }
    machine::remove_camera()?;
    machine::remove_encoder()?;
    Ok((!has_result).then(|| format!("ended with {status} and no result; see the console")))
}

/// Where each of its threads is stuck.
fn threads(child: &Child) -> String {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", child.id()));
    let one = |task: std::path::PathBuf| {
        let read = |file: &str| std::fs::read_to_string(task.join(file)).unwrap_or_default();
        let (comm, wchan) = (read("comm"), read("wchan"));
        format!("{}: {}", comm.trim(), wchan.trim())
    };
    tasks.map_or_else(
        |e| e.to_string(),
        |tasks| {
            let all: Vec<String> = tasks.flatten().map(|t| one(t.path())).collect();
            all.join(", ")
        },
    )
}

/// One scenario in this process; prints its result.
pub fn one(name: &str) -> Result<()> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    let (name, argument) = name.split_once('=').unwrap_or((name, ""));
    let mut numbers = Numbers::new();
    let started = Instant::now();
    let done = match scenarios::find(name) {
        Some(run) => run(argument, &mut numbers),
        None => Err(anyhow::anyhow!("vm-probe has no scenario of this name")),
    };
    numbers.insert("seconds".into(), json!(started.elapsed().as_secs_f64()));
    let detail = done
        .as_ref()
        .err()
        .map_or(String::new(), |e| format!("{e:#}"));
    println!(
        "{}",
        json!({"scenario": name, "ok": done.is_ok(), "detail": detail, "numbers": numbers})
    );
    Ok(())
}
