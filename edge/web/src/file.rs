//! A file as an answer: all of it or one range, with what caches need to know.
//!
//! It is opened once; a clip that is deleted while somebody reads it is read to its end. Reading
//! goes piece by piece, on a thread that may block, and only as fast as the client takes it.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use http_range_header::parse_range_header;
use tokio::sync::Semaphore;

use crate::refusal::Refusal;
use crate::routes::Shared;

/// Bytes read at once.
const PIECE: u64 = 64 << 10;

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A clip.
    Mp4,
    /// Its still.
    Jpeg,
}

impl Kind {
    fn media_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Mp4 => "video/mp4",
            Self::Jpeg => "image/jpeg",
        })
    }
}

/// What of it is wanted.
pub(crate) struct Asked<'a> {
    /// What the client calls it.
    pub name: &'a str,
    pub kind: Kind,
    /// To be saved, not shown.
    pub download: bool,
    /// Only the headers.
    pub head: bool,
    pub headers: &'a HeaderMap,
}

/// An open file and what identifies its content.
pub(crate) struct Opened {
    file: Arc<File>,
    size: u64,
    modified: Option<SystemTime>,
    etag: String,
}

/// Which bytes.
#[derive(Debug, PartialEq, Eq)]
enum Part {
    All,
    /// From, to (inclusive).
    Range(u64, u64),
    Unsatisfiable,
}

impl Opened {
    /// Opens it; blocks.
    pub fn open(path: &Path, id: &str) -> io::Result<Self> {
        let file = File::open(path)?;
        let about = file.metadata()?;
        if !about.is_file() {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(Self {
            file: Arc::new(file),
            size: about.len(),
            modified: about.modified().ok(),
            etag: etag(id, &about),
        })
    }

    pub fn answer(self, asked: &Asked<'_>, shared: &Shared) -> Result<Response, Refusal> {
        let mut headers = self.headers(asked);
        if self.is_known(asked.headers) {
            headers.remove(header::CONTENT_TYPE);
            return Ok((StatusCode::NOT_MODIFIED, headers).into_response());
        }
        let (status, from, to) = match self.part(asked.headers) {
            Part::All => (StatusCode::OK, 0, self.size),
            Part::Range(from, last) => {
                let text = format!("bytes {from}-{last}/{}", self.size);
                insert(&mut headers, header::CONTENT_RANGE, text);
                (StatusCode::PARTIAL_CONTENT, from, last + 1)
            }
            Part::Unsatisfiable => {
                let message = format!("the file has {} bytes", self.size);
                let size = HeaderValue::try_from(format!("bytes */{}", self.size));
                let refusal = Refusal::new("bad_range", message);
                return Err(match size {
                    Ok(size) => refusal.with(header::CONTENT_RANGE, size),
                    Err(_) => refusal,
                });
            }
        };
        insert(
            &mut headers,
            header::CONTENT_LENGTH,
            (to - from).to_string(),
        );
        let body = match asked.head {
            true => Body::empty(),
            false => self.body(from, to, shared),
        };
        Ok((status, headers, body).into_response())
    }

    fn headers(&self, asked: &Asked<'_>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, asked.kind.media_type());
        headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        headers.insert(
            header::CACHE_CONTROL,
            HeaderValue::from_static("private, max-age=0, must-revalidate"),
        );
        insert(&mut headers, header::ETAG, self.etag.clone());
        if let Some(modified) = self.modified {
            let date = httpdate::fmt_http_date(modified);
            insert(&mut headers, header::LAST_MODIFIED, date);
        }
        if asked.download {
            let text = format!("attachment; filename=\"{}\"", asked.name);
            insert(&mut headers, header::CONTENT_DISPOSITION, text);
        }
        headers
    }

    /// Whether the client has this very content (RFC 9110, 13.2.2: `If-None-Match` goes first).
    fn is_known(&self, headers: &HeaderMap) -> bool {
        if let Some(tags) = text(headers, header::IF_NONE_MATCH) {
            let mut tags = tags.split(',').map(str::trim);
            return tags.any(|tag| tag == "*" || tag.trim_start_matches("W/") == self.etag);
        }
        let since = text(headers, header::IF_MODIFIED_SINCE).and_then(date);
        match (since, self.modified.map(seconds)) {
            (Some(since), Some(modified)) => modified <= since,
            _ => false,
        }
    }

    /// One range is given as asked; a header that can't be read, or several ranges, are answered
    /// with all of it, as RFC 9110, 14.2 allows.
    fn part(&self, headers: &HeaderMap) -> Part {
        let Some(range) = text(headers, header::RANGE) else {
            return Part::All;
        };
        if let Some(condition) = text(headers, header::IF_RANGE) {
            let same_date = || match (date(condition), self.modified.map(seconds)) {
                (Some(date), Some(modified)) => date == modified,
                _ => false,
            };
            if condition != self.etag && !same_date() {
                return Part::All;
            }
        }
        let Ok(parsed) = parse_range_header(range) else {
            return Part::All;
        };
        if parsed.len() != 1 {
            return Part::All;
        }
        match parsed.validate(self.size) {
            Ok(ranges) => match ranges.first() {
                Some(range) if *range.end() < self.size => {
                    Part::Range(*range.start(), *range.end())
                }
                _ => Part::All,
            },
            Err(_) => Part::Unsatisfiable,
        }
    }

    fn body(self, from: u64, to: u64, shared: &Shared) -> Body {
        let reads = Arc::clone(&shared.reads);
        let limit = shared.limits.idle_time;
        let file = self.file;
        let pieces = stream::try_unfold(from, move |at| {
            let (file, reads) = (Arc::clone(&file), Arc::clone(&reads));
            async move {
                if at >= to {
                    return Ok(None);
                }
                let piece = piece(file, at, PIECE.min(to - at), reads, limit).await?;
                let next = at + piece.len() as u64;
                Ok::<_, io::Error>(Some((piece, next)))
            }
        });
        Body::from_stream(pieces)
    }
}

/// Reads up to `length` bytes at `at`; none is an error, because the file was longer when asked.
async fn piece(
    file: Arc<File>,
    at: u64,
    length: u64,
    reads: Arc<Semaphore>,
    limit: Duration,
) -> io::Result<Bytes> {
    let read = async move {
        let permit = reads.acquire_owned().await.map_err(io::Error::other)?;
        let read = tokio::task::spawn_blocking(move || {
            let length = usize::try_from(length).map_err(io::Error::other)?;
            let mut buffer = vec![0; length];
            let read = file.read_at(&mut buffer, at);
            drop(permit);
            match read? {
                0 => Err(io::ErrorKind::UnexpectedEof.into()),
                n => {
                    buffer.truncate(n);
                    Ok(Bytes::from(buffer))
                }
            }
        });
        read.await.map_err(io::Error::other)?
    };
    // A disk that does not answer must not hold the connection for ever.
    tokio::time::timeout(limit, read)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// A clip's file never changes once it has its name, but one may take the place of another.
fn etag(id: &str, about: &Metadata) -> String {
    let (s, ns) = (about.mtime(), about.mtime_nsec());
    format!("\"{id}-{:x}-{s:x}-{ns:x}\"", about.len())
}

fn insert(headers: &mut HeaderMap, name: HeaderName, text: String) {
    // All of these texts are made of numbers, dates and an id that was checked.
    if let Ok(value) = HeaderValue::try_from(text) {
        headers.insert(name, value);
    }
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

/// A date of a header, seconds since 1970; they have no fraction.
fn date(text: &str) -> Option<u64> {
    httpdate::parse_http_date(text).ok().map(seconds)
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |d| d.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(size: u64) -> Opened {
        Opened {
            file: Arc::new(File::open("/dev/null").unwrap_or_else(|e| panic!("{e}"))),
            size,
            modified: Some(SystemTime::UNIX_EPOCH + Duration::from_millis(1_500)),
            etag: "\"a\"".to_owned(),
        }
    }

    fn asked(pairs: &[(HeaderName, &'static str)]) -> HeaderMap {
        let pairs = pairs
            .iter()
            .map(|(n, v)| (n.clone(), HeaderValue::from_static(v)));
        pairs.collect()
    }

    #[test]
    fn one_range_is_answered_and_anything_odd_with_everything() {
        let file = opened(100);
        for (text, part) in [
            ("bytes=0-0", Part::Range(0, 0)),
            ("bytes=10-19", Part::Range(10, 19)),
            ("bytes=90-", Part::Range(90, 99)),
            ("bytes=-5", Part::Range(95, 99)),
            ("bytes=90-1000", Part::Range(90, 99)),
            ("bytes=99-99999999999999999999999", Part::Range(99, 99)),
            ("bytes=100-", Part::Unsatisfiable),
            ("bytes=0-1,5-6", Part::All),
            ("bytes=5-1", Part::All),
            ("pages=1-2", Part::All),
            ("bytes=x-y", Part::All),
            ("", Part::All),
        ] {
            assert_eq!(file.part(&asked(&[(header::RANGE, text)])), part, "{text}");
        }
        let empty = opened(0).part(&asked(&[(header::RANGE, "bytes=0-")]));
        assert!(
            matches!(empty, Part::All | Part::Unsatisfiable),
            "{empty:?}"
        );
    }

    #[test]
    fn a_range_of_another_content_is_not_given() {
        let file = opened(100);
        let part = |condition| {
            let range = (header::RANGE, "bytes=0-0");
            file.part(&asked(&[range, (header::IF_RANGE, condition)]))
        };
        assert_eq!(part("\"a\""), Part::Range(0, 0));
        assert_eq!(part("Thu, 01 Jan 1970 00:00:01 GMT"), Part::Range(0, 0));
        for other in [
            "\"b\"",
            "W/\"a\"",
            "Thu, 01 Jan 1970 00:00:02 GMT",
            "nonsense",
        ] {
            assert_eq!(part(other), Part::All, "{other}");
        }
    }

    #[test]
    fn what_the_client_has_is_not_sent_again() {
        let file = opened(100);
        let is = |name: HeaderName, value| file.is_known(&asked(&[(name, value)]));
        assert!(is(header::IF_NONE_MATCH, "\"b\", W/\"a\""));
        assert!(is(header::IF_NONE_MATCH, "*"));
        assert!(!is(header::IF_NONE_MATCH, "\"b\""));
        assert!(is(
            header::IF_MODIFIED_SINCE,
            "Thu, 01 Jan 1970 00:00:01 GMT"
        ));
        assert!(!is(
            header::IF_MODIFIED_SINCE,
            "Thu, 01 Jan 1970 00:00:00 GMT"
        ));
        let both = asked(&[
            (header::IF_NONE_MATCH, "\"b\""),
            (header::IF_MODIFIED_SINCE, "Thu, 01 Jan 1970 00:00:01 GMT"),
        ]);
        assert!(!file.is_known(&both), "the tag is the better word");
    }
}
