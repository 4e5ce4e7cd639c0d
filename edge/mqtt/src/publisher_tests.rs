use super::*;
use visualpath_core::MonotonicClock;

#[test]
fn delays_double_up_to_the_limit_with_jitter_and_begin_anew() {
    let (min, max) = (Duration::from_millis(500), Duration::from_secs(30));
    let mut b = Backoff::new(min, max);
    let mut expected = min;
    for _ in 0..20 {
        let d = b.next();
        assert!(d >= expected / 2 && d <= expected, "{d:?} of {expected:?}");
        expected = (expected * 2).min(max);
    }
    b.reset();
    assert!(b.next() <= min);
    let many: std::collections::BTreeSet<Duration> = (0..50)
        .map(|_| {
            b.reset();
            b.next()
        })
        .collect();
    assert!(many.len() > 10, "no jitter: {many:?}");
}

#[test]
fn of_a_retained_topic_only_the_last_value_is_sent_and_all_of_them_to_a_new_connection() {
    let t = Topics::new("p", "d").unwrap();
    let mut r = Retained::default();
    assert!(r.set(t.info(), b"1".to_vec()).unwrap());
    assert!(r.set(t.health(), b"1".to_vec()).unwrap());
    assert!(r.set(t.info(), b"2".to_vec()).unwrap());
    assert!(!r.set(t.info(), b"2".to_vec()).unwrap(), "the same again");
    let walk = |r: &Retained| {
        let mut version = 0;
        let mut out = Vec::new();
        while let Some((topic, value, v)) = r.after(version) {
            version = v;
            out.push((topic, value));
        }
        out
    };
    let expected = [(t.health(), b"1".to_vec()), (t.info(), b"2".to_vec())];
    assert_eq!(walk(&r), expected);
    assert_eq!(walk(&r), expected);
}

#[test]
fn retained_topics_are_bounded() {
    let t = Topics::new("p", "d").unwrap();
    let mut r = Retained::default();
    for i in 0..MAX_RETAINED {
        let source = Name::new(&format!("cam{i}")).unwrap();
        r.set(t.source_status(&source), b"online".to_vec()).unwrap();
    }
    assert!(matches!(
        r.set(t.info(), b"1".to_vec()),
        Err(PublisherError::Retained { .. })
    ));
    let known = t.source_status(&Name::new("cam0").unwrap());
    assert!(r.set(known, b"offline".to_vec()).unwrap());
}

#[test]
fn an_embedded_url_needs_its_broker_first() {
    let url = BrokerUrl {
        scheme: Scheme::Embedded,
        host: "127.0.0.1".into(),
        port: 0,
        username: None,
        password: None,
    };
    let options = MqttOptions::new(url, Topics::new("p", "d").unwrap());
    let started = Publisher::start(options, Arc::new(MonotonicClock::new()));
    assert!(matches!(started, Err(PublisherError::Embedded(_))));
}
