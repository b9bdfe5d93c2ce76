//! What the retained status says, and the way out of a connection.

use tidegate_domain::delivery::Settled;
use tracing::{info, warn};

use super::{Farewell, JSON, MqttUplink, Outcome, Session, wall_ms};
use crate::config::Transport;
use crate::link::{self, NotTaken};
use crate::payload;
use crate::status::Status;

impl<T: From<Vec<Settled>> + Send> MqttUplink<T> {
    /// Whether the TLS files were renewed since the connection was made.
    pub(super) fn outdated(&self, session: &Session) -> bool {
        match (&self.broker().transport, session.made_of) {
            (Transport::Tls(tls), Some(generation)) if session.since.is_some() => {
                !tls.is_current(generation)
            }
            (Transport::Tls(_) | Transport::Plain, _) => false,
        }
    }

    /// What follows when the connection was left as intended.
    pub(super) fn left(&mut self, session: &Session) -> Outcome {
        if session.returning {
            self.brokers.returns();
            return self.elsewhere();
        }
        if !session.renewing {
            return Outcome::Stopped;
        }
        let uplink = &self.config.name;
        let sent_again = self.delivery.in_flight();
        info!(
            uplink,
            sent_again, "the TLS files were renewed: connecting anew"
        );
        Outcome::Renewed
    }

    /// Publishes the status where it is due, one at a time, so that a status that changes often fills no queue; and
    /// leads a stop to its end.
    pub(super) fn speak(&mut self, session: &mut Session) {
        if session.since.is_none() || session.dropped.is_some() {
            return;
        }
        let outstanding = self.delivery.unacknowledged();
        let taken = match session.farewell {
            Farewell::None if session.status_due && outstanding == self.delivery.in_flight() => {
                session.status_due = false;
                let says = self.says.borrow_and_update().clone();
                self.publish_status(session, says)
            }
            Farewell::Wanted if outstanding == 0 && session.renewing => {
                session.farewell = Farewell::Leaving;
                session.link.leave();
                Ok(())
            }
            Farewell::Wanted if outstanding == 0 => {
                session.farewell = Farewell::Said;
                let payload = payload::offline(&self.config.gateway);
                self.say_status(session, payload)
            }
            Farewell::Said if outstanding == 0 => {
                session.farewell = Farewell::Leaving;
                session.link.leave();
                Ok(())
            }
            Farewell::None
            | Farewell::Wanted
            | Farewell::Said
            | Farewell::Leaving
            | Farewell::Left => Ok(()),
        };
        if let Err(error) = taken {
            session.dropped = Some(format!("no status: {error}"));
        }
    }

    fn publish_status(&mut self, session: &mut Session, mut says: Status) -> Result<(), NotTaken> {
        let topic = &self.topics.status;
        let gateway = &self.config.gateway;
        let mut payload = payload::status(gateway, &says, wall_ms());
        // The broker would end every connection over it.
        if payload.len() + link::overhead(topic.len(), JSON) > session.max_status {
            let uplink = &self.config.name;
            let (bytes, most) = (payload.len(), session.max_status);
            warn!(
                uplink,
                bytes, most, "the status is too large for the broker; sent without modules"
            );
            says.modules = serde_json::Value::Null;
            payload = payload::status(gateway, &says, wall_ms());
        }
        self.say_status(session, payload)
    }

    fn say_status(&mut self, session: &mut Session, payload: Vec<u8>) -> Result<(), NotTaken> {
        let now = self.now();
        self.delivery.submitted_other(now);
        self.delivery.spent(now, payload.len());
        let topic = &self.topics.status;
        let pkid = session.link.publish(topic, JSON, payload, true)?;
        self.delivery.numbered(pkid);
        Ok(())
    }
}
