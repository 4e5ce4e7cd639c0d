//! The broker: connects as the appliance would and publishes a test message.

use std::net::TcpListener;
use std::time::Duration;

use visualpath_mqtt::{Scheme, TrialError, parse_url, trial};

use super::finding::{Code, Finding};
use crate::broker::{self, OFF};
use crate::config::Config;

/// Name lookup, connection, message and acknowledgement together.
const PATIENCE: Duration = Duration::from_secs(5);

/// Tries what `[mqtt]` says.
pub fn check(config: &Config) -> Finding {
    let text = config.mqtt.url.as_str();
    if text == OFF {
        return Finding::new(Code::BrokerOff, "mqtt.url", "nothing is published");
    }
    let wrong = |key: &str, message: String, advice: &str| {
        Finding::new(Code::BrokerConfig, key, message).advise(advice)
    };
    // Without user and password.
    let url = match parse_url(text) {
        Ok(url) => url,
        Err(e) => return wrong("mqtt.url", e.to_string(), "correct mqtt.url"),
    };
    if url.scheme == Scheme::Embedded {
        return match url.loopback().map(TcpListener::bind) {
            Some(Ok(listener)) => {
                drop(listener);
                Finding::new(Code::Broker, url.to_string(), "the port is free")
            }
            Some(Err(e)) => {
                Finding::new(Code::BrokerPortTaken, url.to_string(), e.to_string()).advise(
                    "if visualpath or a broker runs there already, that is it: use mqtt:// for a broker; else take another port, or 0 for any free one",
                )
            }
            None => wrong("mqtt.url", format!("{url} is not on loopback"), "use embedded://127.0.0.1:1883"),
        };
    }
    let options = match broker::options(config, url.clone()) {
        Ok(options) => options,
        Err(e) => {
            return wrong(
                "mqtt",
                e.to_string(),
                "correct the key it names; the file must be readable for the user that runs visualpath",
            );
        }
    };
    let subject = url.to_string();
    match trial(&options, PATIENCE) {
        Ok(trial) => Finding::new(
            Code::Broker,
            subject,
            format!(
                "connected in {:.0} ms, a test message to `{}` was acknowledged in {:.0} ms",
                trial.connect.as_secs_f64() * 1e3,
                options.topics.doctor(),
                trial.publish.as_secs_f64() * 1e3
            ),
        ),
        Err(e) => failed(&subject, &e),
    }
}

fn failed(subject: &str, error: &TrialError) -> Finding {
    let (code, advice) = match error {
        TrialError::Refused { .. } => (
            Code::BrokerRefused,
            "check mqtt.username and mqtt.password_file against the broker's users",
        ),
        TrialError::NotAcknowledged { .. } => (
            Code::BrokerSilent,
            "see the broker's log: a limit, an access rule for this topic, or something else than a broker on this port",
        ),
        TrialError::Embedded(_) | TrialError::Unreachable { .. } | TrialError::Runtime(_) => (
            Code::BrokerUnreachable,
            "start the broker, check host, port and firewall; or use embedded://127.0.0.1:1883. The appliance runs all the same and publishes when it is there",
        ),
    };
    let detail = error.to_string();
    let detail = detail
        .strip_prefix(&format!("{subject}: "))
        .unwrap_or(&detail);
    Finding::new(code, subject, detail).advise(advice)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(url: String) -> Finding {
        let mut config = Config::default();
        config.device.id = crate::config::model::DeviceId::new("test").ok();
        config.mqtt.url = url;
        check(&config)
    }

    #[test]
    fn nobody_there_a_port_in_use_and_something_that_is_no_broker_are_told_apart() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(
            at(format!("embedded://127.0.0.1:{port}")).code,
            Code::BrokerPortTaken
        );
        // It takes the connection and closes it.
        let closes = std::thread::spawn(move || drop(listener.accept()));
        let told = at(format!("mqtt://127.0.0.1:{port}"));
        assert_eq!(told.code, Code::BrokerUnreachable, "{told}");
        closes.join().unwrap();
        let told = at(format!("mqtt://127.0.0.1:{port}"));
        assert_eq!(told.code, Code::BrokerUnreachable, "{told}");
        assert!(told.advice.is_some());
        assert_eq!(at("embedded://127.0.0.1:0".into()).code, Code::Broker);
        assert_eq!(at("off".into()).code, Code::BrokerOff);
        let told = at("mqtt://me:secret@127.0.0.1:x".into());
        assert_eq!(told.code, Code::BrokerConfig);
        assert!(!told.to_string().contains("secret"), "{told}");
    }
}
