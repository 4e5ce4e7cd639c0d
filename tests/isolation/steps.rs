//! Step by step: the same worker, asked for one frame at a time.

use std::sync::Arc;

use visualpath::config::{Config, ExtractorConfig};
use visualpath::workers::{Host, Rights, Runs};
use visualpath::{Isolation, Name, PluginContext, Worker, WorkerLauncher};
use visualpath_core::{ColorSpec, FrameMeta, ImageLayout, PixelFormat};
use visualpath_frames::{Frame, FramePool, PoolSpec};
use visualpath_media::convert::Converter;
use visualpath_platform::WorkerSpec;
use visualpath_tests::scripted::Scripted;
use visualpath_tests::workers::Place;

fn worker(place: &Place, isolation: Isolation, seed: u64) -> Worker {
    let name = Name::new("x").unwrap();
    let config = serde_json::json!({"seed": seed, "input": "letterbox", "panic_at": [9]});
    let context = PluginContext {
        name: name.clone(),
        config: config.as_object().unwrap().clone(),
        zones: Vec::new(),
        masks: Vec::new(),
        model_dirs: Vec::new(),
    };
    let plugin: Arc<dyn visualpath::ExtractorPlugin> = Arc::new(Scripted);
    let spec = WorkerSpec::from((plugin, context));
    if isolation != Isolation::Process {
        return WorkerLauncher::create(spec, isolation).unwrap();
    }
    let mut config = Config::default();
    config.device.state_dir = place.path("state");
    let runs = Runs::Other {
        program: place.path("state/plugins/scripted/worker"),
        args: Vec::new(),
        read: Vec::new(),
    };
    let settings = ExtractorConfig::new("scripted");
    let program = Host::new(&config).unwrap();
    let program = program
        .program(&runs, name.as_str(), &Rights::from(&settings))
        .unwrap();
    WorkerLauncher::create(spec.with_program(program), isolation).unwrap()
}

fn frame(pool: &FramePool, id: u64) -> Frame {
    let mut slot = pool.try_acquire().unwrap();
    for (i, pixel) in slot.pixels_mut().iter_mut().enumerate() {
        *pixel = (i as u64 * (id + 3)) as u8;
    }
    let meta = FrameMeta {
        frame_id: id,
        t_ns: id as i64 * 40_000_000,
        epoch: (id / 50) as u32,
        layout: *pool.layout().native(),
    };
    slot.publish(meta, pool.holder("test"))
}

#[test]
fn a_worker_asked_step_by_step_answers_the_same_in_a_process() {
    let place = Place::new();
    for seed in 0..4 {
        let mut all: Vec<(Isolation, Worker)> =
            [Isolation::Inline, Isolation::Thread, Isolation::Process]
                .map(|i| (i, worker(&place, i, seed)))
                .into();
        let native = ImageLayout::packed(PixelFormat::I420, 64, 48, ColorSpec::default());
        let pool = |pool_id, views| {
            let spec = PoolSpec {
                pool_id,
                slots: 2,
                native,
                native_room: 0,
                views,
            };
            FramePool::memfd(&spec, Arc::new(Converter::new())).unwrap()
        };
        // With the view in it, and without: then it is made for the worker alone.
        let pools = [pool(1, vec![all[0].1.view()]), pool(2, Vec::new())];
        for id in 0..100 {
            let frame = frame(&pools[(id as usize / 10) % 2], id);
            let mut answers = all.iter_mut().map(|(isolation, worker)| {
                let mut result = worker.process(&frame);
                for o in &mut result.observations {
                    o.timing_ns = 0;
                }
                (*isolation, result.observations, result.error)
            });
            let (_, observations, error) = answers.next().unwrap();
            for (isolation, o, e) in answers {
                assert_eq!(
                    (&o, &e),
                    (&observations, &error),
                    "frame {id} {isolation:?}"
                );
            }
        }
    }
    place.until_empty();
}
