//! What one connection has to remember. Sans I/O: bytes and instants come in, bytes to send and what was heard come
//! out.

use std::time::{Duration, Instant};

use bytes::BytesMut;
use tidegate_domain::backoff::Backoff;

use super::config::{MqttConfig, Qos};
use super::link::{LinkError, Quoted};
use super::packet::{self, Decoder, Packet, Publish};

/// How long the broker may take to answer a SUBSCRIBE.
const SUBSCRIBE_TIME: Duration = Duration::from_secs(15);

/// Waits before a refused filter is asked for again.
const REFUSED: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(600));

pub(super) struct Session<'a> {
    config: &'a MqttConfig,
    decoder: Decoder,
    /// Bytes received and not looked at yet.
    pub(super) input: BytesMut,
    /// Bytes to be sent. Bounded: every packet identifier is acknowledged once, pings are timed, and a connection
    /// that takes nothing ends.
    pub(super) output: BytesMut,
    keep_alive: Duration,
    asked: Option<Asked>,
    refused: Vec<Refusal>,
    ask_again: Option<Instant>,
    patience: Backoff,
    last_id: u16,
    pinged: Instant,
    heard: Instant,
    /// Since when there are bytes to be sent and none is taken.
    stuck: Option<Instant>,
}

/// A SUBSCRIBE that is not answered yet.
struct Asked {
    id: u16,
    /// Indices into the configuration's list.
    filters: Vec<usize>,
    at: Instant,
}

/// A filter that the broker refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// Index into the configuration's list.
    pub(super) filter: usize,
    pub(super) code: u8,
    pub(super) reason: String,
}

/// What a packet means to the source.
pub(super) enum Heard {
    Message(Publish),
    /// The broker answered the subscriptions.
    Answer {
        /// All filters that are refused at present.
        refused: Vec<Refusal>,
        /// Filters granted with QoS 0 where 1 was asked for, as indices into the configuration's list.
        downgraded: Vec<usize>,
    },
    /// Nothing to do.
    Alive,
}

impl<'a> Session<'a> {
    /// A session on a fresh connection, with the SUBSCRIBE ready to be sent.
    pub(super) fn new(
        config: &'a MqttConfig,
        keep_alive: Duration,
        decoder: Decoder,
        input: BytesMut,
        now: Instant,
    ) -> Self {
        let mut session = Self {
            config,
            decoder,
            input,
            output: BytesMut::new(),
            keep_alive,
            asked: None,
            refused: Vec::new(),
            ask_again: None,
            patience: Backoff::new(REFUSED.0, REFUSED.1),
            last_id: 0,
            pinged: now,
            heard: now,
            stuck: None,
        };
        session.subscribe((0..config.subscribe.len()).collect(), now);
        session
    }

    fn subscribe(&mut self, filters: Vec<usize>, now: Instant) {
        self.last_id = self.last_id.checked_add(1).unwrap_or(1);
        let wanted = filters.iter().map(|&filter| &self.config.subscribe[filter]);
        let packet = packet::subscribe(self.config.version, self.last_id, wanted);
        self.output.extend_from_slice(&packet);
        self.asked = Some(Asked {
            id: self.last_id,
            filters,
            at: now,
        });
    }

    /// Appends acknowledgements.
    pub(super) fn acknowledge(&mut self, ids: impl Iterator<Item = u16>) {
        for id in ids {
            packet::put_puback(&mut self.output, id);
        }
    }

    /// Appends the end of the session's connection.
    pub(super) fn disconnect(&mut self) {
        self.output.extend_from_slice(&packet::DISCONNECT);
    }

    /// Notes that bytes came in, or that reading begins again after a pause in which none could.
    pub(super) fn read(&mut self, now: Instant) {
        self.heard = now;
    }

    /// Notes that the broker took bytes.
    pub(super) fn written(&mut self, now: Instant) {
        self.stuck = (!self.output.is_empty()).then_some(now);
    }

    /// The next packet out of `input`; `None` until there are more bytes. `random` is drawn when it is needed.
    pub(super) fn next(
        &mut self,
        now: Instant,
        random: impl FnOnce() -> u64,
    ) -> Result<Option<Heard>, LinkError> {
        let Some(packet) = self.decoder.next(&mut self.input)? else {
            return Ok(None);
        };
        match packet {
            Packet::Publish(publish) if publish.qos > Qos::AtLeastOnce as u8 => {
                Err(LinkError::Qos(publish.qos))
            }
            Packet::Publish(publish) if publish.qos > 0 && publish.id == 0 => {
                Err(LinkError::OutOfTurn("a message with packet identifier 0"))
            }
            Packet::Publish(publish) => Ok(Some(Heard::Message(publish))),
            Packet::PingResp => Ok(Some(Heard::Alive)),
            Packet::SubAck { id, codes, said } => {
                let asked = self
                    .asked
                    .take_if(|asked| asked.id == id && asked.filters.len() == codes.len())
                    .ok_or(LinkError::OutOfTurn("a SUBACK that fits no SUBSCRIBE"))?;
                Ok(Some(self.answered(
                    asked,
                    &codes,
                    &Quoted(said.reason),
                    now,
                    random,
                )))
            }
            Packet::Disconnect { code, said } => {
                Err(LinkError::disconnected(self.config.version, code, said))
            }
            Packet::ConnAck { .. } => Err(LinkError::OutOfTurn("a second CONNACK")),
        }
    }

    fn answered(
        &mut self,
        asked: Asked,
        codes: &[u8],
        said: &Quoted,
        now: Instant,
        random: impl FnOnce() -> u64,
    ) -> Heard {
        let mut downgraded = Vec::new();
        self.refused
            .retain(|refusal| !asked.filters.contains(&refusal.filter));
        for (filter, &code) in asked.filters.into_iter().zip(codes) {
            if code >= 0x80 {
                let meaning = packet::meaning(self.config.version, code);
                self.refused.push(Refusal {
                    filter,
                    code,
                    reason: format!("{meaning} (code {code:#04x}){said}"),
                });
            } else if code < self.config.subscribe[filter].qos as u8 {
                downgraded.push(filter);
            }
        }
        self.ask_again = if self.refused.is_empty() {
            self.patience.reset();
            None
        } else {
            Some(now + self.patience.next(random()))
        };
        Heard::Answer {
            refused: self.refused.clone(),
            downgraded,
        }
    }

    /// What is due by time: pings, subscriptions asked again, and the end of a connection that is dead. `reading`
    /// says whether bytes could come in at all.
    pub(super) fn tick(&mut self, now: Instant, reading: bool) -> Result<(), LinkError> {
        // The broker tolerates one and a half keep-alives without a packet (3.1.2.10): two pings may be late.
        if now >= self.pinged + self.keep_alive / 2 {
            self.pinged = now;
            self.output.extend_from_slice(&packet::PINGREQ);
        }
        let patience = self.keep_alive.max(Duration::from_secs(5)) * 3 / 2;
        if reading && now >= self.heard + patience {
            return Err(LinkError::Silent(patience));
        }
        if self.output.is_empty() {
            self.stuck = None;
        } else if now >= *self.stuck.get_or_insert(now) + patience {
            return Err(LinkError::Stalled(patience));
        }
        if let Some(asked) = &self.asked
            && reading
            && now >= asked.at + SUBSCRIBE_TIME
        {
            return Err(LinkError::NotSubscribed(SUBSCRIBE_TIME));
        }
        if self.asked.is_none() && self.ask_again.is_some_and(|at| now >= at) {
            self.ask_again = None;
            let again = self.refused.iter().map(|refusal| refusal.filter).collect();
            self.subscribe(again, now);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mqtt::{Subscription, Transport, Version};

    const KEEP_ALIVE: Duration = Duration::from_secs(20);

    fn config() -> MqttConfig {
        MqttConfig {
            index: 0,
            name: "plant".to_owned(),
            host: "broker".to_owned(),
            port: 1883,
            transport: Transport::Tcp,
            version: Version::V311,
            client_id: "gw".to_owned(),
            subscribe: ["a", "b"]
                .map(|filter| Subscription {
                    filter: filter.to_owned(),
                    qos: Qos::AtLeastOnce,
                })
                .to_vec(),
            credentials: None,
            in_flight: 20,
            keep_alive: KEEP_ALIVE,
            session_expiry: Duration::ZERO,
            had_session: false,
            identity: None,
        }
    }

    fn session(config: &MqttConfig, now: Instant) -> Session<'_> {
        let decoder = Decoder::new(config.version);
        Session::new(config, KEEP_ALIVE, decoder, BytesMut::new(), now)
    }

    #[test]
    fn pings_go_on_while_nothing_is_read_and_a_dead_broker_is_noticed() {
        let config = config();
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut session = session(&config, begin);
        session.output.clear();
        session.written(begin);
        session.tick(at(9), true).unwrap();
        assert!(session.output.is_empty());
        // A pause in reading: pings leave, and silence is nobody's fault. Nor is a SUBACK that cannot be read.
        for seconds in [10, 20, 30, 40] {
            session.tick(at(seconds), false).unwrap();
            assert_eq!(session.output.split(), packet::PINGREQ[..]);
            session.written(at(seconds));
        }
        session.asked = None;
        session.read(at(40));
        session.tick(at(69), true).unwrap();
        session.output.clear();
        let error = session.tick(at(70), true).unwrap_err();
        assert!(matches!(error, LinkError::Silent(_)), "{error}");
    }

    #[test]
    fn a_broker_that_takes_no_bytes_is_left() {
        let config = config();
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut session = session(&config, begin);
        session.tick(at(1), false).unwrap();
        session.written(at(20));
        session.tick(at(49), false).unwrap();
        let error = session.tick(at(50), false).unwrap_err();
        assert!(matches!(error, LinkError::Stalled(_)), "{error}");
    }

    #[test]
    fn only_what_was_refused_is_asked_again_and_every_question_has_its_answer() {
        let config = config();
        let begin = Instant::now();
        let mut session = session(&config, begin);
        session.output.clear();
        session.input.extend_from_slice(b"\x90\x04\0\x01\x01\x80");
        let Ok(Some(Heard::Answer { refused, .. })) = session.next(begin, || u64::MAX) else {
            panic!("no answer");
        };
        assert_eq!((refused.len(), refused[0].filter), (1, 1));
        session
            .tick(begin + REFUSED.0 - Duration::from_millis(1), true)
            .unwrap();
        assert!(session.output.is_empty());
        session.pinged = begin + REFUSED.0;
        session.tick(begin + REFUSED.0, true).unwrap();
        assert_eq!(session.output.split(), b"\x82\x06\0\x02\0\x01b\x01"[..]);
        session.read(begin + REFUSED.0 + SUBSCRIBE_TIME);
        let error = session.tick(begin + REFUSED.0 + SUBSCRIBE_TIME, true);
        assert!(matches!(error, Err(LinkError::NotSubscribed(_))));

        session.input.extend_from_slice(b"\x90\x03\0\x02\x01");
        let Ok(Some(Heard::Answer { refused, .. })) = session.next(begin, || 0) else {
            panic!("no second answer");
        };
        assert_eq!(refused, []);
    }
}
