//! A way to the broker that can be shut while the broker runs, or before it is there.

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use crate::broker::free_port;

/// A port that leads to another one while it is open.
pub(super) struct Door {
    pub(super) port: u16,
    to: u16,
    open: Option<JoinHandle<()>>,
}

impl Door {
    /// One that is shut.
    pub(super) fn to(to: u16) -> Self {
        Self {
            port: free_port(),
            to,
            open: None,
        }
    }

    /// Lets through whoever comes.
    pub(super) async fn open(&mut self) {
        let listener = TcpListener::bind(("127.0.0.1", self.port)).await.unwrap();
        let to = self.to;
        self.open = Some(tokio::spawn(async move {
            // They end with this task.
            let mut through = JoinSet::new();
            loop {
                let (mut from, _) = listener.accept().await.unwrap();
                through.spawn(async move {
                    if let Ok(mut to) = TcpStream::connect(("127.0.0.1", to)).await {
                        let _ = copy_bidirectional(&mut from, &mut to).await;
                    }
                });
            }
        }));
    }

    /// Ends every connection; whoever comes is refused.
    pub(super) async fn shut(&mut self) {
        if let Some(open) = self.open.take() {
            open.abort();
            let _ = open.await;
        }
    }
}
