//! Between the wire and the words of `visualpath-core`.
//!
//! To the wire, only a number that is not finite stands in the way. From the wire everything is
//! checked that core's types promise; what fails is an error of that observation, trigger or frame
//! alone, not of the message.

use serde::Deserialize;
use serde_json::{Map, Value};
use visualpath_core::{
    ColorSpec, Data, FrameMeta, ImageLayout, ModelUse, Name, NameError, Roi, ViewSpec, ZoneError,
};

use crate::bounds::MAX_OBJECTS;
use crate::message::*;

/// Sides of a picture at most, as the frame pool has it, pixels.
const MAX_SIDE: u32 = 16_384;

/// Why something on the wire is not what core means by it, or the other way round.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ConvertError {
    /// Not a name.
    #[error("{at}: {error}")]
    Name {
        /// The field.
        at: &'static str,
        /// What is wrong.
        error: NameError,
    },
    /// A number that JSON can't say.
    #[error("{at} is not a finite number")]
    NotFinite {
        /// The field.
        at: String,
    },
    /// `data` that has `objects` in another form than the platform's.
    #[error(
        "data.objects[{index}]: {reason}: expected {{label, score, bbox: [l, t, r, b], …}}; give anything else another key than `objects`"
    )]
    Object {
        /// Which object.
        index: usize,
        /// What is wrong.
        reason: String,
    },
    /// `data.objects` is no list, or too long a one.
    #[error("data.objects must be a list of at most {MAX_OBJECTS} objects")]
    Objects,
    /// `data.other` has a key that is the objects' own.
    #[error("data has objects and another value under `objects`")]
    TwoObjects,
    /// A side that no picture has.
    #[error("a picture of {width}×{height}: both sides must be 1 to {MAX_SIDE}")]
    Sides {
        /// Pixels across.
        width: u32,
        /// Pixels down.
        height: u32,
    },
    /// Rows or planes with gaps between them.
    #[error("rows of {stride} bytes where a packed picture has {packed}: padding is not supported")]
    Stride {
        /// As told.
        stride: usize,
        /// As it should be.
        packed: usize,
    },
    /// A view with a width and no height, or the other way round.
    #[error("input: width and height must both be there, or neither")]
    HalfASize,
    /// Not a zone.
    #[error("zone {name}: {error}")]
    Zone {
        /// Its name.
        name: String,
        /// What is wrong.
        error: ZoneError,
    },
    /// Not a mask.
    #[error("mask {name}: {error}")]
    Mask {
        /// Its name.
        name: String,
        /// What is wrong.
        error: ZoneError,
    },
}

pub(crate) fn named(at: &'static str, text: &str) -> Result<Name, ConvertError> {
    Name::new(text).map_err(|error| ConvertError::Name { at, error })
}

fn finite<'a>(at: &str, numbers: impl IntoIterator<Item = &'a f64>) -> Result<(), ConvertError> {
    if numbers.into_iter().all(|n| n.is_finite()) {
        return Ok(());
    }
    Err(ConvertError::NotFinite { at: at.to_owned() })
}

// -- observations ----------------------------------------------------------------------------------

impl Observation {
    /// For the wire.
    ///
    /// # Errors
    /// A signal, a confidence or an object's number that is not finite.
    pub fn from_core(observation: &visualpath_core::Observation) -> Result<Self, ConvertError> {
        for (name, value) in observation.signals.iter() {
            finite(name, [&value])?;
        }
        finite("confidence", &observation.confidence)?;
        Ok(Self {
            extractor: observation.extractor.as_str().to_owned(),
            frame_id: observation.frame_id,
            t_ns: Some(observation.t_ns),
            signals: observation.signals.clone(),
            data: data_to_map(&observation.data)?.into(),
            metadata: observation.metadata.clone().into(),
            confidence: observation.confidence,
            timing_ns: Some(observation.timing_ns),
        })
    }

    /// From the wire. `extractor` is its name in the config, whatever the plugin calls itself, and
    /// `frame_t_ns` the frame's time, for an observation that does not say.
    ///
    /// # Errors
    /// `data.objects` that are no objects.
    pub fn into_core(
        self,
        extractor: &Name,
        frame_t_ns: i64,
    ) -> Result<visualpath_core::Observation, ConvertError> {
        Ok(visualpath_core::Observation {
            extractor: extractor.clone(),
            frame_id: self.frame_id,
            t_ns: self.t_ns.unwrap_or(frame_t_ns),
            signals: self.signals,
            data: data_from_map(self.data.into_map())?,
            metadata: self.metadata.into_map(),
            confidence: self.confidence,
            timing_ns: self.timing_ns.unwrap_or(0),
        })
    }

    /// Its extractor as a name, where it is the config's own (`deps`, `fuse`).
    ///
    /// # Errors
    /// When it is no name.
    pub fn extractor_name(&self) -> Result<Name, ConvertError> {
        named("extractor", &self.extractor)
    }
}

fn data_to_map(data: &Data) -> Result<Map<String, Value>, ConvertError> {
    let mut map = data.other.clone();
    if data.objects.is_empty() {
        return Ok(map);
    }
    let mut objects = Vec::with_capacity(data.objects.len());
    for (index, object) in data.objects.iter().enumerate() {
        check_object(index, object)?;
        let value = serde_json::to_value(object).map_err(|e| ConvertError::Object {
            index,
            reason: e.to_string(),
        })?;
        objects.push(value);
    }
    if map.insert("objects".to_owned(), objects.into()).is_some() {
        return Err(ConvertError::TwoObjects);
    }
    Ok(map)
}

fn data_from_map(mut map: Map<String, Value>) -> Result<Data, ConvertError> {
    let objects = match map.remove("objects") {
        None => Vec::new(),
        Some(Value::Array(list)) if list.len() <= MAX_OBJECTS => list
            .into_iter()
            .enumerate()
            .map(|(index, value)| {
                visualpath_core::Object::deserialize(value).map_err(|e| ConvertError::Object {
                    index,
                    reason: e.to_string(),
                })
            })
            .collect::<Result<_, _>>()?,
        Some(_) => return Err(ConvertError::Objects),
    };
    Ok(Data {
        objects,
        other: map,
    })
}

fn check_object(index: usize, object: &visualpath_core::Object) -> Result<(), ConvertError> {
    let numbers = [&object.score, &object.area].into_iter();
    let numbers = numbers
        .chain(&object.bbox)
        .chain(object.keypoints.as_flattened());
    finite("", numbers).map_err(|_| ConvertError::NotFinite {
        at: format!("objects[{index}]"),
    })
}

impl From<visualpath_core::Object> for Object {
    fn from(object: visualpath_core::Object) -> Self {
        let visualpath_core::Object {
            track_id,
            label,
            score,
            bbox,
            area,
            zones,
            keypoints,
        } = object;
        Self {
            track_id,
            label,
            score,
            bbox,
            area,
            zones,
            keypoints,
        }
    }
}

impl From<Object> for visualpath_core::Object {
    fn from(object: Object) -> Self {
        let Object {
            track_id,
            label,
            score,
            bbox,
            area,
            zones,
            keypoints,
        } = object;
        Self {
            track_id,
            label,
            score,
            bbox,
            area,
            zones,
            keypoints,
        }
    }
}

// -- pictures --------------------------------------------------------------------------------------

/// Where in a pool a view of a frame lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameAt {
    /// Which pool.
    pub pool_id: u32,
    /// Which slot.
    pub slot: u32,
    /// How often it was used.
    pub generation: u64,
    /// Which view; `None` is the native picture.
    pub view: Option<u32>,
    /// Bytes from the start of the pool's memory.
    pub offset: u64,
}

/// A layout by what the wire says of it.
fn packed(
    format: visualpath_core::PixelFormat,
    (width, height): (u32, u32),
    stride: Option<u32>,
    color: Option<ColorSpec>,
) -> Result<ImageLayout, ConvertError> {
    let side = 1..=MAX_SIDE;
    if !side.contains(&width) || !side.contains(&height) {
        return Err(ConvertError::Sides { width, height });
    }
    let layout = ImageLayout::packed(format, width, height, color.unwrap_or_default());
    let first = layout.planes().first().map_or(0, |p| p.stride);
    match stride {
        Some(stride) if stride as usize != first => Err(ConvertError::Stride {
            stride: stride as usize,
            packed: first,
        }),
        _ => Ok(layout),
    }
}

/// The stride of a layout that the wire can describe: a packed one.
fn stride_of(layout: &ImageLayout) -> Result<u32, ConvertError> {
    let same = packed(
        layout.format,
        (layout.width, layout.height),
        None,
        Some(layout.color),
    )?;
    let (stride, packed) = (layout.planes().first(), same.planes().first());
    let (stride, packed) = (
        stride.map_or(0, |p| p.stride),
        packed.map_or(0, |p| p.stride),
    );
    match u32::try_from(stride) {
        Ok(told) if same == *layout => Ok(told),
        _ => Err(ConvertError::Stride { stride, packed }),
    }
}

impl TryFrom<&ImageLayout> for Layout {
    type Error = ConvertError;

    fn try_from(layout: &ImageLayout) -> Result<Self, ConvertError> {
        Ok(Self {
            format: layout.format,
            width: layout.width,
            height: layout.height,
            stride: stride_of(layout)?,
            color: Some(layout.color),
        })
    }
}

impl TryFrom<&Layout> for ImageLayout {
    type Error = ConvertError;

    fn try_from(l: &Layout) -> Result<Self, ConvertError> {
        packed(l.format, (l.width, l.height), Some(l.stride), l.color)
    }
}

impl FrameRef {
    /// For the wire: the frame `meta`, seen as `layout` and `roi`, which lies at `at`.
    ///
    /// # Errors
    /// When a picture is not packed, or the rectangle is not finite.
    pub fn new(
        at: FrameAt,
        meta: &FrameMeta,
        layout: &ImageLayout,
        roi: &Roi,
    ) -> Result<Self, ConvertError> {
        let roi = [roi.l, roi.t, roi.r, roi.b];
        finite("roi", &roi)?;
        stride_of(&meta.layout)?;
        Ok(Self {
            pool_id: at.pool_id,
            slot: at.slot,
            generation: at.generation,
            frame_id: meta.frame_id,
            t_ns: meta.t_ns,
            width: layout.width,
            height: layout.height,
            format: layout.format,
            stride: stride_of(layout)?,
            view: at.view,
            offset: at.offset,
            frame_width: meta.layout.width,
            frame_height: meta.layout.height,
            roi,
            frame_format: Some(meta.layout.format),
            color: Some(layout.color),
            epoch: Some(meta.epoch),
            pixels: Some(PixelsIn::Slot),
        })
    }

    /// Where it lies in its pool.
    pub fn at(&self) -> FrameAt {
        FrameAt {
            pool_id: self.pool_id,
            slot: self.slot,
            generation: self.generation,
            view: self.view,
            offset: self.offset,
        }
    }

    /// Layout of the view.
    ///
    /// # Errors
    /// When a side is 0 or too large, or rows are padded.
    pub fn layout(&self) -> Result<ImageLayout, ConvertError> {
        packed(
            self.format,
            (self.width, self.height),
            Some(self.stride),
            self.color,
        )
    }

    /// The frame's identity, instant and native size.
    ///
    /// # Errors
    /// When a side is 0 or too large.
    pub fn meta(&self) -> Result<FrameMeta, ConvertError> {
        let format = self.frame_format.unwrap_or(self.format);
        let layout = packed(
            format,
            (self.frame_width, self.frame_height),
            None,
            self.color,
        )?;
        Ok(FrameMeta {
            frame_id: self.frame_id,
            t_ns: self.t_ns,
            epoch: self.epoch.unwrap_or(0),
            layout,
        })
    }

    /// The view's rectangle in the frame.
    pub fn roi(&self) -> Roi {
        let [l, t, r, b] = self.roi;
        Roi { l, t, r, b }
    }
}

impl From<&ViewSpec> for Input {
    fn from(spec: &ViewSpec) -> Self {
        Self {
            format: spec.format,
            width: spec.size.map(|(width, _)| width),
            height: spec.size.map(|(_, height)| height),
            fit: Some(spec.fit),
            filter: Some(spec.filter),
        }
    }
}

impl TryFrom<&Input> for ViewSpec {
    type Error = ConvertError;

    fn try_from(input: &Input) -> Result<Self, ConvertError> {
        let size = match (input.width, input.height) {
            (None, None) => None,
            (Some(width), Some(height)) => {
                packed(
                    visualpath_core::PixelFormat::Grey,
                    (width, height),
                    None,
                    None,
                )?;
                Some((width, height))
            }
            _ => return Err(ConvertError::HalfASize),
        };
        Ok(Self {
            format: input.format,
            size,
            fit: input.fit.unwrap_or_default(),
            filter: input.filter.unwrap_or_default(),
        })
    }
}

// -- the rest of a hello ---------------------------------------------------------------------------

impl From<&visualpath_core::Zone> for Zone {
    fn from(zone: &visualpath_core::Zone) -> Self {
        Self {
            name: zone.name.as_str().to_owned(),
            polygon: zone.polygon.clone(),
            anchor: zone.anchor,
        }
    }
}

impl TryFrom<Zone> for visualpath_core::Zone {
    type Error = ConvertError;

    fn try_from(zone: Zone) -> Result<Self, ConvertError> {
        let name = named("zones", &zone.name)?;
        Self::new(name, zone.polygon, zone.anchor).map_err(|error| ConvertError::Zone {
            name: zone.name,
            error,
        })
    }
}

impl From<&visualpath_core::Mask> for Mask {
    fn from(mask: &visualpath_core::Mask) -> Self {
        Self {
            name: mask.name.as_str().to_owned(),
            kind: mask.kind,
            polygon: mask.polygon.clone(),
        }
    }
}

impl TryFrom<Mask> for visualpath_core::Mask {
    type Error = ConvertError;

    fn try_from(mask: Mask) -> Result<Self, ConvertError> {
        let name = named("masks", &mask.name)?;
        Self::new(name, mask.kind, mask.polygon).map_err(|error| ConvertError::Mask {
            name: mask.name,
            error,
        })
    }
}

impl From<&ModelUse> for Model {
    fn from(model: &ModelUse) -> Self {
        Self {
            name: model.name.clone(),
            version: model.version.clone(),
            sha256: model.sha256.clone(),
            runtime: model.runtime.clone(),
        }
    }
}

impl From<Model> for ModelUse {
    fn from(model: Model) -> Self {
        Self {
            name: model.name,
            version: model.version,
            sha256: model.sha256,
            runtime: model.runtime,
        }
    }
}
