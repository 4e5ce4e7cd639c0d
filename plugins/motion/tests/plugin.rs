//! What is motion and what is not.

mod support;

use serde_json::json;
use support::{H, Room, W, context, score, signal};
use visualpath_core::{Filter, Fit, MaskKind, Roi, ViewFormat};
use visualpath_plugin_motion::plugin;

const LEFT: [[f64; 2]; 4] = [[0.0, 0.0], [0.5, 0.0], [0.5, 1.0], [0.0, 1.0]];
const RIGHT: [[f64; 2]; 4] = [[0.5, 0.0], [1.0, 0.0], [1.0, 1.0], [0.5, 1.0]];

const ALL: [[f64; 2]; 4] = [[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]];

/// A box that moves over the room on frame `i`: 5 % of the picture.
fn walker(i: usize) -> [usize; 4] {
    let left = 10 + i * 4;
    [left, 90, left + 48, 170]
}

#[test]
fn a_thing_that_moves_is_seen_where_and_as_large_as_it_is() {
    let mut room = Room::learned();
    for i in 0..40 {
        room.clear();
        room.thing(walker(i), 210);
        let o = room.look();
        let want = 48.0 * 80.0 / (W * H) as f64;
        // Smoothing widens an edge by a pixel.
        let got = score(&o);
        assert!((want..want * 1.12).contains(&got), "{i}: {got} not {want}");
        assert_eq!(
            (signal(&o, "count"), signal(&o, "light_switch")),
            (1.0, 0.0)
        );
        let object = &o.data.objects[0];
        assert_eq!((object.label.as_str(), object.score), ("motion", 1.0));
        let [l, t, r, b] = walker(i);
        for (side, (got, want)) in object.bbox.iter().zip([l, t, r, b]).enumerate() {
            let scale = if side % 2 == 0 { W } else { H } as f64;
            assert!(
                (got * scale - want as f64).abs() <= 2.0,
                "{i}: {object:?} not {:?}",
                walker(i)
            );
        }
    }
    room.clear();
    assert_eq!(score(&room.look()), 0.0, "no smear is left behind");
}

#[test]
fn a_dark_thing_is_seen_whole() {
    let mut room = Room::learned();
    for i in 0..40 {
        room.clear();
        room.thing(walker(i), 60);
        let o = room.look();
        assert_eq!(signal(&o, "count"), 1.0, "{i}");
        let want = 48.0 * 80.0 / (W * H) as f64;
        assert!(score(&o) > want * 0.9, "{i}: {} of {want}", score(&o));
    }
}

#[test]
fn an_empty_room_is_quiet_also_with_camera_noise() {
    for sigma in [0.0, 1.0, 3.0, 10.0] {
        let mut room = Room::new(json!({}), &[]);
        for i in 0..150 {
            room.clear();
            room.noise(sigma);
            let o = room.look();
            assert_eq!(score(&o), 0.0, "σ {sigma}, frame {i}: {:?}", o.data.objects);
            assert_eq!(o.metadata.contains_key("learning"), i < 20, "{i}");
        }
        // And it is not deaf.
        room.clear();
        room.thing(walker(20), if sigma < 5.0 { 170 } else { 220 });
        room.noise(sigma);
        let o = room.look();
        assert_eq!(signal(&o, "count"), 1.0, "σ {sigma}: {:?}", o.data.objects);
        assert!(score(&o) > 0.045, "σ {sigma}: {}", score(&o));
    }
}

#[test]
fn a_soft_shadow_is_no_motion_unless_asked_for() {
    // Takes 40 % of the light in a disc, and fades out over 16 pixels around it.
    let shadow = |p: f64, x: usize, y: usize, cx: f64| {
        let from = ((x as f64 - cx).powi(2) + (y as f64 - 130.0).powi(2)).sqrt();
        let depth = ((56.0 - from) / 16.0).clamp(0.0, 1.0);
        p * (1.0 - 0.4 * depth)
    };
    let mut worst = 0.0_f64;
    for (shadows, sigma) in [(true, 0.0), (true, 2.0), (false, 0.0)] {
        let mut room = Room::new(json!({"shadows": shadows}), &[]);
        for _ in 0..31 {
            room.clear();
            room.noise(sigma);
            room.look();
        }
        for i in 0..30 {
            room.clear();
            room.shade(|p, x, y| shadow(p, x, y, 60.0 + i as f64 * 6.0));
            room.noise(sigma);
            let got = score(&room.look());
            if shadows {
                assert_eq!(got, 0.0, "σ {sigma}, frame {i}");
                worst = worst.max(got);
            } else {
                assert!(got > 0.05, "frame {i}: {got}");
            }
        }
    }
}

#[test]
fn a_thing_is_seen_beside_its_shadow() {
    let mut room = Room::learned();
    for i in 0..30 {
        room.clear();
        let [l, t, r, b] = walker(i);
        let middle = (r + 40) as f64;
        room.shade(|p, x, y| {
            let from = ((x as f64 - middle).powi(2) + (y as f64 - 150.0).powi(2)).sqrt();
            p * (1.0 - 0.4 * ((50.0 - from) / 16.0).clamp(0.0, 1.0))
        });
        room.thing([l, t, r, b], 215);
        let o = room.look();
        assert_eq!(signal(&o, "count"), 1.0, "{i}: {:?}", o.data.objects);
        let right = o.data.objects[0].bbox[2] * W as f64;
        assert!(
            right < r as f64 + 12.0,
            "{i}: the box ends at {right}, the thing at {r}"
        );
    }
}

#[test]
fn a_light_switch_is_no_burst_and_motion_is_seen_right_after() {
    type Light = fn(f64, usize, usize) -> f64;
    let lights: [(&str, Light); 5] = [
        ("brighter", |p, _, _| p * 1.5),
        ("darker", |p, _, _| p * 0.5),
        ("one lamp", |p, x, _| p * (1.2 + x as f64 / 400.0)),
        ("offset", |p, _, _| p + 40.0),
        ("lamp on the left", |p, x, _| {
            p * (1.0 + 0.9 * ((220.0 - x as f64) / 120.0).clamp(0.0, 1.0))
        }),
    ];
    for (name, light) in lights {
        let mut room = Room::learned();
        let mut switches = 0;
        for i in 0..40 {
            room.clear();
            room.shade(light);
            room.noise(1.0);
            let o = room.look();
            assert_eq!(score(&o), 0.0, "{name}, frame {i}");
            switches += usize::from(signal(&o, "light_switch") > 0.0);
            assert_eq!(
                o.metadata.contains_key("light_switch"),
                signal(&o, "light_switch") > 0.0
            );
        }
        assert!((1..3).contains(&switches), "{name}: {switches}");
        room.clear();
        room.shade(light);
        room.thing(walker(15), 30);
        let o = room.look();
        assert_eq!(signal(&o, "count"), 1.0, "{name}");
        // And back.
        room.clear();
        let o = room.look();
        assert_eq!(
            (score(&o), signal(&o, "light_switch")),
            (0.0, 1.0),
            "{name}"
        );
    }
}

#[test]
fn a_dimmer_is_no_motion() {
    for (to, seconds) in [(0.4, 4.0), (0.7, 4.0), (1.5, 4.0), (1.3, 1.0), (1.2, 10.0)] {
        let mut room = Room::learned();
        for i in 0..120 {
            room.clear();
            let light = 1.0 + (to - 1.0) * (i as f64 / 10.0 / seconds).min(1.0);
            room.shade(|p, _, _| p * light);
            let o = room.look();
            assert_eq!(score(&o), 0.0, "to {to} in {seconds} s, frame {i}");
        }
    }
}

#[test]
fn a_thing_that_fills_most_of_the_picture_is_no_light_switch() {
    let mut room = Room::learned();
    for i in 0..10 {
        room.clear();
        // 55 % of the picture, with a texture of its own.
        room.thing([i * 8, 0, i * 8 + 176, H], 40);
        for y in 0..H {
            for x in (i * 8..i * 8 + 176).filter(|x| (x / 5 + y / 7) % 3 == 0) {
                room.picture[y * W + x] = 190;
            }
        }
        let o = room.look();
        assert_eq!(signal(&o, "light_switch"), 0.0, "{i}");
        assert!(score(&o) > 0.4, "{i}: {}", score(&o));
    }
}

#[test]
fn zones_have_the_share_of_their_own_area() {
    let mut room = Room::new(json!({}), &[("left", LEFT), ("right", RIGHT)]);
    room.empty(31);
    // All of it on the left: 5 % of the picture are 10 % of the half.
    room.thing([40, 90, 88, 170], 210);
    let o = room.look();
    let share = 48.0 * 80.0 / (W * H) as f64;
    let left = signal(&o, "score@left");
    assert!((2.0 * share..2.24 * share).contains(&left), "{left}");
    assert_eq!(signal(&o, "score@right"), 0.0);
    // Half and half.
    room.clear();
    room.thing([136, 90, 184, 170], 210);
    let o = room.look();
    let (left, right) = (signal(&o, "score@left"), signal(&o, "score@right"));
    assert!((left - right).abs() < 0.002, "{left} {right}");
    assert!(
        (left + right - 2.0 * score(&o)).abs() < 1e-9,
        "the zones are the picture"
    );
}

/// A room whose left half is masked, learned.
fn half_masked(kind: MaskKind, zones: &[(&str, [[f64; 2]; 4])]) -> Room {
    let mut room = Room::masked(json!({}), zones, kind, LEFT);
    room.empty(31);
    room
}

#[test]
fn what_moves_in_a_mask_is_no_motion_and_shares_are_of_the_rest() {
    let mut room = half_masked(MaskKind::Motion, &[("left", LEFT), ("all", ALL)]);
    let share = 48.0 * 80.0 / (W * H) as f64;
    for left in (0..112).step_by(8).chain([112]) {
        room.clear();
        room.thing([left, 90, left + 48, 170], 250);
        let o = room.look();
        let all = [score(&o), signal(&o, "count"), signal(&o, "score@all")];
        assert_eq!(all, [0.0; 3], "at {left}: {:?}", o.data.objects);
    }
    // Half in, half out: the half that counts, as a share of the half that is looked at.
    room.clear();
    room.thing([136, 90, 184, 170], 210);
    let o = room.look();
    assert!((share..share * 1.12).contains(&score(&o)), "{}", score(&o));
    assert_eq!(signal(&o, "score@all"), score(&o));
    assert_eq!(signal(&o, "score@left"), 0.0, "nothing of it is looked at");
    assert_eq!(signal(&o, "count"), 1.0);
    assert!(o.data.objects[0].bbox[0] > 0.48, "{:?}", o.data.objects);
}

#[test]
fn nothing_of_a_masked_thing_bleeds_over_the_masks_border() {
    // Without shadows every changed pixel counts, as faint as it is.
    let mut room = Room::masked(json!({"shadows": false}), &[], MaskKind::Motion, LEFT);
    room.empty(31);
    room.thing([112, 5, 160, 235], 250);
    let o = room.look();
    assert_eq!((score(&o), signal(&o, "count")), (0.0, 0.0));
}

#[test]
fn a_mask_of_objects_is_no_mask_of_motion() {
    let mut room = half_masked(MaskKind::Objects, &[]);
    room.thing(walker(5), 210);
    assert!(score(&room.look()) > 0.04);
}

#[test]
fn beside_a_mask_the_light_is_still_the_light_and_noise_is_still_noise() {
    let mut room = half_masked(MaskKind::Motion, &[]);
    for i in 0..60 {
        room.clear();
        room.noise(3.0);
        let o = room.look();
        assert_eq!(score(&o), 0.0, "frame {i}: {:?}", o.data.objects);
    }
    // From night to day, without a texture left: nearly everything that is looked at gets brighter.
    room.picture.fill(250);
    let o = room.look();
    assert_eq!((score(&o), signal(&o, "light_switch")), (0.0, 1.0));
}

#[test]
fn a_picture_that_is_masked_as_a_whole_is_still() {
    let mut room = Room::masked(json!({}), &[("all", ALL)], MaskKind::Motion, ALL);
    room.empty(31);
    room.thing(walker(5), 210);
    let o = room.look();
    assert_eq!([score(&o), signal(&o, "score@all")], [0.0; 2]);
}

#[test]
fn what_stops_becomes_background_after_history_and_its_place_too_when_it_leaves() {
    let mut room = Room::new(json!({"history_s": 4}), &[]);
    room.empty(31);
    let mut seen_for = 0;
    for _ in 0..80 {
        room.clear();
        room.thing([100, 90, 148, 170], 210);
        let got = score(&room.look());
        if got > 0.0 {
            seen_for += 1;
        }
    }
    assert!((38..=48).contains(&seen_for), "{seen_for} tenths of 4 s");
    let mut ghost_for = 0;
    for _ in 0..80 {
        room.clear();
        ghost_for += usize::from(score(&room.look()) > 0.0);
    }
    assert!((38..=48).contains(&ghost_for), "{ghost_for} tenths of 4 s");
}

#[test]
fn five_and_sixty_frames_a_second_see_the_same() {
    let seen = |fps: i64| -> Vec<f64> {
        let mut room = Room::new(json!({"history_s": 3}), &[]);
        room.step_ns = 1_000_000_000 / fps;
        let mut out = vec![];
        let mut second = 0;
        while room.t_ns < 12_000_000_000 {
            room.clear();
            // Comes at 3 s, stands still, leaves at 9 s; the light grows all the time.
            let light = room.t_ns as f64 / 1e9;
            room.shade(|p, _, _| p + light);
            if (3..9).contains(&(room.t_ns / 1_000_000_000)) {
                room.thing([100, 90, 148, 170], 210);
            }
            let now = room.t_ns;
            let o = room.look();
            if now >= second * 1_000_000_000 + 500_000_000 {
                second += 1;
                out.push(score(&o));
            }
        }
        out
    };
    let (slow, fast) = (seen(5), seen(60));
    assert_eq!(slow.len(), 12);
    assert!(slow[3] > 0.045 && slow[8] == 0.0, "{slow:?}");
    for (s, f) in slow.iter().zip(&fast) {
        assert!((s - f).abs() < 0.003, "{slow:?} {fast:?}");
    }
}

#[test]
fn a_reset_learns_anew() {
    let mut room = Room::learned();
    room.reset();
    // Another scene altogether: no motion, but a start.
    for i in 0..40 {
        room.clear();
        room.shade(|p, x, _| if x < 160 { 255.0 - p } else { p });
        let o = room.look();
        assert_eq!(score(&o), 0.0);
        assert_eq!(o.metadata.contains_key("learning"), i < 20, "{i}");
    }
}

#[test]
fn small_things_are_left_out_below_min_area() {
    for (min_area, count) in [(0.001, 1.0), (0.005, 0.0), (0.0, 1.0)] {
        let mut room = Room::new(json!({"min_area": min_area}), &[]);
        room.empty(31);
        room.thing([100, 100, 112, 112], 220);
        assert_eq!(signal(&room.look(), "count"), count, "{min_area}");
    }
}

#[test]
fn view_and_signals_are_as_declared_and_another_view_is_an_error_of_that_frame() {
    let zones = [("left", LEFT)];
    let cx = context(json!({"width": 160, "height": 120}), &zones);
    let view = plugin().input(&cx).unwrap();
    assert_eq!(
        (view.format, view.size, view.fit, view.filter),
        (
            ViewFormat::Grey,
            Some((160, 120)),
            Fit::Stretch,
            Filter::Area
        )
    );
    let mut room = Room::new(json!({}), &zones);
    let o = room.look();
    let given: Vec<String> = o.signals.iter().map(|(n, _)| n.to_string()).collect();
    assert_eq!(
        given,
        plugin().signals(&context(json!({}), &zones)).unwrap()
    );
    assert_eq!(given, ["count", "light_switch", "score", "score@left"]);

    let mut small = plugin().create(&cx).unwrap();
    let layout = visualpath_core::ImageLayout::packed(
        visualpath_core::PixelFormat::Grey,
        320,
        240,
        Default::default(),
    );
    let meta = visualpath_core::FrameMeta {
        frame_id: 0,
        t_ns: 0,
        epoch: 0,
        layout,
    };
    let view = |pixels| visualpath_core::FrameView {
        meta,
        layout,
        roi: Roi::FULL,
        pixels,
    };
    let error = small.extract(&view(&[0; 320 * 240]), &[]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the view is Grey 320x240, expected is grey 160x120"
    );
    let mut right = plugin().create(&context(json!({}), &[])).unwrap();
    let error = right.extract(&view(&[0; 100]), &[]).unwrap_err();
    assert!(error.to_string().contains("has 100 bytes"), "{error}");
    assert!(right.extract(&view(&[0; 320 * 240]), &[]).is_ok());
}
