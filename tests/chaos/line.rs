//! A TCP line between a worker and the broker, or the sandbox, and what can happen to it.

use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// What a line does with bytes and with those who connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// It carries them.
    Open,
    /// It closes what there is, and whatever is opened, at once.
    Cut,
    /// Nothing listens: connections are refused.
    Refused,
    /// It takes connections and bytes and carries nothing; nobody is told.
    Silent,
    /// It carries the first half of the next bytes towards the far side, then nothing.
    Half,
}

/// A proxy to one port of this machine. Ends with its value.
#[derive(Debug)]
pub(crate) struct Line {
    /// Where to connect to.
    pub(crate) port: u16,
    mode: Arc<watch::Sender<Mode>>,
    halves: watch::Receiver<usize>,
    _task: JoinSet<()>,
}

impl Line {
    /// An open line to `target`.
    pub(crate) async fn to(target: u16) -> Line {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mode = Arc::new(watch::Sender::new(Mode::Open));
        let (halved, halves) = watch::channel(0);
        let mut task = JoinSet::new();
        task.spawn(listen(listener, target, mode.subscribe(), Arc::new(halved)));
        Line { port, mode, halves, _task: task }
    }

    /// From now on. What was silent or halved is closed by any change: its bytes are lost.
    pub(crate) fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    /// Waits until so many requests were written by half.
    pub(crate) async fn halved(&self, count: usize) {
        let mut halves = self.halves.clone();
        halves.wait_for(|halves| *halves >= count).await.unwrap();
    }
}

async fn listen(
    listener: TcpListener,
    target: u16,
    mut mode: watch::Receiver<Mode>,
    halved: Arc<watch::Sender<usize>>,
) {
    let port = listener.local_addr().unwrap().port();
    let mut listener = Some(listener);
    let mut connections = JoinSet::new();
    loop {
        let now = *mode.borrow_and_update();
        match now {
            Mode::Refused => listener = None,
            _ if listener.is_none() => {
                listener = Some(TcpListener::bind(("127.0.0.1", port)).await.unwrap());
            }
            _ => {}
        }
        tokio::select! {
            changed = mode.changed() => if changed.is_err() { return },
            accepted = accept(listener.as_ref()) => {
                if now != Mode::Cut {
                    connections.spawn(carry(accepted, target, mode.clone(), Arc::clone(&halved)));
                }
            }
            Some(_ended) = connections.join_next() => {}
        }
    }
}

async fn accept(listener: Option<&TcpListener>) -> TcpStream {
    match listener {
        Some(listener) => listener.accept().await.unwrap().0,
        None => std::future::pending().await,
    }
}

async fn carry(
    near: TcpStream,
    target: u16,
    mut mode: watch::Receiver<Mode>,
    halved: Arc<watch::Sender<usize>>,
) {
    let Ok(far) = TcpStream::connect(("127.0.0.1", target)).await else { return };
    let ((from_near, to_near), (from_far, to_far)) = (near.into_split(), far.into_split());
    tokio::select! {
        () = pump(from_near, to_far, mode.clone(), Some(&halved)) => {}
        () = pump(from_far, to_near, mode.clone(), None) => {}
        _ = mode.wait_for(|mode| matches!(mode, Mode::Cut | Mode::Refused)) => {}
    }
}

/// Carries one direction to its end; requests are what a `halved` is given for.
async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut mode: watch::Receiver<Mode>,
    halved: Option<&watch::Sender<usize>>,
) {
    let mut bytes = vec![0; 64 << 10];
    while let Ok(count @ 1..) = from.read(&mut bytes).await {
        let now = *mode.borrow_and_update();
        let carried = match (now, halved) {
            (Mode::Open, _) | (Mode::Half, None) => count,
            (Mode::Half, Some(_)) => count / 2,
            (Mode::Silent | Mode::Cut | Mode::Refused, _) => 0,
        };
        if to.write_all(&bytes[..carried]).await.is_err() {
            return;
        }
        if carried < count {
            if let (Mode::Half, Some(halved)) = (now, halved) {
                halved.send_modify(|halves| *halves += 1);
            }
            // Bytes are missing: it is of no use any more.
            let _changed = mode.changed().await;
            return;
        }
    }
}
