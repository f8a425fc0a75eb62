//! The body of an answer: whole, or cut off in its middle.
//!
//! Hands hyper its bytes. Whether an answer is cut is decided elsewhere.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

/// What hyper sends.
#[derive(Debug)]
pub(super) enum AnswerBody {
    Whole(Option<Bytes>),
    /// Half of the announced `length`, then an error, on which hyper closes the connection.
    Cut {
        half: Option<Bytes>,
        length: u64,
        flushed: bool,
    },
}

impl AnswerBody {
    pub(super) fn whole(bytes: Bytes) -> Self {
        Self::Whole(Some(bytes).filter(|bytes| !bytes.is_empty()))
    }

    pub(super) fn cut(bytes: Bytes) -> Self {
        let half = bytes.slice(..bytes.len() / 2);
        Self::Cut { half: Some(half), length: bytes.len() as u64, flushed: false }
    }
}

/// The answer ends here on purpose.
#[derive(Debug, thiserror::Error)]
#[error("the sandbox cuts this answer off")]
pub(super) struct CutOff;

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = CutOff;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CutOff>>> {
        match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Cut { half, flushed, .. } => {
                if let Some(half) = half.take() {
                    return Poll::Ready(Some(Ok(Frame::data(half))));
                }
                if !*flushed {
                    // hyper writes out what it has only when the body has nothing more for now.
                    *flushed = true;
                    context.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Poll::Ready(Some(Err(CutOff)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(match self {
            Self::Whole(bytes) => bytes.as_ref().map_or(0, |bytes| bytes.len() as u64),
            Self::Cut { length, .. } => *length,
        })
    }
}
