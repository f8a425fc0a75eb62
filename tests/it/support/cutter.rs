//! A TCP proxy whose line can be cut and mended.

use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Forwards to one port of this machine until it is cut. Ends with its value.
#[derive(Debug)]
pub(crate) struct Cutter {
    /// Where to connect to.
    pub(crate) port: u16,
    open: Arc<watch::Sender<bool>>,
    _task: JoinSet<()>,
}

impl Cutter {
    /// A proxy to `target`.
    pub(crate) async fn to(target: u16) -> Cutter {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let open = Arc::new(watch::Sender::new(true));
        let mut task = JoinSet::new();
        task.spawn(forward(listener, target, open.subscribe()));
        Cutter { port, open, _task: task }
    }

    /// Ends every connection and takes no new ones.
    pub(crate) fn cut(&self) {
        self.open.send_replace(false);
    }

    /// Takes connections again.
    pub(crate) fn mend(&self) {
        self.open.send_replace(true);
    }
}

async fn forward(listener: TcpListener, target: u16, open: watch::Receiver<bool>) {
    let mut lines = JoinSet::new();
    loop {
        let (mut near, _) = listener.accept().await.unwrap();
        if !*open.borrow() {
            continue;
        }
        let mut open = open.clone();
        lines.spawn(async move {
            let mut far = TcpStream::connect(("127.0.0.1", target)).await.unwrap();
            tokio::select! {
                _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                _ = open.wait_for(|open| !open) => {}
            }
        });
    }
}
