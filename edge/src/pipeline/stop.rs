//! Stopping: every stage is joined in the order frames flow, against one shared deadline, and who
//! does not make it is named and left behind.

use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use visualpath_core::{Name, StopFlag};
use visualpath_platform::Leaving;

/// What all stages together get once a stop has been asked for.
const ALL: Duration = Duration::from_secs(20);
/// What each stage gets even if those before it used the deadline up: whoever is still there
/// shall write and send what it has.
const EACH: Duration = Duration::from_secs(3);
/// How often a running stage is looked at. A run lasts weeks; its end may take this long.
const LOOK: Duration = Duration::from_millis(20);

/// A run that will end.
pub struct Stopping {
    stop: StopFlag,
    deadline: Option<Instant>,
    /// Threads that did not end in time.
    pub stragglers: Vec<String>,
    /// Threads that panicked.
    pub panicked: Vec<String>,
}

impl Stopping {
    /// The deadline begins when `stop` is set; until then a stage may take as long as it takes.
    pub fn new(stop: StopFlag) -> Self {
        Self {
            stop,
            deadline: None,
            stragglers: Vec::new(),
            panicked: Vec::new(),
        }
    }

    /// What is left for the next stage. Without a stop it begins now: the source has ended.
    pub fn left(&mut self) -> Duration {
        let deadline = *self.deadline.get_or_insert_with(|| Instant::now() + ALL);
        deadline.saturating_duration_since(Instant::now()).max(EACH)
    }

    /// What another's waiting came to is this one's too.
    pub fn absorb(&mut self, other: Self) {
        self.stragglers.extend(other.stragglers);
        if !other.panicked.is_empty() {
            self.panicked.extend(other.panicked);
            self.stop.stop();
        }
    }

    /// Waits for a stage. `look` is called again and again meanwhile, with whether the stop has
    /// been asked for and more than [`EACH`] has passed since.
    pub fn join<T>(
        &mut self,
        name: &str,
        thread: JoinHandle<T>,
        mut look: impl FnMut(bool),
    ) -> Option<T> {
        let mut asked: Option<Instant> = None;
        while !thread.is_finished() {
            if self.stop.is_set() {
                let since = *asked.get_or_insert_with(Instant::now);
                let deadline = *self.deadline.get_or_insert(since + ALL);
                let limit = deadline.max(since + EACH);
                if Instant::now() >= limit {
                    self.stragglers.push(name.to_owned());
                    return None;
                }
            }
            look(asked.is_some_and(|since| since.elapsed() > EACH));
            std::thread::sleep(LOOK);
        }
        match thread.join() {
            Ok(value) => Some(value),
            Err(_) => {
                tracing::error!(thread = name, "panicked; stopping");
                self.panicked.push(name.to_owned());
                self.stop.stop();
                None
            }
        }
    }

    /// Waits for workers that have been told to end.
    pub fn join_all(&mut self, prefix: &str, workers: Vec<(Name, Leaving)>) {
        let limit = Instant::now() + self.left();
        for (name, worker) in workers {
            let name = format!("{prefix}{name}");
            while !worker.is_finished() && Instant::now() < limit {
                std::thread::sleep(LOOK);
            }
            if !worker.is_finished() {
                self.stragglers.push(name);
            } else if !worker.join() {
                self.panicked.push(name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_stage_that_hangs_is_named_and_those_after_it_still_get_their_time() {
        let stop = StopFlag::new();
        let mut stopping = Stopping::new(stop.clone());
        stopping.deadline = Some(Instant::now());
        stop.stop();
        let (open, hang) = mpsc::channel::<()>();
        let stuck = std::thread::spawn(move || hang.recv().is_err());
        let mut late = false;
        assert!(stopping.join("stuck", stuck, |l| late |= l).is_none());
        assert_eq!(stopping.stragglers, ["stuck"]);
        assert!(stopping.left() >= EACH, "the next stage has time");
        drop(open);
    }

    #[test]
    fn a_panicking_stage_stops_the_run() {
        let stop = StopFlag::new();
        let mut stopping = Stopping::new(stop.clone());
        let thread = std::thread::spawn(|| panic!("oh"));
        assert!(stopping.join::<()>("path", thread, |_| ()).is_none());
        assert_eq!(stopping.panicked, ["path"]);
        assert!(stop.is_set());
    }
}
