//! The child's side of a conversation, from hello to shutdown.

use std::sync::Arc;
use std::time::Instant;

use visualpath_core::{
    ExtractorPlugin, FrameView, Guarded, ImageLayout, Name, Observation, PixelFormat,
    PluginContext, PluginError, Trouble,
};
use visualpath_frames::{PoolReader, ShareError};
use visualpath_protocol::{
    ChildHello, Codec, ConvertError, EncodeError, Envelope, ErrorKind, ErrorReport, Extract,
    FromChild, FromParent, Input, Model, Models, Nothing, Observations, PROTOCOL, ParentHello,
    PixelsIn, Pong, Ready, SignalNames, Timing,
};

use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use crate::channel::{Came, Channel};

/// Exit code of a worker that put itself on Hold: it is not to be started again.
pub const HELD_EXIT: u8 = 69;
/// Exit code when its config or model is at fault: neither.
const CONFIG_EXIT: u8 = 78;

/// Why a worker ended other than by being told so.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Not started by the appliance.
    #[error(
        "{0} is not set: this is a worker, which the appliance starts; `visualpath plugins test NAME` tries one alone"
    )]
    NotAWorker(&'static str),
    /// Its socket.
    #[error("the socket to the appliance: {0}")]
    Socket(#[from] zmq::Error),
    /// Its pools.
    #[error(transparent)]
    Pools(#[from] ShareError),
    /// A message that can't be made.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// What the parent said makes no sense.
    #[error("the appliance's hello: {0}")]
    Hello(String),
    /// The parent refused it.
    #[error("the appliance refused this worker: {0}")]
    Refused(String),
    /// The plugin can't be made.
    #[error(transparent)]
    Plugin(#[from] PluginError),
    /// Too many panics.
    #[error("on Hold: {0}")]
    Held(String),
}

impl ServeError {
    /// What a process that ends for this reason exits with.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Held(_) => HELD_EXIT,
            Self::Plugin(_) => CONFIG_EXIT,
            _ => 1,
        }
    }
}

/// Serves an extractor to the appliance that started this process, until it says shutdown or is
/// gone. Call it from `main`, on the main thread.
///
/// # Errors
/// When this is no worker process, the plugin can't be made, or the appliance breaks the protocol.
pub fn serve(plugin: Arc<dyn ExtractorPlugin>) -> Result<(), ServeError> {
    let (mut channel, token) = Channel::open()?;
    channel.send(0, &hello(&*plugin, token))?;
    let Some((id, hello)) = greeted(&mut channel)? else {
        return Ok(());
    };
    let codec: Codec = hello
        .codec
        .parse()
        .map_err(|e| ServeError::Hello(format!("{e}")))?;
    channel.speak(codec);
    let made = context(&*plugin, hello).and_then(|context| {
        let made = make(&plugin, &context)?;
        Ok((context, made))
    });
    let (context, (extractor, ready)) = match made {
        Ok(made) => made,
        Err(e) => {
            channel.send(id, &FromChild::Error(report(&e)))?;
            return Err(e);
        }
    };
    channel.send(id, &FromChild::Ready(ready))?;
    let mut server = Server {
        name: context.name,
        extractor,
        pools: Vec::new(),
    };
    server.run(&mut channel)
}

fn hello(plugin: &dyn ExtractorPlugin, token: String) -> FromChild {
    FromChild::Hello(ChildHello {
        token,
        name: plugin.name().to_owned(),
        version: plugin.version().to_owned(),
        protocols: vec![PROTOCOL],
        codecs: vec![
            Codec::Postcard1.as_str().into(),
            Codec::Json1.as_str().into(),
        ],
        // Both depend on the config: `ready` says them.
        signals: Vec::new(),
        input: None,
    })
}

/// The parent's hello; `None` when it went away instead.
fn greeted(channel: &mut Channel) -> Result<Option<(u64, ParentHello)>, ServeError> {
    match channel.receive()? {
        Came::End => Ok(None),
        Came::Message(Envelope { id, message }, _) => match message {
            FromParent::Hello(hello) => Ok(Some((id, hello))),
            FromParent::Shutdown(_) => Ok(None),
            FromParent::Error(e) => Err(ServeError::Refused(e.error)),
            _ => Err(ServeError::Hello("something else came first".to_owned())),
        },
    }
}

fn context(plugin: &dyn ExtractorPlugin, hello: ParentHello) -> Result<PluginContext, ServeError> {
    let bad = |e: &dyn std::fmt::Display| ServeError::Hello(e.to_string());
    let name = hello.name.unwrap_or_else(|| plugin.name().to_owned());
    let zones = hello.zones.into_iter().map(TryInto::try_into);
    let masks = hello.masks.unwrap_or_default().0;
    let masks = masks.into_iter().map(TryInto::try_into);
    Ok(PluginContext {
        name: Name::new(&name).map_err(|e| bad(&e))?,
        config: hello.config.into_map(),
        zones: zones
            .collect::<Result<_, ConvertError>>()
            .map_err(|e| bad(&e))?,
        masks: masks
            .collect::<Result<_, ConvertError>>()
            .map_err(|e| bad(&e))?,
        model_dirs: hello
            .model_dirs
            .map(|dirs| dirs.0.into_iter().map(Into::into).collect())
            .unwrap_or_default(),
    })
}

fn make(
    plugin: &Arc<dyn ExtractorPlugin>,
    context: &PluginContext,
) -> Result<(Guarded, Ready), ServeError> {
    let input = plugin.input(context)?;
    let signals = plugin.signals(context)?;
    let (again, its_context) = (Arc::clone(plugin), context.clone());
    let extractor = Guarded::new(Box::new(move || again.create(&its_context)))?;
    let models: Vec<Model> = extractor.models().iter().map(Model::from).collect();
    let ready = Ready {
        signals: Some(SignalNames(signals)),
        input: Some(Input::from(&input)),
        models: Some(Models(models)),
    };
    Ok((extractor, ready))
}

fn report(error: &ServeError) -> ErrorReport {
    let kind = match error {
        ServeError::Plugin(PluginError::Config { .. }) => ErrorKind::Config,
        ServeError::Plugin(PluginError::Model { .. }) => ErrorKind::Model,
        ServeError::Plugin(PluginError::Runtime { .. }) => ErrorKind::Runtime,
        _ => ErrorKind::Protocol,
    };
    ErrorReport {
        error: error.to_string(),
        traceback: None,
        kind: Some(kind),
    }
}

fn failed(error: impl Into<String>) -> FromChild {
    FromChild::Error(ErrorReport {
        error: error.into(),
        traceback: None,
        kind: Some(ErrorKind::Plugin),
    })
}

/// Pools that are kept: frames of the one before the newest may still come.
const POOLS: usize = 2;

/// A worker that is ready.
struct Server {
    name: Name,
    extractor: Guarded,
    pools: Vec<(u32, PoolReader)>,
}

impl Server {
    fn run(&mut self, channel: &mut Channel) -> Result<(), ServeError> {
        loop {
            let (id, message, pixels) = match channel.receive()? {
                Came::End => return Ok(()),
                Came::Message(Envelope { id, message }, pixels) => (id, message, pixels),
            };
            let started = Instant::now();
            let answer = match message {
                FromParent::Extract(extract) => self.extract(*extract, pixels.as_deref(), started),
                FromParent::Pool(pool) => match self.take_pool(channel, pool.pool_id) {
                    Ok(()) => FromChild::Ok(Nothing {}),
                    Err(e) => failed(e.to_string()),
                },
                FromParent::Reset(_) => match self.extractor.reset(0) {
                    Ok(()) => FromChild::Ok(Nothing {}),
                    Err(trouble) => failed(format!("in reset(): {trouble}")),
                },
                FromParent::Ping(_) => FromChild::Pong(Pong {
                    extractor: self.name.as_str().to_owned(),
                }),
                FromParent::Shutdown(_) => return Ok(()),
                FromParent::Fuse(_) | FromParent::Gap(_) | FromParent::End(_) => {
                    failed("this worker is an extractor, not a fusion")
                }
                FromParent::Hello(_) => failed("a second hello"),
                // Nothing of ours that it refuses can be helped.
                FromParent::Error(e) => {
                    tracing::warn!(error = e.error, "the appliance refused a message");
                    continue;
                }
            };
            channel.send(id, &answer)?;
            if let Some(why) = self.extractor.held() {
                return Err(ServeError::Held(why.to_owned()));
            }
        }
    }

    fn take_pool(&mut self, channel: &Channel, wanted: u32) -> Result<(), ShareError> {
        let (pool_id, reader) = channel.pools.receive()?;
        if pool_id != wanted {
            return Err(ShareError::NoPool(
                "it is another pool than its message says",
            ));
        }
        self.pools.retain(|(id, _)| *id != pool_id);
        if self.pools.len() == POOLS {
            self.pools.remove(0);
        }
        self.pools.push((pool_id, reader));
        Ok(())
    }

    fn extract(&mut self, extract: Extract, beside: Option<&[u8]>, started: Instant) -> FromChild {
        match self.look(extract, beside, started) {
            Ok((observations, extract_ns)) => FromChild::Observations(Observations {
                items: observations,
                timing: Timing {
                    extract_ns,
                    total_ns: elapsed_ns(started),
                },
            }),
            Err(why) => failed(why),
        }
    }

    fn look(
        &mut self,
        extract: Extract,
        beside: Option<&[u8]>,
        started: Instant,
    ) -> Result<(Vec<visualpath_protocol::Observation>, i64), String> {
        let text = |e: ConvertError| e.to_string();
        let frame = &extract.frame;
        let layout = frame.layout().map_err(text)?;
        let meta = frame.meta().map_err(text)?;
        let deps = extract.deps.into_iter().map(|dep| {
            let of = dep.extractor_name()?;
            dep.into_core(&of, meta.t_ns)
        });
        let deps: Vec<Observation> = deps.collect::<Result<_, _>>().map_err(text)?;
        let decoded;
        let pixels = match frame.pixels.unwrap_or(PixelsIn::Slot) {
            PixelsIn::Slot => {
                let pool = self.pools.iter().find(|(id, _)| *id == frame.pool_id);
                let (_, pool) = pool.ok_or_else(|| format!("pool {} never came", frame.pool_id))?;
                let generation = pool.header(frame.slot).map(|h| h.generation());
                if generation != Some(frame.generation) {
                    return Err(format!(
                        "slot {} of pool {} holds filling {generation:?}, not {}: the appliance gave it away too early",
                        frame.slot, frame.pool_id, frame.generation
                    ));
                }
                pool.bytes(frame.offset, layout.bytes())
            }
            PixelsIn::Raw => beside.and_then(|b| b.get(..layout.bytes())),
            PixelsIn::Jpeg => {
                let jpeg = beside.ok_or("there is no JPEG beside the message")?;
                decoded = decode(jpeg, &layout)?;
                decoded.get(..layout.bytes())
            }
        };
        let pixels = pixels.ok_or_else(|| {
            format!(
                "{} bytes of pixels are not where the message says",
                layout.bytes()
            )
        })?;
        let view = FrameView {
            meta,
            layout,
            roi: frame.roi(),
            pixels,
        };
        let answer = self.extractor.extract(&view, &deps, false);
        let extract_ns = elapsed_ns(started);
        let observations = answer.map_err(|trouble| {
            if let Trouble::Panicked(text) = &trouble {
                tracing::error!(panic = text, "extractor panicked; making it again");
            }
            trouble.to_string()
        })?;
        let wire = observations.iter().map(|o| {
            o.check_finite().map_err(|e| e.to_string())?;
            visualpath_protocol::Observation::from_core(o).map_err(text)
        });
        Ok((wire.collect::<Result<_, String>>()?, extract_ns))
    }
}

/// The pixels of a JPEG, in the format of `layout`.
fn decode(jpeg: &[u8], layout: &ImageLayout) -> Result<Vec<u8>, String> {
    let colour = match layout.format {
        PixelFormat::Rgb => ColorSpace::RGB,
        PixelFormat::Bgr => ColorSpace::BGR,
        PixelFormat::Grey => ColorSpace::Luma,
        other => return Err(format!("a JPEG of a {other:?} picture")),
    };
    let options = DecoderOptions::default()
        .jpeg_set_out_colorspace(colour)
        .set_max_width(layout.width as usize)
        .set_max_height(layout.height as usize);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(jpeg), options);
    let pixels = decoder.decode().map_err(|e| format!("JPEG: {e}"))?;
    let size = decoder.dimensions();
    if size != Some((layout.width as usize, layout.height as usize)) {
        return Err(format!(
            "the JPEG is {size:?}, not {}×{}",
            layout.width, layout.height
        ));
    }
    Ok(pixels)
}

fn elapsed_ns(since: Instant) -> i64 {
    i64::try_from(since.elapsed().as_nanos()).unwrap_or(i64::MAX)
}
