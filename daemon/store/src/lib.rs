//! Tidegate store.
