//! End to end: the real binary on real video with the real model, a real broker, real players.
mod broker;
mod live;
mod real_video;
mod wrong;
