//! `visualpath run`.

use std::sync::{Arc, Mutex, PoisonError};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;

use super::{ConfigArgs, complain, fail, load_options, refuse};
use crate::builtin;
use crate::config::{self, LoadOptions, Start};
use crate::exit::Exit;
use crate::pipeline::out::Print;
use crate::pipeline::reload::ReloadError;
use crate::pipeline::{Handle, Pipeline, Report, problem};

pub fn run(args: &ConfigArgs, json: bool) -> Exit {
    let options = match load_options(args) {
        Ok(options) => options,
        Err(exit) => return exit,
    };
    let (loaded, broken) = match config::load_or_last_good(&options) {
        Ok(Start::Asked(loaded)) => (loaded, None),
        Ok(Start::LastGood {
            loaded,
            file,
            broken,
        }) => {
            complain(&broken);
            let detail = format!(
                "{} is broken; running the last good config {}",
                options.path.display(),
                file.display()
            );
            tracing::error!("{detail}");
            (*loaded, Some(detail))
        }
        Err(findings) => {
            complain(&findings);
            return Exit::Config;
        }
    };
    complain(&loaded.warnings);
    let registry = match builtin::registry() {
        Ok(registry) => registry,
        Err(e) => return fail(Exit::Plugin, &e.to_string()),
    };
    let print = if json { Print::Json } else { Print::Text };
    let mut pipeline = Pipeline::new(loaded.config.clone(), registry).print(print);
    if let Some(detail) = broken {
        let advice = "correct the config (`visualpath validate`) and restart";
        pipeline = pipeline.problem(problem(
            "config_invalid",
            &options.path.display().to_string(),
            &detail,
            advice,
        ));
    } else {
        let (options, kept) = (options.clone(), loaded.clone());
        pipeline = pipeline.on_started(Box::new(move || {
            if let Err(e) = config::save_last_good(&options, &kept) {
                tracing::warn!(error = %e, "this config can't be kept as the last good one");
            }
        }));
    }
    let signals = match Signals::new([SIGTERM, SIGINT, SIGHUP, SIGUSR1]) {
        Ok(signals) => signals,
        Err(e) => return fail(Exit::Failed, &format!("signal handlers: {e}")),
    };
    let handle = signals.handle();
    let reload = Reload {
        options,
        handle: pipeline.handle(),
        turn: Arc::default(),
    };
    let watcher = match watch(signals, reload) {
        Ok(watcher) => watcher,
        Err(e) => return fail(Exit::Failed, &format!("the signal thread: {e}")),
    };
    let result = pipeline.run();
    handle.close();
    if watcher.join().is_err() {
        tracing::error!("the signal thread panicked");
    }
    match result {
        Err(e) => refuse(&loaded, &e),
        Ok(Report { error: Some(e), .. }) => refuse(&loaded, &e),
        Ok(report) if !report.stragglers.is_empty() => Exit::Failed,
        // Kept in memory only, they are lost.
        Ok(report) if report.summary.events_undelivered > 0 => Exit::Broker,
        Ok(_) => Exit::Ok,
    }
}

/// What SIGHUP does: the files are read again and, if they are good, in force.
struct Reload {
    options: LoadOptions,
    handle: Handle,
    /// One after the other: the file read last is the one in force.
    turn: Arc<Mutex<()>>,
}

impl Reload {
    /// On a thread of its own, so that a stop is heard while models load.
    fn start(&self) {
        let (options, handle) = (self.options.clone(), self.handle.clone());
        let turn = Arc::clone(&self.turn);
        let body = move || {
            let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
            let loaded = match config::load(&options) {
                Ok(loaded) => loaded,
                Err(findings) => {
                    complain(&findings);
                    tracing::error!("the new config can't be used; nothing changed");
                    handle.config_invalid(&options.path, &findings);
                    return;
                }
            };
            complain(&loaded.warnings);
            match handle.reload(loaded.config.clone()) {
                Ok(reloaded) => {
                    handle.config_valid(&options.path);
                    if !reloaded.restart.is_empty() {
                        let sections = reloaded.restart.join(", ");
                        tracing::warn!(sections, "changed, but read at start only: restart");
                    }
                    if let Err(e) = config::save_last_good(&options, &loaded) {
                        tracing::warn!(error = %e, "this config can't be kept as the last good one");
                    }
                }
                Err(ReloadError::Config(e)) => {
                    let findings = super::findings_of(&loaded, &e).unwrap_or_default();
                    complain(&findings);
                    handle.config_invalid(&options.path, &findings);
                }
                Err(e) => tracing::error!(error = %e, "not reloaded"),
            }
        };
        let started = std::thread::Builder::new()
            .name("reload".to_owned())
            .spawn(body);
        if let Err(e) = started {
            tracing::error!(error = %e, "not reloaded: no thread");
        }
    }
}

/// The first SIGTERM or SIGINT stops gracefully, the second at once.
fn watch(mut signals: Signals, reload: Reload) -> std::io::Result<std::thread::JoinHandle<()>> {
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            let mut seen = false;
            for signal in signals.forever() {
                match signal {
                    SIGHUP => {
                        reload.start();
                        continue;
                    }
                    SIGUSR1 => {
                        reload.handle.dump_status();
                        continue;
                    }
                    _ => {}
                }
                if seen {
                    tracing::warn!(signal, "second signal: stopping at once");
                    std::process::exit(128 + signal);
                }
                seen = true;
                tracing::info!(signal, "stopping; a second signal stops at once");
                reload.handle.stop();
            }
        })
}
