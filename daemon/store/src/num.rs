//! SQLite's only integer is signed; our counts are not.

/// A count for SQLite. What does not fit stops at the largest that does: 9.2e18 is out of every counter's reach.
pub(crate) fn sql(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// The length of something in memory, for SQLite.
pub(crate) fn sql_len(length: usize) -> i64 {
    i64::try_from(length).unwrap_or(i64::MAX)
}

/// A count out of SQLite. A negative one can only be damage, and counts as none.
pub(crate) fn count(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}
