//! The command line: verbs, logging, exit codes.

mod check;
mod clip;
mod devices;
mod doctor;
mod extras;
mod init;
mod measure;
mod plugins;
mod run;
mod scaffold;
mod trace;

use std::io::Write;
use std::path::PathBuf;

use clap::{Parser, Subcommand};
use serde::Serialize;
use visualpath_core::PluginError;

use crate::config::{self, Diagnostic, LoadOptions, Loaded};
use crate::exit::Exit;
use crate::pipeline::StartError;
use clip::ClipVerb;
use plugins::PluginsVerb;

/// Vision appliance for ARM camera boards.
#[derive(Debug, Parser)]
#[command(
    name = "visualpath",
    disable_version_flag = true,
    arg_required_else_help = true
)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the appliance: capture, extract, fuse, clip, publish. A file that ends prints a summary.
    Run {
        #[command(flatten)]
        config: ConfigArgs,
        /// Print one JSON document per event on standard output.
        #[arg(long)]
        json: bool,
    },
    /// Check a config: keys, values, references, plugin settings and rules.
    Validate {
        #[command(flatten)]
        config: ConfigArgs,
        /// Also load every model and let every extractor look at a test picture.
        #[arg(long)]
        plugins: bool,
        /// Also run the tests beside the rules: every `[[fusion.<name>.config.test]]`.
        #[arg(long)]
        tests: bool,
        /// Print the findings as JSON.
        #[arg(long)]
        json: bool,
    },
    /// The cameras of this machine: what they can do, who has them open, what to write as `uri`. Exit
    /// code 4 if there is none.
    Devices {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Try out everything the config asks for (camera, models, broker, disk, clock, sandbox) and say
    /// what this board holds of it. Exit code 1 if something does not work.
    Doctor {
        #[command(flatten)]
        config: ConfigArgs,
        /// Open the sources, but do not watch them: no capacity plan.
        #[arg(long)]
        quick: bool,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Find a camera and a broker, measure this board with the real model, and write a config that
    /// it holds, with a snapshot of what was seen.
    Init {
        /// The config to write.
        #[arg(long, value_name = "FILE", default_value = "visualpath.toml")]
        out: PathBuf,
        /// Use this source instead of the best camera: a device, a file, any `uri`.
        #[arg(long, value_name = "URI")]
        source: Option<String>,
        /// Use this broker instead of one that is found.
        #[arg(long, value_name = "URL")]
        broker: Option<String>,
        /// How long to measure.
        #[arg(long, default_value_t = 20.0, value_parser = seconds)]
        seconds: f64,
        /// Write over an older config and snapshot.
        #[arg(long)]
        force: bool,
        /// Write without asking; nobody is asked either where standard input is no terminal.
        #[arg(long)]
        yes: bool,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// The config's schema, a commented full config, or what is in force.
    #[command(subcommand)]
    Config(ConfigVerb),
    /// Plugins: what there is, a new one, the venv of a Python one.
    #[command(subcommand)]
    Plugins(PluginsVerb),
    /// Models this machine has.
    #[command(subcommand)]
    Models(ModelsVerb),
    /// Clips: the list, a new one, are they whole, keep or delete them.
    #[command(subcommand)]
    Clip(ClipVerb),
    /// Look at what a run recorded (`[observability]`).
    #[command(subcommand)]
    Trace(TraceVerb),
    /// Measure: hand-off, overhead, tracing, clips, the whole path; as ratios to floors measured in the same run.
    Bench {
        /// Which: handoff, overhead, motion, trace, clip, pipeline. All if none is named.
        names: Vec<String>,
        /// The video of `pipeline`.
        #[arg(long)]
        video: Option<PathBuf>,
        /// Rounds, in turns with the floors; the median counts.
        #[arg(long, default_value_t = 5)]
        rounds: usize,
        /// A command that runs the same loop in Python over the video given as its argument and
        /// prints {"frames", "wall_s", "cpu_s", "rss_mb"}, as a peer.
        #[arg(long)]
        python_loop: Option<String>,
        /// A Python interpreter with the package `visualpath-edge`, for the rows of Python workers.
        #[arg(long, value_name = "PYTHON")]
        python: Option<PathBuf>,
        /// Print JSON instead of a table.
        #[arg(long)]
        json: bool,
    },
    /// Version, commit, target, features and the inference runtimes found.
    Version {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, clap::Args)]
struct ConfigArgs {
    /// The config. Default: ./visualpath.toml, else /etc/visualpath/visualpath.toml.
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Use this source instead of the config's.
    #[arg(long, value_name = "URI")]
    source: Option<String>,
}

#[derive(Debug, Subcommand)]
enum ConfigVerb {
    /// JSON Schema of the config; with a name, of a message: trigger, clip, gap, info, health, summary,
    /// command, response, clip_args, clip_accepted, clip_list, status.
    Schema {
        /// Of this message instead.
        message: Option<String>,
    },
    /// A commented config with every key.
    Default,
    /// The keys in force, each with where it came from.
    Show {
        #[command(flatten)]
        config: ConfigArgs,
        /// Defaults too.
        #[arg(long)]
        expanded: bool,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Subcommand)]
enum ModelsVerb {
    /// Every card found, with its licences.
    List {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Check every model file's size and sha256.
    Verify {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Run a model with every runtime found.
    Bench {
        /// The model. Default: every one found.
        name: Option<String>,
        /// Runs per runtime.
        #[arg(long, default_value_t = 20)]
        runs: usize,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Subcommand)]
enum TraceVerb {
    /// Run the fusions again on the recorded observations and compare their triggers with the
    /// recorded ones. Takes a trace of level verbose.
    Replay {
        /// The trace.
        file: PathBuf,
        #[command(flatten)]
        config: ConfigArgs,
        /// Print one JSON document per trigger, then one of what it came to.
        #[arg(long)]
        json: bool,
    },
    /// Why each rule did or did not fire at a moment. Takes a trace of level verbose; without a
    /// config it shows what the fusions were given.
    Explain {
        /// The trace.
        file: PathBuf,
        /// The moment, seconds of source time: the last decision at or before it is explained.
        #[arg(long, value_name = "T", allow_negative_numbers = true)]
        at: f64,
        /// The config of the recorded run.
        #[arg(short, long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

/// The program.
pub fn main() -> Exit {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            let code = if e.use_stderr() {
                Exit::Usage
            } else {
                Exit::Ok
            };
            return if e.print().is_ok() {
                code
            } else {
                Exit::Failed
            };
        }
    };
    start_log();
    match cli.verb {
        Verb::Run { config, json } => run::run(&config, json),
        Verb::Validate {
            config,
            plugins,
            tests,
            json,
        } => {
            let wanted = check::Wanted {
                plugins,
                tests,
                json,
            };
            check::validate(&config, wanted)
        }
        Verb::Devices { json } => devices::run(json),
        Verb::Doctor {
            config,
            quick,
            json,
        } => doctor::run(&config, quick, json),
        Verb::Init {
            out,
            source,
            broker,
            seconds,
            force,
            yes,
            json,
        } => init::run(&init::Options {
            out,
            source,
            broker,
            seconds,
            force,
            yes,
            json,
        }),
        Verb::Config(ConfigVerb::Schema { message }) => check::schema(message.as_deref()),
        Verb::Config(ConfigVerb::Default) => say(config::default_text().trim_end()),
        Verb::Config(ConfigVerb::Show {
            config,
            expanded,
            json,
        }) => check::show(&config, expanded, json),
        Verb::Plugins(verb) => plugins::run(verb),
        Verb::Clip(verb) => clip::run(verb),
        Verb::Models(ModelsVerb::List { json }) => extras::models_list(false, json),
        Verb::Models(ModelsVerb::Verify { json }) => extras::models_list(true, json),
        Verb::Models(ModelsVerb::Bench { name, runs, json }) => {
            extras::models_bench(name.as_deref(), runs, json)
        }
        Verb::Trace(TraceVerb::Replay { file, config, json }) => {
            trace::replay(&file, &config, json)
        }
        Verb::Trace(TraceVerb::Explain {
            file,
            at,
            config,
            json,
        }) => trace::explain(&file, at, config, json),
        Verb::Bench {
            names,
            video,
            rounds,
            python_loop,
            python,
            json,
        } => {
            let options = crate::bench::Options {
                names,
                video,
                rounds,
                python_loop,
                python,
            };
            match crate::bench::run(&options) {
                Ok(benches) => benches
                    .iter()
                    .map(|b| {
                        if json {
                            say_json(b)
                        } else {
                            say(&b.to_string())
                        }
                    })
                    .find(|exit| *exit != Exit::Ok)
                    .unwrap_or(Exit::Ok),
                Err(e) => fail(Exit::Failed, &format!("{e:#}")),
            }
        }
        Verb::Version { json } => {
            let version = crate::version::version();
            if json {
                say_json(&version)
            } else {
                say(&version.to_string())
            }
        }
    }
}

/// `--seconds`.
fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(s) if (0.5..=3600.0).contains(&s) => Ok(s),
        _ => Err("expected 0.5 to 3600 seconds".to_owned()),
    }
}

/// Log to standard error; `VISUALPATH_LOG` is a filter like `info,visualpath_mqtt=debug`.
fn start_log() {
    let filter =
        tracing_subscriber::EnvFilter::try_from_env("VISUALPATH_LOG").unwrap_or_else(|_| {
            tracing_subscriber::EnvFilter::new("info,rumqttd=off,tract=warn,ort=warn")
        });
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_target(false)
        .init();
}

/// Finds and loads the config; prints what is wrong with it.
fn load_options(args: &ConfigArgs) -> Result<LoadOptions, Exit> {
    let Some(path) = args.config.clone().or_else(config::find_default) else {
        return Err(fail(
            Exit::Config,
            "no config: give one with -c FILE, or write ./visualpath.toml (start from `visualpath config default`)",
        ));
    };
    let mut options = LoadOptions::new(path);
    options.source_uri.clone_from(&args.source);
    Ok(options)
}

/// Prints findings to standard error, one a line.
fn complain(findings: &[Diagnostic]) {
    for finding in findings {
        complain_line(&finding.to_string());
    }
}

fn complain_line(line: &str) {
    let mut stderr = std::io::stderr().lock();
    // Nobody left to tell.
    drop(writeln!(stderr, "{line}"));
}

/// Prints an error and gives the exit code back.
fn fail(exit: Exit, message: &str) -> Exit {
    complain_line(&format!("visualpath: {message}"));
    exit
}

/// A start error as findings at their places in the config; `None` if it is not about the config.
fn findings_of(loaded: &Loaded, error: &StartError) -> Option<Vec<Diagnostic>> {
    let of = |extractor: &visualpath_core::Name, key: &str| {
        format!("extractor.{extractor}.config.{key}")
    };
    let at = |key: String, message: &str| vec![loaded.error_at(&key, message)];
    match error {
        StartError::Config(wrong) => Some(
            wrong
                .iter()
                .map(|(key, message)| loaded.error_at(key, message.clone()))
                .collect(),
        ),
        StartError::Plugin { extractor, error } => Some(match error {
            PluginError::Config { key, message } => at(of(extractor, key), message),
            PluginError::Model { .. } => at(of(extractor, "model"), &error.to_string()),
            PluginError::Runtime { .. } => at(of(extractor, "runtime"), &error.to_string()),
        }),
        StartError::Fusion { fusion, .. } => {
            Some(at(format!("fusion.{fusion}.config"), &error.to_string()))
        }
        StartError::FusionWorker { fusion, message } => {
            Some(at(format!("fusion.{fusion}"), message))
        }
        StartError::Worker { extractor, message } => {
            Some(at(format!("extractor.{extractor}"), message))
        }
        StartError::WarmUp { extractor, message } => Some(at(
            format!("extractor.{extractor}"),
            &format!("failed on a test picture: {message}"),
        )),
        _ => None,
    }
}

/// Says what is wrong, at its place in the config where it has one.
fn refuse(loaded: &Loaded, error: &StartError) -> Exit {
    match findings_of(loaded, error) {
        Some(findings) => {
            complain(&findings);
            exit_of(error)
        }
        None => fail(exit_of(error), &error.to_string()),
    }
}

fn exit_of(error: &StartError) -> Exit {
    match error {
        StartError::Config(_)
        | StartError::Plugin {
            error: PluginError::Config { .. },
            ..
        } => Exit::Config,
        StartError::Plugin { .. }
        | StartError::Fusion { .. }
        | StartError::Worker { .. }
        | StartError::FusionWorker { .. }
        | StartError::WarmUp { .. } => Exit::Plugin,
        StartError::Source { .. } => Exit::Source,
        StartError::Broker(_) => Exit::Broker,
        StartError::Pool { .. }
        | StartError::StateDir { .. }
        | StartError::Evidence(_)
        | StartError::Thread(_) => Exit::Failed,
    }
}

/// Prints a text on standard output. A closed pipe (`| head`) is no error.
fn say(text: &str) -> Exit {
    let mut stdout = std::io::stdout().lock();
    match writeln!(stdout, "{text}").and_then(|()| stdout.flush()) {
        Ok(()) => Exit::Ok,
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Exit::Ok,
        Err(e) => fail(Exit::Failed, &format!("standard output: {e}")),
    }
}

fn say_json(document: &impl Serialize) -> Exit {
    match serde_json::to_string(document) {
        Ok(json) => say(&json),
        Err(e) => fail(
            Exit::Failed,
            &format!("the answer can't be written as JSON: {e}"),
        ),
    }
}
