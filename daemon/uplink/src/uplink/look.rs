//! Looking into the outbox, and sending what was found.

use std::sync::Arc;
use std::time::Instant;

use tidegate_domain::delivery::{Action, Request, SealedMessage, Settled, Share};
use tokio::task::{self, JoinError, JoinHandle};
use tracing::{debug, warn};

use super::{MqttUplink, SAY_TOGETHER, SAY_WITHIN, Session, UplinkError, chain, lock};
use crate::link;
use crate::outbox::OutboxError;
use crate::payload::Envelope;

/// One look at the outbox.
pub(super) type Look = Result<Fetched, OutboxError>;

pub(super) struct Fetched {
    /// With the first look after a connection was made.
    opening: Option<Opening>,
    share: Share,
    /// As they go out, or why they cannot.
    messages: Vec<Result<SealedMessage, (u64, String)>>,
}

struct Opening {
    envelope: Arc<Envelope>,
    last_sealed: u64,
}

impl<T: From<Vec<Settled>> + Send> MqttUplink<T> {
    /// Begins a look at the outbox, where there is a reason and room.
    pub(super) fn fetch(&mut self, session: &mut Session) -> Option<JoinHandle<Look>> {
        if !session.more || self.unsaid.len() > SAY_TOGETHER {
            return None;
        }
        let (room, alarms_only) = match self.delivery.room(session.urgent) {
            Some(room) => (room, false),
            None if session.urgent => (self.delivery.room_for_alarms()?, true),
            None => return None,
        };
        // Beside alarms there may be others, for which there was no room.
        session.more = alarms_only;
        session.urgent = false;
        session.looked = Some(Instant::now());
        let mark = lock(&self.horizon).mark(self.now());
        let mut request = Request {
            exclude: self.delivery.exclude(),
            room,
            alarms_only,
            mark: mark.unwrap_or_default(),
            share: self.share,
        };
        let envelope = session.envelope.clone();
        let outbox = Arc::clone(&self.outbox);
        let uplink = self.config.index;
        let (gateway, encoding) = (self.config.gateway.clone(), self.config.encoding);
        let most = self.config.max_packet;
        Some(task::spawn_blocking(move || {
            let (opening, envelope) = match envelope {
                Some(envelope) => (None, envelope),
                // Before the messages: what is sealed between the two reads was sealed on this connection.
                None => {
                    let last_sealed = outbox.last_sealed(uplink)?;
                    let stream = outbox.stream(uplink);
                    let envelope = Envelope::new(&gateway, &stream, last_sealed, encoding, most);
                    let envelope = Arc::new(envelope);
                    // What was sealed before the start is backlog.
                    request.mark = mark.unwrap_or(last_sealed);
                    let opening = Opening {
                        envelope: Arc::clone(&envelope),
                        last_sealed,
                    };
                    (Some(opening), envelope)
                }
            };
            let messages = outbox.next(uplink, &mut request)?;
            let messages = messages.into_iter();
            let messages = messages.map(|message| encoded(&envelope, message));
            Ok(Fetched {
                opening,
                share: request.share,
                messages: messages.collect(),
            })
        }))
    }

    pub(super) fn looked(
        &mut self,
        session: &mut Session,
        look: Result<Look, JoinError>,
    ) -> Result<(), UplinkError> {
        let fetched = match look.map_err(|source| self.panicked(source))? {
            Ok(fetched) => fetched,
            Err(error) => {
                // The next tick tries again; the connection is not at fault.
                session.looked = None;
                let uplink = &self.config.name;
                let error = chain(&error);
                warn!(uplink, error, "tried again soon");
                self.report(|status| status.last_error = Some(error));
                return Ok(());
            }
        };
        if let Some(opening) = fetched.opening {
            lock(&self.horizon).begin(opening.last_sealed);
            session.envelope = Some(opening.envelope);
        }
        self.share = fetched.share;
        let mut taken = false;
        let content_type = self.config.encoding.content_type();
        for message in fetched.messages {
            let message = match message {
                Ok(message) => message,
                Err((seq, reason)) => {
                    self.delivery.refuse(seq, reason);
                    taken = true;
                    continue;
                }
            };
            let topic = self.topics.of(message.kind);
            let size = message.body.len() + link::overhead(topic.len(), content_type);
            let most = session.max_packet;
            if size > most {
                let reason = format!(
                    "needs an MQTT packet of {size} bytes, and the limit is {most}; raise it at the uplink or the broker"
                );
                self.delivery.refuse(message.seq, reason);
                taken = true;
            } else {
                taken |= self.delivery.offer(message);
            }
        }
        // How much is left is not known, so that the next look may find nothing. An outbox that gives only what was
        // excluded is not asked in a circle.
        session.more |= taken;
        Ok(())
    }

    /// Does what the machine says.
    pub(super) fn act(&mut self, session: &mut Session) {
        let now = self.now();
        while let Some(action) = self.delivery.next_action(now) {
            match action {
                Action::Send(message) => self.send(session, message),
                Action::Settle { seq, verdict } => {
                    let uplink = &self.config.name;
                    debug!(uplink, seq, ?verdict, "settled");
                    if self.unsaid.is_empty() {
                        self.say_at = Instant::now() + SAY_WITHIN;
                    }
                    self.unsaid.push(Settled {
                        uplink: self.config.index,
                        seq,
                        verdict,
                    });
                }
                Action::Drop { reason } => session.dropped = Some(reason),
            }
        }
        self.say_together();
    }

    fn send(&mut self, session: &mut Session, message: SealedMessage) {
        let topic = self.topics.of(message.kind);
        let content_type = self.config.encoding.content_type();
        let (seq, payload) = (message.seq, message.body);
        match session.link.publish(topic, content_type, payload, false) {
            Ok(pkid) => self.delivery.numbered(pkid),
            Err(error) => session.dropped = Some(format!("seq {seq} waits: {error}")),
        }
    }
}

/// The message with its payload for a body, or its number and why there is none.
fn encoded(
    envelope: &Envelope,
    mut message: SealedMessage,
) -> Result<SealedMessage, (u64, String)> {
    match envelope.payload(&mut message) {
        Ok(payload) => {
            message.body = payload;
            Ok(message)
        }
        Err(error) => Err((message.seq, error.to_string())),
    }
}
