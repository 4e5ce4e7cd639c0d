//! What a line has (its lanes and paths by their index on the path thread), and how it gets from one
//! such shape to the next: only what differs is made anew.

use std::collections::HashMap;

use visualpath_core::{Mask, ModelUse, Name, ViewSpec, Zone};
use visualpath_platform::{FlowChange, MAX_EXTRACTORS};

use super::StartError;
use super::build::{self, LaneFacts, Nursery, Pace};
use super::plan::{LinePlan, Planned};
use crate::config::{ExtractorConfig, FusionConfig, PathConfig};
use crate::workers::Runs;

/// What messages say of a path.
#[derive(Debug, Clone, Default)]
pub struct PathFacts {
    /// Its extractors.
    pub extractors: Vec<Name>,
    /// The models they use.
    pub models: Vec<ModelUse>,
}

/// What decides whether a running lane can stay as it is.
#[derive(Debug, Clone, PartialEq)]
pub struct LaneKey {
    pub(super) name: Name,
    settings: ExtractorConfig,
    isolation: visualpath_platform::Isolation,
    /// What its process runs: another interpreter is another worker.
    runs: Runs,
    /// The view its plugin declares.
    view: ViewSpec,
    zones: Vec<Zone>,
    masks: Vec<Mask>,
    /// The lanes it waits for.
    needs: Vec<usize>,
}

/// What decides whether a running path can stay as it is.
#[derive(Debug, Clone, PartialEq)]
pub struct PathKey {
    pub(super) name: Name,
    settings: PathConfig,
    fusion: FusionConfig,
    /// Its lanes.
    lanes: Vec<usize>,
}

/// The lanes and paths a line has, by their index on the path thread.
#[derive(Debug, Clone, Default)]
pub struct Shape {
    lanes: Vec<Option<(LaneKey, LaneFacts, Vec<ModelUse>)>>,
    paths: Vec<Option<PathKey>>,
}

impl Shape {
    /// The views its extractors want.
    pub fn views(&self) -> Vec<ViewSpec> {
        self.lanes
            .iter()
            .flatten()
            .map(|(_, facts, _)| facts.view)
            .collect()
    }

    /// The names of its extractors.
    pub fn extractors(&self) -> impl Iterator<Item = &Name> {
        self.lanes.iter().flatten().map(|(key, _, _)| &key.name)
    }
}

/// From one shape to the next.
pub struct Reshape {
    /// For the path thread.
    pub change: FlowChange,
    /// What the line has then.
    pub shape: Shape,
    /// For messages.
    pub paths: HashMap<Name, PathFacts>,
    /// Extractors that were made.
    pub made: Vec<Name>,
    /// Paths that were made or changed.
    pub changed_paths: Vec<Name>,
    /// Paths that were taken away.
    pub gone_paths: Vec<Name>,
}

impl Reshape {
    /// Loads what is new in `plan`; what `shape` has already stays.
    ///
    /// # Errors
    /// If a model can't be loaded or fails on a test picture.
    pub fn prepare(
        shape: &Shape,
        plan: LinePlan,
        pace: &Pace,
        nursery: &Nursery<'_>,
    ) -> Result<Self, StartError> {
        let mut next = Shape::default();
        next.lanes.resize(shape.lanes.len(), None);
        let mut change = FlowChange::default();
        let mut made = Vec::new();
        let mut slots: Vec<usize> = Vec::new();
        for mut planned in plan.extractors {
            let key = lane_key(&planned, &slots);
            let same = |lane: &Option<(LaneKey, LaneFacts, Vec<ModelUse>)>| {
                lane.as_ref().is_some_and(|(k, _, _)| *k == key)
            };
            // Whoever waits for a lane that is made anew is made anew with it.
            let fresh = |slot: &usize| change.lanes.iter().any(|(s, _)| s == slot);
            let same = shape.lanes.iter().position(same);
            if let Some(slot) = same.filter(|_| !key.needs.iter().any(fresh)) {
                // Its neighbours, which its gate was compiled with, have not moved either.
                next.lanes[slot].clone_from(&shape.lanes[slot]);
                slots.push(slot);
                continue;
            }
            let slot = free_slot(shape, &next, &key.name);
            if slot >= MAX_EXTRACTORS {
                let key = format!("extractor.{}", key.name);
                return Err(StartError::config(&key, &too_many(&pace.source)));
            }
            slots.push(slot);
            let loaded = build::load(&mut planned, &pace.source, nursery)?;
            let models = loaded.models.clone();
            let view = loaded.view;
            let lane = build::lane(pace, &mut planned, loaded, &slots)?;
            let before = key
                .needs
                .iter()
                .filter_map(|s| next.lanes.get(*s)?.as_ref());
            let chain = before.map(|(_, facts, _)| facts.chain_ns).max();
            let facts = LaneFacts {
                slot,
                name: key.name.clone(),
                fps: planned.settings.fps,
                view,
                chain_ns: lane.timeout_ns.saturating_add(chain.unwrap_or(0)),
            };
            made.push(key.name.clone());
            change.lanes.push((slot, Some(lane)));
            if next.lanes.len() <= slot {
                next.lanes.resize(slot + 1, None);
            }
            next.lanes[slot] = Some((key, facts, models));
        }
        for (slot, lane) in next.lanes.iter().enumerate() {
            if lane.is_none() && shape.lanes.get(slot).is_some_and(Option::is_some) {
                change.lanes.push((slot, None));
            }
        }
        change.lanes.sort_by_key(|(slot, _)| *slot);
        let mut reshape = Self {
            change,
            shape: next,
            paths: HashMap::new(),
            made,
            changed_paths: Vec::new(),
            gone_paths: Vec::new(),
        };
        reshape.paths(shape, plan.paths, &slots, pace, nursery)?;
        Ok(reshape)
    }

    fn paths(
        &mut self,
        old: &Shape,
        planned: Vec<super::plan::PlannedPath>,
        slots: &[usize],
        pace: &Pace,
        nursery: &Nursery<'_>,
    ) -> Result<(), StartError> {
        let facts: Vec<LaneFacts> = slots
            .iter()
            .filter_map(|s| Some(self.shape.lanes.get(*s)?.as_ref()?.1.clone()))
            .collect();
        self.shape.paths.resize(old.paths.len(), None);
        for path in planned {
            let key = PathKey {
                name: path.name.clone(),
                settings: path.settings.clone(),
                fusion: path.fusion_settings.clone(),
                lanes: path.extractors.iter().map(|i| slots[*i]).collect(),
            };
            let lanes = || {
                key.lanes
                    .iter()
                    .filter_map(|s| self.shape.lanes[*s].as_ref())
            };
            let known = PathFacts {
                extractors: lanes().map(|(k, _, _)| k.name.clone()).collect(),
                models: lanes().flat_map(|(_, _, m)| m.clone()).collect(),
            };
            self.paths.insert(key.name.clone(), known);
            let named = |p: &Option<PathKey>| p.as_ref().is_some_and(|p| p.name == key.name);
            let index = old.paths.iter().position(named);
            let fresh = || key.lanes.iter().any(|s| self.made_slot(*s));
            let index = match index {
                Some(index) if old.paths[index].as_ref() == Some(&key) && !fresh() => {
                    self.shape.paths[index] = Some(key);
                    continue;
                }
                Some(index) => index,
                None => (0..)
                    .find(|i| {
                        old.paths.get(*i).is_none_or(Option::is_none)
                            && self.shape.paths.get(*i).is_none_or(Option::is_none)
                    })
                    .unwrap_or(self.shape.paths.len()),
            };
            self.changed_paths.push(key.name.clone());
            self.change
                .paths
                .push((index, Some(build::path(pace, path, &facts, nursery)?)));
            if self.shape.paths.len() <= index {
                self.shape.paths.resize(index + 1, None);
            }
            self.shape.paths[index] = Some(key);
        }
        for (index, path) in old.paths.iter().enumerate() {
            if let (Some(path), None) = (path, &self.shape.paths[index]) {
                self.gone_paths.push(path.name.clone());
                self.change.paths.push((index, None));
            }
        }
        Ok(())
    }

    fn made_slot(&self, slot: usize) -> bool {
        self.change
            .lanes
            .iter()
            .any(|(s, lane)| *s == slot && lane.is_some())
    }

    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.change.lanes.is_empty() && self.change.paths.is_empty()
    }
}

/// What is wrong with more extractors than a path thread can have.
pub fn too_many(source: &Name) -> String {
    format!(
        "source `{source}` would have more than {MAX_EXTRACTORS} extractors (counting those that a \
         reload replaces): spread them over several sources, or restart"
    )
}

fn lane_key(planned: &Planned, slots: &[usize]) -> LaneKey {
    LaneKey {
        name: planned.name.clone(),
        settings: planned.settings.clone(),
        isolation: planned.isolation,
        runs: planned.runs.clone(),
        view: planned.view,
        zones: planned.context.zones.clone(),
        masks: planned.context.masks.clone(),
        needs: planned.needs.iter().map(|i| slots[*i]).collect(),
    }
}

/// Where a new lane goes: its predecessor's place, or the first that neither shape uses.
fn free_slot(old: &Shape, next: &Shape, name: &Name) -> usize {
    let named = |l: &Option<(LaneKey, LaneFacts, Vec<ModelUse>)>| {
        l.as_ref().is_some_and(|(k, _, _)| k.name == *name)
    };
    let free = |slot: usize| {
        old.lanes.get(slot).is_none_or(Option::is_none)
            && next.lanes.get(slot).is_none_or(Option::is_none)
    };
    old.lanes
        .iter()
        .position(named)
        .or_else(|| (0..next.lanes.len()).find(|slot| free(*slot)))
        .unwrap_or(next.lanes.len())
}
