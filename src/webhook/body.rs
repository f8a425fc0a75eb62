//! Takes in a request's body within bounds: of its size, of its time, and of all bodies that are under way
//! together. Reads nothing in it.

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Body;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// Meta's own bound on a webhook's body: 3 MB.
const MOST_BYTES: usize = 3 * 1024 * 1024;

/// So much of each body needs no room: the bound on connections bounds it, so that nobody who fills the room
/// with long ones keeps short ones out. A status takes less than 1 KB.
const FREE_BYTES: usize = 64 * 1024;

/// What is longer shares this room.
const ROOM_BYTES: usize = 16 * 1024 * 1024;

/// A sender that needs longer for its body is cut off: it holds a connection and room meanwhile.
const WITHIN: Duration = Duration::from_secs(5);

/// Why a body was not taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoBody {
    TooLarge,
    TooSlow,
    BrokenOff,
    /// No room: other long bodies fill it.
    Busy,
}

/// A body, and its part of the room.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) bytes: Bytes,
    _part: OwnedSemaphorePermit,
}

/// The room that all long bodies share.
#[derive(Debug)]
pub(super) struct Room {
    places: Arc<Semaphore>,
    free: usize,
}

impl Room {
    pub(super) fn new() -> Room {
        Room::of(ROOM_BYTES, FREE_BYTES)
    }

    fn of(bytes: usize, free: usize) -> Room {
        Room { places: Arc::new(Semaphore::new(bytes)), free }
    }

    /// Takes in a whole body. One that announces too much is refused before a byte of it is read.
    pub(super) async fn take(
        &self,
        body: impl Body<Data = Bytes> + Unpin,
    ) -> Result<Taken, NoBody> {
        let announced = body.size_hint().lower();
        if announced > MOST_BYTES as u64 {
            return Err(NoBody::TooLarge);
        }
        timeout(WITHIN, self.gather(body)).await.unwrap_or(Err(NoBody::TooSlow))
    }

    /// Room is taken for what has come, not for what was announced: an announcement costs nothing.
    async fn gather(&self, mut body: impl Body<Data = Bytes> + Unpin) -> Result<Taken, NoBody> {
        let mut part = self.part(0)?;
        // Copied, since a sender may cut its body into a million pieces, each with a cost of its own.
        let mut bytes = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(|_| NoBody::BrokenOff)?.into_data() else { continue };
            if bytes.len() + data.len() > MOST_BYTES {
                return Err(NoBody::TooLarge);
            }
            let longer = |length: usize| length.saturating_sub(self.free);
            let more = longer(bytes.len() + data.len()) - longer(bytes.len());
            part.merge(self.part(more)?);
            bytes.extend_from_slice(&data);
        }
        Ok(Taken { bytes: bytes.freeze(), _part: part })
    }

    fn part(&self, bytes: usize) -> Result<OwnedSemaphorePermit, NoBody> {
        let bytes = u32::try_from(bytes).map_err(|_| NoBody::TooLarge)?;
        Arc::clone(&self.places).try_acquire_many_owned(bytes).map_err(|_| NoBody::Busy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;
    use futures_util::{StreamExt, stream};
    use std::io;

    /// A body whose length is not announced.
    fn chunks(chunks: &'static [&'static [u8]]) -> Body {
        let chunks = chunks.iter().map(|chunk| Ok::<_, io::Error>(Bytes::from_static(chunk)));
        Body::from_stream(stream::iter(chunks))
    }

    async fn refused(room: &Room, body: Body) -> Option<NoBody> {
        room.take(body).await.err()
    }

    #[tokio::test]
    async fn a_body_is_what_came_in_its_order() {
        let room = Room::new();
        for body in [chunks(&[b"one ", b"", b"two"]), Body::from("one two")] {
            assert_eq!(room.take(body).await.unwrap().bytes, "one two");
        }
        assert_eq!(room.take(Body::empty()).await.unwrap().bytes, "");
    }

    #[tokio::test]
    async fn one_that_announces_or_brings_too_much_is_refused() {
        const MEGABYTE: &[u8] = &[b'x'; 1024 * 1024];
        let room = Room::new();
        let announced = Body::from(vec![b'x'; MOST_BYTES + 1]);
        assert_eq!(refused(&room, announced).await, Some(NoBody::TooLarge));
        let brought = chunks(&[MEGABYTE, MEGABYTE, MEGABYTE, b"x"]);
        assert_eq!(refused(&room, brought).await, Some(NoBody::TooLarge));
        assert_eq!(refused(&room, chunks(&[MEGABYTE, MEGABYTE, MEGABYTE])).await, None);
    }

    #[tokio::test]
    async fn a_full_room_refuses_until_a_body_has_left_it() {
        let room = Room::of(10, 0);
        let first = room.take(Body::from("1234567")).await.unwrap();
        assert_eq!(refused(&room, Body::from("1234")).await, Some(NoBody::Busy));
        assert_eq!(refused(&room, Body::from("123")).await, None);
        drop(first);
        assert_eq!(refused(&room, Body::from("1234567890")).await, None);
        assert_eq!(room.places.available_permits(), 10);
    }

    #[tokio::test]
    async fn a_short_body_finds_a_place_beside_long_ones() {
        let room = Room::of(4, 3);
        let long = room.take(chunks(&[b"12", b"345", b"67"])).await.unwrap();
        assert_eq!(refused(&room, Body::from("1234")).await, Some(NoBody::Busy));
        assert_eq!(refused(&room, Body::from("123")).await, None);
        drop(long);
        assert_eq!(refused(&room, Body::from("1234")).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_end_is_given_up() {
        let endless = stream::iter([Ok::<_, io::Error>(Bytes::from("{"))]).chain(stream::pending());
        let room = Room::new();
        assert_eq!(refused(&room, Body::from_stream(endless)).await, Some(NoBody::TooSlow));
        assert_eq!(room.places.available_permits(), ROOM_BYTES);
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_is_no_body() {
        let broken = stream::iter([Ok(Bytes::from("{")), Err(io::Error::other("gone"))]);
        assert_eq!(refused(&Room::new(), Body::from_stream(broken)).await, Some(NoBody::BrokenOff));
    }
}
