//! Tidegate ingest.
