//! A stream whose reader must keep pace: one that takes a byte now and then is as gone as one that
//! takes none.
//!
//! The clock starts when a write has to wait, and is looked at once `time` has passed: if less than
//! `bytes` were taken meanwhile the connection ends. It stops when all that there was to write is
//! written.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// A stream and its clock.
pub(crate) struct Paced<S> {
    stream: S,
    time: Duration,
    bytes: usize,
    clock: Option<Clock>,
}

struct Clock {
    until: Pin<Box<Sleep>>,
    /// Bytes taken since it started.
    taken: usize,
}

impl<S> Paced<S> {
    /// Whoever reads takes at least `bytes` in `time`.
    pub fn new(stream: S, time: Duration, bytes: usize) -> Self {
        Self {
            stream,
            time,
            bytes,
            clock: None,
        }
    }

    /// What became of a write.
    fn look(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(written) = written {
            if let (Some(clock), Ok(n)) = (&mut self.clock, &written) {
                clock.taken = clock.taken.saturating_add(*n);
            }
            return Poll::Ready(written);
        }
        let time = self.time;
        let clock = self.clock.get_or_insert_with(|| Clock {
            until: Box::pin(sleep(time)),
            taken: 0,
        });
        loop {
            ready!(clock.until.as_mut().poll(cx));
            if clock.taken < self.bytes {
                let message = "the client takes its answer too slowly";
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, message)));
            }
            clock.taken = 0;
            clock.until.as_mut().reset(Instant::now() + time);
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(cx, bytes);
        this.look(cx, written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write_vectored(cx, bytes);
        this.look(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// Asked for when all is written that there was.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = ready!(Pin::new(&mut this.stream).poll_flush(cx));
        this.clock = None;
        Poll::Ready(flushed)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    /// Takes a byte now and then.
    struct Slow(Pin<Box<Sleep>>);

    const NOW_AND_THEN: Duration = Duration::from_millis(5);

    impl AsyncWrite for Slow {
        fn poll_write(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            _: &[u8],
        ) -> Poll<io::Result<usize>> {
            ready!(self.0.as_mut().poll(cx));
            self.0.as_mut().reset(Instant::now() + NOW_AND_THEN);
            Poll::Ready(Ok(1))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    /// How many bytes of an answer of 200 such a client gets, if `least` must be taken in 50 ms.
    fn gets(least: usize, flushes: bool) -> (usize, Option<io::ErrorKind>) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let runtime = runtime.unwrap_or_else(|e| panic!("{e}"));
        runtime.block_on(async {
            let slow = Slow(Box::pin(sleep(NOW_AND_THEN)));
            let mut paced = Paced::new(slow, Duration::from_millis(50), least);
            for n in 0..200 {
                let written = poll_fn(|cx| Pin::new(&mut paced).poll_write(cx, b"x")).await;
                if let Err(e) = written {
                    return (n, Some(e.kind()));
                }
                if flushes {
                    let flushed = poll_fn(|cx| Pin::new(&mut paced).poll_flush(cx)).await;
                    assert!(flushed.is_ok());
                }
            }
            (200, None)
        })
    }

    #[test]
    fn who_takes_a_byte_now_and_then_is_let_go() {
        let (n, error) = gets(100, false);
        assert_eq!(error, Some(io::ErrorKind::TimedOut), "after {n} bytes");
    }

    #[test]
    fn who_keeps_pace_gets_everything_however_long_it_takes() {
        assert_eq!(gets(1, false), (200, None));
    }

    #[test]
    fn an_answer_that_was_written_is_not_held_against_the_next() {
        assert_eq!(gets(100, true), (200, None));
    }
}
