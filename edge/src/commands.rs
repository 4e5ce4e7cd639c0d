//! Commands: what somebody asks the appliance to do, over MQTT or HTTP.

use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};
use serde_json::{Map, Value};
use visualpath_mqtt::CommandError;

type Answer = Box<dyn FnOnce(Result<Value, CommandError>) + Send>;

/// Hands commands to the thread `commands`.
#[derive(Clone)]
pub struct Commands {
    to: Sender<(String, Map<String, Value>, Answer)>,
}

impl Commands {
    /// Hands a command over; `answer` is called once, on the commands or events thread.
    pub fn ask(
        &self,
        verb: &str,
        args: Map<String, Value>,
        answer: impl FnOnce(Result<Value, CommandError>) + Send + 'static,
    ) {
        let asked = (verb.to_owned(), args, Box::new(answer) as Answer);
        if let Err(refused) = self.to.try_send(asked) {
            let (_, _, answer) = refused.into_inner();
            answer(Err(CommandError::new("busy", "too many commands wait")));
        }
    }

    /// The same, waiting for at most `limit`.
    ///
    /// # Errors
    /// Why it was not carried out.
    pub fn ask_and_wait(
        &self,
        verb: &str,
        args: Map<String, Value>,
        limit: Duration,
    ) -> Result<Value, CommandError> {
        let (to, answer) = bounded(1);
        self.ask(verb, args, move |result| {
            // Nobody listens after the limit.
            to.send(result).unwrap_or_default();
        });
        match answer.recv_timeout(limit) {
            Ok(result) => result,
            Err(RecvTimeoutError::Timeout) => Err(CommandError::new(
                "timeout",
                "no answer in time; it may still be carried out",
            )),
            Err(RecvTimeoutError::Disconnected) => {
                Err(CommandError::new("stopping", "the appliance is stopping"))
            }
        }
    }
}
