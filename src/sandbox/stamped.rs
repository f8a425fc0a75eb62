//! When a request reached this machine, by the kernel's timestamp. On a busy machine the sandbox gets to run
//! late, by hundreds of milliseconds at times; what its record says of a caller's pace is not to be its own
//! lateness.
//!
//! Where there is none, a request counts from when it is read.

use std::{
    io::{self, IoSliceMut},
    os::fd::AsRawFd,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use nix::{
    cmsg_space,
    sys::{
        socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt::ReceiveTimestampns},
        time::TimeSpec,
    },
};
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::{TcpListener, TcpStream},
    time::Instant,
};

/// Asks the kernel to note when bytes come, for each connection of this listener. It begins a moment later:
/// the first ones count from when they are read.
pub(super) fn note_arrivals(listener: &TcpListener) {
    // It may not be able to.
    setsockopt(listener, ReceiveTimestampns, &true).ok();
}

/// When what was last read from a connection had come.
#[derive(Debug, Clone, Default)]
pub(super) struct Came(Arc<Mutex<Option<SystemTime>>>);

impl Came {
    /// On the clock of `now`, the present moment, which is `wall` on the kernel's; `now` where it is not known.
    pub(super) fn at(&self, now: Instant, wall: SystemTime) -> Instant {
        let came = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let ago = came.and_then(|came| wall.duration_since(came).ok()).unwrap_or_default();
        now.checked_sub(ago).unwrap_or(now)
    }

    fn note(&self, came: Option<SystemTime>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = came;
    }
}

/// A connection that keeps the timestamp of what was read from it last.
pub(super) struct Stamped {
    stream: TcpStream,
    came: Came,
}

impl Stamped {
    pub(super) fn new(stream: TcpStream) -> Stamped {
        Stamped { stream, came: Came::default() }
    }

    pub(super) fn came(&self) -> Came {
        self.came.clone()
    }
}

impl AsyncRead for Stamped {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.stream.poll_read_ready(context))?;
            let receive = || receive(&self.stream, buffer.initialize_unfilled());
            match self.stream.try_io(Interest::READABLE, receive) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
                Ok((count, came)) => {
                    // The end of all bytes is not one of them.
                    if count > 0 {
                        self.came.note(came);
                    }
                    buffer.advance(count);
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }
}

/// How many bytes were there, and when the last of them had come.
fn receive(stream: &TcpStream, buffer: &mut [u8]) -> io::Result<(usize, Option<SystemTime>)> {
    let (mut slices, mut notes) = ([IoSliceMut::new(buffer)], cmsg_space!(TimeSpec));
    let (stream, flags) = (stream.as_raw_fd(), MsgFlags::empty());
    let message = recvmsg::<()>(stream, &mut slices, Some(&mut notes), flags)?;
    let came = message.cmsgs()?.find_map(|note| match note {
        ControlMessageOwned::ScmTimestampns(came) => Some(UNIX_EPOCH + Duration::from(came)),
        _ => None,
    });
    Ok((message.bytes, came))
}

impl AsyncWrite for Stamped {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::super::serve::wall;
    use super::*;
    use std::io::Write;
    use tokio::{
        io::AsyncReadExt,
        time::{sleep, timeout},
    };

    /// Both ends of a connection.
    async fn connection(listener: &TcpListener) -> (std::net::TcpStream, Stamped) {
        let caller = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (caller, Stamped::new(listener.accept().await.unwrap().0))
    }

    /// When a byte had been written, and when it came, as is found afterwards.
    async fn passed_on((caller, reader): &mut (std::net::TcpStream, Stamped)) -> [Instant; 3] {
        caller.write_all(b"x").unwrap();
        let written = Instant::now();
        reader.read_u8().await.unwrap();
        let now = Instant::now();
        [written, reader.came().at(now, wall()), now]
    }

    #[tokio::test]
    async fn what_is_read_late_came_when_it_was_written() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        note_arrivals(&listener);
        let mut connection = connection(&listener).await;
        let noted = async {
            loop {
                let [written, came, _] = passed_on(&mut connection).await;
                if came <= written {
                    return;
                }
                // The kernel begins a moment after it was asked to.
                sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(Duration::from_secs(20), noted).await.unwrap();
    }

    #[tokio::test]
    async fn without_a_timestamp_it_came_when_it_is_read() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let [written, came, now] = passed_on(&mut connection(&listener).await).await;
        assert!(came == now && now > written);
    }
}
