//! The clock that interrupts guests, and the gate that bounds how many run at a time.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use wasmtime::Engine;

/// How often a running guest is asked for its CPU time. A deadline is overrun by this at most.
pub(crate) const PERIOD: Duration = Duration::from_millis(10);

/// One thread that advances the engine's epoch while guests run and sleeps for good while none does: an idle gateway
/// is not woken a hundred times a second.
pub(crate) struct Ticker {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    /// Wakes the ticker.
    wake: Condvar,
    /// Wakes a worker that waits for a free place.
    freed: Condvar,
    places: u32,
}

#[derive(Default)]
struct State {
    /// Places taken.
    running: u32,
    /// A guest has run since the last tick. The ticker goes round once more before it parks, so that a busy worker
    /// does not have to wake it for every batch.
    seen: bool,
    parked: bool,
    stop: bool,
}

impl Ticker {
    pub(crate) fn start(engine: Engine, places: u32) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            wake: Condvar::new(),
            freed: Condvar::new(),
            places,
        });
        let thread = std::thread::Builder::new()
            .name("wasm-epoch".to_owned())
            .stack_size(64 * 1024)
            .spawn({
                let shared = Arc::clone(&shared);
                move || shared.tick(&engine)
            })?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// The places that one guest needs, one for each of its memories; waits until so many are free.
    pub(crate) fn enter(&self, places: u32) -> Place<'_> {
        let mut state = self.shared.lock();
        // One that needs more than there are would wait for ever.
        let places = places.min(self.shared.places);
        while state.running + places > self.shared.places {
            state = self
                .shared
                .freed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        state.running += places;
        state.seen = true;
        if state.parked {
            state.parked = false;
            self.shared.wake.notify_one();
        }
        Place {
            shared: &self.shared,
            places,
        }
    }

    #[cfg(test)]
    pub(crate) fn parked(&self) -> bool {
        self.shared.lock().parked
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.wake.notify_one();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the clock that interrupts filters has panicked");
        }
    }
}

/// One guest's places; free again when dropped.
pub(crate) struct Place<'a> {
    shared: &'a Shared,
    places: u32,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.shared.lock().running -= self.places;
        // Who waits may need more than this one had, and somebody else not.
        self.shared.freed.notify_all();
    }
}

impl Shared {
    fn tick(&self, engine: &Engine) {
        let mut state = self.lock();
        loop {
            while !state.stop && state.running == 0 && !state.seen {
                state.parked = true;
                state = self
                    .wake
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            state.parked = false;
            if state.stop {
                return;
            }
            state.seen = false;
            state = self
                .wake
                .wait_timeout(state, PERIOD)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
            engine.increment_epoch();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::Ticker;

    #[test]
    fn a_guest_with_several_memories_waits_for_as_many_places() {
        let engine = wasmtime::Engine::default();
        let ticker = Ticker::start(engine, 3).unwrap();
        let first = ticker.enter(2);
        std::thread::scope(|scope| {
            let (entered, told) = mpsc::channel();
            let ticker = &ticker;
            scope.spawn(move || {
                let _place = ticker.enter(2);
                entered.send(()).unwrap();
            });
            // One place is free, two are asked for; one that asks for one goes first.
            drop(ticker.enter(1));
            assert!(told.recv_timeout(Duration::from_millis(100)).is_err());
            drop(first);
            told.recv_timeout(Duration::from_secs(30)).unwrap();
        });
        // More than there are do not wait for ever.
        drop(ticker.enter(9));
    }
}
