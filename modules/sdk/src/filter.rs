//! From a function to a filter.

use crate::batch::Batch;
use crate::output::{Answer, Output};
use crate::record::{Record, State};

/// Why a whole batch could not be judged: all of its rows go to quarantine, where they can be replayed after a fix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault(String);

impl Fault {
    /// A fault with a message for people, which ends after 1 KiB.
    pub fn new(message: impl Into<String>) -> Self {
        Self(clip(message.into()))
    }

    /// The message.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0
    }

    /// The message.
    #[must_use]
    pub fn into_message(self) -> String {
        self.0
    }
}

impl From<&str> for Fault {
    fn from(message: &str) -> Self {
        Self::new(message)
    }
}

impl From<String> for Fault {
    fn from(message: String) -> Self {
        Self::new(message)
    }
}

/// The contract's bound on texts for people.
pub(crate) fn clip(mut text: String) -> String {
    const BYTES: usize = 1024;
    while text.len() > BYTES {
        text.pop();
    }
    text
}

/// What the [`filter!`](crate::filter!) macro takes: a function over a batch, with or without a [`State`].
/// `Kind` tells the two apart and is always inferred.
pub trait Filter<Kind> {
    /// Bytes of a record of state; 0 where there is none.
    const WIDTH: usize;

    /// Runs it on one batch.
    ///
    /// # Errors
    /// What the function says, and a column of state that is not as wide as the record.
    fn run(&self, batch: Batch) -> Result<Answer, Fault>;
}

/// A filter that remembers nothing.
pub struct Stateless;

/// A filter that remembers an `R` for every series.
pub struct Stateful<R>(std::marker::PhantomData<R>);

impl<F: Fn(&Batch, &mut Output) -> Result<(), Fault>> Filter<Stateless> for F {
    const WIDTH: usize = 0;

    fn run(&self, batch: Batch) -> Result<Answer, Fault> {
        let mut output = Output::default();
        self(&batch, &mut output)?;
        Ok(output.finish(batch))
    }
}

impl<R: Record, F: Fn(&Batch, &mut State<R>, &mut Output) -> Result<(), Fault>> Filter<Stateful<R>>
    for F
{
    const WIDTH: usize = R::WIDTH;

    fn run(&self, batch: Batch) -> Result<Answer, Fault> {
        let mut output = Output::default();
        State::kept(batch.names.len(), |state| self(&batch, state, &mut output))?;
        Ok(output.finish(batch))
    }
}

/// Lets the compiler say early, and in the filter's own file, that a function is no filter.
#[doc(hidden)]
pub const fn is_filter<Kind, F: Filter<Kind>>(_: &F) {}
