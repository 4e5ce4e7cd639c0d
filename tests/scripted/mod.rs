//! An extractor that does what its config says: the same code inline, on a thread and in a process
//! (`scripted-worker`), so that the three can be compared, and misbehaves where it is told to.
//!
//! | key | what |
//! |---|---|
//! | `seed` | answers are random, decided by it and the frame's number alone; absent: one plain observation |
//! | `input` | `native` `grey` `rgb` `bgr` `letterbox` |
//! | `panic_at` | frames it panics at |
//! | `acts` | `[{ at = 30, act = "sigkill", arg = 0 }]`: done once per process, at the first frame from `at` on that comes before `at` + 10 |
//! | `always` | an act done at every frame from the one named by `from` on |
//! | `bye` | writes a file `bye` into its working directory when it is dropped |
//! | `model` | says that it is missing |

pub mod deeds;

use visualpath_core::{
    ExtractError, Extractor, ExtractorPlugin, Fit, FrameView, Name, Object, Observation,
    PluginContext, PluginError, ViewFormat, ViewSpec,
};

use serde_json::{Map, Value, json};

use deeds::Deed;

/// The plugin.
#[derive(Debug)]
pub struct Scripted;

impl ExtractorPlugin for Scripted {
    fn name(&self) -> &str {
        "scripted"
    }

    fn version(&self) -> &str {
        "1.0.0"
    }

    fn input(&self, cx: &PluginContext) -> Result<ViewSpec, PluginError> {
        let view = |format| ViewSpec {
            format,
            ..ViewSpec::default()
        };
        Ok(match cx.config.get("input").and_then(Value::as_str) {
            None | Some("native") => ViewSpec::default(),
            Some("grey") => view(ViewFormat::Grey),
            Some("rgb") => view(ViewFormat::Rgb),
            Some("bgr") => view(ViewFormat::Bgr),
            Some("letterbox") => ViewSpec {
                format: ViewFormat::Rgb,
                size: Some((96, 96)),
                fit: Fit::Letterbox,
                ..ViewSpec::default()
            },
            Some(other) => {
                return Err(wrong("input", format!("`{other}` is no view")));
            }
        })
    }

    fn signals(&self, _: &PluginContext) -> Result<Vec<String>, PluginError> {
        Ok(Vec::new())
    }

    fn create(&self, cx: &PluginContext) -> Result<Box<dyn Extractor>, PluginError> {
        let config = &cx.config;
        if let Some(model) = config.get("model").and_then(Value::as_str) {
            return Err(PluginError::Model {
                model: model.to_owned(),
                message: "there is no such model; run set-up".to_owned(),
            });
        }
        let mut acts = Vec::new();
        for (i, act) in list(config, "acts").iter().enumerate() {
            acts.push((
                act["at"].as_u64().unwrap_or(0),
                deed(act, &format!("acts[{i}]"))?,
            ));
        }
        let always = match config.get("always") {
            None => None,
            Some(act) => Some((act["from"].as_u64().unwrap_or(0), deed(act, "always")?)),
        };
        Ok(Box::new(Actor {
            name: cx.name.clone(),
            seed: config.get("seed").and_then(Value::as_u64),
            panic_at: list(config, "panic_at")
                .iter()
                .filter_map(Value::as_u64)
                .collect(),
            acts,
            always,
            seen: 0,
            bye: config.get("bye").is_some(),
        }))
    }
}

fn list<'a>(config: &'a Map<String, Value>, key: &str) -> &'a [Value] {
    config
        .get(key)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

fn wrong(key: &str, message: String) -> PluginError {
    PluginError::Config {
        key: key.to_owned(),
        message,
    }
}

fn deed(act: &Value, key: &str) -> Result<Deed, PluginError> {
    let word = act["act"].as_str().unwrap_or("");
    let arg = act["arg"].as_u64().unwrap_or(0);
    Deed::new(word, arg).ok_or_else(|| wrong(&format!("{key}.act"), format!("`{word}` is no act")))
}

/// Frames after `at` at which an act may still be done, should that very frame have been dropped.
const CHANCE: u64 = 10;

struct Actor {
    name: Name,
    seed: Option<u64>,
    panic_at: Vec<u64>,
    acts: Vec<(u64, Deed)>,
    always: Option<(u64, Deed)>,
    /// Frames since the last reset.
    seen: u32,
    bye: bool,
}

impl Extractor for Actor {
    fn extract(
        &mut self,
        frame: &FrameView<'_>,
        deps: &[Observation],
    ) -> Result<Vec<Observation>, ExtractError> {
        self.seen += 1;
        let id = frame.meta.frame_id;
        assert!(!self.panic_at.contains(&id), "told to panic at {id}");
        let mut plain = Observation::new(self.name.clone(), id, frame.meta.t_ns);
        plain.signals.set("seen", f64::from(self.seen));
        plain.signals.set("pixels", checksum(frame.pixels));
        plain.signals.set("left", frame.roi.l);
        plain.signals.set("top", frame.roi.t);
        for dep in deps {
            for (signal, value) in dep.signals.iter() {
                let name = format!("{}_{signal}", dep.extractor);
                plain.signals.set(name, value);
            }
            let told = json!({"data": dep.data, "metadata": dep.metadata, "t_ns": dep.t_ns, "confidence": dep.confidence});
            plain.data.other.insert(dep.extractor.to_string(), told);
        }
        let due = self
            .acts
            .iter()
            .position(|(at, _)| (*at..at + CHANCE).contains(&id));
        let due = match due {
            Some(i) => Some(self.acts.remove(i).1),
            None => self
                .always
                .as_ref()
                .filter(|(from, _)| id >= *from)
                .map(|(_, deed)| deed.clone()),
        };
        if let Some(deed) = due {
            deeds::act(&deed, frame.pixels, &mut plain.signals)?;
        }
        match self.seed {
            None => Ok(vec![plain]),
            Some(seed) => Random(seed ^ id.wrapping_mul(0x9e37_79b9_7f4a_7c15)).answer(plain),
        }
    }

    fn reset(&mut self) {
        self.seen = 0;
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        if self.bye
            && let Err(e) = std::fs::write("bye", "")
        {
            tracing::warn!(error = %e, "no bye");
        }
    }
}

/// FNV-1a, of which a double holds 52 bits.
#[expect(clippy::cast_precision_loss, reason = "52 bits fit")]
pub fn checksum(pixels: &[u8]) -> f64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in pixels {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    (hash >> 12) as f64
}

/// Answers that are decided by one number.
struct Random(u64);

impl Random {
    /// SplitMix64.
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn pick(&mut self, n: u64) -> usize {
        usize::try_from(self.below(n)).unwrap_or(0)
    }

    /// 0–1.
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit")]
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Any finite number, small, large, whole, negative zero.
    #[expect(clippy::cast_precision_loss, reason = "any number will do")]
    fn number(&mut self) -> f64 {
        match self.below(6) {
            0 => -0.0,
            1 => self.below(1000) as f64,
            2 => -self.unit(),
            3 => self.unit() * 1e-300,
            _ => {
                let any = f64::from_bits(self.next());
                if any.is_finite() { any } else { 0.1 }
            }
        }
    }

    fn answer(mut self, plain: Observation) -> Result<Vec<Observation>, ExtractError> {
        match self.below(100) {
            0..6 => Err(ExtractError(format!("told to fail: ü {}", self.next()))),
            6..9 => {
                let mut nan = plain;
                let bad = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY][self.pick(3)];
                nan.signals.set("broken", bad);
                Ok(vec![nan])
            }
            9..18 => Ok(Vec::new()),
            18..30 => {
                let several = 2 + self.below(4);
                let each = |_| self.enrich(plain.clone());
                Ok((0..several).map(each).collect())
            }
            _ => Ok(vec![self.enrich(plain)]),
        }
    }

    fn enrich(&mut self, mut seen: Observation) -> Observation {
        for name in ["a", "b_c", "zähler", "count"] {
            if self.below(3) > 0 {
                seen.signals.set(name, self.number());
            }
        }
        for _ in 0..self.below(4) {
            let object = self.object();
            seen.data.objects.push(object);
        }
        seen.data.other.insert("nested".to_owned(), self.json(4));
        seen.metadata.insert("meta".to_owned(), self.json(2));
        if self.below(2) == 0 {
            seen.confidence = Some(self.unit());
        }
        if self.below(4) == 0 {
            seen.t_ns -= 7;
        }
        seen
    }

    fn object(&mut self) -> Object {
        let (x, y) = (self.unit() * 0.5, self.unit() * 0.5);
        let bbox = [x, y, x + self.unit() * 0.5, y + self.unit() * 0.5];
        let points = self.below(3);
        Object {
            track_id: (self.below(2) == 0).then(|| self.next()),
            label: ["person", "Coffee cup", "Fußgänger"][self.pick(3)].to_owned(),
            score: self.unit(),
            bbox,
            area: (bbox[2] - bbox[0]) * (bbox[3] - bbox[1]),
            zones: Vec::new(),
            keypoints: (0..points)
                .map(|_| [self.unit(), self.unit(), self.unit()])
                .collect(),
        }
    }

    fn json(&mut self, depth: u64) -> Value {
        let inner = self.below(3);
        match self.below(if depth == 0 { 5 } else { 8 }) {
            0 => Value::Null,
            1 => json!(self.number()),
            2 => json!(self.next()),
            3 => json!("\"quoted\" \\ \u{1f600} \n\u{0}"),
            4 => json!(self.next().cast_signed()),
            5 => json!(self.below(2) == 0),
            6 => (0..inner).map(|_| self.json(depth - 1)).collect(),
            _ => {
                let entry = |i| (format!("key {i}"), self.json(depth - 1));
                Value::Object((0..inner).map(entry).collect())
            }
        }
    }
}
