//! Tidegate pipeline.
