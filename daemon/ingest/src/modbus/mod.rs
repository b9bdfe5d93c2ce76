//! Modbus slaves as a source: RTU on a serial line, TCP, and RTU over TCP, client side.
//!
//! The client is our own: an answer must be the one to the open request, by slave, function and length or by transaction, and what
//! comes late is thrown away (see daemon/decisions). Pure are `map` (what registers mean), `plan` (which are read together), `pdu`,
//! `rtu` and `mbap` (frames), `schedule` (who is asked next) and `values` (what is handed on); `client` is an open line, `source`
//! serves it and decides when to open it again, `session` is for an engineer who reads and writes single values.

mod client;
mod config;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod map;
mod mbap;
mod pause;
mod pdu;
mod plan;
mod rtu;
mod schedule;
mod session;
mod source;
mod values;

pub use config::{Link, ModbusConfig, ModbusLine, ReadGroup};
pub use map::{Decoded, Kind, Order, Point, Read, Table, WriteError};
pub use session::{Session, SessionError};
pub use source::{ModbusSource, modbus};
