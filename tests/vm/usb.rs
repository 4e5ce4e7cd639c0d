//! A USB camera on the machine's own uvcvideo driver.

use visualpath_core::{ColorSpec, FrameMeta, FrameView, ImageLayout, PixelFormat, Roi};

use crate::machine::{Clock, Machine};
use crate::usb_camera::{Pictures, UsbCamera};

const WIDTH: u16 = 320;
const HEIGHT: u16 = 240;

/// A second of a bright bar that moves over a ramp.
fn pictures() -> Pictures {
    let (width, height) = (usize::from(WIDTH), usize::from(HEIGHT));
    let layout = ImageLayout::packed(
        PixelFormat::Grey,
        WIDTH.into(),
        HEIGHT.into(),
        ColorSpec::default(),
    );
    let jpegs = (0..10)
        .map(|n| {
            let pixel = |i: usize| match (i % width) / 32 == n {
                true => 255,
                false => u8::try_from(i / width * 200 / height).expect("under 200"),
            };
            let pixels: Vec<u8> = (0..width * height).map(pixel).collect();
            let view = FrameView {
                meta: FrameMeta {
                    frame_id: 0,
                    t_ns: 0,
                    epoch: 0,
                    layout,
                },
                layout,
                roi: Roi::FULL,
                pixels: &pixels,
            };
            visualpath_media::jpeg::encode(&view, 85).unwrap()
        })
        .collect();
    Pictures {
        jpegs,
        width: WIDTH,
        height: HEIGHT,
        fps: 10,
    }
}

#[test]
#[ignore = "needs the ARM machine: cross/vm.sh"]
fn a_usb_camera_gives_whole_pictures_is_pulled_and_comes_back() {
    let name = "a_usb_camera_gives_whole_pictures_is_pulled_and_comes_back";
    let camera = UsbCamera::start(pictures()).unwrap();
    let scenario = format!("{name}=10.0.2.2:{}", camera.port());
    Machine::boot(Clock::Real, &[scenario])
        .finish()
        .expect(name);
    assert!(camera.sent() > 100, "{} pictures sent", camera.sent());
}
