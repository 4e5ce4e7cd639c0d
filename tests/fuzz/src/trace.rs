//! One line of a trace.
//!
//! It is a record or an error in a few words; a record, written again, is the same record, and a
//! second writing gives the same bytes.

use visualpath_platform::trace::reader::parse_line;

/// Longest error: it may quote a name, not the line.
const MAX_MESSAGE_BYTES: usize = 1000;

/// See the module.
pub fn check(bytes: &[u8]) -> bool {
    let Ok(line) = std::str::from_utf8(bytes) else {
        return false;
    };
    match parse_line(line) {
        Ok(record) => {
            assert!(!record.record_type().is_empty());
            let text = serde_json::to_string(&record).unwrap();
            assert!(!text.contains('\n'), "a record is one line: {text}");
            let again =
                parse_line(&text).unwrap_or_else(|e| panic!("written but not read: {e}\n{text}"));
            assert_eq!(again, record, "{text}");
            assert_eq!(serde_json::to_string(&again).unwrap(), text);
            true
        }
        Err(error) => {
            let words = error.to_string();
            assert!(
                (1..=MAX_MESSAGE_BYTES + bytes.len()).contains(&words.len()),
                "{words}"
            );
            false
        }
    }
}
