//! Requests: one [`exchange`] each, with its [`body`] both ways, an [`upgrade`] at its end, or a [`reply`]
//! of our own instead.

pub mod body;
pub mod exchange;
pub mod forward;
pub mod h2;
pub mod open;
pub mod reply;
pub mod upgrade;
