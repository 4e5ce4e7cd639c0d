//! What a sample entry repeats of a sequence parameter set: a few fields near its beginning.
//!
//! The sets come from cameras. Whatever is missing or absurd in one reads as 0 or as the usual
//! value: the entry then says less than it could, and the decoder reads the set itself.

/// What `avcC` says of a high profile (ISO/IEC 14496-15, 5.3.3.1.2), and `hvcC` of every one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Samples {
    /// 0 monochrome, 1 4:2:0, 2 4:2:2, 3 4:4:4.
    pub(super) chroma_format: u8,
    /// Bits of a luma sample − 8.
    pub(super) luma_depth: u8,
    /// Bits of a chroma sample − 8.
    pub(super) chroma_depth: u8,
}

const USUAL: Samples = Samples {
    chroma_format: 1,
    luma_depth: 0,
    chroma_depth: 0,
};

/// H.264 7.3.2.1.1, of a profile that has these fields.
pub(super) fn h264_samples(sps: &[u8]) -> Samples {
    let mut bits = Bits::new(sps, 1);
    let read = |bits: &mut Bits| -> Option<Samples> {
        bits.skip(24)?;
        let _id = bits.golomb()?;
        let chroma_format = bits.golomb()?;
        if chroma_format == 3 {
            bits.skip(1)?;
        }
        samples(chroma_format, bits.golomb()?, bits.golomb()?)
    };
    read(&mut bits).unwrap_or(USUAL)
}

/// What `hvcC` needs (ISO/IEC 14496-15, 8.3.3.1.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct H265 {
    /// `general_profile_space` to `general_level_idc`: 12 bytes, in the order of both.
    pub(super) general: [u8; 12],
    pub(super) temporal_layers: u8,
    pub(super) temporal_id_nested: bool,
    pub(super) samples: Samples,
}

/// H.265 7.3.2.2.1, up to the bit depths.
pub(super) fn h265(sps: &[u8]) -> H265 {
    let mut bits = Bits::new(sps, 2);
    let mut out = H265 {
        general: [0; 12],
        temporal_layers: 1,
        temporal_id_nested: false,
        samples: USUAL,
    };
    let mut read = |bits: &mut Bits| -> Option<()> {
        bits.skip(4)?;
        let sub_layers = bits.take(3)?;
        out.temporal_layers = u8::try_from(sub_layers + 1).ok()?;
        out.temporal_id_nested = bits.take(1)? == 1;
        for byte in &mut out.general {
            *byte = u8::try_from(bits.take(8)?).ok()?;
        }
        // 7.3.3: which of the lower layers say their own profile and level.
        let mut present = Vec::new();
        for _ in 0..sub_layers {
            present.push((bits.take(1)? == 1, bits.take(1)? == 1));
        }
        if sub_layers > 0 {
            bits.skip(2 * (8 - sub_layers as usize))?;
        }
        for (profile, level) in present {
            bits.skip(usize::from(profile) * 88 + usize::from(level) * 8)?;
        }
        let _id = bits.golomb()?;
        let chroma_format = bits.golomb()?;
        if chroma_format == 3 {
            bits.skip(1)?;
        }
        let (_width, _height) = (bits.golomb()?, bits.golomb()?);
        if bits.take(1)? == 1 {
            for _ in 0..4 {
                bits.golomb()?;
            }
        }
        out.samples = samples(chroma_format, bits.golomb()?, bits.golomb()?)?;
        Some(())
    };
    // What was read before the set ended stays.
    let _complete = read(&mut bits).is_some();
    out
}

/// `None` for values that no profile has.
fn samples(chroma_format: u32, luma_depth: u32, chroma_depth: u32) -> Option<Samples> {
    let small = |v: u32, most: u8| u8::try_from(v).ok().filter(|v| *v <= most);
    Some(Samples {
        chroma_format: small(chroma_format, 3)?,
        luma_depth: small(luma_depth, 7)?,
        chroma_depth: small(chroma_depth, 7)?,
    })
}

/// The bits of a NAL unit's payload, without its emulation prevention bytes (H.264 7.4.1, H.265
/// 7.4.2.1: in 00 00 03 the 03 does not count).
struct Bits<'a> {
    bytes: &'a [u8],
    zeros: usize,
    current: u8,
    left: u32,
}

impl<'a> Bits<'a> {
    /// Behind a header of so many bytes.
    fn new(nal: &'a [u8], header: usize) -> Self {
        Self {
            bytes: nal.get(header..).unwrap_or_default(),
            zeros: 0,
            current: 0,
            left: 0,
        }
    }

    fn byte(&mut self) -> Option<u8> {
        let (mut byte, mut rest) = self.bytes.split_first()?;
        if self.zeros >= 2 && *byte == 3 {
            self.zeros = 0;
            (byte, rest) = rest.split_first()?;
        }
        self.zeros = if *byte == 0 { self.zeros + 1 } else { 0 };
        self.bytes = rest;
        Some(*byte)
    }

    fn bit(&mut self) -> Option<u32> {
        if self.left == 0 {
            self.current = self.byte()?;
            self.left = 8;
        }
        self.left -= 1;
        Some(u32::from(self.current >> self.left & 1))
    }

    /// Up to 32 bits, the first is the highest.
    fn take(&mut self, n: u32) -> Option<u32> {
        let mut value = 0;
        for _ in 0..n.min(32) {
            value = value << 1 | self.bit()?;
        }
        Some(value)
    }

    fn skip(&mut self, n: usize) -> Option<()> {
        for _ in 0..n {
            self.bit()?;
        }
        Some(())
    }

    /// ue(v), H.264 9.1, H.265 9.2.
    fn golomb(&mut self) -> Option<u32> {
        let mut zeros = 0;
        while self.bit()? == 0 {
            zeros += 1;
            if zeros > 31 {
                return None;
            }
        }
        let rest = self.take(zeros)?;
        Some((1_u32 << zeros) - 1 + rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Of x264 at 320×240, `-pix_fmt yuv422p10le`.
    const HIGH_422: [u8; 25] = [
        0x67, 0x7A, 0x00, 0x0D, 0xB6, 0xCD, 0x94, 0x14, 0x1F, 0xB0, 0x11, 0x00, 0x00, 0x03, 0x00,
        0x01, 0x00, 0x00, 0x03, 0x00, 0x32, 0x0F, 0x14, 0x29, 0x96,
    ];

    #[test]
    fn a_high_profiles_samples_are_read() {
        let (chroma_format, luma_depth, chroma_depth) = (2, 2, 2);
        let wanted = Samples {
            chroma_format,
            luma_depth,
            chroma_depth,
        };
        assert_eq!(h264_samples(&HIGH_422), wanted);
    }

    #[test]
    fn a_set_that_ends_early_says_what_is_usual() {
        for n in 0..5 {
            assert_eq!(h264_samples(&HIGH_422[..n]), USUAL);
        }
        assert_eq!(h265(&[0x42]).temporal_layers, 1);
    }

    #[test]
    fn emulation_prevention_bytes_do_not_count() {
        let mut bits = Bits::new(&[0xFF, 0, 0, 3, 1, 0, 0, 3, 0, 0, 3, 2], 1);
        let bytes: Vec<u32> = std::iter::from_fn(|| bits.take(8)).collect();
        assert_eq!(bytes, [0, 0, 1, 0, 0, 0, 0, 2]);
        let mut bits = Bits::new(&[0b1010_0110, 0b0100_0010, 0b1000_0000], 0);
        let codes: Vec<u32> = (0..5).filter_map(|_| bits.golomb()).collect();
        assert_eq!(codes, [0, 1, 2, 3, 4]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(sps in prop::collection::vec(any::<u8>(), 0..80)) {
            let s = h264_samples(&sps);
            prop_assert!(s.chroma_format <= 3 && s.luma_depth <= 7 && s.chroma_depth <= 7);
            let h = h265(&sps);
            prop_assert!((1..=8).contains(&h.temporal_layers));
        }
    }
}
