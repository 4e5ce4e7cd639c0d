//! Starts the evidence lane and asks it for clips.

use std::sync::Arc;

use crossbeam_channel::Sender;
use visualpath_core::{Clock, NS_PER_S, Name, Trigger};
use visualpath_media::clip::{
    After, Beside, ClipRequest, ClipResult, ClipStore, EvidenceLane, LaneOptions, Unheard,
};
use visualpath_media::encode::{Bitrate, EncoderKind, H264Encoder, H264Options};

use super::StartError;
use super::build::Pace;
use crate::config::{ClipCodec, ClipDelivery, ClipEncoder, Config};

/// Frames that may wait for the encoder.
pub const QUEUE: usize = 4;

/// The clips of all sources, and what is made of them afterwards.
pub struct Clips {
    /// Where they are.
    pub store: Arc<ClipStore>,
    /// What is wanted beside them.
    pub beside: Beside,
    after: Option<After>,
}

impl Clips {
    /// Without what is made of them.
    #[cfg(test)]
    pub fn only(store: Arc<ClipStore>) -> Self {
        Self {
            store,
            beside: Beside::default(),
            after: None,
        }
    }

    /// One has been told of.
    pub fn add(&self, result: &ClipResult) {
        if let Some(after) = &self.after {
            after.add(result);
        }
    }
}

/// The directory of clips, shared by all sources: they have one quota. With the clips of an earlier
/// process that nobody was told of.
///
/// # Errors
/// If it can't be used.
pub fn store(config: &Config) -> Result<(Clips, Vec<Unheard>), StartError> {
    let dir = config.clip.dir.to_string_lossy();
    let store = ClipStore::open(&config.device.state_dir, &dir, config.clip.quota_bytes)
        .map_err(|e| StartError::config("clip.dir", &e.to_string()))?;
    let unheard = store
        .take_over()
        .map_err(|e| StartError::Evidence(e.to_string()))?;
    let beside = Beside {
        still: config.clip.still,
        copy: config.clip.deliver == ClipDelivery::Auto,
    };
    let after = match After::start(&store, beside, h264(config)) {
        Ok(after) => Some(after),
        Err(e) => {
            tracing::warn!(error = %e, "no thread for stills and copies: clips are without");
            None
        }
    };
    let clips = Clips {
        store,
        beside,
        after,
    };
    Ok((clips, unheard))
}

/// Starts the encoder and clip threads of one source; results go to the events thread.
///
/// # Errors
/// If there is no encoder or no thread.
pub fn start(
    config: &Config,
    store: Arc<ClipStore>,
    pace: &Pace,
    clock: Arc<dyn Clock>,
    results: Sender<ClipResult>,
) -> Result<EvidenceLane, StartError> {
    let mut options = LaneOptions::new(pace.source.clone(), store);
    options.realtime = pace.realtime;
    options.ring_bytes = usize::try_from(config.clip.ring_bytes).unwrap_or(usize::MAX);
    options.gop_s = config.clip.gop_s;
    options.bitrate = bitrate(config);
    options.fps = pace.fps.unwrap_or(options.fps);
    options.codec = encoder_kind(config);
    options.h264 = h264(config);
    if options.codec == EncoderKind::H264 {
        options
            .h264
            .check()
            .map_err(|e| StartError::config("clip.openh264_library", &e.to_string()))?;
    }
    options.merge_max_ns = merge_max_ns(config);
    options.queue = QUEUE;
    options.clock = clock;
    EvidenceLane::start(options, move |result| {
        if results.send(result).is_err() {
            tracing::error!("the events thread is gone; a clip's result is lost");
        }
    })
    .map_err(|e| StartError::Evidence(e.to_string()))
}

/// How much clips that share a file may ask for together, if any may.
fn merge_max_ns(config: &Config) -> Option<i64> {
    #[expect(clippy::cast_possible_truncation, reason = "at most an hour")]
    let max_ns = (config.clip.merge_max_s.clamp(0.0, 3600.0) * NS_PER_S as f64) as i64;
    config.clip.merge.then_some(max_ns)
}

/// What encodes clips.
pub fn encoder_kind(config: &Config) -> EncoderKind {
    match config.clip.codec {
        ClipCodec::Auto | ClipCodec::H264 => EncoderKind::H264,
        ClipCodec::Mjpeg => EncoderKind::Mjpeg,
    }
}

/// By what H.264 is made.
pub fn h264(config: &Config) -> H264Options {
    H264Options {
        encoder: match config.clip.encoder {
            ClipEncoder::Auto => H264Encoder::Auto,
            ClipEncoder::Hardware => H264Encoder::Hardware,
            ClipEncoder::OpenH264 => H264Encoder::OpenH264,
            ClipEncoder::OpenH264Lib => H264Encoder::OpenH264Lib,
        },
        library: config.clip.openh264_library.clone(),
        threads: config.clip.threads,
    }
}

/// Bits that clips may take.
pub fn bitrate(config: &Config) -> Bitrate {
    match config.clip.bitrate.value() {
        None => Bitrate::Auto,
        Some(bits) => Bitrate::BitsPerS(u32::try_from(bits).unwrap_or(u32::MAX)),
    }
}

/// What a trigger asks of the lane.
pub fn clip_request(
    id: &str,
    path: &Name,
    trigger: &Trigger,
    trigger_id: &str,
    wall_ns: i64,
) -> ClipRequest {
    ClipRequest {
        id: id.to_owned(),
        trigger_id: trigger_id.to_owned(),
        path: path.clone(),
        label: trigger.label.clone(),
        event_ns: trigger.t_ns,
        wall_ns,
        start_ns: trigger.t_start_ns,
        end_ns: trigger.t_end_ns,
        best_ns: trigger.best_ns,
    }
}
