//! What a sequence parameter set says: size, colour, and what a decoder must be able to do.
//!
//! Source: ITU-T H.264 (08/2021) 7.3.2.1.1 and E.1.1; ITU-T H.265 (08/2021) 7.3.2.2, 7.3.3 and
//! E.2.1. Read as far as the colour description; what follows is nobody's business here.

use visualpath_core::{ColorMatrix, ColorRange, ColorSpec};
use visualpath_frames::MAX_SIDE;

/// A sequence parameter set longer than this is none.
const MAX_SPS_BYTES: usize = 4096;

/// What is needed of a sequence parameter set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sps {
    /// Its number: picture parameter sets name it.
    pub id: u32,
    /// `profile_idc` or `general_profile_idc`.
    pub profile: u8,
    /// Pixels across, after cropping.
    pub width: u32,
    /// Pixels down, after cropping.
    pub height: u32,
    /// What the samples mean; BT.601 limited where it does not say.
    pub color: ColorSpec,
    /// `chroma_format_idc`: 0 grey, 1 4:2:0, 2 4:2:2, 3 4:4:4.
    pub chroma: u32,
    /// Bits of the deepest sample.
    pub bits: u32,
    /// Whole frames only (H.264: `frame_mbs_only_flag`).
    pub progressive: bool,
    /// Bits of `frame_num` in an H.264 slice header; 0 for H.265.
    pub frame_num_bits: u32,
    /// `separate_colour_plane_flag`: slice headers have a field more.
    pub separate_planes: bool,
}

impl Sps {
    /// Of an H.264 NAL unit of type 7, without start code. `None` if it is none that makes sense.
    pub fn h264(nal: &[u8]) -> Option<Self> {
        let rbsp = rbsp(nal, MAX_SPS_BYTES)?;
        let mut b = Bits::new(rbsp.get(1..)?);
        let profile = u8::try_from(b.bits(8)?).ok()?;
        b.bits(16)?; // constraint flags, level
        let id = b.ue()?;
        let (mut chroma, mut bits, mut separate_planes) = (1, 8, false);
        // The profiles whose sets say more about samples (7.3.2.1.1).
        if [100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135].contains(&profile) {
            chroma = b.ue()?;
            if chroma == 3 {
                separate_planes = b.flag()?;
            }
            bits = 8 + b.ue()?.max(b.ue()?);
            b.flag()?; // qpprime_y_zero_transform_bypass_flag
            if b.flag()? {
                for list in 0..if chroma == 3 { 12 } else { 8 } {
                    if b.flag()? {
                        skip_scaling_list(&mut b, if list < 6 { 16 } else { 64 })?;
                    }
                }
            }
        }
        let frame_num_bits = b.ue()?.checked_add(4)?;
        match b.ue()? {
            0 => {
                b.ue()?; // log2_max_pic_order_cnt_lsb_minus4
            }
            1 => {
                b.flag()?;
                b.ue()?; // offsets, signed; their values do not matter
                b.ue()?;
                let cycle = b.ue()?;
                for _ in 0..cycle.min(256) {
                    b.ue()?;
                }
            }
            _ => {}
        }
        b.ue()?; // max_num_ref_frames
        b.flag()?; // gaps_in_frame_num_value_allowed_flag
        let across = b.ue()?.checked_add(1)?;
        let down = b.ue()?.checked_add(1)?;
        let progressive = b.flag()?;
        if !progressive {
            b.flag()?; // mb_adaptive_frame_field_flag
        }
        b.flag()?; // direct_8x8_inference_flag
        let crop = if b.flag()? { b.four_ue()? } else { [0; 4] };
        let color = if b.flag()? {
            color_of_vui(&mut b)
        } else {
            None
        };
        let fields = if progressive { 1 } else { 2 };
        let full = (
            across.checked_mul(16)?,
            down.checked_mul(16)?.checked_mul(fields)?,
        );
        let (unit_x, unit_y) = crop_units(chroma, separate_planes);
        let (width, height) = cropped(full, crop, (unit_x, unit_y * fields))?;
        (frame_num_bits <= 16 && chroma <= 3 && bits <= 16).then_some(Self {
            id,
            profile,
            width,
            height,
            color: color.unwrap_or_default(),
            chroma,
            bits,
            progressive,
            frame_num_bits,
            separate_planes,
        })
    }

    /// Of an H.265 NAL unit of type 33, without start code. `None` if it is none that makes sense.
    pub fn h265(nal: &[u8]) -> Option<Self> {
        let rbsp = rbsp(nal, MAX_SPS_BYTES)?;
        let mut b = Bits::new(rbsp.get(2..)?);
        b.bits(4)?; // sps_video_parameter_set_id
        let sub_layers = b.bits(3)?;
        b.flag()?; // sps_temporal_id_nesting_flag
        let profile = profile_tier_level(&mut b, sub_layers)?;
        let id = b.ue()?;
        let chroma = b.ue()?;
        let separate_planes = chroma == 3 && b.flag()?;
        let full = (b.ue()?, b.ue()?);
        let crop = if b.flag()? { b.four_ue()? } else { [0; 4] };
        let bits = 8 + b.ue()?.max(b.ue()?);
        let poc_bits = b.ue()?.checked_add(4)?;
        let all = b.flag()?; // sps_sub_layer_ordering_info_present_flag
        for _ in if all { 0 } else { sub_layers }..=sub_layers {
            b.ue()?;
            b.ue()?;
            b.ue()?;
        }
        let (width, height) = cropped(full, crop, crop_units(chroma, separate_planes))?;
        let color = color_behind_the_tools(&mut b, chroma, poc_bits);
        (chroma <= 3 && bits <= 16).then_some(Self {
            id,
            profile,
            width,
            height,
            color: color.unwrap_or_default(),
            chroma,
            bits,
            progressive: true,
            frame_num_bits: 0,
            separate_planes,
        })
    }
}

/// Samples of luma per unit of cropping (H.264 table 6-1, H.265 table 6-1).
fn crop_units(chroma: u32, separate_planes: bool) -> (u32, u32) {
    match chroma {
        1 => (2, 2),
        2 => (2, 1),
        _ if separate_planes => (1, 1),
        _ => (1, 1),
    }
}

fn cropped(full: (u32, u32), crop: [u32; 4], units: (u32, u32)) -> Option<(u32, u32)> {
    let [left, right, top, bottom] = crop;
    let rest = |side: u32, a: u32, b: u32, unit: u32| {
        side.checked_sub(a.checked_add(b)?.checked_mul(unit)?)
            .filter(|side| (1..=MAX_SIDE).contains(side))
    };
    Some((
        rest(full.0, left, right, units.0)?,
        rest(full.1, top, bottom, units.1)?,
    ))
}

/// H.264 7.3.2.1.1.1.
fn skip_scaling_list(b: &mut Bits<'_>, size: usize) -> Option<()> {
    let (mut last, mut next) = (8_i32, 8_i32);
    for _ in 0..size {
        if next != 0 {
            next = last.wrapping_add(b.se()?).rem_euclid(256);
        }
        last = if next == 0 { last } else { next };
    }
    Some(())
}

/// The beginning of the VUI, which is the same in both (E.1.1, E.2.1).
fn color_of_vui(b: &mut Bits<'_>) -> Option<ColorSpec> {
    if b.flag()? && b.bits(8)? == 255 {
        b.bits(32)?; // sample aspect ratio
    }
    if b.flag()? {
        b.flag()?; // overscan_appropriate_flag
    }
    if !b.flag()? {
        return None;
    }
    b.bits(3)?; // video_format
    let range = if b.flag()? {
        ColorRange::Full
    } else {
        ColorRange::Limited
    };
    let matrix = if b.flag()? {
        b.bits(16)?; // primaries, transfer
        b.bits(8)?
    } else {
        2
    };
    // Table E.5. 2 is "unspecified"; BT.2020 is nearer to BT.709 than to BT.601.
    let matrix = match matrix {
        1 | 9 | 10 => ColorMatrix::Bt709,
        _ => ColorMatrix::Bt601,
    };
    Some(ColorSpec { matrix, range })
}

/// 7.3.3; gives `general_profile_idc`.
fn profile_tier_level(b: &mut Bits<'_>, sub_layers: u32) -> Option<u8> {
    b.bits(3)?;
    let profile = u8::try_from(b.bits(5)?).ok()?;
    b.skip(32 + 48 + 8)?; // compatibility, constraints, level
    let mut present = Vec::new();
    for _ in 0..sub_layers {
        present.push((b.flag()?, b.flag()?));
    }
    if sub_layers > 0 {
        b.skip(2 * (8 - sub_layers as usize))?;
    }
    for (of_profile, of_level) in present {
        b.skip(if of_profile { 88 } else { 0 } + if of_level { 8 } else { 0 })?;
    }
    Some(profile)
}

/// From `log2_min_luma_coding_block_size_minus3` to the VUI (7.3.2.2).
fn color_behind_the_tools(b: &mut Bits<'_>, chroma: u32, poc_bits: u32) -> Option<ColorSpec> {
    for _ in 0..6 {
        b.ue()?;
    }
    if b.flag()? && b.flag()? {
        skip_scaling_list_data(b, chroma)?;
    }
    b.bits(2)?; // amp, sample adaptive offset
    if b.flag()? {
        b.bits(8)?; // pcm bit depths
        b.ue()?;
        b.ue()?;
        b.flag()?;
    }
    let sets = b.ue()?;
    if sets > 64 {
        return None;
    }
    let mut deltas = Vec::new();
    for index in 0..sets {
        let count = short_term_set(b, index, deltas.last().copied().unwrap_or(0))?;
        deltas.push(count);
    }
    if b.flag()? {
        let count = b.ue()?;
        if count > 32 {
            return None;
        }
        for _ in 0..count {
            b.skip(poc_bits as usize + 1)?;
        }
    }
    b.bits(2)?; // temporal mvp, strong intra smoothing
    if b.flag()? { color_of_vui(b) } else { None }
}

/// 7.3.4.
fn skip_scaling_list_data(b: &mut Bits<'_>, _chroma: u32) -> Option<()> {
    for size in 0..4_u32 {
        let step = if size == 3 { 3 } else { 1 };
        for _ in (0..6).step_by(step) {
            if !b.flag()? {
                b.ue()?;
                continue;
            }
            if size > 1 {
                b.se()?;
            }
            for _ in 0..64.min(1 << (4 + (size << 1))) {
                b.se()?;
            }
        }
    }
    Some(())
}

/// 7.3.7; `before` is how many pictures the set before this one has. Gives this one's.
fn short_term_set(b: &mut Bits<'_>, index: u32, before: u32) -> Option<u32> {
    if index > 0 && b.flag()? {
        b.flag()?;
        b.ue()?;
        let mut count = 0;
        for _ in 0..=before {
            let used = b.flag()?;
            if used || b.flag()? {
                count += 1;
            }
        }
        return Some(count);
    }
    let (negative, positive) = (b.ue()?, b.ue()?);
    if negative > 16 || positive > 16 {
        return None;
    }
    for _ in 0..negative + positive {
        b.ue()?;
        b.flag()?;
    }
    Some(negative + positive)
}

/// A NAL unit's bytes without those put in so that no start code appears (H.264 7.4.1, H.265
/// 7.4.2), at most `limit` of them. `None` if nothing is there.
pub(crate) fn rbsp(nal: &[u8], limit: usize) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(nal.len().min(limit));
    let mut zeros = 0;
    for &byte in nal {
        if out.len() >= limit {
            break;
        }
        if zeros >= 2 && byte == 3 {
            zeros = 0;
            continue;
        }
        zeros = if byte == 0 { zeros + 1 } else { 0 };
        out.push(byte);
    }
    (!out.is_empty()).then_some(out)
}

/// Bits, most significant first. Every read past the end is `None`.
pub(crate) struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Bits<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub(crate) fn flag(&mut self) -> Option<bool> {
        let byte = *self.bytes.get(self.at / 8)?;
        let bit = byte >> (7 - self.at % 8) & 1;
        self.at += 1;
        Some(bit == 1)
    }

    pub(crate) fn bits(&mut self, count: u32) -> Option<u32> {
        (0..count).try_fold(0_u32, |v, _| Some(v << 1 | u32::from(self.flag()?)))
    }

    fn skip(&mut self, count: usize) -> Option<()> {
        self.at = self.at.checked_add(count)?;
        (self.at <= self.bytes.len() * 8).then_some(())
    }

    /// ue(v) (9.1).
    pub(crate) fn ue(&mut self) -> Option<u32> {
        let mut zeros = 0;
        while !self.flag()? {
            zeros += 1;
            if zeros > 31 {
                return None;
            }
        }
        Some((1_u32 << zeros) - 1 + self.bits(zeros)?)
    }

    /// se(v) (9.1.1).
    pub(crate) fn se(&mut self) -> Option<i32> {
        let k = i64::from(self.ue()?);
        let half = (k + 1) / 2;
        i32::try_from(if k % 2 == 0 { -half } else { half }).ok()
    }

    fn four_ue(&mut self) -> Option<[u32; 4]> {
        Some([self.ue()?, self.ue()?, self.ue()?, self.ue()?])
    }
}
