//! The thread for what takes milliseconds: handshakes with certificates.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use anyhow::Context as _;
use tokio::sync::mpsc;
use tracing::error;

use crate::dtls::Work;

/// One thread, so that at most one core is busy with strangers' certificates, and so that the
/// engine's signing key is used by one thread only. What waits for it is bounded by the number of
/// unfinished handshakes.
pub(super) struct Worker {
    jobs: mpsc::UnboundedSender<Work>,
    done: mpsc::UnboundedReceiver<Work>,
}

impl Worker {
    /// Starts the thread. It ends with this value.
    ///
    /// # Errors
    /// The system gives no thread.
    pub(super) fn start() -> anyhow::Result<Self> {
        let (jobs, mut waiting) = mpsc::unbounded_channel::<Work>();
        let (finished, done) = mpsc::unbounded_channel();
        thread::Builder::new()
            .name("handshakes".into())
            .spawn(move || {
                while let Some(mut work) = waiting.blocking_recv() {
                    // Work that does not come back keeps its place for good.
                    let run = AssertUnwindSafe(|| work.run());
                    if catch_unwind(run).is_err() {
                        error!("a handshake step panicked; the handshake will time out");
                    }
                    if finished.send(work).is_err() {
                        break;
                    }
                }
            })
            .context("cannot start the thread for handshakes")?;
        Ok(Self { jobs, done })
    }

    /// Hands it a job.
    pub(super) fn run(&self, work: Work) {
        // It fails only when the thread has panicked, and then the handshake times out.
        _ = self.jobs.send(work);
    }

    /// Waits for a job that is done. Cancel-safe.
    pub(super) async fn done(&mut self) -> Work {
        match self.done.recv().await {
            Some(work) => work,
            // The thread is gone; there will be no more.
            None => std::future::pending().await,
        }
    }
}
