//! Tidegate uplink.
