//! Requests: one [`exchange`] each, with its [`body`] both ways, an [`upgrade`] at its end, or a [`reply`]
//! of our own instead.

pub mod body;
pub mod exchange;
pub mod forward;
pub mod reply;
pub mod upgrade;

use std::future::Future;

/// Runs the engine's tasks on the worker's own thread.
#[derive(Clone, Copy, Debug)]
pub struct LocalExecutor;

impl<F> hyper::rt::Executor<F> for LocalExecutor
where
    F: Future + 'static,
    F::Output: 'static,
{
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}
