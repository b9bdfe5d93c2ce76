//! Tidegate status.
