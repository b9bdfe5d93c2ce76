//! The gateway explains itself: the local page, its API and its metrics (promise 5).
//!
//! [`view`] is the picture that the binary provides, [`router`] draws it, [`serve`] answers connections. All of
//! that only reads. What changes something is an [`Actions`], and only [`control_router`] has it.
//!
//! | module | what |
//! |---|---|
//! | `view` | the snapshot: what there is to show, in which unit |
//! | `verdict` | the snapshot judged: what is wrong, since when, what was lost, what to do |
//! | `certificates` | which of them run out, for verdict and page |
//! | `slots` | every slot, with what runs in it, what is tried and what comes back |
//! | `page` | the page, and the numbers as a person reads them (`format`) |
//! | `api` | JSON, health, readiness |
//! | `action` | what an operator may do, over the control socket alone |
//! | `metrics` | the Prometheus text format |
//! | `assets` | stylesheet, script, icon, OpenAPI description: embedded, with entity tags |
//! | `guard` | what every request and answer goes through: host, size, panics, security headers |
//! | `serve` | connections, and their bounds |

mod action;
mod api;
mod assets;
mod certificates;
mod format;
mod guard;
mod metrics;
mod page;
mod routes;
mod serve;
mod slots;
mod verdict;
pub mod view;

pub use action::{Actions, Answer, Caller, Refused, TryRequest};
pub use guard::{Client, Refusals, RefusedRequest};
pub use routes::{control_router, router};
pub use serve::{serve, serve_control};
pub use view::{Readiness, Snapshot, View};
