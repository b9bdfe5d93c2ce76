//! Modules over the air, the device's side: what a repository may be believed, and the files that its channel names, kept on
//! the device.
//!
//! A [`Transport`] fetches named files and is believed nothing. TUF decides ([`verify`]), by the tough crate and by what this
//! crate adds to it. What was decided is kept in one file ([`trust`]), what was fetched by its digest ([`files`]), and what the
//! channel names once all of it is here, beside what of it is installed ([`Device`]). Nothing here runs a module, and nothing
//! expires that runs.

mod device;
mod durable;
mod explain;
mod faults;
mod files;
mod refusal;
mod strict;
mod transport;
mod trust;
mod verify;

pub use device::{Admission, Candidate, Device, DeviceConfig, Polled};
#[cfg(feature = "test-faults")]
pub use faults::cut_after;
pub use refusal::{Kind, Refusal};
pub use transport::{
    Answer, Body, Chunks, Directory, FetchError, Http, HttpConfig, Pace, Pending, Request,
    SLOWEST_BYTES_PER_SECOND, Transport,
};
pub use url::Url;
pub use verify::{Expiry, Now, time};

/// What the names of folders begin with that do not outlive a poll.
const SCRATCH: &str = "scratch-";
