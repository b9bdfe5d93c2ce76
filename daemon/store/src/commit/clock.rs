//! The machine's clock in a commit: that it was set or stepped, and what is marked while it is not set.

use tidegate_domain::item::millis;
use tidegate_domain::{Arrival, BatchOutcome};

use super::Commit;
use crate::books::own;
use crate::clock::Advance;
use crate::image::Image;
use crate::input::Event;
use crate::unset::{Mark, RowMark};

impl Commit<'_> {
    /// Notes that the clock is set, where it was not in this boot so far; returns the offset then. What arrived before
    /// was corrected when the group was frozen.
    pub(super) fn set_clock(
        &mut self,
        arrivals: &[Arrival],
        idle: Arrival,
    ) -> Result<Option<i64>, rusqlite::Error> {
        let Image { clock, boots, .. } = &mut *self.image;
        let known = clock.set;
        clock.set = clock.set_by(arrivals, idle);
        let now = clock.set.filter(|_| known.is_none());
        if let Some(offset) = now {
            boots.set(self.conn, offset)?;
            // No open window may reach over rows that are about to be corrected.
            clock.step_at_next();
        }
        Ok(now)
    }

    /// Sends an event where the clock was set or stepped, and keeps it for the page.
    pub(super) fn tell_of_clock(
        &mut self,
        set_now: Option<i64>,
        advance: &Advance,
    ) -> Result<(), rusqlite::Error> {
        let (Some(at), true) = (
            advance.step,
            advance.stepped_by.is_some() || set_now.is_some(),
        ) else {
            return Ok(());
        };
        let by = advance.stepped_by.unwrap_or(0);
        let books = &mut self.image.books;
        if by != 0 {
            books.set_store(own::STEP_AT, at);
            books.set_store(own::STEP_BY, by);
            books.add_store(own::STEPS, 1);
        }
        let (code, text) = match set_now {
            Some(_) => ("clock-set", "the clock was set"),
            None => ("clock-stepped", "the clock was stepped"),
        };
        tracing::warn!(by_seconds = by as f64 / 1e9, "{text}");
        let offset = set_now.or(self.image.clock.offset).unwrap_or(0);
        let mut data = serde_json::json!({
            "boot": self.setup.config.boot,
            "step": millis(by),
        });
        // While it is not set the offset says nothing that would last.
        if self.image.clock.set.is_some() {
            data["offset"] = millis(offset).into();
        }
        let event = Event {
            time: at,
            code: code.to_owned(),
            text: format!("{text} by {:.3} s", by as f64 / 1e9),
            data: Some(data),
        };
        let mark = self.image.clock.set.is_none().then_some(Mark {
            boot: self.image.boots.present,
            offset,
        });
        let present = std::mem::replace(&mut self.unset, mark);
        self.event(&event)?;
        self.unset = present;
        Ok(())
    }

    /// The mark of what one batch stores, where the clock was not set when it arrived.
    pub(super) fn row_mark(&mut self, outcome: &BatchOutcome) -> Option<RowMark> {
        let mark = self.image.boots.mark(&outcome.arrival)?;
        self.image.boots.left = true;
        Some(RowMark {
            mark,
            monotonic: outcome.arrival.monotonic,
            own_times: !outcome.arrival_times,
        })
    }
}
